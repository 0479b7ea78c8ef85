//! Everything that is decided before a handler runs: which repository, which route, who asks, and whether they may.

use std::borrow::Cow;
use std::sync::Arc;

use berth_names::{ApiVersion, Work, plain_path, wire};
use berth_registry::access::{Caller, Policy, Right, TokenUse};
use berth_registry::{Challenge, Error, Repositories, Repository};
use http::header::{AsHeaderName, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode};

use super::all::AllCall;
use super::call::{Call, announces_body};
use super::credentials::{Credentials, Secret};
use super::demand::{self, Denied};
use super::docker::Docker;
use super::held::{Arrival, Full, Held};
use super::origin::ClientView;
use super::params::Query;
use super::place::Place;
use super::respond::{Answer, With};
use super::route::{self, Api, Refusal, Route, V1, V2};
use super::token::Wanted;
use super::{Service, errors, head, rest, site, token, v2};
use crate::audit::Event;
use crate::server::Peer;

/// A request's head, taken apart as far as that needs no knowledge of what is stored.
pub(super) struct Head {
    pub(super) peer: Peer,
    pub(super) method: Method,
    pub(super) uri: http::Uri,
    pub(super) headers: HeaderMap,
    pub(super) credentials: Credentials,
}

impl Head {
    pub(super) fn new(peer: Peer, method: Method, uri: http::Uri, headers: HeaderMap) -> Self {
        let credentials = if peer == Peer::Operator { Credentials::None } else { Credentials::from_headers(&headers) };
        Self { peer, method, uri: plain(uri), headers, credentials }
    }
}

/// A target whose path is as it is read ([`plain_path`]), from here on and by everybody. One that can't be read in one way
/// stays as it came, and is refused.
fn plain(uri: http::Uri) -> http::Uri {
    let path = match plain_path(uri.path()) {
        Some(Cow::Owned(path)) => path,
        _ => return uri,
    };
    let target = uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = target.parse().ok();
    http::Uri::from_parts(parts).unwrap_or(uri)
}

/// A request that may go on.
pub(super) enum Prepared {
    Ping,
    LoggedIn,
    /// What methods the path has is asked for, and known.
    Options(Vec<&'static str>),
    Docker(Box<Call>, Route),
    All(Box<AllCall>),
    Token(Box<TokenRequest>),
    Rest(Box<rest::RestCall>),
}

/// A request for docker's APIs, as far as it is read.
struct Asked {
    method: Method,
    view: ClientView,
    headers: HeaderMap,
    query: Query,
    credentials: Credentials,
}

/// A request for a token, which looks at its credentials itself.
pub(super) struct TokenRequest {
    pub(super) place: Place,
    pub(super) repositories: Arc<Repositories>,
    pub(super) view: ClientView,
    pub(super) credentials: Credentials,
    pub(super) query: Query,
    pub(super) is_form: bool,
}

impl Service {
    /// Everything that is decided before a handler runs: which repository, which route, who asks, and whether they may.
    pub(super) async fn prepare(&self, head: Head, event: &mut Event, held: &mut Held) -> Result<Prepared, Box<Answer>> {
        let Head { peer, method, uri, headers, credentials } = head;
        head::check(&method, &uri, &headers)?;
        let target = route::target(uri.path()).map_err(|(api, refusal)| refuse(api, refusal))?;
        let api = target.api();
        let view = ClientView::new(peer, &self.trusted_proxies, &headers, target.root())
            .map_err(|_| in_form_of(api, StatusCode::BAD_REQUEST, "UNSUPPORTED", "exactly one valid Host header is needed"))?;
        event.comes_from(view.remote);
        let is_listed = api == Api::V2 && self.cors.as_ref().is_some_and(|cors| cors.lists(&headers));
        if !is_listed && site::is_foreign(&method, &headers, &view.origin) {
            return Err(in_form_of(api, StatusCode::FORBIDDEN, "DENIED", "a page of another site may change nothing here"));
        }
        let query =
            Query::parse(uri.query()).map_err(|_| in_form_of(api, StatusCode::BAD_REQUEST, "UNSUPPORTED", "the query can't be read"))?;
        if peer != Peer::Operator {
            // The form that asks for a token brings its credentials with it, and nobody has seen them yet.
            let is_token = matches!(&target, route::Target::Docker(target) if target.is_token());
            let is_form = is_token && method == Method::POST;
            let is_stranger = is_form || matches!(credentials, Credentials::None);
            let (has_body, work) = (announces_body(&headers), Work::of(method.as_str(), uri.path()));
            let arrival = Arrival { client: view.remote.address(), is_stranger, has_body, work };
            self.places.take(arrival, held).map_err(|full| too_many(api, is_token, full))?;
        }
        if method == Method::OPTIONS {
            let methods = wire::methods(uri.path());
            return if methods.is_empty() { Err(refuse(api, Refusal::NotFound)) } else { Ok(Prepared::Options(methods)) };
        }
        match &target {
            route::Target::Rest(_) | route::Target::Tree(_) | route::Target::Health(_) => {
                let caller = match peer {
                    Peer::Operator => {
                        event.caller = Some(Caller::operator().label().to_owned());
                        Caller::operator()
                    }
                    Peer::Unix | Peer::Tcp(_) => self.identify(None, Challenge::default(), &view, credentials, event).await?,
                };
                let route = rest::find(&target, &method).map_err(|refusal| refuse(Api::Rest, refusal))?;
                debug_assert_eq!(wire::effect(method.as_str(), uri.path()), Some(route.effect()), "{method} {uri}");
                if let rest::Rest::Browse(browse) = &route {
                    event.browses(browse.repository());
                }
                let (registry, access, audit) = (Arc::clone(&self.registry), self.access.clone(), self.audit.clone());
                let policy = access.policy().await.map_err(|error| Box::new(of(api, &error)))?;
                let (hide_unauthorized, backups) = (self.hide_unauthorized, self.backups.clone());
                let call =
                    rest::RestCall { registry, access, audit, caller, policy, hide_unauthorized, backups, view, headers, query, route };
                Ok(Prepared::Rest(Box::new(call)))
            }
            route::Target::Docker(target) => {
                let agrees = |route: Route| wire::effect(method.as_str(), uri.path()) == Some(route.effect());
                debug_assert!(target.route(&method).map_or(true, agrees), "{method} {uri}");
                let asked = Asked { method, view, headers, query, credentials };
                self.prepare_docker(target, asked, event).await
            }
        }
    }

    async fn prepare_docker(&self, target: &route::DockerTarget<'_>, asked: Asked, event: &mut Event) -> Result<Prepared, Box<Answer>> {
        let Asked { method, view, headers, query, credentials } = asked;
        let (api, place) = (target.api, target.place.clone());
        let repositories = self.registry.repositories().await.map_err(|error| Box::new(of(api, &error)))?;
        let repository = place.repository().and_then(|key| repositories.get(key)).map(Arc::clone);
        // At an address of all, one that speaks V1 is as good as not there.
        let repository = repository.filter(|repository| !place.is_of_all() || repository.api_version == ApiVersion::V2);
        if let (Api::V2, Some(ApiVersion::V1)) = (api, repository.as_ref().map(|repository| repository.api_version)) {
            return Err(Box::new(errors::v2_on_v1_repository(Docker::of(&headers))));
        }
        let mut route = target.route(&method).map_err(|refusal| refuse(api, refusal))?;
        if let (Some(repository), Route::V1(asked)) = (&repository, &mut route)
            && repository.api_version == ApiVersion::V2
            && let Some(image) = asked.image_mut()
        {
            *image = self.registry.viewed_name(&repository.key, image).await.map_err(|error| Box::new(of(api, &error)))?;
        }
        event.target(place.label(), &route);
        if route == Route::V2(V2::Token) {
            let request = TokenRequest { place, repositories, view, credentials, query, is_form: method == Method::POST };
            return Ok(Prepared::Token(Box::new(request)));
        }
        if route == Route::V1(V1::Ping) {
            return Ok(Prepared::Ping);
        }
        let how = challenge_at(&place, repository.as_deref());
        let caller = self.identify(Some((&place, &route)), how, &view, credentials, event).await?;
        let ask = Ask { how, error: token_error(&caller, &route, &headers) };
        if place == Place::All {
            let policy = self.access.policy().await.map_err(|error| Box::new(of(api, &error)))?;
            let (registry, user_agent) = (Arc::clone(&self.registry), first(&headers, USER_AGENT).unwrap_or_default().to_owned());
            let call = AllCall { registry, repositories, caller, policy, view, query, user_agent, lists: route == Route::V2(V2::Catalog) };
            return match call.decide() {
                Ok(()) => Ok(Prepared::All(Box::new(call))),
                Err(denied) => Err(Box::new(self.denial(denied, api, ask, &call.view, Wanted::new(&place, &route, &call.query)))),
            };
        }
        if repository.is_none() && route == Route::V2(V2::Base) && !caller.is_anonymous() && !caller.is_admin() {
            // What is not there looks like what the caller has no right in: logging in succeeds.
            return Ok(Prepared::LoggedIn);
        }
        let (policy, repository) = self.admit((api, ask), repository, &caller, Wanted::new(&place, &route, &query), &view).await?;
        if repository.api_version == ApiVersion::V2
            && let Route::V1(asked) = &route
        {
            v1_on_v2(&repository, asked)?;
        }
        let (registry, access, is_head) = (Arc::clone(&self.registry), self.access.clone(), method == Method::HEAD);
        let call = Call { registry, place, access, repository, caller, policy, view, headers, query, is_head };
        Ok(Prepared::Docker(Box::new(call), route))
    }

    /// The caller that the credentials make, or the refusal.
    async fn identify(
        &self,
        target: Option<(&Place, &Route)>,
        how: Challenge,
        view: &ClientView,
        credentials: Credentials,
        event: &mut Event,
    ) -> Result<Caller, Box<Answer>> {
        event.claims(&credentials);
        let api = match target {
            Some((_, Route::V1(_))) => Api::V1,
            Some((_, Route::V2(_))) => Api::V2,
            None => Api::Rest,
        };
        let signed = async |secret: &Secret, token_use| match target {
            Some((place, _)) => self.access.caller_by_signed(secret.as_str(), token_use, &place.audience(&view.origin)).await,
            None => Ok(None),
        };
        let found = match (&credentials, target.map(|(_, route)| route)) {
            (Credentials::None, _) => return Ok(Caller::anonymous()),
            (Credentials::Basic(user, secret), _) => self.access.log_in(user, secret.as_str(), view.remote).await,
            (Credentials::Bearer(secret), _) if secret.is_access_token() => self.access.log_in_with_token(secret.as_str()).await,
            // `docker search` is V1 even where everything else is V2.
            (Credentials::Bearer(secret), Some(Route::V2(_) | Route::V1(V1::Search))) => signed(secret, TokenUse::Access).await,
            (Credentials::V1Token(secret), Some(Route::V1(_))) => signed(secret, TokenUse::V1).await,
            (Credentials::Bearer(_) | Credentials::V1Token(_) | Credentials::Invalid, _) => Ok(None),
        };
        match found {
            Ok(Some(caller)) => {
                event.caller = Some(caller.label().to_owned());
                Ok(caller)
            }
            Ok(None) => {
                // An old token is to be replaced by a new one, not by asking the user again.
                let error = matches!(credentials, Credentials::Bearer(_)).then_some("invalid_token");
                Err(Box::new(unauthorized(api, Ask { how, error }, view, None, "wrong user name, password or token")))
            }
            Err(error) => Err(Box::new(of(api, &error))),
        }
    }

    /// The repository, if the caller may do there what the route demands.
    async fn admit(
        &self,
        (api, ask): (Api, Ask),
        repository: Option<Arc<Repository>>,
        caller: &Caller,
        wanted: Wanted<'_>,
        view: &ClientView,
    ) -> Result<(Arc<Policy>, Arc<Repository>), Box<Answer>> {
        let route = wanted.route;
        let policy = self.access.policy().await.map_err(|error| Box::new(of(api, &error)))?;
        let demand = demand::demand(route);
        let denied = match repository {
            Some(repository) => match demand::decide(demand, caller, &repository, &policy) {
                Ok(()) => match demand {
                    demand::Demand::Image(image, Right::Deploy) if !repository.takes(image) => {
                        return Err(Box::new(of(api, &Error::ImageNotTaken(image.clone()))));
                    }
                    _ if is_short_of_source(wanted, caller, &repository, &policy) => Denied::OtherToken,
                    _ => return Ok((policy, repository)),
                },
                Err(denied) => denied,
            },
            // What is not there looks like what the caller has no right in.
            None if caller.is_admin() => return Err(Box::new(errors::unknown_repository(api))),
            None if caller.is_anonymous() => Denied::LogIn,
            None => Denied::Hidden,
        };
        Err(Box::new(self.denial(denied, api, ask, view, wanted)))
    }

    /// What whoever may not go on hears.
    fn denial(&self, denied: Denied, api: Api, ask: Ask, view: &ClientView, wanted: Wanted<'_>) -> Answer {
        match denied {
            Denied::LogIn => unauthorized(api, ask, view, Some(wanted), "authentication required"),
            Denied::OtherToken => unauthorized(api, ask, view, Some(wanted), "the token was not issued for this"),
            Denied::Hidden if self.hide_unauthorized => demand::as_if_absent(wanted.route),
            Denied::Hidden | Denied::Forbidden => *in_form_of(api, StatusCode::FORBIDDEN, "DENIED", "you may not do this here"),
        }
    }
}

/// How whoever is refused is asked for credentials.
#[derive(Clone, Copy)]
struct Ask {
    how: Challenge,
    /// What is wrong with the token that was shown, in the words of RFC 6750.
    error: Option<&'static str>,
}

/// What a signed token is told that is not enough. Docker 1.13 to 17.05 take that for "not found" when they pull, and then
/// don't ask their user to log in, as they do if nothing is said.
fn token_error(caller: &Caller, route: &Route, headers: &HeaderMap) -> Option<&'static str> {
    if !caller.shows_signed_token() {
        return None;
    }
    let pulls = matches!(demand::demand(route), demand::Demand::Image(_, Right::Read));
    let mistakes = pulls && Docker::of(headers).is_some_and(|docker| (Docker(1, 13)..Docker(17, 6)).contains(&docker));
    (!mistakes).then_some("insufficient_scope")
}

/// Whether a token lacks what its account has: the right to read the image from which a blob is to be mounted. Whoever asked
/// for a token before it knew of the mount is told what to ask for; who may not read the source uploads.
fn is_short_of_source(wanted: Wanted<'_>, caller: &Caller, repository: &Repository, policy: &Policy) -> bool {
    let source = wanted.source().filter(|(key, _)| *key == repository.key);
    source.is_some_and(|(_, source)| {
        let may = |caller: &Caller| policy.rights(caller, repository, &source).has(Right::Read);
        !may(caller) && may(&caller.without_grants())
    })
}

/// How to ask for credentials. At an address of all repositories they must be asked for in one way, and only tokens let
/// some repositories be read without logging in and others not.
fn challenge_at(place: &Place, repository: Option<&Repository>) -> Challenge {
    if place.is_of_all() { Challenge::Bearer } else { repository.map(|repository| repository.challenge).unwrap_or_default() }
}

/// What a V1 client may ask of a V2 repository: to search it, and if the repository says so, to pull from it.
fn v1_on_v2(repository: &Repository, route: &V1) -> Result<(), Box<Answer>> {
    let key = &repository.key;
    if matches!(route, V1::Search) || (repository.serve_v1 && !route.effect().writes()) {
        return Ok(());
    }
    Err(Box::new(if repository.serve_v1 {
        errors::v1(StatusCode::FORBIDDEN, &format!("repository {key} takes pushes over V2 only; V1 clients can pull from it"))
    } else {
        errors::v1(StatusCode::NOT_FOUND, &format!("repository {key} speaks V2; this client speaks V1"))
    }))
}

/// What a request hears for which there is no place.
fn too_many(api: Api, is_token: bool, full: Full) -> Box<Answer> {
    let (status, code, message) = match full {
        Full::Client => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many requests at once: try again in a moment"),
        Full::Strangers => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the registry is busy: log in, or try again in a moment"),
    };
    let answer = if is_token { errors::of_token_service(status, code, message) } else { *in_form_of(api, status, code, message) };
    Box::new(answer.with(RETRY_AFTER, "1"))
}

fn first(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// An error in the form of the API that was called.
fn in_form_of(api: Api, status: StatusCode, code: &str, message: &str) -> Box<Answer> {
    Box::new(match api {
        Api::V1 => errors::v1(status, message),
        Api::V2 => errors::v2(status, code, message),
        Api::Rest => errors::rest(status, message),
    })
}

fn of(api: Api, error: &Error) -> Answer {
    match api {
        Api::V1 => errors::of_v1(error),
        Api::V2 => errors::of_v2(error),
        Api::Rest => errors::of_rest(error),
    }
}

fn unauthorized(api: Api, ask: Ask, view: &ClientView, wanted: Option<Wanted<'_>>, message: &str) -> Answer {
    if api == Api::V2 {
        let answer = errors::v2_with(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message, &token::detail(wanted));
        return token::challenge(answer, ask.how, view, wanted, ask.error).with(v2::API_VERSION, "registry/2.0");
    }
    in_form_of(api, StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message).with(WWW_AUTHENTICATE, errors::BASIC_CHALLENGE)
}

fn refuse(api: Api, refusal: Refusal) -> Box<Answer> {
    let (status, code, message) = match refusal {
        Refusal::UnsafePath => (StatusCode::BAD_REQUEST, "NAME_INVALID", "the path has escapes, empty or dot segments"),
        Refusal::NotFound => (StatusCode::NOT_FOUND, "UNSUPPORTED", "there is no such path"),
        Refusal::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the path does not have this method"),
        Refusal::InvalidName => (StatusCode::BAD_REQUEST, "NAME_INVALID", "the image name is invalid"),
        Refusal::InvalidTag => (StatusCode::BAD_REQUEST, "TAG_INVALID", "the tag is invalid"),
        Refusal::InvalidDigest => (StatusCode::BAD_REQUEST, "DIGEST_INVALID", "the digest is invalid or of an unknown algorithm"),
        Refusal::UnknownTarsum => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN", errors::NO_TARSUMS),
        Refusal::UnknownUpload => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "upload is not known"),
        Refusal::InvalidAccountName => {
            (StatusCode::BAD_REQUEST, "NAME_INVALID", "a name has lower-case letters, digits, '.', '_', '-' and '@'")
        }
        Refusal::InvalidRepositoryKey => {
            (StatusCode::BAD_REQUEST, "NAME_INVALID", "a repository's key has letters, digits, '.', '_' and '-'")
        }
        Refusal::UnknownV1Image => (StatusCode::NOT_FOUND, "UNSUPPORTED", "Image not found"),
        Refusal::NoImage => (StatusCode::NOT_FOUND, "NAME_UNKNOWN", "names begin with a repository here: <repository>/<image>"),
        Refusal::OnlyV2 => {
            (StatusCode::NOT_FOUND, "UNSUPPORTED", "this address has all repositories and speaks V2; V1 needs an address of its own")
        }
    };
    let answer = in_form_of(api, status, code, message);
    if api == Api::V2 { Box::new(answer.with(v2::API_VERSION, "registry/2.0")) } else { answer }
}
