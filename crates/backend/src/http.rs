//! Translation between HTTP and the registry, and nothing else.
//!
//! A request becomes a [`route::Route`], an [`origin::ClientView`] and a caller; [`gate`] decides whether it may go on;
//! one match hands it to a handler; a refusal becomes an answer in the form of the API that was called.

mod accept;
mod all;
mod body;
mod call;
mod conditions;
mod cors;
mod credentials;
mod demand;
mod docker;
mod errors;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gate;
mod head;
mod held;
mod origin;
mod params;
mod place;
mod ranges;
mod respond;
mod rest;
mod route;
mod schemas;
mod site;
mod token;
mod v1;
mod v2;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use berth_registry::access::{Access, PasswordPolicy};
use berth_registry::{Body, Clock, Registry};
use berth_storage::rocksdb::{Backups, Stores};
use berth_traces::{Span, Traces};
use futures::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use hyper::body::Incoming;

use crate::audit::{Audit, Event};
use crate::config::{Config, Security, TrustedProxies};
use crate::server::Peer;
use body::ResponseBody;
use conditions::Conditions;
use cors::Cors;
pub(crate) use credentials::Credentials;
#[cfg(test)]
pub(crate) use credentials::Secret;
use gate::{Head, Prepared, TokenRequest};
use held::{Held, Places};
pub(crate) use respond::Answer;
use respond::With;
pub(crate) use route::{Route, V2};

/// The API over one registry.
#[derive(Clone)]
pub(crate) struct Service {
    registry: Arc<Registry>,
    access: Access,
    audit: Audit,
    trusted_proxies: Arc<TrustedProxies>,
    hide_unauthorized: bool,
    backups: Backups,
    traces: Option<Arc<Traces>>,
    places: Places,
    cors: Option<Arc<Cors>>,
}

/// An answer, and what the logs say about who got it.
struct Answered {
    answer: Answer,
    event: Event,
    held: Held,
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
        let (registry, trusted_proxies) = (Arc::new(registry.clone()), Arc::new(config.trusted_proxies()));
        let backups = stores.backups.clone();
        let places = Places::new(&config.places);
        let cors = Cors::of(&config.cors).map(Arc::new);
        Ok((Self { registry, access, audit, trusted_proxies, hide_unauthorized, backups, traces: None, places, cors }, writer))
    }

    /// The same service, which has its requests traced, if there is somewhere to send that.
    pub(crate) fn traced(self, traces: Option<Arc<Traces>>) -> Self {
        Self { traces, ..self }
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Answers one request and writes its lines in the logs. With the answer comes what is held until it has been sent.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> (Answer, Held) {
        let (parts, incoming) = request.into_parts();
        let Some(peer) = parts.extensions.get::<Peer>().copied() else {
            // The server loop sets it on every request; without it nobody could be trusted.
            return (errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error"), Held::default());
        };
        let mut headers = parts.headers;
        // HTTP/1.0 had no hosts, and load balancers still ask so whether we are there.
        if parts.version == Version::HTTP_10 && !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_static("localhost"));
        }
        let head = Head::new(peer, parts.method, parts.uri, headers);
        self.answer_head(head, body::incoming(incoming)).await
    }

    /// Answers a request of the operator's own, without a connection.
    pub(crate) async fn answer_operator(self, method: Method, uri: http::Uri, body: Body) -> Answer {
        let header = HeaderValue::from_static;
        let headers = HeaderMap::from_iter([(HOST, header("localhost")), (CONTENT_TYPE, header("application/json"))]);
        self.answer_head(Head::new(Peer::Operator, method, uri, headers), body).await.0
    }

    async fn answer_head(self, head: Head, body: Body) -> (Answer, Held) {
        let changes = !matches!(head.method, Method::GET | Method::HEAD);
        let carries_through = changes || self.must_check(&head.credentials);
        let work = self.answer_and_note(head, body);
        if !carries_through {
            return work.await;
        }
        // Once begun, a change is carried through even if the client goes away, and so is the check of a password: it costs
        // what it costs, and its line in the audit log must not depend on who waits for the answer.
        tokio::spawn(work).await.unwrap_or_else(|died| {
            tracing::error!(%died, "a request died");
            (errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error"), Held::default())
        })
    }

    /// Whether it takes long to find out if the credentials are good.
    fn must_check(&self, credentials: &Credentials) -> bool {
        matches!(credentials, Credentials::Basic(user, secret) if self.access.must_check(user, secret.as_str()))
    }

    async fn answer_and_note(self, head: Head, body: Body) -> (Answer, Held) {
        let begun = Instant::now();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let request_id = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let audit = self.audit.clone();
        let span = self.trace(&head);
        let work = AssertUnwindSafe(self.dispatch(head, body)).catch_unwind();
        let Answered { answer, mut event, held } = work.await.unwrap_or_else(|_| {
            tracing::error!("a request died");
            let answer = errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error");
            Answered { answer, event: Event::default(), held: Held::default() }
        });
        let answer = if method == Method::HEAD { without_body(answer) } else { answer };
        let status = answer.status().as_u16();
        event.request(&method, &path, status, &request_id);
        // Gateways and monitors ask every few seconds: that all is well would bury the rest.
        if !(route::is_health(&path) && status == 200) {
            tracing::info!(
                target: "access", %method, path, status, user = event.user(), client = event.client(),
                elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), request_id,
            );
        }
        let answer = match span {
            Some(mut span) => {
                event.describe(&mut span);
                answer.map(|body| ResponseBody::Traced(Box::new((body, span))))
            }
            None => answer,
        };
        audit.record(event).await;
        (answer, held)
    }

    /// The span of a request: part of the gateway's, if the peer is one whose word counts.
    fn trace(&self, head: &Head) -> Option<Span> {
        let path = head.uri.path();
        // Whoever looks whether we are well asks every few seconds, for no client.
        let traces = self.traces.as_ref().filter(|_| !route::is_health(path))?;
        Some(traces.request(&head.method, path, self.trusted_proxies.trusts(head.peer).then_some(&head.headers)))
    }

    async fn dispatch(self, head: Head, body: Body) -> Answered {
        let (mut event, mut held) = (Event::default(), Held::default());
        // A body that announced itself with Expect is sent only if we read it: being refused, we don't.
        let drains = !head.headers.contains_key(EXPECT);
        let (body, rest) = body::lend(body);
        let conditions = Conditions::read(&head.method, &head.headers);
        let cors = self.cors.as_ref().filter(|_| route::api(head.uri.path()) == route::Api::V2);
        let page = cors.map(|cors| cors.page(&head.method, &head.headers));
        let prepared = self.prepare(head, &mut event, &mut held).await;
        let body = if held.is_small { body::hasten(body, held.body.take()) } else { body };
        let mut may_linger = drains;
        let answer = match prepared {
            Ok(Prepared::Docker(call, route)) => match &route {
                Route::V1(route) => {
                    let answer = v1::handle(&call, route, body).await.unwrap_or_else(|error| errors::of_v1(&error));
                    meet(conditions, answer, errors::v1)
                }
                Route::V2(route) => {
                    let answer = v2::handle(&call, route, body).await.unwrap_or_else(|error| errors::of_v2(&error));
                    meet(conditions, answer, |status, message| errors::v2(status, "UNSUPPORTED", message))
                        .with(v2::API_VERSION, "registry/2.0")
                }
            },
            // Open to all, and the same wherever one asks: docker never sends credentials with it.
            Ok(Prepared::Ping) => v1::ping(),
            Ok(Prepared::LoggedIn) => v2::base().with(v2::API_VERSION, "registry/2.0"),
            Ok(Prepared::Options(methods)) => cors::options(&methods),
            Ok(Prepared::All(request)) => {
                request.answer().await.unwrap_or_else(|error| errors::of_v2(&error)).with(v2::API_VERSION, "registry/2.0")
            }
            Ok(Prepared::Token(request)) => self.serve_token(*request, body, &mut event).await,
            Ok(Prepared::Rest(call)) => meet(conditions, rest::handle(&call, body).await, errors::rest),
            Err(refused) => {
                drop(body);
                may_linger &= self.places.may_linger(&mut held);
                if may_linger { *refused } else { refused.with(CONNECTION, "close") }
            }
        };
        let answer = match page {
            Some(page) => page.dress(answer),
            None => answer,
        };
        // Whoever still sends when the connection closes finds it reset, and never reads the answer.
        if may_linger {
            rest.drain().await;
        }
        Answered { answer, event, held }
    }

    async fn serve_token(&self, request: TokenRequest, body: Body, event: &mut Event) -> Answer {
        let TokenRequest { place, repositories, view, credentials, query, is_form } = request;
        let asking = token::Asking { access: &self.access, view: &view, place: &place, repositories: &repositories };
        let served = token::serve(&asking, credentials, &query, is_form.then_some(body)).await;
        event.claims(&served.shown);
        event.caller = served.caller.map(|caller| caller.label().to_owned());
        served.answer.with(v2::API_VERSION, "registry/2.0")
    }
}

/// The answer under the conditions of its request. Those that are not met are refused in the form of the API.
fn meet(conditions: Option<Conditions>, answer: Answer, form: impl FnOnce(StatusCode, &str) -> Answer) -> Answer {
    let failed = || form(StatusCode::PRECONDITION_FAILED, "what is there is not what the request depends on");
    match conditions {
        Some(conditions) => conditions.apply(answer, failed),
        None => answer,
    }
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
