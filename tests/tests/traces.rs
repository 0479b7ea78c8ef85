//! Traces that begin in the gateway and go on in the backend, as a collector sees them.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::collector::{Collector, Seen, SpanKind};
use e2e::registry::{PASSWORD, free_port};
use e2e::{Body, Client, Registry};

const GATEWAY: &str = "berth-gateway";
const BACKEND: &str = "berth-backend";

/// What a client or a proxy in front says: a trace of its own, which is to be recorded.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn claims(flags: &str) -> [(String, String); 3] {
    [("traceparent", format!("00-{TRACE}-{PARENT}-{flags}")), ("tracestate", "vendor=1".to_owned()), ("baggage", "who=me".to_owned())]
        .map(|(name, value)| (name.to_owned(), value))
}

fn claiming(client: Client, flags: &str) -> Client {
    claims(flags).iter().fold(client, |client, (name, value)| client.with(name, value))
}

/// The three spans of the last request of this name: the gateway's, its attempt's, and the backend's.
fn chain(collector: &Collector, name: &str) -> [Seen; 3] {
    let inner = collector.wait_for(BACKEND, SpanKind::Server, name, |_| true);
    let attempt = collector.wait_for(GATEWAY, SpanKind::Client, name, |attempt| inner.is_child_of(attempt));
    let outer = collector.wait_for(GATEWAY, SpanKind::Server, name, |outer| attempt.is_child_of(outer));
    [outer, attempt, inner]
}

/// A registry whose services both send their traces to this collector.
fn traced(collector: &Collector) -> Registry {
    let registry = Registry::start_with(&collector.table());
    registry.add_to_gateway(&collector.table());
    registry
}

#[test]
fn a_push_and_a_pull_are_traces_through_both_services() {
    let collector = Collector::start();
    let registry = traced(&collector);
    let client = claiming(registry.client(registry.first), "01");
    let layer = vec![7; 300_000];
    let digest = client.push_blob("team/app", &layer).unwrap();
    let pulled = client.get(&format!("/v2/team/app/blobs/{digest}?token=s3cret"));
    let request_id = pulled.header("X-Request-Id").unwrap().to_owned();
    assert_eq!(pulled.bytes(), layer);

    for (name, path, status) in [
        ("POST v2 upload", "/v2/team/app/blobs/uploads/", "202"),
        ("PATCH v2 upload", "/v2/team/app/blobs/uploads/", "202"),
        ("PUT v2 upload", "/v2/team/app/blobs/uploads/", "201"),
        ("GET v2 blob", "/v2/team/app/blobs/sha256:", "200"),
    ] {
        let [outer, attempt, inner] = chain(&collector, name);
        // The client's own trace is not believed.
        assert!(outer.is_root() && outer.span.trace_state.is_empty(), "{outer:?}");
        for span in [&outer, &attempt, &inner] {
            assert_eq!(span.says("http.request.method").as_deref(), name.split(' ').next(), "{span:?}");
            assert_eq!(span.says("http.response.status_code").as_deref(), Some(status), "{span:?}");
            assert!(!span.has_failed() && span.span.start_time_unix_nano <= span.span.end_time_unix_nano, "{span:?}");
        }
        assert!(outer.says("url.path").is_some_and(|seen| seen.starts_with(path)), "{outer:?}");
        assert!(inner.says("url.path").is_some_and(|seen| seen.starts_with(&format!("/artifactory/api/docker/first{path}"))), "{inner:?}");
    }
    let [outer, attempt, inner] = chain(&collector, "GET v2 blob");
    for (name, value) in [
        ("server.address", "localhost"),
        ("server.port", &registry.first.to_string()),
        ("client.address", "127.0.0.1"),
        ("berth.binding", &format!("127.0.0.1:{}", registry.first)),
        ("berth.repository", "first"),
        ("berth.request_id", &request_id),
        ("http.response.body.size", "300000"),
    ] {
        assert_eq!(outer.says(name).as_deref(), Some(value), "{outer:?}");
    }
    assert_eq!(attempt.says("server.address").as_deref(), Some("b.sock"));
    for (name, value) in [("client.address", "127.0.0.1"), ("berth.repository", "first"), ("berth.request_id", &request_id)] {
        assert_eq!(inner.says(name).as_deref(), Some(value), "{inner:?}");
    }
    // Whoever looks whether the backend is well is no client, and nothing that may be a secret goes out.
    let all = format!("{:?}", collector.spans());
    assert!(!all.contains("s3cret") && !all.contains(PASSWORD) && !all.contains("healthz") && !all.contains("who=me"), "{all}");
    assert!(!all.contains("Authorization") && !all.contains("vendor=1"), "{all}");
}

#[test]
fn a_trusted_proxys_trace_goes_on_and_its_decision_not_to_trace_is_kept() {
    let collector = Collector::start();
    let registry = Registry::start_with(&collector.table());
    let port = free_port();
    let configuration = format!(
        "trusted_proxies = [\"127.0.0.0/8\"]\n[upstream]\nunix = \"b.sock\"\n{}\
         [[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"first\"\nplain_http = true\n",
        collector.table()
    );
    fs::write(registry.path("trusting.toml"), configuration).unwrap();
    let _gateway = registry.start_gateway("trusting.toml");
    let client = Client::plain(port).with_basic("admin", PASSWORD);
    assert_eq!(claiming(client.clone(), "00").get("/v2/_catalog").status, 200);
    assert_eq!(claiming(client.clone(), "01").get("/v2/").status, 200);
    let [outer, attempt, inner] = chain(&collector, "GET v2 base");
    assert_eq!((e2e::hex(&outer.span.trace_id), e2e::hex(&outer.span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    for span in [outer, attempt, inner] {
        assert_eq!(span.span.trace_state, "vendor=1");
    }
    // A proxy that says nothing, or nothing that can be read, begins no trace: the gateway does.
    assert_eq!(client.with("traceparent", "00-0-0-01").get("/v2/a/tags/list").status, 404);
    assert!(chain(&collector, "GET v2 tags")[0].is_root());
    assert!(!collector.spans().iter().any(|seen| seen.span.name == "GET v2 catalog"));
}

/// The value of one of the gateway's counters.
fn counter(port: u16, name: &str) -> u64 {
    let text = Client::plain(port).get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_else(|| panic!("{name} in {text}"));
    line.parse().unwrap()
}

/// Waits until the counter has reached this.
fn wait_for_counter(port: u16, name: &str, value: u64) {
    let begun = Instant::now();
    while counter(port, name) < value {
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} stays at {}", counter(port, name));
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn without_a_collector_requests_go_on_and_what_is_lost_is_counted() {
    let registry = Registry::start();
    let (port, metrics, collector) = (free_port(), free_port(), free_port());
    let configuration = format!(
        "[upstream]\nunix = \"b.sock\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n[traces]\notlp = \"http://127.0.0.1:{collector}\"\n\
         [[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"first\"\nplain_http = true\n"
    );
    fs::write(registry.path("lost.toml"), configuration).unwrap();
    let _gateway = registry.start_gateway("lost.toml");
    let client = Client::plain(port).with_basic("admin", PASSWORD);
    let lost = "berth_gateway_trace_spans_dropped_total";
    assert_eq!(counter(metrics, lost), 0);
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.get("/v2/").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "requests wait: {:?}", begun.elapsed());
    // Two spans of each.
    wait_for_counter(metrics, lost, 40);
    let collector = Collector::start_on(collector);
    assert_eq!(client.get("/v2/a/tags/list").status, 404);
    collector.wait_for(GATEWAY, SpanKind::Client, "GET v2 tags", |_| true);
    collector.wait_for(GATEWAY, SpanKind::Server, "GET v2 tags", |outer| outer.is_root());
    assert_eq!(counter(metrics, lost), 40);
    let log = fs::read_to_string(registry.path("berth-gateway.log")).unwrap();
    let said = |text: &str| log.matches(text).count();
    assert_eq!((said("traces cannot be sent"), said("traces are sent again")), (1, 1), "{log}");
}

#[test]
fn a_reload_switches_traces_off_and_on_and_the_end_sends_what_is_left() {
    let collector = Collector::start();
    let mut registry = Registry::start_with(&collector.table());
    let client = registry.client(registry.first);
    let without = fs::read_to_string(registry.path("gateway.toml")).unwrap();
    // Without traces of its own the gateway lets no client say what the backend's are part of.
    assert_eq!(claiming(client.clone(), "01").get("/v2/").status, 200);
    assert!(collector.wait_for(BACKEND, SpanKind::Server, "GET v2 base", |_| true).is_root());

    registry.add_to_gateway(&collector.table());
    assert_eq!(client.get("/v2/_catalog").status, 200);
    chain(&collector, "GET v2 catalog");

    registry.set_gateway(&without);
    assert_eq!(client.get("/v2/a/tags/list").status, 404);
    assert!(collector.wait_for(BACKEND, SpanKind::Server, "GET v2 tags", |_| true).is_root());

    registry.add_to_gateway(&collector.table());
    assert_eq!(client.get("/v2/a/manifests/1").status, 404);
    // Before their turn comes, which is after a second.
    registry.stop();
    chain(&collector, "GET v2 manifest");
    assert!(!collector.spans().iter().any(|seen| seen.service == GATEWAY && seen.span.name == "GET v2 tags"));
}

#[test]
fn what_fails_says_why() {
    let collector = Collector::start();
    let mut registry = traced(&collector);
    let client = registry.client(registry.first);
    assert_eq!(client.send_raw(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 404);
    let refused = collector.wait_for(GATEWAY, SpanKind::Server, "GET other", |_| true);
    assert_eq!((refused.says("berth.refusal").as_deref(), refused.has_failed()), (Some("not_found"), false), "{refused:?}");
    // Too few names to be one per client.
    assert_eq!(client.send("BREW", "/v2/", &[], Body::None).status, 405);
    let brewed = collector.wait_for(GATEWAY, SpanKind::Server, "HTTP v2 base", |_| true);
    assert_eq!(brewed.says("http.request.method").as_deref(), Some("_OTHER"));

    registry.kill_backend();
    assert_eq!(client.get("/v2/a/tags/list").status, 502);
    let outer = collector.wait_for(GATEWAY, SpanKind::Server, "GET v2 tags", |_| true);
    let attempt = collector.wait_for(GATEWAY, SpanKind::Client, "GET v2 tags", |attempt| attempt.is_child_of(&outer));
    assert!(outer.has_failed() && attempt.has_failed(), "{outer:?} {attempt:?}");
    assert_eq!(outer.says("http.response.status_code").as_deref(), Some("502"));
    assert_eq!(outer.says("error.type").as_deref(), Some("backend_unreachable"));
    assert_eq!((attempt.says("error.type").as_deref(), attempt.says("http.response.status_code")), (Some("ConnectError"), None));
}
