//! Lists, a page at a time, straight from ordered keys.

use berth_names::{Digest, ImageName, RepositoryKey};
use berth_storage::records::{Image, Manifest, Record, Referrer, WithBody};
use berth_storage::{Key, Prefix, get_record, keys};
use bytes::Bytes;

use crate::manifests::{self, ReferrerDescriptor};
use crate::{Error, Registry, Result};

/// Entries that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Referrers on one page.
const REFERRERS_MAX: usize = 1000;

/// Bytes of what a page of referrers says; a single one may have more.
const REFERRERS_BYTES_MAX: usize = 4 << 20;

/// Bytes that are read for a page of referrers, if few are of the type that is asked for.
const REFERRERS_READ_BYTES_MAX: usize = 64 << 20;

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in byte order.
    pub names: Vec<String>,
    /// Whether more follow.
    pub more: bool,
}

/// Part of a list of referrers.
#[derive(Clone, Debug)]
pub struct ReferrersPage {
    /// The manifests, ordered by digest.
    pub manifests: Vec<ReferrerDescriptor>,
    /// Behind which digest the list goes on, if it does.
    pub next: Option<Digest>,
}

impl Registry {
    /// The tags of an image behind `last`, `limit` at most (`None`: all).
    ///
    /// # Errors
    /// [`Error::ImageUnknown`].
    pub async fn tags(&self, repository: &RepositoryKey, image: &ImageName, last: Option<&str>, limit: Option<usize>) -> Result<Page> {
        if !self.store.get(&keys::image(repository, image)).await?.is_some_and(|row| is_inhabited(&row)) {
            return Err(Error::ImageUnknown(image.clone()));
        }
        let after = last.map(|last| keys::tags_after(repository, image, last));
        self.page(&keys::tags(repository, image), after, limit, &|_, _| true).await
    }

    /// The images of a repository behind `last` that the caller sees, `limit` at most (`None`: all).
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn images(
        &self,
        repository: &RepositoryKey,
        last: Option<&str>,
        limit: Option<usize>,
        sees: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Page> {
        let after = last.map(|last| keys::images_after(repository, last));
        self.page(&keys::images(repository), after, limit, &|name, row| is_inhabited(row) && sees(name)).await
    }

    /// The manifests that are about `subject`, behind `last`: those of one type, if it is given.
    ///
    /// A row may have as many bytes as a manifest. So they are read one at a time, and a page ends when it has so many bytes,
    /// or when so many were read for it.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn referrers(
        &self,
        (repository, image): (&RepositoryKey, &ImageName),
        subject: &Digest,
        last: Option<&Digest>,
        artifact_type: Option<&str>,
    ) -> Result<ReferrersPage> {
        let prefix = keys::referrers(repository, image, subject);
        let mut after = last.map(|last| keys::referrer(repository, image, subject, last));
        let mut page = ReferrersPage { manifests: Vec::new(), next: None };
        let (mut bytes, mut bytes_read, mut seen) = (0, 0, last.copied());
        while let Some((key, row)) = self.store.scan(&prefix, after.as_ref(), 1).await?.pop() {
            let is_first = bytes_read == 0;
            bytes_read += row.len();
            if !is_first && (bytes_read > REFERRERS_READ_BYTES_MAX || page.manifests.len() >= REFERRERS_MAX) {
                page.next = seen;
                break;
            }
            let found = Referrer::decode(&row).zip(key.digest_after(&prefix));
            if let Some((Referrer { media_type, size, artifact_type: own, annotations }, digest)) = found {
                let own = match own {
                    // Earlier versions took an empty text for a type.
                    Some(text) if text.is_empty() => self.artifact_type(repository, image, &digest).await?,
                    own => own,
                };
                if artifact_type.is_none_or(|wanted| own.as_deref() == Some(wanted)) {
                    if bytes > 0 && bytes + row.len() > REFERRERS_BYTES_MAX {
                        page.next = seen;
                        break;
                    }
                    bytes += row.len();
                    page.manifests.push(ReferrerDescriptor { digest, media_type, size, artifact_type: own, annotations });
                }
                seen = Some(digest);
            }
            after = Some(key);
            tokio::task::yield_now().await;
        }
        Ok(page)
    }

    /// What kind of artifact a stored manifest is.
    async fn artifact_type(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Option<String>> {
        let stored = get_record::<WithBody<Manifest>>(self.store.as_ref(), &keys::manifest(repository, image, digest)).await?;
        let Some((WithBody { record, body }, _)) = stored else { return Ok(None) };
        Ok(manifests::read(&record.media_type, &body).ok().and_then(|document| document.artifact_type))
    }

    async fn page(
        &self,
        prefix: &Prefix,
        mut after: Option<Key>,
        limit: Option<usize>,
        fits: &(dyn Fn(&str, &Bytes) -> bool + Sync),
    ) -> Result<Page> {
        let mut names = Vec::new();
        // One more than asked for tells whether more follow.
        let mut wanted = limit.map_or(SCAN_ENTRIES, |limit| limit.saturating_add(1).min(SCAN_ENTRIES));
        loop {
            let rows = self.store.scan(prefix, after.as_ref(), wanted).await?;
            let entries = rows.iter().filter_map(|(key, row)| Some((key.text_after(prefix)?, row)));
            names.extend(entries.filter(|(name, row)| fits(name, row)).map(|(name, _)| name.to_owned()));
            if limit.is_some_and(|limit| names.len() > limit) {
                names.truncate(limit.unwrap_or_default());
                return Ok(Page { names, more: true });
            }
            match rows.last() {
                Some((last, _)) if rows.len() == wanted => after = Some(last.clone()),
                _ => return Ok(Page { names, more: false }),
            }
            // Where few fit, a small page must not become many small scans.
            wanted = (wanted * 2).min(SCAN_ENTRIES);
            tokio::task::yield_now().await;
        }
    }
}

/// Whether something in the image has a name: what is left of one that was deleted is not listed, nor is one of which only
/// layers have come.
pub(crate) fn is_inhabited(row: &Bytes) -> bool {
    Image::decode(row).is_some_and(|image| image.vacant_since_ms.is_none())
}
