//! Every checksum that a V1 client may claim for a layer, computed while the layer streams in.
//!
//! - the payload checksum, `sha256(json, LF, layer as sent)`, of docker 0.10 and later;
//! - tarsum version 0, of every docker: the members' headers and contents, sorted, behind the JSON;
//! - the digest of the unpacked tar, which V2 calls diff id;
//! - a sum of what is in it, whichever docker wrote the tar and the JSON.
//!
//! Source: protocol reference §5. A layer that can't be unpacked has no tarsum and no diff id; the payload checksum still holds.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

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
    /// The same JSON in other bytes, and the payload checksum with it.
    other: Option<(Vec<u8>, Sha256)>,
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
    payload: [u8; 32],
    tarsums: Vec<[u8; 32]>,
    /// The same two for the other JSON.
    other: Option<([u8; 32], Vec<[u8; 32]>)>,
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
        Self { json: json.to_vec(), payload, other: None, blob: Sha256::new(), size: 0, unpacking }
    }

    /// For a client that wrote the JSON in other bytes, too.
    pub(super) fn with_other(self, json: &[u8]) -> Self {
        Self { other: Some((json.to_vec(), payload_of(json))), ..self }
    }

    /// The next bytes, as sent.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.payload.update(bytes);
        if let Some((_, payload)) = &mut self.other {
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
            content: members.as_ref().and_then(Sorted::content),
            payload: self.payload.finalize().into(),
            tarsums: tarsums(&self.json),
            other: self.other.map(|(json, payload)| (payload.finalize().into(), tarsums(&json))),
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

    /// The same for a client whose JSON has other bytes; nothing if there is none.
    pub(super) fn other_checksums(&self) -> Vec<String> {
        self.other.as_ref().map(|(payload, tarsums)| headers(payload, tarsums)).unwrap_or_default()
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
    /// Extended attributes of the member that is on its way.
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The sums of members that have any, with them.
    with_xattrs: Vec<[u8; 32]>,
}

/// The sums of all members, in their own order.
struct Sorted {
    all: Vec<[u8; 32]>,
    /// Only the last of each name, if names repeat.
    last: Option<Vec<[u8; 32]>>,
    with_xattrs: Vec<[u8; 32]>,
}

impl Members {
    fn sorted(self) -> Sorted {
        let repeats = self.last.len() < self.sums.len();
        let last = repeats.then(|| sorted(self.last.values().filter_map(|at| self.sums.get(*at)).copied().collect()));
        Sorted { last, all: sorted(self.sums), with_xattrs: sorted(self.with_xattrs) }
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

    /// The members and everything that unpacking takes from them. Where names repeat, it is their order that decides what
    /// comes out, and that is not in here.
    fn content(&self) -> Option<[u8; 32]> {
        let start = Sha256::new().chain_update((self.all.len() as u64).to_be_bytes());
        let hash = self.all.iter().chain(&self.with_xattrs).fold(start, |hash, sum| hash.chain_update(sum));
        self.last.is_none().then(|| hash.finalize().into())
    }
}

fn tarsum(json: &[u8], sums: &[[u8; 32]]) -> [u8; 32] {
    let start = Sha256::new().chain_update(json);
    sums.iter().fold(start, |hash, sum| hash.chain_update(hex(sum))).finalize().into()
}

impl Events for Members {
    fn begin(&mut self, header: &Header) {
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
        self.current = hash;
        self.xattrs.clone_from(&header.xattrs);
        self.last.insert(name_key(&header.name), self.sums.len());
    }

    fn content(&mut self, bytes: &[u8]) {
        self.current.update(bytes);
    }

    fn end(&mut self) {
        let sum: [u8; 32] = std::mem::take(&mut self.current).finalize().into();
        self.sums.push(sum);
        if !self.xattrs.is_empty() {
            let part = |bytes: &Vec<u8>| [&(bytes.len() as u64).to_be_bytes(), bytes.as_slice()].concat();
            let start = Sha256::new().chain_update(sum);
            let named = std::mem::take(&mut self.xattrs);
            let hash = named.iter().fold(start, |hash, (name, value)| hash.chain_update(part(name)).chain_update(part(value)));
            self.with_xattrs.push(hash.finalize().into());
        }
    }
}

/// `./a/` and `a` are one name.
fn name_key(name: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        hash.update(part);
        hash.update(b"/");
    }
    let full: [u8; 32] = hash.finalize().into();
    full.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
