//! Images whose layer does not come from a client but from storage that the operator trusts: an import.

use berth_names::RepositoryKey;
use berth_storage::keys::Item;
use berth_storage::records::v1::Image;
use berth_storage::{Batch, keys};

use super::ImageId;
use crate::properties;
use crate::{Error, Registry, Result};

/// What checksums that lay beside a layer say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// There were none.
    Absent,
    /// One of them is the layer's.
    Matches,
    /// None of them is the layer's.
    Differs,
}

impl Registry {
    /// Ends an image's import: with its layer stored it is complete, whatever `claimed` says. A client must prove that what
    /// it sent has arrived; here it was read from a file, and the caller reports what is odd about it.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`]; [`Error::V1ImageIncomplete`] without a layer.
    pub async fn complete_v1_image(&self, repository: &RepositoryKey, id: &ImageId, claimed: &[String]) -> Result<Claim> {
        self.commit_with(|| async {
            let (image, seen) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
            let layer = image.layer.clone().ok_or(Error::V1ImageIncomplete(*id))?;
            let claim = match claimed {
                [] => Claim::Absent,
                claimed if claimed.iter().any(|sum| layer.checksums.contains(sum)) => Claim::Matches,
                _ => Claim::Differs,
            };
            if image.complete {
                return Ok((Batch::deferred(), claim));
            }
            let mut batch = Batch::new();
            properties::index(&mut batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, &layer));
            let key = keys::v1_image(repository, id);
            batch.expect(key.clone(), Some(seen)).put_record(key, &Image { complete: true, ..image });
            Ok((batch, claim))
        })
        .await
    }
}
