//! An OCI layout: everything is there under its digest, and goes in as it is.

use std::collections::{BTreeMap, HashMap, HashSet};

use berth_names::{Digest, ImageName, Reference, Tag};
use berth_registry::{Error, MANIFEST_BYTES_MAX};
use serde::Deserialize;

use super::archive::{LIST_BYTES_MAX, only, upload};
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

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// A manifest or an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// What is to be stored so that everything the archive's index leads to is there.
pub(super) struct Plan {
    /// Children before their parents.
    manifests: Vec<Descriptor>,
    /// What each manifest leads to.
    below: HashMap<Digest, Document>,
    /// What the index names.
    tops: Vec<Descriptor>,
}

/// Reads all manifests; `None`: it is no OCI layout, or something is not there.
pub(super) fn plan(archive: &Archive) -> Option<Plan> {
    let index: Document = serde_json::from_slice(&archive.read("index.json", LIST_BYTES_MAX).ok()?).ok()?;
    let mut plan = Plan { manifests: Vec::new(), below: HashMap::new(), tops: index.manifests };
    for top in plan.tops.clone() {
        plan.add(archive, &top, DEPTH_MAX)?;
    }
    Some(plan)
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Where a blob is, if it is there.
fn place(archive: &Archive, descriptor: &Descriptor) -> Option<Place> {
    archive.find(&path(&descriptor.digest)).filter(|place| place.size == descriptor.size)
}

impl Plan {
    fn add(&mut self, archive: &Archive, descriptor: &Descriptor, depth: usize) -> Option<()> {
        if self.below.contains_key(&descriptor.digest) {
            return Some(());
        }
        if depth == 0 || self.manifests.len() >= MANIFESTS_MAX {
            return None;
        }
        place(archive, descriptor)?;
        let document: Document = serde_json::from_slice(&archive.read(&path(&descriptor.digest), MANIFEST_BYTES_MAX as u64).ok()?).ok()?;
        for child in &document.manifests {
            self.add(archive, child, depth - 1)?;
        }
        document.config.iter().chain(&document.layers).all(|blob| place(archive, blob).is_some()).then_some(())?;
        self.below.insert(descriptor.digest, document);
        self.manifests.push(descriptor.clone());
        Some(())
    }

    /// Whether every layer is packed, as it is when it comes from a registry.
    pub(super) fn is_packed(&self) -> bool {
        let mut layers = self.below.values().flat_map(|document| &document.layers);
        layers.all(|layer| ["gzip", "zstd"].iter().any(|packing| layer.media_type.ends_with(packing)))
    }

    /// The manifest and everything below it, children before their parents.
    fn reached_from(&self, top: &Digest) -> Vec<&Descriptor> {
        let (mut reached, mut next) = (HashSet::new(), vec![*top]);
        while let Some(digest) = next.pop() {
            if reached.insert(digest) {
                next.extend(self.below.get(&digest).iter().flat_map(|document| &document.manifests).map(|child| child.digest));
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
    for (name, top) in tops {
        if name.is_empty() {
            import.problem(&top.digest.to_string(), "it has no name; import it alone and give it one with --image");
            continue;
        }
        import.show(&name);
        let outcome = import_image(import, archive, &plan, top, &name).await;
        import.settle(&name, outcome)?;
    }
    Ok(())
}

fn name_of(top: &Descriptor) -> Option<String> {
    NAMES.iter().filter_map(|key| top.annotations.get(*key)).find(|name| name.contains([':', '/'])).cloned()
}

async fn import_image(import: &mut Import, archive: &Archive, plan: &Plan, top: &Descriptor, name: &str) -> Result<(), Trouble> {
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
        let document = plan.below.get(&manifest.digest);
        for blob in document.iter().flat_map(|document| document.config.iter().chain(&document.layers)) {
            import_blob(import, archive, &image, blob).await?;
        }
        put(import, archive, &image, manifest, Reference::Digest(manifest.digest)).await?;
        import.report.imported += 1;
    }
    put_tag(import, archive, &image, top, tag).await
}

async fn put_tag(import: &mut Import, archive: &Archive, image: &ImageName, top: &Descriptor, tag: Tag) -> Result<(), Trouble> {
    if matches!(top.digest.algorithm(), berth_names::Algorithm::Sha256) {
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
