//! What was in rows that can't be read, as the rows that lead to them tell it.

use berth_names::{Algorithm, Digest};
use berth_storage::{Key, keys};
use bytes::Bytes;

use super::{Outcome, Report};
use crate::{Registry, Result};

impl Registry {
    /// Looks from each index at what it is the index of.
    pub(super) async fn name_what_is_lost(&self, report: &mut Report) -> Result<()> {
        let counted = report.rows;
        for family in [b'T', b'K', b'y', b'X', b'w'] {
            self.each(&keys::whole_family(family), report, Self::check_index).await?;
        }
        report.rows = counted;
        Ok(())
    }

    async fn check_index(&self, key: Key, _: Bytes) -> Result<Outcome> {
        let Some((target, what)) = target_of(&key) else { return Ok(Outcome::Row) };
        Ok(match self.store.get(&target).await {
            Ok(Some(_)) => Outcome::Row,
            Ok(None) => Outcome::Wrong(format!("{what} is lost")),
            Err(error) => Outcome::Wrong(format!("{what} can't be read: {error}")),
        })
    }
}

/// The row that a row of an index leads to, and what that is.
fn target_of(key: &Key) -> Option<(Key, String)> {
    let family = keys::whole_family(*key.as_bytes().first()?);
    match key.as_bytes().first()? {
        b'T' => {
            let (repository, image, rest) = keys::split_image(key, &family)?;
            let tag = text(split_digest(rest)?.1)?.parse().ok()?;
            Some((keys::tag(&repository, &image, &tag), format!("the tag {repository}/{image}:{tag}")))
        }
        b'K' => {
            let (digest, rest) = split_digest(key.as_bytes().get(1..)?)?;
            let (repository, image) = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?.split_once('\0')?;
            let link = keys::link(&repository.parse().ok()?, &image.parse().ok()?, &digest);
            Some((link, format!("the blob {digest} of {repository}/{image}")))
        }
        b'y' => {
            let (repository, image, rest) = keys::split_image(key, &family)?;
            let digest = Digest::from_key(split_digest(rest)?.1)?;
            Some((keys::manifest(&repository, &image, &digest), format!("the manifest {repository}/{image}@{digest}")))
        }
        b'X' => {
            let (repository, rest) = keys::split_repository(key, &family)?;
            let (image, tag) = std::str::from_utf8(rest.get(32..)?.strip_suffix(&[0])?).ok()?.split_once('\0')?;
            let row = keys::v1_tag(&repository, &image.parse().ok()?, &tag.parse().ok()?);
            Some((row, format!("the V1 tag {repository}/{image}:{tag}")))
        }
        b'w' => {
            let (repository, rest) = keys::split_repository(key, &family)?;
            let id = crate::v1::ImageId::from_bytes(rest.get(32..)?.try_into().ok()?);
            Some((keys::v1_image(&repository, &id), format!("the V1 image {id} of {repository}")))
        }
        _ => None,
    }
}

/// A digest and what follows it.
fn split_digest(bytes: &[u8]) -> Option<(Digest, &[u8])> {
    [Algorithm::Sha256, Algorithm::Sha512].into_iter().find_map(|algorithm| {
        let (digest, rest) = bytes.split_at_checked(1 + algorithm.hash_bytes())?;
        Some((Digest::from_key(digest)?, rest))
    })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field.strip_suffix(&[0])?).ok()
}
