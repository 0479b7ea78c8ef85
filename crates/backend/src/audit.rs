//! The audit log: who did what, from where, on what, and what came of it.
//!
//! One JSON object per line, appended to `audit/audit.log` in the data directory by one thread; a full file is put aside
//! under its number, and the oldest are deleted. No line holds a password, a token or a body.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use berth_names::{AccountName, RepositoryKey};
use berth_traces::Span;
use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::config;
use crate::http::{Credentials, Route};

/// Events that may wait for the disk before requests do.
const QUEUE_EVENTS_MAX: usize = 4096;

/// Entries that one page of the log has at most.
pub(crate) const PAGE_ENTRIES_MAX: usize = 1000;

/// Bytes of a path that are written down.
const PATH_BYTES_MAX: usize = 1024;

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// When, as RFC 3339 with milliseconds, UTC.
    time: String,
    /// Who: a user, `anonymous`, `operator`, or nothing if a login failed.
    #[serde(rename = "user")]
    pub(crate) caller: Option<String>,
    /// Whom a login claimed to be, as far as that is a user name at all: people type passwords in the wrong place.
    claimed: Option<String>,
    /// How: `basic`, `bearer` or `v1-token`.
    credentials: Option<String>,
    /// From where.
    pub(crate) client: Option<IpAddr>,
    repository: Option<String>,
    method: String,
    path: String,
    status: u16,
    request_id: String,
    /// Whether it only reads what the caller may read: such lines are written only if the configuration says so.
    #[serde(skip)]
    is_pull: bool,
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

    /// What the request is about.
    pub(crate) fn target(&mut self, place: &str, route: &Route) {
        self.repository = Some(place.to_owned());
        // Fetching a token is a login; everything else that only reads is a pull.
        self.is_pull = *route != Route::V2(crate::http::V2::Token);
    }

    /// The request looks at what is stored, or searches for it.
    pub(crate) fn browses(&mut self, repository: Option<&RepositoryKey>) {
        self.repository = repository.map(ToString::to_string);
        self.is_pull = true;
    }

    pub(crate) fn request(&mut self, method: &Method, path: &str, status: u16, request_id: &str) {
        self.method = method.to_string();
        self.path = path.chars().take(PATH_BYTES_MAX).collect();
        self.status = status;
        self.request_id = request_id.to_owned();
        self.is_pull &= matches!(*method, Method::GET | Method::HEAD) && !self.is_refusal();
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

    fn is_worth_a_line(&self, pulls: bool) -> bool {
        let changes = !matches!(self.method.as_str(), "GET" | "HEAD");
        let asks_for_password = self.status == 401 && self.credentials.is_none();
        let logged_in = self.repository.is_some() && !self.is_pull && self.credentials.is_some() && self.status < 400;
        !asks_for_password && (changes || self.is_refusal() || logged_in || pulls)
    }
}

/// The log, shared.
#[derive(Clone)]
pub(crate) struct Audit {
    queue: mpsc::Sender<Event>,
    directory: Arc<Path>,
    pulls: bool,
}

/// A page of the log, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Page {
    /// The entries.
    pub(crate) entries: Vec<serde_json::Value>,
    /// Where the next, older page begins, if there is one.
    pub(crate) before: Option<String>,
}

impl Audit {
    /// Opens the log in `directory`, and starts writing.
    ///
    /// The thread ends, having written everything, when the last clone is dropped.
    pub(crate) fn open(directory: &Path, options: &config::Audit) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut files = Files::open(directory, options)?;
        let (queue, mut events) = mpsc::channel::<Event>(QUEUE_EVENTS_MAX);
        let writer = std::thread::Builder::new().name("berth-audit".into()).spawn(move || {
            while let Some(event) = events.blocking_recv() {
                let mut lines = line(&event);
                while files.have_room(lines.len()) {
                    match events.try_recv() {
                        Ok(event) => lines += &line(&event),
                        Err(_) => break,
                    }
                }
                if let Err(error) = files.append(lines.as_bytes()) {
                    tracing::error!(%error, "the audit log could not be written");
                }
            }
        })?;
        Ok((Self { queue, directory: directory.into(), pulls: options.pulls }, writer))
    }

    /// Writes the event down, if it is worth a line. Waits if the disk does not keep up: nothing is left out.
    pub(crate) async fn record(&self, mut event: Event) {
        if !event.is_worth_a_line(self.pulls) {
            return;
        }
        event.time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        if self.queue.send(event).await.is_err() {
            tracing::error!("the audit log has stopped");
        }
    }

    /// Up to `limit` entries before `before` (`None`: the newest).
    pub(crate) async fn page(&self, before: Option<Position>, limit: usize) -> io::Result<Page> {
        let directory = Arc::clone(&self.directory);
        let read = tokio::task::spawn_blocking(move || read_page(&directory, before, limit.clamp(1, PAGE_ENTRIES_MAX)));
        read.await.unwrap_or_else(|died| Err(io::Error::other(died)))
    }
}

fn line(event: &Event) -> String {
    serde_json::to_string(event).unwrap_or_default() + "\n"
}

/// A place in the log: a file's number, and the byte in it at which a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    file: u64,
    offset: u64,
}

impl std::str::FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (file, offset) = text.split_once('-').ok_or(())?;
        Ok(Self { file: file.parse().map_err(|_| ())?, offset: offset.parse().map_err(|_| ())? })
    }
}

/// The file being written, and those put aside.
struct Files {
    directory: PathBuf,
    file: File,
    number: u64,
    bytes: u64,
    file_bytes_max: u64,
    files_max: usize,
}

fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("audit-{number:08}.log"))
}

/// The numbers of all files, oldest first.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".log")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

impl Files {
    fn open(directory: &Path, options: &config::Audit) -> io::Result<Self> {
        let number = numbers(directory)?.last().copied().unwrap_or(1);
        let (file, bytes) = open_file(directory, number)?;
        let (file_bytes_max, files_max) = (options.file_bytes_max, options.files_max);
        Ok(Self { directory: directory.to_owned(), file, number, bytes, file_bytes_max, files_max })
    }

    /// Whether more may be written to the present file after so many bytes.
    fn have_room(&self, bytes: usize) -> bool {
        self.bytes + (bytes as u64) < self.file_bytes_max
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if !self.have_room(0) {
            self.number += 1;
            (self.file, self.bytes) = open_file(&self.directory, self.number)?;
            let numbers = numbers(&self.directory)?;
            for old in &numbers[..numbers.len().saturating_sub(self.files_max)] {
                std::fs::remove_file(path_of(&self.directory, *old))?;
            }
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

fn open_file(directory: &Path, number: u64) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path_of(directory, number))?;
    let bytes = file.seek(SeekFrom::End(0))?;
    // A crash may have left half a line, which must not swallow the next one.
    let mut last = [b'\n'];
    if bytes > 0 {
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, bytes - 1)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok((file, bytes))
}

/// Reads files from the newest back until there are enough lines. One file's lines are looked at in one go, of which the
/// last `limit` are kept.
fn read_page(directory: &Path, before: Option<Position>, limit: usize) -> io::Result<Page> {
    let end = before.unwrap_or(Position { file: u64::MAX, offset: u64::MAX });
    let mut found: VecDeque<(Position, serde_json::Value)> = VecDeque::new();
    let mut more = false;
    for number in numbers(directory)?.into_iter().rev().filter(|number| *number <= end.file) {
        let stop = if number == end.file { end.offset } else { u64::MAX };
        let wanted = limit - found.len();
        let (mut here, mut offset) = (VecDeque::new(), 0);
        let mut reader = BufReader::new(File::open(path_of(directory, number))?);
        let mut line = Vec::new();
        while offset < stop && reader.read_until(b'\n', &mut line)? > 0 {
            if let Ok(entry) = serde_json::from_slice(&line) {
                here.push_back((Position { file: number, offset }, entry));
            }
            offset += line.len() as u64;
            line.clear();
            if here.len() > wanted {
                here.pop_front();
                more = true;
            }
        }
        while let Some(entry) = here.pop_back() {
            found.push_front(entry);
        }
        if found.len() == limit {
            more |= number > numbers(directory)?.first().copied().unwrap_or_default();
            break;
        }
    }
    let before = found.front().filter(|_| more).map(|(position, _)| format!("{}-{}", position.file, position.offset));
    Ok(Page { entries: found.into_iter().rev().map(|(_, entry)| entry).collect(), before })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(path: &str) -> Event {
        let mut event = Event::default();
        event.request(&Method::PUT, path, 201, "id");
        event
    }

    #[tokio::test]
    async fn entries_come_back_newest_first_page_by_page_over_rotated_files() {
        let directory = tempfile::tempdir().unwrap();
        let options = config::Audit { pulls: false, file_bytes_max: 4096, files_max: 100 };
        let (audit, writer) = Audit::open(directory.path(), &options).unwrap();
        for i in 0..200 {
            audit.record(event(&format!("/{i}"))).await;
        }
        let reader = audit.clone();
        drop(audit);
        let (mut before, mut seen) = (None, Vec::new());
        // The reader's own sender keeps the thread alive; wait for the last line instead.
        while reader.page(None, 1).await.unwrap().entries.first().is_none_or(|entry| entry["path"] != "/199") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(numbers(directory.path()).unwrap().len() > 2);
        loop {
            let page = reader.page(before, 7).await.unwrap();
            seen.extend(page.entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()));
            match page.before {
                Some(position) => before = Some(position.parse().unwrap()),
                None => break,
            }
        }
        assert_eq!(seen, (0..200).rev().map(|i| format!("/{i}")).collect::<Vec<_>>());
        drop(reader);
        writer.join().unwrap();
    }

    #[test]
    fn old_files_go_and_half_a_line_spoils_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let options = config::Audit { pulls: false, file_bytes_max: 4096, files_max: 3 };
        let mut files = Files::open(directory.path(), &options).unwrap();
        for i in 0..300 {
            files.append(line(&event(&format!("/{i}"))).as_bytes()).unwrap();
        }
        assert_eq!(numbers(directory.path()).unwrap().len(), 3);
        files.append(b"{\"half").unwrap();
        let mut files = Files::open(directory.path(), &options).unwrap();
        files.append(line(&event("/after")).as_bytes()).unwrap();
        let page = read_page(directory.path(), None, 2).unwrap();
        assert_eq!(page.entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect::<Vec<_>>(), ["/after", "/299"]);
    }

    #[test]
    fn pulls_are_left_out_unless_asked_for_and_refusals_never_are() {
        let mut pull = Event { repository: Some("r".into()), is_pull: true, ..Event::default() };
        pull.request(&Method::GET, "/v2/", 200, "");
        assert!(!pull.is_worth_a_line(false) && pull.is_worth_a_line(true));
        let mut asked = Event { is_pull: true, ..Event::default() };
        asked.request(&Method::GET, "/v2/", 401, "");
        assert!(!asked.is_worth_a_line(true));
        let mut wrong = Event { is_pull: true, credentials: Some("basic".into()), ..Event::default() };
        wrong.request(&Method::GET, "/v2/", 401, "");
        assert!(wrong.is_worth_a_line(false));
        assert!(event("/x").is_worth_a_line(false));
    }

    #[test]
    fn a_password_typed_as_a_name_is_not_written_down() {
        let mut event = Event::default();
        event.claims(&Credentials::Basic("My Secret!".into(), crate::http::Secret::new("x")));
        assert_eq!(event.claimed, None);
        event.claims(&Credentials::Basic("alice".into(), crate::http::Secret::new("x")));
        assert_eq!(event.claimed.as_deref(), Some("alice"));
        assert!(!line(&event).contains("Secret"));
    }
}
