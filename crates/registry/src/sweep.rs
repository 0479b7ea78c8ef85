//! What a crash leaves: data that no row names, and uploads that nobody goes on with.

use berth_storage::keys;

use crate::{Registry, Result};

/// Data ids looked at in one step.
const STEP: usize = 1000;

impl Registry {
    /// Deletes data that an earlier run left without an owner; returns how many.
    ///
    /// Safe while requests are served: data of the present run is never touched, and no request adopts older data.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn sweep_data(&self) -> Result<usize> {
        let (mut after, mut swept) = (None, 0);
        loop {
            let step = self.blobs.list(after, STEP).await?;
            for data in step.iter().copied().filter(|data| self.blobs.is_from_earlier_run(*data)) {
                if self.store.get(&keys::data_owner(data)).await?.is_none() {
                    self.blobs.delete(data).await?;
                    swept += 1;
                }
            }
            match step.last() {
                Some(last) if step.len() == STEP => after = Some(*last),
                _ => return Ok(swept),
            }
        }
    }
}
