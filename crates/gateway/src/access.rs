//! The access log: one line per request, at its end.
//!
//! What must stay true:
//! - A line holds nothing that could be a secret: no `Authorization`, and of a query at most what [`target`] lets pass.
//! - Whatever bytes a client sends, a request is exactly one line in the form that was asked for.
//! - A request never waits for the log. What one thread can't write in time is dropped and counted.

mod line;
mod target;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

pub use line::Entry;
pub(crate) use line::path_of;
use writer::Queue;

use crate::metrics::Counter;

/// How requests are written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// The file that lines are appended to. Without one, `text` goes to the process's log and the others to standard output.
    pub path: Option<PathBuf>,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `name=value` for people.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// NGINX's `combined`.
    Combined,
    /// No lines.
    Off,
}

/// An open access log. Dropping it writes what is queued, in the background.
#[derive(Debug)]
pub struct AccessLog {
    settings: Settings,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Off,
    ProcessLog,
    Lines(fn(&Entry<'_>) -> Vec<u8>, Queue),
}

impl AccessLog {
    /// Opens the log. Lines that are lost are added to `dropped`.
    ///
    /// # Errors
    /// If the file can't be opened, or no thread be had.
    pub fn open(settings: Settings, dropped: Arc<Counter>) -> io::Result<Self> {
        let form: fn(&Entry<'_>) -> Vec<u8> = match settings.format {
            Format::Off => return Ok(Self { settings, kind: Kind::Off }),
            Format::Text if settings.path.is_none() => return Ok(Self { settings, kind: Kind::ProcessLog }),
            Format::Text => line::text,
            Format::Json => line::json,
            Format::Combined => line::combined,
        };
        let queue = Queue::open(settings.path.as_deref(), dropped)?;
        Ok(Self { settings, kind: Kind::Lines(form, queue) })
    }

    /// How it was opened.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Writes the line of a request that has ended.
    pub fn log(&self, entry: &Entry<'_>) {
        match &self.kind {
            Kind::Off => {}
            Kind::ProcessLog => log_to_process(entry),
            Kind::Lines(form, queue) => queue.push(form(entry)),
        }
    }

    /// Opens the file anew, because something has moved it away: to be called after `SIGHUP`.
    pub fn reopen(&self) {
        if let Kind::Lines(_, queue) = &self.kind {
            queue.reopen();
        }
    }

    /// Waits until everything is written, `limit` at most. It blocks, and is for the end of the process.
    pub fn flush(&self, limit: Duration) {
        if let Kind::Lines(_, queue) = &self.kind {
            queue.flush(limit);
        }
    }
}

fn log_to_process(entry: &Entry<'_>) {
    info!(
        target: "access",
        method = entry.method,
        path = &*String::from_utf8_lossy(target::path(entry.target)),
        status = entry.status,
        body.bytes_in = entry.bytes_in,
        body.bytes_out = entry.bytes_out,
        elapsed_ms = u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX),
        binding = entry.binding,
        repository = entry.repository,
        host = &*String::from_utf8_lossy(target::host(entry.host)),
        client.address = entry.client.map(tracing::field::display),
        request.id = entry.request_id,
        refusal = entry.refusal,
        "request"
    );
}

#[cfg(test)]
mod tests;
