//! What the fuzz targets see of reading requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use berth_names::plain_path;
use berth_names::wire::Effect;
use http::{HeaderMap, Method};

use super::origin::ClientView;
use super::params::{self, Query};
use super::ranges::{self, Wanted};
use super::route::{self, Refusal, Route, Target, V1, V2};
use super::{rest, schemas};
use crate::config::TrustedProxies;
use crate::server::Peer;

/// How a path is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A proxy in front could read it differently.
    Unsafe,
    /// It leads nowhere.
    Refused(String),
    /// Something that docker asks.
    Docker(Docker),
    /// Management, and what it does.
    Rest(String, Effect),
}

/// A request that docker makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    /// The repository that it is about.
    pub repository: Option<String>,
    /// What it asks, for comparison.
    pub route: String,
    /// What stands in front of `v1/` or `v2/`.
    pub root: String,
    /// Another way to ask the same: the method and the path behind the root, made from the route alone.
    pub again: (Method, String),
    /// What it does.
    pub effect: Effect,
}

/// Reads the path of a request.
pub fn route(method: &Method, path: &str) -> Read {
    let Some(path) = plain_path(path) else { return Read::Unsafe };
    let target = match route::target(&path) {
        Ok(target) => target,
        Err((_, Refusal::UnsafePath)) => return Read::Unsafe,
        Err((_, refusal)) => return Read::Refused(format!("{refusal:?}")),
    };
    let Target::Docker(docker) = &target else {
        return match rest::find(&target, method) {
            Ok(route) => Read::Rest(format!("{route:?}"), route.effect()),
            Err(refusal) => Read::Refused(format!("{refusal:?}")),
        };
    };
    match docker.route(method) {
        Err(refusal) => Read::Refused(format!("{refusal:?}")),
        Ok(route) => {
            let key = if docker.place.is_of_all() { docker.place.repository().map(|key| format!("{key}/")) } else { None };
            Read::Docker(Docker {
                repository: docker.place.repository().map(ToString::to_string),
                route: format!("{route:?}"),
                root: docker.root.to_owned(),
                again: written(&route, &key.unwrap_or_default()),
                effect: route.effect(),
            })
        }
    }
}

/// A route as a client would ask for it.
fn written(route: &Route, key: &str) -> (Method, String) {
    match route {
        Route::V1(route) => {
            let (method, path) = written_v1(route);
            (method, format!("v1/{path}"))
        }
        Route::V2(route) => {
            let (method, path) = written_v2(route);
            let is_named = path.contains('/');
            (method, format!("v2/{}{path}", if is_named { key } else { "" }))
        }
    }
}

fn written_v2(route: &V2) -> (Method, String) {
    match route {
        V2::Base => (Method::GET, String::new()),
        V2::Token => (Method::GET, "token".to_owned()),
        V2::Catalog => (Method::GET, "_catalog".to_owned()),
        V2::Tags { image } => (Method::GET, format!("{image}/tags/list")),
        V2::GetManifest { image, reference } => (Method::GET, format!("{image}/manifests/{reference}")),
        V2::PutManifest { image, reference } => (Method::PUT, format!("{image}/manifests/{reference}")),
        V2::DeleteManifest { image, reference } => (Method::DELETE, format!("{image}/manifests/{reference}")),
        V2::GetBlob { image, digest } => (Method::GET, format!("{image}/blobs/{digest}")),
        V2::DeleteBlob { image, digest } => (Method::DELETE, format!("{image}/blobs/{digest}")),
        V2::StartUpload { image } => (Method::POST, format!("{image}/blobs/uploads/")),
        V2::UploadStatus { image, id } => (Method::GET, format!("{image}/blobs/uploads/{id}")),
        V2::AppendUpload { image, id } => (Method::PATCH, format!("{image}/blobs/uploads/{id}")),
        V2::FinishUpload { image, id } => (Method::PUT, format!("{image}/blobs/uploads/{id}")),
        V2::CancelUpload { image, id } => (Method::DELETE, format!("{image}/blobs/uploads/{id}")),
        V2::Referrers { image, digest } => (Method::GET, format!("{image}/referrers/{digest}")),
    }
}

fn written_v1(route: &V1) -> (Method, String) {
    let of = |method, image: &berth_names::ImageName, rest: &str| (method, format!("repositories/{image}/{rest}"));
    match route {
        V1::Ping => (Method::GET, "_ping".to_owned()),
        V1::CreateUser => (Method::POST, "users".to_owned()),
        V1::GetUser => (Method::GET, "users".to_owned()),
        V1::Search => (Method::GET, "search".to_owned()),
        V1::PutRepository { image } => of(Method::PUT, image, ""),
        V1::GetRepositoryImages { image } => of(Method::GET, image, "images"),
        V1::PutRepositoryImages { image } => of(Method::PUT, image, "images"),
        V1::GetProperties { image } => of(Method::GET, image, "properties"),
        V1::GetRepositoryJson { image } => of(Method::GET, image, "json"),
        V1::GetTags { image } => of(Method::GET, image, "tags"),
        V1::GetTag { image, tag } => of(Method::GET, image, &format!("tags/{tag}")),
        V1::PutTag { image, tag } => of(Method::PUT, image, &format!("tags/{tag}")),
        V1::DeleteTag { image, tag } => of(Method::DELETE, image, &format!("tags/{tag}")),
        V1::DeleteRepository { image } => of(Method::DELETE, image, "tags"),
        V1::GetTagJson { image, tag } => of(Method::GET, image, &format!("tags/{tag}/json")),
        V1::GetImageJson { id } => (Method::GET, format!("images/{id}/json")),
        V1::PutImageJson { id } => (Method::PUT, format!("images/{id}/json")),
        V1::GetLayer { id } => (Method::GET, format!("images/{id}/layer")),
        V1::PutLayer { id } => (Method::PUT, format!("images/{id}/layer")),
        V1::PutChecksum { id } => (Method::PUT, format!("images/{id}/checksum")),
        V1::GetAncestry { id } => (Method::GET, format!("images/{id}/ancestry")),
    }
}

/// What a `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it.
    Whole,
    /// Parts of it.
    Parts(Vec<Range<u64>>),
    /// Nothing that there is.
    Nothing,
}

/// Most parts of one answer.
pub const PARTS_MAX: usize = ranges::PARTS_MAX;

/// What is asked for of so many bytes.
pub fn requested_range(header: &str, size: u64) -> Asked {
    match ranges::wanted(header, size) {
        Wanted::Whole => Asked::Whole,
        Wanted::Parts(parts) => Asked::Parts(parts),
        Wanted::Unsatisfiable => Asked::Nothing,
    }
}

/// The first byte that a chunk says it has, and the one behind its last.
pub fn content_range(text: &str) -> Option<Range<u64>> {
    params::content_range(text)
}

/// The parameters of a query.
pub fn query(text: &str) -> Option<BTreeMap<String, String>> {
    let query = Query::parse(Some(text)).ok()?;
    let _ = query.page_size();
    Some(query.all().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Properties as a query has them.
pub fn properties(text: &str) -> Option<BTreeMap<String, BTreeSet<String>>> {
    rest::fuzzing::properties(text)
}

/// Values or names as a query has them.
pub fn list(text: &str) -> Option<Vec<String>> {
    rest::fuzzing::list(text)
}

/// Whether a client understands schema 1 only, and whether it rather gets that than what is stored.
pub fn schema1(headers: &HeaderMap, stored: &str) -> (bool, bool) {
    (schemas::only_schema1(headers), schemas::rather_schema1(headers, stored))
}

/// How a client sees us whose request came from a peer: its origin, what a `Location` begins with, and who it is.
pub fn client_view(peer: Option<SocketAddr>, headers: &HeaderMap, root: &str) -> Option<(String, String, Option<IpAddr>)> {
    let peer = peer.map_or(Peer::Unix, Peer::Tcp);
    let view = ClientView::new(peer, &TrustedProxies::default(), headers, root).ok()?;
    Some((view.origin.to_string(), view.location_root(""), view.remote.address()))
}
