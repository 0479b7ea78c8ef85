//! What is where in a tar on the disk. Nothing is ever unpacked to a path: members are read in place. A tar that is packed is
//! unpacked first, as a whole, into a file without a name.
//!
//! An archive comes from somebody else, so every length in it is checked before it is believed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::unpack::{self, MAGIC_BYTES, Packing};

const BLOCK_BYTES: usize = 512;

/// Members of one archive. An image has a few hundred at most.
const MEMBERS_MAX: usize = 200_000;

/// Longest block of GNU or PAX facts about one member, in bytes.
const META_BYTES_MAX: u64 = 1 << 20;

/// Longest name of a member, in bytes.
const NAME_BYTES_MAX: usize = 4096;

/// Links that are followed from one member to the next.
const LINKS_MAX: usize = 8;

/// Why an archive, or a member of it, can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Packed(io::Error),
    #[error("it is no tar, or it is damaged, at byte {0}")]
    Damaged(u64),
    #[error("it ends in the middle of {0}")]
    Truncated(String),
    #[error("a member's name leads out of it: {0}")]
    Outside(String),
    #[error("{0} is stored as a sparse file")]
    Sparse(String),
    #[error("it has more than {MEMBERS_MAX} members")]
    TooManyMembers,
    #[error("{0} has more than {1} bytes")]
    TooLarge(String, u64),
    #[error("it has no {0}")]
    Absent(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A tar on the disk.
#[derive(Clone)]
pub(super) struct Archive {
    file: Arc<File>,
    members: Arc<HashMap<String, Member>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    File(Place),
    /// The same as the member of that name.
    Link(String),
    /// A link that leads out of the archive. Nobody follows it.
    LinkOut,
}

/// Where a member's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Archive {
    /// Opens an archive, however it is packed; what it unpacks to lies in `scratch` for as long as it is read. Blocks.
    pub(super) fn open(path: &Path, scratch: &Path) -> Result<Self, Unreadable> {
        let mut file = File::open(path)?;
        let packing = packing(&file)?;
        if packing != Packing::Plain {
            file = unpack_file(file, packing, scratch).map_err(Unreadable::Packed)?;
        }
        let length = file.metadata()?.len();
        let members = index(&mut io::BufReader::with_capacity(BLOCK_BYTES * 4, &mut file), length)?;
        Ok(Self { file: Arc::new(file), members: Arc::new(members) })
    }

    /// The member's content, through links.
    pub(super) fn find(&self, name: &str) -> Option<Place> {
        find(&self.members, name)
    }

    /// What there is to say of a name that [`Self::find`] does not know.
    pub(super) fn why_absent(&self, name: &str) -> &'static str {
        if self.members.contains_key(name) { "it is a link that leads to nothing in the archive" } else { "it is missing" }
    }

    /// The names of all files and links.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// The whole of a member that is meant to be small.
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, Unreadable> {
        let place = self.find(name).ok_or_else(|| Unreadable::Absent(name.to_owned()))?;
        if place.size > bytes_max {
            return Err(Unreadable::TooLarge(name.to_owned(), bytes_max));
        }
        let mut bytes = vec![0; usize::try_from(place.size).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        Ok(bytes)
    }

    /// How a member is packed.
    pub(super) fn packing(&self, place: Place) -> io::Result<Packing> {
        let mut start = [0; MAGIC_BYTES];
        let length = start.len().min(usize::try_from(place.size).unwrap_or(usize::MAX));
        self.file.read_exact_at(&mut start[..length], place.offset)?;
        Ok(Packing::of(&start[..length]))
    }

    /// What a member unpacks to, however it is packed.
    pub(super) fn unpacked(&self, place: Place) -> io::Result<Box<dyn Read + Send>> {
        unpack::unpacked(self.content(place), self.packing(place)?, place.size)
    }

    /// A member's content, from front to back.
    pub(super) fn content(&self, place: Place) -> Content {
        Content { file: Arc::clone(&self.file), place }
    }
}

/// How an archive is packed. The first member of a tar may have a name that begins as something packed does.
fn packing(file: &File) -> io::Result<Packing> {
    let mut block = [0; BLOCK_BYTES];
    let mut length = 0;
    while length < block.len() {
        match file.read_at(&mut block[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    let is_tar = length == BLOCK_BYTES && Header::parse(&block).is_some();
    Ok(if is_tar { Packing::Plain } else { Packing::of(&block[..length.min(MAGIC_BYTES)]) })
}

/// Unpacks a file into one that has no name, and is gone with the last who reads it.
fn unpack_file(file: File, packing: Packing, scratch: &Path) -> io::Result<File> {
    let size = file.metadata()?.len();
    let mut unpacked = nameless(scratch)?;
    io::copy(&mut unpack::unpacked(file, packing, size)?, &mut unpacked)?;
    Ok(unpacked)
}

fn nameless(directory: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    match openat(CWD, directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        Ok(file) => Ok(file.into()),
        // Not every file system can do without a name.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let path = directory.join(format!("import-{}.tar", std::process::id()));
            let file = openat(CWD, &path, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC, mode)?;
            unlinkat(CWD, &path, rustix::fs::AtFlags::empty())?;
            Ok(file.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// A member being read.
pub(super) struct Content {
    file: Arc<File>,
    place: Place,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.place.size).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.place.offset)?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.place.offset += read as u64;
        self.place.size -= read as u64;
        Ok(read)
    }
}

fn find(members: &HashMap<String, Member>, name: &str) -> Option<Place> {
    let mut name = name.to_owned();
    for _ in 0..=LINKS_MAX {
        match members.get(&name)? {
            Member::File(place) => return Some(*place),
            Member::Link(target) => name.clone_from(target),
            Member::LinkOut => return None,
        }
    }
    None
}

/// What GNU and PAX members say about the one behind them.
#[derive(Default)]
struct Facts {
    /// GNU's long names count before those of PAX, whichever comes first.
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Reads all headers, and skips what is between them.
fn index(reader: &mut (impl Read + Seek), length: u64) -> Result<HashMap<String, Member>, Unreadable> {
    let (mut members, mut facts, mut at) = (HashMap::new(), Facts::default(), 0_u64);
    while at < length {
        let mut block = [0; BLOCK_BYTES];
        let header = reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(&mut block));
        header.map_err(|_| Unreadable::Truncated("a header".to_owned()))?;
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        let here = at;
        let damaged = || Unreadable::Damaged(here);
        let header = Header::parse(&block).ok_or_else(damaged)?;
        let (said, offset) = (facts.size.filter(|_| !header.is_meta()).unwrap_or(header.size), at + BLOCK_BYTES as u64);
        let size = if header.has_content() { said } else { 0 };
        let name =
            String::from_utf8(facts.long_name.as_ref().or(facts.name.as_ref()).unwrap_or(&header.name).clone()).map_err(|_| damaged())?;
        let end = offset.checked_add(size).filter(|end| *end <= length).ok_or_else(|| Unreadable::Truncated(name.clone()))?;
        at = end.next_multiple_of(BLOCK_BYTES as u64);
        match header.kind {
            b'L' | b'K' | b'x' => {
                let text = read_meta(reader, &name, Place { offset, size })?;
                match header.kind {
                    b'L' => facts.long_name = not_empty(until_nul(&text)),
                    b'K' => facts.long_link = not_empty(until_nul(&text)),
                    _ => facts.learn(&text).ok_or_else(damaged)?,
                }
                continue;
            }
            b'0' | 0 | b'7' => {
                members.insert(inside(&name)?, Member::File(Place { offset, size }));
            }
            b'1' | b'2' => {
                let target =
                    String::from_utf8(facts.long_link.take().or(facts.link.take()).unwrap_or(header.link)).map_err(|_| damaged())?;
                let name = inside(&name)?;
                let base = if header.kind == b'2' { name.rsplit_once('/').map_or("", |(directory, _)| directory) } else { "" };
                let member = join(base, &target).map_or(Member::LinkOut, Member::Link);
                members.insert(name, member);
            }
            b'S' => return Err(Unreadable::Sparse(name)),
            // Directories, and what no image has: nothing that could be read.
            _ => {}
        }
        facts = Facts::default();
        if members.len() > MEMBERS_MAX {
            return Err(Unreadable::TooManyMembers);
        }
    }
    Ok(members)
}

/// Reads a tar from front to back, and whatever it is packed in to its end. What was broken off lacks the end.
pub(super) fn require_end(reader: &mut impl Read) -> Result<(), Unreadable> {
    let (mut facts, mut at) = (Facts::default(), 0_u64);
    loop {
        let mut block = [0; BLOCK_BYTES];
        reader.read_exact(&mut block).map_err(|error| broken_off(error, "the tar"))?;
        if block.iter().all(|byte| *byte == 0) {
            io::copy(reader, &mut io::sink())?;
            return Ok(());
        }
        let header = Header::parse(&block).ok_or(Unreadable::Damaged(at))?;
        let said = facts.size.filter(|_| !header.is_meta()).unwrap_or(header.size);
        let size = if header.has_content() { said } else { 0 };
        let padded = size.checked_next_multiple_of(BLOCK_BYTES as u64).ok_or(Unreadable::Damaged(at))?;
        at = at.checked_add(padded + BLOCK_BYTES as u64).ok_or(Unreadable::Damaged(at))?;
        let mut content = reader.take(padded);
        if header.kind == b'x' {
            if size > META_BYTES_MAX {
                return Err(Unreadable::TooLarge("PAX".to_owned(), META_BYTES_MAX));
            }
            let mut text = Vec::new();
            content.read_to_end(&mut text)?;
            text.truncate(usize::try_from(size).unwrap_or(usize::MAX));
            facts.learn(&text).ok_or(Unreadable::Damaged(at))?;
        } else if !header.is_meta() {
            facts = Facts::default();
        }
        io::copy(&mut content, &mut io::sink())?;
        if content.limit() > 0 {
            return Err(Unreadable::Truncated("a member".to_owned()));
        }
    }
}

/// The end comes too early, or something else is wrong.
fn broken_off(error: io::Error, what: &str) -> Unreadable {
    if error.kind() == io::ErrorKind::UnexpectedEof { Unreadable::Truncated(what.to_owned()) } else { error.into() }
}

fn read_meta(reader: &mut (impl Read + Seek), name: &str, place: Place) -> Result<Vec<u8>, Unreadable> {
    if place.size > META_BYTES_MAX {
        return Err(Unreadable::TooLarge(name.to_owned(), META_BYTES_MAX));
    }
    let mut bytes = Vec::new();
    reader.seek(SeekFrom::Start(place.offset))?;
    reader.take(place.size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Facts {
    /// Reads PAX records: `length key=value LF`.
    fn learn(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
            let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], not_empty(&record[equals + 1..]));
            match key {
                b"path" => self.name = value,
                b"linkpath" => self.link = value,
                b"size" => {
                    self.size = match value {
                        Some(value) => Some(str::from_utf8(&value).ok()?.parse().ok()?),
                        None => None,
                    }
                }
                _ => {}
            }
            records = &records[length..];
        }
        Some(())
    }
}

/// What is said of a member in front of it. Where that is nothing, its own header counts.
fn not_empty(value: &[u8]) -> Option<Vec<u8>> {
    Some(value.to_vec()).filter(|value| !value.is_empty())
}

/// What a header block says.
struct Header {
    name: Vec<u8>,
    size: u64,
    kind: u8,
    link: Vec<u8>,
}

impl Header {
    fn parse(block: &[u8; BLOCK_BYTES]) -> Option<Self> {
        let sum: u64 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
        if number(&block[148..156])? != sum {
            return None;
        }
        let mut name = until_nul(&block[..100]).to_vec();
        let prefix = until_nul(&block[345..500]);
        // GNU's own form has other things there.
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Some(Self { name, size: number(&block[124..136])?, kind: block[156], link: until_nul(&block[157..257]).to_vec() })
    }

    /// Whether it says something about the member behind it.
    fn is_meta(&self) -> bool {
        matches!(self.kind, b'L' | b'K' | b'x' | b'g')
    }

    fn has_content(&self) -> bool {
        !matches!(self.kind, b'1'..=b'6')
    }
}

/// A number in octal, or in GNU's binary form.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let is_small = high.iter().enumerate().all(|(at, byte)| *byte == if at == 0 { 0x80 } else { 0 });
        return is_small.then(|| low.try_into().ok().map(u64::from_be_bytes))?;
    }
    // As Go reads it: blanks and NULs around the digits are none of them.
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let text = std::str::from_utf8(until_nul(&field[start..])).ok()?.trim_end_matches(' ');
    match text {
        "" => Some(0),
        text if text.starts_with('+') => None,
        text => u64::from_str_radix(text, 8).ok(),
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A member's name, cleaned.
fn inside(name: &str) -> Result<String, Unreadable> {
    let outside = || Unreadable::Outside(name.chars().take(100).collect());
    if name.len() > NAME_BYTES_MAX || name.split('/').any(|part| part == "..") {
        return Err(outside());
    }
    join("", name).ok_or_else(outside)
}

/// Where `path` leads from `base`, both without a beginning slash; `None`: out of the archive.
fn join(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    if path.starts_with('/') || path.len() > NAME_BYTES_MAX {
        return None;
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
pub(super) mod tests;
