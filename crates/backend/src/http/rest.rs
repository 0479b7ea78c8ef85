//! Management over REST, in Artifactory's forms.

mod access;
mod forms;

use berth_names::AccountName;
use berth_registry::Body;
use berth_registry::access::{Access, Caller};
use http::header::WWW_AUTHENTICATE;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::body::{Unreadable, read_limited};
use super::errors;
use super::origin::ClientView;
use super::params::Query;
use super::respond::{Answer, With, json};
use super::route::Refusal;
use crate::audit::{Audit, PAGE_ENTRIES_MAX};

/// The largest body that is accepted, in bytes: a permission target with ten thousand names fits.
const BODY_BYTES_MAX: usize = 1 << 20;

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
}

/// A request, taken apart.
pub(crate) struct RestCall {
    pub(crate) access: Access,
    pub(crate) audit: Audit,
    pub(crate) caller: Caller,
    pub(crate) view: ClientView,
    pub(crate) query: Query,
    pub(crate) route: Rest,
}

/// Finds the route of a path behind `api/`.
pub(crate) fn route(path: &str, method: &Method) -> Result<Rest, Refusal> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let only = |allowed: Method, route: Rest| if *method == allowed { Ok(route) } else { Err(Refusal::MethodNotAllowed) };
    let path = path.strip_suffix('/').unwrap_or(path);
    if path == "audit" {
        return only(Method::GET, Rest::Audit);
    }
    let (noun, name) = match path.strip_prefix("security/").ok_or(Refusal::NotFound)?.split_once('/') {
        Some(("users", "authorization/changePassword")) => return only(Method::POST, Rest::ChangePassword),
        Some(("tokens", id)) => return only(Method::DELETE, Rest::RevokeToken(id.to_owned())),
        Some((noun, name)) => (noun, Some(name)),
        None => (&path["security/".len()..], None),
    };
    let noun = match noun {
        "users" => Noun::User,
        "groups" => Noun::Group,
        "permissions" => Noun::Permission,
        "tokens" if name.is_none() && method == Method::POST => return Ok(Rest::CreateToken),
        "tokens" if name.is_none() => return only(Method::GET, Rest::ListTokens),
        "password" if name.is_none() && method == Method::PUT => return Ok(Rest::ChangePassword),
        "password" if name.is_none() => return only(Method::POST, Rest::ChangePassword),
        _ => return Err(Refusal::NotFound),
    };
    let Some(name) = name else { return only(Method::GET, Rest::List(noun)) };
    let name = name.parse().map_err(|_| Refusal::InvalidAccountName)?;
    match *method {
        Method::GET => Ok(Rest::Get(noun, name)),
        Method::PUT => Ok(Rest::Put(noun, name)),
        Method::POST => Ok(Rest::Post(noun, name)),
        Method::DELETE => Ok(Rest::Delete(noun, name)),
        _ => Err(Refusal::MethodNotAllowed),
    }
}

/// What a route demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// To be an admin.
    Admin,
    /// To be a user: what one does is one's own.
    User,
}

fn demand(route: &Rest) -> Demand {
    match route {
        Rest::ChangePassword | Rest::ListTokens | Rest::CreateToken | Rest::RevokeToken(_) => Demand::User,
        Rest::List(_) | Rest::Get(..) | Rest::Put(..) | Rest::Post(..) | Rest::Delete(..) | Rest::Audit => Demand::Admin,
    }
}

/// Answers a request, if its caller may do what it asks.
pub(crate) async fn handle(call: &RestCall, body: Body) -> Answer {
    if call.caller.is_anonymous() {
        return errors::rest(StatusCode::UNAUTHORIZED, "authentication required").with(WWW_AUTHENTICATE, "Basic realm=\"Berth\"");
    }
    if demand(&call.route) == Demand::Admin && !call.caller.is_admin() {
        return errors::rest(StatusCode::FORBIDDEN, "only an admin may do this, with a password or a token without limits");
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
    };
    outcome.unwrap_or_else(|refused| refused)
}

/// Reads a JSON body, in which nothing unknown may stand: what we don't know we can't do.
async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Answer> {
    let bytes = match read_limited(body, BODY_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(Unreadable::TooLarge) => return Err(errors::rest(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")),
        Err(Unreadable::Interrupted) => return Err(errors::of_rest(&berth_registry::Error::Interrupted)),
    };
    serde_json::from_slice(&bytes).map_err(|error| errors::rest(StatusCode::BAD_REQUEST, &format!("the body is not as expected: {error}")))
}

async fn audit(call: &RestCall) -> Result<Answer, Answer> {
    let bad = |message: &str| errors::rest(StatusCode::BAD_REQUEST, message);
    let limit = match call.query.get("limit").map(str::parse::<usize>) {
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
