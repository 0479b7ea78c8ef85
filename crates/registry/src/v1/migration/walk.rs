//! Walking over the images and tags that a job is about.

use std::sync::Arc;

use berth_names::{ImageName, Tag};
use berth_storage::keys;
use berth_storage::records::Record as _;

use super::super::TagRecord;
use super::jobs::{Allowed, Allows, Job, JobId, Tally};
use super::{Broken, Errand, Outcome};
use crate::blobs::damaged;
use crate::{Registry, Repository, Result};

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

impl Registry {
    pub(super) async fn migrate(&self, id: &JobId, tally: &Arc<Tally>, allows: &Allows) -> Result<()> {
        let job = tally.job();
        let holder = format!("migration-{id}");
        let images = match &job.image {
            Some(image) => vec![image.clone()],
            None => Vec::new(),
        };
        let (mut after, mut images) = (None, images);
        let prefix = keys::images(&job.source);
        loop {
            let is_end = if job.image.is_none() {
                let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
                images = rows.iter().filter_map(|(key, _)| key.text_after(&prefix)?.parse().ok()).collect();
                after = rows.last().map(|(key, _)| key.clone());
                rows.len() < SCAN_ENTRIES
            } else {
                true
            };
            for image in &images {
                // Settings may change while a long migration goes on, and repositories go.
                let (_, target) = self.ends_of_migration(&job.source, &job.target).await?;
                self.migrate_image(&job, (&target, image), allows(image), (&holder, tally)).await?;
            }
            if is_end {
                return Ok(());
            }
        }
    }

    async fn migrate_image(
        &self,
        job: &Job,
        (target, image): (&Repository, &ImageName),
        allowed: Allowed,
        (holder, tally): (&str, &Arc<Tally>),
    ) -> Result<()> {
        let prefix = keys::v1_tags(&job.source, image);
        let mut after = None;
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, row) in &rows {
                let tag = key.text_after(&prefix).and_then(|text| text.parse::<Tag>().ok());
                let (Some(tag), Some(_)) = (tag, TagRecord::decode(row)) else { return Err(damaged(key)) };
                if job.tag.as_ref().is_some_and(|wanted| *wanted != tag) {
                    continue;
                }
                let outcome = match allowed {
                    Allowed::Hidden => continue,
                    Allowed::No => Outcome::Broken(Broken::NotAllowed),
                    Allowed::Yes(existing) => {
                        let errand =
                            Errand { source: &job.source, target, image, tag: &tag, existing, dry_run: job.dry_run, holder, tally };
                        self.migrate_tag(&errand).await?
                    }
                };
                tally.count(image, &tag, outcome);
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }
}
