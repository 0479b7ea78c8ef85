use std::time::{Duration, SystemTime};

use http::Method;

use super::*;

fn sample(status: u16) -> Sample<'static> {
    Sample {
        api: Api::V2,
        method: &Method::GET,
        status,
        bytes_in: 3,
        bytes_out: 500,
        first_byte: Some(Duration::from_millis(2)),
        total: Duration::from_millis(70),
    }
}

fn address() -> SocketAddr {
    "0.0.0.0:443".parse().unwrap()
}

/// The lines of one family, without its head.
fn lines(text: &str, name: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
}

#[test]
fn requests_are_counted_by_what_they_were() {
    let metrics = Arc::new(Metrics::default());
    let binding = metrics.binding(&format!("{}/a.example", address()));
    let under_way = binding.begin();
    binding.record(&sample(200));
    binding.record(&sample(200));
    binding.record(&Sample { api: Api::V1, method: &"BREW".parse().unwrap(), first_byte: None, ..sample(218) });
    let text = metrics.encode().unwrap();
    assert_eq!(
        lines(&text, "berth_gateway_requests_"),
        [
            r#"berth_gateway_requests_total{binding="0.0.0.0:443/a.example",api="v1",method="other",status="other"} 1"#,
            r#"berth_gateway_requests_total{binding="0.0.0.0:443/a.example",api="v2",method="GET",status="200"} 2"#,
            r#"berth_gateway_requests_in_flight{binding="0.0.0.0:443/a.example"} 1"#,
        ]
    );
    assert_eq!(
        lines(&text, "berth_gateway_request_body"),
        [r#"berth_gateway_request_body_bytes_total{binding="0.0.0.0:443/a.example"} 9"#]
    );
    for line in [
        r#"berth_gateway_first_byte_seconds_bucket{binding="0.0.0.0:443/a.example",api="v2",le="0.001"} 0"#,
        r#"berth_gateway_first_byte_seconds_bucket{binding="0.0.0.0:443/a.example",api="v2",le="0.003"} 2"#,
        r#"berth_gateway_request_duration_seconds_bucket{binding="0.0.0.0:443/a.example",api="v2",le="0.1"} 2"#,
        r#"berth_gateway_request_duration_seconds_bucket{binding="0.0.0.0:443/a.example",api="v2",le="+Inf"} 2"#,
        r#"berth_gateway_request_duration_seconds_count{binding="0.0.0.0:443/a.example",api="v1"} 1"#,
        r#"berth_gateway_first_byte_seconds_count{binding="0.0.0.0:443/a.example",api="v1"} 0"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    drop(under_way);
    assert_eq!(binding.in_flight(), 0);
}

#[test]
fn what_is_in_both_configurations_goes_on_counting_and_the_rest_is_forgotten() {
    let metrics = Arc::new(Metrics::default());
    let (kept, removed) = (metrics.binding("kept"), metrics.binding("removed"));
    kept.record(&sample(200));
    removed.record(&sample(200));
    let applied = metrics.binding("kept");
    drop((kept, removed));
    metrics.reloaded(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    metrics.reload_failed();
    let text = metrics.encode().unwrap();
    assert_eq!(lines(&text, "berth_gateway_requests_total").len(), 1);
    assert!(!text.contains("removed"), "{text}");
    assert!(Arc::ptr_eq(&applied, &metrics.binding("kept")));
    assert_eq!(
        lines(&text, "berth_gateway_config"),
        [
            r#"berth_gateway_config_reloads_total{result="ok"} 1"#,
            r#"berth_gateway_config_reloads_total{result="failed"} 1"#,
            "berth_gateway_config_last_reload_success_timestamp_seconds 1700000000",
        ]
    );
}

#[test]
fn listeners_refusals_backends_and_certificates_are_there() {
    let metrics = Arc::new(Metrics::default());
    let listener = metrics.listener(address());
    let open = listener.opened();
    drop(listener.opened());
    listener.handshake_failed(HandshakeFailure::Untrusted);
    metrics.refused(Refusal::UnknownHost);
    metrics.limit("requests_per_second").increment();
    metrics.set_upstreams(|| vec![UpstreamState { server: "10.0.0.5:8081".into(), is_up: true, in_flight: 4, failures: 2 }]);
    metrics.set_certificates(|| {
        vec![CertificateExpiry { binding: "0.0.0.0:443".into(), server_name: "say \"hi\"".into(), not_after_s: 1_900_000_000 }]
    });
    let text = metrics.encode().unwrap();
    for line in [
        r#"berth_gateway_connections_open{listener="0.0.0.0:443"} 1"#,
        r#"berth_gateway_connections_total{listener="0.0.0.0:443"} 2"#,
        r#"berth_gateway_handshake_failures_total{listener="0.0.0.0:443",reason="untrusted"} 1"#,
        r#"berth_gateway_refusals_total{reason="unknown_host"} 1"#,
        r#"berth_gateway_limit_refusals_total{reason="requests_per_second"} 1"#,
        r#"berth_gateway_upstream_up{server="10.0.0.5:8081"} 1"#,
        r#"berth_gateway_upstream_requests_in_flight{server="10.0.0.5:8081"} 4"#,
        r#"berth_gateway_upstream_failures_total{server="10.0.0.5:8081"} 2"#,
        r#"berth_gateway_certificate_expiry_timestamp_seconds{binding="0.0.0.0:443",server_name="say \"hi\""} 1900000000"#,
        "berth_gateway_access_log_dropped_total 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    drop(open);
    assert!(Arc::ptr_eq(&listener.any_host, &metrics.binding("0.0.0.0:443")));
}

/// Every name has one head, right before its lines, and every line ends in a number: what a scraper insists on.
#[test]
fn the_text_is_well_formed() {
    let metrics = Arc::new(Metrics::default());
    let listener = metrics.listener(address());
    listener.any_host.record(&sample(404));
    let text = metrics.encode().unwrap();
    let mut heads = std::collections::HashSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            current = head.split(' ').next().unwrap();
            assert!(heads.insert(current), "{current} stands there twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(current), "{line} under {current}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(heads.contains("process_resident_memory_bytes") && heads.contains("process_cpu_seconds_total"), "{heads:?}");
}
