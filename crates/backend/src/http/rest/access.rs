//! Users, groups, permission targets, passwords and access tokens.

use berth_names::AccountName;
use berth_registry::Body;
use berth_registry::access::{Mode, UserChange};
use berth_storage::records::{Group, Permission};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::forms::{self, GroupForm, PasswordForm, PermissionForm, TokenForm, UserForm};
use super::openapi::names;
use super::{Noun, RestCall, bad, read_json, said};
use crate::http::errors;
use crate::http::respond::{Answer, json as json_answer};

type Outcome = Result<Answer, Answer>;

fn refused(error: berth_registry::access::Error) -> Answer {
    errors::of_access(&error)
}

/// A user, group or permission target, in a list.
#[derive(Serialize, JsonSchema)]
pub(super) struct Named {
    #[schemars(with = "names::AccountName")]
    name: AccountName,
    /// Where it can be read.
    uri: String,
    /// Of users: always `internal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    realm: Option<&'static str>,
}

pub(super) async fn list(call: &RestCall, noun: Noun) -> Outcome {
    let (names, path) = match noun {
        Noun::User => (call.access.users().await, "users"),
        Noun::Group => (call.access.groups().await, "groups"),
        Noun::Permission => (call.access.permissions().await, "permissions"),
    };
    let root = format!("{}/artifactory/api/security/{path}", call.view.origin);
    let realm = (noun == Noun::User).then_some(forms::INTERNAL);
    let entries: Vec<Named> =
        names.map_err(refused)?.into_iter().map(|name| Named { uri: format!("{root}/{name}"), name, realm }).collect();
    Ok(json_answer(StatusCode::OK, &entries))
}

pub(super) async fn get(call: &RestCall, noun: Noun, name: &AccountName) -> Outcome {
    let access = &call.access;
    Ok(match noun {
        Noun::User => json_answer(StatusCode::OK, &forms::user(name, &access.user(name).await.map_err(refused)?)),
        Noun::Group => {
            let (group, members) = (access.group(name).await.map_err(refused)?, access.members(name).await.map_err(refused)?);
            json_answer(StatusCode::OK, &forms::group(name, &group, &members))
        }
        Noun::Permission => json_answer(StatusCode::OK, &forms::permission(name, access.permission(name).await.map_err(refused)?)),
    })
}

pub(super) async fn put(call: &RestCall, noun: Noun, name: &AccountName, body: Body) -> Outcome {
    write(call, noun, name, body, Mode::Replace).await?;
    Ok(said(StatusCode::CREATED, String::new()))
}

pub(super) async fn post(call: &RestCall, noun: Noun, name: &AccountName, body: Body) -> Outcome {
    write(call, noun, name, body, Mode::Update).await?;
    Ok(said(StatusCode::OK, String::new()))
}

async fn write(call: &RestCall, noun: Noun, name: &AccountName, body: Body, mode: Mode) -> Result<(), Answer> {
    // A name in the body that is not the one in the path is a mistake of which either half could be meant.
    let same = |named: Option<&AccountName>| match named {
        Some(named) if named != name => Err(bad("the path and the body have different names")),
        _ => Ok(()),
    };
    // `?create=true` refuses to replace what is there. Whoever writes it another way must not be taken to mean the opposite.
    let mode = match (mode, call.query.get("create")) {
        (Mode::Replace, Some("true")) => Mode::Create,
        (Mode::Replace, Some(other)) if other != "false" => return Err(bad("create must be true or false")),
        (mode, _) => mode,
    };
    let access = &call.access;
    match noun {
        Noun::User => {
            let form: UserForm = read_json(call, body).await?;
            same(form.name.as_ref())?;
            access.put_user(name, mode, &form.into()).await.map_err(refused)
        }
        Noun::Group => {
            let form: GroupForm = read_json(call, body).await?;
            same(form.name.as_ref())?;
            let before = match mode {
                Mode::Update => Some(access.group(name).await.map_err(refused)?),
                Mode::Create | Mode::Replace => None,
            };
            let (description, auto_join) = before.map_or_else(Default::default, |group| (group.description, group.auto_join));
            let group = Group { description: form.description.unwrap_or(description), auto_join: form.auto_join.unwrap_or(auto_join) };
            access.put_group(name, mode, &group, form.user_names.as_ref()).await.map_err(refused)
        }
        Noun::Permission => {
            let form: PermissionForm = read_json(call, body).await?;
            same(form.name.as_ref())?;
            access.put_permission(name, mode, &Permission::from(form)).await.map_err(refused)
        }
    }
}

pub(super) async fn delete(call: &RestCall, noun: Noun, name: &AccountName) -> Outcome {
    let access = &call.access;
    let (done, what) = match noun {
        Noun::User => (access.delete_user(name).await, "user"),
        Noun::Group => (access.delete_group(name).await, "group"),
        Noun::Permission => (access.delete_permission(name).await, "permission target"),
    };
    done.map_err(refused)?;
    Ok(said(StatusCode::OK, format!("The {what} '{name}' has been removed successfully.")))
}

pub(super) async fn change_password(call: &RestCall, body: Body) -> Outcome {
    let form: PasswordForm = read_json(call, body).await?;
    let Some(own) = call.caller.account_name() else { return Err(bad("the operator has no password of its own")) };
    if form.user_name.as_ref().is_some_and(|named| named != own) {
        return Err(errors::rest(StatusCode::FORBIDDEN, "only one's own password can be changed here"));
    }
    if form.new_password2.as_ref().is_some_and(|again| *again != form.new_password) {
        return Err(bad("the new passwords are not the same"));
    }
    // Whoever has only found an open session or a token must not be able to lock the owner out.
    let is_owner = call.access.log_in(own.as_str(), &form.old_password, call.view.remote).await;
    match is_owner.map_err(|error| errors::of_rest(&error))? {
        Some(owner) if owner.access_token().is_none() => {}
        _ => return Err(errors::rest(StatusCode::FORBIDDEN, "the old password is wrong")),
    }
    let change = UserChange { password: Some(form.new_password), ..UserChange::default() };
    call.access.put_user(own, Mode::Update, &change).await.map_err(refused)?;
    Ok(said(StatusCode::OK, "Password has been successfully changed".to_owned()))
}

/// Whose tokens a request is about: one's own, or for an admin those of the user that it names.
fn owner<'a>(call: &'a RestCall, named: Option<&'a AccountName>) -> Result<&'a AccountName, Answer> {
    match (named, call.caller.account_name()) {
        (Some(named), own) if call.caller.is_admin() || own == Some(named) => Ok(named),
        (None, Some(own)) => Ok(own),
        (None, None) => Err(bad("say whose tokens are meant: `user`")),
        (Some(_), _) => Err(errors::rest(StatusCode::FORBIDDEN, "only an admin may manage somebody else's tokens")),
    }
}

fn named_in_query(call: &RestCall) -> Result<Option<AccountName>, Answer> {
    call.query.get("user").map(str::parse).transpose().map_err(|_| bad("user must be a user name"))
}

pub(super) async fn list_tokens(call: &RestCall) -> Outcome {
    let named = named_in_query(call)?;
    let tokens = call.access.tokens(owner(call, named.as_ref())?).await.map_err(refused)?;
    let entries: Vec<_> = tokens.into_iter().map(|(id, token)| forms::token(id, token)).collect();
    Ok(json_answer(StatusCode::OK, &entries))
}

pub(super) async fn create_token(call: &RestCall, body: Body) -> Outcome {
    // A limited token could otherwise make itself an unlimited one, and an ending one live for ever.
    if call.caller.access_token().is_some() {
        return Err(errors::rest(StatusCode::FORBIDDEN, "an access token can't make another one: use a password"));
    }
    let form: TokenForm = read_json(call, body).await?;
    let named = form.user.clone();
    let owner = owner(call, named.as_ref())?;
    let made = call.access.create_token(owner, &form.into()).await.map_err(refused)?;
    Ok(json_answer(StatusCode::CREATED, &forms::new_token(owner, &made)))
}

pub(super) async fn revoke_token(call: &RestCall, id: &str) -> Outcome {
    let named = named_in_query(call)?;
    call.access.revoke_token(owner(call, named.as_ref())?, id).await.map_err(refused)?;
    Ok(said(StatusCode::OK, format!("The token '{id}' has been revoked.")))
}
