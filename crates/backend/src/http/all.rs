//! What docker asks of an address of all repositories as a whole: whether it speaks V2, and what there is.
//!
//! A page of the catalog begins where the one before ended, in each repository that it comes by. Images that the caller may
//! not see are passed over, at most a scan's rows at a time. Its order is that of the names as the client sees them.

use std::sync::Arc;

use berth_names::ApiVersion;
use berth_registry::access::{Caller, Policy, Right};
use berth_registry::{Error, Page, Registry, Repositories, Repository};

use super::demand::Denied;
use super::origin::ClientView;
use super::params::{PageSize, Query};
use super::respond::Answer;
use super::v2;

/// What the answer to such a request is made from.
pub(crate) struct AllCall {
    pub(crate) registry: Arc<Registry>,
    pub(crate) repositories: Arc<Repositories>,
    pub(crate) caller: Caller,
    pub(crate) policy: Arc<Policy>,
    pub(crate) view: ClientView,
    pub(crate) query: Query,
    pub(crate) user_agent: String,
    /// Whether the catalog is asked for.
    pub(crate) lists: bool,
}

impl AllCall {
    /// Whether the caller may go on: whoever has an account may. A client that pings must be asked for its password, or
    /// it never sends one; nobody's token is good where something can be read without an account.
    pub(crate) fn decide(&self) -> Result<(), Denied> {
        let caller = &self.caller;
        let must_log_in = caller.is_anonymous() && (self.readable().next().is_none() || !(self.lists || caller.shows_signed_token()));
        if must_log_in {
            Err(Denied::LogIn)
        } else if self.lists && !caller.may_list() {
            Err(Denied::OtherToken)
        } else {
            Ok(())
        }
    }

    pub(crate) async fn answer(&self) -> Result<Answer, Error> {
        if !self.lists {
            return Ok(v2::base());
        }
        match self.query.page_size() {
            PageSize::Invalid => v2::bad_page_size(),
            PageSize::Absent => self.catalog(v2::CATALOG_ENTRIES).await,
            PageSize::Entries(limit) => self.catalog(limit).await,
        }
    }

    async fn catalog(&self, limit: usize) -> Result<Answer, Error> {
        let last = self.query.get("last").unwrap_or_default();
        let account = self.caller.without_grants();
        let mut repositories: Vec<_> = self.readable().map(|repository| (format!("{}/", repository.key), repository)).collect();
        repositories.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut page = Page { names: Vec::new(), more: false };
        for (prefix, repository) in repositories {
            let after = match last.strip_prefix(prefix.as_str()) {
                Some(after) => Some(after),
                None if prefix.as_str() > last => None,
                None => continue,
            };
            let sees = |name: &str| name.parse().is_ok_and(|image| self.policy.rights(&account, repository, &image).has(Right::Read));
            let found = self.registry.images(&repository.key, after, Some(limit - page.names.len()), &sees).await?;
            page.names.extend(found.names.iter().map(|name| format!("{prefix}{name}")));
            if found.more {
                page.more = true;
                break;
            }
        }
        Ok(v2::catalog_page(&page, &self.view.location_root(&self.user_agent), limit))
    }

    /// The repositories of which the caller's account may read something.
    fn readable(&self) -> impl Iterator<Item = &Repository> {
        let account = self.caller.without_grants();
        let speak_v2 = self.repositories.values().filter(|repository| repository.api_version == ApiVersion::V2);
        speak_v2.map(Arc::as_ref).filter(move |repository| self.policy.rights_somewhere(&account, repository).has(Right::Read))
    }
}
