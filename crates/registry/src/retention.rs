//! Retention: an image keeps its newest tags.

use berth_names::{ApiVersion, ImageName, RepositoryKey, Tag};
use berth_storage::keys;
use berth_storage::records::{self, Record, v1};

use crate::{Error, Registry, Repository, Result};

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

impl Registry {
    /// After `pushed`: deletes the tags that moved longest ago, until the image has no more than its repository allows.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn keep_newest_tags(&self, repository: &Repository, image: &ImageName, pushed: &Tag) -> Result<()> {
        if repository.max_unique_tags == 0 {
            return Ok(());
        }
        let mut tags = self.tags_by_age(repository, image).await?;
        // Equal times are possible; what was just pushed is the newest whatever the clock says.
        tags.sort_by_key(|(updated_ms, tag)| (tag != pushed, std::cmp::Reverse(*updated_ms)));
        for (_, tag) in tags.iter().skip(repository.max_unique_tags as usize) {
            let deleted = match repository.api_version {
                ApiVersion::V1 => self.delete_v1_tag(&repository.key, image, tag).await,
                ApiVersion::V2 => self.delete_tag(&repository.key, image, tag).await,
            };
            match deleted {
                // Somebody else was first.
                Ok(()) | Err(Error::ManifestUnknown(_) | Error::V1TagUnknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.wake_collector();
        Ok(())
    }

    async fn tags_by_age(&self, repository: &Repository, image: &ImageName) -> Result<Vec<(u64, Tag)>> {
        let key: &RepositoryKey = &repository.key;
        let prefix = match repository.api_version {
            ApiVersion::V1 => keys::v1_tags(key, image),
            ApiVersion::V2 => keys::tags(key, image),
        };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, row) in &rows {
                let updated_ms = match repository.api_version {
                    ApiVersion::V1 => v1::Tag::decode(row).map(|tag| tag.updated_ms),
                    ApiVersion::V2 => records::Tag::decode(row).map(|tag| tag.updated_ms),
                };
                let tag = key.text_after(&prefix).and_then(|text| text.parse().ok());
                found.extend(updated_ms.zip(tag));
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(found),
            }
        }
    }
}
