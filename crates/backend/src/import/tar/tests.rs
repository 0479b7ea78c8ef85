use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// A header block with a right checksum.
pub(crate) fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A member with content, padded.
pub(crate) fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, content.len() as u64, "");
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = key.len() + value.len() + 3;
        let length = (1..10).map(|digits| rest + digits).find(|length| rest + length.to_string().len() == *length).unwrap();
        format!("{length} {key}={value}\n")
    };
    member("pax", b'x', records.iter().map(record).collect::<String>().as_bytes())
}

fn read(bytes: Vec<u8>) -> Result<HashMap<String, Member>, Unreadable> {
    let length = bytes.len() as u64;
    index(&mut Cursor::new(bytes), length)
}

#[test]
fn long_names_of_gnus_count_before_those_of_pax_and_nothing_is_no_name() {
    for (in_front, name) in [
        ([pax(&[("path", "pax")]), member("long", b'L', b"gnu\0")], "gnu"),
        ([member("long", b'L', b"gnu\0"), pax(&[("path", "pax")])], "gnu"),
        ([member("long", b'L', b"\0"), pax(&[("path", "pax"), ("size", "")])], "pax"),
        ([member("long", b'L', b""), pax(&[("path", "pax"), ("path", "")])], "own"),
    ] {
        let members = read([in_front.concat(), member("own", b'0', b"abc")].concat()).unwrap();
        assert_eq!(members.keys().collect::<Vec<_>>(), [name]);
        assert!(matches!(members[name], Member::File(Place { size: 3, .. })));
    }
}

/// The same table stands in the reader that computes checksums of layers.
#[test]
fn numbers_are_octal_digits_among_blanks_and_nuls() {
    for (field, expected) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"   644 \0", Some(0o644)),
        (b"\0\0\x00644\0\0", Some(0o644)),
        (b" \x00644\0 9", Some(0o644)),
        (b"644     ", Some(0o644)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"        ", Some(0)),
        (b"+0000644", None),
        (b"-0000644", None),
        (b"0000648\0", None),
        (b"6 4    \0", None),
    ] {
        assert_eq!(number(field), expected, "{}", field.escape_ascii());
    }
}

#[test]
fn members_are_found_by_clean_names_and_through_links() {
    let long = format!("{}/layer.tar", "d".repeat(200));
    let mut prefixed = header("layer.tar", b'0', 0, "");
    prefixed[345..350].copy_from_slice(b"where");
    seal(&mut prefixed);
    let mut big = header("big", b'0', 0, "");
    big[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    seal(&mut big);
    let bytes = [
        member("./a/layer.tar", b'0', b"one"),
        header("b/", b'5', 0, ""),
        header("b/layer.tar", b'2', 0, "../a/layer.tar"),
        header("c", b'1', 0, "b/layer.tar"),
        header("loop", b'2', 0, "loop"),
        header("nowhere", b'2', 0, "x"),
        prefixed,
        member("././@LongLink", b'L', format!("{long}\0").as_bytes()),
        member("cut", 0, b"two"),
        pax(&[("path", "from-pax"), ("size", "3"), ("mtime", "1.5")]),
        [header("x", b'0', 0, ""), b"abc".to_vec(), vec![0; 509]].concat(),
        pax(&[("linkpath", "a/layer.tar")]),
        header("by-pax", b'2', 0, "cut"),
        member("global", b'g', b"ignored"),
        [big, vec![7; 512]].concat(),
        header("device", b'3', 9, ""),
        vec![0; 1024],
        b"behind the end".to_vec(),
    ]
    .concat();
    let members = read(bytes).unwrap();
    let size = |name: &str| find(&members, name).map(|place| place.size);
    for (name, expected) in [
        ("a/layer.tar", Some(3)),
        ("b/layer.tar", Some(3)),
        ("c", Some(3)),
        ("loop", None),
        ("nowhere", None),
        ("where/layer.tar", Some(0)),
        (long.as_str(), Some(3)),
        ("from-pax", Some(3)),
        ("by-pax", Some(3)),
        ("big", Some(512)),
        ("b", None),
        ("device", None),
        ("", None),
    ] {
        assert_eq!(size(name), expected, "{name}");
    }
}

#[test]
fn what_is_hostile_or_damaged_is_refused() {
    let huge = |size: [u8; 12]| {
        let mut block = header("huge", b'0', 0, "");
        block[124..136].copy_from_slice(&size);
        seal(&mut block);
        block
    };
    let mut wrong_sum = header("a", b'0', 0, "");
    wrong_sum[0] = b'b';
    for (what, bytes, expected) in [
        ("up and out", member("../../etc/passwd", b'0', b"x"), "leads out"),
        ("up in the middle", member("a/../../b", b'0', b"x"), "leads out"),
        ("from the root", member("/etc/passwd", b'0', b"x"), "leads out"),
        ("more than there is", header("a", b'0', 1 << 30, ""), "ends in the middle of a"),
        ("more than there can be", huge([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "ends in the middle of huge"),
        ("less than nothing", huge([0xff; 12]), "damaged"),
        ("a size that is none", huge(*b"9999999999\0\0"), "damaged"),
        ("a wrong sum", wrong_sum, "damaged"),
        ("half a header", vec![b'a'; 100], "ends in the middle"),
        ("a name without end", [header("l", b'L', 2 << 20, ""), vec![b'n'; 2 << 20]].concat(), "more than"),
        ("a long name", [member("l", b'L', &[b'n'; 5000]), header("x", b'0', 0, "")].concat(), "leads out"),
        ("PAX that lies", [member("p", b'x', b"999 path=x\n"), header("x", b'0', 0, "")].concat(), "damaged"),
        ("PAX with a huge size", [pax(&[("size", "18446744073709551615")]), header("x", b'0', 0, "")].concat(), "ends in the middle"),
        ("sparse", header("s", b'S', 0, ""), "sparse"),
    ] {
        let refused = read(bytes).unwrap_err().to_string();
        assert!(refused.contains(expected), "{what}: {refused}");
    }
    assert!(read(Vec::new()).unwrap().is_empty());
}

/// Who packs a whole root file system beside an image has links to everywhere in it.
#[test]
fn a_link_that_leads_out_is_followed_by_nobody_and_harms_nobody() {
    let bytes = [
        header("a/layer.tar", b'2', 0, "../../b"),
        header("etc", b'2', 0, "/etc/shadow"),
        header("through", b'2', 0, "etc"),
        member("file", b'0', b"abc"),
    ]
    .concat();
    let members = read(bytes).unwrap();
    for name in ["a/layer.tar", "etc", "through"] {
        assert_eq!(find(&members, name), None, "{name}");
    }
    assert_eq!(find(&members, "file").map(|place| place.size), Some(3));
}

#[test]
fn a_packed_archive_is_unpacked_beside_and_leaves_nothing() {
    use super::super::fixture::gzip;
    use super::super::unpack::tests::{bzip2, xz, zstd};
    let directory = tempfile::tempdir().unwrap();
    let tar = [member("manifest.json", b'0', b"[]"), vec![0; 1024]].concat();
    let path = directory.path().join("saved");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Archive::open(&path, directory.path())
    };
    for packed in [tar.clone(), gzip(&tar), bzip2(&tar), xz(&tar), zstd(&tar)] {
        let archive = open(&packed).unwrap();
        assert_eq!(archive.read("manifest.json", 100).unwrap(), b"[]");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
    // A member may be called like something packed.
    let odd = [member("BZh91", b'0', b"x"), vec![0; 1024]].concat();
    assert_eq!(open(&odd).unwrap().read("BZh91", 100).unwrap(), b"x");
    let whole = gzip(&tar);
    for (damaged, said) in [
        (&whole[..whole.len() - 9], "can't be unpacked"),
        (&b"\x1f\x8b nothing of the kind"[..], "can't be unpacked"),
        (&gzip(b"some text that is no tar")[..], "ends in the middle"),
    ] {
        let refused = open(damaged).err().unwrap().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), fix in any::<bool>()) {
        let mut bytes = bytes;
        if fix && bytes.len() >= BLOCK_BYTES {
            seal(&mut bytes[..BLOCK_BYTES]);
        }
        let _ = read(bytes);
    }

    #[test]
    fn no_records_make_it_panic(bytes in prop::collection::vec(prop_oneof![Just(b' '), Just(b'='), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..60)) {
        let _ = Facts::default().learn(&bytes);
    }

    #[test]
    fn joined_names_stay_inside(base in "[a-z/]{0,10}", path in "[a-z./]{0,20}") {
        if let Some(joined) = join(&base, &path) {
            prop_assert!(!joined.starts_with('/') && joined.split('/').all(|part| part != ".."));
        }
    }
}
