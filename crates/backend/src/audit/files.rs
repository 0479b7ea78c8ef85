//! The files of the log: `<series>-<number>.log`.
//!
//! What follows the last line break of a file is no line. It is what a full disk or a crash has left of one, and is cut off
//! before anything is written behind it: when the log is opened, and when a write has failed. What can't be written is kept
//! for when there is space again, up to a bound, and what is beyond that is counted and said.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Event, line_of, now};
use crate::config;

/// Bytes of lines of one series that wait for the disk to take them.
const HELD_BYTES_MAX: usize = 1 << 20;

/// Bytes that are looked at in one go when looking for the end of the last line.
const BLOCK_BYTES: u64 = 64 << 10;

/// What is kept together, and apart from the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Series {
    /// What was done.
    Changes,
    /// Who came in.
    Logins,
    /// Who was kept from what.
    Refusals,
    /// What was read, if that is wanted.
    Pulls,
    /// What was written before there were series. Nothing is added to it.
    Before,
}

impl Series {
    pub(super) const ALL: [Self; 5] = [Self::Changes, Self::Logins, Self::Refusals, Self::Pulls, Self::Before];

    /// What the names of its files begin with.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Logins => "logins",
            Self::Refusals => "refusals",
            Self::Pulls => "pulls",
            Self::Before => "audit",
        }
    }
}

pub(super) fn path_of(directory: &Path, series: Series, number: u64) -> PathBuf {
    directory.join(format!("{}-{number:08}.log", series.name()))
}

/// The numbers of all files of a series, oldest first.
pub(super) fn numbers(directory: &Path, series: Series) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(series.name())?.strip_prefix('-')?.strip_suffix(".log"));
        numbers.extend(rest.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// All series that are written.
pub(super) struct Logs([Log; 4]);

impl Logs {
    pub(super) fn open(directory: &Path, options: &config::Audit) -> io::Result<Self> {
        let open = |series| Log::open(directory, series, options);
        Ok(Self([open(Series::Changes)?, open(Series::Logins)?, open(Series::Refusals)?, open(Series::Pulls)?]))
    }

    /// Takes a whole line, to be written with the next flush.
    pub(super) fn add(&mut self, series: Series, line: &str) {
        for log in self.0.iter_mut().filter(|log| log.series == series) {
            log.add(line);
        }
    }

    /// Writes what was added. What the disk does not take is tried again the next time.
    pub(super) fn flush(&mut self) {
        for log in &mut self.0 {
            match log.flush() {
                Ok(()) => log.is_failing = false,
                Err(error) if !log.is_failing => {
                    log.is_failing = true;
                    tracing::error!(%error, series = log.series.name(), "the audit log could not be written; its lines wait");
                }
                Err(_) => {}
            }
        }
    }
}

/// One series: the file being written, and those put aside.
struct Log {
    directory: PathBuf,
    series: Series,
    /// Made with the first line.
    file: Option<File>,
    number: u64,
    /// Where the last whole line of the file ends.
    bytes: u64,
    /// Whether something may stand behind it.
    is_torn: bool,
    /// Lines that are not written yet.
    held: String,
    /// How many were not even held.
    left_out: u64,
    is_failing: bool,
    file_bytes_max: u64,
    files_max: usize,
}

impl Log {
    fn open(directory: &Path, series: Series, options: &config::Audit) -> io::Result<Self> {
        let last = numbers(directory, series)?.last().copied();
        let mut log = Self {
            directory: directory.to_owned(),
            series,
            file: None,
            number: last.unwrap_or(1),
            bytes: 0,
            is_torn: false,
            held: String::new(),
            left_out: 0,
            is_failing: false,
            file_bytes_max: options.file_bytes_max,
            files_max: options.files_max,
        };
        if last.is_some() {
            log.open_file()?;
        }
        Ok(log)
    }

    fn open_file(&mut self) -> io::Result<()> {
        let path = path_of(&self.directory, self.series, self.number);
        let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        self.bytes = end_of_last_line(&file, bytes)?;
        self.is_torn = self.bytes < bytes;
        self.file = Some(file);
        Ok(())
    }

    fn add(&mut self, line: &str) {
        if self.held.len() + line.len() > HELD_BYTES_MAX {
            self.left_out += 1;
        } else {
            self.held += line;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.held.is_empty() {
            let taken = self.write_some()?;
            self.held.drain(..taken);
            if self.held.is_empty() && self.left_out > 0 {
                tracing::error!(
                    lines = self.left_out,
                    series = self.series.name(),
                    "lines of the audit log were left out: the disk was full"
                );
                let left_out = Some(std::mem::take(&mut self.left_out));
                self.held = line_of(&Event { time: now(), left_out, ..Event::default() });
            }
        }
        Ok(())
    }

    /// Writes as many lines as the present file has room for, one at least. Returns their bytes.
    fn write_some(&mut self) -> io::Result<usize> {
        let first = self.held.find('\n').map_or(self.held.len(), |at| at + 1);
        if self.file.is_some() && self.bytes > 0 && self.bytes + first as u64 > self.file_bytes_max {
            self.number += 1;
            self.file = None;
        }
        if self.file.is_none() {
            self.open_file()?;
            self.delete_old()?;
        }
        let room = usize::try_from(self.file_bytes_max.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
        let end = self.held.as_bytes().iter().take(room).rposition(|byte| *byte == b'\n').map_or(first, |at| at + 1);
        let Some(file) = &mut self.file else { return Ok(0) };
        if self.is_torn {
            file.set_len(self.bytes)?;
            self.is_torn = false;
        }
        if let Err(error) = file.write_all(&self.held.as_bytes()[..end]) {
            // Some of it may be there. A file can be made shorter on a full disk, too.
            self.is_torn = file.set_len(self.bytes).is_err();
            return Err(error);
        }
        self.bytes += end as u64;
        Ok(end)
    }

    /// The oldest files go when there are too many. Those from before there were series count as older changes.
    fn delete_old(&self) -> io::Result<()> {
        let before = if self.series == Series::Changes { numbers(&self.directory, Series::Before)? } else { Vec::new() };
        let own = numbers(&self.directory, self.series)?;
        let old = before.into_iter().map(|number| (Series::Before, number));
        let all: Vec<_> = old.chain(own.into_iter().map(|number| (self.series, number))).collect();
        for (series, number) in &all[..all.len().saturating_sub(self.files_max)] {
            std::fs::remove_file(path_of(&self.directory, *series, *number))?;
        }
        Ok(())
    }
}

/// Behind the last line break of a file of so many bytes.
fn end_of_last_line(file: &File, bytes: u64) -> io::Result<u64> {
    let mut end = bytes;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES);
        block.resize(usize::try_from(end - begin).unwrap_or_default(), 0);
        file.read_exact_at(&mut block, begin)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::super::pages;
    use super::*;

    fn options(files_max: usize) -> config::Audit {
        config::Audit { pulls: false, file_bytes_max: 4096, files_max }
    }

    fn line(path: &str) -> String {
        line_of(&Event { path: path.into(), time: now(), ..Event::default() })
    }

    fn paths(directory: &Path, limit: usize) -> Vec<String> {
        let page = pages::read(directory, None, limit).unwrap();
        page.entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn old_files_go_and_half_a_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let mut logs = Logs::open(directory.path(), &options(3)).unwrap();
        for i in 0..300 {
            logs.add(Series::Changes, &line(&format!("/{i}")));
            logs.flush();
        }
        let files = numbers(directory.path(), Series::Changes).unwrap();
        assert_eq!(files.len(), 3);
        let last = path_of(directory.path(), Series::Changes, files[2]);
        let whole = std::fs::read(&last).unwrap();
        assert!(whole.len() <= 4096);
        std::fs::write(&last, [whole.as_slice(), b"{\"half"].concat()).unwrap();
        let mut logs = Logs::open(directory.path(), &options(3)).unwrap();
        logs.add(Series::Changes, &line("/after"));
        logs.flush();
        assert_eq!(paths(directory.path(), 2), ["/after", "/299"]);
        assert!(std::fs::read(&last).unwrap().strip_prefix(whole.as_slice()).unwrap().starts_with(b"{\"time"));
    }

    #[test]
    fn what_was_written_before_there_were_series_is_read_on_and_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        for number in 1..=2_u64 {
            let text = format!("{{\"time\":\"2020-01-01T00:00:00.000Z\",\"path\":\"/old{number}\"}}\n");
            std::fs::write(path_of(directory.path(), Series::Before, number), text).unwrap();
        }
        let mut logs = Logs::open(directory.path(), &options(3)).unwrap();
        logs.add(Series::Changes, &line("/new"));
        logs.flush();
        assert_eq!(paths(directory.path(), 10), ["/new", "/old2", "/old1"]);
        for _ in 0..40 {
            logs.add(Series::Changes, &line("/more"));
        }
        logs.flush();
        let page = pages::read(directory.path(), "2-0".parse().ok(), 10).unwrap();
        assert_eq!(page.entries, Vec::<serde_json::Value>::new(), "the oldest went");
        assert_eq!(numbers(directory.path(), Series::Before).unwrap(), [2]);
    }

    #[test]
    fn what_a_full_disk_does_not_take_waits_whole_and_what_is_too_much_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut logs = Logs::open(directory.path(), &config::Audit { file_bytes_max: 64 << 20, ..options(3) }).unwrap();
        logs.add(Series::Changes, &line("/first"));
        logs.flush();
        // A device that takes nothing stands for a full disk.
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let good = logs.0[0].file.replace(full);
        let mut added = 0_u64;
        while logs.0[0].left_out < 7 {
            logs.add(Series::Changes, &line("/waits"));
            added += 1;
        }
        logs.flush();
        assert!(logs.0[0].is_failing);
        logs.0[0].file = good;
        logs.flush();
        assert!(!logs.0[0].is_failing);
        let text = std::fs::read_to_string(path_of(directory.path(), Series::Changes, 1)).unwrap();
        let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events.len() as u64, 1 + added - 7 + 1);
        assert_eq!(events.last().unwrap().left_out, Some(7));
    }
}
