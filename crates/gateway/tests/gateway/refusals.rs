//! What does not pass: everything that the gateway and a backend could read differently.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Response;

use crate::support::{Client, Site, echo, free_port, full};

/// A backend that counts what reaches it.
fn counting() -> (Site, Arc<AtomicUsize>) {
    let reached = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&reached);
    let site = Site::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async { Response::new(full("reached")) }
    });
    (site, reached)
}

/// The status of the first answer to these bytes, and everything that follows it.
async fn raw(port: u16, request: impl AsRef<[u8]>) -> (u16, Vec<u8>) {
    let mut client = Client::connect(port).await;
    let answer = client.ask(request).await;
    (answer.status, client.rest().await)
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_their_connection_is_closed() {
    let (site, reached) = counting();
    let (_gateway, port) = site.start_plain().await;
    let mut requests: Vec<Vec<u8>> = Vec::new();
    for path in [
        "/v2/..%2f",
        "/v2/%2e%2e/",
        "//v2/",
        "/v2//x/",
        "/v2/%2f",
        "/v2/%2F",
        "/v2/a/../b/",
        "/v2/a/..",
        "/v2/./a",
        "/v2/\\",
        "/v2/..\\a",
        "/v2/%5c",
        "/v2/%00",
        "/v2/%252f",
        "/v2/%c0%af",
        "/v2/a;x",
        "/v2/a#x",
        "/v2/#",
        "/v1/images/../json",
        "/v2/a b",
        "/v2/a\tb",
        "/v2/\u{7f}",
        "/v2/\u{e4}",
        "*",
        "v2/",
        "ftp://a/v2/",
        "http://b/v2/",
        "http:/v2/",
        "/v2/?%zz",
    ] {
        requests.push(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into());
    }
    requests.push(b"GET /v2/\xc0\xaf HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
    for hosts in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host:\r\n",
        "Host: a:99999\r\n",
        "Host: a b\r\n",
        "Host: x@a\r\n",
        "Host: a/b\r\n",
        "Host: a,b\r\n",
        "Host : a\r\n",
    ] {
        requests.push(format!("GET /v2/ HTTP/1.1\r\n{hosts}\r\n").into());
    }
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: -4\r\n",
        "Content-Length: 4 4\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "A: b\r\n c\r\n",
        "A b\r\n",
        "A: b\n",
        "A: b\rc\r\n",
        "A: b\0c\r\n",
        "Connection: x-forwarded-for\r\n",
        "Connection: host\r\n",
    ] {
        requests.push(format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n").into());
    }
    requests.push(b"POST /v2/ HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec());
    requests.push(b"GET /v2/ HTTP/1.1\nHost: a\n\n".to_vec());
    requests.push(b"GET /v2/\r\nHost: a\r\n\r\n".to_vec());
    for request in requests {
        let (status, rest) = raw(port, &request).await;
        assert_eq!((status, &rest[..]), (400, &b""[..]), "{:?}", String::from_utf8_lossy(&request));
    }
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_refused_body_is_never_read_as_a_request() {
    let (site, reached) = counting();
    let (_gateway, port) = site.start_plain().await;
    let smuggled = "GET /v2/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in [
        "POST /elsewhere HTTP/1.1\r\nHost: a\r\n",
        "POST /v2/.. HTTP/1.1\r\nHost: a\r\n",
        "GET /v2/.. HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n",
    ] {
        for body in [format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()), format!("Content-Length: 0\r\n\r\n{smuggled}")] {
            let (status, rest) = raw(port, format!("{head}{body}")).await;
            assert!((status == 404 || status == 400) && !String::from_utf8_lossy(&rest).contains("reached"), "{head}{body}");
        }
    }
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn refusals_have_the_form_of_the_api() {
    let (site, _) = counting();
    let (_gateway, port) = site.start_plain().await;
    for (target, status, form) in [
        ("/v1/images/../json", 400, "{\"error\":\"the path"),
        ("/v2/a/../b", 400, "{\"errors\":[{\"code\":\"UNSUPPORTED\",\"detail\":null,\"message\":\"the path"),
        ("/ui/", 404, "{\"errors\":[{\"message\":\"there is no such path"),
        ("/artifactory/api/docker/other/v2/", 404, "{\"errors\":[{\"message\":\"there is no such path"),
    ] {
        let answer = Client::connect(port).await.get(target, "a").await;
        assert!(answer.status == status && answer.text().starts_with(form), "{target}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["x-request-id"].len(), 32);
    }
}

#[tokio::test]
async fn a_host_without_a_binding_is_misdirected() {
    let site = Site::new(echo);
    let port = free_port();
    let binding = |name: &str, repository: &str| {
        format!("[[binding]]\nlisten = \"127.0.0.1:{port}\"\nserver_name = \"{name}\"\nrepository = \"{repository}\"\nplain_http = true\n")
    };
    let _gateway = site.start(&(binding("a.example", "one") + &binding("b.example", "two"))).await;
    let mut client = Client::connect(port).await;
    for (host, repository) in [("a.example", "one"), ("B.example:1", "two")] {
        assert!(client.get("/v2/", host).await.text().starts_with(&format!("GET /artifactory/api/docker/{repository}/v2/\n")));
    }
    let answer = client.get("/v2/", "evil.example").await;
    assert_eq!(answer.status, 421);
    assert!(!answer.text().contains("evil"));
    assert_eq!(client.get("/v2/", "a.example").await.status, 200);
}

#[tokio::test]
async fn tunnels_and_traces_are_not_supported() {
    let (site, reached) = counting();
    let (_gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    let answer = client.ask("TRACE /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.status, 405);
    assert!(answer.headers["allow"].contains("GET"));
    for target in ["a:443", "/v2/"] {
        assert_eq!(raw(port, format!("CONNECT {target} HTTP/1.1\r\nHost: a:443\r\n\r\n")).await.0 / 100, 4, "{target}");
    }
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn heads_are_bounded() {
    let (site, _) = counting();
    let (_gateway, port) = site.start_plain().await;
    let ask = async |fields: String| raw(port, format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n")).await.0;
    assert_eq!(ask("A: b\r\n".repeat(88)).await, 200);
    assert_eq!(ask("A: b\r\n".repeat(89)).await, 431);
    assert_eq!(ask(format!("A: {}\r\n", "b".repeat(31 * 1024))).await, 200);
    assert_eq!(ask(format!("A: {}\r\n", "b".repeat(33 * 1024))).await, 431);
}
