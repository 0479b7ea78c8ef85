//! The listener for those who watch the gateway: `/metrics`, `/healthz`, `/readyz`.
//!
//! `/healthz` says that the process is alive: 200 for as long as it answers, also while it drains and while no backend is
//! there, because starting it anew would help in neither case. `/readyz` says whether to send clients here: 503 while it
//! drains and while no backend is available.
//!
//! It speaks plain HTTP and knows no users: it belongs on the loopback or on a network of its own. Nothing on it waits
//! without a bound, and it can't take the descriptors or the memory that clients need.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::metrics::{self, Metrics};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take for the head of a request, and hence stay idle.
const HEAD_MAX: Duration = Duration::from_secs(15);

/// How long a connection may last: a scraper that keeps its connection finds it closed now and then, and makes a new one.
const CONNECTION_MAX: Duration = Duration::from_secs(10 * 60);

/// Bytes buffered for a connection, and with them the longest head.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Header fields of a request.
const HEADER_FIELDS_MAX: usize = 64;

/// How long to wait after an accept failed: at once it would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What is said about the gateway.
#[derive(Debug)]
pub struct State {
    metrics: Arc<Metrics>,
    is_draining: AtomicBool,
}

impl State {
    /// The state of a gateway that serves.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, is_draining: AtomicBool::new(false) }
    }

    /// From now on no new clients are wanted.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    fn readiness(&self) -> (StatusCode, &'static str) {
        let backends = self.metrics.upstreams();
        if self.is_draining.load(Ordering::Relaxed) {
            (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#)
        } else if !backends.is_empty() && backends.iter().all(|backend| !backend.is_up) {
            (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"no backend"}"#)
        } else {
            (StatusCode::OK, r#"{"status":"ready"}"#)
        }
    }
}

/// The listener as a service of the server that also runs the proxy.
pub struct AdminService {
    listener: Option<std::net::TcpListener>,
    state: Arc<State>,
}

impl AdminService {
    /// Serves on a socket that listens.
    ///
    /// # Errors
    /// If it can't be used.
    pub fn new(listener: std::net::TcpListener, state: Arc<State>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: Some(listener), state })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// If the service was started already, or the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }
}

#[async_trait]
impl Service for AdminService {
    /// Until the process ends, not only until the drain begins: a drain is what one wants to watch.
    async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize) {
        let Some(listener) = self.listener.take() else { return };
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                let ending = async move {
                    let _ = shutdown.wait_for(|stopping| *stopping).await;
                };
                serve(listener, Arc::clone(&self.state), ending).await;
            }
            Err(error) => warn!(%error, "cannot serve metrics"),
        }
    }

    fn name(&self) -> &str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Serves until `shutdown` resolves. Answers that are under way are not waited for: whoever asks, asks again.
pub async fn serve(listener: TcpListener, state: Arc<State>, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((tcp, _)) => {
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    serve_connection(tcp, state).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection for metrics");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(tcp: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &state);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .serve_connection(TokioIo::new(tcp), service);
    if let Ok(Err(error)) = timeout(CONNECTION_MAX, connection).await {
        debug!(%error, "a connection for metrics ended early");
    }
}

fn answer(request: &Request<Incoming>, state: &Arc<State>) -> Response<Full<Bytes>> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, content_type, body): (_, _, Bytes) = match request.uri().path() {
        "/metrics" | "/healthz" | "/readyz" if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into())
        }
        "/metrics" => match state.metrics.encode() {
            Ok(text) => (StatusCode::OK, metrics::CONTENT_TYPE, text.into()),
            Err(error) => {
                warn!(%error, "the metrics cannot be written");
                (StatusCode::INTERNAL_SERVER_ERROR, TEXT, "internal error\n".into())
            }
        },
        "/healthz" => (StatusCode::OK, JSON, r#"{"status":"ok"}"#.into()),
        "/readyz" => {
            let (status, body) = state.readiness();
            (status, JSON, body.into())
        }
        _ => (StatusCode::NOT_FOUND, TEXT, "/metrics, /healthz and /readyz are here\n".into()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
