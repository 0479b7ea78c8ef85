//! Who is asking, and what they may do.
//!
//! - [`Caller`] is who a request comes from, with the limits that its credentials carry.
//! - [`Policy`] is the one place that decides what a caller may do. Every API asks it, none decides by itself.
//! - Passwords, access tokens and signed tokens are ways to become a caller; [`Access`] knows them all.

mod caller;
mod directory;
mod error;
mod passwords;
mod pattern;
mod policy;
mod remote;
mod rights;
mod signed;
mod strength;
mod throttle;
mod tokens;

use std::sync::Arc;

use berth_names::AccountName;
use berth_storage::{MetadataStore, keys};

use crate::{Clock, Repositories, Result};
pub use caller::{Caller, Grant, Grants};
pub use directory::{Mode, UserChange};
pub use error::{Error, Kind};
use passwords::Passwords;
pub use passwords::random_password;
pub use pattern::{InvalidPattern, Pattern};
use policy::PolicyCache;
pub use policy::{ANONYMOUS, ANY_REPOSITORY, Policy};
pub use remote::Remote;
pub use rights::{Right, Rights, UnknownRight};
use signed::Signer;
pub use signed::{ACCESS_LIFE_S, Audience, Issued, TokenUse};
pub use strength::PasswordPolicy;
pub use tokens::{NewToken, TOKEN_PREFIX, TokenWish};

/// Users, groups, permissions and tokens over one store.
#[derive(Clone)]
pub struct Access {
    store: Arc<dyn MetadataStore>,
    clock: Clock,
    passwords: Arc<Passwords>,
    policy: Arc<PolicyCache>,
    signer: Arc<Signer>,
}

impl Access {
    /// Over the users in `store`.
    ///
    /// # Errors
    /// Only if the operating system has no random bytes.
    pub fn new(store: Arc<dyn MetadataStore>, clock: Clock, passwords: PasswordPolicy) -> Result<Self> {
        Ok(Self {
            passwords: Arc::new(Passwords::new(Arc::clone(&store), clock, passwords)?),
            policy: Arc::new(PolicyCache::new(Arc::clone(&store))),
            signer: Arc::new(Signer::new(Arc::clone(&store), clock)),
            store,
            clock,
        })
    }

    /// The policy of this moment.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn policy(&self) -> Result<Arc<Policy>> {
        self.policy.current().await
    }

    /// Whether there is any user yet.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn any_user(&self) -> Result<bool> {
        Ok(!self.store.scan(&keys::users(), None, 1).await?.is_empty())
    }

    /// Creates the first user, an admin.
    ///
    /// # Errors
    /// [`Error::WeakPassword`], [`Error::Exists`].
    pub async fn create_first_admin(&self, name: &AccountName, password: &str) -> std::result::Result<(), Error> {
        let change = UserChange { password: Some(password.to_owned()), admin: Some(true), ..UserChange::default() };
        self.put_user(name, Mode::Create, &change).await
    }

    /// Who logs in with a user name and a password or access token; `None` if they don't belong together.
    ///
    /// `from` is where the request comes from: after too many wrong tries from there it must wait.
    ///
    /// # Errors
    /// [`crate::Error::TooManyLogins`], [`crate::Error::LoginsBlocked`].
    pub async fn log_in(&self, name: &str, secret: &str, from: impl Into<Remote>) -> Result<Option<Caller>> {
        if secret.starts_with(TOKEN_PREFIX) {
            return self.token_owner(secret, Some(name)).await;
        }
        Ok(self.passwords.verify(name, secret, from.into()).await?.map(|(name, user)| Caller::user(name, user)))
    }

    /// Whether checking this user name and secret takes long, so that it must be carried through when the client goes away.
    pub fn must_check(&self, name: &str, secret: &str) -> bool {
        !secret.starts_with(TOKEN_PREFIX) && self.passwords.must_check(name, secret)
    }

    /// Who shows an access token.
    ///
    /// Nobody is made to wait: guessing one is hopeless, and checking one is cheap.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn log_in_with_token(&self, secret: &str) -> Result<Option<Caller>> {
        self.token_owner(secret, None).await
    }

    /// What the caller could be granted of what it asks for, leaving aside what its token was issued for. In a repository
    /// that is not there it is nothing.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn grantable(&self, caller: &Caller, repositories: &Repositories, wanted: Grants) -> Result<Grants> {
        let (policy, caller) = (self.policy().await?, caller.without_grants());
        let granted = wanted.images.into_iter().filter_map(|Grant { repository, image, rights }| {
            let rights = rights & policy.rights(&caller, repositories.get(&repository)?, &image);
            Some(Grant { repository, image, rights })
        });
        Ok(Grants { images: granted.filter(|grant| !grant.rights.is_empty()).collect(), catalog: wanted.catalog })
    }
}

#[cfg(test)]
mod tests;
