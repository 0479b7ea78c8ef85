//! A toy service over real sockets.

use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;

/// Longer than anything here takes, and shorter than the real limits.
const SOON: Duration = Duration::from_secs(5);

const LIMITS: Limits = Limits { connections: 64, operator_connections: 2, head: HEAD_MAX, drain: DRAIN_MAX };

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that names its peer; `/wait` holds its answer back until told.
struct Server {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    operator: PathBuf,
    tcp: SocketAddr,
    waiting: Arc<Notify>,
    answer: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/backend.sock");
        let listen = Listen { unix: Some(socket.clone()), tcp: Some("127.0.0.1:0".parse().unwrap()) };
        let operator = directory.path().join("operator/backend.sock");
        let listeners = bind(&listen, Some(&operator)).await.unwrap();
        let tcp = listeners.tcp.as_ref().unwrap().local_addr().unwrap();
        let (waiting, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (stop, stopped) = oneshot::channel();
        let service = {
            let (waiting, answer) = (Arc::clone(&waiting), Arc::clone(&answer));
            move |request: Request<Incoming>| {
                let (waiting, answer) = (Arc::clone(&waiting), Arc::clone(&answer));
                async move {
                    if request.uri().path() == "/wait" {
                        waiting.notify_one();
                        answer.notified().await;
                    }
                    let peer = match request.extensions().get::<Peer>() {
                        Some(Peer::Unix | Peer::Operator) => "unix",
                        Some(Peer::Tcp(_)) => "tcp",
                        None => "none",
                    };
                    (Response::new(Full::new(Bytes::from_static(peer.as_bytes()))), ())
                }
            }
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve_within(limits, listeners, service, shutdown));
        Self { _directory: directory, socket, operator, tcp, waiting, answer, stop: Some(stop), task }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// A connection whose request is under way until [`Server::answer`] is rung.
    async fn busy(&self) -> UnixStream {
        let mut busy = self.connect().await;
        busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        self.waiting.notified().await;
        busy
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn has_stopped(self) {
        timeout(SOON, self.task).await.expect("it stops soon").unwrap();
    }
}

/// Reads one answer, whose body is one of the peers' names.
async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = String::new();
    let mut piece = [0; 1024];
    while !["unix", "tcp", "none"].iter().any(|peer| read.ends_with(peer)) {
        let bytes = timeout(SOON, stream.read(&mut piece)).await.expect("an answer soon").unwrap();
        assert_ne!(bytes, 0, "the connection ended after {read:?}");
        read.push_str(std::str::from_utf8(&piece[..bytes]).unwrap());
    }
    assert!(read.starts_with("HTTP/1.1 200"), "{read}");
    read
}

async fn ends(stream: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(timeout(SOON, stream.read(&mut [0; 64])).await.expect("an end soon").unwrap(), 0);
}

#[tokio::test]
async fn both_sockets_answer_again_and_again_and_tell_who_asks() {
    let server = Server::start(LIMITS).await;
    let mut unix = server.connect().await;
    let mut tcp = TcpStream::connect(server.tcp).await.unwrap();
    for _ in 0..3 {
        unix.write_all(REQUEST).await.unwrap();
        assert!(answer(&mut unix).await.ends_with("unix"));
        tcp.write_all(REQUEST).await.unwrap();
        assert!(answer(&mut tcp).await.ends_with("tcp"));
    }
    let mode = std::fs::metadata(&server.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_server_stops_and_idle_connections_are_not_waited_for() {
    let mut server = Server::start(LIMITS).await;
    let mut idle = server.connect().await;
    idle.write_all(REQUEST).await.unwrap();
    answer(&mut idle).await;
    let mut unused = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.waiting.notified().await;

    server.stop();
    ends(&mut idle).await;
    ends(&mut unused).await;
    assert!(UnixStream::connect(&server.socket).await.is_err(), "nothing new is taken in");
    assert!(!server.task.is_finished());
    server.answer.notify_one();
    assert!(answer(&mut busy).await.ends_with("unix"));
    ends(&mut busy).await;
    server.has_stopped().await;
}

#[tokio::test]
async fn draining_has_an_end() {
    let mut server = Server::start(Limits { drain: Duration::from_millis(100), ..LIMITS }).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.waiting.notified().await;
    server.stop();
    server.has_stopped().await;
}

#[tokio::test]
async fn a_server_with_every_place_taken_still_stops() {
    let mut server = Server::start(Limits { connections: 1, drain: Duration::from_millis(100), ..LIMITS }).await;
    let mut only = server.connect().await;
    only.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.waiting.notified().await;
    server.stop();
    server.has_stopped().await;
}

#[tokio::test]
async fn with_every_place_in_use_the_next_waits_its_turn() {
    let server = Server::start(Limits { connections: 1, ..LIMITS }).await;
    let mut first = server.busy().await;
    let mut second = server.connect().await;
    second.write_all(REQUEST).await.unwrap();
    assert!(timeout(Duration::from_millis(200), second.read(&mut [0; 64])).await.is_err());
    server.answer.notify_one();
    answer(&mut first).await;
    // It is idle now, and gives way.
    answer(&mut second).await;
    ends(&mut first).await;
}

#[tokio::test]
async fn an_idle_connection_and_one_with_half_a_head_give_way_when_places_are_short() {
    let server = Server::start(Limits { connections: 2, ..LIMITS }).await;
    let mut slow = TcpStream::connect(server.tcp).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut idle = TcpStream::connect(server.tcp).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    answer(&mut idle).await;
    let mut newcomer = server.connect().await;
    newcomer.write_all(REQUEST).await.unwrap();
    answer(&mut newcomer).await;
    ends(&mut slow).await;
    // What was idle for a shorter time stayed.
    idle.write_all(REQUEST).await.unwrap();
    answer(&mut idle).await;
}

#[tokio::test]
async fn the_operator_is_answered_while_clients_use_every_place() {
    let server = Server::start(Limits { connections: 2, ..LIMITS }).await;
    let _busy = [server.busy().await, server.busy().await];
    let mut waiting = server.connect().await;
    waiting.write_all(REQUEST).await.unwrap();
    for _ in 0..5 {
        let mut operator = UnixStream::connect(&server.operator).await.unwrap();
        operator.write_all(REQUEST).await.unwrap();
        answer(&mut operator).await;
    }
    assert!(timeout(Duration::from_millis(50), waiting.read(&mut [0; 64])).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_and_a_slow_head_end_at_the_limit_and_not_before() {
    let head = Duration::from_millis(1500);
    let server = Server::start(Limits { head, ..LIMITS }).await;
    let mut idle = server.connect().await;
    // The limit starts anew with each request.
    for _ in 0..3 {
        idle.write_all(REQUEST).await.unwrap();
        answer(&mut idle).await;
        tokio::time::sleep(head / 2).await;
    }
    let mut slow = server.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let begun = Instant::now();
    ends(&mut idle).await;
    // hyper may say why before it closes.
    let mut rest = Vec::new();
    timeout(SOON, slow.read_to_end(&mut rest)).await.expect("an end soon").unwrap();
    assert!(begun.elapsed() >= head / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn only_a_socket_that_nobody_answers_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backend.sock");
    let bound = bind_unix(&path).await.unwrap();
    assert_eq!(bind_unix(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(bound);
    assert!(path.exists(), "as a crash leaves it");
    let _bound = bind_unix(&path).await.unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    assert_eq!(bind_unix(&path).await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn the_socket_of_a_process_that_is_too_busy_to_answer_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = UnixStream::connect(&path).await {
        queued.push(stream);
    }
    assert_eq!(bind_unix(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert!(path.exists());
}
