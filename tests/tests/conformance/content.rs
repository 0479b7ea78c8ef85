//! The sets of content that the suite pushes, each with what is odd about it.

use std::collections::BTreeMap;

use e2e::image::Layer;
use e2e::{Random, hex};
use serde_json::{Map, Value, json};
use sha2::Digest as _;

pub const ALGORITHMS: [&str; 2] = ["sha256", "sha512"];
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EXAMPLES: [&str; 2] = ["application/vnd.example.oci.conformance.v1", "application/vnd.example.oci.conformance.v2"];
const PLATFORMS: [&str; 2] = ["amd64", "arm64"];

/// One set.
#[derive(Default)]
pub struct Content {
    pub name: String,
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// What is referred to comes first.
    pub manifests: Vec<(String, Vec<u8>)>,
    pub tags: BTreeMap<String, String>,
    /// By their subject.
    pub referrers: BTreeMap<String, Vec<Value>>,
    /// The manifest is not what its digest is of.
    pub is_wrong: bool,
}

/// What is odd about the manifests of a set.
#[derive(Clone, Default)]
struct Form<'f> {
    algorithm: Option<&'f str>,
    /// Layers and config are something of an example's, not of an image's.
    artifact: Option<Artifact<'f>>,
    layers: Option<usize>,
    is_unpacked: bool,
    has_data: bool,
    has_more_fields: bool,
    annotations: Map<String, Value>,
    subject: Option<Value>,
    tag: Option<&'f str>,
}

#[derive(Clone, Copy)]
struct Artifact<'f> {
    kind: &'f str,
    layer_type: &'f str,
    /// The layer is two braces, as the config is.
    is_empty: bool,
}

/// The digest of bytes.
pub fn digest(algorithm: &str, bytes: &[u8]) -> String {
    match algorithm {
        "sha512" => format!("sha512:{}", hex(&sha2::Sha512::digest(bytes))),
        _ => format!("sha256:{}", e2e::sha256(bytes)),
    }
}

impl Form<'_> {
    fn digest(&self, bytes: &[u8]) -> String {
        digest(self.algorithm.unwrap_or("sha256"), bytes)
    }

    fn descriptor(&self, media_type: &str, bytes: &[u8]) -> Value {
        use base64::Engine as _;
        let mut descriptor = json!({ "mediaType": media_type, "digest": self.digest(bytes), "size": bytes.len() });
        if self.has_data {
            descriptor["data"] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
        }
        descriptor
    }

    /// What all documents may have.
    fn complete(&self, mut document: Value, random: &mut Random) -> Value {
        let fields = document.as_object_mut().unwrap();
        if let Some(artifact) = self.artifact {
            fields.insert("artifactType".into(), artifact.kind.into());
        }
        if let Some(subject) = &self.subject {
            fields.insert("subject".into(), subject.clone());
        }
        if !self.annotations.is_empty() {
            let mut annotations = self.annotations.clone();
            annotations.insert(format!("org.example.{:x}", random.number()), "alone".into());
            fields.insert("annotations".into(), annotations.into());
        }
        self.extend(document)
    }

    fn extend(&self, mut document: Value) -> Value {
        if self.has_more_fields {
            document["org.example.more"] = json!({ "a field": ["that nobody", 0, null, "knows"] });
        }
        document
    }
}

impl Content {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// An ordinary image without a tag.
    pub fn image(name: &str, random: &mut Random) -> Self {
        let mut content = Self::named(name);
        content.add_image(&Form::default(), PLATFORMS[0], random);
        content
    }

    /// The manifest of a digest.
    pub fn manifest(&self, digest: &str) -> &[u8] {
        self.manifests.iter().find(|(one, _)| one == digest).map(|(_, bytes)| bytes.as_slice()).unwrap()
    }

    fn add_blob(&mut self, form: &Form<'_>, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = form.descriptor(media_type, &bytes);
        self.blobs.insert(form.digest(&bytes), bytes);
        descriptor
    }

    fn add_layer(&mut self, form: &Form<'_>, random: &mut Random) -> Value {
        match form.artifact {
            Some(Artifact { layer_type, is_empty: true, .. }) => self.add_blob(form, layer_type, b"{}".to_vec()),
            Some(Artifact { layer_type, .. }) => self.add_blob(form, layer_type, random.bytes(2048)),
            None => {
                let layer = Layer::of_file(format!("Today's number is {}\n", random.number()).as_bytes());
                let (media_type, bytes) = if form.is_unpacked { (TAR, layer.tar) } else { (LAYER, layer.packed) };
                self.add_blob(form, media_type, bytes)
            }
        }
    }

    fn add_image(&mut self, form: &Form<'_>, architecture: &str, random: &mut Random) -> Value {
        let count = form.layers.unwrap_or(if form.artifact.is_some() { 1 } else { 2 });
        let layers: Vec<Value> = (0..count).map(|_| self.add_layer(form, random)).collect();
        // The suite says of all its layers that they unpack to nothing.
        let config = json!({
            "author": "a test", "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": vec![form.digest(b""); count] },
        });
        let config = match form.artifact {
            Some(_) => self.add_blob(form, EMPTY, b"{}".to_vec()),
            None => self.add_blob(form, CONFIG, form.extend(config).to_string().into_bytes()),
        };
        let document = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.add_manifest(form, MANIFEST, form.complete(document, random))
    }

    fn add_index(&mut self, form: &Form<'_>, architectures: &[&str], random: &mut Random) -> Value {
        let mut manifests = Vec::new();
        for architecture in architectures {
            let mut entry = self.add_image(form, architecture, random);
            entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            manifests.push(entry);
        }
        let document = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.add_manifest(form, INDEX, form.complete(document, random))
    }

    fn add_manifest(&mut self, form: &Form<'_>, media_type: &str, document: Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let (digest, descriptor) = (form.digest(&bytes), form.descriptor(media_type, &bytes));
        if let Some(subject) = &form.subject {
            let mut found = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
            // The config's type stands in where an image has none of its own; an index has none, then.
            let kind = document.get("artifactType").or_else(|| document.get("config").map(|config| &config["mediaType"]));
            for (field, value) in [("artifactType", kind), ("annotations", document.get("annotations"))] {
                if let Some(value) = value {
                    found[field] = value.clone();
                }
            }
            self.referrers.entry(subject["digest"].as_str().unwrap().to_owned()).or_default().push(found);
        }
        // The last that has the tag keeps it.
        if let Some(tag) = form.tag {
            self.tags.insert(tag.to_owned(), digest.clone());
        }
        self.manifests.push((digest, bytes));
        descriptor
    }
}

/// Every set.
pub fn all(random: &mut Random) -> Vec<Content> {
    let tagged = |tag| Form { tag: Some(tag), ..Form::default() };
    let artifact = |kind| Form { artifact: Some(Artifact { kind, layer_type: kind, is_empty: false }), ..Form::default() };
    let hello = || Map::from_iter([("org.opencontainers.conformance".to_owned(), Value::from("hello"))]);
    let mut all = Vec::new();
    let mut set = |name: &str, make: &mut dyn FnMut(&mut Content, &mut Random)| {
        let mut content = Content::named(name);
        make(&mut content, random);
        all.push(content);
    };
    for (name, form) in [
        ("image", tagged("image")),
        ("image of layers that are not packed", Form { is_unpacked: true, ..tagged("unpacked") }),
        ("large manifest", Form { annotations: large(), ..tagged("large-manifest") }),
        ("artifact", Form { tag: Some("artifact"), ..artifact(EXAMPLES[0]) }),
        (
            "artifact of nothing",
            Form { artifact: Some(Artifact { kind: EXAMPLES[0], layer_type: EMPTY, is_empty: true }), ..tagged("artifact-of-nothing") },
        ),
        ("descriptors with data", Form { has_data: true, ..tagged("data-field") }),
        ("image without layers", Form { layers: Some(0), ..tagged("no-layers") }),
    ] {
        set(name, &mut |content, random| drop(content.add_image(&form, PLATFORMS[0], random)));
    }
    for (name, form, platforms) in [
        ("index", tagged("index"), &PLATFORMS[..]),
        ("index of nothing", tagged("index"), &PLATFORMS[..0]),
        ("index of artifacts", Form { tag: Some("artifact-index"), ..artifact(EXAMPLES[0]) }, &PLATFORMS[..]),
        ("fields that nobody knows", Form { has_more_fields: true, ..tagged("custom-fields") }, &PLATFORMS[..]),
        ("sha512", Form { algorithm: Some("sha512"), ..Form::default() }, &PLATFORMS[..]),
    ] {
        set(name, &mut |content, random| drop(content.add_index(&form, platforms, random)));
    }
    set("index of indexes", &mut |content, random| {
        let form = Form::default();
        let indexes = [content.add_index(&form, &PLATFORMS, random), content.add_index(&form, &PLATFORMS, random)];
        let document = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": indexes });
        content.add_manifest(&tagged("index-of-index"), INDEX, document);
    });
    set("artifacts with a subject", &mut |content, random| {
        let subject = Some(content.add_image(&tagged("image"), PLATFORMS[0], random));
        content.add_image(&Form { subject: subject.clone(), ..Form::default() }, PLATFORMS[0], random);
        for (kind, layer_type, tag) in
            [(EXAMPLES[0], EXAMPLES[0], "tagged-artifact1"), (EXAMPLES[1], "application/octet-stream", "tagged-artifact2")]
        {
            let artifact = Some(Artifact { kind, layer_type, is_empty: false });
            let form = Form { artifact, annotations: hello(), subject: subject.clone(), ..tagged(tag) };
            content.add_image(&form, PLATFORMS[0], random);
        }
    });
    set("index with a subject", &mut |content, random| {
        let subject = Some(content.add_index(&tagged("index"), &PLATFORMS, random));
        let form = Form { subject, annotations: hello(), tag: Some("tagged-artifact"), ..artifact(EXAMPLES[0]) };
        content.add_index(&form, &PLATFORMS, random);
    });
    set("index of no kind with a subject", &mut |content, random| {
        let subject = Some(content.add_image(&tagged("image"), PLATFORMS[0], random));
        content.add_index(&Form { subject, ..Form::default() }, &[], random);
    });
    set("subject that is not there", &mut |content, random| {
        let subject = Some(json!({ "mediaType": MANIFEST, "size": 123, "digest": digest("sha256", b"missing content") }));
        let form = Form { subject, annotations: hello(), tag: Some("tagged-artifact"), ..artifact(EXAMPLES[0]) };
        content.add_image(&form, PLATFORMS[0], random);
    });
    set("layers that are elsewhere", &mut |content, random| foreign(content, random));
    set("wrong digest of a manifest", &mut |content, random| {
        content.add_image(&Form::default(), PLATFORMS[0], random);
        content.manifests[0].1.extend(b"  ");
        content.is_wrong = true;
    });
    all
}

/// As much as fits under four megabytes.
fn large() -> Map<String, Value> {
    (0..390).map(|i| (format!("large-annotation-{i}"), Value::from("A".repeat(10_000)))).collect()
}

/// Two layers that only their URLs lead to, and one of our own.
fn foreign(content: &mut Content, random: &mut Random) {
    let form = Form { tag: Some("non-distributable"), ..Form::default() };
    let mut layers: Vec<Value> = [format!("{FOREIGN}+gzip"), FOREIGN.to_owned()]
        .iter()
        .map(|media_type| {
            let digest = digest("sha256", &random.bytes(256));
            let url = format!("https://store.example.com/blobs/{}", digest.replace(':', "/"));
            json!({ "mediaType": media_type, "digest": digest, "size": 123_456, "urls": [url] })
        })
        .collect();
    layers.push(content.add_layer(&form, random));
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = content.add_blob(&form, CONFIG, config.to_string().into_bytes());
    content.add_manifest(&form, MANIFEST, json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers }));
}
