//! Leases: what a push was told is there stays until that push has ended, although no tag leads to it yet.
//!
//! A lease is a row beside what it keeps. The collector expects the row as it read it, so a lease that comes in between
//! wins. A push that never ends loses its leases after [`LEASE_MS`]. Two pushes of one user from one machine can't be told
//! apart, so how often somebody was told is counted, and each push that ends takes back one.

use berth_names::{Digest, ImageName, RepositoryKey};
use berth_storage::records::{Lease, Record};
use berth_storage::{Batch, Key, Prefix, get_record, keys};

use crate::{Error, Registry, Result, empty_layer};

/// How long a push may take from being told that something is there to naming it, in milliseconds: a day, as long as an
/// upload may rest.
pub(crate) const LEASE_MS: u64 = 24 * 60 * 60 * 1000;

/// Holders that one row names. Further ones share a lease that nobody gives back before its time.
const HOLDERS_MAX: usize = 64;

/// The holder that stands for all beyond [`HOLDERS_MAX`]. Nobody else is called so: names of holders are not empty.
const CROWD: &str = "";

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// No lease ends later than one that begins now. One that seems to was made before the clock was set back, by years
/// perhaps. Returns whether there was one.
fn cap(lease: &mut Lease, now_ms: u64) -> bool {
    let latest_ms = now_ms + LEASE_MS;
    let late: Vec<&mut u64> = lease.holders.values_mut().filter(|until_ms| **until_ms > latest_ms).collect();
    let is_any = !late.is_empty();
    late.into_iter().for_each(|until_ms| *until_ms = latest_ms);
    is_any
}

impl Registry {
    /// Adds to the batch that `holder` relies on what the lease row `key` stands beside.
    pub(crate) async fn hold(&self, batch: &mut Batch, key: Key, holder: &str) -> Result<()> {
        self.hold_as(batch, key, holder, false).await
    }

    async fn hold_as(&self, batch: &mut Batch, key: Key, holder: &str, told: bool) -> Result<()> {
        let now_ms = self.clock.now_ms();
        let before = get_record::<Lease>(self.store.as_ref(), &key).await?;
        let (mut lease, seen) = before.map_or_else(|| (Lease::default(), None), |(lease, seen)| (lease, Some(seen)));
        lease.holders.retain(|_, until_ms| *until_ms > now_ms);
        cap(&mut lease, now_ms);
        lease.more.retain(|holder, _| lease.holders.contains_key(holder));
        lease.told.retain(|holder| lease.holders.contains_key(holder));
        let is_crowded = lease.holders.len() >= HOLDERS_MAX && !lease.holders.contains_key(holder);
        let holder = if is_crowded || holder.is_empty() { CROWD } else { holder };
        if lease.holders.insert(holder.to_owned(), now_ms + LEASE_MS).is_some() {
            let more = lease.more.entry(holder.to_owned()).or_default();
            *more = more.saturating_add(1);
        }
        if told {
            lease.told.insert(holder.to_owned());
        }
        batch.expect(key.clone(), seen).put_record(key, &lease);
        Ok(())
    }

    /// Adds to the batch that a push of `holder` no longer relies on what the lease rows stand beside: it has got a name.
    pub(crate) async fn release(&self, batch: &mut Batch, leases: Vec<Key>, holder: &str) -> Result<()> {
        let rows = self.store.multi_get(&leases).await?;
        for (key, seen) in leases.into_iter().zip(rows) {
            let Some(seen) = seen else { continue };
            let mut lease = Lease::decode(&seen).ok_or_else(|| crate::blobs::damaged(&key))?;
            match lease.more.remove(holder) {
                Some(more) if more > 1 => drop(lease.more.insert(holder.to_owned(), more - 1)),
                Some(_) => {}
                None if lease.holders.remove(holder).is_none() => continue,
                None => drop(lease.told.remove(holder)),
            }
            batch.expect(key.clone(), Some(seen));
            if lease.holders.is_empty() {
                batch.delete(key);
            } else {
                batch.put_record(key, &lease);
            }
        }
        Ok(())
    }

    /// Until when somebody relies on it. Makes the batch depend on nobody else coming to, and deletes the row if all is over.
    pub(crate) async fn held_until(&self, batch: &mut Batch, key: Key) -> Result<Option<u64>> {
        let Some((lease, seen)) = get_record::<Lease>(self.store.as_ref(), &key).await? else {
            batch.expect(key, None);
            return Ok(None);
        };
        let now_ms = self.clock.now_ms();
        let end_ms =
            lease.holders.into_values().max().filter(|until_ms| *until_ms > now_ms).map(|until_ms| until_ms.min(now_ms + LEASE_MS));
        batch.expect(key.clone(), Some(seen));
        if end_ms.is_none() {
            batch.delete(key);
        }
        Ok(end_ms)
    }

    /// Keeps a blob or manifest of the image that `holder` has just been told is there, for the time of its push.
    ///
    /// Returns whether it is there still.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn lease(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest, holder: &str) -> Result<bool> {
        match self.take_lease(repository, image, digest, holder).await {
            // Whoever pushes is going to be told soon enough; this was only a question.
            Err(Error::DiskFull) => Ok(true),
            outcome => outcome,
        }
    }

    async fn take_lease(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest, holder: &str) -> Result<bool> {
        let key = keys::lease(repository, image, digest);
        let places = [keys::link(repository, image, digest), keys::manifest(repository, image, digest)];
        self.commit_with(|| async {
            // Lost in a power cut, it costs the client a repeated push at most.
            let mut batch = Batch::deferred();
            let rows = self.store.multi_get(&places).await?;
            let Some((place, row)) = places.iter().zip(rows).find(|(_, row)| row.is_some()) else {
                // The empty layer comes with the manifest that refers to it.
                return Ok((Batch::deferred(), *digest == empty_layer::digest()));
            };
            batch.expect(place.clone(), row);
            self.hold(&mut batch, key.clone(), holder).await?;
            Ok((batch, true))
        })
        .await
    }

    /// Whether `holder` relies on it, and will for a good while.
    pub(crate) async fn is_held_well(&self, key: &Key, holder: &str) -> Result<bool> {
        let lease = get_record::<Lease>(self.store.as_ref(), key).await?;
        let until_ms = lease.and_then(|(lease, _)| lease.holders.get(holder).copied()).unwrap_or_default();
        Ok(until_ms > self.clock.now_ms() + LEASE_MS / 2)
    }

    /// Whether a push of anybody but `holder` may have been told that what a V1 image's lease row stands beside is there.
    /// Makes the batch depend on nobody else coming to.
    pub(crate) async fn was_anybody_told(&self, batch: &mut Batch, key: Key, holder: &str) -> Result<bool> {
        let lease = get_record::<Lease>(self.store.as_ref(), &key).await?;
        batch.expect(key, lease.as_ref().map(|(_, seen)| seen.clone()));
        let now_ms = self.clock.now_ms();
        let is_held = |lease: &Lease, by: &String| lease.holders.get(by).is_some_and(|until_ms| *until_ms > now_ms);
        Ok(lease.is_some_and(|(lease, _)| lease.told.iter().any(|by| by != holder && is_held(&lease, by))))
    }

    /// Keeps V1 images that a push is about, those that are there and those that somebody else may push meanwhile. Who
    /// `sees_all` is told even of images to which no tag leads, which then make no way for others.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn lease_v1_images(
        &self,
        repository: &RepositoryKey,
        ids: &[crate::v1::ImageId],
        holder: &str,
        sees_all: bool,
    ) -> Result<()> {
        let taken = self
            .commit_with(|| async {
                let mut batch = Batch::deferred();
                for id in ids {
                    self.hold_as(&mut batch, keys::v1_lease(repository, id), holder, sees_all).await?;
                }
                Ok((batch, ()))
            })
            .await;
        match taken {
            Err(Error::DiskFull) => Ok(()),
            outcome => outcome,
        }
    }

    /// Deletes leases whose time is over: those of pushes that never ended. Returns how many.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn expire_leases(&self) -> Result<usize> {
        let mut expired = 0;
        for family in [keys::leases(), keys::v1_leases()] {
            expired += self.expire_leases_of(&family).await?;
        }
        Ok(expired)
    }

    async fn expire_leases_of(&self, family: &Prefix) -> Result<usize> {
        let (mut after, mut expired) = (None, 0);
        loop {
            let rows = self.store.scan(family, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, seen) in &rows {
                let now_ms = self.clock.now_ms();
                let Some(mut lease) = Lease::decode(seen) else { continue };
                let is_over = lease.holders.values().all(|until_ms| *until_ms <= now_ms);
                if is_over || cap(&mut lease, now_ms) {
                    let mut batch = Batch::deferred().frees();
                    batch.expect(key.clone(), Some(seen.clone()));
                    if is_over {
                        batch.delete(key.clone());
                    } else {
                        batch.put_record(key.clone(), &lease);
                    }
                    match self.store.commit(batch).await {
                        Ok(()) => expired += usize::from(is_over),
                        // Somebody has just come to rely on it again.
                        Err(berth_storage::Error::Conflict) => {}
                        Err(error) => return Err(Error::from(error)),
                    }
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(expired),
            }
        }
    }
}
