use std::collections::BTreeMap;

use berth_names::{ApiVersion, RepositoryKey};

use crate::{Error, Result};

/// A repository's settings.
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
#[derive(Clone, Debug, Default)]
pub struct Repositories(BTreeMap<RepositoryKey, Repository>);

impl Repositories {
    /// The repository with this key.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`] if there is none.
    pub fn find(&self, key: &RepositoryKey) -> Result<&Repository> {
        self.0.get(key).ok_or_else(|| Error::RepositoryUnknown(key.clone()))
    }

    /// All of them, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Repository> {
        self.0.values()
    }
}

impl FromIterator<Repository> for Repositories {
    fn from_iter<I: IntoIterator<Item = Repository>>(repositories: I) -> Self {
        Self(repositories.into_iter().map(|repository| (repository.key.clone(), repository)).collect())
    }
}
