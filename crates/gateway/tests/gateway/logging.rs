//! What is written down, and what never is.

use std::fs;
use std::process::Stdio;

use tokio::net::TcpStream;

use crate::support::{Client, Site, command, echo, free_port, plain_binding, terminate, within};

#[tokio::test]
async fn a_log_has_no_password_at_any_level() {
    let site = Site::new(echo);
    let port = free_port();
    let configuration = site.configuration(&plain_binding(port));
    let log = site.path("log");
    let mut gateway = command(&["serve", "--config", configuration.to_str().unwrap()])
        .env("BERTH_LOG", "trace")
        .stderr(fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let port_is_open = async { while TcpStream::connect(("127.0.0.1", port)).await.is_err() {} };
    within(port_is_open).await;
    let request = "GET /v2/?token=secret2 HTTP/1.1\r\nHost: a\r\nAuthorization: Basic c2VjcmV0\r\nConnection: close\r\n\r\n";
    let answer = Client::connect(port).await.ask(request).await;
    assert_eq!(answer.seen("authorization"), Some("Basic c2VjcmV0"));
    // Ends after the line is written, which may be after the answer has arrived.
    terminate(&gateway);
    gateway.wait().unwrap();
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("access: request"), "{log}");
    assert!(!log.contains("c2VjcmV0") && !log.contains("secret2"), "{log}");
}
