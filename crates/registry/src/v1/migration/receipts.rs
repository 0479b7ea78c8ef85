//! What tags were migrated from, a page at a time.

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::records::Record as _;
use berth_storage::records::v1::Receipt;
use berth_storage::{Key, get_record, keys};
use bytes::Bytes;

use super::RECEIPTS_MAX;
use crate::blobs::damaged;
use crate::positions::List;
use crate::{Error, Registry, Result};

/// Rows that one page looks at. Then it ends, however little was seen, and says where to go on.
const LOOKED_AT_MAX: usize = 100_000;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Which receipts.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// All.
    All,
    /// Of an image.
    Image(&'a ImageName),
    /// Of a tag.
    Tag(&'a ImageName, &'a Tag),
}

/// A page of receipts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptPage {
    /// Of which tags, and what they say.
    pub receipts: Vec<((ImageName, Tag), Receipt)>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

impl Registry {
    /// What tags of a repository were migrated from, of the images that are seen: [`RECEIPTS_MAX`] at most, behind `from`.
    ///
    /// # Errors
    /// [`Error::PositionInvalid`] if `from` is not what a page gave as `next`.
    pub async fn receipts(
        &self,
        repository: &RepositoryKey,
        wanted: Wanted<'_>,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
        from: Option<&str>,
    ) -> Result<ReceiptPage> {
        self.receipts_within((LOOKED_AT_MAX, RECEIPTS_MAX), repository, wanted, sees, from).await
    }

    pub(super) async fn receipts_within(
        &self,
        (looks_max, receipts_max): (usize, usize),
        repository: &RepositoryKey,
        wanted: Wanted<'_>,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
        from: Option<&str>,
    ) -> Result<ReceiptPage> {
        let list = List::Receipts(repository);
        let mut after = match from {
            Some(text) => Some(self.open_position(list, text).await?.ok_or(Error::PositionInvalid)?).map(|key| Key::from_cursor(&key)),
            None => None,
        };
        let prefix = match wanted {
            Wanted::All => keys::receipts_in(repository),
            Wanted::Image(image) => keys::receipts(repository, image),
            Wanted::Tag(image, tag) => return self.receipt_of(repository, image, tag, sees).await,
        };
        let mut page = ReceiptPage::default();
        let mut looks = 0;
        loop {
            let limit = SCAN_ENTRIES.min(looks_max - looks);
            let rows = self.store.scan(&prefix, after.as_ref(), limit).await?;
            let is_end = rows.len() < limit;
            for (key, row) in rows {
                looks += 1;
                let ((image, tag), receipt) = read(&key, &row)?;
                if sees(&image) {
                    page.receipts.push(((image, tag), receipt));
                }
                after = Some(key);
                if page.receipts.len() == receipts_max {
                    break;
                }
            }
            let is_full = page.receipts.len() == receipts_max || looks == looks_max;
            if is_full && let Some(after) = &after {
                page.next = Some(self.seal_position(list, after.as_bytes()).await?);
            }
            if is_full || is_end {
                return Ok(page);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn receipt_of(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        tag: &Tag,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
    ) -> Result<ReceiptPage> {
        let found = get_record::<Receipt>(self.store.as_ref(), &keys::receipt(repository, image, tag)).await?;
        let receipts = found.filter(|_| sees(image)).map(|(receipt, _)| ((image.clone(), tag.clone()), receipt));
        Ok(ReceiptPage { receipts: receipts.into_iter().collect(), next: None })
    }
}

fn read(key: &Key, row: &Bytes) -> Result<((ImageName, Tag), Receipt)> {
    let (_, image, tag) = keys::split_receipt(key).ok_or_else(|| damaged(key))?;
    Ok(((image, tag), Receipt::decode(row).ok_or_else(|| damaged(key))?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use berth_names::{Algorithm, ApiVersion};
    use berth_storage::{Batch, rocksdb};
    use proptest::prelude::*;

    use super::*;
    use crate::hash::digest_of;
    use crate::v1::ImageId;
    use crate::{CleanupTimes, Clock, Repository};

    const SECRET: &str = "hidden-project/codename";

    fn receipt(repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Receipt {
        let digest = digest_of(Algorithm::Sha256, tag.as_str().as_bytes());
        Receipt {
            source: repository.clone(),
            image: image.clone(),
            tag: tag.clone(),
            id: ImageId::from_bytes([7; 32]),
            config: digest,
            manifest: digest,
            layers: Vec::new(),
            migrated_ms: 1,
        }
    }

    /// A repository whose images have this many receipts each.
    async fn filled(images: &[(&str, usize)]) -> (tempfile::TempDir, Registry, RepositoryKey) {
        let directory = tempfile::tempdir().unwrap();
        let stores = rocksdb::open(directory.path()).unwrap();
        let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
        let repository: RepositoryKey = "docker-v2".parse().unwrap();
        registry.create_repository(&Repository::new(repository.clone(), ApiVersion::V2)).await.unwrap();
        let mut batch = Batch::new();
        for (image, count) in images {
            let image: ImageName = image.parse().unwrap();
            for number in 0..*count {
                let tag: Tag = format!("v{number:05}").parse().unwrap();
                batch.put_record(keys::receipt(&repository, &image, &tag), &receipt(&repository, &image, &tag));
            }
        }
        stores.metadata.commit(batch).await.unwrap();
        (directory, registry, repository)
    }

    /// All pages, and every `next` among them.
    async fn walk(registry: &Registry, bounds: (usize, usize), repository: &RepositoryKey, sees: &[&str]) -> (Vec<String>, Vec<String>) {
        let sees = |image: &ImageName| sees.contains(&image.as_str());
        let (mut found, mut positions) = (Vec::new(), Vec::<String>::new());
        loop {
            let from = positions.last().map(String::as_str);
            let page = registry.receipts_within(bounds, repository, Wanted::All, &sees, from).await.unwrap();
            assert!(page.receipts.len() <= bounds.1);
            found.extend(page.receipts.into_iter().map(|((image, tag), _)| format!("{image}:{tag}")));
            match page.next {
                Some(next) => positions.push(next),
                None => return (found, positions),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_a_list_of_receipts_goes_on_names_nothing_that_may_not_be_seen() {
        let (_directory, registry, repository) = filled(&[(SECRET, 1001), ("team/app", 2)]).await;
        let none = registry.receipts(&repository, Wanted::All, &|_| false, None).await.unwrap();
        assert_eq!(none, ReceiptPage::default(), "a page looks further than its length");
        let (found, positions) = walk(&registry, (10, 1000), &repository, &["team/app"]).await;
        assert_eq!(found, ["team/app:v00000", "team/app:v00001"]);
        assert_eq!(positions.len(), 100);
        assert!(positions.iter().all(|position| !position.contains("hidden") && position.len() == positions[0].len()));
        let all = registry.receipts(&repository, Wanted::All, &|_| true, None).await.unwrap();
        assert_eq!((all.receipts.len(), all.next.is_some()), (RECEIPTS_MAX, true));
        let rest = registry.receipts(&repository, Wanted::All, &|_| true, all.next.as_deref()).await.unwrap();
        assert_eq!((rest.receipts.len(), rest.next), (3, None));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_tag_is_found_among_any_number_and_only_by_who_sees_it() {
        let (_directory, registry, repository) = filled(&[(SECRET, 1200)]).await;
        let (image, tag) = (SECRET.parse().unwrap(), "v01199".parse().unwrap());
        for (sees, count) in [(true, 1), (false, 0)] {
            let page = registry.receipts(&repository, Wanted::Tag(&image, &tag), &|_| sees, None).await.unwrap();
            assert_eq!((page.receipts.len(), page.next), (count, None));
        }
        for none in ["", "hidden-project/codename:v00000", "AAAA"] {
            let refused = registry.receipts(&repository, Wanted::All, &|_| true, Some(none)).await;
            assert!(matches!(refused, Err(Error::PositionInvalid)), "{none}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn pages_of_any_size_hold_together_what_is_seen(counts in prop::collection::vec(0..6_usize, 3), seen in prop::collection::btree_set(0..3_usize, 0..4), bounds in (1..8_usize, 1..8_usize)) {
            let images = ["a", "b/c", "d"];
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let (_directory, registry, repository) = filled(&images.into_iter().zip(counts.iter().copied()).collect::<Vec<_>>()).await;
                let sees: Vec<_> = seen.iter().map(|number| images[*number]).collect();
                let (found, _) = walk(&registry, bounds, &repository, &sees).await;
                let expected: BTreeSet<_> = seen.iter().flat_map(|number| (0..counts[*number]).map(|tag| format!("{}:v{tag:05}", images[*number]))).collect();
                prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
                Ok(())
            })?;
        }
    }
}
