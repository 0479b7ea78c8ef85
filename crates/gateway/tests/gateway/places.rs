//! Clients that hold what others need.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::support::{Body, Client, Gateway, Site, echo, free_port, full, plain_binding, take, within};

const GET: &str = "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";

/// A place table, in front of a plain binding.
async fn start(site: &Site, port: u16, places: &str) -> Gateway {
    site.start(&format!("[places]\n{places}\n{}", plain_binding(port))).await
}

/// Whether the other side has closed it.
async fn has_ended(client: Client<TcpStream>) -> bool {
    timeout(Duration::from_millis(500), client.rest()).await.is_ok()
}

#[tokio::test]
async fn idle_connections_and_half_heads_give_way_to_newcomers_oldest_first() {
    let site = Site::new(echo);
    let port = free_port();
    let _gateway = start(&site, port, "connections = 64").await;
    let mut held = Vec::new();
    for number in 0..80 {
        let mut client = Client::connect(port).await;
        if number % 2 == 0 {
            assert_eq!(client.ask(GET).await.status, 200);
        } else {
            client.send("GET /v2/ HTTP/1.1\r\nHos").await;
        }
        held.push(client);
    }
    // From the same address and from another one.
    let (mut same, mut other) = (Client::connect(port).await, Client::connect_from(2, port).await);
    assert_eq!((same.ask(GET).await.status, other.ask(GET).await.status), (200, 200));
    let last = held.pop().unwrap();
    assert!(has_ended(held.swap_remove(0)).await, "the oldest");
    assert!(!has_ended(last).await, "the newest");
    // Whoever holds least is left alone, however long it has been idle.
    for _ in 0..80 {
        held.push(Client::connect(port).await);
    }
    assert_eq!(Client::connect_from(3, port).await.ask(GET).await.status, 200);
    assert_eq!(other.ask(GET).await.status, 200);
}

#[tokio::test]
async fn idle_connections_in_tls_and_handshakes_that_never_come_give_way_too() {
    let site = Site::new(echo);
    let authority = site.certificate("a.example");
    let port = free_port();
    let binding = format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"r\"\ncertificate = \"a.example.pem\"\nkey = \"a.example.key\"\n"
    );
    let _gateway = site.start(&format!("[places]\nconnections = 64\n{binding}")).await;
    let mut idle = Client::connect_tls(port, "a.example", &authority).await.unwrap();
    assert_eq!(idle.get("/v2/", "a.example").await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Client::connect(port).await);
    }
    let mut newcomer = Client::connect_tls(port, "a.example", &authority).await.unwrap();
    assert_eq!(newcomer.get("/v2/", "a.example").await.status, 200);
}

/// A backend that answers `/v2/held` only when told, after it has read what it is sent.
fn holding(told: &Arc<Semaphore>) -> Site {
    let told = Arc::clone(told);
    Site::new(move |request: Request<Incoming>| {
        let told = Arc::clone(&told);
        async move {
            if request.uri().path().ends_with("/held") {
                let _told = told.acquire().await;
            }
            take(request).await
        }
    })
}

#[tokio::test]
async fn one_client_has_so_many_requests_under_way_and_others_are_served() {
    let told = Arc::new(Semaphore::new(0));
    let site = holding(&told);
    let port = free_port();
    let _gateway = start(&site, port, "connections = 64\nrequests_per_client = 3\nconnections_per_client = 5").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(port).await;
        client.send("GET /v2/held HTTP/1.1\r\nHost: a\r\n\r\n").await;
        held.push(client);
    }
    sleep(Duration::from_millis(200)).await;
    let mut client = Client::connect(port).await;
    let refused = client.ask(GET).await;
    assert_eq!((refused.status, refused.headers["retry-after"].as_str(), refused.text().contains("TOOMANYREQUESTS")), (429, "1", true));
    assert_eq!(Client::connect_from(2, port).await.ask(GET).await.status, 200);
    told.add_permits(10);
    for client in &mut held {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(client.ask(GET).await.status, 200);
}

#[tokio::test]
async fn a_client_with_all_its_connections_in_use_gets_no_more_and_others_do() {
    let told = Arc::new(Semaphore::new(0));
    let site = holding(&told);
    let port = free_port();
    let _gateway = start(&site, port, "connections = 64\nconnections_per_client = 3").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(port).await;
        client.send("GET /v2/held HTTP/1.1\r\nHost: a\r\n\r\n").await;
        held.push(client);
    }
    sleep(Duration::from_millis(200)).await;
    assert!(has_ended(Client::connect(port).await).await);
    assert_eq!(Client::connect_from(2, port).await.ask(GET).await.status, 200);
    told.add_permits(10);
    assert_eq!(held[0].answer().await.status, 200);
    // It is idle now, and gives way to a newcomer of the same client.
    assert_eq!(Client::connect(port).await.ask(GET).await.status, 200);
}

#[tokio::test]
async fn whom_a_trusted_proxy_names_is_counted_and_not_the_proxy() {
    let told = Arc::new(Semaphore::new(0));
    let site = holding(&told);
    let port = free_port();
    let path = site.configuration(&format!(
        "[places]\nconnections = 64\nrequests_per_client = 2\nconnections_per_client = 2\nbodies_per_client = 1\n{}",
        plain_binding(port)
    ));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("trusted_proxies = [\"127.0.0.0/8\"]\n{text}")).unwrap();
    let _gateway = Gateway::start(&path).await;
    let head = |client: &str| format!("GET /v2/held HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n");
    let mut held = Vec::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
        let mut connection = Client::connect(port).await;
        connection.send(head(client)).await;
        held.push(connection);
    }
    sleep(Duration::from_millis(200)).await;
    for (client, status) in [("192.0.2.1", 429), ("2001:db8::3", 429)] {
        assert_eq!(Client::connect(port).await.ask(head(client)).await.status, status, "{client}");
    }
    told.add_permits(10);
    assert_eq!(Client::connect(port).await.ask(head("192.0.2.3")).await.status, 200);
    for connection in &mut held {
        assert_eq!(connection.answer().await.status, 200);
    }
}

/// What a client that sends nothing but the beginning of a small body hears, and after how long.
async fn stalled(port: u16, head: &str) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    let mut client = Client::connect(port).await;
    client.send(head).await;
    let trickle = async {
        loop {
            sleep(Duration::from_secs(4)).await;
            if client.try_send("a").await.is_err() {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(13), trickle).await;
    (within(client.rest()).await, began.elapsed())
}

#[tokio::test]
async fn small_bodies_come_soon_and_few_at_a_time_and_layers_take_as_long_as_they_like() {
    let site = Site::new(take);
    let port = free_port();
    let _gateway = start(&site, port, "connections = 64\nbodies_per_client = 4").await;
    let token = "POST /v2/token HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\na";
    let manifest = "PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    let layer = async {
        let mut client = Client::connect_from(2, port).await;
        client.send("PATCH /v2/app/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n").await;
        for byte in *b"slow" {
            sleep(Duration::from_secs(4)).await;
            client.send([byte]).await;
        }
        client.answer().await.status
    };
    let crowd = async {
        sleep(Duration::from_secs(1)).await;
        let mut others = [Client::connect(port).await, Client::connect(port).await];
        for client in &mut others {
            client.send(token).await;
        }
        sleep(Duration::from_millis(300)).await;
        let mut client = Client::connect(port).await;
        client.send(token).await;
        let refused = client.answer().await.status;
        // What needs no body is served, and so is everybody else.
        let own = Client::connect(port).await.ask(GET).await.status;
        let mut other = Client::connect_from(3, port).await;
        other.send("POST /v2/token HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na").await;
        (refused, own, other.answer().await.status)
    };
    let (token_heard, manifest_heard, layer, crowd) = tokio::join!(stalled(port, token), stalled(port, manifest), layer, crowd);
    assert_eq!(crowd, (429, 200, 200));
    assert_eq!(layer, 200);
    for (heard, waited) in [token_heard, manifest_heard] {
        assert!(heard.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&heard));
        assert!((Duration::from_secs(14)..Duration::from_secs(19)).contains(&waited), "{waited:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_refused_early_counts_no_longer_while_the_rest_of_its_body_is_awaited() {
    // Answers without a look at the body, as the backend does to whoever may not push.
    let refuse = |request: Request<Incoming>| async move {
        drop(request.into_body().frame());
        let answer: Response<Body> = Response::builder().status(401).header("connection", "close").body(full("")).unwrap();
        answer
    };
    let site = Site::new(refuse);
    let port = free_port();
    let _gateway = start(&site, port, "connections = 64\nbodies_per_client = 1").await;
    let mut lingering = Vec::new();
    for _ in 0..6 {
        let mut client = Client::connect(port).await;
        client.send("PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\na").await;
        assert_eq!(client.answer().await.status, 401);
        lingering.push(client);
    }
}
