//! Manifests: what we read is what every other reader reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use berth_registry::fuzzing::{SIGNED, Signer, manifest, verified};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What manifests are sent as.
const TYPES: [Option<&str>; 9] = [
    None,
    Some("application/vnd.docker.distribution.manifest.v2+json"),
    Some("application/vnd.docker.distribution.manifest.list.v2+json"),
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.docker.distribution.manifest.v1+json"),
    Some(SIGNED),
    Some("application/json"),
    Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
];

/// What clients read in a document, which of it has parts, and what they read in those.
const OF_DOCUMENTS: [&str; 9] =
    ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "fsLayers", "history", "signatures"];
const PARTS: [&str; 6] = ["config", "layers", "manifests", "subject", "fsLayers", "history"];
const OF_PARTS: [&str; 6] = ["mediaType", "digest", "size", "urls", "blobSum", "v1Compatibility"];

/// A document is read as the same each time, as one kind of thing whatever it is sent as, and as clients in Go read it.
pub fn document(input: &[u8]) {
    let Some((sent, bytes)) = input.split_first() else { return };
    let sent = TYPES[usize::from(*sent) % TYPES.len()];
    let Ok(read) = manifest(sent, bytes) else { return };
    assert!(TYPES[1..7].contains(&Some(read.media_type.as_str())), "a media type of nothing: {}", read.media_type);
    assert!(read.blobs.is_empty() || read.manifests.is_empty(), "both an image and an index");
    assert_eq!(manifest(Some(&read.media_type), bytes).as_ref(), Ok(&read), "what is stored is read as something else");
    for other in TYPES {
        let Ok(other) = manifest(other, bytes) else { continue };
        assert_eq!((&other.blobs, &other.manifests, other.subject), (&read.blobs, &read.manifests, read.subject), "another kind of thing");
        assert_eq!(other.digest, read.digest);
    }
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        assert_plain(&value, true);
    }
}

/// Go takes a key in another case for the key, and of two the last. Where one is read, there is only that.
fn assert_plain(value: &Value, is_document: bool) {
    let read: &[&str] = if is_document { &OF_DOCUMENTS } else { &OF_PARTS };
    match value {
        Value::Object(members) => {
            for (at, (key, value)) in members.iter().enumerate() {
                if let Some(known) = read.iter().find(|known| folded(known) == folded(key)) {
                    assert_eq!(key, known, "a client in Go takes one for the other");
                    assert!(members[..at].iter().all(|(before, _)| before != key), "{key:?} is there twice");
                }
                if is_document && PARTS.contains(&key.as_str()) {
                    assert_plain(value, false);
                }
            }
        }
        Value::List(values) => values.iter().for_each(|value| assert_plain(value, false)),
        Value::Other => {}
    }
}

/// A key as Go compares it: two letters outside ASCII count as `s` and `k`.
fn folded(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

/// JSON in which nothing is lost that is there twice.
enum Value {
    Object(Vec<(String, Value)>),
    List(Vec<Value>),
    Other,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Value::Object(members))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(Value::List(values))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_str<E>(self, _: &str) -> Result<Value, E> {
                Ok(Value::Other)
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Other)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new().expect("a key"));

/// A signed document gives back what was signed, and whatever is changed of it gives back that or nothing.
///
/// An input is a payload, and behind `\x1e` where to change the signed document: two bytes of offset, how many bytes to
/// cut out there, and what to put in.
pub fn signature(input: &[u8]) {
    let _ = verified(input);
    let end = input.iter().rposition(|byte| *byte == 0x1e).unwrap_or(input.len());
    let (payload, change) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let Some(signed) = SIGNER.sign(payload) else { return };
    let object: Option<BTreeMap<String, IgnoredAny>> = serde_json::from_slice(payload).ok();
    if object.is_some_and(|object| !object.is_empty() && !object.contains_key("signatures")) {
        assert_eq!(verified(&signed).as_deref(), Ok(payload));
    }
    let [high, low, cut, put @ ..] = change else { return };
    let mut changed = signed.clone();
    let at = usize::from(u16::from_be_bytes([*high, *low])) % (changed.len() + 1);
    let until = (at + usize::from(*cut)).min(changed.len());
    changed.splice(at..until, put.iter().copied());
    if let Ok(read) = verified(&changed) {
        assert_eq!(read, payload, "a signature fits what was not signed");
    }
    let (before, after) = (manifest(Some(SIGNED), &signed), manifest(Some(SIGNED), &changed));
    if let (Ok(before), Ok(after)) = (before, after) {
        assert_eq!(before, after, "one signature, two manifests");
    }
}
