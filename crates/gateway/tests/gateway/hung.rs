//! A backend that takes requests and answers nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::time::sleep;

use crate::support::{Answer, Body, Client, Site, free_port, plain_binding, take};

/// A backend that hangs while this is true, its health check included; its kernel goes on taking connections.
fn site(hangs: &Arc<AtomicBool>) -> Site {
    let hangs = Arc::clone(hangs);
    Site::new(move |request: Request<Incoming>| {
        let hangs = Arc::clone(&hangs);
        async move {
            while hangs.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(50)).await;
            }
            take(request).await
        }
    })
}

async fn ask(port: u16, request: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = Client::connect(port).await.ask(request).await;
    (answer, began.elapsed())
}

const GET: &str = "GET /v2/app/manifests/1 HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn who_waits_for_the_first_byte_is_told_after_the_configured_time_unless_the_route_takes_long() {
    // Hashing a layer takes as long as it takes, and so does moving thousands of tags.
    let slow = |request: Request<Incoming>| async move {
        if request.uri().path() != "/healthz" {
            sleep(Duration::from_secs(3)).await;
        }
        let answer: Response<Body> = take(request).await;
        answer
    };
    let site = Site::new(slow).with_upstream("unix = \"backend.sock\"\nfirst_byte_timeout_s = 1".to_owned());
    let (port, console) = (free_port(), free_port());
    let consoles = format!("[[binding]]\nlisten = \"127.0.0.1:{console}\"\nconsole = true\nplain_http = true\n");
    let _gateway = site.start(&format!("{}{consoles}", plain_binding(port))).await;
    let soon = [
        (port, GET),
        (port, "POST /v2/token HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"),
        (port, "PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"),
        (console, "GET /artifactory/api/security/users HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (port, request) in soon {
        let (answer, waited) = ask(port, request).await;
        assert_eq!((answer.status, answer.text().contains("did not answer in time")), (504, true), "{request}");
        assert!(waited < Duration::from_millis(2_500), "{waited:?}");
    }
    let late = [
        (port, "PUT /v2/app/blobs/uploads/1?digest=x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
        (port, "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"),
        (port, "PUT /v1/images/x/layer HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"),
        (console, "POST /artifactory/api/docker/a/v2/promote HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"),
        (console, "POST /artifactory/api/docker/a/v1/migrate HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na"),
    ];
    let asked = late.map(|(port, request)| tokio::spawn(async move { (ask(port, request).await.0.status, request) }));
    for answer in asked {
        let (status, request) = answer.await.unwrap();
        assert_eq!(status, 200, "{request}");
    }
}

#[tokio::test]
async fn a_backend_that_falls_silent_is_known_within_seconds_and_nobody_waits_for_it() {
    let hangs = Arc::new(AtomicBool::new(false));
    let site = site(&hangs);
    let (port, watched) = (free_port(), free_port());
    let _gateway = site.start(&format!("[metrics]\nlisten = \"127.0.0.1:{watched}\"\n{}", plain_binding(port))).await;
    let ready = || async move { ask(watched, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await.0.status };
    assert_eq!((ask(port, GET).await.0.status, ready().await), (200, 200));
    hangs.store(true, Ordering::Relaxed);
    let began = Instant::now();
    while ready().await != 503 {
        assert!(began.elapsed() < Duration::from_secs(12), "it is not noticed");
        sleep(Duration::from_millis(100)).await;
    }
    for request in [GET, "PUT /v2/app/blobs/uploads/1?digest=x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"] {
        let (answer, waited) = ask(port, request).await;
        assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "1"), "{request}");
        assert!(answer.text().contains("\"UNAVAILABLE\"") && answer.text().contains("does not answer at present"), "{}", answer.text());
        assert!(waited < Duration::from_millis(500), "{waited:?}");
    }
    hangs.store(false, Ordering::Relaxed);
    let began = Instant::now();
    while ask(port, GET).await.0.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(8), "that it is back is not noticed");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ready().await, 200);
}
