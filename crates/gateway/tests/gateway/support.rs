//! A gateway process, a backend and a client that writes exactly what a test tells it to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// Answers with the head of the request, as the backend sees it.
pub(crate) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
    }
    Response::new(full(text))
}

/// Reads the body before it answers with the target, as a backend that keeps its connections does. What breaks off is
/// answered with 400, which nobody reads.
pub(crate) async fn take(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    match body.collect().await {
        Ok(_) => Response::new(full(head.uri.to_string())),
        Err(_) => Response::builder().status(400).body(full("")).unwrap(),
    }
}

/// A port that nobody else gets: below the range from which the kernel takes ports of outgoing connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() as u16 % 200) * 50 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + offset % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory with a backend in it. Dropping it ends nothing but the directory.
pub(crate) struct Site {
    directory: TempDir,
    /// Connections that the backend has accepted.
    pub(crate) backend_connections: Arc<AtomicUsize>,
    upstream: String,
}

impl Site {
    /// A backend on a Unix socket.
    pub(crate) fn new<F>(handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let site = Self::without_backend();
        let listener = UnixListener::bind(site.path("backend.sock")).unwrap();
        let connections = Arc::clone(&site.backend_connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                serve(stream, handler.clone());
            }
        });
        site
    }

    /// A backend on a TCP port.
    pub(crate) async fn on_tcp<F>(handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let mut site = Self::without_backend();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        site.upstream = format!("tcp = \"{}\"", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, handler.clone());
            }
        });
        site
    }

    /// Nobody listens on the backend's socket.
    pub(crate) fn without_backend() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            backend_connections: Arc::default(),
            upstream: "unix = \"backend.sock\"".to_owned(),
        }
    }

    /// The same place, with `[upstream]` holding this.
    pub(crate) fn with_upstream(mut self, upstream: String) -> Self {
        self.upstream = upstream;
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes `<name>.pem` and `<name>.key`, signed by the authority of the same directory, and gives back the authority.
    pub(crate) fn certificate(&self, name: &str) -> CertificateDer<'static> {
        let made = self.path(name);
        berth_gateway::cert::self_signed(&made, &[name.to_owned()], &["127.0.0.1".parse().unwrap()]).unwrap();
        for kind in ["pem", "key"] {
            fs::copy(made.join(format!("server.{kind}")), self.path(&format!("{name}.{kind}"))).unwrap();
        }
        CertificateDer::from_pem_file(made.join("ca.pem")).unwrap()
    }

    pub(crate) fn configuration(&self, bindings: &str) -> PathBuf {
        let path = self.path("gateway.toml");
        fs::write(&path, format!("[upstream]\n{}\n{bindings}", self.upstream)).unwrap();
        path
    }

    /// Starts a gateway and waits until it is ready.
    pub(crate) async fn start(&self, bindings: &str) -> Gateway {
        Gateway::start(&self.configuration(bindings)).await
    }

    /// A gateway that speaks plain HTTP for the repository `docker-local`.
    pub(crate) async fn start_plain(&self) -> (Gateway, u16) {
        let port = free_port();
        (self.start(&plain_binding(port)).await, port)
    }
}

pub(crate) fn plain_binding(port: u16) -> String {
    format!("[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"docker-local\"\nplain_http = true\n")
}

fn serve<F>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, handler: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static)
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
}

/// A running gateway, killed when dropped, with its successors.
pub(crate) struct Gateway(Child, PathBuf);

impl Gateway {
    pub(crate) async fn start(configuration: &Path) -> Self {
        let mut child = command(&["serve", "--config", configuration.to_str().unwrap()])
            .env("BERTH_LOG", std::env::var("BERTH_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let ready = tokio::task::spawn_blocking(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while !line.ends_with(b"\n") && std::io::Read::read(&mut out, &mut byte).unwrap() > 0 {
                line.push(byte[0]);
            }
            line
        });
        assert_eq!(String::from_utf8(within(ready).await.unwrap()).unwrap(), "berth-gateway ready\n");
        Self(child, configuration.to_owned())
    }

    pub(crate) fn terminate(&self) {
        terminate(&self.0);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    /// The processes that serve the same configuration, besides the one that was started here.
    pub(crate) fn successors(&self) -> Vec<i32> {
        let configuration = self.1.to_str().unwrap();
        let serves = |process: &i32| {
            fs::read(format!("/proc/{process}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == configuration.as_bytes()))
        };
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        processes.filter(|process| *process != self.0.id() as i32).filter(serves).collect()
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        within(async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        for process in self.successors() {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(process).unwrap(), rustix::process::Signal::KILL);
        }
    }
}

pub(crate) fn terminate(process: &Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(process), rustix::process::Signal::TERM).unwrap();
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-gateway"));
    command.args(arguments);
    command
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("took too long")
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The value of a header that the backend saw, if it answered with [`echo`].
    pub(crate) fn seen(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.text().lines().find_map(|line| line.strip_prefix(prefix.as_str()))
    }
}

/// A connection of a client.
pub(crate) struct Client<S> {
    stream: S,
    unread: Vec<u8>,
}

impl Client<TcpStream> {
    /// As another machine: one of the many addresses of this one.
    pub(crate) async fn connect_from(client: u8, port: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, client), 0).into()).unwrap();
        Self { stream: within(socket.connect((Ipv4Addr::LOCALHOST, port).into())).await.unwrap(), unread: Vec::new() }
    }

    pub(crate) async fn connect(port: u16) -> Self {
        Self::at(&format!("127.0.0.1:{port}")).await
    }

    pub(crate) async fn at(address: &str) -> Self {
        Self { stream: within(TcpStream::connect(address)).await.unwrap(), unread: Vec::new() }
    }
}

impl Client<TlsStream<TcpStream>> {
    /// Trusts one authority and asks for one server.
    pub(crate) async fn connect_tls(port: u16, server: &str, authority: &CertificateDer<'static>) -> std::io::Result<Self> {
        Self::connect_tls_offering(port, server, authority, &["h2", "http/1.1"]).await
    }

    /// Like [`Self::connect_tls`], and offers these protocols.
    pub(crate) async fn connect_tls_offering(
        port: u16,
        server: &str,
        authority: &CertificateDer<'static>,
        protocols: &[&str],
    ) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let tcp = within(TcpStream::connect(("127.0.0.1", port))).await?;
        let server = ServerName::try_from(server.to_owned()).unwrap();
        let stream = within(TlsConnector::from(Arc::new(config)).connect(server, tcp)).await?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Like [`Self::connect_tls`], after these bytes, as a load balancer would send them.
    pub(crate) async fn connect_tls_after(
        port: u16,
        server: &str,
        authority: &CertificateDer<'static>,
        first: &[u8],
    ) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = within(TcpStream::connect(("127.0.0.1", port))).await?;
        tcp.write_all(first).await?;
        let server = ServerName::try_from(server.to_owned()).unwrap();
        let stream = within(TlsConnector::from(Arc::new(config)).connect(server, tcp)).await?;
        Ok(Self { stream, unread: Vec::new() })
    }

    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
        within(self.stream.flush()).await.unwrap();
    }

    /// Like [`Self::send`], for a peer that may close before it has read everything.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within(self.stream.write_all(bytes.as_ref())).await
    }

    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.answer().await
    }

    /// A GET of `target` with `host`.
    pub(crate) async fn get(&mut self, target: &str, host: &str) -> Answer {
        self.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    /// The next answer, which has a body.
    pub(crate) async fn answer(&mut self) -> Answer {
        let (status, headers) = self.head().await;
        let body = if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
            self.chunked().await
        } else {
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            self.take(length).await
        };
        Answer { status, headers, body }
    }

    /// The next head: of an interim answer, or of one without a body.
    pub(crate) async fn head(&mut self) -> (u16, HashMap<String, String>) {
        let end = within(async {
            loop {
                if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                    return end + 4;
                }
                assert!(self.read().await > 0, "closed within the head: {:?}", String::from_utf8_lossy(&self.unread));
            }
        })
        .await;
        let head = String::from_utf8(self.take(end).await).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        (
            status,
            lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
        )
    }

    async fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line_end = within(async {
                loop {
                    if let Some(end) = self.unread.windows(2).position(|window| window == b"\r\n") {
                        return end;
                    }
                    assert!(self.read().await > 0, "closed within a chunk");
                }
            })
            .await;
            let line = self.take(line_end + 2).await;
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim_end(), 16).unwrap();
            let chunk = self.take(size + 2).await;
            if size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            assert!(within(self.read()).await > 0, "closed within the body");
        }
        self.unread.drain(..length).collect()
    }

    async fn read(&mut self) -> usize {
        let mut buffer = vec![0; 64 * 1024];
        let length = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.unread.extend_from_slice(&buffer[..length]);
        length
    }

    /// Everything until the end of the connection.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        while within(self.read()).await > 0 {}
        self.unread
    }
}
