//! The config and the manifest that a chain of V1 images becomes: a pure function of the chain.
//!
//! As docker itself converts (protocol reference §6.2, §6.4): the config is the top image's JSON without what only V1 has,
//! with one history entry for each V1 image and one diff id for each layer, root first. A layer with nothing in it becomes
//! a history entry without a layer, as a newer docker builds it (§6.3).

use std::collections::BTreeMap;

use berth_names::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// The media type of the manifest.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What only V1 says.
const V1_ONLY: [&str; 6] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"];

/// When something was made of which nobody wrote down when: Go's zero time, which docker writes then.
pub(crate) const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// A blob as a manifest refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// One V1 image of the chain.
pub(super) struct Step<'a> {
    /// Its JSON, as it was pushed.
    pub(super) json: &'a [u8],
    /// The digest of its uncompressed layer, unless there is nothing in it.
    pub(super) diff_id: Option<Digest>,
}

/// The part of a V1 image's JSON that its history entry is made of. What docker could not read is left out.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    created: Value,
    #[serde(default)]
    author: Value,
    #[serde(default)]
    comment: Value,
    #[serde(default)]
    container_config: Value,
}

#[derive(Serialize)]
struct History {
    created: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    author: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    empty_layer: bool,
}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'a str,
    diff_ids: Vec<Digest>,
}

/// The config of a chain, root first; `Err` says which image's JSON can't be read.
pub(super) fn config(chain: &[Step<'_>]) -> Result<Vec<u8>, usize> {
    let mut history = Vec::with_capacity(chain.len());
    for (number, step) in chain.iter().enumerate() {
        let told: Told = serde_json::from_slice(step.json).map_err(|_| number)?;
        history.push(entry(&told, step.diff_id.is_none()));
    }
    let last = chain.len().checked_sub(1).ok_or(0_usize)?;
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(chain[last].json).map_err(|_| last)?;
    for name in V1_ONLY {
        fields.remove(name);
    }
    let diff_ids = chain.iter().filter_map(|step| step.diff_id).collect();
    let mut put = |name: &str, value: serde_json::Result<Box<RawValue>>| {
        // Text, lists and digests: serialising them cannot fail.
        if let Ok(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    let created = history.last().map_or(NO_TIME, |entry| entry.created.as_str());
    put("created", to_raw_value(created));
    put("rootfs", to_raw_value(&RootFs { r#type: "layers", diff_ids }));
    put("history", to_raw_value(&history));
    // Images of docker 0.8 and older don't say.
    for (name, value) in [("architecture", "amd64"), ("os", "linux")] {
        let said = fields.get(name).and_then(|said| serde_json::from_str::<String>(said.get()).ok());
        if said.is_none_or(|said| said.is_empty()) {
            fields.insert(name.to_owned(), to_raw_value(value).map_err(|_| last)?);
        }
    }
    serde_json::to_vec(&fields).map_err(|_| last)
}

fn entry(told: &Told, empty_layer: bool) -> History {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let words = told.container_config.get("Cmd").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let created_by = words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let created = told.created.as_str().filter(|text| is_time(text)).unwrap_or(NO_TIME).to_owned();
    History { created, author: text(&told.author), created_by, comment: text(&told.comment), empty_layer }
}

/// Whether docker can read the text as a time: RFC 3339, with or without fractions of a second.
pub(crate) fn is_time(text: &str) -> bool {
    let fits = |text: &str, form: &str| {
        text.len() == form.len()
            && text.bytes().zip(form.bytes()).all(|(byte, form)| if form == b'0' { byte.is_ascii_digit() } else { byte == form })
    };
    let Some((front, rest)) = text.split_at_checked(19) else { return false };
    let zone = rest.strip_prefix('.').map_or(rest, |fraction| fraction.trim_start_matches(|c: char| c.is_ascii_digit()));
    let has_digits = !rest.starts_with('.') || zone.len() + 1 < rest.len();
    let number = |range: std::ops::Range<usize>| front.get(range).and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(u32::MAX);
    let in_range = (1..=12).contains(&number(5..7)) && (1..=31).contains(&number(8..10)) && number(11..13) < 24 && number(14..16) < 60;
    fits(front, "0000-00-00T00:00:00")
        && in_range
        && number(17..19) < 60
        && has_digits
        && (zone == "Z" || fits(zone, "+00:00") || fits(zone, "-00:00"))
}

/// The manifest of a config and layers, root first.
pub(super) fn manifest(config: Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Part<'a> {
        media_type: &'a str,
        size: u64,
        digest: Digest,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        schema_version: u8,
        media_type: &'a str,
        config: Part<'a>,
        layers: Vec<Part<'a>>,
    }
    let part = |media_type, Descriptor { digest, size }: Descriptor| Part { media_type, size, digest };
    let layers = layers.iter().map(|layer| part(LAYER_TYPE, *layer)).collect();
    let manifest = Manifest { schema_version: 2, media_type: MANIFEST_TYPE, config: part(CONFIG_TYPE, config), layers };
    // Text, numbers and digests: serialising them cannot fail.
    serde_json::to_vec(&manifest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::sha256([byte; 32])
    }

    fn read(chain: &[Step<'_>]) -> Value {
        serde_json::from_slice(&config(chain).unwrap()).unwrap()
    }

    #[test]
    fn a_chain_becomes_one_config_with_its_history_and_layers_root_first() {
        let root = br##"{"id":"r","created":"2013-06-13T14:03:50.821769-07:00","container_config":{"Cmd":["/bin/sh","-c","#(nop) ADD x in /"]},"author":"A","comment":"c"}"##;
        let empty =
            br##"{"id":"e","parent":"r","created":"2014-01-01T00:00:00Z","container_config":{"Cmd":["/bin/sh","-c","#(nop) ENV a=b"]}}"##;
        let top = br#"{"id":"t","parent":"e","created":"2015-02-03T04:05:06.7Z","Size":7,"throwaway":false,"docker_version":"1.5.0","config":{"Cmd":["sh"],"Env":["a=b"]},"os":"linux","architecture":"arm","unknown":{"kept":[1, 2]}}"#;
        let steps = [
            Step { json: root, diff_id: Some(digest(1)) },
            Step { json: empty, diff_id: None },
            Step { json: top, diff_id: Some(digest(3)) },
        ];
        assert_eq!(
            read(&steps),
            json!({
                "architecture": "arm", "os": "linux", "created": "2015-02-03T04:05:06.7Z", "docker_version": "1.5.0",
                "config": { "Cmd": ["sh"], "Env": ["a=b"] }, "unknown": { "kept": [1, 2] },
                "rootfs": { "type": "layers", "diff_ids": [digest(1), digest(3)] },
                "history": [
                    { "created": "2013-06-13T14:03:50.821769-07:00", "author": "A", "created_by": "/bin/sh -c #(nop) ADD x in /", "comment": "c" },
                    { "created": "2014-01-01T00:00:00Z", "created_by": "/bin/sh -c #(nop) ENV a=b", "empty_layer": true },
                    { "created": "2015-02-03T04:05:06.7Z" },
                ],
            })
        );
        let text = String::from_utf8(config(&steps).unwrap()).unwrap();
        assert!(text.starts_with(r#"{"architecture":"arm","config":"#), "keys are in order: {text}");
    }

    #[test]
    fn what_docker_could_not_read_does_not_spoil_the_image() {
        let bare = read(&[Step { json: br#"{"id":"x"}"#, diff_id: Some(digest(1)) }]);
        assert_eq!((&bare["created"], &bare["os"], &bare["architecture"]), (&json!(NO_TIME), &json!("linux"), &json!("amd64")));
        assert_eq!(bare["history"], json!([{ "created": NO_TIME }]));
        let odd = br#"{"created":7,"author":["x"],"comment":{},"container_config":null,"os":"","architecture":3}"#;
        assert_eq!(read(&[Step { json: odd, diff_id: None }])["history"], json!([{ "created": NO_TIME, "empty_layer": true }]));
        for (number, bad) in [b"{".as_slice(), b"[]", b"\"x\"", b""].into_iter().enumerate() {
            let good = Step { json: b"{}", diff_id: None };
            assert_eq!(config(&[good, Step { json: bad, diff_id: None }]), Err(1), "{number}");
        }
    }

    #[test]
    fn times_are_those_that_docker_reads() {
        for good in ["2013-06-13T14:03:50Z", "2013-06-13T14:03:50.821769-07:00", "0001-01-01T00:00:00Z", "2013-06-13T14:03:50+05:30"] {
            assert!(is_time(good), "{good}");
        }
        for bad in [
            "",
            "now",
            "2013-06-13",
            "2013-06-13T14:03:50",
            "2013-06-13T14:03:50.Z",
            "2013-13-13T14:03:50Z",
            "2013-06-13 14:03:50Z",
            "2013-06-13T24:03:50Z",
        ] {
            assert!(!is_time(bad), "{bad}");
        }
    }

    #[test]
    fn the_manifest_is_docker_schema_2() {
        let bytes = manifest(Descriptor { digest: digest(9), size: 5 }, &[Descriptor { digest: digest(1), size: 7 }]);
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            read,
            json!({ "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
                "config": { "mediaType": CONFIG_TYPE, "size": 5, "digest": digest(9) },
                "layers": [{ "mediaType": LAYER_TYPE, "size": 7, "digest": digest(1) }] })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), text in "\\PC{0,40}") {
            let _ = config(&[Step { json: &bytes, diff_id: None }]);
            let _ = is_time(&text);
        }
    }
}
