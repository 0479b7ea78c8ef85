//! The listener for those who watch the gateway: `/metrics`, `/healthz`, `/readyz`.
//!
//! `/healthz` says that the process is alive: 200 for as long as it answers, also while it drains and while no backend is
//! there, because starting it anew would help in neither case. `/readyz` says whether to send clients here: 503 while it
//! drains and while no backend is available.
//!
//! It speaks plain HTTP and knows no users: it belongs on the loopback or on a network of its own. Nothing on it waits
//! without a bound, and it can't take the descriptors or the memory that clients need.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::listener;
use crate::metrics::{self, Metrics};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take for the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(15);

/// How long a connection may last: one request and its answer.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

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

/// Where the gateway is watched from: an address or none, which can be changed while it runs.
///
/// An accept loop goes on when this is dropped, until the process ends: a drain is what one wants to watch.
pub struct Admin {
    state: Arc<State>,
    open: Option<Open>,
}

struct Open {
    /// Of the configuration, not of the socket: port 0 must stay the same address over reloads.
    address: SocketAddr,
    socket: Arc<TcpListener>,
    accept_loop: JoinHandle<()>,
}

impl Admin {
    /// Not watched from anywhere yet.
    pub fn new(state: Arc<State>) -> Self {
        Self { state, open: None }
    }

    /// Answers at this address, whose socket listens already.
    ///
    /// # Errors
    /// If the socket can't be used.
    pub fn open(&mut self, address: SocketAddr, socket: StdListener) -> io::Result<()> {
        let socket = Arc::new(TcpListener::from_std(socket)?);
        info!(listen.address = %address, "listening for metrics");
        let accept_loop = tokio::spawn(accept(Arc::clone(&socket), Arc::clone(&self.state)));
        self.open = Some(Open { address, socket, accept_loop });
        Ok(())
    }

    /// The address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.open.as_ref().map(|open| open.address)
    }

    /// The socket, for a successor.
    pub fn socket(&self) -> Option<Arc<TcpListener>> {
        self.open.as_ref().map(|open| Arc::clone(&open.socket))
    }

    /// Answers at this address from now on and at no other.
    ///
    /// # Errors
    /// If the address can't be had; then nothing has changed.
    pub async fn listen(&mut self, address: Option<SocketAddr>) -> anyhow::Result<()> {
        let before = self.address();
        if before == address {
            return Ok(());
        }
        let Some(address) = address else {
            self.close().await;
            return Ok(());
        };
        // `0.0.0.0:9145` can't be had before `127.0.0.1:9145` is given up.
        let in_the_way = before.filter(|before| before.port() == address.port() && before.is_ipv4() == address.is_ipv4());
        if in_the_way.is_some() {
            self.close().await;
        }
        let opened = self.bind(address).await;
        if let (Err(_), Some(before)) = (&opened, in_the_way)
            && let Err(error) = self.bind(before).await
        {
            warn!(error = format!("{error:#}"), "cannot be watched any more");
        }
        opened
    }

    async fn bind(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let socket = listener::bind(address)?;
        self.close().await;
        Ok(self.open(address, socket)?)
    }

    /// Answers nowhere. Answers that are under way are given.
    pub async fn close(&mut self) {
        if let Some(Open { address, socket, accept_loop }) = self.open.take() {
            accept_loop.abort();
            // The error is that it was aborted.
            let _ = accept_loop.await;
            drop(socket);
            info!(listen.address = %address, "no longer listening for metrics");
        }
    }
}

async fn accept(socket: Arc<TcpListener>, state: Arc<State>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match socket.accept().await {
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
        let state = Arc::clone(&state);
        // The more bindings there are, the longer it takes: nobody should wait for that here.
        async move { spawn_blocking(move || answer(&request, &state)).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        // A connection that was kept would go on asking a process that has a successor.
        .keep_alive(false)
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
