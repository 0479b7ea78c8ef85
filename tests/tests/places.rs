//! One stranger, and a backend that hangs, against everybody else; with the bounds that both services have by default.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::client::Conversation;
use e2e::{Client, Registry};

/// More forms than one client may have on their way.
const FORMS: usize = 700;

#[test]
fn forms_that_never_come_keep_nobody_waiting_and_end_within_seconds() {
    let registry = Registry::start();
    let stranger = Client::tls(registry.first, &registry.ca());
    let admin = registry.client(registry.first);
    let mut forms: Vec<Conversation> = (0..FORMS)
        .map(|_| {
            let mut form = stranger.open();
            form.say(b"POST /v2/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\na");
            form
        })
        .collect();
    let began = Instant::now();
    // The same address, the backend's own, and the operator.
    assert_eq!(admin.get("/v2/").status, 200);
    assert_eq!(Client::plain(registry.direct).get("/healthz").status, 200);
    assert!(registry.operate(&["user", "list"]).unwrap().contains("admin"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    sleep(Duration::from_secs(18).saturating_sub(began.elapsed()));
    let mut heard = [0, 0];
    for form in &mut forms {
        form.listen(Duration::from_millis(200), |received| received.len() > 12);
        match form.received.get(9..12) {
            Some(b"408") => heard[0] += 1,
            Some(b"429") => heard[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, [512, FORMS - 512]);
    drop(forms);
    assert_eq!(admin.get("/v2/").status, 200);
}

#[test]
fn a_stopped_backend_is_refused_for_at_once_and_used_again_when_it_goes_on() {
    let mut registry = Registry::start();
    let mut backend = registry.take_backend();
    let tell = |signal: &str| assert!(Command::new("kill").args([signal, &backend.id().to_string()]).status().unwrap().success());
    let client = registry.client(registry.first);
    assert_eq!(client.get("/v2/").status, 200);
    tell("-STOP");
    // Known after two of its health checks had no answer.
    sleep(Duration::from_secs(10));
    let began = Instant::now();
    let refused = client.get("/v2/");
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    tell("-CONT");
    let began = Instant::now();
    while client.get("/v2/").status != 200 {
        assert!(began.elapsed() < Duration::from_secs(10), "that it goes on is not noticed");
        sleep(Duration::from_millis(50));
    }
    backend.kill().unwrap();
    backend.wait().unwrap();
}
