use std::time::Duration;

use berth_names::ImageName;

use super::*;

fn facts() -> Facts<'static> {
    Facts {
        scheme: Scheme::Http,
        port: 5000,
        origin: None,
        is_console: false,
        peer: "10.0.0.2:4711".parse().unwrap(),
        client: "10.0.0.9".parse().unwrap(),
    }
}

fn nothing() -> Body {
    Body { framing: Framing::None, announced_bytes: None, bytes: 0, sha256: String::new(), first_ms: None, last_ms: None, end: End::Whole }
}

fn of(headers: &[(&'static str, &'static str)], target: &[u8]) -> Report {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    let now = UNIX_EPOCH + Duration::from_millis(1_234);
    report((&Method::PUT, Version::HTTP_10, &map), target, &facts(), nothing(), now)
}

#[test]
fn the_path_is_no_images() {
    for path in PATHS {
        let name = path.split_at("/v2/".len()).1;
        assert!(name.parse::<ImageName>().is_err(), "{name}");
        for end in ["", "/", "?", "?a", "/..//%2f"] {
            assert!(is_probe(format!("{path}{end}").as_bytes()), "{path}{end}");
        }
        for other in [format!("{path}x"), format!("/{path}"), path.replace("probe", "prob"), path.replace("/v", "/x")] {
            assert!(!is_probe(other.as_bytes()), "{other}");
        }
    }
}

#[test]
fn a_query_asks_for_one_thing_within_bounds() {
    for (query, ask) in [
        ("", Ask::Report),
        ("?", Ask::Report),
        ("?digest=sha256%3Aab", Ask::Report),
        ("?announce", Ask::Announce),
        ("?silence=65", Ask::Silence(65)),
        ("?silence=100000", Ask::Silence(SILENCE_S_MAX)),
        ("?silence=-1", Ask::Report),
        ("?bytes=10", Ask::Bytes { count: 10, json: false, halves: false }),
        ("?bytes=99999999999&json&halves", Ask::Bytes { count: DOWNLOAD_BYTES_MAX, json: true, halves: true }),
        ("?halves&bytes=1", Ask::Bytes { count: 1, json: false, halves: true }),
        ("?bytes=18446744073709551616", Ask::Report),
        ("?json", Ask::Report),
    ] {
        assert_eq!(Ask::of(format!("{}{query}", PATHS[0]).as_bytes()), ask, "{query}");
    }
    assert_eq!(Ask::of(b"\xff?\xff&announce"), Ask::Announce);
}

#[test]
fn a_secret_is_never_repeated() {
    let report = of(
        &[
            ("authorization", "Bearer S3CRET"),
            ("proxy-authorization", "Basic S3CRET"),
            ("cookie", "session=S3CRET"),
            ("x-docker-token", "S3CRET"),
            ("x-api-key", "S3CRET"),
            ("host", "r.example:444"),
        ],
        b"/v2/_berth/probe",
    );
    assert!(!serde_json::to_string(&report).unwrap().contains("S3CRET"));
    assert_eq!(report.present, ["authorization", "cookie", "proxy-authorization", "x-docker-token"]);
    assert!(report.has("authorization") && report.has("host") && !report.has("x-api-key"));
}

#[test]
fn a_report_says_what_arrived() {
    let report = of(
        &[("host", "r.example"), ("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "5.6.7.8"), ("via", "1.1 front")],
        b"/v2/_berth/probe/a//b?x=%2F",
    );
    assert_eq!((report.method.as_str(), report.http.as_str(), report.time_unix_ms), ("PUT", "1.0", 1_234));
    assert_eq!(report.target, "/v2/_berth/probe/a//b?x=%2F");
    assert_eq!(report.header("x-forwarded-for").unwrap(), "1.2.3.4, 5.6.7.8");
    assert_eq!((report.header("via").unwrap().as_str(), report.header("forwarded")), ("1.1 front", None));
    assert_eq!(serde_json::from_str::<Report>(&serde_json::to_string(&report).unwrap()).unwrap(), report);
}

#[test]
fn what_is_repeated_has_a_bound() {
    let long: &'static str = Box::leak("a".repeat(30_000).into_boxed_str());
    let headers: Vec<_> = (0..80).flat_map(|_| [("via", long), ("accept", long)]).collect();
    let report = of(&headers, format!("/v2/_berth/probe?{long}").as_bytes());
    assert!(serde_json::to_string(&report).unwrap().len() < 12 * VALUE_BYTES_MAX);
}

#[test]
fn noise_is_the_same_at_both_ends_whatever_the_pieces() {
    let (mut whole, mut halves) = (vec![0; 64], vec![0; 64]);
    Noise::default().fill(&mut whole);
    let mut noise = Noise::default();
    let (first, second) = halves.split_at_mut(32);
    noise.fill(first);
    noise.fill(second);
    assert_eq!(whole, halves);
}

#[test]
fn compressible_text_is_json() {
    for count in [2, 1024] {
        let text = compressible(count);
        assert_eq!(text.len(), count);
        serde_json::from_slice::<serde_json::Value>(&text).unwrap();
    }
    assert!(compressible(0).is_empty());
}
