//! Places: what one client may hold, and what is left for others.

use std::time::Duration;

use tokio::time::timeout;

use super::*;

/// Small bounds, so that few connections are needed to reach them.
const BOUNDS: &str = "[places]\nconnections = 64\nrequests_per_client = 20\nrequests_of_strangers = 30\nbodies_per_client = 10\n";

async fn start() -> Backend {
    let mut backend = Backend { directory: tempfile::tempdir().unwrap(), config: format!("{CONFIG}{BOUNDS}"), stop: None, task: None };
    backend.open().await;
    backend
}

/// A request for a token whose form never comes, from a client that the gateway names.
async fn pending(backend: &Backend, client: &str) -> UnixStream {
    let mut stream = UnixStream::connect(backend.socket()).await.unwrap();
    let head = format!(
        "POST /artifactory/api/docker/docker-open/v2/token HTTP/1.1\r\nHost: r.example\r\nX-Forwarded-For: {client}\r\nContent-Length: 60000\r\n\r\na"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// What has come as an answer soon, if anything.
async fn status(stream: &mut UnixStream) -> Option<u16> {
    let mut head = [0; 12];
    timeout(Duration::from_millis(100), stream.read_exact(&mut head)).await.ok()?.unwrap();
    Some(std::str::from_utf8(&head[9..]).unwrap().parse().unwrap())
}

async fn statuses(streams: &mut [UnixStream]) -> Vec<Option<u16>> {
    let mut seen = Vec::new();
    for stream in streams {
        seen.push(status(stream).await);
    }
    seen
}

async fn ping(backend: &Backend, client: &str, authorization: &str) -> u16 {
    let headers = [("X-Forwarded-For", client), ("Authorization", authorization)];
    backend.send("GET", "@docker-open/v2/", &headers, b"").await.status
}

const ADMIN: &str = "Basic YWRtaW46Y29ycmVjdCBob3JzZQ==";

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_never_come_hold_few_places_of_one_client_and_none_of_others() {
    let backend = start().await;
    let mut forms = Vec::new();
    for _ in 0..12 {
        forms.push(pending(&backend, "192.0.2.1").await);
    }
    let seen = statuses(&mut forms).await;
    assert_eq!(seen.iter().filter(|status| **status == Some(429)).count(), 2, "{seen:?}");
    assert_eq!(seen.iter().filter(|status| status.is_none()).count(), 10, "{seen:?}");
    // The client itself may ask for what needs no form, and everybody else for anything.
    assert_eq!(ping(&backend, "192.0.2.1", ADMIN).await, 200);
    assert_eq!(ping(&backend, "192.0.2.2", ADMIN).await, 200);
    assert_eq!(status(&mut pending(&backend, "192.0.2.2").await).await, None);
    // An IPv6 client is its network.
    let mut of_network = Vec::new();
    for host in 0..11 {
        of_network.push(pending(&backend, &format!("2001:db8::{host}")).await);
    }
    assert_eq!(statuses(&mut of_network).await.iter().filter(|status| **status == Some(429)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_logged_in_is_served_while_strangers_hold_all_that_they_may() {
    let backend = start().await;
    let mut forms = Vec::new();
    for client in 1..=3 {
        for _ in 0..10 {
            forms.push(pending(&backend, &format!("192.0.2.{client}")).await);
        }
    }
    assert!(statuses(&mut forms).await.iter().all(Option::is_none));
    assert_eq!(ping(&backend, "192.0.2.9", "").await, 503);
    assert_eq!(ping(&backend, "192.0.2.9", ADMIN).await, 200);
    assert_eq!(backend.rest("GET", "security/users", serde_json::Value::Null).await.status, 200);
    drop(forms);
    for _ in 0..100 {
        if ping(&backend, "192.0.2.9", "").await != 503 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("places are not given back");
}
