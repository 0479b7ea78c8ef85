//! Cleanup: what deletions leave behind goes by itself, while everything else goes on.
//!
//! What may have become unreachable is a *candidate*: a row that is put by the very commit that took a name away. The
//! collector looks at candidates that are due, one small commit each; what it removes makes further candidates of what
//! that led to. So its work is in proportion to what was deleted, never to what is stored.
//!
//! What must stay true:
//! - Something goes only if nothing leads to it at the moment of the commit: every row that the judgement depends on is
//!   expected unchanged. Whoever adds a way to it changes one of those rows, and so one of the two loses and looks again.
//! - What a push was told is there stays until that push has ended: see [`crate::lease`].
//! - A crash leaves the candidate, or data that no row names, which the sweep finds.

mod judge;
#[cfg(test)]
mod tests;

use std::sync::PoisonError;
use std::time::Duration;

use berth_storage::keys::{self, Candidate};
use berth_storage::{Batch, DataId, Key};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Serialize;

use crate::blobs::random_u64;
use crate::lease::LEASE_MS;
use crate::{Registry, Result};

/// Candidates that are looked at together, so that they share a write to the disk.
const TOGETHER: usize = 16;

/// Candidates that one scan brings into memory.
const SCAN_ENTRIES: usize = 256;

/// How often the collector looks for candidates that became due, or that another process put.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// When things go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupTimes {
    /// How often images of which nothing is left are removed, in milliseconds.
    pub prune_interval_ms: u64,
    /// How long nothing must have happened in such an image, in milliseconds.
    pub quiet_ms: u64,
    /// How long a manifest or V1 image stays after its last tag was moved away by a push, in milliseconds: whoever is
    /// pulling it can finish.
    pub replaced_ms: u64,
}

impl Default for CleanupTimes {
    fn default() -> Self {
        Self { prune_interval_ms: 300_000, quiet_ms: 60_000, replaced_ms: 24 * 60 * 60 * 1000 }
    }
}

/// What cleanup has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Freed {
    /// Manifests that no tag, index or subject led to.
    pub manifests: u64,
    /// Blobs that were readable through an image whose manifests no longer refer to them.
    pub links: u64,
    /// V1 images that no tag and no child led to.
    pub v1_images: u64,
    /// Images of which nothing was left.
    pub images: u64,
    /// Blobs that nothing used any more.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Files among them, deleted from the data directory; smaller blobs are rows.
    pub files: u64,
    /// The bytes of those files.
    pub file_bytes: u64,
}

impl Freed {
    /// Whether nothing went.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Freed {
    fn add_assign(&mut self, other: Self) {
        self.manifests += other.manifests;
        self.links += other.links;
        self.v1_images += other.v1_images;
        self.images += other.images;
        self.blobs += other.blobs;
        self.blob_bytes += other.blob_bytes;
        self.files += other.files;
        self.file_bytes += other.file_bytes;
    }
}

/// What becomes of a candidate.
enum Verdict {
    /// Something leads to it, or it is gone already.
    Stays,
    /// Somebody relies on it for a while: look again at that time, in milliseconds since 1970.
    Later(u64),
    /// It goes with the batch, and then the data that was its.
    Goes(Freed, Option<DataId>),
}

impl Registry {
    /// Adds to the batch that something is to be looked at once `due_ms` has come.
    pub(crate) fn look_at(&self, batch: &mut Batch, due_ms: u64, candidate: &Candidate) -> Result<()> {
        // The value differs each time, so that whoever is looking at an older one does not take this one away with it.
        batch.put(keys::candidate(due_ms, candidate), Bytes::copy_from_slice(&random_u64()?.to_be_bytes()));
        Ok(())
    }

    /// The next time at which empty images are removed that have been quiet long enough by then.
    pub(crate) fn next_prune_ms(&self) -> u64 {
        let CleanupTimes { prune_interval_ms, quiet_ms, .. } = self.cleanup_times;
        ((self.clock.now_ms() + quiet_ms) / prune_interval_ms.max(1) + 1) * prune_interval_ms
    }

    /// Tells the collector that something is due.
    pub(crate) fn wake_collector(&self) {
        self.collector_wake.notify_one();
    }

    /// Looks at everything that is due until nothing is; returns what went. Safe at any time, in any number.
    ///
    /// # Errors
    /// Only if the store fails; the rest is looked at next time.
    pub async fn collect_garbage(&self) -> Result<Freed> {
        let mut freed = Freed::default();
        loop {
            let due = self.due_candidates().await?;
            if due.is_empty() {
                return Ok(freed);
            }
            let mut outcomes = stream::iter(due).map(|(key, seen, candidate)| self.settle(key, seen, candidate)).buffer_unordered(TOGETHER);
            while let Some(outcome) = outcomes.next().await {
                freed += outcome?;
            }
        }
    }

    /// Sees to it that nothing waits longer than what is put now would: what does was put before the clock was set back, by
    /// years perhaps. Returns how much there was.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn bring_candidates_forward(&self) -> Result<usize> {
        let CleanupTimes { prune_interval_ms, quiet_ms, replaced_ms } = self.cleanup_times;
        let latest_ms = self.clock.now_ms() + LEASE_MS.max(replaced_ms).max(2 * prune_interval_ms + quiet_ms);
        let mut after = keys::candidates_after(latest_ms);
        let mut moved = 0;
        loop {
            let rows = self.store.scan(&keys::candidates(), Some(&after), SCAN_ENTRIES).await?;
            let mut batch = Batch::deferred();
            for (key, _) in &rows {
                if let Some((_, candidate)) = keys::split_candidate(key) {
                    batch.delete(key.clone());
                    self.look_at(&mut batch, latest_ms, &candidate)?;
                    moved += 1;
                }
            }
            match rows.last() {
                Some((last, _)) => after = last.clone(),
                None => return Ok(moved),
            }
            self.store.commit(batch).await?;
        }
    }

    /// Collects for as long as it is polled, soon after anything becomes due.
    pub async fn keep_collecting(&self) {
        loop {
            match self.collect_garbage().await {
                Ok(freed) if freed.is_nothing() => {}
                Ok(freed) => tracing::info!(
                    freed.manifests,
                    freed.links,
                    freed.v1_images,
                    freed.images,
                    freed.blobs,
                    freed.blob_bytes,
                    freed.files,
                    freed.file_bytes,
                    "what nothing led to any more was deleted"
                ),
                Err(error) => tracing::error!(%error, "cleanup failed; it goes on later"),
            }
            let _ = tokio::time::timeout(LOOK_INTERVAL, self.collector_wake.notified()).await;
        }
    }

    /// What has been removed since this process started.
    pub fn freed_so_far(&self) -> Freed {
        *self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn due_candidates(&self) -> Result<Vec<(Key, Bytes, Candidate)>> {
        let now_ms = self.clock.now_ms();
        let rows = self.store.scan(&keys::candidates(), None, SCAN_ENTRIES).await?;
        let mut due = Vec::new();
        for (key, seen) in rows {
            match keys::split_candidate(&key) {
                Some((due_ms, candidate)) if due_ms <= now_ms => due.push((key, seen, candidate)),
                Some(_) => break,
                None => {
                    // Left alone it would be found first for ever.
                    tracing::error!(%key, "a candidate's key can't be read: it is dropped");
                    let mut batch = Batch::deferred().frees();
                    batch.delete(key);
                    self.store.commit(batch).await?;
                }
            }
        }
        Ok(due)
    }

    async fn settle(&self, key: Key, seen: Bytes, candidate: Candidate) -> Result<Freed> {
        let (mut freed, data) = self
            .commit_with(|| async {
                if self.store.get(&key).await?.as_ref() != Some(&seen) {
                    return Ok((Batch::deferred(), (Freed::default(), None)));
                }
                let mut batch = Batch::new().frees();
                Ok(match self.judge(&mut batch, &candidate).await? {
                    Verdict::Goes(freed, data) => {
                        batch.expect(key.clone(), Some(seen.clone())).delete(key.clone());
                        (batch, (freed, data))
                    }
                    outcome => {
                        // Nothing was decided that a later look would not decide again.
                        let mut batch = Batch::deferred().frees();
                        batch.expect(key.clone(), Some(seen.clone())).delete(key.clone());
                        if let Verdict::Later(due_ms) = outcome {
                            self.look_at(&mut batch, due_ms, &candidate)?;
                        }
                        (batch, (Freed::default(), None))
                    }
                })
            })
            .await?;
        if let Some(data) = data {
            // Only after the commit: until then a row names it.
            self.blobs.delete(data).await?;
            (freed.files, freed.file_bytes) = (1, freed.blob_bytes);
        }
        *self.freed.lock().unwrap_or_else(PoisonError::into_inner) += freed;
        Ok(freed)
    }
}
