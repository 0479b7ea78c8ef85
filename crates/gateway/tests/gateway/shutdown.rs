//! The end: what is under way is finished, nothing else is waited for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::Response;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::support::{Client, Site, echo};

#[tokio::test]
async fn an_idle_gateway_ends_at_once_even_with_connections_open() {
    let site = Site::new(echo);
    let (mut gateway, port) = site.start_plain().await;
    let mut kept_alive = Client::connect(port).await;
    assert_eq!(kept_alive.get("/v2/", "a").await.status, 200);
    let _silent = Client::connect(port).await;
    let start = Instant::now();
    gateway.terminate();
    assert!(gateway.end().await.success());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_transfer_under_way_is_finished_and_not_a_moment_more() {
    let (finish, finished) = oneshot::channel::<()>();
    let finished = std::sync::Arc::new(std::sync::Mutex::new(Some(finished)));
    let site = Site::new(move |_| {
        let finished = finished.lock().unwrap().take().unwrap();
        async {
            let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
            tokio::spawn(async move {
                sender.send_data("first ".into()).await.unwrap();
                finished.await.unwrap();
                sender.send_data("last".into()).await.unwrap();
            });
            Response::new(body.boxed())
        }
    });
    let (mut gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    client.send("GET /v2/a/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (status, _) = client.head().await;
    assert_eq!(status, 200);

    gateway.terminate();
    sleep(Duration::from_millis(500)).await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "new connections are refused");
    finish.send(()).unwrap();
    let ended = Instant::now();
    let rest = client.rest().await;
    assert!(rest.ends_with(b"0\r\n\r\n") && rest.windows(4).any(|window| window == b"last"), "{:?}", String::from_utf8_lossy(&rest));
    assert!(gateway.end().await.success());
    assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
}
