//! Backends that share a store, each of which can be killed and started again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::support::{Body, free_port, full};

/// What the backends have in common.
#[derive(Debug, Default)]
pub(crate) struct Store {
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    next_upload: AtomicUsize,
    /// Ids of requests that have arrived, by backend, method and whether they came to their end.
    seen: Mutex<Vec<Seen>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) backend: usize,
    pub(crate) method: Method,
    pub(crate) id: String,
}

impl Store {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.blobs.lock().unwrap().get(digest).cloned()
    }
}

/// Where a backend listens.
#[derive(Clone)]
pub(crate) enum At {
    Unix(PathBuf),
    Tcp(SocketAddr),
    Tls(SocketAddr, TlsAcceptor),
}

impl At {
    pub(crate) fn tcp() -> Self {
        Self::Tcp(([127, 0, 0, 1], free_port()).into())
    }

    /// The server's table in a configuration, less what TLS needs.
    fn table(&self) -> String {
        match self {
            Self::Unix(path) => format!("[[upstream.server]]\nunix = \"{}\"\n", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => format!("[[upstream.server]]\ntcp = \"{address}\"\n"),
        }
    }
}

/// The tables of several servers.
pub(crate) fn tables(backends: &[&Backend]) -> String {
    backends.iter().map(|backend| backend.at.table()).collect()
}

/// One backend.
pub(crate) struct Backend {
    at: At,
    pub(crate) shared: Arc<Shared>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// What its requests have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    number: usize,
    store: Arc<Store>,
    /// How long it takes to answer.
    pub(crate) delay_ms: AtomicU64,
    pub(crate) is_unwell: AtomicBool,
    /// Bytes of bodies that it has read.
    pub(crate) bytes: AtomicUsize,
}

impl Backend {
    pub(crate) async fn start(number: usize, store: &Arc<Store>, at: At) -> Self {
        let shared = Shared {
            number,
            store: Arc::clone(store),
            delay_ms: AtomicU64::new(0),
            is_unwell: AtomicBool::new(false),
            bytes: AtomicUsize::new(0),
        };
        let mut backend = Self { at, shared: Arc::new(shared), running: None };
        backend.restart().await;
        backend
    }

    /// Requests that have arrived here, without probes.
    pub(crate) fn requests(&self) -> usize {
        self.shared.store.seen().iter().filter(|seen| seen.backend == self.shared.number).count()
    }

    pub(crate) async fn restart(&mut self) {
        let (stop, mut stopped) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let at = self.at.clone();
        let listener = match &at {
            At::Unix(path) => {
                let _ = std::fs::remove_file(path);
                Listener::Unix(UnixListener::bind(path).unwrap())
            }
            At::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.unwrap(), None),
            At::Tls(address, acceptor) => Listener::Tcp(TcpListener::bind(address).await.unwrap(), Some(acceptor.clone())),
        };
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    _ = &mut stopped => break,
                    () = listener.accept(&mut connections, &shared) => {}
                }
            }
            drop(listener);
            connections.shutdown().await;
        });
        self.running = Some((stop, task));
    }

    /// Like `kill -9`: when it returns, the kernel has closed everything that was open, whatever was being done.
    pub(crate) async fn kill(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.send(()).unwrap();
            task.await.unwrap();
        }
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

impl Listener {
    async fn accept(&self, connections: &mut JoinSet<()>, shared: &Arc<Shared>) {
        let shared = Arc::clone(shared);
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, shared));
            }
            Self::Tcp(listener, None) => {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, shared));
            }
            Self::Tcp(listener, Some(acceptor)) => {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // A client that does not trust us ends the handshake.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, shared).await;
                    }
                });
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request, &shared).await) });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A registry, as far as these tests ask for one.
async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    if head.uri.path() == "/healthz" {
        let status = if shared.is_unwell.load(Ordering::Relaxed) { 503 } else { 200 };
        return Response::builder().status(status).body(full("")).unwrap();
    }
    let store = &shared.store;
    let id = head.headers["x-request-id"].to_str().unwrap().to_owned();
    store.seen.lock().unwrap().push(Seen { backend: shared.number, method: head.method.clone(), id });
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        // The gateway broke off.
        let Ok(frame) = frame else { return Response::new(full("")) };
        let data = frame.into_data().unwrap_or_default();
        shared.bytes.fetch_add(data.len(), Ordering::Relaxed);
        bytes.extend_from_slice(&data);
    }
    sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed))).await;
    let name = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let (status, text) = match head.method {
        Method::POST => {
            let id = store.next_upload.fetch_add(1, Ordering::Relaxed).to_string();
            store.uploads.lock().unwrap().insert(id.clone(), Vec::new());
            (StatusCode::ACCEPTED, id)
        }
        Method::PATCH => match store.uploads.lock().unwrap().get_mut(&name) {
            Some(upload) => {
                upload.extend_from_slice(&bytes);
                (StatusCode::ACCEPTED, upload.len().to_string())
            }
            None => (StatusCode::NOT_FOUND, "no such upload".to_owned()),
        },
        Method::PUT => match store.uploads.lock().unwrap().remove(&name) {
            Some(mut upload) => {
                upload.extend_from_slice(&bytes);
                store.blobs.lock().unwrap().insert(head.uri.query().unwrap_or_default().to_owned(), upload);
                (StatusCode::CREATED, String::new())
            }
            None => (StatusCode::NOT_FOUND, "no such upload".to_owned()),
        },
        _ => (StatusCode::OK, "here".to_owned()),
    };
    Response::builder().status(status).header("X-Backend", shared.number).body(full(text)).unwrap()
}
