//! TLS, and clients that speak it where they should not.

use std::time::{Duration, Instant};

use crate::support::{Client, Site, echo, free_port};

fn binding(port: u16, server_name: &str, certificate: &str, repository: &str) -> String {
    let server_name = if server_name.is_empty() { String::new() } else { format!("server_name = \"{server_name}\"\n") };
    format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"{repository}\"\n{server_name}certificate = \"{certificate}.pem\"\nkey = \"{certificate}.key\"\n"
    )
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate_and_the_host_the_repository() {
    let site = Site::new(echo);
    let (a, b) = (site.certificate("a.example"), site.certificate("b.example"));
    let port = free_port();
    let _gateway = site.start(&(binding(port, "a.example", "a.example", "one") + &binding(port, "b.example", "b.example", "two"))).await;

    let mut client = Client::connect_tls(port, "a.example", &a).await.unwrap();
    let answer = client.get("/v2/", "a.example").await;
    assert!(answer.text().starts_with("GET /artifactory/api/docker/one/v2/\n"));
    assert_eq!(answer.seen("x-forwarded-proto"), Some("https"));
    assert_eq!(answer.seen("host"), Some(format!("a.example:{port}").as_str()));

    let mut client = Client::connect_tls(port, "b.example", &b).await.unwrap();
    assert!(client.get("/v2/", "b.example").await.text().starts_with("GET /artifactory/api/docker/two/v2/\n"));
    assert_eq!(client.get("/v2/", "c.example").await.status, 421);

    assert!(Client::connect_tls(port, "b.example", &a).await.is_err(), "another authority");
}

#[tokio::test]
async fn a_client_that_names_no_server_gets_the_certificate_of_the_binding_without_a_name() {
    let site = Site::new(echo);
    let (named, default) = (site.certificate("a.example"), site.certificate("b.example"));
    let port = free_port();
    let _gateway = site.start(&(binding(port, "a.example", "a.example", "one") + &binding(port, "", "b.example", "rest"))).await;
    let mut client = Client::connect_tls(port, "127.0.0.1", &default).await.unwrap();
    assert!(client.get("/v2/", "127.0.0.1").await.text().starts_with("GET /artifactory/api/docker/rest/v2/\n"));
    assert!(Client::connect_tls(port, "127.0.0.1", &named).await.is_err());
}

#[tokio::test]
async fn only_http_1_is_offered() {
    let site = Site::new(echo);
    let authority = site.certificate("localhost");
    let port = free_port();
    let _gateway = site.start(&binding(port, "", "localhost", "r")).await;
    let client = Client::connect_tls(port, "localhost", &authority).await.unwrap();
    assert_eq!(client.protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_tls_client_of_a_plain_port_is_told_at_once() {
    let site = Site::new(echo);
    let authority = site.certificate("localhost");
    let (_gateway, port) = site.start_plain().await;
    let start = Instant::now();
    let error = Client::connect_tls(port, "localhost", &authority).await.err().expect("no TLS there");
    assert!(error.to_string().contains("HandshakeFailure"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_client_of_an_old_protocol_version_is_told_so() {
    let site = Site::new(echo);
    site.certificate("localhost");
    let port = free_port();
    let _gateway = site.start(&binding(port, "", "localhost", "r")).await;
    // A ClientHello of TLS 1.1: version, random, no session, one cipher suite, no compression.
    let hello = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0xc0, 0x13, 1, 0]].concat();
    let length = hello.len() as u8;
    let mut client = Client::connect(port).await;
    client.send([&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()).await;
    // A fatal alert: `handshake_failure`, for want of signature algorithms, which TLS 1.1 has not.
    assert_eq!(client.rest().await, [0x15, 3, 3, 0, 2, 2, 40]);
}

#[tokio::test]
async fn what_is_no_handshake_is_answered_by_an_alert() {
    let site = Site::new(echo);
    site.certificate("localhost");
    let port = free_port();
    let _gateway = site.start(&binding(port, "", "localhost", "r")).await;
    let mut client = Client::connect(port).await;
    client.send([0x16, 3, 1, 0, 6, 1, 0, 0, 2, 9, 9]).await;
    let answer = client.rest().await;
    assert!(matches!(answer[..], [0x15, 3, _, 0, 2, 2, _]), "{answer:?}");
}

#[tokio::test]
async fn a_plain_client_of_a_tls_port_is_told_what_to_do() {
    let site = Site::new(echo);
    site.certificate("localhost");
    let port = free_port();
    let _gateway = site.start(&binding(port, "", "localhost", "r")).await;
    const WHY: &str = "This port speaks HTTPS: use https:// in the address";
    for (path, body) in [
        ("/v2/", format!(r#"{{"errors":[{{"code":"UNSUPPORTED","detail":null,"message":"{WHY}"}}]}}"#)),
        ("/v1/_ping", format!(r#"{{"error":"{WHY}"}}"#)),
        ("/artifactory/api/system/ping", format!(r#"{{"errors":[{{"message":"{WHY}","status":400}}]}}"#)),
        ("/", WHY.to_owned()),
        ("/artifactory/docker-local/", WHY.to_owned()),
        (&format!("/v2/{}", "a".repeat(5000)), format!(r#"{{"errors":[{{"code":"UNSUPPORTED","detail":null,"message":"{WHY}"}}]}}"#)),
    ] {
        let answer = Client::connect(port).await.get(path, "localhost").await;
        assert_eq!((answer.status, answer.text()), (400, body.as_str()), "{path}");
        let expected = if body == WHY { "text/plain" } else { "application/json" };
        assert_eq!(answer.headers.get("content-type").map(String::as_str), Some(expected), "{path}");
    }
    // Whoever sends half a line and waits is told, too.
    let mut client = Client::connect(port).await;
    client.send("GET /v2").await;
    assert!(String::from_utf8_lossy(&client.rest().await).contains(WHY));
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_out() {
    let site = Site::new(echo);
    let authority = site.certificate("localhost");
    let port = free_port();
    let _gateway = site.start(&binding(port, "", "localhost", "r")).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(Client::connect(port).await);
    }
    let mut client = Client::connect_tls(port, "localhost", &authority).await.unwrap();
    assert_eq!(client.get("/v2/", "localhost").await.status, 200);
}
