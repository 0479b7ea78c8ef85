//! Translation between HTTP and the registry, and nothing else.
//!
//! A request becomes a [`route::Route`], a [`origin::ClientView`] and an identity; one match hands it to a handler;
//! a refusal becomes an answer in the form of the API that was called.

mod body;
mod call;
mod credentials;
mod errors;
mod origin;
mod params;
mod respond;
mod route;
mod v1;
mod v2;

use std::sync::Arc;
use std::time::Instant;

use berth_names::ApiVersion;
use berth_registry::access::{Action, Identity, Passwords, permits};
use berth_registry::{Body, Error, Registry, Repository};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::config::TrustedProxies;
use crate::server::Peer;
use body::ResponseBody;
use call::Call;
use credentials::Credentials;
use origin::ClientView;
use params::Query;
pub(crate) use respond::Answer;
use respond::With;
use route::{Api, Refusal, Route, V1, V2};

/// Longest path that is looked at, in bytes.
const PATH_BYTES_MAX: usize = 2048;

/// The API over one registry.
#[derive(Clone)]
pub(crate) struct Service {
    registry: Arc<Registry>,
    passwords: Passwords,
    trusted_proxies: Arc<TrustedProxies>,
}

impl Service {
    pub(crate) fn new(registry: Registry, passwords: Passwords, trusted_proxies: TrustedProxies) -> Self {
        Self { registry: Arc::new(registry), passwords, trusted_proxies: Arc::new(trusted_proxies) }
    }

    /// Answers one request and writes its access line.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Answer {
        let begun = Instant::now();
        let (parts, incoming) = request.into_parts();
        let Some(peer) = parts.extensions.get::<Peer>().copied() else {
            // The server loop sets it on every request; without it nobody could be trusted.
            return errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
        };
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        let request_id = parts.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let reads_only = matches!(method, Method::GET | Method::HEAD);
        // A body that announced itself with Expect is sent only if we read it: being refused, we don't.
        let drains = !parts.headers.contains_key(EXPECT);

        let body = body::incoming(incoming);
        let work = async move { self.dispatch(peer, parts.method, parts.uri, parts.headers, body, drains).await };
        let answer = if reads_only {
            work.await
        } else {
            // Once begun, a change is carried through even if the client goes away.
            tokio::spawn(work).await.unwrap_or_else(|died| {
                tracing::error!(%died, "a request died");
                errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
            })
        };
        let answer = if method == Method::HEAD { without_body(answer) } else { answer };
        tracing::info!(
            target: "access", %method, path, status = answer.status().as_u16(),
            elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), request_id,
        );
        answer
    }

    async fn dispatch(self, peer: Peer, method: Method, uri: http::Uri, headers: HeaderMap, body: Body, drains: bool) -> Answer {
        let prepared = self.prepare(peer, &method, &uri, headers).await;
        match prepared {
            Ok((call, route)) => match &route {
                Route::V1(route) => v1_handler(&call, route, body).await.unwrap_or_else(|error| errors::of_v1(&error)),
                Route::V2(route) => {
                    let answer = v2_handler(&call, route, body).await.unwrap_or_else(|error| errors::of_v2(&error));
                    answer.with(v2::API_VERSION, "registry/2.0")
                }
            },
            Err(refused) => {
                if drains {
                    body::drain(body).await;
                    *refused
                } else {
                    refused.with(CONNECTION, "close")
                }
            }
        }
    }

    /// Everything that is decided before a handler runs: which repository, which route, who asks, and whether they may.
    async fn prepare(&self, peer: Peer, method: &Method, uri: &http::Uri, headers: HeaderMap) -> Result<(Call, Route), Box<Answer>> {
        let path = uri.path();
        // A target that names another host than the header does is read one way here and another way elsewhere.
        if uri.authority().is_some_and(|named| single_host(&headers) != Some(named.as_str())) {
            return Err(Box::new(errors::rest(StatusCode::BAD_REQUEST, "the target and the Host header name different hosts")));
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(Box::new(errors::rest(StatusCode::URI_TOO_LONG, "the path is too long")));
        }
        let target = route::target(path).map_err(|(api, refusal)| refuse(api, refusal))?;
        let api = target.api;
        let view = ClientView::new(peer, &self.trusted_proxies, &headers, target.root)
            .map_err(|_| in_form_of(api, StatusCode::BAD_REQUEST, "UNSUPPORTED", "exactly one valid Host header is needed"))?;
        let repository = self.registry.repositories().find(&target.repository).map_err(|error| of(api, &error))?.clone();
        if api == Api::V2 && repository.api_version == ApiVersion::V1 {
            return Err(Box::new(errors::v2_on_v1_repository()));
        }
        let route = target.route(method).map_err(|refusal| refuse(api, refusal))?;
        if api == Api::V1 && repository.api_version == ApiVersion::V2 && !matches!(route, Route::V1(V1::Ping | V1::Search)) {
            let message = format!("repository {} speaks V2; this client speaks V1", repository.key);
            return Err(Box::new(errors::v1(StatusCode::NOT_FOUND, &message)));
        }
        let query =
            Query::parse(uri.query()).map_err(|_| in_form_of(api, StatusCode::BAD_REQUEST, "UNSUPPORTED", "the query can't be read"))?;
        let identity = self.identify(api, &headers).await?;
        self.authorize(api, &identity, &repository, &route)?;
        let is_head = *method == Method::HEAD;
        Ok((Call { registry: Arc::clone(&self.registry), repository, identity, view, headers, query, is_head }, route))
    }

    async fn identify(&self, api: Api, headers: &HeaderMap) -> Result<Identity, Box<Answer>> {
        match Credentials::from_headers(headers) {
            Credentials::None => Ok(Identity::Anonymous),
            Credentials::Basic(user, password) => match self.passwords.verify(&user, password.as_str()).await {
                Ok(Some(identity)) => Ok(identity),
                Ok(None) => Err(Box::new(unauthorized(api, "wrong user name or password"))),
                Err(error) => Err(Box::new(of(api, &error))),
            },
            Credentials::Invalid => Err(Box::new(unauthorized(api, "the Authorization header can't be read"))),
        }
    }

    fn authorize(&self, api: Api, identity: &Identity, repository: &Repository, route: &Route) -> Result<(), Box<Answer>> {
        let permitted = match demand(route) {
            Demand::Nothing => true,
            Demand::User => *identity != Identity::Anonymous,
            Demand::Right(action) => permits(identity, repository, action),
        };
        if permitted { Ok(()) } else { Err(Box::new(unauthorized(api, "authentication required"))) }
    }
}

fn single_host(headers: &HeaderMap) -> Option<&str> {
    headers.get(http::header::HOST)?.to_str().ok()
}

/// What a route demands of whoever asks.
enum Demand {
    /// Open to all: clients send no credentials with it.
    Nothing,
    /// Any user.
    User,
    /// A right in the repository.
    Right(Action),
}

fn demand(route: &Route) -> Demand {
    match route {
        Route::V1(V1::Ping) => Demand::Nothing,
        Route::V1(V1::CreateUser | V1::GetUser) => Demand::User,
        Route::V1(
            V1::Search
            | V1::GetRepositoryImages { .. }
            | V1::GetProperties { .. }
            | V1::GetRepositoryJson { .. }
            | V1::GetTags { .. }
            | V1::GetTag { .. }
            | V1::GetTagJson { .. }
            | V1::GetImageJson { .. }
            | V1::GetLayer { .. }
            | V1::GetAncestry { .. },
        )
        | Route::V2(V2::Base | V2::Catalog | V2::Tags { .. } | V2::GetManifest { .. } | V2::GetBlob { .. } | V2::Referrers { .. }) => {
            Demand::Right(Action::Pull)
        }
        Route::V1(
            V1::PutRepository { .. }
            | V1::PutRepositoryImages { .. }
            | V1::PutTag { .. }
            | V1::PutImageJson { .. }
            | V1::PutLayer { .. }
            | V1::PutChecksum { .. },
        )
        | Route::V2(
            V2::PutManifest { .. }
            | V2::DeleteManifest { .. }
            | V2::DeleteBlob { .. }
            | V2::StartUpload { .. }
            | V2::UploadStatus { .. }
            | V2::AppendUpload { .. }
            | V2::FinishUpload { .. }
            | V2::CancelUpload { .. },
        ) => Demand::Right(Action::Push),
    }
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
        V2::Base => Ok(v2::base()),
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
        Api::V2 | Api::Rest => errors::of_v2(error),
    }
}

fn unauthorized(api: Api, message: &str) -> Answer {
    let answer = in_form_of(api, StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message).with(WWW_AUTHENTICATE, "Basic realm=\"Berth\"");
    if api == Api::V2 { answer.with(v2::API_VERSION, "registry/2.0") } else { answer }
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
