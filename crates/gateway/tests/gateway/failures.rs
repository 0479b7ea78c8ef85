//! A backend that is down, or breaks off.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::Response;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;

use crate::support::{Client, Site};

const UNREACHABLE: &str = "the registry's backend cannot be reached";

#[tokio::test]
async fn a_backend_that_is_down_is_reported_in_the_form_of_the_api() {
    let site = Site::without_backend();
    let (_gateway, port) = site.start_plain().await;
    for (target, body) in [
        ("/v1/_ping", format!("{{\"error\":\"{UNREACHABLE}\"}}")),
        ("/v2/", format!("{{\"errors\":[{{\"code\":\"UNAVAILABLE\",\"detail\":null,\"message\":\"{UNREACHABLE}\"}}]}}")),
        ("/_ping", format!("{{\"errors\":[{{\"message\":\"{UNREACHABLE}\",\"status\":502}}]}}")),
    ] {
        let answer = Client::connect(port).await.get(target, "a").await;
        assert_eq!((answer.status, answer.text()), (502, body.as_str()));
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["content-length"], body.len().to_string());
    }
}

#[tokio::test]
async fn a_backend_that_comes_back_is_used_at_once() {
    let site = Site::without_backend();
    let (_gateway, port) = site.start_plain().await;
    assert_eq!(Client::connect(port).await.get("/v2/", "a").await.status, 502);
    let listener = UnixListener::bind(site.path("backend.sock")).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    });
    assert_eq!(Client::connect(port).await.get("/v2/", "a").await.text(), "ok");
}

#[tokio::test]
async fn a_backend_that_hangs_up_without_an_answer_is_a_bad_gateway() {
    let site = Site::without_backend();
    let listener = UnixListener::bind(site.path("backend.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
        }
    });
    let (_gateway, port) = site.start_plain().await;
    let answer = Client::connect(port).await.ask("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("did not answer properly"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_cut_off_not_ended() {
    let site = Site::new(|_| async {
        let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
        tokio::spawn(async move {
            sender.send_data("half of it".into()).await.unwrap();
            sender.abort(std::io::Error::other("disk"));
        });
        Response::new(body.boxed())
    });
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    client.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let everything = client.rest().await;
    assert!(!everything.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&everything));
}
