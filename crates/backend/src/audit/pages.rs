//! Reading the log, newest first.
//!
//! Each series is read from its end, and the newest of their last lines comes next. So a page costs what it shows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::Serialize;

use super::files::{Series, numbers, path_of};

/// Bytes that are read in one go.
const BLOCK_BYTES: u64 = 64 << 10;

/// Longest line that is looked at, in bytes: none that we write is nearly as long.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A page of the log, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Page {
    /// The entries.
    pub(crate) entries: Vec<serde_json::Value>,
    /// Where the next, older page begins, if there is one.
    pub(crate) before: Option<String>,
}

/// A place in the log: one in each series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place([Position; Series::ALL.len()]);

/// A place in a series: a file's number, and the byte in it at which a line begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    file: u64,
    offset: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, Position { file, offset }) in self.0.iter().enumerate() {
            write!(f, "{}{file}-{offset}", if i == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // Digits only: a plus sign in front would be read too.
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten().ok_or(());
        let (file, offset) = text.split_once('-').ok_or(())?;
        Ok(Self { file: number(file)?, offset: number(offset)? })
    }
}

impl std::str::FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // Before there were series, it was one in the only one.
        if !text.contains('.') {
            let mut place = Self([Position::default(); Series::ALL.len()]);
            place.0[Series::ALL.len() - 1] = text.parse()?;
            return Ok(place);
        }
        let positions = text.split('.').take(Series::ALL.len() + 1).map(str::parse).collect::<Result<Vec<_>, ()>>()?;
        positions.try_into().map(Self).map_err(|_| ())
    }
}

/// Up to `limit` entries before `before` (`None`: the newest).
pub(super) fn read(directory: &Path, before: Option<Place>, limit: usize) -> io::Result<Page> {
    let mut tails = Vec::new();
    for (i, series) in Series::ALL.into_iter().enumerate() {
        tails.push(Tail::before(directory, series, before.map(|place| place.0[i]))?);
    }
    let mut entries = Vec::new();
    let mut heads = Vec::new();
    for tail in &mut tails {
        heads.push(tail.previous()?);
    }
    while entries.len() < limit {
        // Of equally old ones, the first series.
        let newest = (0..heads.len()).rev().filter(|i| heads[*i].is_some()).max_by_key(|i| heads[*i].as_ref().map(|head| head.time()));
        let Some(newest) = newest else { break };
        let next = tails[newest].previous()?;
        if let Some(head) = std::mem::replace(&mut heads[newest], next) {
            tails[newest].end = head.position;
            entries.push(head.entry);
        }
    }
    let before = heads.iter().any(Option::is_some).then(|| {
        let mut place = Place([Position::default(); Series::ALL.len()]);
        for (position, tail) in place.0.iter_mut().zip(&tails) {
            *position = tail.end;
        }
        place.to_string()
    });
    Ok(Page { entries, before })
}

/// A line that was read.
struct Head {
    position: Position,
    entry: serde_json::Value,
}

impl Head {
    fn time(&self) -> String {
        self.entry["time"].as_str().unwrap_or_default().to_owned()
    }
}

/// What is left of a series.
struct Tail<'a> {
    directory: &'a Path,
    series: Series,
    /// Files that are older than the present one, oldest first.
    older: Vec<u64>,
    file: Option<(u64, File)>,
    /// What was read of the present file and not yet given, and where it begins.
    unread: Vec<u8>,
    begin: u64,
    /// Where those lines end that were given and not taken.
    end: Position,
}

impl<'a> Tail<'a> {
    /// What a series has before a position; `None`: everything that it has by now.
    fn before(directory: &'a Path, series: Series, before: Option<Position>) -> io::Result<Self> {
        let mut older = numbers(directory, series)?;
        let end = match (before, older.last()) {
            (Some(position), _) => position,
            (None, Some(last)) => Position { file: *last, offset: std::fs::metadata(path_of(directory, series, *last))?.len() },
            (None, None) => Position::default(),
        };
        older.retain(|number| *number <= end.file);
        let mut tail = Self { directory, series, older, file: None, unread: Vec::new(), begin: 0, end };
        tail.open_older()?;
        Ok(tail)
    }

    /// Goes on with the next older file, if there is one.
    fn open_older(&mut self) -> io::Result<()> {
        self.file = None;
        while let Some(number) = self.older.pop() {
            let file = match File::open(path_of(self.directory, self.series, number)) {
                Ok(file) => file,
                // It was the oldest, and went.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let bytes = file.metadata()?.len();
            self.begin = if number == self.end.file { self.end.offset.min(bytes) } else { bytes };
            self.unread.clear();
            self.file = Some((number, file));
            return Ok(());
        }
        Ok(())
    }

    /// The line before those that were given. What is none, as half of one, is passed over.
    fn previous(&mut self) -> io::Result<Option<Head>> {
        while let Some((position, line)) = self.previous_line()? {
            if let Ok(entry) = serde_json::from_slice(&line) {
                return Ok(Some(Head { position, entry }));
            }
        }
        Ok(None)
    }

    fn previous_line(&mut self) -> io::Result<Option<(Position, Vec<u8>)>> {
        loop {
            let Some((number, file)) = &self.file else { return Ok(None) };
            let before_break = self.unread.len().saturating_sub(1);
            if let Some(at) = self.unread[..before_break].iter().rposition(|byte| *byte == b'\n') {
                let line = self.unread.split_off(at + 1);
                return Ok(Some((Position { file: *number, offset: self.begin + at as u64 + 1 }, line)));
            }
            if self.begin == 0 {
                let line = std::mem::take(&mut self.unread);
                if !line.is_empty() {
                    return Ok(Some((Position { file: *number, offset: 0 }, line)));
                }
                self.open_older()?;
                continue;
            }
            if self.unread.len() > LINE_BYTES_MAX {
                self.unread.clear();
            }
            let begin = self.begin.saturating_sub(BLOCK_BYTES);
            let mut block = vec![0; usize::try_from(self.begin - begin).unwrap_or_default()];
            file.read_exact_at(&mut block, begin)?;
            block.append(&mut self.unread);
            (self.unread, self.begin) = (block, begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::Logs;
    use super::super::{Event, line_of};
    use super::*;
    use crate::config;

    fn event(i: u64) -> String {
        // Several at once, as they are.
        line_of(&Event { time: format!("2026-01-01T00:00:{:02}.000Z", i / 10), path: format!("/{i}"), ..Event::default() })
    }

    #[test]
    fn entries_come_back_newest_first_page_by_page_over_series_and_rotated_files() {
        let directory = tempfile::tempdir().unwrap();
        let options = config::Audit { pulls: true, file_bytes_max: 2048, files_max: 100 };
        let mut logs = Logs::open(directory.path(), &options).unwrap();
        let series = |i: u64| [Series::Changes, Series::Refusals, Series::Refusals, Series::Logins][i as usize % 4];
        for i in 0..300 {
            logs.add(series(i), &event(i));
            logs.flush();
        }
        assert!(numbers(directory.path(), Series::Refusals).unwrap().len() > 2);
        for limit in [1, 7, 300, 1000] {
            let (mut before, mut seen) = (None, Vec::new());
            loop {
                let page = read(directory.path(), before, limit).unwrap();
                assert!(page.entries.len() <= limit);
                seen.extend(page.entries.iter().map(|entry| entry["path"].as_str().unwrap()[1..].parse::<u64>().unwrap()));
                // What comes meanwhile is no older page's.
                logs.add(Series::Pulls, &event(1000));
                logs.flush();
                match page.before {
                    Some(position) => before = Some(position.parse().unwrap()),
                    None => break,
                }
            }
            let seen: Vec<_> = seen.into_iter().filter(|i| *i < 1000).collect();
            assert!(seen.is_sorted_by_key(|i| std::cmp::Reverse(i / 10)), "{seen:?}");
            for wanted in [Series::Changes, Series::Refusals, Series::Logins] {
                let own: Vec<_> = seen.iter().copied().filter(|i| series(*i) == wanted).collect();
                assert_eq!(own, (0..300).rev().filter(|i| series(*i) == wanted).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_place_is_what_was_given_and_nothing_else() {
        let given = "1-2.3-4.5-6.7-8.9-10";
        assert_eq!(given.parse::<Place>().unwrap().to_string(), given);
        assert_eq!("3-77".parse::<Place>().unwrap().to_string(), "0-0.0-0.0-0.0-0.3-77");
        for strange in ["", "x", "1-2.3-4", "1-2.3-4.5-6.7-8.9-10.11-12", "1-2.3-4.5-6.7-8.9", "-1", "1-2.3-4.5-6.7-8.-9-1"] {
            assert!(strange.parse::<Place>().is_err(), "{strange}");
        }
    }
}
