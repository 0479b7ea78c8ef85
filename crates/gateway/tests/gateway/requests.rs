//! What passes: heads are rewritten, bodies are not touched.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response};

use crate::support::{Body, Client, Site, echo, full};

#[tokio::test]
async fn a_request_goes_to_its_repository_with_the_host_and_port_that_the_client_used() {
    let site = Site::new(echo);
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    let answer = client.get("/v2/jfrog/ubuntu/manifests/12.04?n=%2F", "R.example").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().starts_with("GET /artifactory/api/docker/docker-local/v2/jfrog/ubuntu/manifests/12.04?n=%2F\n"),
        "{}",
        answer.text()
    );
    let host = format!("r.example:{port}");
    assert_eq!(answer.seen("host"), Some(host.as_str()));
    assert_eq!(answer.seen("x-forwarded-host"), Some(host.as_str()));
    assert_eq!(answer.seen("x-forwarded-port"), Some(port.to_string().as_str()));
    assert_eq!(answer.seen("x-forwarded-proto"), Some("http"));
    assert_eq!(answer.seen("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(answer.seen("x-real-ip"), Some("127.0.0.1"));
    let id = answer.seen("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()));
    assert_eq!(answer.headers["x-request-id"], id);

    let ping = client.get("/_ping", "r.example").await;
    assert!(ping.text().starts_with("GET /artifactory/api/docker/docker-local/v1/_ping\n"));
    assert_ne!(ping.seen("x-request-id").unwrap(), id);
}

#[tokio::test]
async fn what_a_client_claims_about_its_way_is_dropped() {
    let site = Site::on_tcp(echo).await;
    let (_gateway, port) = site.start_plain().await;
    let claims = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\n\
        X-Forwarded-Prefix: /evil\r\nX-Forwarded-Server: evil\r\nX-Real-IP: 6.6.6.6\r\nX-Request-Id: evil\r\nForwarded: host=evil\r\n\
        X-Artifactory-Override-Base-Url: http://evil\r\nX-JFrog-Override-Base-Url: http://evil\r\nConnection: upgrade\r\nUpgrade: evil\r\n\
        traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nTracestate: evil=1\r\nBaggage: evil=1\r\nBaggage: evil=2\r\n\
        Authorization: Basic YTpi\r\nUser-Agent: docker/1.12\r\n";
    let answer = Client::connect(port).await.ask(format!("GET /v1/_ping HTTP/1.1\r\nHost: r.example\r\n{claims}\r\n")).await;
    assert_eq!(answer.status, 200);
    assert!(
        !answer.text().contains("evil") && !answer.text().contains("6.6.6.6") && !answer.text().contains("7.7.7.7"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.seen("upgrade"), None);
    assert_eq!(answer.seen("traceparent"), None);
    assert_eq!(answer.seen("x-forwarded-proto"), Some("http"));
    assert_eq!(answer.seen("authorization"), Some("Basic YTpi"));
    assert_eq!(answer.seen("user-agent"), Some("docker/1.12"));
}

#[tokio::test]
async fn an_absolute_target_of_the_same_host_is_a_path() {
    let site = Site::new(echo);
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    let host = format!("r.example:{port}");
    let answer = client.get(&format!("http://{host}/v2/"), &host).await;
    assert!(answer.text().starts_with("GET /artifactory/api/docker/docker-local/v2/\n"), "{}", answer.text());
    assert_eq!(answer.seen("host"), Some(host.as_str()));
}

/// Counts the bytes of a body.
async fn count(request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().data_ref().map_or(0, |data| data.len());
    }
    Response::builder().status(201).body(full(bytes.to_string())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_chunked_upload_arrives_whole() {
    const CHUNK: usize = 100_000;
    const CHUNKS: usize = 800;
    let site = Site::new(count);
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    client.send("PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [format!("{CHUNK:x}\r\n").as_bytes(), &[7; CHUNK], b"\r\n"].concat();
    for _ in 0..CHUNKS {
        client.send(&chunk).await;
    }
    let answer = client.ask("0\r\n\r\n").await;
    assert_eq!((answer.status, answer.text()), (201, (CHUNK * CHUNKS).to_string().as_str()));
    assert_eq!(client.get("/v2/", "a").await.status, 201);
}

#[tokio::test]
async fn the_backend_decides_whether_a_client_that_asks_may_send_its_body() {
    let site = Site::new(|request: Request<Incoming>| async {
        if request.uri().path().ends_with("refused") {
            return Response::builder().status(401).header("www-authenticate", "Basic realm=\"x\"").body(full("no")).unwrap();
        }
        count(request).await
    });
    let (_gateway, port) = site.start_plain().await;
    let head = |path: &str| format!("PUT /v2/a/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");

    let mut client = Client::connect(port).await;
    client.send(head("taken")).await;
    assert_eq!(client.head().await.0, 100);
    assert_eq!(client.ask("hello").await.text(), "5");

    let answer = Client::connect(port).await.ask(head("refused")).await;
    assert_eq!((answer.status, answer.text()), (401, "no"));
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_reaches_a_client_that_goes_on_writing() {
    let site = Site::new(|_| async {
        Response::builder().status(401).header("www-authenticate", "Bearer realm=\"https://r/token\"").body(full("no")).unwrap()
    });
    let (_gateway, port) = site.start_plain().await;
    let chunk = [b"10000\r\n".as_slice(), &[7; 0x10000], b"\r\n"].concat();
    for path in ["/v2/a/blobs/uploads/1", "/elsewhere"] {
        let mut client = Client::connect(port).await;
        client.send(format!("PATCH {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
        for _ in 0..64 {
            // The other side may have closed once it has read enough.
            let _ = client.try_send(&chunk).await;
        }
        let answer = client.answer().await;
        assert_eq!(answer.headers["connection"], "close");
        if path.starts_with("/v2") {
            assert_eq!((answer.status, answer.text()), (401, "no"));
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"https://r/token\"");
        } else {
            assert_eq!(answer.status, 404);
        }
    }
}

#[tokio::test]
async fn answers_to_head_have_no_body_and_the_connection_goes_on() {
    let site = Site::new(|_| async { Response::new(full("hello")) });
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    for (target, status, length) in [("/v2/a/blobs/x", 200, "5"), ("/elsewhere", 404, "101")] {
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let (seen, headers) = client.head().await;
        assert_eq!((seen, headers["content-length"].as_str()), (status, length));
    }
    assert_eq!(client.get("/v2/", "a").await.text(), "hello");
}

#[tokio::test]
async fn a_chunked_answer_is_streamed() {
    let site = Site::new(|_| async {
        let (mut sender, body) = http_body_util::channel::Channel::<bytes::Bytes, std::io::Error>::new(1);
        tokio::spawn(async move {
            for _ in 0..3 {
                sender.send_data("piece ".into()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Response::new(body.boxed())
    });
    let (_gateway, port) = site.start_plain().await;
    assert_eq!(Client::connect(port).await.get("/v2/", "a").await.text(), "piece piece piece ");
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let site = Site::new(echo);
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    const REQUESTS: usize = 40;
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/v2/", "a").await.status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // An answer may reach the client before its connection to the backend is back in the pool, and on a busy machine the
    // next request may come sooner, too: then another one is made. Without a pool there would be one for each request.
    let connections = site.backend_connections.load(Ordering::Relaxed);
    assert!(connections <= REQUESTS / 4, "{connections}");
}

/// A client that sends one byte now and then would otherwise hold its connection for ever.
#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for() {
    let site = Site::new(echo);
    let (_gateway, port) = site.start_plain().await;
    let start = std::time::Instant::now();
    let mut client = Client::connect(port).await;
    for byte in b"GET /v2/ HTTP/1.1\r\nHost: a\r\nA: bbbbbbbbbbbbb".chunks(1) {
        if client.try_send(byte).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    client.rest().await;
    let elapsed = start.elapsed().as_secs();
    assert!((9..16).contains(&elapsed), "{elapsed} s");
}
