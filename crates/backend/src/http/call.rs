//! One request, taken apart.

use std::sync::Arc;

use berth_names::ImageName;
use berth_registry::access::{Access, Caller, Policy, Right, Rights};
use berth_registry::v1::Viewer;
use berth_registry::{Body, Client, ExistingTag, Push, Registry, Repository};
use http::HeaderMap;
use http::header::{AsHeaderName, CONTENT_LENGTH, TRANSFER_ENCODING, USER_AGENT};

use super::origin::ClientView;
use super::params::Query;
use super::place::Place;

/// What a handler knows of its request.
pub(crate) struct Call {
    pub(crate) registry: Arc<Registry>,
    pub(crate) place: Place,
    pub(crate) repository: Arc<Repository>,
    pub(crate) access: Access,
    pub(crate) caller: Caller,
    pub(crate) policy: Arc<Policy>,
    pub(crate) view: ClientView,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) is_head: bool,
}

/// Whether a body follows such a head.
pub(crate) fn announces_body(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") || headers.contains_key(TRANSFER_ENCODING)
}

/// The request's body, apart from the rest so that a handler can consume it.
pub(crate) type RequestBody = Body;

impl Call {
    /// A header that is text and stands there once or more; the first.
    pub(crate) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether a body follows the head.
    pub(crate) fn announces_body(&self) -> bool {
        announces_body(&self.headers)
    }

    /// What the client calls itself.
    pub(crate) fn user_agent(&self) -> &str {
        self.header(USER_AGENT).unwrap_or_default()
    }

    /// Where the client finds an image: what `Location` and `Link` begin with.
    pub(crate) fn location(&self, image: &ImageName) -> String {
        format!("{}v2/{}", self.view.location_root(self.user_agent()), self.place.name_of(image))
    }

    /// The user's name, for what belongs to a user.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.caller.name()
    }

    /// Whose push a request belongs to: the same user from the same machine. Nothing else tells two pushes apart.
    pub(crate) fn holder(&self) -> String {
        let address = self.view.remote.address().map_or_else(|| "local".to_owned(), |address| address.to_string());
        format!("{}@{address}", self.owner().unwrap_or_default())
    }

    /// Whose upload a request is about.
    pub(crate) fn client<'a>(&'a self, holder: &'a str) -> Client<'a> {
        Client { owner: self.owner(), holder }
    }

    /// On whose behalf a manifest or tag of the image is pushed.
    pub(crate) fn push<'a>(&self, image: &ImageName, holder: &'a str) -> Push<'a> {
        Push { existing: self.existing_tag(image), holder }
    }

    /// What the caller may do with an image.
    pub(crate) fn rights(&self, image: &ImageName) -> Rights {
        self.policy.rights(&self.caller, &self.repository, image)
    }

    /// Whether the caller may know that there is an image of this name, in lists and searches.
    pub(crate) fn lists(&self, name: &str) -> bool {
        let account = self.caller.without_grants();
        name.parse().is_ok_and(|name| self.policy.rights(&account, &self.repository, &name).has(Right::Read))
    }

    /// What pushing to a tag that is there already does.
    fn existing_tag(&self, image: &ImageName) -> ExistingTag {
        // A token for pushing is enough to move a tag, if the account may.
        let account = self.caller.without_grants();
        if self.policy.rights(&account, &self.repository, image).has(Right::Delete) { ExistingTag::Moves } else { ExistingTag::Stays }
    }
}

/// Decides which V1 images a caller sees. Their ids carry no name, so a token that was issued for one name says nothing
/// about them: what the account may read decides.
pub(crate) struct V1Eyes {
    sees_all: bool,
    sees: Box<dyn Fn(&ImageName) -> bool + Send + Sync>,
}

impl Call {
    pub(crate) fn v1_eyes(&self) -> V1Eyes {
        let (account, policy, repository) = (self.caller.without_grants(), Arc::clone(&self.policy), Arc::clone(&self.repository));
        V1Eyes {
            sees_all: policy.rights_everywhere(&account, &repository).has(Right::Read),
            sees: Box::new(move |image| policy.rights(&account, &repository, image).has(Right::Read)),
        }
    }

    pub(crate) fn viewer<'a>(&'a self, eyes: &'a V1Eyes) -> Viewer<'a> {
        Viewer { user: self.owner(), sees_all: eyes.sees_all, sees: eyes.sees.as_ref() }
    }
}
