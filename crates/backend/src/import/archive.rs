//! What `docker save` wrote. There are three kinds, and one archive may be of all of them:
//!
//! - docker before 1.10: `repositories`, and for each V1 image `<id>/json` and `<id>/layer.tar`. Docker wrote this beside
//!   the next kind until version 24. It is what a V1 repository takes.
//! - docker since 1.10: `manifest.json`, which names configs, layers and tags: see [`super::docker`].
//! - docker since 25, and others: an OCI layout, `index.json`: see [`super::oci`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use berth_names::{ApiVersion, Digest, ImageName};
use berth_registry::Error;
use berth_registry::v1::{IMAGE_JSON_BYTES_MAX, ImageId};
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::chain::{Chains, Source, parent_of};
use super::feed::{Fed, Feed, Meter};
use super::tar::{Archive, Place};
use super::unpack::{self, Packing};
use super::{CLIENT, Import, PUSH, Trouble, docker, oci, shown};

/// The largest list of images or tags that is read, in bytes.
pub(super) const LIST_BYTES_MAX: u64 = 16 << 20;

/// Imports every image that the archive names.
pub(super) async fn import(import: &mut Import, path: &Path, name: Option<&str>) -> anyhow::Result<()> {
    let (file, scratch) = (path.to_owned(), import.scratch.clone());
    let opening = tokio::task::spawn_blocking(move || Archive::open(&file, &scratch));
    let archive = import.watch("unpacking", opening).await?.with_context(|| format!("can't read {}", shown(path)))?;
    let has = |name| archive.find(name).is_some();
    let work = async |import: &mut Import| match import.repository.api_version {
        ApiVersion::V1 => legacy(import, &archive, name).await,
        ApiVersion::V2 => match oci::plan(&archive) {
            Ok(Some(plan)) if plan.is_packed() || !has(docker::MANIFEST) => oci::import(import, &archive, plan, name).await,
            _ if has(docker::MANIFEST) => docker::import(import, &archive, name).await,
            Err(partial) => Err(partial.into()),
            _ if has("repositories") => {
                anyhow::bail!("it has images of docker before 1.10 only: import it into a V1 repository and migrate that")
            }
            _ => anyhow::bail!("it is nothing that `docker save` wrote"),
        },
    };
    work(import).await.with_context(|| format!("can't import {}", shown(path)))
}

/// A layer of the archive on its way out: a tar in gzip, as docker pushes it, anything else as it is.
fn layer(archive: &Archive, place: Place, meter: &Meter) -> std::io::Result<Feed> {
    let content = archive.content(place);
    Ok(if archive.packing(place)? == Packing::Plain { Feed::gzip(content, meter) } else { Feed::plain(content, meter) })
}

/// The digest of what a layer of the archive unpacks to.
pub(super) async fn unpacked_digest(import: &Import, archive: &Archive, place: Place, what: &str) -> Result<Digest, Trouble> {
    let archive = archive.clone();
    let read = move || unpack::digest_of(archive.unpacked(place)?);
    match import.watch(what, tokio::task::spawn_blocking(read)).await {
        Ok(outcome) => outcome.map_err(|error| Trouble::Skip(format!("its layer {}: {error}", what.escape_debug()))),
        Err(_) => Err(Error::Internal("reading died").into()),
    }
}

/// Stores a blob in an image of the repository. `judge` says what its digest must be, or why it is not wanted.
pub(super) async fn upload(
    import: &Import,
    image: &ImageName,
    what: &str,
    Feed { body, outcome }: Feed,
    judge: impl FnOnce(&Fed) -> Result<Digest, String>,
) -> Result<Fed, Trouble> {
    let (registry, key) = (&import.registry, &import.repository.key);
    let id = registry.start_upload(key, image, None).await?;
    let appended = import.watch(what, registry.append_upload(key, image, None, &id, body)).await;
    let judged = match (appended, outcome.await) {
        (Ok(_), Ok(Ok(fed))) => judge(&fed).map(|digest| (fed, digest)).map_err(Trouble::Skip),
        (Err(Error::Interrupted), Ok(Err(error))) => Err(Trouble::Skip(format!("{what} can't be read: {error}"))),
        (Err(error), _) => Err(error.into()),
        (Ok(_), _) => Err(Error::Internal("reading died").into()),
    };
    match judged {
        Ok((fed, digest)) => {
            registry.finish_upload(key, image, CLIENT, &id, &digest, stream::empty().boxed()).await?;
            Ok(fed)
        }
        Err(trouble) => {
            registry.cancel_upload(key, image, None, &id).await?;
            Err(trouble)
        }
    }
}

/// The one thing that `--image` can give a name to.
pub(super) fn only<T>(mut things: impl Iterator<Item = T>) -> anyhow::Result<T> {
    match (things.next(), things.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => anyhow::bail!("it has no image"),
        (Some(_), Some(_)) => anyhow::bail!("it has several images; --image can give its name to one only"),
    }
}

/// Imports V1 images.
async fn legacy(import: &mut Import, archive: &Archive, name: Option<&str>) -> anyhow::Result<()> {
    let tags = legacy_tags(archive, name)?;
    anyhow::ensure!(
        !tags.is_empty(),
        "it has no V1 image with a name; give its only one a name with --image, or import it into a V2 repository"
    );
    let mut chains = Chains::new(Legacy { archive: archive.clone() });
    for (text, id) in tags {
        import.show(&text);
        let outcome = legacy_tag(import, &mut chains, &text, &id).await;
        import.settle(&text, outcome)?;
    }
    Ok(())
}

async fn legacy_tag(import: &mut Import, chains: &mut Chains<Legacy>, text: &str, id: &str) -> Result<(), Trouble> {
    let (image, tag) = import.name(text)?;
    let id: ImageId = id.parse().map_err(|_| Trouble::Skip("it has no valid image id".to_owned()))?;
    chains.bring(import, &id).await?;
    import.registry.put_v1_tag((&import.repository.key, &image, &tag), &id, "", PUSH, super::VIEWER).await?;
    import.keep_newest(&image, &tag).await
}

/// Names with tags, and the ids of their images.
fn legacy_tags(archive: &Archive, name: Option<&str>) -> anyhow::Result<Vec<(String, String)>> {
    let listed: BTreeMap<String, BTreeMap<String, String>> = match archive.find("repositories") {
        Some(_) => serde_json::from_slice(&archive.read("repositories", LIST_BYTES_MAX)?).context("`repositories` can't be read")?,
        None => BTreeMap::new(),
    };
    let tags = listed.into_iter().flat_map(|(name, tags)| tags.into_iter().map(move |(tag, id)| (format!("{name}:{tag}"), id)));
    let Some(name) = name else { return Ok(tags.collect()) };
    let ids: BTreeSet<String> = tags.map(|(_, id)| id).collect();
    let id = if ids.is_empty() { only(legacy_tops(archive).into_iter())?.to_string() } else { only(ids.into_iter())? };
    Ok(vec![(name.to_owned(), id)])
}

/// V1 images that no other one stands on.
fn legacy_tops(archive: &Archive) -> BTreeSet<ImageId> {
    let source = Legacy { archive: archive.clone() };
    let ids = archive.names().filter_map(|name| name.strip_suffix("/json")?.parse::<ImageId>().ok());
    let mut tops: BTreeSet<ImageId> = ids.collect();
    let parents: Vec<ImageId> = tops.iter().filter_map(|id| parent_of(&source.json(id).ok()?).ok()?).collect();
    for parent in &parents {
        tops.remove(parent);
    }
    tops
}

/// The V1 images of an archive.
struct Legacy {
    archive: Archive,
}

impl Source for Legacy {
    fn json(&self, id: &ImageId) -> Result<Bytes, String> {
        match self.archive.read(&format!("{id}/json"), IMAGE_JSON_BYTES_MAX as u64) {
            Ok(json) => Ok(json.into()),
            Err(error) => Err(format!("the archive can't give its JSON: {error}")),
        }
    }

    /// It is packed on the way.
    fn stored_size(&self, _: &ImageId) -> Option<u64> {
        None
    }

    fn layer(&self, id: &ImageId, meter: &Meter) -> Result<Feed, String> {
        let name = format!("{id}/layer.tar");
        let place = self.archive.find(&name).ok_or_else(|| format!("its layer: {}", self.archive.why_absent(&name)))?;
        layer(&self.archive, place, meter).map_err(|error| format!("its layer can't be read: {error}"))
    }

    fn claims(&self, _: &ImageId) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
