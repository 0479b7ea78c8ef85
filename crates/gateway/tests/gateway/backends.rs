//! Several backends behind one gateway: which gets a request, and what happens to requests when one of them fails.

mod registry;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use self::registry::{At, Backend, Store, tables};
use crate::support::{Answer, Client, Gateway, Site, within};

const UNREACHABLE: &str = "the registry's backend cannot be reached";

/// Two backends on one store, the first on TCP and the second on a Unix socket, and a gateway before them.
async fn pair() -> (Arc<Store>, Backend, Backend, Gateway, u16, Site) {
    let site = Site::without_backend();
    let store = Arc::new(Store::default());
    let first = Backend::start(0, &store, At::tcp()).await;
    let second = Backend::start(1, &store, At::Unix(site.path("second.sock"))).await;
    let site = site.with_upstream(tables(&[&first, &second]));
    let (gateway, port) = site.start_plain().await;
    (store, first, second, gateway, port, site)
}

fn request(method: &str, target: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// On a connection of its own.
async fn once(port: u16, request: impl AsRef<[u8]>) -> Answer {
    Client::connect(port).await.ask(request).await
}

fn backend_of(answer: &Answer) -> Option<&str> {
    answer.headers.get("x-backend").map(String::as_str)
}

/// A request that did not succeed.
struct Failure {
    method: &'static str,
    id: String,
    sent: Instant,
}

/// Waits until so many requests have arrived at a backend.
async fn arrive(backend: &Backend, requests: usize) {
    within(async {
        while backend.requests() < requests {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// One client that uploads and downloads until it is told to stop, 2,000 rounds at most, and repeats what fails.
/// Every fifth only downloads: whenever a backend dies, a download is under way on it.
async fn load(port: u16, number: usize, stop: Arc<AtomicBool>) -> Vec<Failure> {
    let (mut client, mut failures) = (Client::connect(port).await, Vec::new());
    let mut ask = async |method: &'static str, target: &str, body: &str| loop {
        let sent = Instant::now();
        let answer = client.ask(request(method, target, body)).await;
        if answer.status != 502 {
            return answer;
        }
        failures.push(Failure { method, id: answer.headers["x-request-id"].clone(), sent });
        client = Client::connect(port).await;
    };
    for _ in 0..2000 {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if number.is_multiple_of(5) {
            assert_eq!(ask("GET", "/v2/image/blobs/x", "").await.status, 200);
            continue;
        }
        let upload = ask("POST", "/v2/image/blobs/uploads/", "").await;
        assert_eq!(upload.status, 202);
        let upload = format!("/v2/image/blobs/uploads/{}", upload.text());
        assert_eq!(ask("PATCH", &upload, "some bytes").await.status, 202);
        assert_eq!(ask("GET", "/v2/image/blobs/x", "").await.status, 200);
        // A PUT that was cut off may have been done. Then the upload is unknown, which tells the client so.
        assert!([201, 404].contains(&ask("PUT", &format!("{upload}?digest={upload}"), "").await.status));
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backend_fails_only_what_it_was_doing_and_gets_requests_again_when_it_is_back() {
    let (store, mut first, second, _gateway, port, _site) = pair().await;
    // Long enough for requests of every kind to be under way when it is killed, on a busy machine too.
    for backend in [&first, &second] {
        backend.shared.delay_ms.store(25, Ordering::Relaxed);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..50 {
        clients.spawn(load(port, number, Arc::clone(&stop)));
    }
    arrive(&first, 200).await;
    first.kill().await;
    let (killed, at_kill) = (Instant::now(), first.requests());
    arrive(&second, second.requests() + 200).await;
    assert_eq!(first.requests(), at_kill);
    first.restart().await;
    arrive(&first, at_kill + 50).await;
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<_> = within(clients.join_all()).await.into_iter().flatten().collect();

    // Half of the clients, more or less, were on the one that was killed.
    assert!((1..=50).contains(&failures.len()), "{} failures", failures.len());
    let seen = store.seen();
    let on_second: HashSet<_> = seen.iter().filter(|seen| seen.backend == 1).map(|seen| seen.id.as_str()).collect();
    for failure in &failures {
        assert!(failure.sent < killed, "a {} failed that was sent later", failure.method);
        assert_ne!(failure.method, "GET");
        assert!(!on_second.contains(failure.id.as_str()), "a {} was repeated", failure.method);
    }
    let repeated = seen.iter().filter(|seen| seen.backend == 0 && on_second.contains(seen.id.as_str()));
    let repeated: Vec<_> = repeated.map(|seen| seen.method.clone()).collect();
    assert!(!repeated.is_empty() && repeated.iter().all(|method| *method == Method::GET), "{repeated:?}");
}

#[tokio::test]
async fn a_body_that_was_sent_in_part_is_never_sent_again() {
    for is_reused in [false, true] {
        let (store, mut first, mut second, _gateway, port, _site) = pair().await;
        let mut client = Client::connect(port).await;
        if is_reused {
            for _ in 0..4 {
                client.get("/v2/image/blobs/x", "a").await;
            }
        }
        client.send("PATCH /v2/image/blobs/uploads/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nthe first part").await;
        let bytes = |backend: &Backend| backend.shared.bytes.load(Ordering::Relaxed);
        within(async {
            while bytes(&first) + bytes(&second) < 14 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if bytes(&first) > 0 {
            first.kill().await
        } else {
            second.kill().await
        }
        let answer = client.answer().await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("did not answer properly"));
        assert_eq!(bytes(&first) + bytes(&second), 14);
        assert_eq!(store.seen().iter().filter(|seen| seen.method == Method::PATCH).count(), 1);
        // The other one is there for whoever asks next.
        assert_eq!(once(port, request("GET", "/v2/image/blobs/x", "")).await.status, 200);
    }
}

#[tokio::test]
async fn an_upload_crosses_backends_from_piece_to_piece() {
    let site = Site::without_backend();
    let store = Arc::new(Store::default());
    let first = Backend::start(0, &store, At::Unix(site.path("first.sock"))).await;
    let second = Backend::start(1, &store, At::Unix(site.path("second.sock"))).await;
    let site = site.with_upstream(tables(&[&first, &second]));
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    let mut backends = Vec::new();
    for round in 0..4 {
        let answer = client.ask(request("POST", "/v2/image/blobs/uploads/", "")).await;
        backends.push(backend_of(&answer).unwrap().to_owned());
        let upload = format!("/v2/image/blobs/uploads/{}", answer.text());
        let mut whole = Vec::new();
        for piece in 0..3_u8 {
            let bytes = vec![b'a' + piece; 100_000];
            whole.extend_from_slice(&bytes);
            let mut patch = format!("PATCH {upload} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
            for chunk in bytes.chunks(30_000) {
                patch.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                patch.extend_from_slice(chunk);
                patch.extend_from_slice(b"\r\n");
            }
            patch.extend_from_slice(b"0\r\n\r\n");
            let answer = client.ask(patch).await;
            assert_eq!((answer.status, answer.text()), (202, whole.len().to_string().as_str()));
            backends.push(backend_of(&answer).unwrap().to_owned());
        }
        let digest = format!("sha256:{round}");
        let answer = client.ask(request("PUT", &format!("{upload}?{digest}"), "")).await;
        assert_eq!(answer.status, 201);
        backends.push(backend_of(&answer).unwrap().to_owned());
        assert!(store.blob(&digest).unwrap() == whole);
    }
    // One client, one connection, and no request on the backend of the one before it.
    assert!(backends.windows(2).all(|pair| pair[0] != pair[1]), "{backends:?}");
}

#[tokio::test]
async fn requests_keep_away_from_a_slow_backend() {
    let (_store, first, second, _gateway, port, _site) = pair().await;
    first.shared.delay_ms.store(300, Ordering::Relaxed);
    second.shared.delay_ms.store(5, Ordering::Relaxed);
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move {
            let mut client = Client::connect(port).await;
            for _ in 0..20 {
                assert_eq!(client.get("/v2/image/blobs/x", "a").await.status, 200);
            }
        });
    }
    within(clients.join_all()).await;
    let (slow, fast) = (first.requests(), second.requests());
    assert_eq!(slow + fast, 400);
    assert!(slow > 0 && fast > 2 * slow, "{slow} {fast}");
}

/// Answers one request on each connection, and closes it when the next one arrives. Gives back how many did.
async fn forgetful() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, dropped) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&dropped);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                if stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (address, dropped)
}

#[tokio::test]
async fn what_hits_a_dead_kept_connection_is_repeated_only_if_it_is_safe() {
    let (address, dropped) = forgetful().await;
    let site = Site::without_backend().with_upstream(format!("tcp = \"{address}\""));
    let (_gateway, port) = site.start_plain().await;
    let digest = "/v2/image/blobs/uploads/1?digest=sha256:00";
    for (method, status) in [("GET", 200), ("PUT", 502), ("DELETE", 502), ("PATCH", 502), ("POST", 502)] {
        // Not every connection is kept in time for the next request, which then says nothing.
        let mut tries = 0;
        loop {
            assert_eq!(once(port, request("GET", "/v2/", "")).await.status, 200);
            sleep(Duration::from_millis(30)).await;
            let before = dropped.load(Ordering::Relaxed);
            let answer = once(port, request(method, digest, "")).await;
            if dropped.load(Ordering::Relaxed) > before {
                assert_eq!(answer.status, status, "{method}: {}", answer.text());
                assert_eq!(dropped.load(Ordering::Relaxed), before + 1, "{method}");
                break;
            }
            assert_eq!(answer.status, 200);
            tries += 1;
            assert!(tries < 20, "no connection was kept");
        }
    }
}

/// A server with the certificate `name` of the site.
fn acceptor(site: &Site, name: &str) -> TlsAcceptor {
    let certificate = site.certificate(name);
    std::fs::write(site.path(&format!("{name}.ca.der")), &certificate).unwrap();
    let chain = rustls::pki_types::CertificateDer::pem_file_iter(site.path(&format!("{name}.pem"))).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(site.path(&format!("{name}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn a_tls_backend_must_prove_who_it_is() {
    let site = Site::without_backend();
    let store = Arc::new(Store::default());
    let at = |name| At::Tls(([127, 0, 0, 1], crate::support::free_port()).into(), acceptor(&site, name));
    let right = Backend::start(0, &store, at("backend.example.com")).await;
    let wrong = Backend::start(1, &store, at("other.example.com")).await;
    let table = |backend: &Backend, name: &str, authority: &str| {
        let authority = site.path(authority).join("ca.pem");
        format!("{}tls = true\nserver_name = \"{name}\"\nca = \"{}\"\n", tables(&[backend]), authority.display())
    };
    let good = table(&right, "backend.example.com", "backend.example.com");
    for (upstream, statuses) in [
        (good.clone(), [200, 202, 200]),
        (table(&right, "127.0.0.1", "backend.example.com"), [200, 202, 200]),
        (table(&right, "registry.example.com", "backend.example.com"), [502; 3]),
        (table(&right, "backend.example.com", "other.example.com"), [502; 3]),
        // Nothing of a request was sent to the wrong one, so that any method goes on to the right one.
        (good + &table(&wrong, "backend.example.com", "backend.example.com"), [200, 202, 200]),
    ] {
        let site = Site::without_backend().with_upstream(upstream.clone());
        let (_gateway, port) = site.start_plain().await;
        for (method, status) in ["GET", "POST", "GET"].into_iter().zip(statuses) {
            let mut answer = once(port, request(method, "/v2/image/blobs/uploads/", "")).await;
            // Handshakes may take too long on a machine that is busy. What must not be trusted never will.
            for _ in 0..3 {
                if answer.status != status && answer.status == 502 {
                    answer = once(port, request(method, "/v2/image/blobs/uploads/", "")).await;
                }
            }
            assert_eq!(answer.status, status, "{method} {upstream}");
        }
    }
    assert_eq!((right.requests(), wrong.requests()), (9, 0));
}

#[tokio::test]
async fn with_every_backend_down_the_answer_comes_at_once_in_the_form_of_the_api() {
    let (_store, mut first, mut second, _gateway, port, _site) = pair().await;
    assert_eq!(once(port, request("GET", "/v2/", "")).await.status, 200);
    first.kill().await;
    second.kill().await;
    for _ in 0..3 {
        for (target, body) in [
            ("/v1/_ping", format!("{{\"error\":\"{UNREACHABLE}\"}}")),
            ("/v2/", format!("{{\"errors\":[{{\"code\":\"UNAVAILABLE\",\"detail\":null,\"message\":\"{UNREACHABLE}\"}}]}}")),
            ("/_ping", format!("{{\"errors\":[{{\"message\":\"{UNREACHABLE}\",\"status\":502}}]}}")),
        ] {
            let asked = Instant::now();
            let answer = once(port, request("GET", target, "")).await;
            assert_eq!((answer.status, answer.text()), (502, body.as_str()));
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        }
    }
    // Both breakers are open, and whichever comes back is used at once.
    second.restart().await;
    for method in ["GET", "POST", "PATCH", "GET"] {
        assert_ne!(once(port, request(method, "/v2/image/blobs/uploads/", "")).await.status, 502, "{method}");
    }
}

/// A port on which connections are never made, as on a machine without power.
async fn silent() -> (SocketAddr, OwnedFd, Vec<TcpStream>) {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let address: SocketAddr = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    let mut queue = Vec::new();
    // The kernel drops who comes after the queue is full.
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queue.push(stream.unwrap());
        assert!(queue.len() < 16);
    }
    (address, socket, queue)
}

#[tokio::test]
async fn nobody_waits_longer_for_machines_without_power_than_a_connection_may_take() {
    let (one, other) = (silent().await, silent().await);
    let tables = |addresses: &[SocketAddr]| addresses.iter().map(|address| format!("[[upstream.server]]\ntcp = \"{address}\"\n")).collect();
    let site = Site::without_backend().with_upstream(tables(&[one.0, other.0]));
    let (_gateway, port) = site.start_plain().await;
    let ask = move || async move {
        let asked = Instant::now();
        let answer = once(port, request("POST", "/v2/image/blobs/uploads/", "")).await;
        assert_eq!((answer.status, answer.text().contains(UNREACHABLE)), (502, true));
        asked.elapsed()
    };
    // While nothing is known yet, each gets its chance.
    let mut first = JoinSet::new();
    for _ in 0..6 {
        first.spawn(ask());
    }
    for waited in within(first.join_all()).await {
        assert!(waited < Duration::from_millis(5_500), "{waited:?}");
    }
    let waited = ask().await;
    assert!(waited < Duration::from_millis(3_500), "{waited:?}");

    // And with one that works, nobody is told of the other's failure.
    let store = Arc::new(Store::default());
    let good = Backend::start(0, &store, At::tcp()).await;
    let site = Site::without_backend().with_upstream(tables(&[one.0]) + &registry::tables(&[&good]));
    let (_gateway, port) = site.start_plain().await;
    for _ in 0..3 {
        assert_eq!(once(port, request("POST", "/v2/image/blobs/uploads/", "")).await.status, 202);
    }
}

#[tokio::test]
async fn a_backend_that_says_it_is_unwell_is_left_alone_until_it_says_otherwise() {
    let (_store, first, second, _gateway, port, _site) = pair().await;
    first.shared.is_unwell.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let mut quiet = 0;
    // Left alone: ten requests in a row went to the other one.
    while quiet < 10 {
        assert!(began.elapsed() < Duration::from_secs(15));
        quiet = if backend_of(&once(port, request("GET", "/v2/", "")).await) == Some("1") { quiet + 1 } else { 0 };
        sleep(Duration::from_millis(50)).await;
    }
    // No better one is left: it is asked all the same.
    let mut second = second;
    second.kill().await;
    assert_eq!(backend_of(&once(port, request("GET", "/v2/", "")).await), Some("0"));
    second.restart().await;
    first.shared.is_unwell.store(false, Ordering::Relaxed);
    let began = Instant::now();
    let mut answered = HashSet::new();
    while answered.len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(8), "{answered:?}");
        answered.insert(backend_of(&once(port, request("GET", "/v2/", "")).await).map(str::to_owned));
        sleep(Duration::from_millis(50)).await;
    }
}
