//! Both readers of tars: the one that computes what docker's checksums are of, which is fed, and the one that finds what is
//! where in an archive on the disk.
//!
//! Arbitrary bytes are hardly ever a tar, so an input is a recipe for one (see [`archive`]).

use std::collections::BTreeMap;
use std::io::Read as _;

use berth_backend::fuzzing::archive_members;
use berth_registry::fuzzing::{Member, tar_members};

const BLOCK_BYTES: usize = 512;

/// Most bytes of one archive.
const ARCHIVE_BYTES_MAX: usize = 256 * 1024;

/// Longest name of a member that the reader of archives takes.
const NAME_BYTES_MAX: usize = 4096;

/// What stands between members, and between the parts of one.
const MEMBERS: u8 = 0x1e;
const PARTS: u8 = 0x1f;

/// Makes a tar of a recipe: members, and in each of them kind and name, what it is a link to, what makes it `ustar`, its
/// size if it is not that of its content, and its content. Behind `!` there are the bytes of an archive.
pub fn archive(recipe: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    if let Some(bytes) = recipe.strip_prefix(b"!") {
        return bytes.to_vec();
    }
    for member in recipe.split(|byte| *byte == MEMBERS) {
        let mut parts = member.splitn(5, |byte| *byte == PARTS);
        let mut part = || parts.next().unwrap_or_default();
        let (named, link, magic, size, content) = (part(), part(), part(), part(), part());
        let Some((kind, name)) = named.split_first() else {
            archive.extend([0; 2 * BLOCK_BYTES]);
            continue;
        };
        let size = if size.is_empty() { format!("{:011o}", content.len()).into_bytes() } else { size.to_vec() };
        let mut block = [0_u8; BLOCK_BYTES];
        let fields: [(usize, usize, &[u8]); 7] = [
            (0, 100, name),
            (100, 8, b"0000644"),
            (124, 12, &size),
            (136, 12, b"0"),
            (156, 1, std::slice::from_ref(kind)),
            (157, 100, link),
            (257, 243, magic),
        ];
        for (at, length, field) in fields {
            let length = length.min(field.len());
            block[at..at + length].copy_from_slice(&field[..length]);
        }
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(block);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(BLOCK_BYTES), 0);
        if archive.len() > ARCHIVE_BYTES_MAX {
            break;
        }
    }
    archive
}

/// Whether a recipe is for a tar as tars are written, about whose corners readers do not differ: each member says clearly
/// what it is, has a size only if it has content, and no name has a NUL in it.
fn is_ordinary(recipe: &[u8]) -> bool {
    !recipe.starts_with(b"!")
        && recipe.split(|byte| *byte == MEMBERS).filter(|member| !member.is_empty()).all(|member| {
            let parts: Vec<&[u8]> = member.splitn(5, |byte| *byte == PARTS).collect();
            let [named, link, magic, size, content] = parts[..] else { return false };
            let is_format = [&b"ustar\x0000"[..], b"ustar  \0"].contains(&magic);
            let is_kind = match named.first() {
                Some(b'0') => true,
                Some(b'1' | b'2' | b'5') => size.is_empty() && content.is_empty(),
                Some(b'x') => !named.contains(&0) && !content.contains(&0),
                Some(b'L') => content.iter().position(|byte| *byte == 0) == content.len().checked_sub(1),
                _ => false,
            };
            is_format && is_kind && ![named, link].iter().any(|name| name.contains(&0) || name.len() > 100)
        })
}

/// A tar is the same in any pieces; what is reported of it adds up, and is what another reader finds in it.
pub fn layer(input: &[u8]) {
    let archive = archive(input);
    let (members, is_whole) = tar_members(&archive, archive.len());
    for piece in [1, 7, BLOCK_BYTES, BLOCK_BYTES + 1] {
        // What was reported before the fault may end elsewhere.
        let (others, was_whole) = tar_members(&archive, piece);
        assert_eq!(was_whole, is_whole);
        assert!(others == members || !is_whole, "in pieces of {piece} other members are found");
    }
    let total: usize = members.iter().map(|member| member.content.len()).sum();
    assert!(total <= archive.len());
    for (at, member) in members.iter().enumerate() {
        let is_last = at + 1 == members.len();
        assert!(member.ended || (is_last && !is_whole), "a member without an end");
        let has_content = !matches!(member.kind, b'1'..=b'6');
        assert!(!member.ended || member.content.len() as i64 == if has_content { member.size } else { 0 });
    }
    if is_whole && is_ordinary(input) {
        others_agree(&archive, &members);
    }
}

/// What the `tar` crate, which `docker save` archives are also read with elsewhere, finds in it.
fn others_agree(archive: &[u8], members: &[Member]) {
    let mut reader = ::tar::Archive::new(archive);
    let Ok(entries) = reader.entries() else { return };
    let mut theirs = Vec::new();
    for entry in entries {
        let Ok(mut entry) = entry else { return };
        let mut content = Vec::new();
        if entry.read_to_end(&mut content).is_err() {
            return;
        }
        theirs.push((entry.path_bytes().into_owned(), content));
    }
    let ours: Vec<_> = members.iter().map(|member| (&member.name, &member.content)).collect();
    let theirs: Vec<_> = theirs.iter().map(|(name, content)| (name, content)).collect();
    assert_eq!(ours, theirs, "another reader finds other members");
}

/// What is found in an archive lies in it, under names that lead nowhere else, and is what the other reader finds there.
pub fn on_disk(input: &[u8]) {
    let archive = archive(input);
    let Ok(found) = archive_members(&archive) else { return };
    assert_eq!(archive_members(&archive).as_ref(), Ok(&found));
    for (name, place) in &found {
        assert!(name.len() <= NAME_BYTES_MAX);
        assert!(name.is_empty() || name.split('/').all(|part| !matches!(part, "" | "." | "..")), "a name that leads elsewhere: {name:?}");
        let Some((offset, size)) = place else { continue };
        assert!(offset.checked_add(*size).is_some_and(|end| end <= archive.len() as u64), "a member beyond the end");
    }
    let (members, is_whole) = tar_members(&archive, archive.len());
    // To docker a global header is a member like any other, about which more may be said in front of it.
    if !is_whole || members.iter().any(|member| member.kind == b'g') {
        return;
    }
    // Of members of one name, the last counts.
    let ours: BTreeMap<&str, &[u8]> = found
        .iter()
        .filter_map(|(name, place)| place.map(|(offset, size)| (name.as_str(), &archive[offset as usize..(offset + size) as usize])))
        .collect();
    let plain = |name: &[u8]| -> Option<String> {
        let name = str::from_utf8(name).ok()?;
        Some(name.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/"))
    };
    let mut last = BTreeMap::new();
    for member in &members {
        if let (Some(name), b'0' | 0 | b'7' | b'1' | b'2') = (plain(&member.name), member.kind) {
            last.insert(name, member);
        }
    }
    for (name, member) in last {
        if matches!(member.kind, b'0' | 0 | b'7') {
            assert_eq!(ours.get(name.as_str()), Some(&member.content.as_slice()), "the two readers differ about {name:?}");
        }
    }
}
