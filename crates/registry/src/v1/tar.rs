//! A tar reader that is fed, rather than one that reads: just what tarsum needs, as Go's `archive/tar` of docker 1.x saw it.
//!
//! Memory is bounded by one header block and [`META_BYTES_MAX`]; content streams through.

use std::collections::BTreeMap;

/// Everything in a tar comes in blocks of so many bytes.
pub(super) const BLOCK_BYTES: usize = 512;

/// Longest GNU name or PAX record block, in bytes.
const META_BYTES_MAX: u64 = 1 << 20;

/// How the key of a PAX record begins that sets an extended attribute.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// A member's header, with long names resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    pub(super) typeflag: u8,
    pub(super) linkname: Vec<u8>,
    pub(super) uname: Vec<u8>,
    pub(super) gname: Vec<u8>,
    pub(super) devmajor: i64,
    pub(super) devminor: i64,
    /// Extended attributes, which tarsum passes over and unpacking does not.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What the reader reports.
pub(super) trait Events {
    /// A member begins.
    fn begin(&mut self, header: &Header);
    /// Some of its content.
    fn content(&mut self, bytes: &[u8]);
    /// It is over.
    fn end(&mut self);
}

/// The bytes are no tar that we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Reads a tar as it streams past.
pub(super) struct TarReader {
    state: State,
    block: Vec<u8>,
    /// What GNU and PAX members in front of a member say about it.
    overrides: Overrides,
}

enum State {
    Header,
    Content {
        left: u64,
        padding: u64,
    },
    Meta {
        typeflag: u8,
        left: u64,
        padding: u64,
        bytes: Vec<u8>,
    },
    Padding {
        left: u64,
    },
    /// The end-of-archive mark has passed; what follows does not count.
    Ended,
}

#[derive(Default)]
struct Overrides {
    /// GNU's long names count before those of PAX, whichever comes first.
    long_name: Option<Vec<u8>>,
    long_linkname: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    linkname: Option<Vec<u8>>,
    uname: Option<Vec<u8>>,
    gname: Option<Vec<u8>>,
    uid: Option<i64>,
    gid: Option<i64>,
    size: Option<i64>,
    mtime: Option<i64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl TarReader {
    pub(super) fn new() -> Self {
        Self { state: State::Header, block: Vec::with_capacity(BLOCK_BYTES), overrides: Overrides::default() }
    }

    /// Reads on.
    pub(super) fn push(&mut self, mut bytes: &[u8], events: &mut impl Events) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header => {
                    let taken = take(&mut bytes, (BLOCK_BYTES - self.block.len()) as u64);
                    self.block.extend_from_slice(taken);
                    if self.block.len() == BLOCK_BYTES {
                        self.state = self.read_header(events)?;
                        self.block.clear();
                    }
                }
                State::Content { left, padding } => {
                    let taken = take(&mut bytes, *left);
                    *left -= taken.len() as u64;
                    let (left, padding) = (*left, *padding);
                    events.content(taken);
                    if left == 0 {
                        events.end();
                        self.state = after_padding(padding);
                    }
                }
                State::Meta { typeflag, left, padding, bytes: meta } => {
                    let taken = take(&mut bytes, *left);
                    *left -= taken.len() as u64;
                    meta.extend_from_slice(taken);
                    if *left == 0 {
                        let (typeflag, padding, meta) = (*typeflag, *padding, std::mem::take(meta));
                        self.overrides.add(typeflag, meta)?;
                        self.state = after_padding(padding);
                    }
                }
                State::Padding { left } => {
                    *left -= take(&mut bytes, *left).len() as u64;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Ended => return Ok(()),
            }
        }
        Ok(())
    }

    /// Says whether the archive may end here. Docker before 1.3 wrote no end-of-archive mark.
    pub(super) fn finish(self) -> Result<(), Unreadable> {
        match self.state {
            State::Ended | State::Padding { .. } => Ok(()),
            State::Header if self.block.is_empty() => Ok(()),
            State::Header | State::Content { .. } | State::Meta { .. } => Err(Unreadable),
        }
    }

    fn read_header(&mut self, events: &mut impl Events) -> Result<State, Unreadable> {
        let block = self.block.as_slice();
        if block.iter().all(|byte| *byte == 0) {
            return Ok(State::Ended);
        }
        if !has_valid_checksum(block) {
            return Err(Unreadable);
        }
        let header = parse_header(block)?;
        let size = u64::try_from(header.size).map_err(|_| Unreadable)?;
        match header.typeflag {
            typeflag @ (b'L' | b'K' | b'x') => {
                if size > META_BYTES_MAX {
                    return Err(Unreadable);
                }
                let padding = padding_of(size);
                if size == 0 {
                    return Ok(State::Header);
                }
                Ok(State::Meta { typeflag, left: size, padding, bytes: Vec::new() })
            }
            // Sparse files would have to be expanded; docker does not write them.
            b'S' => Err(Unreadable),
            _ => {
                let header = std::mem::take(&mut self.overrides).apply(header);
                // Links, devices, directories and pipes have no content, whatever their size says.
                let content =
                    if matches!(header.typeflag, b'1'..=b'6') { 0 } else { u64::try_from(header.size).map_err(|_| Unreadable)? };
                events.begin(&header);
                if content == 0 {
                    events.end();
                    return Ok(State::Header);
                }
                Ok(State::Content { left: content, padding: padding_of(content) })
            }
        }
    }
}

/// Whether an archive can begin with this block: a member's header, or the end of an archive with nothing in it.
pub(super) fn begins_archive(block: &[u8]) -> bool {
    block.len() == BLOCK_BYTES && (block.iter().all(|byte| *byte == 0) || has_valid_checksum(block))
}

/// Cuts up to `most` bytes off the front.
fn take<'b>(bytes: &mut &'b [u8], most: u64) -> &'b [u8] {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

fn padding_of(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_BYTES as u64
}

fn after_padding(padding: u64) -> State {
    if padding == 0 { State::Header } else { State::Padding { left: padding } }
}

/// The sum of all bytes, the checksum's own counted as spaces. Some old tars summed signed bytes.
fn has_valid_checksum(block: &[u8]) -> bool {
    let byte = |at: usize| if (148..156).contains(&at) { b' ' } else { block[at] };
    let unsigned: i64 = (0..BLOCK_BYTES).map(|at| i64::from(byte(at))).sum();
    let signed: i64 = (0..BLOCK_BYTES).map(|at| i64::from(byte(at).cast_signed())).sum();
    number(&block[148..156]).is_ok_and(|stored| stored == unsigned || stored == signed)
}

fn parse_header(block: &[u8]) -> Result<Header, Unreadable> {
    let typeflag = block[156];
    let mut header = Header {
        name: text(&block[..100]),
        mode: number(&block[100..108])?,
        uid: number(&block[108..116])?,
        gid: number(&block[116..124])?,
        size: number(&block[124..136])?,
        mtime: number(&block[136..148])?,
        typeflag,
        linkname: text(&block[157..257]),
        ..Header::default()
    };
    if block[257..262] == *b"ustar" {
        header.uname = text(&block[265..297]);
        header.gname = text(&block[297..329]);
        if matches!(typeflag, b'3' | b'4') {
            header.devmajor = number(&block[329..337])?;
            header.devminor = number(&block[337..345])?;
        }
        let prefix = text(&block[345..500]);
        if block[262] == 0 && !prefix.is_empty() {
            header.name = [prefix, header.name].join(&b'/');
        }
    }
    Ok(header)
}

/// Up to the first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    text_of(field).to_vec()
}

fn text_of(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits among spaces and NULs, or GNU's base 256.
fn number(field: &[u8]) -> Result<i64, Unreadable> {
    if let Some(first) = field.first().filter(|first| **first & 0x80 != 0) {
        let negative = first & 0x40 != 0;
        let start = if negative { -1_i64 } else { 0 };
        let mut digits = std::iter::once(if negative { first | 0x80 } else { first & 0x7f }).chain(field[1..].iter().copied());
        // The value must fit 64 bits: everything shifted out must be sign.
        return digits.try_fold(start, |value, digit| value.checked_mul(256).map(|value| value | i64::from(digit)).ok_or(Unreadable));
    }
    // As Go reads it: blanks and NULs around the digits are none of them, and there is no sign.
    let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
    let trimmed = text_of(&field[start..]).trim_ascii_end();
    let digits = std::str::from_utf8(trimmed).map_err(|_| Unreadable)?;
    match digits {
        "" => Ok(0),
        digits if digits.starts_with(['+', '-']) => Err(Unreadable),
        digits => i64::from_str_radix(digits, 8).map_err(|_| Unreadable),
    }
}

impl Overrides {
    fn add(&mut self, typeflag: u8, meta: Vec<u8>) -> Result<(), Unreadable> {
        match typeflag {
            b'L' => self.long_name = said(text_of(&meta)),
            b'K' => self.long_linkname = said(text_of(&meta)),
            _ => self.add_pax(&meta)?,
        }
        Ok(())
    }

    /// Records of the form `<length> <key>=<value>\n`, the length counting itself.
    fn add_pax(&mut self, mut records: &[u8]) -> Result<(), Unreadable> {
        // The last block counts, so that a row of them can't fill the memory.
        self.xattrs.clear();
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or(Unreadable)?;
            let length: usize = std::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse().ok()).ok_or(Unreadable)?;
            let record = records.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or(Unreadable)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(Unreadable)?;
            self.add_record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Unreadable> {
        let decimal = |value: Vec<u8>| str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).ok_or(Unreadable);
        let said = said(value);
        match key {
            b"path" => self.name = said,
            b"linkpath" => self.linkname = said,
            b"uname" => self.uname = said,
            b"gname" => self.gname = said,
            b"uid" => self.uid = said.map(decimal).transpose()?,
            b"gid" => self.gid = said.map(decimal).transpose()?,
            b"size" => self.size = said.map(decimal).transpose()?,
            b"mtime" => self.mtime = said.map(|said| whole_seconds(&said)).transpose()?,
            _ if key.starts_with(b"GNU.sparse.") => return Err(Unreadable),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }

    fn apply(self, header: Header) -> Header {
        Header {
            name: self.long_name.or(self.name).unwrap_or(header.name),
            linkname: self.long_linkname.or(self.linkname).unwrap_or(header.linkname),
            uname: self.uname.unwrap_or(header.uname),
            gname: self.gname.unwrap_or(header.gname),
            uid: self.uid.unwrap_or(header.uid),
            gid: self.gid.unwrap_or(header.gid),
            size: self.size.unwrap_or(header.size),
            mtime: self.mtime.unwrap_or(header.mtime),
            xattrs: self.xattrs,
            ..header
        }
    }
}

/// What is said of a member in front of it. Where that is nothing, its own header counts.
fn said(value: &[u8]) -> Option<Vec<u8>> {
    Some(value.to_vec()).filter(|value| !value.is_empty())
}

/// Seconds with an optional fraction, rounded down.
fn whole_seconds(value: &[u8]) -> Result<i64, Unreadable> {
    let text = std::str::from_utf8(value).map_err(|_| Unreadable)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| Unreadable)?;
    let below = text.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
    Ok(if below { seconds - 1 } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_of_gnus_counts_before_one_of_pax_whichever_comes_first() {
        let mut overrides = [Overrides::default(), Overrides::default()];
        let [first, last] = &mut overrides;
        for (typeflag, meta) in [(b'L', &b"gnu\0"[..]), (b'K', b"link\0"), (b'x', b"12 path=pax\n14 linkpath=x\n")] {
            first.add(typeflag, meta.to_vec()).unwrap();
        }
        for (typeflag, meta) in [(b'x', &b"12 path=pax\n14 linkpath=x\n"[..]), (b'K', b"link\0"), (b'L', b"gnu\0")] {
            last.add(typeflag, meta.to_vec()).unwrap();
        }
        for overrides in overrides {
            let header = overrides.apply(Header { name: b"short".to_vec(), ..Header::default() });
            assert_eq!((header.name, header.linkname), (b"gnu".to_vec(), b"link".to_vec()));
        }
    }

    #[test]
    fn where_nothing_is_said_of_a_member_its_own_header_counts() {
        let mut overrides = Overrides::default();
        for (typeflag, meta) in [(b'L', &b"\0"[..]), (b'K', b""), (b'x', b"10 path=x\n8 path=\n8 size=\n9 mtime=\n7 uid=\n")] {
            overrides.add(typeflag, meta.to_vec()).unwrap();
        }
        let header = Header { name: b"own".to_vec(), linkname: b"link".to_vec(), size: 3, mtime: 4, uid: 5, ..Header::default() };
        assert_eq!(overrides.apply(header.clone()), header);
    }

    /// The same table stands in the backend's reader of archives.
    #[test]
    fn numbers_are_octal_digits_among_blanks_and_nuls() {
        for (field, expected) in [
            (&b"0000644\0"[..], Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"\0\0\x00644\0\0", Ok(0o644)),
            (b" \x00644\0 9", Ok(0o644)),
            (b"644     ", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"        ", Ok(0)),
            (b"+0000644", Err(Unreadable)),
            (b"-0000644", Err(Unreadable)),
            (b"0000648\0", Err(Unreadable)),
            (b"6 4    \0", Err(Unreadable)),
        ] {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
    }
}
