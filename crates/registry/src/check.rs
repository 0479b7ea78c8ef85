//! Reading everything once: is every name backed by bytes that are what they should be?

mod lost;

use std::fmt;

use berth_names::Digest;
use berth_storage::records::{Blob, Manifest, Place, Record, Tag, WithBody, v1};
use berth_storage::{Damage, Key, Prefix, keys};
use bytes::Bytes;

use crate::hash::{digest_of, digest_stream};
use crate::manifests::manifest_digest;
use crate::{Registry, Result};

/// Rows brought into memory at a time.
const SCAN_ENTRIES: usize = 100;

/// Families that have a check of their own; of the others it is enough that they can be read.
const CHECKED: &[u8] = b"bkmtvx";

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which row.
    pub key: Key,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// What a check saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Blobs whose bytes were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests, tags, links and V1 images whose references were followed.
    pub names: u64,
    /// Rows in all.
    pub rows: u64,
    /// Places where rows can't be read.
    pub unreadable: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Registry {
    /// Hashes every blob, follows every reference and reads every row. Damage ends nothing: what stands behind it is read, and
    /// what was in it is named as far as other rows tell.
    ///
    /// A blob whose bytes are not what they should be is marked, so that whoever pushes it heals it.
    ///
    /// # Errors
    /// Only if the store fails as a whole; damage is reported.
    pub async fn check(&self) -> Result<Report> {
        let mut report = Report::default();
        self.each(&keys::blobs(), &mut report, Self::check_blob).await?;
        self.each(&keys::all_links(), &mut report, Self::check_link).await?;
        self.each(&keys::all_manifests(), &mut report, Self::check_manifest).await?;
        self.each(&keys::all_tags(), &mut report, Self::check_tag).await?;
        self.each(&keys::all_v1_images(), &mut report, Self::check_v1_image).await?;
        self.each(&keys::all_v1_tags(), &mut report, Self::check_v1_tag).await?;
        for family in keys::FAMILIES.iter().filter(|family| !CHECKED.contains(family)) {
            self.each(&keys::whole_family(*family), &mut report, Self::check_row).await?;
        }
        if report.unreadable > 0 {
            self.name_what_is_lost(&mut report).await?;
        }
        Ok(report)
    }

    async fn each<'r, F>(&'r self, family: &Prefix, report: &mut Report, check: impl Fn(&'r Self, Key, Bytes) -> F) -> Result<()>
    where
        F: Future<Output = Result<Outcome>>,
    {
        let mut from: Option<Key> = None;
        loop {
            let walked = self.store.walk(family, from.as_ref(), SCAN_ENTRIES).await?;
            let last = walked.rows.last().map(|(key, _)| key.clone()).or(from);
            for (key, value) in walked.rows {
                report.rows += 1;
                let outcome = check(self, key.clone(), value).await;
                match outcome.unwrap_or_else(|error| Outcome::Wrong(format!("what belongs to it can't be read: {error}"))) {
                    Outcome::Row => {}
                    Outcome::Blob(bytes) => {
                        report.blobs += 1;
                        report.bytes += bytes;
                    }
                    Outcome::Name => report.names += 1,
                    Outcome::Wrong(what) => report.problems.push(Problem { key, what }),
                }
            }
            if let Some(damage) = walked.damage {
                report.unreadable += 1;
                let key = last.unwrap_or_else(|| Key::from_cursor(family.as_bytes()));
                report.problems.push(Problem { key, what: describe(&damage) });
            }
            match walked.next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn check_blob(&self, key: Key, value: Bytes) -> Result<Outcome> {
        let (Some(digest), Some(blob)) = (key.digest_after(&keys::blobs()), Blob::decode(&value)) else { return unreadable() };
        let (outcome, is_sound) = self.look_at_blob(&digest, &blob).await?;
        if is_sound == Some(blob.damaged)
            && let Err(error) = self.mark_blob(&digest, blob.place, !blob.damaged).await
        {
            tracing::error!(%digest, %error, "a blob could not be marked");
        }
        Ok(outcome)
    }

    /// What is wrong with a blob, and whether its bytes are what they should be, as far as that could be told.
    async fn look_at_blob(&self, digest: &Digest, blob: &Blob) -> Result<(Outcome, Option<bool>)> {
        let wrong = |what: &str, is_sound| Ok((Outcome::Wrong(what.to_owned()), is_sound));
        if let Place::Data(data) = blob.place {
            if self.store.get(&keys::data_owner(data)).await?.is_none() {
                return wrong("its data has no owner row, so a sweep would delete it", None);
            }
            let size = self.blobs.size(data).await?;
            if size != Some(blob.size) {
                return wrong(&format!("{} bytes are recorded, {size:?} are stored: push it again", blob.size), Some(false));
            }
        }
        let Ok(content) = self.content_of(digest, blob).await else {
            return wrong("its bytes are missing: push it again", Some(false));
        };
        match digest_stream(digest.algorithm(), content.read(0..blob.size)).await {
            Ok(actual) if actual == *digest => Ok((Outcome::Blob(blob.size), Some(true))),
            Ok(actual) => wrong(&format!("its bytes have the digest {actual}: push it again"), Some(false)),
            Err(error) => wrong(&format!("its bytes can't be read: {error}: push it again"), Some(false)),
        }
    }

    async fn check_row(&self, _: Key, _: Bytes) -> Result<Outcome> {
        Ok(Outcome::Row)
    }

    async fn check_link(&self, key: Key, _: Bytes) -> Result<Outcome> {
        let Some((_, _, rest)) = keys::split_image(&key, &keys::all_links()) else { return unreadable() };
        let Some(digest) = Digest::from_key(rest) else { return unreadable() };
        if self.store.get(&keys::blob(&digest)).await?.is_none() { wrong("it links a blob that is not there") } else { Ok(Outcome::Name) }
    }

    async fn check_manifest(&self, key: Key, value: Bytes) -> Result<Outcome> {
        let (Some((repository, image, rest)), Some(manifest)) =
            (keys::split_image(&key, &keys::all_manifests()), WithBody::<Manifest>::decode(&value))
        else {
            return unreadable();
        };
        let Some(digest) = Digest::from_key(rest) else { return unreadable() };
        if manifest_digest(digest.algorithm(), &manifest.record.media_type, &manifest.body) != digest {
            return wrong("its bytes have another digest");
        }
        for child in &manifest.record.children {
            let places = [keys::link(&repository, &image, child), keys::manifest(&repository, &image, child)];
            if self.store.multi_get(&places).await?.iter().all(Option::is_none) {
                return wrong(&format!("it refers to {child}, which is not there"));
            }
        }
        Ok(Outcome::Name)
    }

    async fn check_tag(&self, key: Key, value: Bytes) -> Result<Outcome> {
        let (Some((repository, image, _)), Some(tag)) = (keys::split_image(&key, &keys::all_tags()), Tag::decode(&value)) else {
            return unreadable();
        };
        match self.store.get(&keys::manifest(&repository, &image, &tag.digest)).await? {
            Some(_) => Ok(Outcome::Name),
            None => wrong(&format!("it points to {}, which is not there", tag.digest)),
        }
    }

    async fn check_v1_image(&self, key: Key, value: Bytes) -> Result<Outcome> {
        let (Some((repository, rest)), Some(image)) = (keys::split_repository(&key, &keys::all_v1_images()), v1::Image::decode(&value))
        else {
            return unreadable();
        };
        let Some(id) = rest.try_into().ok().map(crate::v1::ImageId::from_bytes) else { return unreadable() };
        match self.store.get(&keys::v1_json(&repository, &id)).await? {
            Some(json) if digest_of(image.json_digest.algorithm(), &json) == image.json_digest => {}
            _ => return wrong("its JSON is missing or not the one that was pushed"),
        }
        match &image.layer {
            Some(layer) if self.store.get(&keys::blob(&layer.digest)).await?.is_none() => wrong("its layer is not there"),
            None if image.complete => wrong("it is complete and has no layer"),
            _ => Ok(Outcome::Name),
        }
    }

    async fn check_v1_tag(&self, key: Key, value: Bytes) -> Result<Outcome> {
        let (Some((repository, _, _)), Some(tag)) = (keys::split_image(&key, &keys::all_v1_tags()), v1::Tag::decode(&value)) else {
            return unreadable();
        };
        match self.is_v1_chain_complete(&repository, &tag.id).await {
            Ok(true) => Ok(Outcome::Name),
            Err(error @ crate::Error::V1ChainTooLong(_)) => wrong(&error.to_string()),
            _ => wrong(&format!("it points to {}, which is not there or not complete", tag.id)),
        }
    }
}

enum Outcome {
    Row,
    Blob(u64),
    Name,
    Wrong(String),
}

fn wrong(what: &str) -> Result<Outcome> {
    Ok(Outcome::Wrong(what.to_owned()))
}

fn unreadable() -> Result<Outcome> {
    wrong("the row can't be read")
}

fn describe(damage: &Damage) -> String {
    match &damage.end {
        Some(end) => format!("the rows behind this one and before {end} can't be read: {}", damage.what),
        None => format!("the rows behind this one can't be read: {}", damage.what),
    }
}

#[cfg(test)]
mod tests;
