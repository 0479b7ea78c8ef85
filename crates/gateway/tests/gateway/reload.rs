//! Changes of a running gateway: a configuration read again, and an upgrade of the program.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{Client, Site, echo, free_port, plain_binding, take, within};

async fn until(mut what: impl AsyncFnMut() -> bool) {
    within(async {
        while !what().await {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn listens(port: u16) -> bool {
    listens_at(&format!("127.0.0.1:{port}")).await
}

async fn listens_at(address: &str) -> bool {
    TcpStream::connect(address).await.is_ok()
}

#[tokio::test]
async fn a_changed_file_adds_and_removes_listeners_and_cuts_nothing() {
    let site = Site::new(echo);
    let (kept, removed, added) = (free_port(), free_port(), free_port());
    let _gateway = site.start(&(plain_binding(kept) + &plain_binding(removed))).await;
    let mut on_kept = Client::connect(kept).await;
    let mut on_removed = Client::connect(removed).await;
    for client in [&mut on_kept, &mut on_removed] {
        assert_eq!(client.get("/v2/", "a").await.status, 200);
    }

    // No signal: the file is watched.
    site.configuration(&(plain_binding(kept).replace("docker-local", "other") + &plain_binding(added)));
    until(async || listens(added).await).await;
    until(async || !listens(removed).await).await;
    // A connection that is kept open sees the change at its next request.
    let answer = on_kept.get("/v2/", "a").await;
    assert!(answer.text().starts_with("GET /artifactory/api/docker/other/v2/"), "{}", answer.text());
    // One of an address that is gone has ended.
    assert_eq!(on_removed.rest().await, b"");
}

#[tokio::test]
async fn an_invalid_file_changes_nothing() {
    let site = Site::new(echo);
    let (port, other) = (free_port(), free_port());
    let gateway = site.start(&plain_binding(port)).await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", other)).unwrap();
    for wrong in ["[[binding]]\nlisen = 1\n".to_owned(), plain_binding(other), String::new()] {
        site.configuration(&wrong);
        gateway.signal(Signal::HUP);
        sleep(Duration::from_millis(300)).await;
        let answer = Client::connect(port).await.get("/v2/", "a").await;
        assert_eq!(answer.status, 200, "{wrong}");
    }
    drop(taken);
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_leaves_everything_as_it_was() {
    let site = Site::new(echo);
    let (port, other, metrics) = (free_port(), free_port(), free_port());
    let gateway = site.start(&plain_binding(port)).await;
    // A file that could be made, as far as can be seen.
    std::os::unix::fs::symlink("no/such/directory/access.log", site.path("access.log")).unwrap();
    let more = format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n[access_log]\npath = \"access.log\"\n");
    let wrong = plain_binding(other) + &more;
    site.configuration(&wrong);
    gateway.signal(Signal::HUP);
    sleep(Duration::from_millis(500)).await;
    assert_eq!((listens(port).await, listens(other).await, listens(metrics).await), (true, false, false));
}

#[tokio::test]
async fn the_address_of_metrics_changes_with_the_configuration() {
    let site = Site::new(echo);
    let (port, first, second, taken) = (free_port(), free_port(), free_port(), free_port());
    let _taken = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let text = |metrics: &str| match metrics {
        "" => plain_binding(port),
        address => format!("{}[metrics]\nlisten = \"{address}\"\n", plain_binding(port)),
    };
    let gateway = site.start(&text("")).await;
    let change = |to: String| {
        site.configuration(&to);
        gateway.signal(Signal::HUP);
    };
    let answers = async |address: &str| listens_at(address).await && Client::at(address).await.get("/healthz", "a").await.status == 200;
    let (at_first, at_second) = (format!("127.0.0.1:{first}"), format!("127.0.0.1:{second}"));
    change(text(&at_first));
    until(async || answers(&at_first).await).await;
    change(text(&at_second));
    until(async || answers(&at_second).await && !listens(first).await).await;
    // The old address is in the new one's way.
    change(text(&format!("0.0.0.0:{second}")));
    until(async || answers(&format!("127.0.0.2:{second}")).await).await;
    // What can't be had, by itself or by another listener, leaves it where it is.
    for wrong in [text(&format!("127.0.0.1:{taken}")), text(&at_first) + &plain_binding(taken)] {
        change(wrong);
        sleep(Duration::from_millis(500)).await;
        assert!(answers(&format!("127.0.0.2:{second}")).await && !listens(first).await);
    }
    change(text(""));
    until(async || !listens(second).await).await;
}

#[tokio::test]
async fn after_an_upgrade_the_successor_alone_is_asked_for_metrics() {
    let site = Site::new(echo);
    let (port, metrics) = (free_port(), free_port());
    let gateway = site.start(&format!("{}[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n", plain_binding(port))).await;
    let started = async || {
        let answer = Client::connect(metrics).await.get("/metrics", "a").await;
        answer.text().lines().find(|line| line.starts_with("process_start_time_seconds ")).map(str::to_owned).unwrap()
    };
    let predecessor = started().await;
    // An idle connection, for whose sake it stays.
    let mut client = Client::connect(port).await;
    assert_eq!(client.get("/v2/", "a").await.status, 200);
    gateway.signal(Signal::USR2);
    until(async || started().await != predecessor).await;
    let mut in_a_row = 0;
    until(async || {
        in_a_row = if started().await == predecessor { 0 } else { in_a_row + 1 };
        in_a_row == 30
    })
    .await;
    assert_eq!(client.get("/v2/", "a").await.headers["connection"], "close");
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart() {
    let site = Site::new(echo);
    let old = site.certificate("a.example");
    let port = free_port();
    let binding = format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"r\"\ncertificate = \"a.example.pem\"\nkey = \"a.example.key\"\n"
    );
    let _gateway = site.start(&binding).await;
    let mut before = Client::connect_tls(port, "a.example", &old).await.unwrap();
    assert_eq!(before.get("/v2/", "a").await.status, 200);

    let made = tempfile::tempdir().unwrap();
    berth_gateway::cert::self_signed(made.path(), &["a.example".to_owned()], &[]).unwrap();
    let new = <CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_file(made.path().join("ca.pem")).unwrap();
    fs::copy(made.path().join("server.pem"), site.path("a.example.pem")).unwrap();
    fs::copy(made.path().join("server.key"), site.path("a.example.key")).unwrap();
    until(async || Client::connect_tls(port, "a.example", &new).await.is_ok()).await;
    assert_eq!(before.get("/v2/", "a").await.status, 200, "the connection goes on under the old one");
}

#[tokio::test]
async fn an_address_can_take_the_place_of_one_that_is_in_its_way() {
    let site = Site::new(echo);
    let port = free_port();
    let gateway = site.start(&plain_binding(port)).await;
    site.configuration(&plain_binding(port).replace("127.0.0.1", "0.0.0.0").replace("docker-local", "everywhere"));
    gateway.signal(Signal::HUP);
    until(async || {
        let Ok(stream) = TcpStream::connect(("127.0.0.2", port)).await else { return false };
        drop(stream);
        true
    })
    .await;
    let answer = Client::connect(port).await.get("/v2/", "a").await;
    assert!(answer.text().contains("/everywhere/"), "{}", answer.text());
}

/// Clients that push and pull over kept and new connections until they are told to stop. Every failure is one too many.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    /// As many clients on each port.
    fn start(ports: &[u16], clients: usize) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let (port, stop, done) = (ports[number % ports.len()], Arc::clone(&stop), Arc::clone(&done));
            tasks.spawn(async move {
                // A bound, should nobody say stop.
                for _ in 0..20_000 {
                    let mut client = Client::connect(port).await;
                    for _ in 0..5 {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let (pull, push) = (
                            "GET /v2/app/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n",
                            "PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd",
                        );
                        let answer = client.ask(if number % 2 == 0 { pull } else { push }).await;
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        done.fetch_add(1, Ordering::Relaxed);
                        if answer.headers.get("connection").is_some_and(|value| value == "close") {
                            break;
                        }
                        sleep(Duration::from_millis(2)).await;
                    }
                }
            });
        }
        Self { stop, done, clients: tasks }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops and gives back how many requests were answered.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        within(self.clients.join_all()).await;
        self.done.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_load_fail_no_request() {
    let site = Site::new(take);
    let (port, metrics) = (free_port(), free_port());
    let extra: Vec<_> = (0..4).map(|_| free_port()).collect();
    let text = |round: usize| {
        let bindings: String = extra.iter().skip(round % 4).map(|port| plain_binding(*port)).collect();
        format!("{}{bindings}[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n", plain_binding(port))
    };
    let gateway = site.start(&text(0)).await;
    let load = Load::start(&[port], 50);
    let reloads = async || {
        let answer = Client::connect(metrics).await.get("/metrics", "a").await;
        let line = answer
            .text()
            .lines()
            .find(|line| line.starts_with("berth_gateway_config_reloads_total") && line.contains("ok"))
            .map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().and_then(|count| count.parse::<usize>().ok())).unwrap_or(0)
    };
    let before = reloads().await;
    for round in 1..=200 {
        site.configuration(&text(round));
        gateway.signal(Signal::HUP);
        until(async || reloads().await >= before + round).await;
    }
    let done = load.end().await;
    assert!(done > 1000, "only {done} requests in 200 reloads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_load_refuses_no_connection_on_any_of_forty_ports() {
    let site = Site::new(take);
    let ports: Vec<_> = (0..40).map(|_| free_port()).collect();
    let bindings: String = ports.iter().map(|port| plain_binding(*port)).collect();
    let mut gateway = site.start(&bindings).await;
    let load = Load::start(&ports, 50);
    until(async || load.done() > 500).await;
    gateway.signal(Signal::USR2);
    // The predecessor ends by itself when its last connection has.
    assert!(gateway.end().await.success());
    let [successor] = gateway.successors()[..] else { panic!("one process serves") };
    let at_end = load.done();
    until(async || load.done() > at_end + 500).await;

    // And again: a successor is as good as its predecessor.
    kill_process(Pid::from_raw(successor).unwrap(), Signal::USR2).unwrap();
    until(async || matches!(gateway.successors()[..], [last] if last != successor)).await;
    let at_end = load.done();
    until(async || load.done() > at_end + 500).await;
    load.end().await;
}

#[tokio::test]
async fn refusals_do_not_keep_a_predecessor_alive() {
    let site = Site::new(echo);
    let (mut gateway, port) = site.start_plain().await;
    let mut client = Client::connect(port).await;
    assert_eq!(client.get("/nothing", "a").await.status, 404);
    gateway.signal(Signal::USR2);
    until(async || !gateway.successors().is_empty()).await;
    // The predecessor retires a moment after its successor can be seen; its client goes on asking for what is refused.
    let ask = async || within(client.get("/nothing", "a")).await.headers.get("connection").is_some_and(|value| value == "close");
    until(ask).await;
    assert!(gateway.end().await.success());
}

#[tokio::test]
async fn a_successor_that_cannot_start_leaves_everything_as_it_was() {
    let site = Site::new(echo);
    let port = free_port();
    let gateway = site.start(&plain_binding(port)).await;
    fs::write(site.path("gateway.toml"), "[upstream").unwrap();
    gateway.signal(Signal::USR2);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(Client::connect(port).await.get("/v2/", "a").await.status, 200);
}

#[tokio::test]
async fn a_thousand_listeners_start_and_are_reloaded_in_seconds() {
    let site = Site::new(echo);
    site.certificate("a.example");
    let base = 33_000 + (std::process::id() % 100) as u16 * 20;
    let binding = |port: u16, key: &str| {
        format!(
            "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nrepository = \"{key}\"\ncertificate = \"a.example.pem\"\nkey = \"a.example.key\"\n"
        )
    };
    // Ports that somebody holds are left out.
    let ports: Vec<_> = (base..).filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(1000).collect();
    let text = |key: &str| ports.iter().map(|port| binding(*port, key)).collect::<String>();
    let began = Instant::now();
    let gateway = site.start(&text("one")).await;
    let authority = <CertificateDer as rustls::pki_types::pem::PemObject>::from_pem_file(site.path("a.example").join("ca.pem")).unwrap();
    let ask = async |port: u16| {
        let mut client = Client::connect_tls(port, "a.example", &authority).await.unwrap();
        client.get("/v2/", "a.example").await.text().to_owned()
    };
    assert!(ask(ports[999]).await.contains("/one/"));
    site.configuration(&text("two"));
    gateway.signal(Signal::HUP);
    until(async || ask(ports[999]).await.contains("/two/")).await;
    assert!(ask(ports[0]).await.contains("/two/"));
    // No measurement: a hundred times what it takes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
