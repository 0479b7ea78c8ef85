//! Every checksum that a V1 client may claim for a layer, computed while the layer streams in.
//!
//! - the payload checksum, `sha256(json, LF, layer as sent)`, of docker 0.10 and later;
//! - tarsum version 0, of every docker: the members' headers and contents, sorted, behind the JSON;
//! - the digest of the unpacked tar, which V2 calls diff id;
//! - two sums of what is in it: of the members however they follow each other, and of what unpacking makes of them,
//!   whichever docker wrote the tar.
//!
//! Source: protocol reference §5. A layer that can't be unpacked has no tarsum and no diff id; the payload checksum still holds.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::tar::{Events, Header, TarReader};

/// Members of one layer whose sums are collected; a layer with more has no tarsum.
const MEMBERS_MAX: usize = 1_000_000;

/// A layer may unpack to this many times its size, or it is taken for a bomb. Real layers stay below ten.
const UNPACKED_RATIO_MAX: u64 = 200;

/// Below this size, in bytes, the ratio does not matter.
const UNPACKED_BYTES_FREE: u64 = 64 << 20;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The sums of a layer on its way in.
pub(super) struct LayerSums {
    json: Vec<u8>,
    payload: Sha256,
    /// The same JSON in other bytes, and the payload checksum with each.
    others: Vec<(Bytes, Sha256)>,
    blob: Sha256,
    size: u64,
    unpacking: Unpacking,
}

/// The sums of a whole layer.
pub(super) struct Sums {
    /// SHA-256 of the layer as sent.
    pub(super) blob: [u8; 32],
    /// SHA-256 of the unpacked tar.
    pub(super) diff_id: Option<[u8; 32]>,
    /// Length as sent, in bytes.
    pub(super) size: u64,
    /// What is in the tar, if that can be told from its members alone.
    pub(super) content: Option<[u8; 32]>,
    /// What unpacking makes of it, whichever docker wrote the tar.
    pub(super) tree: Option<[u8; 32]>,
    payload: [u8; 32],
    tarsums: Vec<[u8; 32]>,
    /// The same two for each other JSON.
    others: Vec<([u8; 32], Vec<[u8; 32]>)>,
}

enum Unpacking {
    /// The first bytes tell how it is packed.
    Sniffing(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Unpacked>>),
    Plain(Box<Unpacked>),
    /// Packed some other way, damaged, or a bomb.
    GivenUp,
}

impl LayerSums {
    /// For the layer of the image with this JSON.
    pub(super) fn new(json: &[u8]) -> Self {
        let (payload, unpacking) = (payload_of(json), Unpacking::Sniffing(Vec::new()));
        Self { json: json.to_vec(), payload, others: Vec::new(), blob: Sha256::new(), size: 0, unpacking }
    }

    /// For clients that wrote the JSON in other bytes, too.
    pub(super) fn with_others(self, jsons: Vec<Bytes>) -> Self {
        let with_payload = |json: Bytes| {
            let payload = payload_of(&json);
            (json, payload)
        };
        Self { others: jsons.into_iter().map(with_payload).collect(), ..self }
    }

    /// The next bytes, as sent.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.payload.update(bytes);
        for (_, payload) in &mut self.others {
            payload.update(bytes);
        }
        self.blob.update(bytes);
        self.size += bytes.len() as u64;
        self.unpack(bytes);
    }

    fn unpack(&mut self, bytes: &[u8]) {
        let output_max = UNPACKED_BYTES_FREE.max(self.size.saturating_mul(UNPACKED_RATIO_MAX));
        let going_on = match &mut self.unpacking {
            Unpacking::Sniffing(start) => {
                start.extend_from_slice(bytes);
                if start.len() < GZIP_MAGIC.len() {
                    return;
                }
                let start = std::mem::take(start);
                self.unpacking = begin(&start);
                return self.unpack(&start);
            }
            Unpacking::Gzip(decoder) => {
                decoder.get_mut().output_max = output_max;
                decoder.write_all(bytes)
            }
            Unpacking::Plain(unpacked) => {
                unpacked.output_max = output_max;
                unpacked.write_all(bytes)
            }
            Unpacking::GivenUp => return,
        };
        if going_on.is_err() {
            self.unpacking = Unpacking::GivenUp;
        }
    }

    /// The layer is over.
    pub(super) fn finish(self) -> Sums {
        let unpacked = match self.unpacking {
            Unpacking::Sniffing(start) => {
                let mut unpacked = Unpacked::new();
                unpacked.write_all(&start).ok().map(|()| unpacked)
            }
            Unpacking::Gzip(decoder) => decoder.finish().ok(),
            Unpacking::Plain(unpacked) => Some(*unpacked),
            Unpacking::GivenUp => None,
        };
        let (diff_id, members) = unpacked.and_then(Unpacked::finish).unzip();
        let tarsums = |json: &[u8]| members.as_ref().map(|members| members.tarsums(json)).unwrap_or_default();
        Sums {
            blob: self.blob.finalize().into(),
            diff_id,
            size: self.size,
            content: members.as_ref().and_then(|members| members.sum(&members.raw)),
            tree: members.as_ref().and_then(|members| members.sum(&members.tree)),
            payload: self.payload.finalize().into(),
            tarsums: tarsums(&self.json),
            others: self.others.into_iter().map(|(json, payload)| (payload.finalize().into(), tarsums(&json))).collect(),
        }
    }
}

fn payload_of(json: &[u8]) -> Sha256 {
    Sha256::new().chain_update(json).chain_update(b"\n")
}

fn begin(start: &[u8]) -> Unpacking {
    if start.starts_with(&GZIP_MAGIC) {
        Unpacking::Gzip(Box::new(MultiGzDecoder::new(Unpacked::new())))
    } else {
        Unpacking::Plain(Box::new(Unpacked::new()))
    }
}

impl Sums {
    /// The sums as they stand in a client's headers.
    pub(super) fn checksums(&self) -> Vec<String> {
        headers(&self.payload, &self.tarsums)
    }

    /// The same for clients whose JSON has other bytes.
    pub(super) fn other_checksums(&self) -> Vec<String> {
        self.others.iter().flat_map(|(payload, tarsums)| headers(payload, tarsums)).collect()
    }
}

fn headers(payload: &[u8; 32], tarsums: &[[u8; 32]]) -> Vec<String> {
    let payload = std::iter::once(format!("sha256:{}", hex(payload)));
    payload.chain(tarsums.iter().map(|sum| format!("tarsum+sha256:{}", hex(sum)))).collect()
}

fn hex(bytes: &[u8; 32]) -> String {
    berth_names::Digest::sha256(*bytes).hex()
}

/// The unpacked tar on its way past.
struct Unpacked {
    digest: Sha256,
    output: u64,
    output_max: u64,
    tar: TarReader,
    members: Members,
}

impl Unpacked {
    fn new() -> Self {
        Self { digest: Sha256::new(), output: 0, output_max: UNPACKED_BYTES_FREE, tar: TarReader::new(), members: Members::default() }
    }

    /// The diff id and the members' sums, or `None` if it is no tar.
    fn finish(self) -> Option<([u8; 32], Sorted)> {
        self.tar.finish().ok()?;
        Some((self.digest.finalize().into(), self.members.sorted()))
    }
}

impl Write for Unpacked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output += bytes.len() as u64;
        if self.output > self.output_max || self.members.sums.len() > MEMBERS_MAX {
            return Err(io::Error::other("unpacks to too much"));
        }
        self.digest.update(bytes);
        self.tar.push(bytes, &mut self.members).map_err(|_| io::Error::other("no tar"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The sums of the members so far.
#[derive(Default)]
struct Members {
    sums: Vec<[u8; 32]>,
    /// The last member of each name, by a hash of the cleaned name.
    last: HashMap<[u8; 16], usize>,
    current: Sha256,
    /// The member that is on its way as docker 0.10 to 1.12 write it, if it is written otherwise here.
    current_usual: Option<Sha256>,
    /// Extended attributes of the member that is on its way.
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    raw: Kept,
    tree: Kept,
}

/// Sums of members of which nothing is left out that unpacking takes from them.
#[derive(Default)]
struct Kept {
    all: Vec<[u8; 32]>,
    /// Those that have extended attributes, with them.
    with_xattrs: Vec<[u8; 32]>,
}

impl Kept {
    fn add(&mut self, sum: [u8; 32], xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) {
        self.all.push(sum);
        if !xattrs.is_empty() {
            let part = |bytes: &Vec<u8>| [&(bytes.len() as u64).to_be_bytes(), bytes.as_slice()].concat();
            let start = Sha256::new().chain_update(sum);
            let hash = xattrs.iter().fold(start, |hash, (name, value)| hash.chain_update(part(name)).chain_update(part(value)));
            self.with_xattrs.push(hash.finalize().into());
        }
    }

    fn sorted(self) -> Self {
        Self { all: sorted(self.all), with_xattrs: sorted(self.with_xattrs) }
    }
}

/// The sums of all members, in their own order.
struct Sorted {
    all: Vec<[u8; 32]>,
    /// Only the last of each name, if names repeat.
    last: Option<Vec<[u8; 32]>>,
    raw: Kept,
    tree: Kept,
}

impl Members {
    fn sorted(self) -> Sorted {
        let repeats = self.last.len() < self.sums.len();
        let last = repeats.then(|| sorted(self.last.values().filter_map(|at| self.sums.get(*at)).copied().collect()));
        Sorted { last, all: sorted(self.sums), raw: self.raw.sorted(), tree: self.tree.sorted() }
    }
}

/// Raw bytes sort as their hexadecimal digits do.
fn sorted(mut sums: Vec<[u8; 32]>) -> Vec<[u8; 32]> {
    sums.sort_unstable();
    sums
}

impl Sorted {
    /// One sum over all members and, if names repeat, one over the last of each name, as docker 0.7 to 1.2 has it.
    fn tarsums(&self, json: &[u8]) -> Vec<[u8; 32]> {
        std::iter::once(&self.all).chain(&self.last).map(|sums| tarsum(json, sums)).collect()
    }

    /// One sum over the members and everything that unpacking takes from them. Where names repeat, it is their order that
    /// decides what comes out, and that is not in here.
    fn sum(&self, kept: &Kept) -> Option<[u8; 32]> {
        let start = Sha256::new().chain_update((kept.all.len() as u64).to_be_bytes());
        let hash = kept.all.iter().chain(&kept.with_xattrs).fold(start, |hash, sum| hash.chain_update(sum));
        self.last.is_none().then(|| hash.finalize().into())
    }
}

fn tarsum(json: &[u8], sums: &[[u8; 32]]) -> [u8; 32] {
    let start = Sha256::new().chain_update(json);
    sums.iter().fold(start, |hash, sum| hash.chain_update(hex(sum))).finalize().into()
}

impl Events for Members {
    fn begin(&mut self, header: &Header) {
        self.current = begun(header);
        let usual = usual(header);
        self.current_usual = (usual != *header).then(|| begun(&usual));
        self.xattrs.clone_from(&header.xattrs);
        self.last.insert(name_key(&header.name), self.sums.len());
    }

    fn content(&mut self, bytes: &[u8]) {
        self.current.update(bytes);
        if let Some(usual) = &mut self.current_usual {
            usual.update(bytes);
        }
    }

    fn end(&mut self) {
        let sum: [u8; 32] = std::mem::take(&mut self.current).finalize().into();
        let usual = self.current_usual.take().map_or(sum, |usual| usual.finalize().into());
        let xattrs = std::mem::take(&mut self.xattrs);
        self.sums.push(sum);
        self.raw.add(sum, &xattrs);
        self.tree.add(usual, &xattrs);
    }
}

/// A member's sum as tarsum begins it.
fn begun(header: &Header) -> Sha256 {
    let mut hash = Sha256::new();
    let mut field = |key: &str, value: &[u8]| {
        hash.update(key);
        hash.update(value);
    };
    field("name", &header.name);
    field("mode", header.mode.to_string().as_bytes());
    field("uid", header.uid.to_string().as_bytes());
    field("gid", header.gid.to_string().as_bytes());
    field("size", header.size.to_string().as_bytes());
    field("mtime", header.mtime.to_string().as_bytes());
    field("typeflag", &[header.typeflag]);
    field("linkname", &header.linkname);
    field("uname", &header.uname);
    field("gname", &header.gname);
    field("devmajor", header.devmajor.to_string().as_bytes());
    field("devminor", header.devminor.to_string().as_bytes());
    hash
}

/// The header that docker 0.10 to 1.12 would mostly write for this one: `a/b`, and `a/` for a directory; a mode that says what
/// it is of; no names of users and groups, which unpacking never looks at; devices of devices only.
fn usual(header: &Header) -> Header {
    let typeflag = if header.typeflag == 0 { b'0' } else { header.typeflag };
    let kind = match typeflag {
        b'0' | b'1' => 0o100_000,
        b'2' => 0o120_000,
        b'3' => 0o020_000,
        b'4' => 0o060_000,
        b'5' => 0o040_000,
        b'6' => 0o010_000,
        _ => 0,
    };
    let mut name = parts(&header.name).collect::<Vec<_>>().join(&b'/');
    if typeflag == b'5' {
        name.push(b'/');
    }
    let linkname = if typeflag == b'1' { parts(&header.linkname).collect::<Vec<_>>().join(&b'/') } else { header.linkname.clone() };
    let (devmajor, devminor) = if matches!(typeflag, b'3' | b'4') { (header.devmajor, header.devminor) } else { (0, 0) };
    let (uname, gname) = (Vec::new(), Vec::new());
    Header { name, mode: kind | (header.mode & 0o7777), typeflag, linkname, uname, gname, devmajor, devminor, ..header.clone() }
}

/// The parts of a path, without those that mean nothing.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

/// `./a/` and `a` are one name.
fn name_key(name: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts(name) {
        hash.update(part);
        hash.update(b"/");
    }
    let full: [u8; 32] = hash.finalize().into();
    full.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
