//! The JSON of users, groups, permission targets and tokens. Artifactory's fields that mean nothing here are taken and
//! left aside only if they are known to be harmless; anything else is refused.

use std::collections::{BTreeMap, BTreeSet};

use berth_names::AccountName;
use berth_registry::access::{self, Rights, TokenWish, UserChange};
use berth_storage::records::{AccessToken, Group, Permission, TokenScope, User};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::openapi::{add_properties, names};

/// Where users and groups are kept, in Artifactory's words.
pub(super) const INTERNAL: &str = "internal";

/// A user, as it is sent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UserForm {
    /// The same as in the path, if it is there.
    #[schemars(with = "Option<names::AccountName>")]
    pub(super) name: Option<AccountName>,
    email: Option<String>,
    password: Option<String>,
    admin: Option<bool>,
    #[schemars(with = "Option<BTreeSet<names::AccountName>>")]
    groups: Option<BTreeSet<AccountName>>,
    /// Whether the user may log in.
    enabled: Option<bool>,
    /// Whether it is a machine, which logs in with access tokens only.
    robot: Option<bool>,
    // Artifactory's, about its own user interface: taken and left aside.
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

/// A user, as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "User")]
pub(super) struct ShownUser<'u> {
    #[schemars(with = "names::AccountName")]
    name: &'u AccountName,
    email: &'u str,
    admin: bool,
    #[schemars(with = "BTreeSet<names::AccountName>")]
    groups: &'u BTreeSet<AccountName>,
    /// Whether the user may log in.
    enabled: bool,
    /// Whether it is a machine, which logs in with access tokens only.
    robot: bool,
    /// Always `internal`.
    realm: &'static str,
    profile_updatable: bool,
    #[serde(rename = "disableUIAccess")]
    disable_ui_access: bool,
    internal_password_disabled: bool,
}

pub(super) fn user<'u>(name: &'u AccountName, user: &'u User) -> ShownUser<'u> {
    ShownUser {
        name,
        email: &user.email,
        admin: user.admin,
        groups: &user.groups,
        enabled: user.enabled,
        robot: user.robot,
        realm: INTERNAL,
        profile_updatable: !user.robot,
        disable_ui_access: false,
        internal_password_disabled: user.password_hash.is_none(),
    }
}

/// A group, as it is sent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GroupForm {
    /// The same as in the path, if it is there.
    #[schemars(with = "Option<names::AccountName>")]
    pub(super) name: Option<AccountName>,
    pub(super) description: Option<String>,
    /// Whether new users become members.
    pub(super) auto_join: Option<bool>,
    /// Sets the members.
    #[schemars(with = "Option<BTreeSet<names::AccountName>>")]
    pub(super) user_names: Option<BTreeSet<AccountName>>,
    #[serde(rename = "realm")]
    _realm: Option<String>,
    #[serde(rename = "realmAttributes")]
    _realm_attributes: Option<String>,
}

/// A group, as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Group")]
pub(super) struct ShownGroup<'g> {
    #[schemars(with = "names::AccountName")]
    name: &'g AccountName,
    description: &'g str,
    /// Whether new users become members.
    auto_join: bool,
    /// Always `false`: a user is an admin, a group is not.
    admin_privileges: bool,
    /// Always `internal`.
    realm: &'static str,
    #[schemars(with = "Vec<names::AccountName>")]
    user_names: &'g [AccountName],
}

pub(super) fn group<'g>(name: &'g AccountName, group: &'g Group, members: &'g [AccountName]) -> ShownGroup<'g> {
    ShownGroup {
        name,
        description: &group.description,
        auto_join: group.auto_join,
        admin_privileges: false,
        realm: INTERNAL,
        user_names: members,
    }
}

/// A permission target, as it is sent and shown.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(rename = "Permission")]
pub(super) struct PermissionForm {
    /// The same as in the path, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<names::AccountName>")]
    pub(super) name: Option<AccountName>,
    /// Patterns of image names, separated by commas.
    #[serde(default = "everything")]
    includes_pattern: String,
    /// Patterns of image names, separated by commas.
    #[serde(default)]
    excludes_pattern: String,
    /// Keys of repositories, or `ANY`.
    repositories: BTreeSet<String>,
    #[serde(default)]
    principals: Principals,
}

fn everything() -> String {
    "**".to_owned()
}

/// Who has which rights: letters `r` read, `w` deploy, `n` annotate, `d` delete, `m` manage.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Principals {
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    users: BTreeMap<AccountName, Vec<String>>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
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
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(transform = under_either_name)]
pub(super) struct PasswordForm {
    /// One's own, if it is there.
    #[schemars(with = "Option<names::AccountName>")]
    pub(super) user_name: Option<AccountName>,
    pub(super) old_password: String,
    #[serde(alias = "newPassword1")]
    pub(super) new_password: String,
    /// The new password again, if it is there.
    pub(super) new_password2: Option<String>,
}

/// Serde's second name for a field, of which a derived schema knows nothing.
fn under_either_name(schema: &mut Schema) {
    add_properties(schema, ["newPassword1"], &json!({ "type": "string", "description": "The same as `newPassword`." }));
    schema.insert("required".to_owned(), json!(["oldPassword"]));
    schema.insert("oneOf".to_owned(), json!([{ "required": ["newPassword"] }, { "required": ["newPassword1"] }]));
}

/// An access token that is wished for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TokenForm {
    /// Whose; only an admin may ask for somebody else's. Default: one's own.
    #[schemars(with = "Option<names::AccountName>")]
    pub(super) user: Option<AccountName>,
    /// What it is for.
    #[serde(default)]
    description: String,
    /// What it may be used for, of what its owner may do. Default: everything.
    scope: Option<Vec<ScopeForm>>,
    /// After how many seconds it ends. Default: never.
    expires_in: Option<u64>,
}

/// Some repositories and images, and what may be done there.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TokenScope")]
struct ScopeForm {
    /// A repository's key, or `ANY`.
    repository: String,
    /// A pattern of image names.
    #[serde(default = "everything")]
    images: String,
    /// Letters: `r` read, `w` deploy, `n` annotate, `d` delete, `m` manage.
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

/// An access token, as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AccessToken")]
pub(super) struct ShownToken {
    id: String,
    /// Whose.
    #[schemars(with = "names::AccountName")]
    user: AccountName,
    description: String,
    /// What it may be used for, of what its owner may do; `null`: everything.
    scope: Option<Vec<ScopeForm>>,
    /// When it was made, in milliseconds since 1970.
    created_ms: u64,
    /// When it ends, in milliseconds since 1970; `null`: never.
    expires_ms: Option<u64>,
}

pub(super) fn token(id: String, token: AccessToken) -> ShownToken {
    let scope = token
        .scope
        .map(|scope| scope.into_iter().map(|TokenScope { repository, images, rights }| ScopeForm { repository, images, rights }).collect());
    let AccessToken { owner: user, description, created_ms, expires_ms, .. } = token;
    ShownToken { id, user, description, scope, created_ms, expires_ms }
}

/// An access token that was just made: the only time that it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "NewAccessToken")]
pub(super) struct ShownNewToken<'t> {
    id: &'t str,
    /// Whose.
    #[schemars(with = "names::AccountName")]
    user: &'t AccountName,
    /// The token: in place of the password, or as a bearer token.
    token: &'t str,
    /// When it ends, in milliseconds since 1970; `null`: never.
    expires_ms: Option<u64>,
}

pub(super) fn new_token<'t>(user: &'t AccountName, made: &'t access::NewToken) -> ShownNewToken<'t> {
    ShownNewToken { id: &made.id, user, token: &made.text, expires_ms: made.expires_ms }
}
