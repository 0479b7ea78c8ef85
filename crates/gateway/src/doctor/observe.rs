//! The probes: what is sent to a hop, and what came of it. Nothing is judged here.
//!
//! What must stay true: every hop is sent the same, with the host that clients use; a hop behind the first also what a
//! good hop before it would have added.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use berth_names::Origin;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::time::sleep;

use super::Url;
use super::answer::Answer;
use super::client::{self, Body, EXCHANGE_MAX, Exchange, Failure, Request, Route};
use super::tls::{self, Certificate, Dialect};
use crate::probe::{DOWNLOAD_BYTES_MAX, HALVES_PAUSE_MS, PATHS};

/// An address that nobody has (RFC 5737), as the client's that we claim to be.
pub(super) const FORGED: &str = "203.0.113.77";

/// The pause within a body: far more than a network's delay.
pub(super) const PAUSE: Duration = Duration::from_millis(HALVES_PAUSE_MS);

/// How long to wait for an answer to an announced body. Who has a limit refuses at once.
const ANNOUNCED_MAX: Duration = Duration::from_secs(5);

/// How often a request that was one too many is repeated, and how long is waited for that at most.
const RETRIES_MAX: u32 = 5;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// A client that sends no faster than this, in bytes per second, is not examined.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 256 * 1024;

/// What docker sends of each.
pub(super) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, */*";
pub(super) const UPLOAD_ID: &str = "6c1f9d3a-0000-4000-8000-00000000d0c0";

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Limits that people and products set, in bytes.
pub(super) const LIMITS: [u64; 27] = [
    64 * KIB,
    128 * KIB,
    256 * KIB,
    512 * KIB,
    MIB,
    2 * MIB,
    4 * MIB,
    5 * MIB,
    8 * MIB,
    10_000_000,
    10 * MIB,
    16 * MIB,
    20 * MIB,
    // IIS
    30_000_000,
    32 * MIB,
    50 * MIB,
    64 * MIB,
    // Cloudflare
    100_000_000,
    100 * MIB,
    200 * MIB,
    256 * MIB,
    500 * MIB,
    512 * MIB,
    // Apache
    GIB,
    2 * GIB,
    10 * GIB,
    100 * GIB,
];

/// What all hops are examined with.
#[derive(Clone, Debug)]
pub(super) struct Examination {
    /// What clients use.
    pub(super) expected: Origin,
    pub(super) roots: RootCertStore,
    pub(super) body_bytes: u64,
    /// How long a pause must be endured, in seconds, if that is to be seen.
    pub(super) slow_s: Option<u64>,
}

/// What a hop did.
#[derive(Clone, Debug)]
pub(super) struct Observations {
    /// What clients use.
    pub(super) expected: Origin,
    /// The hop is not the one that clients reach.
    pub(super) inner: bool,
    pub(super) certificate: Option<Certificate>,
    /// Whether TLS 1.2 is spoken, and HTTP/2.
    pub(super) tls12: Option<bool>,
    pub(super) http2: Option<bool>,
    /// TLS failed, and what is there speaks HTTP without it.
    pub(super) is_plain: bool,
    pub(super) base: Exchange,
    pub(super) v2: Exchange,
    pub(super) ping: Exchange,
    /// Some of it is missing, for patience did not help against somebody's limits.
    pub(super) limited: bool,
    /// None: the gateway did not answer the first probe.
    pub(super) details: Option<Details>,
}

/// What a hop did to probes that the gateway answers.
#[derive(Clone, Debug)]
pub(super) struct Details {
    pub(super) methods: Vec<(&'static str, Exchange)>,
    pub(super) paths: Vec<(PathCase, Exchange)>,
    pub(super) limit: Option<Limit>,
    /// A body of 1 KiB, announced.
    pub(super) announced: Exchange,
    pub(super) upload: Exchange,
    pub(super) chunked: Exchange,
    pub(super) paused: Exchange,
    pub(super) halves: Exchange,
    pub(super) plain: Exchange,
    pub(super) packed_layer: Exchange,
    pub(super) packed_json: Exchange,
    pub(super) slow: Option<Slow>,
}

/// Requests with a long pause.
#[derive(Clone, Debug)]
pub(super) struct Slow {
    pub(super) pause_s: u64,
    /// The pause is within the body.
    pub(super) upload: Exchange,
    /// The pause is before the answer.
    pub(super) answer: Exchange,
}

/// A limit of bodies.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// The longest body that passes, in bytes, of those that were tried.
    pub(super) passes: u64,
    /// The shortest that does not.
    pub(super) fails: u64,
    pub(super) answer: Answer,
}

/// A path that must arrive as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathCase {
    pub(super) name: &'static str,
    /// What follows the probe's path.
    pub(super) rest: &'static str,
    /// Registry clients send such paths.
    pub(super) is_needed: bool,
}

pub(super) const PATH_CASES: [PathCase; 5] = [
    PathCase { name: "a slash at the end", rest: "/", is_needed: true },
    PathCase { name: "digests and their characters", rest: "/Tag_1.0-b~c@sha256:00ff+x=?digest=sha256%3A00ff&from=a%2Fb", is_needed: true },
    PathCase { name: "a double slash", rest: "/a//b", is_needed: false },
    PathCase { name: "an encoded slash", rest: "/a%2Fb", is_needed: false },
    PathCase { name: "dots", rest: "/a/./b/../c", is_needed: false },
];

/// Sends every probe to a hop.
pub(super) async fn observe(examination: &Examination, hop: &Url, address: Result<SocketAddr, String>, inner: bool) -> Observations {
    let expected = examination.expected.clone();
    let address = match address {
        Ok(address) => address,
        Err(error) => return Observations::unreachable(expected, inner, error),
    };
    let mut route = Route { address, tls: None };
    let mut recorder = None;
    let (mut tls12, mut http2) = (None, None);
    if hop.is_https() {
        // The name on the certificate is the one that clients ask for, also of hops behind the first.
        let host = expected.authority().host().trim_matches(['[', ']']).to_owned();
        let (Ok(name), Ok((config, seen))) = (ServerName::try_from(host), tls::client(examination.roots.clone(), Dialect::Any)) else {
            return Observations::unreachable(expected, inner, "no TLS for this host name".to_owned());
        };
        tls12 = greet(examination, address, &name, Dialect::Old).await.map(|_| true);
        http2 = greet(examination, address, &name, Dialect::Http2).await;
        (route.tls, recorder) = (Some((config, name)), Some(seen));
    }
    let mut prober = Prober { examination, route, inner, path: PATHS[0], limited: Cell::new(false) };
    let v2 = prober.send("GET", "/v2/", &[], Body::None).await;
    let ping = prober.send("GET", "/v1/_ping", &[], Body::None).await;
    let is_v1_only = |v2: &Answer, ping: &Answer| v2.status == 404 && ping.header("x-docker-registry-version").is_some();
    if matches!((&v2.answer, &ping.answer), (Ok(v2), Ok(ping)) if is_v1_only(v2, ping)) {
        prober.path = PATHS[1];
    }
    let base = prober.base().await;
    let is_plain = matches!(base.answer, Err(Failure::Tls(_))) && speaks_plain_http(address).await;
    let is_gateways = base.answer.as_ref().is_ok_and(|answer| answer.report.is_some());
    let certificate = recorder.and_then(|recorder| recorder.seen());
    let tls12 = certificate.as_ref().map(|_| tls12.is_some());
    let details = if is_gateways { Some(prober.details().await) } else { None };
    let limited = prober.limited.get();
    Observations { expected, inner, certificate, tls12, http2, is_plain, base, v2, ping, limited, details }
}

impl Observations {
    fn unreachable(expected: Origin, inner: bool, error: String) -> Self {
        let none = Exchange::failed(Failure::Connect(error));
        Self {
            expected,
            inner,
            certificate: None,
            tls12: None,
            http2: None,
            is_plain: false,
            base: none.clone(),
            v2: none.clone(),
            ping: none,
            limited: false,
            details: None,
        }
    }
}

/// Shakes hands in another dialect; tells whether the server chose HTTP/2.
async fn greet(examination: &Examination, address: SocketAddr, name: &ServerName<'static>, dialect: Dialect) -> Option<bool> {
    let (config, _) = tls::client(examination.roots.clone(), dialect).ok()?;
    let tcp = client::connect(address).await.ok()?;
    let stream = client::handshake(tcp, &config, name).await.ok()?;
    Some(stream.get_ref().1.alpn_protocol() == Some(b"h2"))
}

async fn speaks_plain_http(address: SocketAddr) -> bool {
    let Ok(mut tcp) = client::connect(address).await else { return false };
    let answer = client::first_bytes(&mut tcp, b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    // Servers that want TLS say so in plain HTTP, with 400.
    answer.is_ok_and(|bytes| bytes.starts_with(b"HTTP/1.") && bytes.get(8..12) != Some(b" 400"))
}

struct Prober<'a> {
    examination: &'a Examination,
    route: Route,
    inner: bool,
    path: &'static str,
    limited: Cell<bool>,
}

impl Prober<'_> {
    fn request(&self, method: &'static str, target: &str, extra: &[(&'static str, &str)], body: Body) -> Request {
        let expected = &self.examination.expected;
        let mut headers = vec![
            ("Host", expected.authority().to_string()),
            ("User-Agent", concat!("berth-doctor/", env!("CARGO_PKG_VERSION")).to_owned()),
            ("Connection", "close".to_owned()),
        ];
        if self.inner {
            let port = expected.authority().port().unwrap_or(expected.scheme().default_port());
            headers.push(("X-Forwarded-Proto", expected.scheme().as_str().to_owned()));
            headers.push(("X-Forwarded-Host", expected.authority().to_string()));
            headers.push(("X-Forwarded-Port", port.to_string()));
        }
        headers.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Request { method, target: target.to_owned(), headers, body }
    }

    async fn send(&self, method: &'static str, target: &str, extra: &[(&'static str, &str)], body: Body) -> Exchange {
        self.exchange(&self.request(method, target, extra, body), EXCHANGE_MAX).await
    }

    /// Sends a request, again and again if there are too many of them.
    async fn exchange(&self, request: &Request, limit: Duration) -> Exchange {
        let mut retries = 0;
        loop {
            let exchange = client::exchange(&self.route, request, limit).await;
            let Some(pause) = exchange.answer.as_ref().ok().and_then(retry_after) else { return exchange };
            // Who was not patient once will not be the next time.
            if retries == RETRIES_MAX || self.limited.get() {
                self.limited.set(true);
                return exchange;
            }
            retries += 1;
            sleep(pause).await;
        }
    }

    /// A probe at the probe's path with something behind it.
    async fn probe(&self, method: &'static str, rest: &str, extra: &[(&'static str, &str)], body: Body) -> Exchange {
        self.send(method, &format!("{}{rest}", self.path), extra, body).await
    }

    /// The probe with every header field.
    async fn base(&self) -> Exchange {
        let headers = [
            // Of nobody: the password is `probe` too.
            ("Authorization", "Basic cHJvYmU6cHJvYmU="),
            ("Accept", ACCEPT),
            ("Range", "bytes=0-1023"),
            ("X-Docker-Token", "true"),
            ("X-Forwarded-For", FORGED),
        ];
        self.probe("GET", "", &headers, Body::None).await
    }

    async fn details(&self) -> Details {
        let mut methods = Vec::new();
        for method in ["HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let body = if matches!(method, "HEAD" | "DELETE") { Body::None } else { Body::Length(KIB) };
            let headers = [
                ("Authorization", "Basic cHJvYmU6cHJvYmU="),
                ("Content-Type", "application/octet-stream"),
                ("Content-Range", "0-1023"),
                ("Docker-Upload-UUID", UPLOAD_ID),
            ];
            let headers = if method == "PATCH" { &headers[..] } else { &headers[..1] };
            methods.push((method, self.probe(method, "", headers, body).await));
        }
        let mut paths = Vec::new();
        for case in PATH_CASES {
            paths.push((case, self.probe("GET", case.rest, &[], Body::None).await));
        }
        let download = format!("?bytes={DOWNLOAD_BYTES_MAX}");
        let in_halves = format!("{download}&halves");
        let (identity, gzip) = ([("Accept-Encoding", "identity")], [("Accept-Encoding", "gzip")]);
        let (paused, halves, slow) = tokio::join!(
            self.probe("PUT", "", &[], Body::Chunked(vec![KIB, KIB], PAUSE)),
            self.probe("GET", &in_halves, &identity, Body::None),
            self.slow(),
        );
        let upload = self.upload(Body::Length(self.examination.body_bytes)).await;
        // A hop that answers an announcement for the next one does not know the limit of that.
        let limit = match self.limit().await {
            None if is_refusal(&upload) => self.limit_by_sending().await,
            limit => limit,
        };
        Details {
            methods,
            paths,
            limit,
            announced: self.announce(KIB).await,
            upload,
            chunked: self.upload(Body::Chunked(vec![self.examination.body_bytes], Duration::ZERO)).await,
            paused,
            halves,
            plain: self.probe("GET", &download, &identity, Body::None).await,
            packed_layer: self.probe("GET", &download, &gzip, Body::None).await,
            packed_json: self.probe("GET", &format!("{download}&json"), &gzip, Body::None).await,
            slow,
        }
    }

    async fn upload(&self, body: Body) -> Exchange {
        let limit = EXCHANGE_MAX + Duration::from_secs(self.examination.body_bytes / UPLOAD_BYTES_PER_SECOND_MIN);
        self.exchange(&self.request("PUT", self.path, &[], body), limit).await
    }

    async fn slow(&self) -> Option<Slow> {
        let pause_s = self.examination.slow_s?;
        let pause = Duration::from_secs(pause_s);
        let limit = EXCHANGE_MAX + pause;
        let upload = self.request("PUT", self.path, &[], Body::Chunked(vec![KIB, KIB], pause));
        let answer = self.request("GET", &format!("{}?silence={pause_s}", self.path), &[], Body::None);
        let (upload, answer) = tokio::join!(self.exchange(&upload, limit), self.exchange(&answer, limit));
        Some(Slow { pause_s, upload, answer })
    }

    /// Announces a body without sending it: who has a limit says so at once.
    async fn announce(&self, bytes: u64) -> Exchange {
        let target = format!("{}?announce", self.path);
        self.exchange(&self.request("PUT", &target, &[], Body::Announced(bytes)), ANNOUNCED_MAX).await
    }

    /// Finds the limit of bodies, if there is one, by announcing them.
    async fn limit(&self) -> Option<Limit> {
        search(&LIMITS, async |bytes| refusal(self.announce(bytes).await)).await
    }

    /// The same by sending them, up to the length that everything is examined with.
    async fn limit_by_sending(&self) -> Option<Limit> {
        let below = LIMITS.partition_point(|limit| *limit < self.examination.body_bytes);
        search(&LIMITS[..below], async |bytes| refusal(self.upload(Body::Length(bytes)).await)).await
    }
}

/// Finds the one of these limits that is in force, if one is, by halving the list of them.
async fn search(limits: &[u64], refused: impl AsyncFn(u64) -> Option<Answer>) -> Option<Limit> {
    let (mut passes, mut below, mut above) = (0, 0, limits.len().checked_sub(1)?);
    let mut answer = refused(limits[above] + 1).await?;
    while below < above {
        let middle = below.midpoint(above);
        match refused(limits[middle] + 1).await {
            Some(refusal) => (above, answer) = (middle, refusal),
            None => (below, passes) = (middle + 1, limits[middle] + 1),
        }
    }
    let fails = if refused(limits[above]).await.is_some() {
        limits[above]
    } else {
        passes = limits[above];
        limits[above] + 1
    };
    Some(Limit { passes, fails, answer })
}

/// How long to wait before another try, if the answer is that there were too many.
pub(super) fn retry_after(answer: &Answer) -> Option<Duration> {
    let told = answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    match answer.status {
        429 => Some(told.unwrap_or(Duration::from_secs(1)).min(RETRY_AFTER_MAX)),
        503 => told.map(|pause| pause.min(RETRY_AFTER_MAX)),
        _ => None,
    }
}

/// The answer that says that a body is too long.
fn refusal(exchange: Exchange) -> Option<Answer> {
    exchange.answer.ok().filter(|answer| answer.status == 413)
}

fn is_refusal(exchange: &Exchange) -> bool {
    exchange.answer.as_ref().is_ok_and(|answer| answer.status == 413)
}
