//! Reading a manifest: just enough to know what it is and what it needs.

use std::collections::BTreeMap;
use std::fmt;

use berth_names::Digest;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::{RawValue, to_raw_value};

use super::schema1::{SIGNED, Schema1, is_schema1};
use crate::json::{check_names, shapes};
use crate::{Error, Result};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Blobs or manifests that one manifest may refer to.
const NEEDS_MAX: usize = 10_000;

/// What the registry needs to know of a manifest.
#[derive(Debug)]
pub(crate) struct Document {
    pub(super) media_type: String,
    /// Whether it says itself what it is. If it does not, it is what it was pushed as first.
    pub(super) says_what_it_is: bool,
    pub(super) needs: Vec<Need>,
    /// Layers that clients can fetch elsewhere, so that they may be absent here. One that was pushed all the same belongs to
    /// the manifest like any other.
    pub(super) elsewhere: Vec<Digest>,
    pub(super) subject: Option<Digest>,
    pub(crate) artifact_type: Option<String>,
    pub(super) annotations: Option<Annotations>,
    /// What else it says if it is of schema 1.
    pub(super) schema1: Option<Schema1>,
}

/// Something that must be in the image before the manifest can be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Blob { digest: Digest, size: Option<u64> },
    Manifest { digest: Digest, size: Option<u64> },
}

impl Document {
    /// The bytes of everything that the manifest refers to, as it says.
    pub(crate) fn size(&self) -> u64 {
        self.needs.iter().filter_map(Need::size).fold(0, u64::saturating_add)
    }
}

impl Need {
    /// What an entry of an index stands for: a manifest, unless it says that it is something which never is one.
    fn of_entry(entry: Descriptor) -> Self {
        let Descriptor { digest, size, media_type, .. } = entry;
        match media_type.is_some_and(|media_type| is_layer_or_cache(&media_type)) {
            true => Self::Blob { digest, size },
            false => Self::Manifest { digest, size },
        }
    }

    pub(super) fn digest(&self) -> &Digest {
        match self {
            Self::Blob { digest, .. } | Self::Manifest { digest, .. } => digest,
        }
    }

    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Blob { size, .. } | Self::Manifest { size, .. } => *size,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<Annotations>,
}

/// An object of texts, which is passed on as it is; a text that is `null` is passed on as Go reads it, which is as an empty
/// one.
#[derive(Clone, Debug)]
pub(crate) struct Annotations(pub(super) Box<RawValue>);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let no_texts = |_| D::Error::custom("annotations must be an object of texts");
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str::<Texts>(raw.get()).map_err(no_texts)? {
            Texts { has_null: false } => Ok(Self(raw)),
            Texts { has_null: true } => {
                let texts: BTreeMap<String, Option<String>> = serde_json::from_str(raw.get()).map_err(no_texts)?;
                let texts: BTreeMap<String, String> = texts.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect();
                to_raw_value(&texts).map(Self).map_err(no_texts)
            }
        }
    }
}

/// Texts by name, of which nothing is kept.
struct Texts {
    has_null: bool,
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Texts, A::Error> {
                let mut has_null = false;
                while let Some((_, text)) = entries.next_entry::<Text, Option<Text>>()? {
                    has_null |= text.is_none();
                }
                Ok(Texts { has_null })
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A text that is not kept.
struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct One;
        impl Visitor<'_> for One {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, _: &str) -> std::result::Result<Text, E> {
                Ok(Text)
            }
        }
        deserializer.deserialize_str(One)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: Digest,
    size: Option<u64>,
    urls: Option<Vec<String>>,
}

impl Document {
    /// Reads a manifest that was sent as `media_type`: one that every client reads as we do.
    pub(super) fn parse(media_type: Option<&str>, bytes: &[u8]) -> Result<Self> {
        let document = Self::read(media_type, bytes)?;
        let shape = if document.schema1.is_some() { &shapes::SCHEMA1 } else { &shapes::MANIFEST };
        check_names(bytes, shape).map_err(Error::ManifestInvalid)?;
        Ok(document)
    }

    /// Reads a manifest that is stored, perhaps since before names were looked at.
    pub(super) fn read(media_type: Option<&str>, bytes: &[u8]) -> Result<Self> {
        if !crate::json::is_sane(bytes) {
            return invalid("it is not UTF-8, nested too deep, or of too many values");
        }
        let mut wire: Wire = serde_json::from_slice(bytes).map_err(|error| Error::ManifestInvalid(error.to_string()))?;
        wire.media_type = wire.media_type.filter(|text| !text.is_empty());
        match wire.schema_version {
            Some(1) => return Self::of_schema1(media_type, &wire, bytes),
            Some(2) => {}
            _ => return invalid("schemaVersion must be 2, or 1 as docker 1.6 to 1.9 push it"),
        }
        let says_what_it_is = wire.media_type.is_some();
        let media_type = agreed_media_type(media_type, wire.media_type.as_deref())?;
        // A document that reads as both kinds could be shown to one client as one thing and to another as the other.
        if wire.manifests.is_some() && (wire.layers.is_some() || wire.config.is_some()) {
            return invalid("a manifest has either layers or manifests");
        }
        if wire.layers.as_ref().or(wire.manifests.as_ref()).is_some_and(|needed| needed.len() > NEEDS_MAX) {
            return invalid("it refers to more than 10,000 others");
        }
        let config_type = wire.config.as_ref().and_then(|config| config.media_type.clone());
        let artifact_type = wire.artifact_type.filter(|text| !text.is_empty()).or(config_type).filter(|text| !text.is_empty());
        // No list is an empty one: Go leaves it out, or writes `null`.
        let mut elsewhere = Vec::new();
        let needs = match (media_type.as_str(), wire.config, wire.layers, wire.manifests) {
            (DOCKER_MANIFEST | OCI_MANIFEST, Some(config), layers, None) => {
                let (foreign, local): (Vec<_>, Vec<_>) = layers.unwrap_or_default().into_iter().partition(is_foreign);
                elsewhere.extend(foreign.iter().map(|layer| layer.digest));
                std::iter::once(config).chain(local).map(|d| Need::Blob { digest: d.digest, size: d.size }).collect()
            }
            (DOCKER_LIST | OCI_INDEX, None, None, manifests) => manifests.unwrap_or_default().into_iter().map(Need::of_entry).collect(),
            (DOCKER_MANIFEST | OCI_MANIFEST, ..) => return invalid("an image manifest has a config, and no manifests"),
            (DOCKER_LIST | OCI_INDEX, ..) => return invalid("an index has manifests, and neither config nor layers"),
            _ => return invalid("the media type is none of Docker's and OCI's manifests and indexes"),
        };
        Ok(Self {
            media_type,
            says_what_it_is,
            needs,
            elsewhere,
            subject: wire.subject.map(|subject| subject.digest),
            artifact_type,
            annotations: wire.annotations,
            schema1: None,
        })
    }

    /// Docker 1.6 to 1.9 don't say what they send: the document does, by having signatures or not.
    fn of_schema1(header: Option<&str>, wire: &Wire, bytes: &[u8]) -> Result<Self> {
        let header = essence(header);
        if header.is_some_and(|header| header != "application/json" && !is_schema1(header)) || wire.media_type.is_some() {
            return invalid("schemaVersion 1 belongs to another media type");
        }
        if wire.config.is_some() || wire.layers.is_some() || wire.manifests.is_some() || wire.subject.is_some() {
            return invalid("a manifest of schema 1 has fsLayers and history and nothing of later schemas");
        }
        let (manifest, media_type) = Schema1::parse(bytes).map_err(Error::ManifestInvalid)?;
        if header == Some(SIGNED) && media_type != SIGNED {
            return invalid("it has no signatures");
        }
        Ok(Self {
            media_type: media_type.to_owned(),
            says_what_it_is: false,
            needs: manifest.layers().into_iter().map(|digest| Need::Blob { digest, size: None }).collect(),
            elsewhere: Vec::new(),
            subject: None,
            artifact_type: None,
            annotations: None,
            schema1: Some(manifest),
        })
    }
}

fn invalid<T>(why: &str) -> Result<T> {
    Err(Error::ManifestInvalid(why.to_owned()))
}

/// A media type without its parameters.
fn essence(header: Option<&str>) -> Option<&str> {
    header.map(|text| text.split(';').next().unwrap_or_default().trim()).filter(|text| !text.is_empty())
}

/// Header and document must agree, or the same digest could be read as different things.
fn agreed_media_type(header: Option<&str>, document: Option<&str>) -> Result<String> {
    match (essence(header), document) {
        (Some(header), Some(document)) if header != document => invalid("Content-Type and mediaType differ"),
        (Some(media_type), _) | (None, Some(media_type)) => Ok(media_type.to_owned()),
        (None, None) => invalid("neither Content-Type nor mediaType says what it is"),
    }
}

/// Buildkit's cache was, up to 0.20 and later on request, an index of layers and one configuration, which it pushes and pulls
/// as blobs.
fn is_layer_or_cache(media_type: &str) -> bool {
    ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.", "application/vnd.buildkit.cacheconfig."]
        .iter()
        .any(|start| media_type.starts_with(start))
}

/// Whether a layer may be absent because it can be fetched elsewhere: we store what its descriptor says and never look there.
fn is_foreign(layer: &Descriptor) -> bool {
    let marked = layer.media_type.as_deref().is_some_and(|text| text.contains("foreign") || text.contains("nondistributable"));
    marked && layer.urls.as_ref().is_some_and(|urls| !urls.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(byte: u8) -> String {
        Digest::sha256([byte; 32]).to_string()
    }

    fn image() -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{{"mediaType":"c/t","digest":"{}","size":1}},"layers":[{{"digest":"{}","size":2}}]}}"#,
            digest(1),
            digest(2)
        )
    }

    #[test]
    fn an_image_needs_its_config_and_its_layers() {
        let document = Document::parse(Some(DOCKER_MANIFEST), image().as_bytes()).unwrap();
        let needed: Vec<String> = document.needs.iter().map(|need| need.digest().to_string()).collect();
        assert_eq!(needed, [digest(1), digest(2)]);
        assert_eq!(document.artifact_type.as_deref(), Some("c/t"));
    }

    #[test]
    fn an_index_needs_its_manifests() {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":7}}]}}"#, digest(3));
        let document = Document::parse(Some(OCI_INDEX), text.as_bytes()).unwrap();
        assert!(matches!(document.needs.as_slice(), [Need::Manifest { size: Some(7), .. }]));
    }

    #[test]
    fn an_index_of_a_build_cache_needs_blobs() {
        let entry = |media_type: &str, byte| format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":7}}"#, digest(byte));
        for (layer, index) in
            [("application/vnd.oci.image.layer.v1.tar+gzip", OCI_INDEX), ("application/vnd.docker.image.rootfs.diff.tar.gzip", DOCKER_LIST)]
        {
            let entries =
                [entry(layer, 1), entry("application/vnd.buildkit.cacheconfig.v0", 2), entry(OCI_MANIFEST, 3), entry("x/unknown", 4)];
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
            let document = Document::parse(Some(index), text.as_bytes()).unwrap();
            assert!(matches!(
                document.needs.as_slice(),
                [Need::Blob { .. }, Need::Blob { size: Some(7), .. }, Need::Manifest { .. }, Need::Manifest { .. }]
            ));
        }
    }

    #[test]
    fn null_empty_and_absent_lists_are_one_thing() {
        let config = format!(r#""config":{{"mediaType":"c/t","digest":"{}","size":1}}"#, digest(1));
        for list in [r#","layers":[]"#, r#","layers":null"#, "", r#","layers":null,"manifests":null,"annotations":null,"subject":null"#] {
            let text = format!(r#"{{"schemaVersion":2,{config}{list}}}"#);
            let document = Document::parse(Some(OCI_MANIFEST), text.as_bytes()).unwrap();
            assert_eq!(document.needs.len(), 1, "{text}");
        }
        for list in [r#","manifests":[]"#, r#","manifests":null"#, "", r#","manifests":null,"layers":null,"config":null"#] {
            let text = format!(r#"{{"schemaVersion":2{list}}}"#);
            assert!(Document::parse(Some(OCI_INDEX), text.as_bytes()).unwrap().needs.is_empty(), "{text}");
        }
        // What could be read as both kinds stays refused.
        for (media_type, text) in [
            (OCI_MANIFEST, format!(r#"{{"schemaVersion":2,{config},"manifests":[]}}"#)),
            (OCI_INDEX, format!(r#"{{"schemaVersion":2,{config}}}"#)),
            (OCI_INDEX, r#"{"schemaVersion":2,"layers":[]}"#.to_owned()),
            (OCI_MANIFEST, r#"{"schemaVersion":2,"layers":[]}"#.to_owned()),
        ] {
            assert!(Document::parse(Some(media_type), text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_annotation_that_is_null_is_an_empty_text() {
        let passed_on = |annotations: &str| {
            let text = image().replace(r#""layers""#, &format!(r#""annotations":{annotations},"layers""#));
            Document::parse(Some(DOCKER_MANIFEST), text.as_bytes()).unwrap().annotations.map(|annotations| annotations.0.get().to_owned())
        };
        assert_eq!(passed_on(r#"{"b":null,"a":"x"}"#).as_deref(), Some(r#"{"a":"x","b":""}"#));
        assert_eq!(passed_on(r#"{"b":"", "a":"x"}"#).as_deref(), Some(r#"{"b":"", "a":"x"}"#));
        assert_eq!(passed_on("null"), None);
    }

    #[test]
    fn an_empty_artifact_type_is_none() {
        let of = |artifact_type: &str| {
            let text = image().replace(r#""layers""#, &format!(r#""artifactType":{artifact_type},"layers""#));
            Document::parse(Some(DOCKER_MANIFEST), text.as_bytes()).unwrap().artifact_type
        };
        assert_eq!((of(r#""""#).as_deref(), of("null").as_deref(), of(r#""a/b""#).as_deref()), (Some("c/t"), Some("c/t"), Some("a/b")));
        let index = |artifact_type: &str| {
            let text = format!(r#"{{"schemaVersion":2{artifact_type}}}"#);
            Document::parse(Some(OCI_INDEX), text.as_bytes()).unwrap().artifact_type
        };
        assert_eq!((index(""), index(r#","artifactType":"""#), index(r#","artifactType":"a/b""#)), (None, None, Some("a/b".to_owned())));
    }

    #[test]
    fn a_foreign_layer_is_not_needed() {
        let text = image().replace(
            r#""layers":["#,
            &format!(r#""layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{}","size":9,"urls":["https://example.com/x"]}},"#, digest(9)),
        );
        let document = Document::parse(Some(DOCKER_MANIFEST), text.as_bytes()).unwrap();
        assert_eq!((document.needs.len(), document.elsewhere), (2, vec![digest(9).parse().unwrap()]));
    }

    #[test]
    fn what_is_ambiguous_or_not_a_manifest_is_refused() {
        let both = image().replace(r#""layers""#, r#""manifests":[],"layers""#);
        let negative = image().replace(r#""size":1"#, r#""size":-1"#);
        let twice = image().replace(r#""layers""#, r#""config":{"digest":"x"},"layers""#);
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let annotated = |annotations: &str| image().replace(r#""layers""#, &format!(r#""annotations":{annotations},"layers""#));
        assert!(Document::parse(Some(DOCKER_MANIFEST), annotated(r#"{"a":"b","c\u0064":"\n"}"#).as_bytes()).is_ok());
        let many = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, vec![format!(r#"{{"digest":"{}"}}"#, digest(3)); 10_001].join(","));
        for (media_type, text) in [
            (Some(DOCKER_MANIFEST), both.as_str()),
            (Some(DOCKER_MANIFEST), negative.as_str()),
            (Some(DOCKER_MANIFEST), twice.as_str()),
            (Some(DOCKER_MANIFEST), deep.as_str()),
            (Some(DOCKER_MANIFEST), &annotated(r#"{"a":1}"#)),
            (Some(DOCKER_MANIFEST), &annotated(r#"["a"]"#)),
            (Some(DOCKER_MANIFEST), &annotated(&format!("{{{}}}", vec![r#""a":"""#; 500_000].join(",")))),
            (Some(OCI_INDEX), &many),
            (Some(OCI_MANIFEST), image().as_str()),
            (Some(DOCKER_LIST), &image().replace(DOCKER_MANIFEST, DOCKER_LIST)),
            (Some(DOCKER_MANIFEST), &image().replace("sha256:", "sha256:0")),
            (Some(DOCKER_MANIFEST), &image().replace(r#""schemaVersion":2"#, r#""schemaVersion":1"#)),
            (Some("application/json"), &image().replace(DOCKER_MANIFEST, "application/json")),
            (None, r#"{"schemaVersion":2}"#),
            (Some(DOCKER_MANIFEST), "{"),
            (Some(DOCKER_MANIFEST), "\u{feff}{}"),
            (Some(DOCKER_MANIFEST), ""),
            (Some(DOCKER_MANIFEST), "NaN"),
        ] {
            assert!(matches!(Document::parse(media_type, text.as_bytes()), Err(Error::ManifestInvalid(_))), "{text}");
        }
    }

    #[test]
    fn the_document_says_what_it_is_if_the_header_does_not() {
        assert_eq!(Document::parse(None, image().as_bytes()).unwrap().media_type, DOCKER_MANIFEST);
        assert!(Document::parse(Some(&format!("{DOCKER_MANIFEST}; charset=utf-8")), image().as_bytes()).is_ok());
    }

    /// Go's decoder takes them for the names that they look like, and docker pulls what stands there.
    #[test]
    fn a_manifest_that_clients_would_read_otherwise_is_refused() {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":7,"platform":{{"os":"linux"}}}}]}}"#, digest(3));
        let secret = format!(r#"[{{"digest":"{}","size":2}}]"#, digest(9));
        for (media_type, whole, part, changed) in [
            (DOCKER_MANIFEST, image(), r#""layers""#, format!(r#""Layers":{secret},"layers""#)),
            (DOCKER_MANIFEST, image(), r#""layers""#, format!(r#""LAYERS":{secret},"layers""#)),
            (DOCKER_MANIFEST, image(), r#""layers""#, format!("\"layer\u{17f}\":{secret},\"layers\"")),
            (DOCKER_MANIFEST, image(), r#""layers""#, format!(r#""\u004cayers":{secret},"layers""#)),
            (DOCKER_MANIFEST, image(), r#""config""#, r#""CONFIG":{},"config""#.to_owned()),
            (DOCKER_MANIFEST, image(), r#""size":2"#, format!(r#""Digest":"{}","size":2"#, digest(9))),
            (DOCKER_MANIFEST, image(), r#""size":1"#, r#""MediaType":"a/b","size":1"#.to_owned()),
            (DOCKER_MANIFEST, image(), r#""size":2"#, r#""size":2,"URLs":["https://evil.example"]"#.to_owned()),
            (DOCKER_MANIFEST, image(), r#""size":2"#, r#""size":2,"data":"","data":"eA""#.to_owned()),
            (DOCKER_MANIFEST, image(), "{\"schema", format!(r#"{{"Subject":{},"schema"#, &secret[1..secret.len() - 1])),
            (OCI_INDEX, index.clone(), r#""os""#, r#""OS":"windows","os""#.to_owned()),
            (OCI_INDEX, index, r#""manifests""#, format!(r#""Manifests":{secret},"manifests""#)),
        ] {
            assert!(Document::parse(Some(media_type), whole.as_bytes()).is_ok());
            let text = whole.replacen(part, &changed, 1);
            assert_ne!(text, whole);
            assert!(matches!(Document::parse(Some(media_type), text.as_bytes()), Err(Error::ManifestInvalid(_))), "{text}");
        }
        // What nobody reads may be called as it likes.
        let annotated = image().replacen("{\"schema", r#"{"annotations":{"Layers":"a","layers":"b"},"x":{"Layers":1},"schema"#, 1);
        assert!(Document::parse(Some(DOCKER_MANIFEST), annotated.as_bytes()).is_ok());
        // What is stored is read as before.
        let stored = image().replacen("{\"schema", r#"{"Layers":[],"schema"#, 1);
        assert!(Document::read(Some(DOCKER_MANIFEST), stored.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Document::parse(Some(OCI_MANIFEST), &bytes).is_err());
        }
    }
}
