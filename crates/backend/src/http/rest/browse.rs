//! Looking at what is stored: the routes, and through whose eyes.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_names::wire::Effect;
use berth_names::{ImageName, RepositoryKey};
use berth_registry::access::Right;
use berth_registry::browse::Node;
use berth_registry::search::Eyes;
use berth_registry::v1::ImageId;
use berth_registry::{Error, Repositories, Repository};
use http::Method;

use super::{Rest, RestCall, images, log_in, may, only, refused, search, storage};
use crate::http::respond::Answer;
use crate::http::route::Refusal;

/// Something in the tree of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(super) key: RepositoryKey,
    /// Without slashes at its ends; the empty path is the root.
    pub(super) path: String,
}

/// What a request wants to see, or to change of what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Browse {
    /// What something is, what is in it, or what is said about it.
    Info(Place),
    SetProperties(Place),
    DeleteProperties(Place),
    /// A file's content.
    Download(Place),
    /// An image or tag goes.
    Delete(Place),
    SearchProperties,
    SearchNames,
    /// The tree of V1 images.
    Ancestry(RepositoryKey),
    V1Info(RepositoryKey),
    V2Info(RepositoryKey),
}

impl Browse {
    /// The repository that it is about, if it is about one.
    pub(crate) fn repository(&self) -> Option<&RepositoryKey> {
        match self {
            Self::Info(place)
            | Self::SetProperties(place)
            | Self::DeleteProperties(place)
            | Self::Download(place)
            | Self::Delete(place) => Some(&place.key),
            Self::Ancestry(key) | Self::V1Info(key) | Self::V2Info(key) => Some(key),
            Self::SearchProperties | Self::SearchNames => None,
        }
    }
}

impl Browse {
    /// What it does, as [`berth_names::wire`] has it.
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Info(_)
            | Self::Download(_)
            | Self::SearchProperties
            | Self::SearchNames
            | Self::Ancestry(_)
            | Self::V1Info(_)
            | Self::V2Info(_) => Effect::Reads,
            Self::SetProperties(_) | Self::DeleteProperties(_) | Self::Delete(_) => Effect::Writes,
        }
    }
}

/// `<key>/<path>`, of which the gate has seen that every part is plain.
fn place(path: &str) -> Result<Place, Refusal> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (key, path) = path.split_once('/').unwrap_or((path, ""));
    let key = key.parse().map_err(|_| Refusal::InvalidRepositoryKey)?;
    Ok(Place { key, path: path.to_owned() })
}

/// Behind `api/storage/`.
pub(super) fn storage(method: &Method, path: &str) -> Result<Browse, Refusal> {
    let place = place(path)?;
    match *method {
        Method::GET => Ok(Browse::Info(place)),
        Method::PUT => Ok(Browse::SetProperties(place)),
        Method::DELETE => Ok(Browse::DeleteProperties(place)),
        _ => Err(Refusal::MethodNotAllowed),
    }
}

/// Behind `api/search/`.
pub(super) fn search(method: &Method, what: &str) -> Result<Browse, Refusal> {
    let found = match what {
        "prop" => Browse::SearchProperties,
        "artifact" => Browse::SearchNames,
        _ => return Err(Refusal::NotFound),
    };
    if method == Method::GET { Ok(found) } else { Err(Refusal::MethodNotAllowed) }
}

/// Behind `api/docker/<key>/`.
pub(super) fn docker(method: &Method, action: &str, key: RepositoryKey) -> Result<Browse, Refusal> {
    let found = match action {
        "v1/ancestry" => Browse::Ancestry(key),
        "v1/info" => Browse::V1Info(key),
        "v2/info" => Browse::V2Info(key),
        _ => return Err(Refusal::NotFound),
    };
    if method == Method::GET { Ok(found) } else { Err(Refusal::MethodNotAllowed) }
}

/// Behind `/artifactory/`: the files themselves.
pub(super) fn tree(path: &str, method: &Method) -> Result<Rest, Refusal> {
    let place = place(path)?;
    match *method {
        Method::DELETE => Ok(Rest::Browse(Browse::Delete(place))),
        Method::HEAD => Ok(Rest::Browse(Browse::Download(place))),
        _ => only(method, Method::GET, Rest::Browse(Browse::Download(place))),
    }
}

pub(super) async fn handle(call: &RestCall, browse: &Browse) -> Result<Answer, Answer> {
    match browse {
        Browse::Info(place) => storage::info(call, place).await,
        Browse::SetProperties(place) => storage::set_properties(call, place).await,
        Browse::DeleteProperties(place) => storage::delete_properties(call, place).await,
        Browse::Download(place) => storage::download(call, place).await,
        Browse::Delete(place) => storage::delete(call, place).await,
        Browse::SearchProperties => search::by_properties(call).await,
        Browse::SearchNames => search::by_name(call).await,
        Browse::Ancestry(key) => images::ancestry(call, key).await,
        Browse::V1Info(key) => images::v1_info(call, key).await,
        Browse::V2Info(key) => images::v2_info(call, key).await,
    }
}

/// What the caller may see.
pub(super) struct Sight<'c> {
    call: &'c RestCall,
    repositories: Arc<Repositories>,
}

impl<'c> Sight<'c> {
    pub(super) async fn of(call: &'c RestCall) -> Result<Self, Answer> {
        Ok(Self { call, repositories: call.registry.repositories().await.map_err(refused)? })
    }

    fn sees(&self, key: &RepositoryKey, image: &ImageName) -> bool {
        self.repositories.get(key).is_some_and(|repository| may(self.call, repository, image, Right::Read))
    }

    fn sees_all(&self, key: &RepositoryKey) -> bool {
        let rights = |repository: &Repository| self.call.policy.rights_everywhere(&self.call.caller, repository);
        self.repositories.get(key).is_some_and(|repository| rights(repository).has(Right::Read))
    }

    /// The repository, if it is there.
    pub(super) fn repository(&self, key: &RepositoryKey) -> Option<&Repository> {
        self.repositories.get(key).map(Arc::as_ref)
    }

    /// Every repository in which the caller may see something.
    pub(super) fn keys(&self) -> BTreeSet<RepositoryKey> {
        let sees = |repository: &Repository| self.call.policy.rights_somewhere(&self.call.caller, repository).has(Right::Read);
        self.repositories.values().filter(|repository| sees(repository)).map(|repository| repository.key.clone()).collect()
    }

    /// Does something with the eyes that see this.
    pub(super) async fn look<T>(&self, look: impl AsyncFnOnce(Eyes<'_>) -> T) -> T {
        let sees = |key: &RepositoryKey, image: &ImageName| self.sees(key, image);
        let sees_all = |key: &RepositoryKey| self.sees_all(key);
        look(Eyes { sees: &sees, sees_all: &sees_all }).await
    }

    /// What is at a path of a repository, if the caller may see it.
    pub(super) async fn node(&self, repository: &Repository, path: &str) -> Result<Node, Answer> {
        let found = self.look(async |eyes| self.call.registry.browse(repository, path, eyes).await).await;
        found.map_err(|error| self.not_found(&repository.key, error))
    }

    /// The refusal that a caller hears. To whoever has not logged in, what is hidden and what is not there look the same.
    pub(super) fn not_found(&self, key: &RepositoryKey, error: Error) -> Answer {
        let is_absent = matches!(error, Error::ItemUnknown | Error::ImageUnknown(_) | Error::V1ImageUnknown(_));
        if is_absent && self.call.caller.is_anonymous() && !self.sees_all(key) { log_in() } else { refused(error) }
    }

    /// Whether a name that the caller may do this with leads to a V1 image.
    pub(super) async fn may_with_v1_image(&self, repository: &Repository, id: &ImageId, right: Right) -> Result<bool, Answer> {
        let sees = |image: &ImageName| may(self.call, repository, image, right);
        let sees_all = self.call.policy.rights_everywhere(&self.call.caller, repository).has(right);
        let viewer = berth_registry::v1::Viewer { user: None, sees_all, sees: &sees };
        self.call.registry.is_v1_visible(&repository.key, id, viewer).await.map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::super::route;
    use super::*;

    #[test]
    fn paths_of_the_tree_are_places() {
        let place = |key: &str, path: &str| Place { key: key.parse().unwrap(), path: path.to_owned() };
        let at = |path: &str| place("docker-local", path);
        for (method, path, expected) in [
            (Method::GET, "storage/docker-local", Ok(Browse::Info(at("")))),
            (Method::GET, "storage/docker-local/", Ok(Browse::Info(at("")))),
            (Method::HEAD, "storage/docker-local/.images/ab", Ok(Browse::Info(at(".images/ab")))),
            (Method::PUT, "storage/docker-local/a/b", Ok(Browse::SetProperties(at("a/b")))),
            (Method::DELETE, "storage/docker-local/a", Ok(Browse::DeleteProperties(at("a")))),
            (Method::POST, "storage/docker-local/a", Err(Refusal::MethodNotAllowed)),
            (Method::GET, "storage", Err(Refusal::InvalidRepositoryKey)),
            (Method::GET, "search/prop", Ok(Browse::SearchProperties)),
            (Method::GET, "search/artifact", Ok(Browse::SearchNames)),
            (Method::POST, "search/prop", Err(Refusal::MethodNotAllowed)),
            (Method::GET, "search/aql", Err(Refusal::NotFound)),
            (Method::GET, "docker/docker-local/v1/ancestry", Ok(Browse::Ancestry("docker-local".parse().unwrap()))),
            (Method::GET, "docker/docker-local/v2/info", Ok(Browse::V2Info("docker-local".parse().unwrap()))),
            (Method::POST, "docker/docker-local/v1/info", Err(Refusal::MethodNotAllowed)),
        ] {
            assert_eq!(route(path, &method), expected.map(Rest::Browse), "{method} {path}");
        }
        for (method, path, expected) in [
            (Method::GET, "docker-local/a/b", Ok(Browse::Download(at("a/b")))),
            (Method::HEAD, "docker-local/a/b", Ok(Browse::Download(at("a/b")))),
            (Method::DELETE, "docker-local/a/b/", Ok(Browse::Delete(at("a/b")))),
            (Method::PUT, "docker-local/a/b", Err(Refusal::MethodNotAllowed)),
            (Method::GET, "-x/a", Err(Refusal::InvalidRepositoryKey)),
        ] {
            assert_eq!(tree(path, &method), expected.map(Rest::Browse), "{method} {path}");
        }
    }
}
