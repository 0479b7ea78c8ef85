//! What Berth itself says: it follows from the records, and is only ever stored as rows of the index.

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::Batch;
use berth_storage::keys::{self, Item};
use berth_storage::records::{self, v1};
use bytes::Bytes;

use crate::v1::{ImageId, TagRecord};

/// The properties that Berth itself sets.
pub const OWN: [&str; 9] = [
    "docker.imageId",
    "docker.manifest",
    "docker.manifest.digest",
    "docker.manifest.type",
    "docker.repoName",
    "docker.size",
    "docker.tag.content",
    "docker.tag.name",
    "sha256",
];

/// One of Berth's own properties.
pub(crate) type Own = (&'static str, String);

/// What is said about a V2 tag.
pub(crate) fn of_tag(image: &ImageName, tag: &Tag, row: &records::Tag) -> Vec<Own> {
    vec![
        ("docker.manifest", tag.to_string()),
        ("docker.manifest.digest", row.digest.to_string()),
        ("docker.manifest.type", row.media_type.clone()),
        ("docker.repoName", image.to_string()),
        ("docker.size", row.size.to_string()),
        ("sha256", row.digest.hex()),
    ]
}

/// What is said about a V1 tag.
pub(crate) fn of_v1_tag(tag: &Tag, row: &TagRecord) -> Vec<Own> {
    vec![("docker.tag.content", row.id.to_string()), ("docker.tag.name", tag.to_string())]
}

/// What is said about an image of a V1 repository.
pub(crate) fn of_v1_name(image: &ImageName) -> Vec<Own> {
    vec![("docker.repoName", image.to_string())]
}

/// What is said about a complete V1 image.
pub(crate) fn of_v1_image(id: &ImageId, layer: &v1::Layer) -> Vec<Own> {
    vec![("docker.imageId", id.to_string()), ("docker.size", layer.size.to_string())]
}

/// Adds to the batch that something can be found by what is said about it.
pub(crate) fn index(batch: &mut Batch, repository: &RepositoryKey, item: &Item, own: &[Own]) {
    for (name, value) in own {
        batch.put(keys::found_by(name, value, repository, item), Bytes::new());
    }
}

/// Adds to the batch that something can no longer be found by what was said about it.
pub(crate) fn unindex(batch: &mut Batch, repository: &RepositoryKey, item: &Item, own: &[Own]) {
    for (name, value) in own {
        batch.delete(keys::found_by(name, value, repository, item));
    }
}
