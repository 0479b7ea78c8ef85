//! Repositories: what a port is bound to. Their settings are rows like everything else; the configuration file only says
//! which ones a first start creates.

mod emptying;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use berth_names::{ApiVersion, ImageName, RepositoryKey};
use berth_storage::records::{self, Record};
use berth_storage::{Batch, MetadataStore, get_record, keys};
use bytes::Bytes;

use crate::access::Pattern;
use crate::blobs::random_u64;
use crate::{Error, Registry, Result};

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// A repository and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its name in bindings and paths.
    pub key: RepositoryKey,
    /// The protocol it speaks.
    pub api_version: ApiVersion,
    /// Whether pulling needs no credentials.
    pub anonymous_pull: bool,
    /// How clients are asked for credentials over V2.
    pub challenge: Challenge,
    /// For people.
    pub description: String,
    /// For the people who run it.
    pub notes: String,
    /// The images that may be pushed; none: all.
    pub includes: Vec<Pattern>,
    /// Images that may not be pushed although they are included.
    pub excludes: Vec<Pattern>,
    /// Tags that an image may have: with one more, the oldest goes. 0: any number.
    pub max_unique_tags: u32,
    /// Whether manifests of schema 1 are refused.
    pub block_schema1: bool,
    /// Whether V1 clients may pull V2 images.
    pub serve_v1: bool,
    /// Settings of Artifactory's that mean nothing here, as JSON text: given back as they came.
    pub foreign: BTreeMap<String, String>,
}

/// How a client that sends no credentials is asked for them. Both kinds are taken wherever they come unasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Challenge {
    /// Fetch a token with the password, or without one, and show that.
    #[default]
    Bearer,
    /// Send the password with every request. Clients that may pull without one can't be asked for one to push.
    Basic,
}

/// All repositories, by key.
pub type Repositories = BTreeMap<RepositoryKey, Arc<Repository>>;

impl Repository {
    /// A repository with the settings that nobody asked to be otherwise.
    pub fn new(key: RepositoryKey, api_version: ApiVersion) -> Self {
        Self {
            key,
            api_version,
            anonymous_pull: false,
            challenge: Challenge::default(),
            description: String::new(),
            notes: String::new(),
            includes: Vec::new(),
            excludes: Vec::new(),
            max_unique_tags: 0,
            block_schema1: false,
            serve_v1: false,
            foreign: BTreeMap::new(),
        }
    }

    /// Whether images of this name may be pushed to it.
    pub fn takes(&self, image: &ImageName) -> bool {
        let fits = |pattern: &Pattern| pattern.fits(image.as_str());
        (self.includes.is_empty() || self.includes.iter().any(fits)) && !self.excludes.iter().any(fits)
    }

    fn to_record(&self, created_ms: u64) -> records::Repository {
        let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
        records::Repository {
            api_version: self.api_version,
            description: self.description.clone(),
            notes: self.notes.clone(),
            anonymous_pull: self.anonymous_pull,
            basic_challenge: self.challenge == Challenge::Basic,
            includes: texts(&self.includes),
            excludes: texts(&self.excludes),
            max_unique_tags: self.max_unique_tags,
            block_schema1: self.block_schema1,
            serve_v1: self.serve_v1,
            foreign: self.foreign.clone(),
            created_ms,
        }
    }

    fn from_record(key: RepositoryKey, record: records::Repository) -> Option<Self> {
        let patterns = |texts: &[String]| texts.iter().map(|text| text.parse().ok()).collect::<Option<Vec<Pattern>>>();
        Some(Self {
            key,
            api_version: record.api_version,
            anonymous_pull: record.anonymous_pull,
            challenge: if record.basic_challenge { Challenge::Basic } else { Challenge::Bearer },
            includes: patterns(&record.includes)?,
            excludes: patterns(&record.excludes)?,
            description: record.description,
            notes: record.notes,
            max_unique_tags: record.max_unique_tags,
            block_schema1: record.block_schema1,
            serve_v1: record.serve_v1,
            foreign: record.foreign,
        })
    }
}

/// The present repositories, read anew whenever any has changed, by this process or another.
#[derive(Default)]
pub(crate) struct RepositoryCache {
    known: RwLock<Option<(Option<Bytes>, Arc<Repositories>)>>,
}

impl RepositoryCache {
    async fn current(&self, store: &dyn MetadataStore) -> Result<Arc<Repositories>> {
        // The revision is read before the rows: what changes in between makes the next request read again.
        let revision = store.get(&keys::repositories_revision()).await?;
        if let Some((seen, known)) = &*self.known.read().unwrap_or_else(PoisonError::into_inner)
            && *seen == revision
        {
            return Ok(Arc::clone(known));
        }
        let loaded = Arc::new(load(store).await?);
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some((revision, Arc::clone(&loaded)));
        Ok(loaded)
    }
}

async fn load(store: &dyn MetadataStore) -> Result<Repositories> {
    let prefix = keys::repositories();
    let (mut found, mut after) = (Repositories::new(), None);
    loop {
        let rows = store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
        for (key, row) in &rows {
            let name: Option<RepositoryKey> = key.text_after(&prefix).and_then(|text| text.parse().ok());
            match name.zip(records::Repository::decode(row)).and_then(|(name, record)| Repository::from_record(name, record)) {
                Some(repository) => drop(found.insert(repository.key.clone(), Arc::new(repository))),
                // The others must go on being served.
                None => tracing::error!(%key, "a repository's settings can't be read: it is not served"),
            }
        }
        match rows.last() {
            Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
            _ => return Ok(found),
        }
    }
}

impl Registry {
    /// The repositories that exist.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn repositories(&self) -> Result<Arc<Repositories>> {
        self.repositories.current(self.store.as_ref()).await
    }

    /// The repository with this key.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`].
    pub async fn repository(&self, key: &RepositoryKey) -> Result<Arc<Repository>> {
        self.repositories().await?.get(key).cloned().ok_or_else(|| Error::RepositoryUnknown(key.clone()))
    }

    /// Creates a repository that the configuration names, unless that was done before: what was changed or deleted since
    /// stays so. Returns whether it was created.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn adopt_repository(&self, repository: &Repository) -> Result<bool> {
        let (row, mark) = (keys::repository(&repository.key), keys::repository_default(&repository.key));
        self.commit_with(|| async {
            let mut batch = Batch::new();
            if self.store.get(&mark).await?.is_some() {
                return Ok((Batch::deferred(), false));
            }
            batch.expect(mark.clone(), None).put(mark.clone(), Bytes::new());
            let present = self.store.get(&row).await?;
            let is_new = present.is_none();
            if is_new {
                self.put_repository(&mut batch, repository, None)?;
            }
            batch.expect(row.clone(), present);
            Ok((batch, is_new))
        })
        .await
    }

    /// Creates a repository.
    ///
    /// # Errors
    /// [`Error::RepositoryExists`]; [`Error::RepositoryEmptying`] while the content of a deleted one of that name goes.
    pub async fn create_repository(&self, repository: &Repository) -> Result<()> {
        let (row, emptied) = (keys::repository(&repository.key), keys::repository_emptied(&repository.key));
        self.commit_with(|| async {
            match self.store.multi_get(&[row.clone(), emptied.clone()]).await?.as_slice() {
                [Some(_), _] => return Err(Error::RepositoryExists(repository.key.clone())),
                [_, Some(_)] => return Err(Error::RepositoryEmptying(repository.key.clone())),
                _ => {}
            }
            let mut batch = Batch::new();
            batch.expect(row.clone(), None).expect(emptied.clone(), None);
            self.put_repository(&mut batch, repository, None)?;
            Ok((batch, ()))
        })
        .await
    }

    /// Changes a repository's settings to what `change` makes of them.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`]; [`Error::RepositoryNotEmpty`] if the protocol would change.
    pub async fn update_repository(&self, key: &RepositoryKey, change: impl Fn(Repository) -> Repository + Sync) -> Result<()> {
        let (before, after) = self.replace_settings(key, &change).await?;
        if before.api_version != after.api_version && self.has_content(key).await? {
            // Something was pushed while the settings changed: the protocol it was pushed with stays.
            let api_version = before.api_version;
            self.replace_settings(key, &|settings| Repository { api_version, ..settings }).await?;
            return Err(Error::RepositoryNotEmpty(key.clone()));
        }
        if after.serve_v1 && !before.serve_v1 {
            self.finish_views().await?;
        }
        Ok(())
    }

    async fn replace_settings(
        &self,
        key: &RepositoryKey,
        change: &(impl Fn(Repository) -> Repository + Sync),
    ) -> Result<(Repository, Repository)> {
        let row = keys::repository(key);
        self.commit_with(|| async {
            let unknown = || Error::RepositoryUnknown(key.clone());
            let (record, seen) = get_record::<records::Repository>(self.store.as_ref(), &row).await?.ok_or_else(unknown)?;
            let created_ms = record.created_ms;
            let before = Repository::from_record(key.clone(), record).ok_or_else(|| crate::blobs::damaged(&row))?;
            let after = change(before.clone());
            if before.api_version != after.api_version && self.has_content(key).await? {
                return Err(Error::RepositoryNotEmpty(key.clone()));
            }
            let mut batch = Batch::new();
            batch.expect(row.clone(), Some(seen));
            if after.serve_v1 && !before.serve_v1 {
                batch.put(keys::v1_view_begun(key), Bytes::new());
            }
            self.put_repository(&mut batch, &after, Some(created_ms))?;
            Ok((batch, (before, after)))
        })
        .await
    }

    /// Whether anything was ever pushed and is still there.
    async fn has_content(&self, key: &RepositoryKey) -> Result<bool> {
        let images = self.store.scan(&keys::images(key), None, 1).await?;
        Ok(!images.is_empty() || !self.store.scan(&keys::v1_images(key), None, 1).await?.is_empty())
    }

    fn put_repository(&self, batch: &mut Batch, repository: &Repository, created_ms: Option<u64>) -> Result<()> {
        let created_ms = created_ms.unwrap_or_else(|| self.clock.now_ms());
        batch.put_record(keys::repository(&repository.key), &repository.to_record(created_ms));
        self.renew_repositories(batch)
    }

    fn renew_repositories(&self, batch: &mut Batch) -> Result<()> {
        batch.put(keys::repositories_revision(), Bytes::copy_from_slice(&random_u64()?.to_be_bytes()));
        Ok(())
    }

    /// Makes the batch depend on the repository being there, as everything that names something in it must: so nothing is
    /// ever added to a repository that is being emptied.
    pub(crate) async fn expect_repository(&self, batch: &mut Batch, key: &RepositoryKey) -> Result<()> {
        let row = keys::repository(key);
        let seen = self.store.get(&row).await?.ok_or_else(|| Error::RepositoryUnknown(key.clone()))?;
        batch.expect(row, Some(seen));
        Ok(())
    }
}
