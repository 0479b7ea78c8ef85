//! The one place that decides what a caller may do.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use berth_names::{AccountName, ImageName};
use berth_storage::records::{Permission, Record};
use berth_storage::{MetadataStore, keys};
use bytes::Bytes;

use super::caller::Caller;
use super::pattern::Pattern;
use super::rights::{Right, Rights};
use crate::{Repository, Result};

/// Permission targets that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// What stands for every repository, those to come included.
pub const ANY_REPOSITORY: &str = "ANY";

/// The user that stands for whoever does not log in.
pub const ANONYMOUS: &str = "anonymous";

/// All permission targets, as they were at one moment.
#[derive(Debug, Default)]
pub struct Policy {
    targets: HashMap<String, Vec<Arc<Target>>>,
}

#[derive(Debug)]
struct Target {
    includes: Vec<Pattern>,
    excludes: Vec<Pattern>,
    users: BTreeMap<AccountName, Rights>,
    groups: BTreeMap<AccountName, Rights>,
}

impl Target {
    fn parse(permission: &Permission) -> Option<Self> {
        let patterns = |texts: &[String]| texts.iter().map(|text| text.parse().ok()).collect::<Option<Vec<Pattern>>>();
        let rights = |by_name: &BTreeMap<AccountName, String>| {
            by_name.iter().map(|(name, letters)| Some((name.clone(), letters.parse().ok()?))).collect::<Option<_>>()
        };
        Some(Self {
            includes: patterns(&permission.includes)?,
            excludes: patterns(&permission.excludes)?,
            users: rights(&permission.users)?,
            groups: rights(&permission.groups)?,
        })
    }

    fn is_about(&self, image: &ImageName) -> bool {
        let fits = |pattern: &Pattern| pattern.fits(image.as_str());
        self.includes.iter().any(fits) && !self.excludes.iter().any(fits)
    }

    fn is_about_every_image(&self) -> bool {
        self.includes.iter().any(Pattern::is_universal) && self.excludes.is_empty()
    }

    /// What the target gives the caller; what it gives anonymous clients, it gives everybody.
    fn rights_of(&self, caller: &Caller) -> Rights {
        let by_name = |name: &str| self.users.iter().find(|(user, _)| user.as_str() == name).map_or(Rights::NONE, |(_, rights)| *rights);
        let mut rights = by_name(ANONYMOUS);
        if let Some(name) = caller.name() {
            rights |= by_name(name);
        }
        for group in caller.groups() {
            rights |= self.groups.get(group).copied().unwrap_or_default();
        }
        rights
    }
}

impl Policy {
    /// What the caller may do with an image.
    pub fn rights(&self, caller: &Caller, repository: &Repository, image: &ImageName) -> Rights {
        let own = self.own_rights(caller, repository, |target| target.is_about(image));
        own & caller.limit(repository, Some(image))
    }

    /// What the caller may do with at least one image that there is or could be.
    pub fn rights_somewhere(&self, caller: &Caller, repository: &Repository) -> Rights {
        self.own_rights(caller, repository, |_| true) & caller.limit(repository, None)
    }

    /// What the caller may do with every image.
    pub fn rights_everywhere(&self, caller: &Caller, repository: &Repository) -> Rights {
        self.own_rights(caller, repository, Target::is_about_every_image) & caller.limit_everywhere(repository)
    }

    fn own_rights(&self, caller: &Caller, repository: &Repository, counts: impl Fn(&Target) -> bool) -> Rights {
        if caller.is_almighty() {
            return Rights::ALL;
        }
        let of = |key: &str| self.targets.get(key).into_iter().flatten();
        let mut rights = if repository.anonymous_pull { Right::Read.into() } else { Rights::NONE };
        for target in of(repository.key.as_str()).chain(of(ANY_REPOSITORY)) {
            let given = target.rights_of(caller);
            if !given.is_empty() && counts(target) {
                rights |= given;
            }
        }
        rights
    }

    async fn load(store: &dyn MetadataStore) -> Result<Self> {
        let prefix = keys::permissions();
        let (mut policy, mut after) = (Self::default(), None);
        loop {
            let rows = store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, row) in &rows {
                let permission = Permission::decode(row);
                let Some((permission, target)) = permission.and_then(|p| Target::parse(&p).map(|target| (p, Arc::new(target)))) else {
                    // Giving nobody anything is the safe way to read what can't be read.
                    tracing::error!(%key, "a permission target can't be read and gives no rights");
                    continue;
                };
                for repository in permission.repositories {
                    policy.targets.entry(repository).or_default().push(Arc::clone(&target));
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(policy),
            }
        }
    }
}

/// The present policy, read anew whenever anything about it has changed, by this process or another.
pub(super) struct PolicyCache {
    store: Arc<dyn MetadataStore>,
    known: RwLock<Option<(Option<Bytes>, Arc<Policy>)>>,
}

impl PolicyCache {
    pub(super) fn new(store: Arc<dyn MetadataStore>) -> Self {
        Self { store, known: RwLock::default() }
    }

    pub(super) async fn current(&self) -> Result<Arc<Policy>> {
        // The revision is read before the targets: what changes in between makes the next request read again.
        let revision = self.store.get(&keys::access_revision()).await?;
        if let Some((seen, policy)) = &*self.known.read().unwrap_or_else(PoisonError::into_inner)
            && *seen == revision
        {
            return Ok(Arc::clone(policy));
        }
        let policy = Arc::new(Policy::load(self.store.as_ref()).await?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some((revision, Arc::clone(&policy)));
        Ok(policy)
    }
}
