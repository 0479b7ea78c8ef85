//! What an operator sees: access lines, metrics, health.

use std::fs;

use http::Request;
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;

use crate::support::{Body, Client, Site, echo, free_port, full, plain_binding, within};

fn json_lines(site: &Site) -> Vec<Value> {
    fs::read_to_string(site.path("access.log")).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Takes a body and answers with one of 1000 bytes.
async fn store(request: Request<Incoming>) -> Response<Body> {
    request.into_body().collect().await.unwrap();
    Response::builder().status(201).body(full(vec![b'a'; 1000])).unwrap()
}

#[tokio::test]
async fn a_json_line_tells_all_about_a_request() {
    let site = Site::new(store);
    let authority = site.certificate("a.example");
    let port = free_port();
    let log = "[access_log]\nformat = \"json\"\npath = \"access.log\"\n";
    let binding = format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"docker-local\"\ncertificate = \"a.example.pem\"\nkey = \"a.example.key\"\n"
    );
    let mut gateway = site.start(&format!("{binding}{log}")).await;
    let mut client = Client::connect_tls(port, "a.example", &authority).await.unwrap();
    let head = "Host: a.example\r\nUser-Agent: doc\"ker\\\t/27\r\nAuthorization: Basic c2VjcmV0\r\nX-Request-Id: mine\r\n";
    let answer = client.ask(format!("PUT /v2/app/blobs/uploads/1?_state=t0ken HTTP/1.1\r\n{head}Content-Length: 4\r\n\r\nabcd")).await;
    assert_eq!(answer.status, 201);
    assert_eq!(client.ask("GET /nothing HTTP/1.1\r\nHost: a.example\r\n\r\n").await.status, 404);
    gateway.terminate();
    assert!(gateway.end().await.success());

    let text = fs::read_to_string(site.path("access.log")).unwrap();
    assert!(!text.contains("c2VjcmV0") && !text.contains("t0ken") && !text.contains("mine"), "{text}");
    let [pushed, refused] = json_lines(&site).try_into().unwrap();
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("method", "PUT"),
        ("path", "/v2/app/blobs/uploads/1"),
        ("protocol", "HTTP/1.1"),
        ("binding", &format!("127.0.0.1:{port}")),
        ("repository", "docker-local"),
        ("host", "a.example"),
        ("user_agent", "doc\"ker\\\t/27"),
        ("request_id", &answer.headers["x-request-id"]),
        ("backend", site.path("backend.sock").to_str().unwrap()),
        ("tls_version", "TLSv1.3"),
        ("tls_cipher", "TLS13_AES_128_GCM_SHA256"),
    ] {
        assert_eq!(pushed[field], value, "{field} in {pushed}");
    }
    assert_eq!((&pushed["status"], &pushed["bytes_in"], &pushed["bytes_out"]), (&201.into(), &4.into(), &1000.into()));
    let (backend, total) = (pushed["backend_ms"].as_f64().unwrap(), pushed["duration_ms"].as_f64().unwrap());
    assert!(0.0 < backend && backend <= total && total < 10_000.0, "{pushed}");
    assert!(pushed.get("refusal").is_none(), "{pushed}");
    assert_eq!(refused["refusal"], "not_found");
    assert_eq!(refused["status"], 404);
    assert!(refused.get("backend").is_none() && refused.get("repository").is_none(), "{refused}");
}

#[tokio::test]
async fn a_combined_line_is_what_log_analysers_read() {
    let site = Site::new(store);
    let port = free_port();
    let log = "[access_log]\nformat = \"combined\"\npath = \"access.log\"\n";
    let mut gateway = site.start(&format!("{}{log}", plain_binding(port))).await;
    let fields =
        "Host: a\r\nUser-Agent: say \"hi\"\r\nReferer: https://me:pw@b.example/ui/?code=t0ken\r\nAuthorization: Basic c2VjcmV0\r\n";
    assert_eq!(Client::connect(port).await.ask(format!("GET /v2/_catalog?n=9&token=t0ken HTTP/1.1\r\n{fields}\r\n")).await.status, 201);
    gateway.terminate();
    assert!(gateway.end().await.success());
    let line = fs::read_to_string(site.path("access.log")).unwrap();
    let (before, after) = line.split_once(" [").unwrap();
    let (time, after) = after.split_once("] ").unwrap();
    assert_eq!(before, "127.0.0.1 - -");
    assert!(time.len() == "10/Oct/2000:13:55:36 +0000".len() && time.ends_with(" +0000"), "{time}");
    assert_eq!(after, "\"GET /v2/_catalog?n=9&token=*** HTTP/1.1\" 201 1000 \"https://b.example/ui/?code=***\" \"say \\x22hi\\x22\"\n");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_a_499() {
    let site = Site::new(|_| async {
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        Response::new(full(""))
    });
    let port = free_port();
    let log = "[access_log]\nformat = \"json\"\npath = \"access.log\"\n";
    let _gateway = site.start(&format!("{}{log}", plain_binding(port))).await;
    let mut client = Client::connect(port).await;
    client.send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    drop(client);
    let line = within(async {
        loop {
            if let [line] = &json_lines(&site)[..] {
                return line.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(line["status"], 499, "{line}");
}

/// The value of one series.
fn value(text: &str, series: &str) -> f64 {
    let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).collect();
    assert_eq!(found.len(), 1, "{series} in {text}");
    found[0].parse().unwrap()
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let site = Site::new(store);
    let authority = site.certificate("a.example");
    let (port, tls_port, admin) = (free_port(), free_port(), free_port());
    let bindings = format!(
        "{}[[binding]]\nlisten = \"127.0.0.1:{tls_port}\"\nrepository = \"docker-local2\"\ncertificate = \"a.example.pem\"\nkey = \"a.example.key\"\n",
        plain_binding(port)
    );
    let _gateway = site.start(&format!("{bindings}[metrics]\nlisten = \"127.0.0.1:{admin}\"\n")).await;
    let mut client = Client::connect(port).await;
    for _ in 0..3 {
        assert_eq!(client.ask("PUT /v1/images/1/layer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde").await.status, 201);
    }
    assert_eq!(client.get("/nothing", "a").await.status, 404);
    // Not trusting the authority, speaking HTTP to HTTPS, and leaving without a word.
    let other = site.certificate("b.example");
    assert!(Client::connect_tls(tls_port, "a.example", &other).await.is_err());
    assert_eq!(Client::connect(tls_port).await.ask("GET / HTTP/1.1\r\n\r\n").await.status, 400);
    drop(Client::connect(tls_port).await);
    let _held = Client::connect_tls(tls_port, "a.example", &authority).await.unwrap();

    let binding = format!("binding=\"127.0.0.1:{port}\"");
    let listener = format!("listener=\"127.0.0.1:{tls_port}\"");
    let expected = [
        (format!("berth_gateway_requests_total{{{binding},api=\"v1\",method=\"PUT\",status=\"201\"}}"), 3.0),
        (format!("berth_gateway_requests_total{{{binding},api=\"other\",method=\"GET\",status=\"404\"}}"), 1.0),
        (format!("berth_gateway_request_body_bytes_total{{{binding}}}"), 15.0),
        (format!("berth_gateway_first_byte_seconds_count{{{binding},api=\"v1\"}}"), 3.0),
        (format!("berth_gateway_request_duration_seconds_bucket{{{binding},api=\"v1\",le=\"900\"}}"), 3.0),
        (format!("berth_gateway_requests_in_flight{{{binding}}}"), 0.0),
        (format!("berth_gateway_connections_open{{listener=\"127.0.0.1:{port}\"}}"), 1.0),
        (format!("berth_gateway_connections_open{{{listener}}}"), 1.0),
        (format!("berth_gateway_connections_total{{{listener}}}"), 4.0),
        (format!("berth_gateway_handshake_failures_total{{{listener},reason=\"untrusted\"}}"), 1.0),
        (format!("berth_gateway_handshake_failures_total{{{listener},reason=\"plain_http\"}}"), 1.0),
        (format!("berth_gateway_handshake_failures_total{{{listener},reason=\"closed\"}}"), 1.0),
        ("berth_gateway_refusals_total{reason=\"not_found\"}".to_owned(), 1.0),
        ("berth_gateway_config_reloads_total{result=\"ok\"}".to_owned(), 1.0),
    ];
    let scrape = || async move {
        let answer = Client::connect(admin).await.get("/metrics", "a").await;
        assert_eq!((answer.status, &*answer.headers["content-type"]), (200, "text/plain; version=0.0.4; charset=utf-8"));
        answer.text().to_owned()
    };
    // The last connections may be noted a moment after their clients have heard of it.
    let settled = format!("berth_gateway_connections_open{{{listener}}} 1");
    let text = within(async {
        loop {
            let text = scrape().await;
            if text.lines().any(|line| line == settled) && text.contains("reason=\"closed\"} 1") {
                return text;
            }
        }
    })
    .await;
    for (series, expected) in expected {
        assert_eq!(value(&text, &series), expected, "{series} in\n{text}");
    }
    assert!(value(&text, &format!("berth_gateway_response_body_bytes_total{{{binding}}}")) > 3000.0, "{text}");
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
}

#[tokio::test]
async fn health_tells_alive_from_ready() {
    let site = Site::new(|request: Request<Incoming>| async {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        echo(request).await
    });
    let (port, admin) = (free_port(), free_port());
    let mut gateway = site.start(&format!("{}[metrics]\nlisten = \"127.0.0.1:{admin}\"\n", plain_binding(port))).await;
    let ask = |path: &'static str| async move {
        let answer = Client::connect(admin).await.get(path, "a").await;
        (answer.status, answer.text().to_owned())
    };
    assert_eq!(ask("/healthz").await, (200, r#"{"status":"ok"}"#.to_owned()));
    assert_eq!(ask("/readyz").await, (200, r#"{"status":"ready"}"#.to_owned()));
    for path in ["/", "/v2/", "/metrics/", "//metrics"] {
        assert_eq!(ask(path).await.0, 404, "{path}");
    }
    let answer = Client::connect(admin).await.ask("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((answer.status, &*answer.headers["allow"]), (405, "GET, HEAD"));

    let mut client = Client::connect(port).await;
    client.send("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    gateway.terminate();
    within(async { while ask("/readyz").await.0 != 503 {} }).await;
    assert_eq!(ask("/readyz").await, (503, r#"{"status":"draining"}"#.to_owned()));
    assert_eq!(ask("/healthz").await.0, 200);
    assert_eq!(client.answer().await.status, 200);
    assert!(gateway.end().await.success());
}

#[tokio::test]
async fn one_id_joins_the_backend_and_the_answer_and_a_client_cannot_choose_it() {
    let site = Site::new(echo);
    let (_gateway, port) = site.start_plain().await;
    let answer = Client::connect(port).await.ask("GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nX-Request-Id: mine2\r\n\r\n").await;
    let id = answer.headers["x-request-id"].as_str();
    assert_eq!(answer.seen("x-request-id"), Some(id));
    assert!(!answer.text().contains("mine") && id.len() == 32, "{}", answer.text());
}
