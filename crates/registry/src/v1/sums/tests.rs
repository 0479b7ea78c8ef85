use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

/// A member as a test writes it.
#[derive(Clone, Debug)]
struct Member {
    name: String,
    typeflag: u8,
    content: Vec<u8>,
}

fn octal(block: &mut [u8], at: usize, width: usize, value: u64) {
    let digits = format!("{value:0>width$o}", width = width - 1);
    block[at..at + width - 1].copy_from_slice(digits.as_bytes());
}

fn block(name: &[u8], typeflag: u8, size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    let shown = &name[..name.len().min(100)];
    block[..shown.len()].copy_from_slice(shown);
    octal(&mut block, 100, 8, 0o644);
    octal(&mut block, 108, 8, 1000);
    octal(&mut block, 116, 8, 100);
    octal(&mut block, 124, 12, size as u64);
    octal(&mut block, 136, 12, 1_371_157_430);
    block[148..156].fill(b' ');
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[265..269].copy_from_slice(b"root");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block, 148, 7, sum);
    block[154] = 0;
    block
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn tar(members: &[Member]) -> Vec<u8> {
    let mut archive = Vec::new();
    for member in members {
        if member.name.len() > 100 {
            let record = format!(" path={}\n", member.name);
            let length = (1..).find(|digits| (record.len() + digits).to_string().len() == *digits).unwrap() + record.len();
            let record = format!("{length}{record}").into_bytes();
            archive.extend(block(b"PaxHeaders/x", b'x', record.len()));
            archive.extend(padded(record));
        }
        archive.extend(block(member.name.as_bytes(), member.typeflag, member.content.len()));
        archive.extend(padded(member.content.clone()));
    }
    archive.extend([0; 1024]);
    archive
}

/// Tarsum written down once more, straight from its definition.
fn expected_tarsum(json: &[u8], members: &[Member]) -> String {
    let mut sums: Vec<String> = members
        .iter()
        .map(|member| {
            let mut hash = Sha256::new();
            hash.update(format!("name{}mode{}uid1000gid100size{}mtime1371157430typeflag", member.name, 0o644, member.content.len()));
            hash.update([member.typeflag]);
            hash.update("linknameunamerootgnamedevmajor0devminor0");
            hash.update(&member.content);
            hex(&hash.finalize().into())
        })
        .collect();
    sums.sort();
    let mut hash = Sha256::new();
    hash.update(json);
    hash.update(sums.concat());
    format!("tarsum+sha256:{}", hex(&hash.finalize().into()))
}

fn sums(json: &[u8], layer: &[u8], piece: usize) -> Sums {
    let mut sums = LayerSums::new(json);
    for piece in layer.chunks(piece.max(1)) {
        sums.update(piece);
    }
    sums.finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn file(name: &str, content: &[u8]) -> Member {
    Member { name: name.into(), typeflag: b'0', content: content.to_vec() }
}

#[test]
fn known_payload_checksums() {
    // Vectors of the original registry: no JSON and no layer; the JSON `test` and no layer.
    assert_eq!(sums(b"", b"", 1).checksums()[0], "sha256:01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b");
    assert_eq!(sums(b"test", b"", 1).checksums()[0], "sha256:f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2");
}

#[test]
fn an_empty_layer_has_a_tarsum_packed_or_not() {
    let nothing = sums(b"{}", b"", 1);
    assert_eq!(sums(b"{}", &gzip(b""), 3).checksums()[1], nothing.checksums()[1]);
    assert_eq!(nothing.checksums()[1], expected_tarsum(b"{}", &[]));
    assert_eq!(hex(&nothing.diff_id.unwrap()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn names_that_repeat_give_both_historic_sums() {
    let members = [file("a", b"1"), file("b", b"2"), file("./a", b"3")];
    let checksums = sums(b"{}", &tar(&members), 100).checksums();
    assert_eq!(checksums[1], expected_tarsum(b"{}", &members));
    assert_eq!(checksums[2], expected_tarsum(b"{}", &members[1..]));
}

#[test]
fn an_archive_may_lack_its_end_but_not_a_part() {
    let members = [file("a", &[7; 700])];
    let whole = tar(&members);
    let without_end = &whole[..whole.len() - 1024];
    assert_eq!(sums(b"", without_end, 512).checksums()[1], expected_tarsum(b"", &members));
    let cut = sums(b"", &whole[..900], 512);
    assert_eq!((cut.diff_id, cut.checksums().len()), (None, 1));
    let packed = gzip(&whole);
    assert_eq!(sums(b"", &packed[..packed.len() - 9], 64).diff_id, None);
}

#[test]
fn gnu_long_names_are_the_names() {
    let long = format!("{}/x", "d".repeat(200));
    let mut archive = block(b"././@LongLink", b'L', long.len() + 1);
    archive.extend(padded([long.as_bytes(), b"\0"].concat()));
    archive.extend(block(&long.as_bytes()[..100], b'0', 0));
    assert_eq!(sums(b"", &archive, 77).checksums()[1], expected_tarsum(b"", &[file(&long, b"")]));
}

#[test]
fn a_bomb_is_given_up_and_keeps_its_payload_checksum() {
    let zeros = vec![0; 1 << 20];
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..80 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let found = sums(b"", &bomb, 4096);
    assert_eq!((found.diff_id, found.size), (None, bomb.len() as u64));
    assert_eq!(found.checksums().len(), 1);
}

#[test]
fn what_is_no_tar_still_has_a_payload_checksum() {
    for layer in [&b"BZh91AY&SY"[..], b"\xfd7zXZ\0", b"hello", &[0x1f, 0x8b, 0, 0, 0], &[0xff; 600]] {
        let found = sums(b"{}", layer, 3);
        assert_eq!((found.diff_id, found.checksums().len(), found.size), (None, 1, layer.len() as u64));
    }
}

proptest! {
    #[test]
    fn sums_do_not_depend_on_how_the_bytes_come(
        files in prop::collection::vec(("[a-z]{1,8}(/[a-z]{1,60}){0,4}", prop::collection::vec(any::<u8>(), 0..1500)), 0..5),
        piece in 1_usize..2000,
        json in "\\PC{0,30}",
    ) {
        let mut members: Vec<Member> = files.iter().map(|(name, content)| file(name, content)).collect();
        members.push(Member { name: "dir/".into(), typeflag: b'5', content: Vec::new() });
        let archive = tar(&members);
        let plain = sums(json.as_bytes(), &archive, piece);
        let packed = sums(json.as_bytes(), &gzip(&archive), piece);
        prop_assert_eq!(&plain.checksums()[1], &expected_tarsum(json.as_bytes(), &members));
        prop_assert_eq!(&plain.checksums()[1], &packed.checksums()[1]);
        prop_assert_eq!(plain.diff_id, Some(Sha256::digest(&archive).into()));
        prop_assert_eq!(plain.diff_id, packed.diff_id);
    }

    #[test]
    fn any_bytes_are_taken_in_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000), piece in 1_usize..600) {
        let _ = sums(b"", &bytes, piece);
        let mut archive = tar(&[file("a", b"x")]);
        let at = bytes.len() % archive.len();
        archive[at] ^= bytes.first().copied().unwrap_or(1);
        let _ = sums(b"", &archive, piece);
        let _ = sums(b"", &gzip(&bytes), piece);
    }
}
