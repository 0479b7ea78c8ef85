//! `docker search`.

use berth_names::RepositoryKey;
use berth_storage::keys;

use crate::listing::is_inhabited;
use crate::{Registry, Result};

/// Image names that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// One page of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPage {
    /// Image names, in byte order.
    pub names: Vec<String>,
    /// How many there are on all pages together.
    pub total: usize,
}

impl Registry {
    /// The images of a repository that the caller sees and whose name contains `term`: page `page` (from 1) of pages of `size`.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn search(
        &self,
        repository: &RepositoryKey,
        term: &str,
        (page, size): (usize, usize),
        sees: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<SearchPage> {
        let term = term.to_lowercase();
        let prefix = keys::images(repository);
        let skip = page.saturating_sub(1).saturating_mul(size);
        let (mut names, mut total, mut after) = (Vec::new(), 0, None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            let inhabited = rows.iter().filter(|(_, row)| is_inhabited(row)).filter_map(|(key, _)| key.text_after(&prefix));
            for name in inhabited.filter(|name| name.contains(&term) && sees(name)) {
                if total >= skip && names.len() < size {
                    names.push(name.to_owned());
                }
                total += 1;
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(SearchPage { names, total }),
            }
            tokio::task::yield_now().await;
        }
    }
}
