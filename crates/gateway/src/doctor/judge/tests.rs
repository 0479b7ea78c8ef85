//! What can't be set up with a real server here.

use super::super::answer::Answer;
use super::super::client::{Exchange, Failure};
use super::super::observe::Observations;
use super::*;

/// The first probe is answered so, by whoever it is.
fn first(url: &str, answer: Result<Answer, Failure>) -> Observations {
    let url: super::super::Url = url.parse().unwrap();
    let exchange = Exchange { answer, ..Exchange::failed(Failure::Silence) };
    Observations {
        expected: url.origin,
        inner: false,
        certificate: None,
        tls12: None,
        http2: None,
        is_plain: false,
        base: exchange.clone(),
        v2: exchange.clone(),
        ping: exchange,
        limited: false,
        details: None,
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Answer { status, headers, body: body.into(), ..Answer::default() }
}

#[test]
fn whoever_answers_in_the_gateways_place_is_named() {
    let id = ("x-request-id", "0123456789abcdef0123456789abcdef");
    for (answer, fault, said) in [
        (answer(403, &[("server", "cloudflare"), ("cf-ray", "1")], ""), Fault::NotForwarded, "Cloudflare answered 403 itself"),
        (answer(502, &[("server", "awselb/2.0")], ""), Fault::NotForwarded, "awselb/2.0 answered 502 itself"),
        (
            answer(308, &[("server", "Caddy"), ("location", "https://a/v2/")], ""),
            Fault::Redirect,
            "Caddy redirects /v2 (308) to https://a/v2/",
        ),
        (answer(421, &[id], r#"{"errors":[]}"#), Fault::UnknownHost, "no binding for this host name"),
        (answer(404, &[id], r#"{"errors":[]}"#), Fault::NoProbe, "[doctor] is off"),
        (answer(502, &[id], r#"{"errors":[]}"#), Fault::NoProbe, "answers 502"),
        (answer(200, &[], "hello"), Fault::NotForwarded, "something that does not say what it is answered 200 itself"),
    ] {
        let verdicts = judge(&first("https://a", Ok(answer)));
        assert_eq!((verdicts.len(), verdicts[0].fault, verdicts[0].level), (1, Some(fault), Level::Wrong), "{verdicts:?}");
        assert!(verdicts[0].said.contains(said), "{verdicts:?}");
    }
}

#[test]
fn a_failure_is_told_from_another() {
    for (url, failure, fault) in [
        ("https://a", Failure::Connect("refused".into()), Fault::Unreachable),
        ("https://a", Failure::Tls("bad".into()), Fault::Unreachable),
        ("http://a", Failure::Malformed, Fault::HttpsOnly),
        ("https://a", Failure::Closed, Fault::NotForwarded),
        ("https://a", Failure::Silence, Fault::NotForwarded),
    ] {
        let verdicts = judge(&first(url, Err(failure)));
        assert_eq!(verdicts.iter().map(|verdict| verdict.fault).collect::<Vec<_>>(), [Some(fault)]);
    }
    let plain = Observations { is_plain: true, ..first("https://a", Err(Failure::Tls("bad".into()))) };
    assert_eq!(judge(&plain)[0].fault, Some(Fault::PlainHttp));
}

#[test]
fn clocks_are_compared_in_the_middle_of_the_exchange() {
    let begun = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let exchange = |took| Exchange { begun, took, ..Exchange::failed(Failure::Silence) };
    let report = |ahead_s: i64| Report {
        time_unix_ms: u64::try_from(1_000_000 + ahead_s).unwrap() * 1000,
        method: "GET".into(),
        target: "/v2/_berth/probe".into(),
        http: "1.1".into(),
        listener_scheme: "https".into(),
        listener_port: 443,
        origin: None,
        is_console: false,
        peer: "127.0.0.1:1".parse().unwrap(),
        client: "127.0.0.1".parse().unwrap(),
        headers: Default::default(),
        present: Vec::new(),
        body: crate::probe::Body {
            framing: crate::probe::Framing::None,
            announced_bytes: None,
            bytes: 0,
            sha256: String::new(),
            first_ms: None,
            last_ms: None,
            end: crate::probe::End::Whole,
        },
    };
    let second = Duration::from_secs(1);
    assert_eq!(judge_clock(&exchange(second), &report(29)), None);
    assert_eq!(judge_clock(&exchange(second), &report(-29)), None);
    let ahead = judge_clock(&exchange(second), &report(60)).unwrap();
    assert!(ahead.said.contains("59 s ahead of"), "{}", ahead.said);
    assert!(judge_clock(&exchange(second), &report(-60)).unwrap().said.contains("60 s behind"));
    // An answer that takes long tells little of the other clock.
    assert_eq!(judge_clock(&exchange(second * 100), &report(60)), None);
}
