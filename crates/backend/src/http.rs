//! Translation between HTTP and the registry, and nothing else.
//!
//! A request becomes a [`route::Route`], an [`origin::ClientView`] and a caller; [`demand`] decides whether it may go on;
//! one match hands it to a handler; a refusal becomes an answer in the form of the API that was called.

mod body;
mod call;
mod credentials;
mod demand;
mod errors;
mod origin;
mod params;
mod respond;
mod rest;
mod route;
mod token;
mod v1;
mod v2;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use berth_names::{ApiVersion, RepositoryKey};
use berth_registry::access::{Access, Caller, PasswordPolicy, TokenUse};
use berth_registry::{Body, Challenge, Clock, Error, Registry, Repository};
use berth_storage::rocksdb::Stores;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::audit::{Audit, Event};
use crate::config::{Config, Security, TrustedProxies};
use crate::server::Peer;
use body::ResponseBody;
use call::Call;
pub(crate) use credentials::{Credentials, Secret};
use demand::Denied;
use origin::ClientView;
use params::Query;
pub(crate) use respond::Answer;
use respond::With;
use route::{Api, Refusal, V1};
pub(crate) use route::{Route, V2};

/// Longest path that is looked at, in bytes.
const PATH_BYTES_MAX: usize = 2048;

/// The API over one registry.
#[derive(Clone)]
pub(crate) struct Service {
    registry: Arc<Registry>,
    access: Access,
    audit: Audit,
    trusted_proxies: Arc<TrustedProxies>,
    hide_unauthorized: bool,
}

/// A request's head, taken apart as far as that needs no knowledge of what is stored.
struct Head {
    peer: Peer,
    method: Method,
    uri: http::Uri,
    headers: HeaderMap,
}

/// An answer, and what the logs say about who got it.
struct Answered {
    answer: Answer,
    event: Event,
}

impl Service {
    /// The service that the configuration describes, and the thread that writes its audit log until the last clone of the
    /// service is dropped.
    pub(crate) fn open(config: &Config, (stores, registry): &(Stores, Registry)) -> anyhow::Result<(Self, std::thread::JoinHandle<()>)> {
        let Security { password_chars_min, breached_passwords, hide_unauthorized } = config.security.clone();
        let passwords = PasswordPolicy { chars_min: password_chars_min, breached: breached_passwords.map(Arc::new) };
        let access = Access::new(Arc::clone(&stores.metadata), Clock::system(), passwords)?;
        let directory = config.data_dir.join("audit");
        let (audit, writer) =
            Audit::open(&directory, &config.audit).with_context(|| format!("can't write the audit log in {}", directory.display()))?;
        let (registry, trusted_proxies) = (Arc::new(registry.clone()), Arc::new(config.trusted_proxies.clone()));
        Ok((Self { registry, access, audit, trusted_proxies, hide_unauthorized }, writer))
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Answers one request and writes its lines in the logs.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Answer {
        let (parts, incoming) = request.into_parts();
        let Some(peer) = parts.extensions.get::<Peer>().copied() else {
            // The server loop sets it on every request; without it nobody could be trusted.
            return errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
        };
        let head = Head { peer, method: parts.method, uri: parts.uri, headers: parts.headers };
        self.answer_head(head, body::incoming(incoming)).await
    }

    /// Answers a request of the operator's own, without a connection.
    pub(crate) async fn answer_operator(self, method: Method, uri: http::Uri, body: Body) -> Answer {
        let headers = HeaderMap::from_iter([(http::header::HOST, http::HeaderValue::from_static("localhost"))]);
        self.answer_head(Head { peer: Peer::Operator, method, uri, headers }, body).await
    }

    async fn answer_head(self, head: Head, body: Body) -> Answer {
        let begun = Instant::now();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let request_id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let reads_only = matches!(method, Method::GET | Method::HEAD);
        let audit = self.audit.clone();
        let work = self.dispatch(head, body);
        let Answered { answer, mut event } = if reads_only {
            work.await
        } else {
            // Once begun, a change is carried through even if the client goes away.
            tokio::spawn(work).await.unwrap_or_else(|died| {
                tracing::error!(%died, "a request died");
                Answered { answer: errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error"), event: Event::default() }
            })
        };
        let answer = if method == Method::HEAD { without_body(answer) } else { answer };
        let status = answer.status().as_u16();
        event.request(&method, &path, status, &request_id);
        tracing::info!(
            target: "access", %method, path, status, user = event.user(), client = event.client(),
            elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), request_id,
        );
        audit.record(event).await;
        answer
    }

    async fn dispatch(self, head: Head, body: Body) -> Answered {
        let mut event = Event::default();
        // A body that announced itself with Expect is sent only if we read it: being refused, we don't.
        let drains = !head.headers.contains_key(EXPECT);
        let answer = match self.prepare(head, &mut event).await {
            Ok(Prepared::Docker(call, route)) => match &route {
                Route::V1(route) => v1_handler(&call, route, body).await.unwrap_or_else(|error| errors::of_v1(&error)),
                Route::V2(route) => {
                    let answer = v2_handler(&call, route, body).await.unwrap_or_else(|error| errors::of_v2(&error));
                    answer.with(v2::API_VERSION, "registry/2.0")
                }
            },
            // Open to all, and the same wherever one asks: docker never sends credentials with it.
            Ok(Prepared::Ping) => v1::ping(),
            Ok(Prepared::Token(request)) => self.serve_token(*request, body, &mut event).await,
            Ok(Prepared::Rest(call)) => rest::handle(&call, body).await,
            Err(refused) => {
                if drains {
                    body::drain(body).await;
                    *refused
                } else {
                    refused.with(CONNECTION, "close")
                }
            }
        };
        Answered { answer, event }
    }

    /// Everything that is decided before a handler runs: which repository, which route, who asks, and whether they may.
    async fn prepare(&self, head: Head, event: &mut Event) -> Result<Prepared, Box<Answer>> {
        let Head { peer, method, uri, headers } = head;
        let path = uri.path();
        // A target that names another host than the header does is read one way here and another way elsewhere.
        if uri.authority().is_some_and(|named| single_host(&headers) != Some(named.as_str())) {
            return Err(Box::new(errors::rest(StatusCode::BAD_REQUEST, "the target and the Host header name different hosts")));
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(Box::new(errors::rest(StatusCode::URI_TOO_LONG, "the path is too long")));
        }
        let target = route::target(path).map_err(|(api, refusal)| refuse(api, refusal))?;
        let api = target.api();
        let view = ClientView::new(peer, &self.trusted_proxies, &headers, target.root())
            .map_err(|_| in_form_of(api, StatusCode::BAD_REQUEST, "UNSUPPORTED", "exactly one valid Host header is needed"))?;
        event.client = view.address;
        let query =
            Query::parse(uri.query()).map_err(|_| in_form_of(api, StatusCode::BAD_REQUEST, "UNSUPPORTED", "the query can't be read"))?;
        let credentials = if peer == Peer::Operator { Credentials::None } else { Credentials::from_headers(&headers) };
        let target = match target {
            route::Target::Rest(path) => {
                let caller = match peer {
                    Peer::Operator => {
                        event.caller = Some(Caller::operator().label().to_owned());
                        Caller::operator()
                    }
                    Peer::Unix | Peer::Tcp(_) => self.identify(None, &view, credentials, event).await?,
                };
                let route = rest::route(path, &method).map_err(|refusal| refuse(Api::Rest, refusal))?;
                let (access, audit) = (self.access.clone(), self.audit.clone());
                return Ok(Prepared::Rest(Box::new(rest::RestCall { access, audit, caller, view, query, route })));
            }
            route::Target::Docker(target) => target,
        };
        let repository = self.registry.repositories().find(&target.repository).ok().cloned();
        if let (Api::V2, Some(ApiVersion::V1)) = (api, repository.as_ref().map(|repository| repository.api_version)) {
            return Err(Box::new(errors::v2_on_v1_repository()));
        }
        let route = target.route(&method).map_err(|refusal| refuse(api, refusal))?;
        event.target(&target.repository, &route);
        if route == Route::V2(V2::Token) {
            let request = TokenRequest { key: target.repository, repository, view, credentials, query, is_form: method == Method::POST };
            return Ok(Prepared::Token(Box::new(request)));
        }
        if route == Route::V1(V1::Ping) {
            return Ok(Prepared::Ping);
        }
        let caller = self.identify(Some((&target.repository, &route)), &view, credentials, event).await?;
        let (policy, repository) = self.admit(api, repository, &caller, &route, &view).await?;
        if api == Api::V1 && repository.api_version == ApiVersion::V2 && !matches!(route, Route::V1(V1::Search)) {
            let message = format!("repository {} speaks V2; this client speaks V1", repository.key);
            return Err(Box::new(errors::v1(StatusCode::NOT_FOUND, &message)));
        }
        let (registry, access, is_head) = (Arc::clone(&self.registry), self.access.clone(), method == Method::HEAD);
        let call = Call { registry, access, repository, caller, policy, view, headers, query, is_head };
        Ok(Prepared::Docker(Box::new(call), route))
    }

    /// The caller that the credentials make, or the refusal.
    async fn identify(
        &self,
        target: Option<(&RepositoryKey, &Route)>,
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
            Some((key, _)) => self.access.caller_by_signed(secret.as_str(), token_use, &token::audience(view, key)).await,
            None => Ok(None),
        };
        let found = match (&credentials, target.map(|(_, route)| route)) {
            (Credentials::None, _) => return Ok(Caller::anonymous()),
            (Credentials::Basic(user, secret), _) => self.access.log_in(user, secret.as_str(), view.address).await,
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
                let how = target.and_then(|(key, _)| self.registry.repositories().find(key).ok()).map(|found| found.challenge);
                // An old token is to be replaced by a new one, not by asking the user again.
                let error = matches!(credentials, Credentials::Bearer(_)).then_some("invalid_token");
                Err(Box::new(unauthorized(api, how.unwrap_or_default(), view, None, error, "wrong user name, password or token")))
            }
            Err(error) => Err(Box::new(of(api, &error))),
        }
    }

    /// The repository, if the caller may do there what the route demands.
    async fn admit(
        &self,
        api: Api,
        repository: Option<Repository>,
        caller: &Caller,
        route: &Route,
        view: &ClientView,
    ) -> Result<(Arc<berth_registry::access::Policy>, Repository), Box<Answer>> {
        let policy = self.access.policy().await.map_err(|error| Box::new(of(api, &error)))?;
        let how = repository.as_ref().map(|repository| repository.challenge).unwrap_or_default();
        let demand = demand::demand(route);
        let denied = match repository {
            Some(repository) => match demand::decide(demand, caller, &repository, &policy) {
                Ok(()) => return Ok((policy, repository)),
                Err(denied) => denied,
            },
            // What is not there looks like what the caller has no right in.
            None if caller.is_admin() => return Err(Box::new(errors::unknown_repository(api))),
            None if caller.is_anonymous() => Denied::LogIn,
            None if demand == demand::Demand::Ping => Denied::Forbidden,
            None => Denied::Hidden,
        };
        Err(Box::new(match denied {
            Denied::LogIn => unauthorized(api, how, view, Some(route), None, "authentication required"),
            Denied::OtherToken => {
                unauthorized(api, how, view, Some(route), Some("insufficient_scope"), "the token was not issued for this")
            }
            Denied::Hidden if self.hide_unauthorized => demand::as_if_absent(route),
            Denied::Hidden | Denied::Forbidden => *in_form_of(api, StatusCode::FORBIDDEN, "DENIED", "you may not do this here"),
        }))
    }

    async fn serve_token(&self, request: TokenRequest, body: Body, event: &mut Event) -> Answer {
        let TokenRequest { key, repository, view, credentials, query, is_form } = request;
        event.claims(&credentials);
        let asking = token::Asking { access: &self.access, view: &view, key: &key, repository: repository.as_ref() };
        let served = token::serve(&asking, credentials, &query, is_form.then_some(body)).await;
        event.caller = served.caller.map(|caller| caller.label().to_owned());
        served.answer.with(v2::API_VERSION, "registry/2.0")
    }
}

/// A request that may go on.
enum Prepared {
    Ping,
    Docker(Box<Call>, Route),
    Token(Box<TokenRequest>),
    Rest(Box<rest::RestCall>),
}

/// A request for a token, which looks at its credentials itself.
struct TokenRequest {
    key: RepositoryKey,
    repository: Option<Repository>,
    view: ClientView,
    credentials: Credentials,
    query: Query,
    is_form: bool,
}

fn single_host(headers: &HeaderMap) -> Option<&str> {
    headers.get(http::header::HOST)?.to_str().ok()
}

async fn v1_handler(call: &Call, route: &V1, body: Body) -> Result<Answer, Error> {
    match route {
        V1::Ping => Ok(v1::ping()),
        // `docker login` up to 1.10 first tries to register. Credentials were checked: so the user exists.
        V1::CreateUser => Ok(v1::user_exists()),
        V1::GetUser => Ok(v1::user_is_valid()),
        V1::Search => v1::search(call).await,
        V1::PutRepository { image } => v1::put_repository(call, image, body).await,
        V1::GetRepositoryImages { image } => v1::get_repository_images(call, image).await,
        V1::PutRepositoryImages { image } => v1::put_repository_images(call, image, body).await,
        V1::GetProperties { image } => v1::get_properties(call, image).await,
        V1::GetRepositoryJson { image } => v1::get_repository_json(call, image).await,
        V1::GetTags { image } => v1::get_tags(call, image).await,
        V1::GetTag { image, tag } => v1::get_tag(call, image, tag).await,
        V1::PutTag { image, tag } => v1::put_tag(call, image, tag, body).await,
        V1::GetTagJson { image, tag } => v1::get_tag_json(call, image, tag).await,
        V1::GetImageJson { id } => v1::get_image_json(call, id).await,
        V1::PutImageJson { id } => v1::put_image_json(call, id, body).await,
        V1::GetLayer { id } => v1::get_layer(call, id).await,
        V1::PutLayer { id } => v1::put_layer(call, id, body).await,
        V1::PutChecksum { id } => v1::put_checksum(call, id).await,
        V1::GetAncestry { id } => v1::get_ancestry(call, id).await,
    }
}

async fn v2_handler(call: &Call, route: &V2, body: Body) -> Result<Answer, Error> {
    match route {
        // Tokens are served before there is a caller.
        V2::Base | V2::Token => Ok(v2::base()),
        V2::Catalog => v2::catalog(call).await,
        V2::Tags { image } => v2::tags(call, image).await,
        V2::GetManifest { image, reference } => v2::get_manifest(call, image, reference).await,
        V2::PutManifest { image, reference } => v2::put_manifest(call, image, reference, body).await,
        V2::DeleteManifest { image, reference } => v2::delete_manifest(call, image, reference).await,
        V2::GetBlob { image, digest } => v2::get_blob(call, image, digest).await,
        V2::DeleteBlob { image, digest } => v2::delete_blob(call, image, digest).await,
        V2::StartUpload { image } => v2::start_upload(call, image, body).await,
        V2::UploadStatus { image, id } => v2::upload_status(call, image, id).await,
        V2::AppendUpload { image, id } => v2::append_upload(call, image, id, body).await,
        V2::FinishUpload { image, id } => v2::finish_upload(call, image, id, body).await,
        V2::CancelUpload { image, id } => v2::cancel_upload(call, image, id).await,
        V2::Referrers { image, digest } => v2::referrers(call, image, digest).await,
    }
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

fn unauthorized(api: Api, how: Challenge, view: &ClientView, route: Option<&Route>, error: Option<&str>, message: &str) -> Answer {
    let answer = in_form_of(api, StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    match api {
        Api::V2 => token::challenge(*answer, how, view, route, error).with(v2::API_VERSION, "registry/2.0"),
        Api::V1 | Api::Rest => answer.with(WWW_AUTHENTICATE, "Basic realm=\"Berth\""),
    }
}

fn refuse(api: Api, refusal: Refusal) -> Box<Answer> {
    let (status, code, message) = match refusal {
        Refusal::UnsafePath => (StatusCode::BAD_REQUEST, "NAME_INVALID", "the path has escapes, empty or dot segments"),
        Refusal::NotFound => (StatusCode::NOT_FOUND, "UNSUPPORTED", "there is no such path"),
        Refusal::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the path does not have this method"),
        Refusal::InvalidName => (StatusCode::BAD_REQUEST, "NAME_INVALID", "the image name is invalid"),
        Refusal::InvalidTag => (StatusCode::BAD_REQUEST, "TAG_INVALID", "the tag is invalid"),
        Refusal::InvalidDigest => (StatusCode::BAD_REQUEST, "DIGEST_INVALID", "the digest is invalid or of an unknown algorithm"),
        Refusal::UnknownUpload => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "upload is not known"),
        Refusal::InvalidAccountName => {
            (StatusCode::BAD_REQUEST, "NAME_INVALID", "a name has lower-case letters, digits, '.', '_', '-' and '@'")
        }
        Refusal::UnknownV1Image => (StatusCode::NOT_FOUND, "UNSUPPORTED", "Image not found"),
    };
    let answer = in_form_of(api, status, code, message);
    if api == Api::V2 { Box::new(answer.with(v2::API_VERSION, "registry/2.0")) } else { answer }
}

/// The answer to a `HEAD`: the same headers, among them the length that the body would have had.
fn without_body(answer: Answer) -> Answer {
    let length = http_body::Body::size_hint(answer.body()).exact();
    let has_length = answer.headers().contains_key(CONTENT_LENGTH);
    let answer = answer.map(|_| ResponseBody::empty());
    match length {
        Some(length) if !has_length => answer.with(CONTENT_LENGTH, length.to_string()),
        _ => answer,
    }
}

#[cfg(test)]
mod tests;
