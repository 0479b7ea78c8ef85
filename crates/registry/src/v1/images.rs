//! V1 images as they are read: JSON, layer, ancestry.

use berth_names::RepositoryKey;
use berth_storage::records::v1::Layer;
use berth_storage::{get_record, keys};
use bytes::Bytes;

use super::ImageId;
use crate::blobs::{BlobContent, damaged};
use crate::{Error, Registry, Result};

/// A complete image's JSON, and what its headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageContent {
    /// The JSON, byte for byte as it was pushed.
    pub json: Bytes,
    /// Length of the layer in bytes.
    pub layer_size: u64,
    /// The payload checksum of JSON and layer.
    pub payload_checksum: Option<String>,
}

impl Registry {
    /// A complete image's JSON.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`], [`Error::V1ImageIncomplete`].
    pub async fn v1_image(&self, repository: &RepositoryKey, id: &ImageId) -> Result<ImageContent> {
        let layer = self.complete_v1_layer(repository, id).await?;
        let json = self.v1_json(repository, id).await?;
        let payload_checksum = layer.checksums.into_iter().find(|sum| sum.starts_with("sha256:"));
        Ok(ImageContent { json, layer_size: layer.size, payload_checksum })
    }

    /// A complete image's layer, for reading.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`], [`Error::V1ImageIncomplete`].
    pub async fn v1_layer(&self, repository: &RepositoryKey, id: &ImageId) -> Result<BlobContent> {
        let layer = self.complete_v1_layer(repository, id).await?;
        let key = keys::blob(&layer.digest);
        let (blob, _) = get_record(self.store.as_ref(), &key).await?.ok_or_else(|| damaged(&key))?;
        if !self.is_sound(&blob) {
            return Err(Error::V1ImageUnknown(*id));
        }
        self.content_of(&layer.digest, &blob).await
    }

    /// The ids of a complete image and everything below it, top first.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`], [`Error::V1ImageIncomplete`], [`Error::V1ChainTooLong`].
    pub async fn v1_ancestry(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Vec<ImageId>> {
        self.complete_v1_layer(repository, id).await?;
        self.v1_chain(repository, id).await
    }

    /// Whether the image and everything below it can be pulled.
    pub(crate) async fn is_v1_chain_complete(&self, repository: &RepositoryKey, id: &ImageId) -> Result<bool> {
        Ok(self.v1_links(repository, id).await?.iter().all(|link| link.image.complete))
    }

    async fn complete_v1_layer(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Layer> {
        let (image, _) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
        image.layer.filter(|_| image.complete).ok_or(Error::V1ImageIncomplete(*id))
    }

    pub(crate) async fn v1_json(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Bytes> {
        let key = keys::v1_json(repository, id);
        self.store.get(&key).await?.ok_or_else(|| damaged(&key))
    }
}
