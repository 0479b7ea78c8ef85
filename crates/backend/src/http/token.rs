//! Docker's token service: `GET` and `POST /v2/token`, the challenge that sends clients there, and V1's tokens.

use std::time::{Duration, UNIX_EPOCH};

use berth_names::{ImageName, RepositoryKey};
use berth_registry::access::{Access, Audience, Caller, Grant, Grants, Issued, Right, Rights, TokenUse};
use berth_registry::{Body, Challenge, Error, Repositories};
use http::StatusCode;
use http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::body::{Unreadable, read_limited};
use super::call::Call;
use super::credentials::{Credentials, Secret};
use super::errors;
use super::origin::ClientView;
use super::params::Query;
use super::place::Place;
use super::respond::{Answer, With, json};
use super::route::{Route, V2};

/// The largest form that is accepted, in bytes.
const FORM_BYTES_MAX: usize = 64 << 10;

/// Scopes in one request: docker asks for two, a client that mounts from everywhere for more.
const SCOPES_MAX: usize = 64;

/// What a request is for, as far as a token for it must say so.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) place: &'a Place,
    pub(crate) route: &'a Route,
    /// From where a blob is to be mounted, as the client wrote it.
    from: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(place: &'a Place, route: &'a Route, query: &'a Query) -> Self {
        let is_upload = matches!(route, Route::V2(V2::StartUpload { .. }));
        Self { place, route, from: query.get("mount").filter(|_| is_upload).and_then(|_| query.get("from")) }
    }

    /// The image from which a blob is to be mounted, and its repository, if there could be such an image.
    pub(crate) fn source(&self) -> Option<(RepositoryKey, ImageName)> {
        self.place.image_named(self.from?)
    }

    /// What a token must be asked for.
    fn scope(&self) -> Option<String> {
        let scope = scope_of(self.place, self.route)?;
        // A name that is one is as it was written.
        let from = self.from.filter(|_| self.source().is_some());
        Some(from.map_or_else(|| scope.clone(), |from| format!("{scope} repository:{from}:pull")))
    }
}

/// Adds how to log in to a refusal over V2.
pub(crate) fn challenge(answer: Answer, how: Challenge, view: &ClientView, wanted: Option<Wanted<'_>>, error: Option<&str>) -> Answer {
    if how == Challenge::Basic {
        return answer.with(WWW_AUTHENTICATE, errors::BASIC_CHALLENGE);
    }
    let mut text = format!("Bearer realm=\"{}{}v2/token\",service=\"{}\"", view.origin, view.root(), view.origin.authority());
    if let Some(scope) = wanted.and_then(|wanted| wanted.scope()) {
        text += &format!(",scope=\"{scope}\"");
    }
    if let Some(error) = error {
        text += &format!(",error=\"{error}\"");
    }
    answer.with(WWW_AUTHENTICATE, text)
}

/// The detail of a refusal, as docker's own registry gives it: what would have been needed, one entry for each action.
pub(crate) fn detail(wanted: Option<Wanted<'_>>) -> Value {
    let scopes = wanted.and_then(|wanted| wanted.scope()).unwrap_or_default();
    let needed = scopes.split(' ').filter_map(|scope| {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        Some(actions.split(',').map(move |action| json!({ "Type": kind, "Class": "", "Name": name, "Action": action })))
    });
    needed.flatten().collect()
}

/// What a token for the route must be asked for.
fn scope_of(place: &Place, route: &Route) -> Option<String> {
    let Route::V2(route) = route else { return None };
    let (image, actions) = match route {
        V2::Base | V2::Token => return None,
        V2::Catalog => return Some("registry:catalog:*".to_owned()),
        V2::Tags { image } | V2::GetManifest { image, .. } | V2::GetBlob { image, .. } | V2::Referrers { image, .. } => (image, "pull"),
        V2::PutManifest { image, .. }
        | V2::StartUpload { image }
        | V2::UploadStatus { image, .. }
        | V2::AppendUpload { image, .. }
        | V2::FinishUpload { image, .. }
        | V2::CancelUpload { image, .. } => (image, "pull,push"),
        V2::DeleteManifest { image, .. } | V2::DeleteBlob { image, .. } => (image, "delete"),
    };
    Some(format!("repository:{}:{actions}", place.name_of(image)))
}

/// What a client asks a token for, and with what.
struct Request {
    credentials: Credentials,
    refresh_token: Option<Secret>,
    wants_refresh_token: bool,
    grants: Grants,
}

/// Who asks for a token, and what that request said besides.
pub(crate) struct Asking<'a> {
    pub(crate) access: &'a Access,
    pub(crate) view: &'a ClientView,
    pub(crate) place: &'a Place,
    /// Those that there are: in any other, a token is good for nothing.
    pub(crate) repositories: &'a Repositories,
}

/// What became of a request for a token.
pub(crate) struct Served {
    pub(crate) answer: Answer,
    /// Who got it.
    pub(crate) caller: Option<Caller>,
    /// What was shown for it, be it in the head or in the form.
    pub(crate) shown: Credentials,
}

/// Answers a request for a token: `form` is the body of a `POST`.
pub(crate) async fn serve(asking: &Asking<'_>, credentials: Credentials, query: &Query, form: Option<Body>) -> Served {
    let request = match form {
        Some(body) => match read_form(body, credentials.clone(), asking.place).await {
            Ok(request) => request,
            Err(refused) => return Served { answer: refused, caller: None, shown: credentials },
        },
        None => Request {
            credentials,
            refresh_token: None,
            wants_refresh_token: query.get("offline_token") == Some("true"),
            grants: parse_scopes(query.get("scope").unwrap_or_default(), asking.place),
        },
    };
    let shown = request.refresh_token.clone().map_or_else(|| request.credentials.clone(), Credentials::Bearer);
    let audience = asking.place.audience(&asking.view.origin);
    let caller = match identify(asking, &request, &audience).await {
        Ok(Some(caller)) => caller,
        Ok(None) => {
            let refused = errors::of_token_service(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "wrong user name, password or token");
            return Served { answer: refused.with(WWW_AUTHENTICATE, errors::BASIC_CHALLENGE), caller: None, shown };
        }
        Err(error) => return Served { answer: errors::of_token(&error), caller: None, shown },
    };
    let answer = issue(asking, &caller, &audience, request).await.unwrap_or_else(|error| errors::of_token(&error));
    Served { answer, caller: Some(caller), shown }
}

async fn identify(asking: &Asking<'_>, request: &Request, audience: &Audience) -> Result<Option<Caller>, Error> {
    if let Some(token) = &request.refresh_token {
        return asking.access.caller_by_signed(token.as_str(), TokenUse::Refresh, audience).await;
    }
    match &request.credentials {
        Credentials::None => Ok(Some(Caller::anonymous())),
        Credentials::Basic(user, secret) => asking.access.log_in(user, secret.as_str(), asking.view.remote).await,
        Credentials::Bearer(secret) => asking.access.log_in_with_token(secret.as_str()).await,
        Credentials::V1Token(_) | Credentials::Invalid => Ok(None),
    }
}

async fn issue(asking: &Asking<'_>, caller: &Caller, audience: &Audience, request: Request) -> Result<Answer, Error> {
    let grants = asking.access.grantable(caller, asking.repositories, request.grants).await?;
    let issued = asking.access.issue(TokenUse::Access, caller, audience, &grants).await?;
    let Issued { text, issued_at_s, expires_in_s } = issued;
    let issued_at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(issued_at_s)).to_string();
    let mut answer = json!({ "token": text, "access_token": text, "expires_in": expires_in_s, "issued_at": issued_at });
    // Whoever refreshed keeps the token that it has; nobody refreshes being nobody.
    if let Some(kept) = request.refresh_token {
        answer["refresh_token"] = kept.as_str().into();
    } else if request.wants_refresh_token && !caller.is_anonymous() {
        answer["refresh_token"] = asking.access.issue(TokenUse::Refresh, caller, audience, &Grants::default()).await?.text.into();
    }
    Ok(json(StatusCode::OK, &answer).with(CACHE_CONTROL, "no-store"))
}

/// The OAuth2 form of docker 1.11 and later, containerd, and others.
async fn read_form(body: Body, credentials: Credentials, place: &Place) -> Result<Request, Answer> {
    let bad = |message: &str| errors::of_token_service(StatusCode::BAD_REQUEST, "UNSUPPORTED", message);
    let bytes = match read_limited(body, FORM_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(Unreadable::TooLarge) => {
            return Err(errors::of_token_service(StatusCode::PAYLOAD_TOO_LARGE, "UNSUPPORTED", "the form is too large"));
        }
        Err(Unreadable::Interrupted) => return Err(errors::of_token(&Error::Interrupted)),
    };
    let form =
        std::str::from_utf8(&bytes).ok().and_then(|text| Query::parse_form(text).ok()).ok_or_else(|| bad("the form can't be read"))?;
    let (credentials, refresh_token) = match form.get("grant_type") {
        Some("password") => {
            let (user, password) = (form.get("username").unwrap_or_default(), form.get("password").unwrap_or_default());
            let none = user.is_empty();
            (if none { Credentials::None } else { Credentials::Basic(user.to_owned(), Secret::new(password)) }, None)
        }
        Some("refresh_token") => {
            let token = form.get("refresh_token").ok_or_else(|| bad("refresh_token is missing"))?;
            (Credentials::None, Some(Secret::new(token)))
        }
        None => (credentials, None),
        Some(_) => return Err(bad("grant_type must be password or refresh_token")),
    };
    Ok(Request {
        credentials,
        refresh_token,
        wants_refresh_token: form.get("access_type") == Some("offline"),
        grants: parse_scopes(form.get("scope").unwrap_or_default(), place),
    })
}

/// What is asked for: `repository:<image>:<actions>` and `registry:catalog:*`, separated by blanks. A class behind the kind
/// makes no difference: docker 1.13 to 19.03 ask for `repository(plugin):…` to push a plugin. In front of an image's name
/// there may be the host and port that the client used, which belong to no name.
///
/// What can't be read is not granted, and is no error: clients ask for kinds of things that we don't have.
fn parse_scopes(text: &str, place: &Place) -> Grants {
    let mut grants = Grants::default();
    for scope in text.split(' ').filter(|scope| !scope.is_empty()).take(SCOPES_MAX) {
        let Some((kind, rest)) = scope.split_once(':') else { continue };
        let kind = kind.strip_suffix(')').and_then(|kind| kind.split_once('(')).map_or(kind, |(kind, _class)| kind);
        let Some((name, actions)) = rest.rsplit_once(':') else { continue };
        let name = name.split_once('/').filter(|(host, _)| has_port(host)).map_or(name, |(_, name)| name);
        match (kind, place.image_named(name)) {
            ("repository", Some((repository, image))) => {
                let rights = actions.split(',').fold(Rights::NONE, |rights, action| rights | rights_for(action));
                grants.images.push(Grant { repository, image, rights });
            }
            ("registry", _) if name == "catalog" => grants.catalog = true,
            _ => {}
        }
    }
    grants
}

/// Whether this is a host with a port, which no part of an image's name can be.
fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

fn rights_for(action: &str) -> Rights {
    match action {
        "pull" => Right::Read.into(),
        "push" => Right::Deploy.into(),
        "delete" => Right::Delete.into(),
        "*" => Rights::ALL,
        _ => Rights::NONE,
    }
}

/// A token for the rest of a V1 push or pull of one image. Being able to push includes being able to read.
pub(crate) async fn v1_token(call: &Call, image: &ImageName, writes: bool) -> Result<String, Error> {
    let read = Rights::from(Right::Read);
    let rights = if writes { read | Right::Deploy.into() } else { read };
    let (repository, image) = (call.repository.key.clone(), image.clone());
    let wanted = Grants { images: vec![Grant { repository, image, rights }], catalog: false };
    let grants = call.access.grantable(&call.caller, &*call.registry.repositories().await?, wanted).await?;
    let audience = call.place.audience(&call.view.origin);
    Ok(call.access.issue(TokenUse::V1, &call.caller, &audience, &grants).await?.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_strange_ones_grant_nothing() {
        let own = Place::Own("docker-local".parse().unwrap());
        let grants = parse_scopes("repository:team/app:pull,push registry:catalog:* repository:x:delete,fly", &own);
        assert!(grants.catalog);
        let seen: Vec<_> = grants.images.iter().map(|grant| (grant.image.as_str(), grant.rights.to_string())).collect();
        assert_eq!(seen, [("team/app", "rw".to_owned()), ("x", "d".to_owned())]);
        for strange in [
            "",
            "repository",
            "repository:UPPER:pull",
            "repository:a/../b:pull",
            "registry:other:*",
            "repository(:a:pull",
            "plugin(repository):a:pull",
            "repository:r.example:x/app:pull",
            "repository:r.example:444:pull",
            "a:b",
        ] {
            assert_eq!(parse_scopes(strange, &own), Grants::default(), "{strange}");
        }
        for (scope, image) in [
            ("repository(plugin):team/plug:pull,push", "team/plug"),
            ("repository():team/app:pull,push", "team/app"),
            ("repository:r.example:444/team/app:pull,push", "team/app"),
            ("repository(plugin):[::1]:444/app:pull,push", "app"),
        ] {
            let grants = parse_scopes(scope, &own);
            let seen: Vec<_> = grants.images.iter().map(|grant| (grant.image.as_str(), grant.rights.to_string())).collect();
            assert_eq!(seen, [(image, "rw".to_owned())], "{scope}");
        }
        let keyed = parse_scopes("repository:r.example:444/a/team/app:pull", &Place::All);
        assert_eq!(keyed.images[0].image.as_str(), "team/app");
        let grants = parse_scopes("repository:a/team/app:pull repository:b/x:push repository:alone:pull", &Place::All);
        let seen: Vec<_> = grants.images.iter().map(|grant| (grant.repository.as_str(), grant.image.as_str())).collect();
        assert_eq!(seen, [("a", "team/app"), ("b", "x")]);
    }
}
