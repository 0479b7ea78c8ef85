//! What stands between clients and the gateway, and what the gateway lets them do.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::support::{Client, Site, command, echo, free_port, plain_binding, take, within};

fn tls_binding(port: u16, rest: &str) -> String {
    format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"docker-local\"\n\
         certificate = \"a.example.pem\"\nkey = \"a.example.key\"\n{rest}"
    )
}

/// `trusted_proxies` stands at the top of the file.
async fn start_trusting(site: &Site, trusted: &str, bindings: &str) -> crate::support::Gateway {
    let path = site.configuration(bindings);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("trusted_proxies = [\"{trusted}\"]\n{text}")).unwrap();
    crate::support::Gateway::start(&path).await
}

#[tokio::test]
async fn a_load_balancer_says_who_the_client_is_before_tls() {
    let site = Site::new(echo);
    let authority = site.certificate("a.example");
    let port = free_port();
    let _gateway = start_trusting(&site, "127.0.0.0/8", &tls_binding(port, "proxy_protocol = true\n")).await;
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 7, 10, 0, 0, 9, 0x12, 0x34, 0x01, 0xbb]].concat();
    for header in [b"PROXY TCP4 192.0.2.7 10.0.0.9 4660 443\r\n".to_vec(), v2] {
        let mut client = Client::connect_tls_after(port, "a.example", &authority, &header).await.unwrap();
        let answer = client.get("/v2/", "a.example").await;
        assert_eq!(answer.seen("x-forwarded-for"), Some("192.0.2.7"));
        // The port that the client connected to is in what it is told.
        assert_eq!((answer.seen("host"), answer.seen("x-forwarded-port")), (Some("a.example"), Some("443")));
    }
    // Without the header nobody is served.
    assert!(Client::connect_tls(port, "a.example", &authority).await.is_err());
}

#[tokio::test]
async fn a_stranger_cannot_speak_the_proxy_protocol() {
    let site = Site::new(echo);
    let authority = site.certificate("a.example");
    let port = free_port();
    let _gateway = start_trusting(&site, "10.0.0.0/8", &tls_binding(port, "proxy_protocol = true\n")).await;
    let header = b"PROXY TCP4 192.0.2.7 10.0.0.9 4660 443\r\n";
    assert!(Client::connect_tls_after(port, "a.example", &authority, header).await.is_err());
}

#[tokio::test]
async fn forwarding_headers_count_only_from_trusted_proxies() {
    let headers =
        "X-Forwarded-Proto: https\r\nX-Forwarded-Host: r.example\r\nX-Forwarded-For: 198.51.100.1, 192.0.2.7\r\nX-Request-Id: outer-1\r\n";
    let ask = format!("GET /v2/ HTTP/1.1\r\nHost: inner\r\n{headers}\r\n");
    for (trusted, host, client, proto) in [("127.0.0.0/8", "r.example", "192.0.2.7", "https"), ("10.0.0.0/8", "inner", "127.0.0.1", "http")]
    {
        let site = Site::new(echo);
        let port = free_port();
        let _gateway = start_trusting(&site, trusted, &plain_binding(port)).await;
        let answer = Client::connect(port).await.ask(&ask).await;
        let host = if proto == "https" { host.to_owned() } else { format!("{host}:{port}") };
        assert_eq!(answer.seen("host"), Some(host.as_str()), "{trusted}");
        assert_eq!((answer.seen("x-forwarded-for"), answer.seen("x-forwarded-proto")), (Some(client), Some(proto)), "{trusted}");
        assert_eq!(answer.seen("x-request-id") == Some("outer-1"), proto == "https", "{trusted}");
    }
}

#[tokio::test]
async fn what_is_public_is_what_the_backend_is_told() {
    let site = Site::new(echo);
    let (mapped, behind) = (free_port(), free_port());
    let bindings = format!("{}public_port = 444\n{}public_url = \"https://r.example\"\n", plain_binding(mapped), plain_binding(behind));
    let _gateway = site.start(&bindings).await;
    let answer = Client::connect(mapped).await.get("/v2/", "a.example").await;
    assert_eq!((answer.seen("host"), answer.seen("x-forwarded-proto")), (Some("a.example:444"), Some("http")));
    let answer = Client::connect(behind).await.get("/v2/", "anything").await;
    assert_eq!(
        (answer.seen("host"), answer.seen("x-forwarded-proto"), answer.seen("x-forwarded-port")),
        (Some("r.example"), Some("https"), Some("443"))
    );
}

#[tokio::test]
async fn a_read_only_binding_lets_clients_log_in_and_pull() {
    let site = Site::new(echo);
    let port = free_port();
    let _gateway = site.start(&format!("{}read_only = true\n", plain_binding(port))).await;
    let mut client = Client::connect(port).await;
    for (method, path, status) in [
        ("GET", "/v2/app/manifests/1", 200),
        ("HEAD", "/v2/app/blobs/x", 200),
        ("POST", "/v2/token", 200),
        ("POST", "/v1/users/", 200),
        ("POST", "/v2/app/blobs/uploads/", 405),
        ("PUT", "/v1/images/x/layer", 405),
        ("DELETE", "/v2/app/manifests/1", 405),
        ("PATCH", "/v2/app/blobs/uploads/1", 405),
        ("DELETE", "/v1/repositories/v1/users", 405),
        ("DELETE", "/v1/repositories/team/v2/token", 405),
        ("PUT", "/v1/repositories/v1/users/", 405),
        ("DELETE", "/v2/token", 405),
    ] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
        let answer = if method == "HEAD" { client.head().await.0 } else { client.answer().await.status };
        assert_eq!(answer, status, "{method} {path}");
    }
}

#[tokio::test]
async fn only_admitted_networks_are_served() {
    let site = Site::new(echo);
    let authority = site.certificate("a.example");
    let (allowed, denied, encrypted) = (free_port(), free_port(), free_port());
    let bindings = format!(
        "{}allow = [\"127.0.0.0/8\"]\n{}deny = [\"127.0.0.1\"]\n{}",
        plain_binding(allowed),
        plain_binding(denied),
        tls_binding(encrypted, "allow = [\"10.0.0.0/8\"]\n")
    );
    let _gateway = site.start(&bindings).await;
    assert_eq!(Client::connect(allowed).await.get("/v2/", "a").await.status, 200);
    let answer = Client::connect(denied).await.get("/v2/", "a").await;
    assert_eq!((answer.status, answer.text().contains("\"DENIED\"")), (403, true));
    // Not even a handshake, but the reason.
    let error = Client::connect_tls(encrypted, "a.example", &authority).await.err().unwrap().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn limits_refuse_what_is_too_much_and_say_when_to_come_back() {
    let site = Site::new(echo);
    let (rate, connections, heads) = (free_port(), free_port(), free_port());
    let bindings = format!(
        "{}[binding.limits]\nrequests_per_second_per_client = 5\n{}[binding.limits]\nconnections_per_client = 2\n{}[binding.limits]\nheader_bytes = 1024\n",
        plain_binding(rate),
        plain_binding(connections),
        plain_binding(heads)
    );
    let _gateway = site.start(&bindings).await;
    let mut client = Client::connect(rate).await;
    let mut refused = 0;
    for _ in 0..30 {
        let answer = client.get("/v2/", "a").await;
        if answer.status == 429 {
            assert_eq!(answer.headers["retry-after"], "1");
            assert!(answer.text().contains("TOOMANYREQUESTS"), "{}", answer.text());
            refused += 1;
        }
    }
    assert!(refused >= 15, "only {refused} of 30 were refused");

    let mut open = [Client::connect(connections).await, Client::connect(connections).await];
    for client in &mut open {
        assert_eq!(client.get("/v2/", "a").await.status, 200);
    }
    let mut third = Client::connect(connections).await;
    let _ = third.try_send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(third.rest().await, b"");

    let long = format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(1024));
    assert_eq!(Client::connect(heads).await.ask(long).await.status, 431);
}

#[tokio::test]
async fn what_has_no_meaning_counts_as_a_request_and_is_only_for_those_who_are_admitted() {
    let site = Site::new(echo);
    let (rate, denied) = (free_port(), free_port());
    let _gateway = site
        .start(&format!(
            "{}deny = [\"127.0.0.1\"]\n{}[binding.limits]\nrequests_per_second_per_client = 5\n",
            plain_binding(denied),
            plain_binding(rate)
        ))
        .await;
    assert_eq!(Client::connect(denied).await.get("/nothing", "a").await.status, 403);
    let mut client = Client::connect(rate).await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(client.get("/nothing", "a").await.status);
    }
    assert!(statuses.iter().filter(|status| **status == 429).count() >= 15, "{statuses:?}");
    assert!(statuses.contains(&404), "{statuses:?}");
}

#[tokio::test]
async fn connections_that_say_nothing_count_as_their_clients() {
    let site = Site::new(echo);
    site.certificate("a.example");
    let (all, some) = (free_port(), free_port());
    let named = |port: u16, name: &str, rest: &str| tls_binding(port, &format!("server_name = \"{name}\"\n{rest}"));
    let limits = "[binding.limits]\nconnections_per_client = 1\n";
    let bindings = [(all, "a.example", limits), (all, "b.example", limits), (some, "a.example", limits), (some, "b.example", "")]
        .map(|(port, name, rest)| named(port, name, rest))
        .concat();
    let _gateway = site.start(&bindings).await;
    // One for each binding that they could be for.
    let waiting = [Client::connect(all).await, Client::connect(all).await];
    assert_eq!(Client::connect(all).await.rest().await, b"");
    drop(waiting);
    // They may all be for the binding without a limit.
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(Client::connect(some).await);
    }
    for client in &mut many {
        client.send("GET /v2/ HTTP/1.1\r\nHost: b.example\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 400, "plain HTTP is answered");
    }
}

#[tokio::test]
async fn a_stalled_body_is_cut_at_the_idle_limit_and_a_slow_one_is_not() {
    let site = Site::new(take);
    let port = free_port();
    let _gateway = site.start(&format!("{}[binding.limits]\nbody_idle_timeout_s = 1\n", plain_binding(port))).await;
    let head = "PATCH /v2/app/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n";
    let mut slow = Client::connect(port).await;
    slow.send(head).await;
    for byte in *b"slowbody" {
        sleep(Duration::from_millis(300)).await;
        slow.send([byte]).await;
    }
    assert_eq!(slow.answer().await.status, 200);

    let mut stalled = Client::connect(port).await;
    let began = Instant::now();
    stalled.send(format!("{head}st")).await;
    let rest = within(stalled.rest()).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_not_waited_for() {
    let site = Site::new(echo);
    site.certificate("a.example");
    let port = free_port();
    let limits = "[binding.limits]\nhandshake_timeout_s = 1\nheader_timeout_s = 1\n";
    let plain = free_port();
    let _gateway = site.start(&format!("{}{}{limits}", tls_binding(port, limits), plain_binding(plain))).await;
    let began = Instant::now();
    let silent = Client::connect(port).await;
    let mut half = Client::connect(plain).await;
    half.send("GET /v2/ HTTP/1.1\r\nHost: ").await;
    assert_eq!(silent.rest().await, b"");
    half.rest().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn browsers_are_redirected_to_https_and_docker_is_not() {
    let site = Site::new(echo);
    let port = free_port();
    let _gateway =
        site.start(&format!("[[binding]]\nlisten = \"127.0.0.1:{port}\"\nplain_http = true\nredirect = \"https://r.example:444\"\n")).await;
    let mut client = Client::connect(port).await;
    let answer = client.get("/ui/repositories?x=1", "r.example").await;
    assert_eq!((answer.status, answer.headers["location"].as_str()), (307, "https://r.example:444/ui/repositories?x=1"));
    for path in ["/v1/_ping", "/v2/"] {
        let answer = client.get(path, "r.example").await;
        assert_eq!((answer.status, answer.headers.get("location")), (404, None), "{path}");
    }
}

#[tokio::test]
async fn the_console_gives_the_authority_and_says_how_to_trust_it() {
    let site = Site::new(echo);
    let authority = site.certificate("a.example");
    let (console, registry) = (free_port(), free_port());
    let console_binding = format!(
        "[[binding]]\nlisten = \"127.0.0.1:{console}\"\nconsole = true\nauthority = \"a.example/ca.pem\"\n\
         certificate = \"a.example.pem\"\nkey = \"a.example.key\"\n"
    );
    let _gateway = site.start(&format!("{console_binding}{}", tls_binding(registry, ""))).await;
    let mut client = Client::connect_tls(console, "a.example", &authority).await.unwrap();
    let answer = client.get("/_ca.pem", "a.example").await;
    assert_eq!(CertificateDer::from_pem_slice(&answer.body).unwrap(), authority);
    let text = client.get("/_trust", "a.example").await.text().to_owned();
    for expected in [
        format!("https://a.example:{console}/_ca.pem"),
        format!("/etc/docker/certs.d/127.0.0.1:{registry}/ca.crt"),
        format!("    a.example:{registry}\n"),
    ] {
        assert!(text.contains(&expected), "{expected} in {text}");
    }
    // Only there.
    let mut client = Client::connect_tls(registry, "a.example", &authority).await.unwrap();
    assert_eq!(client.get("/_ca.pem", "a.example").await.status, 404);
}

/// A client that shows a certificate, offers one cipher suite, or both.
async fn connect(
    port: u16,
    server: &str,
    roots: &CertificateDer<'static>,
    identity: Option<&Site>,
    tls12_suite: Option<CipherSuite>,
) -> std::io::Result<String> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let versions = if tls12_suite.is_some() { vec![&rustls::version::TLS12] } else { rustls::ALL_VERSIONS.to_vec() };
    if let Some(suite) = tls12_suite {
        provider.cipher_suites.retain(|known| known.suite() == suite);
    }
    let mut store = RootCertStore::empty();
    store.add(roots.clone()).unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&versions).unwrap().with_root_certificates(store);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(site) => {
            let chain = CertificateDer::pem_file_iter(site.path("client.pem")).unwrap().map(Result::unwrap).collect();
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(site.path("client.key")).unwrap()).unwrap()
        }
    };
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(server.to_owned()).unwrap(), tcp).await?;
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn clients_from_the_days_of_docker_1_6_can_speak_tls() {
    let site = Site::new(echo);
    let authority = site.certificate("a.example");
    let port = free_port();
    let _gateway = site.start(&tls_binding(port, "")).await;
    // What Go 1.4 offers of what is still safe.
    let suite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    assert_eq!(connect(port, "a.example", &authority, None, Some(suite)).await.unwrap(), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_binding_can_want_a_client_certificate_and_no_other_host_opens_it() {
    let site = Site::new(echo);
    let authority = site.certificate("a.example");
    let other = site.certificate("b.example");
    // An authority for clients, whose certificates are for a client.
    let ca = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = params.self_signed(&ca).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut client = rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap();
    client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = client.signed_by(&key, &rcgen::Issuer::from_params(&params, &ca)).unwrap();
    fs::write(site.path("clients.pem"), ca_certificate.pem()).unwrap();
    fs::write(site.path("client.pem"), certificate.pem()).unwrap();
    fs::write(site.path("client.key"), key.serialize_pem()).unwrap();
    let port = free_port();
    let open = format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nserver_name = \"b.example\"\nrepository = \"open\"\ncertificate = \"b.example.pem\"\nkey = \"b.example.key\"\n"
    );
    let closed = tls_binding(port, "server_name = \"a.example\"\nclient_ca = \"clients.pem\"\n");
    let _gateway = site.start(&(open + &closed)).await;

    assert_eq!(connect(port, "a.example", &authority, Some(&site), None).await.unwrap(), "HTTP/1.1 200 OK");
    // What a user reads is why.
    let error = connect(port, "a.example", &authority, None, None).await.unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
    fs::write(site.path("client.pem"), client.self_signed(&key).unwrap().pem()).unwrap();
    let error = connect(port, "a.example", &authority, Some(&site), None).await.unwrap_err().to_string();
    assert!(error.contains("UnknownCA") || error.contains("DecryptError"), "{error}");
    // A connection for the open host does not reach the closed one, whatever its requests say.
    assert_eq!(connect(port, "b.example", &other, None, None).await.unwrap(), "HTTP/1.1 421 Misdirected Request");
}

#[tokio::test]
async fn bindings_are_listed_with_what_clients_write() {
    let site = Site::without_backend();
    site.certificate("a.example");
    let path = site.configuration(&(tls_binding(8443, "public_port = 444\n") + &plain_binding(8080)));
    let out = command(&["bindings", "--config", path.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let line = text.lines().find(|line| line.contains("127.0.0.1:8443")).unwrap();
    for part in ["https", "docker-local", "days left", "https://a.example:444"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

/// What the gateway says to these bytes, up to the end of the connection.
async fn raw(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_load_balancer_that_speaks_http_1_0_names_no_host() {
    let site = Site::new(echo);
    let (port, named) = (free_port(), free_port());
    let bindings = format!(
        "{}[[binding]]\nlisten = \"127.0.0.1:{named}\"\nserver_name = \"a.example\"\nrepository = \"a\"\nplain_http = true\n",
        plain_binding(port)
    );
    let _gateway = site.start(&bindings).await;
    for request in ["GET /v2/ HTTP/1.0", "GET /_ping HTTP/1.0", "OPTIONS / HTTP/1.0"] {
        let answer = raw(port, &format!("{request}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 "), "{request}: {answer}");
    }
    let told = raw(port, "GET /v2/ HTTP/1.0\r\n\r\n").await;
    assert!(told.contains(&format!("host: 127.0.0.1:{port}")), "{told}");
    let options = raw(port, "OPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(options.contains("\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"), "{options}");
    // Where hosts are told apart, one must be named; and by HTTP/1.1 always.
    assert!(raw(named, "GET /v2/ HTTP/1.0\r\n\r\n").await.contains(" 400 "));
    assert!(raw(port, "GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n").await.contains(" 400 "));
}

#[tokio::test]
async fn an_empty_line_in_front_of_a_request_is_passed_over() {
    let site = Site::new(echo);
    let (_gateway, port) = site.start_plain().await;
    // As clients send it that end a body with a line too much.
    let mut client = Client::connect(port).await;
    for _ in 0..3 {
        let answer = client.ask("\r\nGET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((answer.status, answer.seen("host")), (200, Some(format!("a:{port}").as_str())));
    }
    let last = "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(raw(port, &format!("\r\n\r\n{last}")).await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn what_the_gateway_says_itself_is_spelt_as_everybody_spells_it() {
    let site = Site::new(echo);
    let (_gateway, port) = site.start_plain().await;
    for path in ["/v2/", "/nothing"] {
        let answer = raw(port, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.contains("\r\nX-Request-Id: "), "{answer}");
    }
}
