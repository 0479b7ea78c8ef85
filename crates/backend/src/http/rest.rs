//! Management over REST, in Artifactory's forms.

mod access;
mod backup;
mod browse;
mod forms;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod images;
mod job;
mod migration;
mod notation;
mod openapi;
mod promotion;
mod repositories;
mod search;
mod storage;
mod system;

use std::sync::Arc;

use berth_names::wire::Effect;
use berth_names::{AccountName, ApiVersion, ImageName, RepositoryKey};
use berth_registry::access::{Access, Caller, Policy, Right};
use berth_registry::v1::migration::JobId;
use berth_registry::{Body, Error, Registry, Repository};
use berth_storage::rocksdb::Backups;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, Method, StatusCode};
use serde::de::DeserializeOwned;

use super::body::{Unreadable, read_limited};
use super::errors;
use super::origin::ClientView;
use super::params::Query;
use super::respond::{Answer, With, json, whole};
use super::route::{Refusal, Target};
use super::site;
use crate::audit::{Audit, PAGE_ENTRIES_MAX};
pub(crate) use browse::Browse;
#[cfg(test)]
pub(crate) use openapi::{OperationName, document};

/// The largest body that is accepted, in bytes: a permission target with ten thousand names fits.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Values in it: ten thousand entries of a permission target with their rights.
const BODY_VALUES_MAX: usize = 100_000;

/// Entries of the audit log in one answer, if the client does not say how many.
const AUDIT_PAGE_DEFAULT: usize = 100;

/// What is managed by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noun {
    User,
    Group,
    Permission,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    List(Noun),
    Get(Noun, AccountName),
    /// Creates, or replaces as a whole.
    Put(Noun, AccountName),
    /// Changes what is given.
    Post(Noun, AccountName),
    Delete(Noun, AccountName),
    /// One's own password.
    ChangePassword,
    ListTokens,
    CreateToken,
    RevokeToken(String),
    Audit,
    ListRepositories,
    GetRepository(RepositoryKey),
    CreateRepository(RepositoryKey),
    UpdateRepository(RepositoryKey),
    DeleteRepository(RepositoryKey),
    SystemPing,
    SystemVersion,
    /// Images from one repository to another.
    Promote(ApiVersion, RepositoryKey),
    /// V1 images into a V2 repository.
    Migrate(RepositoryKey),
    /// What tags of a repository were migrated from.
    Receipts(RepositoryKey),
    ListJobs,
    GetJob(JobId),
    /// What is stored.
    Browse(Browse),
    /// What cleanup has removed.
    Freed,
    /// Cleanup, now.
    CollectGarbage,
    /// A backup, now.
    MakeBackup,
    /// How far the present backup is.
    BackupProgress,
    /// The description of all this.
    Description,
    /// Whether the process runs.
    Alive,
    /// Whether it can answer.
    Ready,
}

/// A request, taken apart.
pub(crate) struct RestCall {
    pub(crate) registry: Arc<Registry>,
    pub(crate) access: Access,
    pub(crate) audit: Audit,
    pub(crate) caller: Caller,
    pub(crate) policy: Arc<Policy>,
    pub(crate) hide_unauthorized: bool,
    pub(crate) backups: Backups,
    pub(crate) view: ClientView,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) route: Rest,
}

/// Finds the route of a path that is none of docker's.
pub(crate) fn find(target: &Target<'_>, method: &Method) -> Result<Rest, Refusal> {
    match target {
        Target::Rest(path) => route(path, method),
        Target::Tree(path) => browse::tree(path, method),
        Target::Health(path) => health(path, method),
        Target::Docker(_) => Err(Refusal::NotFound),
    }
}

/// Finds the route of a path behind `api/`.
fn route(path: &str, method: &Method) -> Result<Rest, Refusal> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let path = path.strip_suffix('/').unwrap_or(path);
    match path.split_once('/').unwrap_or((path, "")) {
        ("security", rest) => security(method, rest),
        ("repositories", "") => only(method, Method::GET, Rest::ListRepositories),
        ("repositories", key) => repository(method, key),
        ("system", "ping") => only(method, Method::GET, Rest::SystemPing),
        ("system", "version") => only(method, Method::GET, Rest::SystemVersion),
        ("system", "storage/gc") if method == Method::POST => Ok(Rest::CollectGarbage),
        ("system", "storage/gc") => only(method, Method::GET, Rest::Freed),
        ("system", "backup") if method == Method::POST => Ok(Rest::MakeBackup),
        ("system", "backup") => only(method, Method::GET, Rest::BackupProgress),
        ("docker", rest) => docker(method, rest),
        ("storage", rest) => browse::storage(method, rest).map(Rest::Browse),
        ("search", rest) => browse::search(method, rest).map(Rest::Browse),
        ("openapi.json", "") => only(method, Method::GET, Rest::Description),
        ("audit", "") => only(method, Method::GET, Rest::Audit),
        _ => Err(Refusal::NotFound),
    }
}

fn only(method: &Method, allowed: Method, route: Rest) -> Result<Rest, Refusal> {
    if *method == allowed { Ok(route) } else { Err(Refusal::MethodNotAllowed) }
}

/// Health, at the root: whoever watches a service knows nothing of its API.
fn health(path: &str, method: &Method) -> Result<Rest, Refusal> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    match path {
        "/healthz" | "/healthz/ready" => only(method, Method::GET, Rest::Ready),
        "/healthz/live" => only(method, Method::GET, Rest::Alive),
        _ => Err(Refusal::NotFound),
    }
}

/// What can be done with a docker repository that no docker client does.
fn docker(method: &Method, path: &str) -> Result<Rest, Refusal> {
    let (key, action) = path.split_once('/').unwrap_or((path, ""));
    if key == "jobs" && !action.starts_with("v1/") && !action.starts_with("v2/") {
        let route = if action.is_empty() { Rest::ListJobs } else { Rest::GetJob(action.parse().map_err(|_| Refusal::NotFound)?) };
        return only(method, Method::GET, route);
    }
    let key = || key.parse::<RepositoryKey>().map_err(|_| Refusal::InvalidRepositoryKey);
    match action {
        "v1/promote" => only(method, Method::POST, Rest::Promote(ApiVersion::V1, key()?)),
        "v2/promote" => only(method, Method::POST, Rest::Promote(ApiVersion::V2, key()?)),
        "v1/migrate" => only(method, Method::POST, Rest::Migrate(key()?)),
        "v2/receipts" => only(method, Method::GET, Rest::Receipts(key()?)),
        action => browse::docker(method, action, key()?).map(Rest::Browse),
    }
}

fn repository(method: &Method, key: &str) -> Result<Rest, Refusal> {
    let key = key.parse().map_err(|_| Refusal::InvalidRepositoryKey)?;
    match *method {
        Method::GET => Ok(Rest::GetRepository(key)),
        Method::PUT => Ok(Rest::CreateRepository(key)),
        Method::POST => Ok(Rest::UpdateRepository(key)),
        Method::DELETE => Ok(Rest::DeleteRepository(key)),
        _ => Err(Refusal::MethodNotAllowed),
    }
}

fn security(method: &Method, path: &str) -> Result<Rest, Refusal> {
    let (noun, name) = match path.split_once('/') {
        Some(("users", "authorization/changePassword")) => return only(method, Method::POST, Rest::ChangePassword),
        Some(("tokens", id)) => return only(method, Method::DELETE, Rest::RevokeToken(id.to_owned())),
        Some((noun, name)) => (noun, Some(name)),
        None => (path, None),
    };
    let noun = match noun {
        "users" => Noun::User,
        "groups" => Noun::Group,
        "permissions" => Noun::Permission,
        "tokens" if name.is_none() && method == Method::POST => return Ok(Rest::CreateToken),
        "tokens" if name.is_none() => return only(method, Method::GET, Rest::ListTokens),
        "password" if name.is_none() && method == Method::PUT => return Ok(Rest::ChangePassword),
        "password" if name.is_none() => return only(method, Method::POST, Rest::ChangePassword),
        _ => return Err(Refusal::NotFound),
    };
    let Some(name) = name else { return only(method, Method::GET, Rest::List(noun)) };
    let name = name.parse().map_err(|_| Refusal::InvalidAccountName)?;
    match *method {
        Method::GET => Ok(Rest::Get(noun, name)),
        Method::PUT => Ok(Rest::Put(noun, name)),
        Method::POST => Ok(Rest::Post(noun, name)),
        Method::DELETE => Ok(Rest::Delete(noun, name)),
        _ => Err(Refusal::MethodNotAllowed),
    }
}

impl Rest {
    /// What it does, as [`berth_names::wire`] has it.
    pub(crate) fn effect(&self) -> Effect {
        match self {
            Self::SystemPing | Self::Alive | Self::Ready => Effect::Pings,
            Self::List(_)
            | Self::Get(..)
            | Self::ListTokens
            | Self::Audit
            | Self::ListRepositories
            | Self::GetRepository(_)
            | Self::SystemVersion
            | Self::Receipts(_)
            | Self::ListJobs
            | Self::GetJob(_)
            | Self::Freed
            | Self::BackupProgress
            | Self::Description => Effect::Reads,
            Self::Put(..)
            | Self::Post(..)
            | Self::Delete(..)
            | Self::ChangePassword
            | Self::CreateToken
            | Self::RevokeToken(_)
            | Self::CreateRepository(_)
            | Self::UpdateRepository(_)
            | Self::DeleteRepository(_)
            | Self::Promote(..)
            | Self::Migrate(_)
            | Self::CollectGarbage
            | Self::MakeBackup => Effect::Writes,
            Self::Browse(browse) => browse.effect(),
        }
    }
}

/// What a route demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// Nothing, or the handler shows each caller what it may see.
    Nothing,
    /// To be an admin.
    Admin,
    /// To be a user: what one does is one's own.
    User,
    /// To have the operator's own socket: what is done concerns the machine that the backend runs on.
    Operator,
}

fn demand(route: &Rest) -> Demand {
    match route {
        Rest::ListRepositories
        | Rest::GetRepository(_)
        | Rest::Promote(..)
        | Rest::Receipts(_)
        | Rest::Browse(_)
        | Rest::SystemPing
        | Rest::Description
        | Rest::Alive
        | Rest::Ready => Demand::Nothing,
        Rest::ChangePassword
        | Rest::ListTokens
        | Rest::CreateToken
        | Rest::RevokeToken(_)
        | Rest::SystemVersion
        | Rest::Migrate(_)
        | Rest::ListJobs
        | Rest::GetJob(_) => Demand::User,
        Rest::List(_)
        | Rest::Get(..)
        | Rest::Put(..)
        | Rest::Post(..)
        | Rest::Delete(..)
        | Rest::Audit
        | Rest::CreateRepository(_)
        | Rest::UpdateRepository(_)
        | Rest::DeleteRepository(_)
        | Rest::Freed
        | Rest::CollectGarbage => Demand::Admin,
        Rest::MakeBackup | Rest::BackupProgress => Demand::Operator,
    }
}

/// Answers a request, if its caller may do what it asks.
pub(crate) async fn handle(call: &RestCall, body: Body) -> Answer {
    match demand(&call.route) {
        Demand::Admin | Demand::User if call.caller.is_anonymous() => return log_in(),
        Demand::Admin if !call.caller.is_admin() => {
            return errors::rest(StatusCode::FORBIDDEN, "only an admin may do this, with a password or a token without limits");
        }
        Demand::Operator if !call.caller.is_operator() => {
            return errors::rest(StatusCode::FORBIDDEN, "only `berth-backend` may do this, on the machine that the backend runs on");
        }
        Demand::Nothing | Demand::User | Demand::Admin | Demand::Operator => {}
    }
    let outcome = match &call.route {
        Rest::List(noun) => access::list(call, *noun).await,
        Rest::Get(noun, name) => access::get(call, *noun, name).await,
        Rest::Put(noun, name) => access::put(call, *noun, name, body).await,
        Rest::Post(noun, name) => access::post(call, *noun, name, body).await,
        Rest::Delete(noun, name) => access::delete(call, *noun, name).await,
        Rest::ChangePassword => access::change_password(call, body).await,
        Rest::ListTokens => access::list_tokens(call).await,
        Rest::CreateToken => access::create_token(call, body).await,
        Rest::RevokeToken(id) => access::revoke_token(call, id).await,
        Rest::Audit => audit(call).await,
        Rest::ListRepositories => repositories::list(call).await,
        Rest::GetRepository(key) => repositories::get(call, key).await,
        Rest::CreateRepository(key) => repositories::create(call, key, body).await,
        Rest::UpdateRepository(key) => repositories::update(call, key, body).await,
        Rest::DeleteRepository(key) => repositories::delete(call, key).await,
        Rest::Promote(api_version, key) => promotion::promote(call, *api_version, key, body).await,
        Rest::Migrate(key) => migration::migrate(call, key, body).await,
        Rest::Receipts(key) => migration::receipts(call, key).await,
        Rest::ListJobs => migration::list(call).await,
        Rest::GetJob(id) => migration::get(call, id).await,
        Rest::Browse(browse) => browse::handle(call, browse).await,
        Rest::SystemPing => Ok(system::ping()),
        Rest::SystemVersion => Ok(system::version()),
        Rest::Freed => Ok(system::freed(call)),
        Rest::CollectGarbage => system::collect_garbage(call).await,
        Rest::MakeBackup => backup::make(call, body).await,
        Rest::BackupProgress => Ok(backup::progress(call)),
        Rest::Description => Ok(openapi::serve()),
        Rest::Alive => Ok(system::alive()),
        Rest::Ready => system::ready(call).await,
    };
    outcome.unwrap_or_else(|refused| refused)
}

/// What a stranger hears who could get further by logging in.
fn log_in() -> Answer {
    errors::rest(StatusCode::UNAUTHORIZED, "authentication required").with(WWW_AUTHENTICATE, errors::BASIC_CHALLENGE)
}

/// The repository, if the caller may know that it is there.
async fn seen_repository(call: &RestCall, key: &RepositoryKey) -> Result<Arc<Repository>, Answer> {
    let all = call.registry.repositories().await.map_err(refused)?;
    match all.get(key) {
        Some(repository) if call.caller.is_admin() || !call.policy.rights_somewhere(&call.caller, repository).is_empty() => {
            Ok(Arc::clone(repository))
        }
        _ if call.caller.is_anonymous() => Err(log_in()),
        Some(_) if !call.hide_unauthorized => Err(forbidden()),
        _ => Err(refused(Error::RepositoryUnknown(key.clone()))),
    }
}

/// Whether the caller may do something with an image.
fn may(call: &RestCall, repository: &Repository, image: &ImageName, right: Right) -> bool {
    call.policy.rights(&call.caller, repository, image).has(right)
}

/// Refuses a caller who may not do something with an image.
fn require(call: &RestCall, repository: &Repository, image: &ImageName, right: Right) -> Result<(), Answer> {
    if may(call, repository, image, right) {
        Ok(())
    } else if call.caller.is_anonymous() {
        Err(log_in())
    } else if call.hide_unauthorized && !may(call, repository, image, Right::Read) {
        Err(refused(Error::ImageUnknown(image.clone())))
    } else {
        Err(forbidden())
    }
}

fn forbidden() -> Answer {
    errors::rest(StatusCode::FORBIDDEN, "you may not do this here")
}

/// A refusal in this API's form.
fn bad(message: &str) -> Answer {
    errors::rest(StatusCode::BAD_REQUEST, message)
}

/// The registry's refusal in this API's form.
fn refused(error: berth_registry::Error) -> Answer {
    errors::of_rest(&error)
}

/// A sentence for a person.
fn said(status: StatusCode, text: String) -> Answer {
    whole(status, "text/plain; charset=utf-8", text.into())
}

/// Reads a JSON body, in which nothing unknown may stand: what we don't know we can't do. It must be said to be JSON, which
/// a page of another site can't say without asking us first.
async fn read_json<T: DeserializeOwned>(call: &RestCall, body: Body) -> Result<T, Answer> {
    if !site::is_json(&call.headers) {
        return Err(errors::rest(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON, with the header Content-Type: application/json"));
    }
    let bytes = match read_limited(body, BODY_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(Unreadable::TooLarge) => return Err(errors::rest(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")),
        Err(Unreadable::Interrupted) => return Err(errors::of_rest(&berth_registry::Error::Interrupted)),
    };
    if !berth_registry::is_sane_json(&bytes, BODY_VALUES_MAX) {
        return Err(bad("the body is not UTF-8, nested too deep, or of too many values"));
    }
    serde_json::from_slice(&bytes).map_err(|error| bad(&format!("the body is not as expected: {error}")))
}

async fn audit(call: &RestCall) -> Result<Answer, Answer> {
    let limit = match call.query.number("limit") {
        None => AUDIT_PAGE_DEFAULT,
        Some(Ok(limit)) if limit > 0 => limit.min(PAGE_ENTRIES_MAX),
        Some(_) => return Err(bad("limit must be a whole number above zero")),
    };
    let before =
        call.query.get("before").map(str::parse).transpose().map_err(|()| bad("before must be what an answer gave as `before`"))?;
    match call.audit.page(before, limit).await {
        Ok(page) => Ok(json(StatusCode::OK, &page)),
        Err(error) => {
            tracing::error!(%error, "the audit log could not be read");
            Err(errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_are_artifactorys() {
        let name: AccountName = "alice".parse().unwrap();
        for (method, path, expected) in [
            (Method::GET, "security/users", Ok(Rest::List(Noun::User))),
            (Method::HEAD, "security/users/", Ok(Rest::List(Noun::User))),
            (Method::PUT, "security/users/alice", Ok(Rest::Put(Noun::User, name.clone()))),
            (Method::POST, "security/groups/alice", Ok(Rest::Post(Noun::Group, name.clone()))),
            (Method::DELETE, "security/permissions/alice", Ok(Rest::Delete(Noun::Permission, name))),
            (Method::POST, "security/users/authorization/changePassword", Ok(Rest::ChangePassword)),
            (Method::PUT, "security/password", Ok(Rest::ChangePassword)),
            (Method::GET, "security/tokens", Ok(Rest::ListTokens)),
            (Method::POST, "security/tokens", Ok(Rest::CreateToken)),
            (Method::DELETE, "security/tokens/x", Ok(Rest::RevokeToken("x".into()))),
            (Method::GET, "audit", Ok(Rest::Audit)),
            (Method::PUT, "audit", Err(Refusal::MethodNotAllowed)),
            (Method::PATCH, "security/users/alice", Err(Refusal::MethodNotAllowed)),
            (Method::PUT, "security/users", Err(Refusal::MethodNotAllowed)),
            (Method::GET, "security/users/Alice", Err(Refusal::InvalidAccountName)),
            (Method::GET, "security/users/a/b", Err(Refusal::InvalidAccountName)),
            (Method::GET, "security", Err(Refusal::NotFound)),
            (Method::GET, "security/other", Err(Refusal::NotFound)),
            (Method::GET, "", Err(Refusal::NotFound)),
        ] {
            assert_eq!(route(path, &method), expected, "{method} {path}");
        }
    }
}
