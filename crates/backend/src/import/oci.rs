//! An OCI layout: everything is there under its digest, and goes in as it is. A layer must unpack to what its image's config
//! says of it, where it says that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use berth_names::{Algorithm, Digest, ImageName, Reference, Tag};
use berth_registry::{Error, MANIFEST_BYTES_MAX};
use serde::Deserialize;

use super::archive::{LIST_BYTES_MAX, only, unpacked_digest, upload};
use super::feed::Feed;
use super::tar::{Archive, Place};
use super::{Import, PUSH, Trouble};

/// Indexes within indexes.
const DEPTH_MAX: usize = 4;

/// Manifests of one archive.
const MANIFESTS_MAX: usize = 10_000;

/// Where containerd, and docker with it, writes down what an image is called; and where the specification does, though
/// that may be a tag only.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Types of configs that say what the layers unpack to.
const IMAGE_CONFIGS: [&str; 2] = ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// The largest config that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Missing parts that are named; the others are counted.
const MISSING_SHOWN_MAX: usize = 8;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// A manifest or an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    fn manifests(&self) -> &[Descriptor] {
        self.manifests.as_deref().unwrap_or_default()
    }

    fn layers(&self) -> &[Descriptor] {
        self.layers.as_deref().unwrap_or_default()
    }
}

/// What an image's config says of its layers.
#[derive(Deserialize)]
struct Config {
    rootfs: Option<Rootfs>,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Option<Vec<Digest>>,
}

/// The index leads to what is not there, or not as it should be.
#[derive(Debug, Default)]
pub(super) struct Partial {
    missing: Vec<String>,
    others: usize,
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a part is all that is there: {}", self.missing.join("; "))?;
        if self.others > 0 { write!(f, "; and {} more", self.others) } else { Ok(()) }
    }
}

impl std::error::Error for Partial {}

/// What is to be stored so that everything the archive's index leads to is there.
pub(super) struct Plan {
    /// Children before their parents.
    manifests: Vec<Descriptor>,
    /// What each manifest leads to.
    below: HashMap<Digest, Document>,
    /// What the index names.
    tops: Vec<Descriptor>,
}

/// Reads all manifests. `None`: it is no OCI layout.
pub(super) fn plan(archive: &Archive) -> Result<Option<Plan>, Partial> {
    let index = archive.read("index.json", LIST_BYTES_MAX).ok().and_then(|bytes| serde_json::from_slice::<Document>(&bytes).ok());
    let Some(index) = index else { return Ok(None) };
    let mut plan = Plan { manifests: Vec::new(), below: HashMap::new(), tops: index.manifests.unwrap_or_default() };
    let mut partial = Partial::default();
    for top in plan.tops.clone() {
        plan.add(archive, &top, DEPTH_MAX, &mut partial);
    }
    if partial.missing.is_empty() { Ok(Some(plan)) } else { Err(partial) }
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Where a blob is, if it is there.
fn place(archive: &Archive, descriptor: &Descriptor) -> Option<Place> {
    archive.find(&path(&descriptor.digest)).filter(|place| place.size == descriptor.size)
}

impl Partial {
    fn add(&mut self, archive: &Archive, what: &str, descriptor: &Descriptor) {
        let Descriptor { digest, size, platform, .. } = descriptor;
        let of = platform.as_ref().map(|Platform { os, architecture }| format!(" for {os}/{architecture}")).unwrap_or_default();
        let why = match archive.find(&path(digest)) {
            Some(place) if place.size != *size => format!("has {} bytes instead of {size}", place.size),
            Some(_) => "can't be read".to_owned(),
            None => archive.why_absent(&path(digest)).trim_start_matches("it ").to_owned(),
        };
        self.say(format!("{what} {digest}{of} {why}"));
    }

    fn say(&mut self, what: String) {
        if self.missing.len() < MISSING_SHOWN_MAX { self.missing.push(what) } else { self.others += 1 }
    }
}

impl Plan {
    fn add(&mut self, archive: &Archive, descriptor: &Descriptor, depth: usize, partial: &mut Partial) {
        if self.below.contains_key(&descriptor.digest) {
            return;
        }
        if depth == 0 || self.manifests.len() >= MANIFESTS_MAX {
            return partial.say(format!("{} lies deeper than {DEPTH_MAX} indexes, or behind {MANIFESTS_MAX} others", descriptor.digest));
        }
        let read = || {
            place(archive, descriptor)?;
            serde_json::from_slice::<Document>(&archive.read(&path(&descriptor.digest), MANIFEST_BYTES_MAX as u64).ok()?).ok()
        };
        let Some(document) = read() else { return partial.add(archive, "the manifest", descriptor) };
        for child in document.manifests() {
            self.add(archive, child, depth - 1, partial);
        }
        let is_missing = |blob: &&Descriptor| place(archive, blob).is_none();
        document.config.iter().filter(is_missing).for_each(|config| partial.add(archive, "the config", config));
        document.layers().iter().filter(is_missing).for_each(|layer| partial.add(archive, "the layer", layer));
        self.below.insert(descriptor.digest, document);
        self.manifests.push(descriptor.clone());
    }

    /// Whether every layer is packed, as it is when it comes from a registry.
    pub(super) fn is_packed(&self) -> bool {
        let mut layers = self.below.values().flat_map(Document::layers);
        layers.all(|layer| ["gzip", "zstd"].iter().any(|packing| layer.media_type.ends_with(packing)))
    }

    /// The manifest and everything below it, children before their parents.
    fn reached_from(&self, top: &Digest) -> Vec<&Descriptor> {
        let (mut reached, mut next) = (HashSet::new(), vec![*top]);
        while let Some(digest) = next.pop() {
            if reached.insert(digest) {
                next.extend(self.below.get(&digest).into_iter().flat_map(Document::manifests).map(|child| child.digest));
            }
        }
        self.manifests.iter().filter(|manifest| reached.contains(&manifest.digest)).collect()
    }
}

/// Imports everything that the index names.
pub(super) async fn import(import: &mut Import, archive: &Archive, plan: Plan, name: Option<&str>) -> anyhow::Result<()> {
    let tops: Vec<(String, &Descriptor)> = match name {
        Some(name) => vec![(name.to_owned(), only(plan.tops.iter())?)],
        None => plan.tops.iter().map(|top| (name_of(top).unwrap_or_default(), top)).collect(),
    };
    let mut compared = HashSet::new();
    for (name, top) in tops {
        if name.is_empty() {
            import.problem(&top.digest.to_string(), "it has no name; import it alone and give it one with --image");
            continue;
        }
        import.show(&name);
        let outcome = import_image(import, archive, (&plan, top), &name, &mut compared).await;
        import.settle(&name, outcome)?;
    }
    Ok(())
}

fn name_of(top: &Descriptor) -> Option<String> {
    NAMES.iter().filter_map(|key| top.annotations.as_ref()?.get(*key)).find(|name| name.contains([':', '/'])).cloned()
}

/// Layers that were compared with what a config says of them.
type Compared = HashSet<(Digest, Digest)>;

async fn import_image(
    import: &mut Import,
    archive: &Archive,
    (plan, top): (&Plan, &Descriptor),
    name: &str,
    compared: &mut Compared,
) -> Result<(), Trouble> {
    let (image, tag) = import.name(name)?;
    match import.registry.manifest(&import.repository.key, &image, &Reference::Tag(tag.clone())).await {
        Ok(there) if there.digest == top.digest => {
            import.report.present += 1;
            return Ok(());
        }
        Ok(_) | Err(Error::ManifestUnknown(_)) => {}
        Err(error) => return Err(error.into()),
    }
    for manifest in plan.reached_from(&top.digest) {
        if let Some(document) = plan.below.get(&manifest.digest) {
            compare_layers(import, archive, document, compared).await?;
            for blob in document.config.iter().chain(document.layers()) {
                import_blob(import, archive, &image, blob).await?;
            }
        }
        put(import, archive, &image, manifest, Reference::Digest(manifest.digest)).await?;
        import.report.imported += 1;
    }
    put_tag(import, archive, &image, top, tag).await
}

/// Compares every layer with what the image's config says it unpacks to. What is no image says nothing of that kind.
async fn compare_layers(import: &Import, archive: &Archive, document: &Document, compared: &mut Compared) -> Result<(), Trouble> {
    let Some(config) = document.config.as_ref().filter(|config| IMAGE_CONFIGS.contains(&config.media_type.as_str())) else { return Ok(()) };
    let parsed = archive.read(&path(&config.digest), CONFIG_BYTES_MAX).ok().and_then(|bytes| serde_json::from_slice::<Config>(&bytes).ok());
    let Some(diff_ids) = parsed.and_then(|config| config.rootfs?.diff_ids) else { return Ok(()) };
    let is_tar = |layer: &Descriptor| layer.media_type.contains("tar") && !layer.media_type.ends_with("+encrypted");
    if diff_ids.len() != document.layers().len() {
        let (said, found) = (diff_ids.len(), document.layers().len());
        let is_image = document.layers().iter().all(is_tar);
        return if is_image { Err(Trouble::Skip(format!("its config has {said} layers, its manifest {found}"))) } else { Ok(()) };
    }
    let is_known = |diff_id: &Digest| matches!(diff_id.algorithm(), Algorithm::Sha256);
    let layers = document.layers().iter().zip(diff_ids);
    for (layer, diff_id) in layers.filter(|(layer, diff_id)| is_tar(layer) && is_known(diff_id)) {
        let Some(place) = place(archive, layer).filter(|_| !compared.contains(&(layer.digest, diff_id))) else { continue };
        let unpacked = unpacked_digest(import, archive, place, &layer.digest.to_string()).await?;
        if unpacked != diff_id {
            return Err(Trouble::Skip(format!("its layer {} unpacks to {unpacked}, not {diff_id} as its config says", layer.digest)));
        }
        compared.insert((layer.digest, diff_id));
    }
    Ok(())
}

async fn put_tag(import: &mut Import, archive: &Archive, image: &ImageName, top: &Descriptor, tag: Tag) -> Result<(), Trouble> {
    if matches!(top.digest.algorithm(), Algorithm::Sha256) {
        put(import, archive, image, top, Reference::Tag(tag.clone())).await?;
        return import.keep_newest(image, &tag).await;
    }
    Err(Trouble::Skip("a tag can't point to a digest other than SHA-256".to_owned()))
}

async fn put(import: &Import, archive: &Archive, image: &ImageName, manifest: &Descriptor, reference: Reference) -> Result<(), Trouble> {
    let bytes = archive.read(&path(&manifest.digest), MANIFEST_BYTES_MAX as u64).map_err(|error| Trouble::Skip(error.to_string()))?;
    let media_type = Some(manifest.media_type.as_str()).filter(|text| !text.is_empty());
    import.registry.put_manifest(&import.repository.key, image, &reference, media_type, bytes.into(), PUSH).await?;
    Ok(())
}

async fn import_blob(import: &Import, archive: &Archive, image: &ImageName, blob: &Descriptor) -> Result<(), Trouble> {
    match import.registry.stat_blob(&import.repository.key, image, &blob.digest).await {
        Ok(_) => return Ok(()),
        Err(Error::BlobUnknown(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let place = place(archive, blob).ok_or_else(|| Trouble::Skip(format!("{} is missing", blob.digest)))?;
    let feed = Feed::plain(archive.content(place), &import.meter);
    upload(import, image, &blob.digest.to_string(), feed, |_| Ok(blob.digest)).await?;
    Ok(())
}
