//! What a disk holds after the power was cut: a record of everything that a process wrote (`tests/power/record.c`), played
//! back up to any moment, without what was not synced then.
//!
//! A file system may keep more than it has to, so what was not synced is lost in several ways: all of it, none of it, or any
//! pages of files and any first part of what happened in each directory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crate::Random;

/// What the kernel writes at once, in bytes.
const PAGE: usize = 4096;

/// Bytes in front of a record's texts.
const HEAD_BYTES: usize = 57;

/// The mark of records that the test puts between those of the process.
pub const NOTE: u8 = b'n';

/// One thing that happened.
#[derive(Debug)]
pub struct Event {
    kind: u8,
    process: i64,
    fd: i64,
    offset: i64,
    flags: i64,
    /// A path, or what the test has noted.
    pub text: String,
    other: String,
    data: Vec<u8>,
}

impl Event {
    /// Whether it is a note of the test.
    pub fn is_note(&self) -> bool {
        self.kind == NOTE
    }
}

/// The bytes of a record with which the test notes something.
pub fn note(text: &str) -> Vec<u8> {
    let mut bytes = vec![NOTE];
    for number in [0, 0, 0, 0, 0, i64::try_from(text.len()).unwrap(), 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(text.as_bytes());
    bytes
}

/// Reads a whole record.
pub fn events(mut record: &[u8]) -> Vec<Event> {
    let mut found = Vec::new();
    while !record.is_empty() {
        let number = |at: usize| i64::from_le_bytes(record[1 + 8 * at..9 + 8 * at].try_into().unwrap());
        let length = |at: usize| usize::try_from(number(at)).unwrap();
        let kind = record[0];
        let mut rest = &record[HEAD_BYTES..];
        let mut take = |length: usize| {
            let (now, later) = rest.split_at(length);
            rest = later;
            now.to_vec()
        };
        let text = String::from_utf8(take(length(5))).unwrap();
        let other = String::from_utf8(take(length(6))).unwrap();
        let data = if kind == b'w' { take(length(3)) } else { Vec::new() };
        found.push(Event { kind, process: number(0), fd: number(1), offset: number(2), flags: number(4), text, other, data });
        record = rest;
    }
    found
}

/// What was not synced yet.
#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    synced: Vec<u8>,
    /// How many changes are in `synced`.
    done: usize,
    pending: Vec<Change>,
}

fn write(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => write(content, *offset, data),
        Change::Length(length) => content.resize(*length, 0),
    }
}

impl File {
    fn sync(&mut self, until: usize) {
        let count = until.saturating_sub(self.done).min(self.pending.len());
        for change in self.pending.drain(..count) {
            apply(&mut self.synced, &change);
        }
        self.done += count;
    }

    /// What is on the disk after a cut.
    fn after(&self, loss: Loss, random: &mut Random) -> Vec<u8> {
        let mut content = self.synced.clone();
        let has_lengths = self.pending.iter().any(|change| matches!(change, Change::Length(_)));
        match loss {
            Loss::Everything => {}
            Loss::Nothing => self.pending.iter().for_each(|change| apply(&mut content, change)),
            Loss::Some if has_lengths => {
                let count = usize::try_from(random.below(self.pending.len() as u64 + 1)).unwrap();
                self.pending[..count].iter().for_each(|change| apply(&mut content, change));
            }
            Loss::Some => self.keep_pages(&mut content, random),
        }
        content
    }

    /// Of each page any of the states that it had since it was synced.
    fn keep_pages(&self, content: &mut Vec<u8>, random: &mut Random) {
        let mut pages: BTreeMap<usize, Vec<(usize, &[u8])>> = BTreeMap::new();
        for change in &self.pending {
            let Change::Write(offset, data) = change else { continue };
            let (mut offset, mut data) = (*offset, data.as_slice());
            while !data.is_empty() {
                let (now, later) = data.split_at(data.len().min(PAGE - offset % PAGE));
                pages.entry(offset / PAGE).or_default().push((offset, now));
                (offset, data) = (offset + now.len(), later);
            }
        }
        for writes in pages.values() {
            let kept = usize::try_from(random.below(writes.len() as u64 + 1)).unwrap();
            writes[..kept].iter().for_each(|(offset, data)| write(content, *offset, data));
        }
    }
}

/// What a cut does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is lost.
    Everything,
    /// It happens to be kept.
    Nothing,
    /// Some of it is.
    Some,
}

#[derive(Clone, Debug)]
enum Entry {
    Put(String, usize),
    Gone(String),
}

/// A disk, and what the process believes to be on it.
#[derive(Default)]
pub struct Disk {
    files: Vec<File>,
    /// What the process sees.
    names: BTreeMap<String, usize>,
    /// What is safe.
    synced_names: BTreeMap<String, usize>,
    /// What happened in each directory since it was synced.
    pending: BTreeMap<String, Vec<Entry>>,
    /// Directories; their own names are taken for safe once the one above was synced, like those of files.
    directories: HashMap<usize, String>,
    open: HashMap<(i64, i64), usize>,
    /// How much of a file the sync that is under way will make safe.
    syncing: HashMap<(i64, i64), usize>,
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').map_or_else(String::new, |(directory, _)| directory.to_owned())
}

impl Disk {
    fn put(&mut self, path: &str, file: usize) {
        self.names.insert(path.to_owned(), file);
        self.pending.entry(parent(path)).or_default().push(Entry::Put(path.to_owned(), file));
    }

    fn remove(&mut self, path: &str) -> Option<usize> {
        self.pending.entry(parent(path)).or_default().push(Entry::Gone(path.to_owned()));
        self.names.remove(path)
    }

    fn create(&mut self, path: &str) -> usize {
        self.files.push(File::default());
        self.put(path, self.files.len() - 1);
        self.files.len() - 1
    }

    /// Does what happened.
    pub fn play(&mut self, event: &Event) {
        let by = (event.process, event.fd);
        match event.kind {
            b'o' => {
                let known = self.names.get(&event.text).copied();
                let file = match known {
                    Some(file) if event.flags & 1 == 0 => file,
                    // The root is there before everything else, and is a directory.
                    _ if event.text.is_empty() => self.files.len(),
                    _ => self.create(&event.text),
                };
                if file == self.files.len() {
                    self.files.push(File::default());
                    self.names.insert(String::new(), file);
                    self.directories.insert(file, String::new());
                }
                if event.flags & 2 != 0 {
                    self.files[file].pending.push(Change::Length(0));
                }
                self.open.insert(by, file);
            }
            b'c' => drop(self.open.remove(&by)),
            b'w' => {
                if let Some(file) = self.open.get(&by) {
                    let offset = usize::try_from(event.offset).unwrap();
                    self.files[*file].pending.push(Change::Write(offset, event.data.clone()));
                }
            }
            b't' => {
                if let Some(file) = self.open.get(&by) {
                    self.files[*file].pending.push(Change::Length(usize::try_from(event.offset).unwrap()));
                }
            }
            b's' => {
                if let Some(file) = self.open.get(&by) {
                    let until = match self.directories.get(file) {
                        Some(path) => self.pending.get(path).map_or(0, Vec::len),
                        None => self.files[*file].done + self.files[*file].pending.len(),
                    };
                    self.syncing.insert(by, until);
                }
            }
            b'S' => {
                if let (Some(file), Some(until)) = (self.open.get(&by).copied(), self.syncing.remove(&by)) {
                    match self.directories.get(&file).cloned() {
                        Some(path) => self.sync_directory(&path, until),
                        None => self.files[file].sync(until),
                    }
                }
            }
            b'm' => {
                let directory = self.create(&event.text);
                self.directories.insert(directory, event.text.clone());
            }
            b'r' => {
                if let Some(file) = self.remove(&event.text) {
                    // Both ends at once: no file system that is in use does one without the other.
                    let gone = self.pending.get_mut(&parent(&event.text)).and_then(Vec::pop);
                    self.put(&event.other, file);
                    if let Some(gone) = gone {
                        self.pending.entry(parent(&event.text)).or_default().push(gone);
                    }
                }
            }
            b'l' => {
                if let Some(file) = self.names.get(&event.text).copied() {
                    self.put(&event.other, file);
                }
            }
            b'u' => drop(self.remove(&event.text)),
            _ => {}
        }
    }

    fn sync_directory(&mut self, path: &str, until: usize) {
        let Some(pending) = self.pending.get_mut(path) else { return };
        // A second sync of the same directory may have ended since this one began.
        let count = until.min(pending.len());
        for entry in pending.drain(..count).collect::<Vec<_>>() {
            enter(&mut self.synced_names, &entry);
        }
    }

    /// Makes `root` what is on the disk after a cut now.
    pub fn cut(&self, root: &Path, loss: Loss, random: &mut Random) -> io::Result<()> {
        let mut names = self.synced_names.clone();
        for pending in self.pending.values() {
            let kept = match loss {
                Loss::Everything => 0,
                Loss::Nothing => pending.len(),
                Loss::Some => usize::try_from(random.below(pending.len() as u64 + 1)).unwrap(),
            };
            pending[..kept].iter().for_each(|entry| enter(&mut names, entry));
        }
        fs::create_dir_all(root)?;
        // Directories sort before what is in them.
        for (path, file) in &names {
            let target = root.join(path);
            if self.directories.contains_key(file) {
                fs::create_dir_all(&target)?;
            } else if target.parent().is_some_and(Path::is_dir) {
                fs::write(&target, self.files[*file].after(loss, random))?;
            }
        }
        Ok(())
    }
}

fn enter(names: &mut BTreeMap<String, usize>, entry: &Entry) {
    match entry {
        Entry::Put(path, file) => drop(names.insert(path.clone(), *file)),
        Entry::Gone(path) => drop(names.remove(path)),
    }
}

/// Reads a record from a file that may be large.
pub fn read_record(path: &Path) -> io::Result<Vec<Event>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(events(&bytes))
}
