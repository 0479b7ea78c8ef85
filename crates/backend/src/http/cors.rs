//! Pages of other origins that may use docker's API (the CORS of the Fetch standard): UIs that people run themselves.
//!
//! What must stay true:
//! - Only what is asked of `/v2/` is ever opened. Management is for our own pages.
//! - An origin that is listed may do what its user may; one that is let in by `*` may only read, and is never told that it
//!   might send what the browser remembers.
//! - What a page is told does not depend on whether it is refused: it must be able to read why.

use std::collections::HashSet;

use berth_names::Origin;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::respond::{Answer, With, empty};
use super::site;
use crate::config::{self, AllowedOrigin};

/// What a page may send.
const REQUEST_HEADERS: &str = "Authorization, Accept, Cache-Control, Content-Range, Content-Type, If-Match, If-Modified-Since, \
                               If-None-Match, If-Range, If-Unmodified-Since, Range";

/// What a page may read of an answer, besides what it always may.
const ANSWER_HEADERS: &str = "Accept-Ranges, Content-Range, Docker-Content-Digest, Docker-Distribution-Api-Version, Docker-Upload-UUID, \
                              ETag, Link, Location, OCI-Filters-Applied, OCI-Subject, Range, Retry-After, WWW-Authenticate, X-Request-Id";

/// How long a browser may go by the answer to its question whether a page may ask, in seconds. Chromium's longest.
const MAX_AGE_S: &str = "7200";

/// Whose pages are let in.
#[derive(Debug)]
pub(super) struct Cors {
    listed: HashSet<Origin>,
    /// Whether every other page may read.
    any: bool,
    credentials: bool,
}

/// The page that makes a request, and what it is told.
#[derive(Debug)]
pub(super) struct Page {
    /// What is said of whose it may be; nothing if it is not let in.
    allowed: Option<HeaderValue>,
    credentials: bool,
    /// Whether another page would be told something else.
    varies: bool,
    /// Whether the browser only asks whether the page may.
    is_question: bool,
}

impl Cors {
    /// `None` if nobody is let in.
    pub(super) fn of(config: &config::Cors) -> Option<Self> {
        let listed = config.origins.iter().filter_map(|origin| match origin {
            AllowedOrigin::Any => None,
            AllowedOrigin::This(origin) => Some(origin.clone()),
        });
        let any = config.origins.contains(&AllowedOrigin::Any);
        // Both together are refused where the file is read; here it is made sure that they can't meet.
        let cors = Self { listed: listed.collect(), any, credentials: config.credentials && !any };
        (!config.origins.is_empty()).then_some(cors)
    }

    /// Whether the request is made by a page that the operator has listed.
    pub(super) fn lists(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).iter();
        match (origins.next().and_then(site::parse), origins.next()) {
            (Some(origin), None) => self.listed.contains(&origin),
            _ => false,
        }
    }

    /// The page that makes a request of docker's API.
    pub(super) fn page(&self, method: &Method, headers: &HeaderMap) -> Page {
        let origin = headers.get(ORIGIN);
        let allowed = match origin {
            Some(origin) if self.lists(headers) => Some(origin.clone()),
            Some(_) if self.any => Some(HeaderValue::from_static("*")),
            _ => None,
        };
        let is_question = *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        Page { allowed, credentials: self.credentials, varies: !self.listed.is_empty(), is_question }
    }
}

impl Page {
    /// The answer, as the page may have it.
    pub(super) fn dress(self, mut answer: Answer) -> Answer {
        if self.varies {
            // Beside what else it depends on.
            answer.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(allowed) = self.allowed else { return answer };
        answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            answer = answer.with(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        if !self.is_question {
            return answer.with(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
        if let Some(methods) = answer.headers().get(ALLOW).cloned() {
            answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        answer.with(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS).with(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S)
    }
}

/// What can be asked of a path. It says nothing that the documents don't, so nobody is asked who he is: browsers, which ask
/// before a page may, couldn't say.
pub(super) fn options(methods: &[&str]) -> Answer {
    empty(StatusCode::NO_CONTENT).with(ALLOW, [methods, &["OPTIONS"]].concat().join(", "))
}
