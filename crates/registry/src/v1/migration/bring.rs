//! Bringing a migrated tag's blobs into its image, like a client's uploads: they are kept until the tag is set, or for a day.

use berth_names::Digest;
use berth_storage::{Batch, get_record, keys, records};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;

use super::config::Descriptor;
use super::layers::Into;
use crate::blobs::renew_blob;
use crate::hash::ContentHash;
use crate::receive::{Received, receive};
use crate::{Registry, Result};

impl Registry {
    /// Stores bytes that were made here, and keeps them in the image until a manifest leads to them.
    pub(super) async fn bring(&self, into: Into<'_>, bytes: Bytes) -> Result<()> {
        let body = stream::iter([Ok(bytes)]).boxed();
        let (received, hash, _) = receive(&self.blobs, Received::default(), ContentHash::default(), body).await?;
        let digest = hash.finish();
        let named = self
            .commit_with(|| async {
                let mut batch = Batch::new();
                self.expect_repository(&mut batch, into.repository).await?;
                let duplicate = self.name_bytes(&mut batch, &digest, &received).await?;
                self.link(&mut batch, into.repository, into.image, &digest, into.holder).await?;
                Ok((batch, duplicate))
            })
            .await;
        match named {
            Ok(duplicate) => {
                self.give_back(duplicate).await;
                Ok(())
            }
            Err(error) => {
                self.give_back(received.data).await;
                Err(error)
            }
        }
    }

    /// Makes layers readable in the image, all in one commit. Returns whether they were all still there.
    pub(super) async fn bring_layers(&self, into: Into<'_>, layers: &[Descriptor]) -> Result<bool> {
        let mut digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        digests.sort_unstable();
        digests.dedup();
        self.commit_with(|| async {
            let mut batch = Batch::new();
            self.expect_repository(&mut batch, into.repository).await?;
            for digest in &digests {
                let Some((blob, seen)) = get_record::<records::Blob>(self.store.as_ref(), &keys::blob(digest)).await? else {
                    return Ok((Batch::deferred(), false));
                };
                renew_blob(&mut batch, digest, blob, seen);
                // What was packed anew, or made here, is kept already.
                if self.is_held_well(&keys::lease(into.repository, into.image, digest), into.holder).await? {
                    continue;
                }
                self.link(&mut batch, into.repository, into.image, digest, into.holder).await?;
            }
            Ok((batch, true))
        })
        .await
    }
}
