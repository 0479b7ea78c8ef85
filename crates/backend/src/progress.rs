//! One line on a terminal that says how far something long is. Where there is no terminal there is no line.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the line is written anew.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// The line.
pub(crate) struct Progress {
    begun: Instant,
    line: Option<Mutex<Line>>,
}

struct Line {
    written: Instant,
    width: usize,
}

impl Progress {
    /// A line on standard error, if that is a terminal.
    pub(crate) fn on_stderr() -> Self {
        let begun = Instant::now();
        let line = std::io::stderr().is_terminal().then(|| Mutex::new(Line { written: begun, width: 0 }));
        Self { begun, line }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        self.line.is_some()
    }

    /// Since it began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Shows what `text` says, unless the line was written just now.
    pub(crate) fn show(&self, text: impl FnOnce(Duration) -> String) {
        let Some(line) = &self.line else { return };
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.written.elapsed() >= INTERVAL {
            line.write(&text(self.begun.elapsed()));
        }
    }

    /// Writes something that stays.
    pub(crate) fn say(&self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        if let Some(line) = &self.line {
            line.lock().unwrap_or_else(PoisonError::into_inner).write("");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Line {
    fn write(&mut self, text: &str) {
        let width = self.width.max(text.chars().count());
        // A terminal that is gone is no reason to stop.
        let _ = write!(std::io::stderr(), "\r{text:<width$}\r{text}").and_then(|()| std::io::stderr().flush());
        (self.width, self.written) = (text.chars().count(), Instant::now());
    }
}

/// A number of bytes for people, in units of 1024.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Bytes in a second, for people.
pub(crate) fn rate(number: u64, elapsed: Duration) -> String {
    format!("{}/s", bytes((number as f64 / elapsed.as_secs_f64().max(0.001)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        for (number, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_610_612_736, "1.5 GiB"), (u64::MAX, "16777216.0 TiB")] {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(rate(3 << 20, Duration::from_secs(2)), "1.5 MiB/s");
    }
}
