//! Whether what is served is what was pushed: each blob that is pulled as a whole is hashed once in a run, behind its clients'
//! backs.
//!
//! Hashing on the way would make every pull slower. Here one blob at a time is read again, right after it was read and so from
//! memory as a rule, for a small part of one core's time. Too many at once are left for the next time they are pulled.
//! A blob that is not what it should be is marked: nobody is told that it is there, and whoever pushes it heals it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use berth_names::{Algorithm, Digest};
use berth_storage::records::{Blob, Place};
use berth_storage::{Batch, DataId, get_record, keys};
use bytes::Bytes;
use futures::TryStreamExt;
use sha2::{Digest as _, Sha256, Sha512};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::{Error, Registry, Result};

/// Blobs that wait to be hashed.
const WAITING_MAX: usize = 64;

/// Blobs that are remembered as hashed, 16 bytes each; those of a run that reads more are not looked at.
const REMEMBERED_MAX: usize = 200_000;

/// For each moment of work, so many of rest.
const RESTS: u32 = 49;

/// A blob that was read.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    digest: Digest,
    data: DataId,
    size: u64,
}

/// What was read, on its way to who looks at it.
pub(crate) struct Suspects {
    seen: Mutex<HashSet<DataId>>,
    sender: mpsc::Sender<Suspect>,
    receiver: Mutex<Option<mpsc::Receiver<Suspect>>>,
}

impl Default for Suspects {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        Self { seen: Mutex::default(), sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Suspects {
    fn seen(&self) -> MutexGuard<'_, HashSet<DataId>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody reads all of it.
    pub(crate) fn note(&self, digest: Digest, data: DataId, size: u64) {
        let mut seen = self.seen();
        if seen.len() < REMEMBERED_MAX && !seen.contains(&data) && self.sender.try_send(Suspect { digest, data, size }).is_ok() {
            seen.insert(data);
        }
    }
}

impl Registry {
    /// Hashes what is pulled, for as long as the process serves.
    pub async fn keep_verifying(&self) {
        let receiver = self.suspects.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut receiver) = receiver else { return };
        while let Some(suspect) = receiver.recv().await {
            if let Err(error) = self.verify(suspect).await {
                tracing::error!(%error, digest = %suspect.digest, "a blob that was pulled could not be read again");
            }
        }
    }

    async fn verify(&self, Suspect { digest, data, size }: Suspect) -> Result<()> {
        let mut pieces = self.blobs.read(data, 0..size);
        let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
        loop {
            let begun = Instant::now();
            let piece: Option<Bytes> = match pieces.try_next().await {
                Ok(piece) => piece,
                // Deleted since, most likely; where it was not, the next one who asks for it finds out.
                Err(_) if !self.blobs.is_whole(data, size) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let Some(piece) = piece else { break };
            let hashing = spawn_blocking(move || {
                match digest.algorithm() {
                    Algorithm::Sha256 => sha256.update(&piece),
                    Algorithm::Sha512 => sha512.update(&piece),
                }
                (sha256, sha512)
            });
            (sha256, sha512) = hashing.await.map_err(|_| Error::Internal("hashing died"))?;
            tokio::time::sleep(begun.elapsed() * RESTS).await;
        }
        let found = match digest.algorithm() {
            Algorithm::Sha256 => Digest::sha256(sha256.finalize().into()),
            Algorithm::Sha512 => Digest::sha512(sha512.finalize().into()),
        };
        if found != digest && self.mark_blob(&digest, Place::Data(data), true).await? {
            tracing::error!(%digest, %data, %found, "the disk has other bytes than were pushed: the blob is gone until it is pushed again");
        }
        Ok(())
    }

    /// Whether the blob may be told to be there: not if its bytes are known to be others, or visibly not all of them.
    pub(crate) fn is_sound(&self, blob: &Blob) -> bool {
        let is_whole = match blob.place {
            Place::Small => true,
            Place::Data(data) => self.blobs.is_whole(data, blob.size),
        };
        if !is_whole {
            tracing::error!(place = ?blob.place, "a blob's file is missing or has another length: it is gone until it is pushed again");
        }
        is_whole && !blob.damaged
    }

    /// Notes that a blob's bytes are not what they should be, or that they are. Returns whether that is news.
    pub(crate) async fn mark_blob(&self, digest: &Digest, place: Place, damaged: bool) -> Result<bool> {
        let key = keys::blob(digest);
        self.commit_with(|| async {
            match get_record::<Blob>(self.store.as_ref(), &key).await? {
                // It may have been pushed again since it was read.
                Some((blob, seen)) if blob.place == place && blob.damaged != damaged => {
                    let mut batch = Batch::new().frees();
                    batch.expect(key.clone(), Some(seen));
                    batch.put_record(key.clone(), &Blob { damaged, revision: blob.revision + 1, ..blob });
                    Ok((batch, true))
                }
                _ => Ok((Batch::deferred(), false)),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests;
