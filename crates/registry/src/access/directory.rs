//! Users, groups and permission targets: changing and listing them.
//!
//! Every change expects the access revision that it read and writes a new one, so changes happen one after the other,
//! whoever makes them, and everybody who decides by them notices.

use std::collections::{BTreeMap, BTreeSet};

use berth_names::{AccountName, RepositoryKey};
use berth_storage::records::{Group, Permission, Record, User};
use berth_storage::{Batch, Key, Prefix, get_record, keys};
use bytes::Bytes;

use super::Access;
use super::error::{Error, Kind, Result};
use super::pattern::Pattern;
use super::policy::{ANONYMOUS, ANY_REPOSITORY};
use super::rights::Rights;
use crate::blobs::random_u64;

/// Entries that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// How often a change is tried again after losing a race.
const ATTEMPTS_MAX: usize = 64;

/// Entries of one list in a permission target.
const PERMISSION_ENTRIES_MAX: usize = 10_000;

/// What is to be changed about a user; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// The password.
    pub password: Option<String>,
    /// Whether it may do everything.
    pub admin: Option<bool>,
    /// Whether it may log in.
    pub enabled: Option<bool>,
    /// Whether it is a machine, which logs in with access tokens only.
    pub robot: Option<bool>,
    /// For people.
    pub email: Option<String>,
    /// The groups it belongs to.
    pub groups: Option<BTreeSet<AccountName>>,
}

/// Whether something may, must or must not be there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It must not be there.
    Create,
    /// It may be there; what is not given gets its default.
    Replace,
    /// It must be there; what is not given stays.
    Update,
}

impl Access {
    /// A user.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn user(&self, name: &AccountName) -> Result<User> {
        self.find(keys::user(name), Kind::User, name).await
    }

    /// The names of all users.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn users(&self) -> Result<Vec<AccountName>> {
        self.names(&keys::users()).await
    }

    /// Creates or changes a user. Another password, and being disabled, end everything that was issued before.
    ///
    /// # Errors
    /// [`Error::Unknown`] for the user or a group, [`Error::Exists`], [`Error::WeakPassword`], [`Error::Invalid`],
    /// [`Error::LastAdmin`].
    pub async fn put_user(&self, name: &AccountName, mode: Mode, change: &UserChange) -> Result<()> {
        if name.as_str() == ANONYMOUS {
            return Err(Error::Invalid("`anonymous` stands for whoever does not log in; it can't be a user".into()));
        }
        if let Some(password) = &change.password {
            self.passwords.policy().check(name, password)?;
        }
        // Hashing takes long and does not depend on what is stored.
        let password_hash = match change.password.clone() {
            Some(password) => Some(self.passwords.hash(password).await?),
            None => None,
        };
        self.change(|| async {
            let mut batch = Batch::new();
            let key = keys::user(name);
            let before = get_record::<User>(self.store.as_ref(), &key).await?.map(|(user, _)| user);
            let user = match (mode, &before) {
                (Mode::Create, Some(_)) => return Err(Error::Exists(Kind::User, name.clone())),
                (Mode::Update, None) => return Err(Error::Unknown(Kind::User, name.clone())),
                (Mode::Update, Some(user)) => user.clone(),
                (Mode::Create | Mode::Replace, _) => self.blank_user(before.as_ref()).await?,
            };
            let user = apply(user, change, password_hash.clone())?;
            for group in &user.groups {
                self.find::<Group>(keys::group(group), Kind::Group, group).await?;
                batch.put(keys::member(group, name), Bytes::new());
            }
            if let Some(before) = &before {
                for left in before.groups.difference(&user.groups) {
                    batch.delete(keys::member(left, name));
                }
                if is_acting_admin(before) && !is_acting_admin(&user) {
                    self.require_another_admin(name).await?;
                }
            }
            batch.put_record(key, &user);
            Ok(batch)
        })
        .await
    }

    /// A user with nothing but defaults: groups that everybody joins, and what an old one of that name must not inherit.
    async fn blank_user(&self, before: Option<&User>) -> Result<User> {
        let mut groups = BTreeSet::new();
        if before.is_none() {
            for name in self.groups().await? {
                if self.group(&name).await?.auto_join {
                    groups.insert(name);
                }
            }
        }
        let created_ms = before.map_or_else(|| self.clock.now_ms(), |user| user.created_ms);
        // Replacing a user without giving a password keeps the one it has, as Artifactory does.
        let password_hash = before.and_then(|user| user.password_hash.clone());
        let generation = before.map_or_else(random_u64, |user| Ok(user.generation))?;
        Ok(User { password_hash, admin: false, enabled: true, robot: false, email: String::new(), groups, generation, created_ms })
    }

    /// Deletes a user, its access tokens, its memberships and its mention in permission targets.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::LastAdmin`].
    pub async fn delete_user(&self, name: &AccountName) -> Result<()> {
        self.change(|| async {
            let mut batch = Batch::new().frees();
            let user = self.user(name).await?;
            if is_acting_admin(&user) {
                self.require_another_admin(name).await?;
            }
            batch.delete(keys::user(name));
            for group in &user.groups {
                batch.delete(keys::member(group, name));
            }
            let tokens = keys::access_tokens_of(name);
            self.each(&tokens, |key, _| {
                if let Some(id) = key.text_after(&tokens) {
                    batch.delete(key.clone()).delete(keys::access_token(id));
                }
            })
            .await?;
            self.edit_permissions(&mut batch, |permission| permission.users.remove(name).is_some()).await?;
            Ok(batch)
        })
        .await
    }

    /// A group.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn group(&self, name: &AccountName) -> Result<Group> {
        self.find(keys::group(name), Kind::Group, name).await
    }

    /// The names of all groups.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn groups(&self) -> Result<Vec<AccountName>> {
        self.names(&keys::groups()).await
    }

    /// The names of a group's members.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn members(&self, group: &AccountName) -> Result<Vec<AccountName>> {
        self.group(group).await?;
        self.names(&keys::members(group)).await
    }

    /// Creates or changes a group, and sets its members if they are given.
    ///
    /// # Errors
    /// [`Error::Unknown`] for the group or a member, [`Error::Exists`].
    pub async fn put_group(&self, name: &AccountName, mode: Mode, group: &Group, members: Option<&BTreeSet<AccountName>>) -> Result<()> {
        self.change(|| async {
            let mut batch = Batch::new();
            let is_there = self.store.get(&keys::group(name)).await?.is_some();
            match (mode, is_there) {
                (Mode::Create, true) => return Err(Error::Exists(Kind::Group, name.clone())),
                (Mode::Update, false) => return Err(Error::Unknown(Kind::Group, name.clone())),
                _ => {}
            }
            batch.put_record(keys::group(name), group);
            let Some(members) = members else { return Ok(batch) };
            let before: BTreeSet<AccountName> = self.names(&keys::members(name)).await?.into_iter().collect();
            for user in before.symmetric_difference(members) {
                let mut record = self.user(user).await?;
                if members.contains(user) {
                    record.groups.insert(name.clone());
                    batch.put(keys::member(name, user), Bytes::new());
                } else {
                    record.groups.remove(name);
                    batch.delete(keys::member(name, user));
                }
                batch.put_record(keys::user(user), &record);
            }
            Ok(batch)
        })
        .await
    }

    /// Deletes a group, its memberships and its mention in permission targets.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn delete_group(&self, name: &AccountName) -> Result<()> {
        self.change(|| async {
            let mut batch = Batch::new().frees();
            for user in self.members(name).await? {
                let mut record = self.user(&user).await?;
                record.groups.remove(name);
                batch.delete(keys::member(name, &user)).put_record(keys::user(&user), &record);
            }
            batch.delete(keys::group(name));
            self.edit_permissions(&mut batch, |permission| permission.groups.remove(name).is_some()).await?;
            Ok(batch)
        })
        .await
    }

    /// A permission target.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn permission(&self, name: &AccountName) -> Result<Permission> {
        self.find(keys::permission(name), Kind::Permission, name).await
    }

    /// The names of all permission targets.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn permissions(&self) -> Result<Vec<AccountName>> {
        self.names(&keys::permissions()).await
    }

    /// Creates or replaces a permission target.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a user or group, [`Error::Exists`], [`Error::Invalid`] for a pattern, a right or a repository key.
    pub async fn put_permission(&self, name: &AccountName, mode: Mode, permission: &Permission) -> Result<()> {
        check_permission(permission)?;
        self.change(|| async {
            let mut batch = Batch::new();
            let is_there = self.store.get(&keys::permission(name)).await?.is_some();
            match (mode, is_there) {
                (Mode::Create, true) => return Err(Error::Exists(Kind::Permission, name.clone())),
                (Mode::Update, false) => return Err(Error::Unknown(Kind::Permission, name.clone())),
                _ => {}
            }
            for user in permission.users.keys().filter(|user| user.as_str() != ANONYMOUS) {
                self.user(user).await?;
            }
            for group in permission.groups.keys() {
                self.group(group).await?;
            }
            batch.put_record(keys::permission(name), permission);
            Ok(batch)
        })
        .await
    }

    /// Deletes a permission target.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn delete_permission(&self, name: &AccountName) -> Result<()> {
        self.change(|| async {
            let mut batch = Batch::new().frees();
            self.permission(name).await?;
            batch.delete(keys::permission(name));
            Ok(batch)
        })
        .await
    }

    /// Commits the batch that `edit` makes, anew for as long as somebody else's change gets in between.
    pub(super) async fn change<F>(&self, edit: impl Fn() -> F) -> Result<()>
    where
        F: Future<Output = Result<Batch>>,
    {
        for _ in 0..ATTEMPTS_MAX {
            let revision = keys::access_revision();
            let seen = self.store.get(&revision).await?;
            let mut batch = edit().await?;
            batch.expect(revision.clone(), seen).put(revision, Bytes::copy_from_slice(&random_u64()?.to_be_bytes()));
            match self.store.commit(batch).await {
                Ok(()) => return Ok(()),
                Err(berth_storage::Error::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(crate::Error::TooContended.into())
    }

    async fn find<R: Record>(&self, key: Key, kind: Kind, name: &AccountName) -> Result<R> {
        let found = get_record::<R>(self.store.as_ref(), &key).await?;
        found.map(|(record, _)| record).ok_or_else(|| Error::Unknown(kind, name.clone()))
    }

    async fn names(&self, prefix: &Prefix) -> Result<Vec<AccountName>> {
        let mut names = Vec::new();
        self.each(prefix, |key, _| names.extend(key.text_after(prefix).and_then(|text| text.parse::<AccountName>().ok()))).await?;
        Ok(names)
    }

    /// Calls `look` with every entry of a group of keys.
    pub(super) async fn each(&self, prefix: &Prefix, mut look: impl FnMut(&Key, &Bytes)) -> Result<()> {
        let mut after = None;
        loop {
            let rows = self.store.scan(prefix, after.as_ref(), SCAN_ENTRIES).await?;
            rows.iter().for_each(|(key, value)| look(key, value));
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Puts every permission target into the batch that `edit` says it has changed.
    async fn edit_permissions(&self, batch: &mut Batch, edit: impl Fn(&mut Permission) -> bool) -> Result<()> {
        for name in self.permissions().await? {
            let mut permission = self.permission(&name).await?;
            if edit(&mut permission) {
                batch.put_record(keys::permission(&name), &permission);
            }
        }
        Ok(())
    }

    async fn require_another_admin(&self, name: &AccountName) -> Result<()> {
        for other in self.users().await?.iter().filter(|other| *other != name) {
            if is_acting_admin(&self.user(other).await?) {
                return Ok(());
            }
        }
        Err(Error::LastAdmin)
    }
}

fn is_acting_admin(user: &User) -> bool {
    user.admin && user.enabled
}

fn apply(user: User, change: &UserChange, password_hash: Option<String>) -> Result<User> {
    let robot = change.robot.unwrap_or(user.robot);
    if robot && password_hash.is_some() {
        return Err(Error::Invalid("a robot has no password: make it an access token".into()));
    }
    let enabled = change.enabled.unwrap_or(user.enabled);
    let ends_sessions = password_hash.is_some() || (user.enabled && !enabled);
    Ok(User {
        password_hash: if robot { None } else { password_hash.or(user.password_hash) },
        admin: change.admin.unwrap_or(user.admin),
        enabled,
        robot,
        email: change.email.clone().unwrap_or(user.email),
        groups: change.groups.clone().unwrap_or(user.groups),
        generation: if ends_sessions { random_u64()? } else { user.generation },
        created_ms: user.created_ms,
    })
}

fn check_permission(permission: &Permission) -> Result<()> {
    let lengths = [
        permission.repositories.len(),
        permission.includes.len(),
        permission.excludes.len(),
        permission.users.len(),
        permission.groups.len(),
    ];
    if lengths.into_iter().any(|length| length > PERMISSION_ENTRIES_MAX) {
        return Err(Error::Invalid(format!("a list in a permission target may have {PERMISSION_ENTRIES_MAX} entries")));
    }
    if permission.repositories.is_empty() {
        return Err(Error::Invalid("a permission target needs repositories; `ANY` stands for all".into()));
    }
    for repository in permission.repositories.iter().filter(|key| *key != ANY_REPOSITORY) {
        repository.parse::<RepositoryKey>().map_err(|error| Error::Invalid(format!("repository `{repository}`: {error}")))?;
    }
    for pattern in permission.includes.iter().chain(&permission.excludes) {
        pattern.parse::<Pattern>().map_err(|error| Error::Invalid(format!("pattern `{pattern}`: {error}")))?;
    }
    let check_rights = |rights: &BTreeMap<AccountName, String>| {
        rights.values().try_for_each(|letters| letters.parse::<Rights>().map(drop)).map_err(|error| Error::Invalid(error.to_string()))
    };
    check_rights(&permission.users)?;
    check_rights(&permission.groups)
}
