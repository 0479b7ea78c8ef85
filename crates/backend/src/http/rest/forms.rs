//! The JSON of users, groups, permission targets and tokens. Artifactory's fields that mean nothing here are taken and
//! left aside only if they are known to be harmless; anything else is refused.

use std::collections::{BTreeMap, BTreeSet};

use berth_names::AccountName;
use berth_registry::access::{self, Rights, TokenWish, UserChange};
use berth_storage::records::{Group, Permission, TokenScope, User};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A user, as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UserForm {
    pub(super) name: Option<AccountName>,
    email: Option<String>,
    password: Option<String>,
    admin: Option<bool>,
    groups: Option<BTreeSet<AccountName>>,
    /// Ours: whether the user may log in.
    enabled: Option<bool>,
    /// Ours: a machine, which logs in with access tokens only.
    robot: Option<bool>,
    // Artifactory's, about its own user interface.
    #[serde(rename = "profileUpdatable")]
    _profile_updatable: Option<bool>,
    #[serde(rename = "disableUIAccess")]
    _disable_ui_access: Option<bool>,
    #[serde(rename = "internalPasswordDisabled")]
    _internal_password_disabled: Option<bool>,
    #[serde(rename = "realm")]
    _realm: Option<String>,
}

impl From<UserForm> for UserChange {
    fn from(form: UserForm) -> Self {
        let UserForm { email, password, admin, groups, enabled, robot, .. } = form;
        Self { password, admin, enabled, robot, email, groups }
    }
}

pub(super) fn user(name: &AccountName, user: &User) -> Value {
    json!({
        "name": name, "email": user.email, "admin": user.admin, "groups": user.groups, "enabled": user.enabled,
        "robot": user.robot, "realm": "internal", "profileUpdatable": !user.robot, "disableUIAccess": false,
        "internalPasswordDisabled": user.password_hash.is_none(),
    })
}

/// A group, as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GroupForm {
    pub(super) name: Option<AccountName>,
    pub(super) description: Option<String>,
    pub(super) auto_join: Option<bool>,
    /// Sets the members.
    pub(super) user_names: Option<BTreeSet<AccountName>>,
    #[serde(rename = "realm")]
    _realm: Option<String>,
    #[serde(rename = "realmAttributes")]
    _realm_attributes: Option<String>,
}

pub(super) fn group(name: &AccountName, group: &Group, members: &[AccountName]) -> Value {
    json!({
        "name": name, "description": group.description, "autoJoin": group.auto_join, "adminPrivileges": false,
        "realm": "internal", "userNames": members,
    })
}

/// A permission target, as it is sent and shown.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PermissionForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<AccountName>,
    /// Patterns, separated by commas.
    #[serde(default = "everything")]
    includes_pattern: String,
    #[serde(default)]
    excludes_pattern: String,
    repositories: BTreeSet<String>,
    #[serde(default)]
    principals: Principals,
}

fn everything() -> String {
    "**".to_owned()
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Principals {
    #[serde(default)]
    users: BTreeMap<AccountName, Vec<String>>,
    #[serde(default)]
    groups: BTreeMap<AccountName, Vec<String>>,
}

impl From<PermissionForm> for Permission {
    fn from(form: PermissionForm) -> Self {
        let patterns = |text: &str| text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        let letters = |rights: BTreeMap<AccountName, Vec<String>>| rights.into_iter().map(|(name, one)| (name, one.concat())).collect();
        Self {
            repositories: form.repositories,
            includes: patterns(&form.includes_pattern),
            excludes: patterns(&form.excludes_pattern),
            users: letters(form.principals.users),
            groups: letters(form.principals.groups),
        }
    }
}

pub(super) fn permission(name: &AccountName, permission: Permission) -> PermissionForm {
    let spread = |rights: BTreeMap<AccountName, String>| {
        let letters = |text: String| text.parse::<Rights>().unwrap_or_default().letters().map(String::from).collect();
        rights.into_iter().map(|(name, text)| (name, letters(text))).collect()
    };
    PermissionForm {
        name: Some(name.clone()),
        includes_pattern: permission.includes.join(","),
        excludes_pattern: permission.excludes.join(","),
        repositories: permission.repositories,
        principals: Principals { users: spread(permission.users), groups: spread(permission.groups) },
    }
}

/// One's own password, anew: in Artifactory's words, or in fewer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PasswordForm {
    pub(super) user_name: Option<AccountName>,
    pub(super) old_password: String,
    #[serde(alias = "newPassword1")]
    pub(super) new_password: String,
    pub(super) new_password2: Option<String>,
}

/// An access token that is wished for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TokenForm {
    /// Whose; only an admin may ask for somebody else's. Default: one's own.
    pub(super) user: Option<AccountName>,
    #[serde(default)]
    description: String,
    scope: Option<Vec<ScopeForm>>,
    /// Seconds.
    expires_in: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeForm {
    repository: String,
    #[serde(default = "everything")]
    images: String,
    rights: String,
}

impl From<TokenForm> for TokenWish {
    fn from(form: TokenForm) -> Self {
        let scope = form.scope.map(|scope| {
            scope.into_iter().map(|ScopeForm { repository, images, rights }| TokenScope { repository, images, rights }).collect()
        });
        Self { description: form.description, scope, expires_in_s: form.expires_in }
    }
}

pub(super) fn token(id: &str, token: berth_storage::records::AccessToken) -> Value {
    let scope = token.scope.map(|scope| {
        scope.into_iter().map(|TokenScope { repository, images, rights }| ScopeForm { repository, images, rights }).collect::<Vec<_>>()
    });
    json!({
        "id": id, "user": token.owner, "description": token.description, "scope": scope,
        "createdMs": token.created_ms, "expiresMs": token.expires_ms,
    })
}

pub(super) fn new_token(owner: &AccountName, made: &access::NewToken) -> Value {
    json!({ "id": made.id, "user": owner, "token": made.text, "expiresMs": made.expires_ms })
}
