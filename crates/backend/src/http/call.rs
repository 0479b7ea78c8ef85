//! One request, taken apart.

use std::sync::Arc;

use berth_registry::access::Identity;
use berth_registry::{Body, Registry, Repository};
use http::HeaderMap;
use http::header::{AsHeaderName, USER_AGENT};

use super::origin::ClientView;
use super::params::Query;

/// What a handler knows of its request.
pub(crate) struct Call {
    pub(crate) registry: Arc<Registry>,
    pub(crate) repository: Repository,
    pub(crate) identity: Identity,
    pub(crate) view: ClientView,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) is_head: bool,
}

/// The request's body, apart from the rest so that a handler can consume it.
pub(crate) type RequestBody = Body;

impl Call {
    /// A header that is text and stands there once or more; the first.
    pub(crate) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the client calls itself.
    pub(crate) fn user_agent(&self) -> &str {
        self.header(USER_AGENT).unwrap_or_default()
    }

    /// The user's name, for what belongs to a user.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.identity.name()
    }
}
