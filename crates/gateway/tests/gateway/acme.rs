//! Certificates from a real ACME server, and what happens when it, the network or the state directory fails.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use berth_gateway::acme::{self, Acme, Challenge, HTTP_PREFIX, Settings, Status};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pebble::{Options, Pebble};
use crate::support::{Body, Client, free_port, full, within};

/// Shows what [`Acme`] has, as a listener does.
#[derive(Debug)]
struct Resolver(Arc<Acme>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        if acme::is_validation(&hello) { self.0.challenge_certificate(name) } else { Some(self.0.certificate(name)) }
    }
}

/// A listener for TLS and one for plain HTTP, and the task that orders. Ends when dropped.
struct Front {
    acme: Arc<Acme>,
    stop: watch::Sender<bool>,
    ordering: JoinHandle<()>,
    listeners: Vec<JoinHandle<()>>,
}

impl Front {
    async fn start(settings: Settings, ports: &Options, names: &[&str]) -> Self {
        let acme = Acme::new(settings).unwrap();
        acme.set_names(names.iter().map(|name| name.parse().unwrap()).collect());
        let (stop, stopping) = watch::channel(false);
        let listeners = vec![listen_tls(Arc::clone(&acme), ports.tls_port).await, listen_http(Arc::clone(&acme), ports.http_port).await];
        let ordering = tokio::spawn(Arc::clone(&acme).run(stopping));
        Self { acme, stop, ordering, listeners }
    }

    /// Ends it in good order.
    async fn stop(mut self) {
        self.stop.send(true).unwrap();
        within(&mut self.ordering).await.unwrap();
    }

    fn stop_listening(&self) {
        self.listeners.iter().for_each(JoinHandle::abort);
    }

    async fn issued(&self, name: &str) -> SystemTime {
        self.eventually(|acme| acme.expiry(name)).await
    }

    async fn failed(&self) -> Status {
        self.eventually(|acme| acme.status().into_iter().find(|status| status.failures > 0)).await
    }

    async fn eventually<T>(&self, mut what: impl FnMut(&Acme) -> Option<T>) -> T {
        within(async {
            loop {
                if let Some(found) = what(&self.acme) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    fn shown(&self, name: &str) -> CertificateDer<'static> {
        self.acme.certificate(name).cert[0].clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop_listening();
        self.ordering.abort();
    }
}

/// A listener that was just ended may have the port for a moment yet.
async fn bind(port: u16) -> TcpListener {
    within(async {
        loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

async fn listen_tls(acme: Arc<Acme>, port: u16) -> JoinHandle<()> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(acme)));
    config.alpn_protocols = vec![b"http/1.1".to_vec(), acme::TLS_ALPN.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = bind(port).await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(acceptor.accept(tcp));
        }
    })
}

async fn listen_http(acme: Arc<Acme>, port: u16) -> JoinHandle<()> {
    let listener = bind(port).await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acme = Arc::clone(&acme);
            let answer = move |request: Request<Incoming>| {
                let text = request.uri().path().strip_prefix(HTTP_PREFIX).and_then(|token| acme.http_answer(token));
                let answer = text
                    .map_or_else(|| Response::builder().status(404).body(full("")).unwrap(), |text| Response::new(full(text.to_string())));
                async { Ok::<_, Infallible>(answer) }
            };
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service_fn(answer)));
        }
    })
}

fn settings(pebble: &Pebble, state: &Path, challenge: Challenge) -> Settings {
    Settings {
        directory: pebble.directory_url(),
        contact: Some("ops@company.example".to_owned()),
        state: state.to_owned(),
        root: Some(pebble.ca()),
        challenge,
    }
}

/// The files of the one server's state, by their names.
fn files(state: &Path) -> HashMap<String, PathBuf> {
    let server = fs::read_dir(state).unwrap().next().unwrap().unwrap().path();
    let file = |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), path);
    fs::read_dir(server).unwrap().map(|entry| file(entry.unwrap().path())).collect()
}

async fn connects(pebble: &Pebble, name: &str) -> bool {
    Client::connect_tls(pebble.options.tls_port, name, &pebble.issuing_root().await).await.is_ok()
}

fn state() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_certificate_is_issued_by_either_challenge() {
    for challenge in [Challenge::TlsAlpn01, Challenge::Http01] {
        let (pebble, state) = (Pebble::start(Options::default()).await, state());
        let front = Front::start(settings(&pebble, state.path(), challenge), &pebble.options, &["a.example", "b.c.example"]).await;
        let mut changed = front.acme.changed();
        assert!(!connects(&pebble, "a.example").await, "a placeholder was shown");
        for name in ["a.example", "b.c.example"] {
            let expires = front.issued(name).await;
            let life = expires.duration_since(SystemTime::now()).unwrap().as_secs();
            assert!((89 * 24 * 3600..=90 * 24 * 3600).contains(&life), "{life}");
            assert!(connects(&pebble, name).await, "{challenge} {name}:\n{}", pebble.log());
        }
        within(changed.wait_for(|count| *count == 2)).await.unwrap();
        assert_eq!((pebble.orders(), pebble.issued()), (2, 2), "{}", pebble.log());
        let asked_over_http = pebble.logged("Attempting to validate w/ HTTP") > 0;
        assert_eq!(asked_over_http, challenge == Challenge::Http01, "{}", pebble.log());
        let status = front.acme.status();
        assert!(
            status.iter().all(|status| status.failures == 0 && status.next_order > SystemTime::now() + Duration::from_secs(59 * 86400))
        );
        assert!(front.acme.challenge_certificate("a.example").is_none(), "nothing is left over");
    }
}

#[tokio::test]
async fn a_restart_keeps_account_and_certificate() {
    let (pebble, state) = (Pebble::start(Options::default()).await, state());
    let settings = settings(&pebble, state.path(), Challenge::TlsAlpn01);
    let front = Front::start(settings.clone(), &pebble.options, &["a.example"]).await;
    front.issued("a.example").await;
    let shown = front.shown("a.example");
    front.stop().await;

    let front = Front::start(settings, &pebble.options, &["a.example"]).await;
    assert_eq!(front.shown("a.example"), shown, "before anything reaches the network");
    assert!(connects(&pebble, "a.example").await);
    // A second name, so that there has been time for a second order of the first.
    front.acme.set_names(vec!["a.example".parse().unwrap(), "b.example".parse().unwrap()]);
    front.issued("b.example").await;
    assert_eq!(front.shown("a.example"), shown);
    assert_eq!(pebble.orders(), 2, "{}", pebble.log());
    assert_eq!(pebble.logged("There are now 1 accounts in memory"), 1, "{}", pebble.log());
    assert_eq!(pebble.logged("There are now 2 accounts in memory"), 0);
}

#[tokio::test]
async fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
    let (pebble, state) = (Pebble::start(Options { certificate_life_s: 12, ..Options::default() }).await, state());
    let front = Front::start(settings(&pebble, state.path(), Challenge::TlsAlpn01), &pebble.options, &["a.example"]).await;
    let first = front.issued("a.example").await;
    let shown = front.shown("a.example");
    let second = front.eventually(|acme| acme.expiry("a.example").filter(|expiry| *expiry != first)).await;
    let left = first.duration_since(SystemTime::now()).unwrap();
    assert!((Duration::from_secs(1)..=Duration::from_secs(4)).contains(&left), "{left:?}");
    assert!(second > first);
    assert_ne!(front.shown("a.example"), shown);
    assert!(connects(&pebble, "a.example").await);
}

#[tokio::test]
async fn a_name_that_cannot_be_validated_backs_off_and_keeps_its_certificate() {
    let (pebble, state) = (Pebble::start(Options { certificate_life_s: 6, ..Options::default() }).await, state());
    let settings = settings(&pebble, state.path(), Challenge::TlsAlpn01);
    let front = Front::start(settings.clone(), &pebble.options, &["a.example"]).await;
    front.issued("a.example").await;
    let shown = front.shown("a.example");
    front.stop_listening();

    let status = front.failed().await;
    let wait = status.next_order.duration_since(SystemTime::now()).unwrap();
    assert!((Duration::from_secs(40)..=Duration::from_secs(72)).contains(&wait), "{wait:?}");
    assert_eq!(status.failures, 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pebble.orders(), 2, "{}", pebble.log());
    assert_eq!(front.shown("a.example"), shown);

    // One name's failure is no other's, and a restart tries again at once.
    front.stop().await;
    let front = Front::start(settings, &pebble.options, &["a.example"]).await;
    assert_eq!(front.shown("a.example"), shown, "though it has expired");
    front.eventually(|acme| (acme.certificate("a.example").cert[0] != shown).then_some(())).await;
}

#[tokio::test]
async fn one_names_failure_is_no_others() {
    let (pebble, state) = (Pebble::start(Options::default()).await, state());
    let front = Front::start(settings(&pebble, state.path(), Challenge::TlsAlpn01), &pebble.options, &["z.example"]).await;
    front.issued("z.example").await;
    pebble.lead_astray("a.example").await;
    front.acme.set_names(["a.example", "b.example", "z.example"].map(|name| name.parse().unwrap()).to_vec());
    front.issued("b.example").await;
    let failed = front.failed().await;
    assert_eq!(failed.name.as_str(), "a.example");
    assert_eq!(front.acme.status().iter().map(|status| status.failures).collect::<Vec<_>>(), [1, 0, 0]);
}

#[tokio::test]
async fn refused_nonces_are_replaced() {
    let (pebble, state) = (Pebble::start(Options { nonces_refused: 5, ..Options::default() }).await, state());
    let front = Front::start(settings(&pebble, state.path(), Challenge::Http01), &pebble.options, &[]).await;
    let mut names = Vec::new();
    // Two to four names will do.
    while pebble.repeated() == 0 && names.len() < 40 {
        names.push(format!("r{}.example", names.len()).parse::<acme::Name>().unwrap());
        front.acme.set_names(names.clone());
        front.issued(names[names.len() - 1].as_str()).await;
    }
    assert!(pebble.repeated() > 0, "{}", pebble.log());
    assert!(front.acme.status().iter().all(|status| status.failures == 0));
}

#[tokio::test]
async fn corrupt_state_is_set_aside_and_made_anew() {
    let (pebble, state) = (Pebble::start(Options::default()).await, state());
    let settings = settings(&pebble, state.path(), Challenge::TlsAlpn01);
    let front = Front::start(settings.clone(), &pebble.options, &["a.example"]).await;
    front.issued("a.example").await;
    front.stop().await;
    let written = files(state.path());
    for file in ["a.example.pem", "account.key", "orders.json"] {
        let bytes = fs::read(&written[file]).unwrap();
        fs::write(&written[file], &bytes[..bytes.len() / 2]).unwrap();
    }

    let front = Front::start(settings, &pebble.options, &["a.example"]).await;
    front.issued("a.example").await;
    assert!(connects(&pebble, "a.example").await);
    front.stop().await;
    let mut names: Vec<_> = files(state.path()).into_keys().collect();
    names.sort();
    let expected =
        ["a.example.pem", "a.example.pem.broken", "account.key", "account.key.broken", "lock", "orders.json", "orders.json.broken"];
    assert_eq!(names, expected);
    assert_eq!(pebble.orders(), 2);
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_account_gets_it_again() {
    let (mut pebble, state) = (Pebble::start(Options::default()).await, state());
    let front = Front::start(settings(&pebble, state.path(), Challenge::TlsAlpn01), &pebble.options, &["a.example"]).await;
    front.issued("a.example").await;
    pebble.restart().await;
    front.acme.set_names(["a.example", "b.example"].map(|name| name.parse().unwrap()).to_vec());
    front.issued("b.example").await;
    assert!(connects(&pebble, "b.example").await);
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
}

#[tokio::test]
async fn a_gateway_that_is_cut_off_again_and_again_makes_one_account() {
    let (pebble, state) = (Pebble::start(Options::default()).await, state());
    let settings = settings(&pebble, state.path(), Challenge::TlsAlpn01);
    // Shorter than an order takes: three are cut off at most, wherever they are, and the fourth of the hour may end.
    for cut_off_ms in [15, 45, 90] {
        let front = Front::start(settings.clone(), &pebble.options, &["a.example"]).await;
        tokio::time::sleep(Duration::from_millis(cut_off_ms)).await;
        drop(front);
    }
    let front = Front::start(settings, &pebble.options, &["a.example"]).await;
    front.issued("a.example").await;
    assert!(connects(&pebble, "a.example").await);
    assert_eq!(pebble.logged("There are now 1 accounts in memory"), 1, "{}", pebble.log());
    assert_eq!(pebble.logged("There are now 2 accounts in memory"), 0, "{}", pebble.log());
    let files = files(state.path());
    assert!(files.keys().all(|file| !file.ends_with(".broken")), "{files:?}");
}

#[tokio::test]
async fn of_two_gateways_with_one_state_one_orders_and_the_other_takes_it_up() {
    let (pebble, state) = (Pebble::start(Options::default()).await, state());
    let settings = settings(&pebble, state.path(), Challenge::TlsAlpn01);
    let first = Front::start(settings.clone(), &pebble.options, &["a.example"]).await;
    first.issued("a.example").await;
    let elsewhere = Options::default();
    let second = Front::start(settings, &elsewhere, &["a.example", "b.example"]).await;
    assert_eq!(second.shown("a.example"), first.shown("a.example"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(second.acme.expiry("b.example"), None, "it may not order");
    let mut changed = second.acme.changed();
    first.acme.set_names(["a.example", "b.example"].map(|name| name.parse().unwrap()).to_vec());
    first.issued("b.example").await;
    within(changed.changed()).await.unwrap();
    assert_eq!(second.shown("b.example"), first.shown("b.example"));
    assert_eq!(pebble.orders(), 2, "{}", pebble.log());

    // The first one ends, and the second takes over its ports and its task.
    second.stop_listening();
    first.stop().await;
    let _listener = listen_tls(Arc::clone(&second.acme), pebble.options.tls_port).await;
    second.acme.set_names(vec!["c.example".parse().unwrap()]);
    second.issued("c.example").await;
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_or_reached_gets_no_order() {
    let (pebble, state) = (Pebble::start(Options::default()).await, state());
    let trusted = settings(&pebble, state.path(), Challenge::TlsAlpn01);
    for settings in [
        Settings { root: None, ..trusted.clone() },
        Settings { directory: format!("https://127.0.0.1:{}/dir", free_port()), ..trusted.clone() },
        Settings { directory: trusted.directory.replace("https:", "http:"), ..trusted.clone() },
        Settings { directory: "nonsense".to_owned(), ..trusted.clone() },
    ] {
        let front = Front::start(settings, &Options::default(), &["a.example"]).await;
        let status = front.failed().await;
        assert_eq!((status.failures, status.expires), (1, None));
        assert!(!front.shown("a.example").is_empty(), "the placeholder");
        front.stop().await;
    }
    assert_eq!(pebble.logged("POST "), 0, "{}", pebble.log());
}

/// Status, `Retry-After` and body of the answer to an order.
type OrderAnswer = (u16, &'static str, serde_json::Value);

/// Pebble has no rate limits, so this server is made up: it takes every account and no order.
async fn busy_server(site: &Path, order: OrderAnswer) -> (String, PathBuf) {
    berth_gateway::cert::self_signed(site, &["localhost".to_owned()], &["127.0.0.1".parse().unwrap()]).unwrap();
    let certified = berth_gateway::tls::load(&site.join("server.pem"), &site.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified.certified)));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://{}", listener.local_addr().unwrap());
    let directory = format!("{origin}/directory");
    let order = Arc::new(order);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            let (origin, order) = (origin.clone(), Arc::clone(&order));
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = busy_answer(&origin, &order, request.uri().path());
                async {
                    request.collect().await.unwrap();
                    Ok::<_, Infallible>(answer)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service));
        }
    });
    (directory, site.join("ca.pem"))
}

fn busy_answer(origin: &str, order: &OrderAnswer, path: &str) -> Response<Body> {
    let answer = Response::builder().header("Replay-Nonce", "n").header("Location", format!("{origin}/account/1"));
    match path {
        "/directory" => {
            let url = |name: &str| format!("{origin}/{name}");
            let directory = json!({"newNonce": url("nonce"), "newAccount": url("account"), "newOrder": url("order")});
            answer.body(full(directory.to_string())).unwrap()
        }
        "/order" => {
            let (status, retry_after, body) = order;
            answer.status(*status).header("Retry-After", *retry_after).body(full(body.to_string())).unwrap()
        }
        _ => answer.body(full("{\"status\":\"valid\"}")).unwrap(),
    }
}

#[tokio::test]
async fn a_server_that_is_asked_too_often_is_left_alone_for_as_long_as_it_says() {
    let limited = json!({"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many\ncertificates"});
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let in_a_day = httpdate::fmt_http_date(SystemTime::now() + hours(24));
    for (status, retry_after, body, shortest, longest) in [
        (429, "10800", limited.clone(), hours(3), hours(3)),
        (429, in_a_day.leak() as &str, limited.clone(), hours(24), hours(24)),
        (429, "nonsense", limited.clone(), hours(1), hours(1)),
        (429, "18446744073709551615", limited.clone(), hours(1), hours(1)),
        (429, "99999999999", limited, hours(7 * 24), hours(7 * 24)),
        (503, "7200", json!({"type": "urn:ietf:params:acme:error:serverInternal"}), hours(2), hours(2)),
        (500, "7200", json!({"detail": "x".repeat(1_000_000)}), Duration::from_secs(45), Duration::from_secs(72)),
    ] {
        let (site, state) = (state(), state());
        let (directory, ca) = busy_server(site.path(), (status, retry_after, body)).await;
        let settings = Settings { directory, contact: None, state: state.path().to_owned(), root: Some(ca), challenge: Challenge::Http01 };
        let front = Front::start(settings, &Options::default(), &["a.example"]).await;
        let wait = front.failed().await.next_order.duration_since(SystemTime::now()).unwrap();
        let slack = Duration::from_secs(5);
        assert!((shortest - slack..=longest + slack).contains(&wait), "{status} {retry_after}: {wait:?}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_what_an_operator_needs_and_no_key() {
    // Of the whole process: one of this thread alone would not reliably hear of what other threads have met first.
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(move || writer.clone()).init();

    let (pebble, state) = (Pebble::start(Options::default()).await, state());
    let front = Front::start(settings(&pebble, state.path(), Challenge::TlsAlpn01), &pebble.options, &["good.log.example"]).await;
    front.issued("good.log.example").await;
    pebble.lead_astray("bad.log.example").await;
    front.acme.set_names(["good.log.example", "bad.log.example"].map(|name| name.parse().unwrap()).to_vec());
    front.failed().await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = |name: &str, text: &str| {
        log.lines().find(|line| line.contains(&format!("acme.name={name} ")) && line.contains(text)).unwrap_or_else(|| panic!("{log}"))
    };
    assert!(line("good.log.example", "certificate issued").contains("expires_in_s=77759"), "{log}");
    let failure = line("bad.log.example", "no certificate was issued");
    for part in ["acme.failures=1", "retry_s=", "bad.log.example was not validated", "Failed to connect to 127.0.0.3"] {
        assert!(failure.contains(part), "no {part:?} in {failure}");
    }
    let written = files(state.path());
    for file in ["account.key", "good.log.example.pem"] {
        let pem = fs::read_to_string(&written[file]).unwrap();
        let key: String = pem.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
        // The first characters are the same in every key.
        assert!(key.len() > 100 && !log.contains(&key[64..96]), "{file} is in the log");
    }
}

/// The real gateway, from a configuration to a certificate that clients of the issuing authority accept.
async fn a_gateway_gets_its_certificate(challenge: &str) {
    let pebble = Pebble::start(Options::default()).await;
    let site = crate::support::Site::new(crate::support::echo);
    let (tls, http) = (pebble.options.tls_port, pebble.options.http_port);
    let (directory, ca) = (pebble.directory_url(), pebble.ca());
    let _gateway = site
        .start(&format!(
            "[acme]\nterms_agreed = true\ndirectory = \"{directory}\"\nca = \"{}\"\nstate = \"acme\"\nchallenge = \"{challenge}\"\n\
             [[binding]]\nlisten = \"127.0.0.1:{tls}\"\nserver_name = \"r.example\"\nrepository = \"docker-local\"\nacme = true\n\
             [[binding]]\nlisten = \"127.0.0.1:{http}\"\nplain_http = true\nredirect = \"https://r.example:{tls}\"\n",
            ca.display()
        ))
        .await;
    let root = pebble.issuing_root().await;
    let mut client = within(async {
        loop {
            match Client::connect_tls(tls, "r.example", &root).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
    .await;
    assert_eq!(client.get("/v2/", "r.example").await.status, 200);
    assert_eq!((pebble.orders(), pebble.issued()), (1, 1));
}

#[tokio::test]
async fn a_gateway_gets_its_certificate_by_tls() {
    a_gateway_gets_its_certificate("tls-alpn-01").await;
}

#[tokio::test]
async fn a_gateway_gets_its_certificate_by_http() {
    a_gateway_gets_its_certificate("http-01").await;
}
