//! What a registry does, without saying how it is asked: repositories, uploads, blobs, manifests, tags, Docker V1.
//!
//! This crate knows no HTTP and no storage engine. It refuses in its own words ([`Error`]); turning them into status
//! codes is the caller's business.
//!
//! What must stay true:
//! - Bytes are durable before the one commit that names them.
//! - A request makes at most one visible commit; losing a race means reading again, never writing half.
//! - A blob is readable through an image only if it is linked there.
//! - Pulls write nothing.

pub mod access;
mod blobs;
pub mod browse;
mod check;
mod cleanup;
mod clock;
pub mod details;
mod empty_layer;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod hash;
mod json;
mod lease;
mod listing;
mod manifests;
mod positions;
mod promotion;
pub mod properties;
mod receive;
mod reindex;
mod repositories;
mod retention;
pub mod search;
mod sweep;
mod uploads;
pub mod v1;
mod verify;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use berth_storage::rocksdb::Stores;
use berth_storage::{Batch, BlobStore, MetadataStore};
use tokio::sync::Notify;

pub use blobs::BlobContent;
pub use check::{Problem, Report};
pub use cleanup::{CleanupTimes, Freed};
pub use clock::Clock;
pub use error::{Error, Result};
pub use json::is_sane_within as is_sane_json;
pub use listing::{Page, ReferrersPage};
pub use manifests::{ExistingTag, MANIFEST_BYTES_MAX, ManifestContent, Push, ReferrerDescriptor, StoredManifest};
pub use promotion::{Promoted, Promotion};
pub use receive::{Body, Interrupted};
use repositories::RepositoryCache;
pub use repositories::{Challenge, Repositories, Repository};
pub use uploads::{Client, Piece, Progress, UploadId};

/// How often a change is tried again after losing a race, before the client is asked to come back.
///
/// Of the writers of one row, one wins in every round, so this is how many may write to it at the same moment.
const COMMIT_ATTEMPTS_MAX: usize = 512;

/// The registry: every operation is a method, spread over the modules by noun.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn MetadataStore>,
    blobs: Arc<dyn BlobStore>,
    repositories: Arc<RepositoryCache>,
    clock: Clock,
    cleanup_times: CleanupTimes,
    /// Told when something becomes due for cleanup.
    collector_wake: Arc<Notify>,
    /// What this process has removed.
    freed: Arc<Mutex<Freed>>,
    /// Uploads that a request is writing to at this moment.
    busy_uploads: Arc<Mutex<HashSet<UploadId>>>,
    /// At least how many uploads each owner has open.
    upload_counts: Arc<Mutex<HashMap<String, usize>>>,
    /// What was pulled and is to be hashed.
    suspects: Arc<verify::Suspects>,
    /// Migrations under way.
    jobs: Arc<v1::migration::LiveJobs>,
}

impl Registry {
    /// A registry over open stores.
    pub fn new(stores: &Stores, cleanup_times: CleanupTimes, clock: Clock) -> Self {
        Self {
            store: Arc::clone(&stores.metadata),
            blobs: Arc::clone(&stores.blobs),
            repositories: Arc::default(),
            clock,
            cleanup_times,
            collector_wake: Arc::default(),
            freed: Arc::default(),
            busy_uploads: Arc::default(),
            upload_counts: Arc::default(),
            suspects: Arc::default(),
            jobs: Arc::default(),
        }
    }

    /// Whether the disk is so full that only what frees space is accepted.
    pub fn is_disk_full(&self) -> bool {
        self.store.is_full()
    }

    /// Commits what `change` makes of the present state, anew for as long as other writers get in between.
    ///
    /// `change` reads, decides, and returns the batch together with what the caller wants to know;
    /// every row that the decision depends on belongs into the batch's expectations.
    async fn commit_with<T, F>(&self, mut change: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<(Batch, T)>>,
    {
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let (batch, outcome) = change().await?;
            match self.store.commit(batch).await {
                Ok(()) => return Ok(outcome),
                Err(berth_storage::Error::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::TooContended)
    }
}
