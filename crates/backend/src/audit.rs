//! The audit log: who did what, from where, on what, and what came of it.
//!
//! One JSON object per line, appended by one thread to the files of a few series in `audit/` in the data directory
//! ([`files`]). Changes, logins, refusals and pulls are kept apart, so that nobody pushes out what is more precious than what
//! they can make: a stranger makes refusals only, and of those one line says how often ([`refusals`]). Read, they are one log
//! ([`pages`]). No line holds a password, a token or a body.

mod files;
mod pages;
mod refusals;

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use berth_names::{AccountName, RepositoryKey};
use berth_registry::access::Remote;
use berth_traces::Span;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::config;
use crate::http::{Credentials, Route};
use files::{Logs, Series};
pub(crate) use pages::{Page, Place};
use refusals::Refusals;

/// Events that may wait for the disk before requests do.
const QUEUE_EVENTS_MAX: usize = 4096;

/// Entries that one page of the log has at most.
pub(crate) const PAGE_ENTRIES_MAX: usize = 1000;

/// Bytes of a path that are written down.
const PATH_BYTES_MAX: usize = 1024;

/// Events that are written at once.
const BATCH_EVENTS_MAX: usize = 256;

/// How often what could not be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// When, as RFC 3339 with milliseconds, UTC.
    time: String,
    /// Of a line that stands for many: since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Of a line that stands for many: how many, beside those that have lines of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    /// So many lines of the series were left out before this one, because the disk was full for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
    /// Who: a user, `anonymous`, `operator`, or nothing if a login failed.
    #[serde(rename = "user")]
    pub(crate) caller: Option<String>,
    /// Whom a login claimed to be, as far as that is a user name at all: people type passwords in the wrong place.
    claimed: Option<String>,
    /// How: `basic`, `bearer` or `v1-token`.
    credentials: Option<String>,
    /// From where, as far as is known: who connected, or for whom a proxy that is believed says that it asks.
    client: Option<IpAddr>,
    /// Who connected over TCP: a proxy, or the client itself.
    #[serde(default)]
    peer: Option<IpAddr>,
    repository: Option<String>,
    method: String,
    path: String,
    status: u16,
    request_id: String,
    /// Whether it is a request for a token.
    #[serde(skip)]
    is_login: bool,
}

impl Event {
    /// What the request says about who it comes from.
    pub(crate) fn claims(&mut self, credentials: &Credentials) {
        let (kind, name) = match credentials {
            Credentials::None => (None, None),
            Credentials::Basic(name, _) => (Some("basic"), name.parse::<AccountName>().ok()),
            Credentials::Bearer(_) => (Some("bearer"), None),
            Credentials::V1Token(_) => (Some("v1-token"), None),
            Credentials::Invalid => (Some("unreadable"), None),
        };
        self.credentials = kind.map(str::to_owned);
        self.claimed = name.map(|name| name.to_string());
        if kind.is_none() {
            self.caller = Some(berth_registry::access::ANONYMOUS.to_owned());
        }
    }

    /// Where the request comes from.
    pub(crate) fn comes_from(&mut self, remote: Remote) {
        (self.client, self.peer) = (remote.address(), remote.peer);
    }

    /// What the request is about.
    pub(crate) fn target(&mut self, place: &str, route: &Route) {
        self.repository = Some(place.to_owned());
        self.is_login = *route == Route::V2(crate::http::V2::Token);
    }

    /// The request looks at what is stored, or searches for it.
    pub(crate) fn browses(&mut self, repository: Option<&RepositoryKey>) {
        self.repository = repository.map(ToString::to_string);
    }

    pub(crate) fn request(&mut self, method: &Method, path: &str, status: u16, request_id: &str) {
        self.method = method.to_string();
        self.path = path.chars().take(PATH_BYTES_MAX).collect();
        self.status = status;
        self.request_id = request_id.to_owned();
        if self.status == 401 && self.credentials.is_some() {
            self.caller = None;
        }
    }

    /// Whether somebody was kept from something. Asking docker for its password is none: it happens all the time.
    fn is_refusal(&self) -> bool {
        matches!(self.status, 403 | 429) || (self.status == 401 && self.credentials.is_some())
    }

    /// Who, for the access log.
    pub(crate) fn user(&self) -> &str {
        self.caller.as_deref().unwrap_or("-")
    }

    /// From where, for the access log.
    pub(crate) fn client(&self) -> String {
        self.client.map_or_else(|| "-".to_owned(), |address| address.to_string())
    }

    /// Says the same of the request's span, but for who it was.
    pub(crate) fn describe(&self, span: &mut Span) {
        span.answered(self.status);
        if !span.is_recorded() {
            return;
        }
        let client = self.client.map(|address| address.to_string());
        let said = [
            ("url.path", Some(self.path.clone())),
            ("client.address", client),
            ("berth.repository", self.repository.clone()),
            ("berth.request_id", Some(self.request_id.clone()).filter(|id| !id.is_empty())),
        ];
        for (name, value) in said.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            span.set(name, value);
        }
    }

    /// Whether somebody in particular asked: a user, or the operator.
    fn has_account(&self) -> bool {
        self.caller.as_deref().is_some_and(|caller| caller != berth_registry::access::ANONYMOUS)
    }

    /// Where its line goes, if it is worth one.
    fn series(&self, pulls: bool) -> Option<Series> {
        let reads = matches!(self.method.as_str(), "GET" | "HEAD");
        let asks_for_password = self.status == 401 && self.credentials.is_none();
        match self.status {
            _ if asks_for_password => None,
            _ if self.is_refusal() => Some(Series::Refusals),
            ..400 if self.is_login && self.has_account() => Some(Series::Logins),
            _ if reads || (self.is_login && self.status < 400) => pulls.then_some(Series::Pulls),
            ..400 => Some(Series::Changes),
            // Whatever broke may have been half done.
            500.. if self.has_account() => Some(Series::Changes),
            _ => Some(Series::Refusals),
        }
    }
}

/// The log, shared.
#[derive(Clone)]
pub(crate) struct Audit {
    queue: mpsc::Sender<(Series, Event)>,
    directory: Arc<Path>,
    pulls: bool,
}

impl Audit {
    /// Opens the log in `directory`, and starts writing.
    ///
    /// The thread ends, having written everything, when the last clone is dropped.
    pub(crate) fn open(directory: &Path, options: &config::Audit) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let logs = Logs::open(directory, options)?;
        let (queue, events) = mpsc::channel(QUEUE_EVENTS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let writer = std::thread::Builder::new().name("berth-audit".into()).spawn(move || runtime.block_on(write(events, logs)))?;
        Ok((Self { queue, directory: directory.into(), pulls: options.pulls }, writer))
    }

    /// Writes the event down, if it is worth a line. Waits if the disk does not keep up: nothing is left out while it takes
    /// anything at all.
    pub(crate) async fn record(&self, mut event: Event) {
        let Some(series) = event.series(self.pulls) else { return };
        event.time = now();
        if self.queue.send((series, event)).await.is_err() {
            tracing::error!("the audit log has stopped");
        }
    }

    /// Up to `limit` entries before `before` (`None`: the newest).
    pub(crate) async fn page(&self, before: Option<Place>, limit: usize) -> io::Result<Page> {
        let directory = Arc::clone(&self.directory);
        let read = tokio::task::spawn_blocking(move || pages::read(&directory, before, limit.clamp(1, PAGE_ENTRIES_MAX)));
        read.await.unwrap_or_else(|died| Err(io::Error::other(died)))
    }
}

/// Writes what comes until nobody can send any more.
async fn write(mut events: mpsc::Receiver<(Series, Event)>, mut logs: Logs) {
    let mut refusals = Refusals::default();
    let (mut batch, mut summed_up) = (Vec::new(), Instant::now());
    loop {
        let taken = tokio::time::timeout(RETRY_INTERVAL, events.recv_many(&mut batch, BATCH_EVENTS_MAX)).await;
        for (series, event) in batch.drain(..) {
            let line = match series {
                Series::Refusals => refusals.note(event),
                _ => Some(event),
            };
            if let Some(event) = line {
                logs.add(series, &line_of(&event));
            }
        }
        let is_over = taken == Ok(0);
        if is_over || summed_up.elapsed() >= refusals::INTERVAL {
            summed_up = Instant::now();
            for event in refusals.sum_up(&now()) {
                logs.add(Series::Refusals, &line_of(&event));
            }
        }
        logs.flush();
        if is_over {
            return;
        }
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn line_of(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(method: &Method, status: u16) -> Event {
        let mut event = Event { caller: Some("alice".into()), ..Event::default() };
        event.request(method, "/x", status, "id");
        event
    }

    #[test]
    fn what_a_stranger_can_cause_is_kept_apart_from_what_others_did() {
        let stranger = |method: Method, status| Event { caller: None, credentials: Some("basic".into()), ..event(&method, status) };
        let anonymous = |method: Method, status| Event { caller: Some("anonymous".into()), ..event(&method, status) };
        let token = |event: Event| Event { is_login: true, ..event };
        for (event, series) in [
            (event(&Method::PUT, 201), Some(Series::Changes)),
            (event(&Method::DELETE, 500), Some(Series::Changes)),
            (event(&Method::DELETE, 409), Some(Series::Refusals)),
            (event(&Method::GET, 403), Some(Series::Refusals)),
            (event(&Method::GET, 200), None),
            (token(event(&Method::GET, 200)), Some(Series::Logins)),
            (token(event(&Method::POST, 200)), Some(Series::Logins)),
            (token(anonymous(Method::POST, 200)), None),
            (anonymous(Method::POST, 404), Some(Series::Refusals)),
            (anonymous(Method::POST, 503), Some(Series::Refusals)),
            (anonymous(Method::PUT, 401), None),
            (anonymous(Method::GET, 401), None),
            (anonymous(Method::PUT, 201), Some(Series::Changes)),
            (stranger(Method::GET, 401), Some(Series::Refusals)),
            (stranger(Method::PUT, 401), Some(Series::Refusals)),
            (token(stranger(Method::GET, 429)), Some(Series::Refusals)),
        ] {
            assert_eq!(event.series(false), series, "{event:?}");
        }
        assert_eq!(event(&Method::GET, 200).series(true), Some(Series::Pulls));
        assert_eq!(anonymous(Method::GET, 401).series(true), None);
    }

    #[tokio::test]
    async fn a_stranger_who_is_refused_a_thousand_times_gets_one_line_that_counts_them_and_pushes_nothing_out() {
        let directory = tempfile::tempdir().unwrap();
        let options = config::Audit { pulls: false, file_bytes_max: 4096, files_max: 2 };
        let (audit, writer) = Audit::open(directory.path(), &options).unwrap();
        let mut change = event(&Method::PUT, 201);
        change.path = "/precious".into();
        audit.record(change).await;
        // Of equally old ones, either may come first.
        tokio::time::sleep(Duration::from_millis(2)).await;
        for _ in 0..1000 {
            let mut refused = Event { client: Some("192.0.2.1".parse().unwrap()), credentials: Some("basic".into()), ..Event::default() };
            refused.request(&Method::GET, "/v2/", 401, "");
            audit.record(refused).await;
        }
        let reader = audit.clone();
        drop((audit, reader));
        writer.join().unwrap();
        let page = pages::read(directory.path(), None, 10).unwrap();
        let counts: Vec<_> = page.entries.iter().map(|entry| (entry["status"].as_u64(), entry["count"].as_u64())).collect();
        assert_eq!(counts, [(Some(401), Some(999)), (Some(401), None), (Some(201), None)]);
        assert_eq!(page.entries[2]["path"], "/precious");
        assert_eq!(page.before, None);
    }

    #[test]
    fn a_password_typed_as_a_name_is_not_written_down() {
        let mut event = Event::default();
        event.claims(&Credentials::Basic("My Secret!".into(), crate::http::Secret::new("x")));
        assert_eq!(event.claimed, None);
        event.claims(&Credentials::Basic("alice".into(), crate::http::Secret::new("x")));
        assert_eq!(event.claimed.as_deref(), Some("alice"));
        assert!(!line_of(&event).contains("Secret"));
    }
}
