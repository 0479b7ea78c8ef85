//! A request is a value: every path that Berth answers, parsed once.
//!
//! Paths are read from the right-hand end, because an image may itself be called `tags` or `blobs/uploads`.
//! What a proxy in front could read differently (percent signs, empty or dot segments, backslashes) is refused; escapes of
//! what need not be escaped are gone before ([`berth_names::plain_path`]).

use berth_names::wire::{ALL_REPOSITORIES, API_PREFIXES, DOCKER_PREFIX, Effect, TREE_PREFIX};
use berth_names::{Digest, ImageName, InvalidReference, Reference, Tag};
use berth_registry::UploadId;
use berth_registry::v1::ImageId;
use http::Method;

use super::place::Place;

/// Which API a path belongs to, and therefore what its errors look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    V1,
    V2,
    Rest,
}

/// What a request asks for. `HEAD` is parsed as the `GET` it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    V1(V1),
    V2(V2),
}

/// Docker Registry V1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum V1 {
    Ping,
    CreateUser,
    GetUser,
    Search,
    PutRepository {
        image: ImageName,
    },
    GetRepositoryImages {
        image: ImageName,
    },
    PutRepositoryImages {
        image: ImageName,
    },
    GetProperties {
        image: ImageName,
    },
    GetRepositoryJson {
        image: ImageName,
    },
    GetTags {
        image: ImageName,
    },
    GetTag {
        image: ImageName,
        tag: Tag,
    },
    PutTag {
        image: ImageName,
        tag: Tag,
    },
    DeleteTag {
        image: ImageName,
        tag: Tag,
    },
    /// All tags of an image, which is what this protocol calls a repository.
    DeleteRepository {
        image: ImageName,
    },
    GetTagJson {
        image: ImageName,
        tag: Tag,
    },
    GetImageJson {
        id: ImageId,
    },
    PutImageJson {
        id: ImageId,
    },
    GetLayer {
        id: ImageId,
    },
    PutLayer {
        id: ImageId,
    },
    PutChecksum {
        id: ImageId,
    },
    GetAncestry {
        id: ImageId,
    },
}

/// Docker Registry V2 and OCI distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum V2 {
    Base,
    Token,
    Catalog,
    Tags { image: ImageName },
    GetManifest { image: ImageName, reference: Reference },
    PutManifest { image: ImageName, reference: Reference },
    DeleteManifest { image: ImageName, reference: Reference },
    GetBlob { image: ImageName, digest: Digest },
    DeleteBlob { image: ImageName, digest: Digest },
    StartUpload { image: ImageName },
    UploadStatus { image: ImageName, id: UploadId },
    AppendUpload { image: ImageName, id: UploadId },
    FinishUpload { image: ImageName, id: UploadId },
    CancelUpload { image: ImageName, id: UploadId },
    Referrers { image: ImageName, digest: Digest },
}

/// Why a path or its method leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Something in the path that another reader might take for something else.
    UnsafePath,
    /// No such path.
    NotFound,
    /// The path is there, but not for this method.
    MethodNotAllowed,
    /// The image name is none.
    InvalidName,
    /// The tag is none.
    InvalidTag,
    /// The digest is none.
    InvalidDigest,
    /// The digest is a tarsum, as docker 1.5 calls layers over V2: there is no such blob.
    UnknownTarsum,
    /// The upload id is none, so there is no such upload.
    UnknownUpload,
    /// The name of a user, group or permission target is none.
    InvalidAccountName,
    /// The key of a repository is none.
    InvalidRepositoryKey,
    /// The V1 image id is none, so there is no such image.
    UnknownV1Image,
    /// Behind the repository's key there is no image, at an address of all repositories.
    NoImage,
    /// An address of all repositories does not speak V1.
    OnlyV2,
}

/// What a path is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target<'p> {
    /// A repository.
    Docker(DockerTarget<'p>),
    /// Management: everything behind `api/`.
    Rest(&'p str),
    /// The files of a repository's tree: everything behind `/artifactory/`.
    Tree(&'p str),
    /// Health, at the root.
    Health(&'p str),
}

/// Where a path is at, and the rest of it, still as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DockerTarget<'p> {
    pub(crate) api: Api,
    pub(crate) place: Place,
    /// Everything in front of `v1/` or `v2/`.
    pub(crate) root: &'p str,
    /// Everything behind it.
    rest: &'p str,
}

/// The API that a path is about, if only by its looks.
pub(crate) fn api(path: &str) -> Api {
    target(path).map_or_else(|(api, _)| api, |target| target.api())
}

/// Finds the repository and the API that a path is about.
pub(crate) fn target(path: &str) -> Result<Target<'_>, (Api, Refusal)> {
    let unsafe_path = path.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'%' | b'\\' | b'?' | b'#'))
        || path.split('/').skip(1).any(|segment| segment == "." || segment == "..")
        || path.contains("//");
    if is_health(path) {
        return Ok(Target::Health(path));
    }
    if let Some(rest) = path.strip_prefix(TREE_PREFIX).filter(|rest| !rest.is_empty() && *rest != "api" && !rest.starts_with("api/")) {
        return if unsafe_path { Err((Api::Rest, Refusal::UnsafePath)) } else { Ok(Target::Tree(rest)) };
    }
    let rest = API_PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix)).ok_or((Api::Rest, Refusal::NotFound));
    let rest = match rest.map(|rest| (rest.strip_prefix(DOCKER_PREFIX), rest)) {
        Ok((None, _)) if unsafe_path => return Err((Api::Rest, Refusal::UnsafePath)),
        Ok((None, rest)) => return Ok(Target::Rest(rest)),
        // Actions on a repository lie among its docker paths, and no docker path looks like one.
        Ok((Some(docker), rest)) if is_action(docker) => {
            return if unsafe_path { Err((Api::Rest, Refusal::UnsafePath)) } else { Ok(Target::Rest(rest)) };
        }
        Ok((Some(docker), _)) => Ok(docker),
        Err(refused) => Err(refused),
    };
    let api = |tail: &str| match tail.split('/').next() {
        Some("v1") => Some(Api::V1),
        Some("v2") => Some(Api::V2),
        _ => None,
    };
    let parts = rest.map(|rest| rest.split_once('/').unwrap_or((rest, "")));
    if unsafe_path {
        return Err((parts.ok().and_then(|(_, tail)| api(tail)).unwrap_or(Api::Rest), Refusal::UnsafePath));
    }
    let (key, tail) = parts?;
    let api = api(tail).ok_or((Api::Rest, Refusal::NotFound))?;
    let rest = tail.get(3..).unwrap_or_default();
    let (place, rest) = if key == ALL_REPOSITORIES {
        among_all(api, rest).map_err(|refusal| (api, refusal))?
    } else {
        (Place::Own(key.parse().map_err(|_| (api, Refusal::NotFound))?), rest)
    };
    let root = &path[..path.len() - tail.len()];
    Ok(Target::Docker(DockerTarget { api, place, root, rest }))
}

/// Finds the repository that a path at an address of all is about, and what is asked of it.
fn among_all(api: Api, rest: &str) -> Result<(Place, &str), Refusal> {
    if api != Api::V2 {
        return Err(Refusal::OnlyV2);
    }
    if is_nameless(rest) {
        return Ok((Place::All, rest));
    }
    // A key alone is no name: what is asked of an address as a whole can't be asked of one repository here.
    let (key, rest) = rest.split_once('/').filter(|(_, rest)| !is_nameless(rest)).ok_or(Refusal::NoImage)?;
    Ok((Place::Keyed(key.parse().map_err(|_| Refusal::InvalidName)?), rest))
}

/// Whether a path behind `v2/` names no image.
fn is_nameless(rest: &str) -> bool {
    matches!(rest, "" | "token" | "_catalog")
}

/// Whether the path asks whether we are well.
pub(crate) fn is_health(path: &str) -> bool {
    path == "/healthz" || path.starts_with("/healthz/")
}

/// Whether the path behind `docker/` is about what is done to a repository rather than what docker asks of it.
fn is_action(docker: &str) -> bool {
    let (front, action) = docker.split_once('/').unwrap_or((docker, ""));
    // A repository may be called `jobs` as well.
    if front == ALL_REPOSITORIES {
        return false;
    }
    let is_job = front == "jobs" && !matches!(action.split('/').next(), Some("v1" | "v2"));
    is_job || matches!(action, "v1/promote" | "v2/promote" | "v1/migrate" | "v1/ancestry" | "v1/info" | "v2/info" | "v2/receipts")
}

impl V1 {
    /// The image that it is about, if it names one.
    pub(crate) fn image_mut(&mut self) -> Option<&mut ImageName> {
        match self {
            Self::PutRepository { image }
            | Self::GetRepositoryImages { image }
            | Self::PutRepositoryImages { image }
            | Self::GetProperties { image }
            | Self::GetRepositoryJson { image }
            | Self::GetTags { image }
            | Self::GetTag { image, .. }
            | Self::PutTag { image, .. }
            | Self::DeleteTag { image, .. }
            | Self::DeleteRepository { image }
            | Self::GetTagJson { image, .. } => Some(image),
            Self::Ping
            | Self::CreateUser
            | Self::GetUser
            | Self::Search
            | Self::GetImageJson { .. }
            | Self::PutImageJson { .. }
            | Self::GetLayer { .. }
            | Self::PutLayer { .. }
            | Self::PutChecksum { .. }
            | Self::GetAncestry { .. } => None,
        }
    }

    /// What it does, as [`berth_names::wire`] has it.
    pub(crate) fn effect(&self) -> Effect {
        match self {
            Self::Ping => Effect::Pings,
            // Nobody is created: docker asks whether the password is right.
            Self::CreateUser | Self::GetUser => Effect::LogsIn,
            Self::Search
            | Self::GetRepositoryImages { .. }
            | Self::GetProperties { .. }
            | Self::GetRepositoryJson { .. }
            | Self::GetTags { .. }
            | Self::GetTag { .. }
            | Self::GetTagJson { .. }
            | Self::GetImageJson { .. }
            | Self::GetLayer { .. }
            | Self::GetAncestry { .. } => Effect::Reads,
            Self::PutRepository { .. }
            | Self::PutRepositoryImages { .. }
            | Self::PutTag { .. }
            | Self::DeleteTag { .. }
            | Self::DeleteRepository { .. }
            | Self::PutImageJson { .. }
            | Self::PutLayer { .. }
            | Self::PutChecksum { .. } => Effect::Writes,
        }
    }
}

impl V2 {
    /// What it does, as [`berth_names::wire`] has it.
    pub(crate) fn effect(&self) -> Effect {
        match self {
            Self::Base => Effect::Pings,
            Self::Token => Effect::LogsIn,
            Self::Catalog
            | Self::Tags { .. }
            | Self::GetManifest { .. }
            | Self::GetBlob { .. }
            | Self::UploadStatus { .. }
            | Self::Referrers { .. } => Effect::Reads,
            Self::PutManifest { .. }
            | Self::DeleteManifest { .. }
            | Self::DeleteBlob { .. }
            | Self::StartUpload { .. }
            | Self::AppendUpload { .. }
            | Self::FinishUpload { .. }
            | Self::CancelUpload { .. } => Effect::Writes,
        }
    }
}

impl Route {
    /// What it does, as [`berth_names::wire`] has it.
    pub(crate) fn effect(&self) -> Effect {
        match self {
            Self::V1(route) => route.effect(),
            Self::V2(route) => route.effect(),
        }
    }
}

impl Target<'_> {
    pub(crate) fn api(&self) -> Api {
        match self {
            Self::Docker(target) => target.api,
            Self::Rest(_) | Self::Tree(_) | Self::Health(_) => Api::Rest,
        }
    }

    /// What stands in front of `v1/` or `v2/`.
    pub(crate) fn root(&self) -> &str {
        match self {
            Self::Docker(target) => target.root,
            Self::Rest(_) | Self::Tree(_) | Self::Health(_) => "/",
        }
    }
}

impl DockerTarget<'_> {
    /// Whether it is about tokens.
    pub(crate) fn is_token(&self) -> bool {
        self.api == Api::V2 && self.rest == "token"
    }

    /// What the request asks there.
    pub(crate) fn route(&self, method: &Method) -> Result<Route, Refusal> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        match self.api {
            Api::V1 => v1(method, self.rest).map(Route::V1),
            Api::V2 => v2(method, self.rest).map(Route::V2).map_err(|refusal| match refusal {
                // Most likely a name without its repository.
                Refusal::NotFound if self.place.is_of_all() => Refusal::NoImage,
                refusal => refusal,
            }),
            Api::Rest => Err(Refusal::NotFound),
        }
    }
}

fn v2(method: &Method, rest: &str) -> Result<V2, Refusal> {
    match rest {
        "" => return only(method, &[(Method::GET, V2::Base)]),
        "token" => return only(method, &[(Method::GET, V2::Token), (Method::POST, V2::Token)]),
        "_catalog" => return only(method, &[(Method::GET, V2::Catalog)]),
        _ => {}
    }
    // Both spellings of the collection of uploads are in use.
    if let Some(name) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
        // `x/blobs/uploads` could also be a blob called `uploads`, which is no digest: nothing is lost.
        return only(method, &[(Method::POST, V2::StartUpload { image: image(name)? })]);
    }
    let (front, last) = rest.rsplit_once('/').ok_or(Refusal::NotFound)?;
    if let Some(name) = front.strip_suffix("/blobs/uploads") {
        let (image, id) = (image(name)?, last.parse().map_err(|_| Refusal::UnknownUpload)?);
        return match *method {
            Method::GET => Ok(V2::UploadStatus { image, id }),
            Method::PATCH => Ok(V2::AppendUpload { image, id }),
            Method::PUT => Ok(V2::FinishUpload { image, id }),
            Method::DELETE => Ok(V2::CancelUpload { image, id }),
            _ => Err(Refusal::MethodNotAllowed),
        };
    }
    if let Some(name) = front.strip_suffix("/manifests") {
        let (image, reference) = (image(name)?, last.parse().map_err(invalid_reference)?);
        return match *method {
            Method::GET => Ok(V2::GetManifest { image, reference }),
            Method::PUT => Ok(V2::PutManifest { image, reference }),
            Method::DELETE => Ok(V2::DeleteManifest { image, reference }),
            _ => Err(Refusal::MethodNotAllowed),
        };
    }
    if let Some(name) = front.strip_suffix("/blobs") {
        if is_tarsum(last) {
            return Err(image(name).err().unwrap_or(Refusal::UnknownTarsum));
        }
        let (image, digest) = (image(name)?, digest(last)?);
        return match *method {
            Method::GET => Ok(V2::GetBlob { image, digest }),
            Method::DELETE => Ok(V2::DeleteBlob { image, digest }),
            _ => Err(Refusal::MethodNotAllowed),
        };
    }
    if let Some(name) = front.strip_suffix("/referrers") {
        return only(method, &[(Method::GET, V2::Referrers { image: image(name)?, digest: digest(last)? })]);
    }
    match (front.strip_suffix("/tags"), last) {
        (Some(name), "list") => only(method, &[(Method::GET, V2::Tags { image: image(name)? })]),
        _ => Err(Refusal::NotFound),
    }
}

fn v1(method: &Method, rest: &str) -> Result<V1, Refusal> {
    match rest {
        "_ping" => return only(method, &[(Method::GET, V1::Ping)]),
        "users" | "users/" => return only(method, &[(Method::POST, V1::CreateUser), (Method::GET, V1::GetUser)]),
        "search" => return only(method, &[(Method::GET, V1::Search)]),
        _ => {}
    }
    if let Some(rest) = rest.strip_prefix("images/") {
        return v1_image(method, rest);
    }
    let rest = rest.strip_prefix("repositories/").ok_or(Refusal::NotFound)?;
    match rest.strip_suffix('/') {
        // With a slash at its end a PUT starts the push of that image, whatever it is called: docker writes
        // `foo/images/` to start a push of `foo/images`, and `foo/images` to end one of `foo`.
        Some(name) if method == Method::PUT => Ok(V1::PutRepository { image: v1_name(name)? }),
        Some(rest) => v1_repository(method, rest),
        None => v1_repository(method, rest),
    }
}

fn v1_image(method: &Method, rest: &str) -> Result<V1, Refusal> {
    let (id, what) = rest.split_once('/').ok_or(Refusal::NotFound)?;
    let id: ImageId = id.parse().map_err(|_| Refusal::UnknownV1Image)?;
    match what {
        "json" => only(method, &[(Method::GET, V1::GetImageJson { id }), (Method::PUT, V1::PutImageJson { id })]),
        "layer" => only(method, &[(Method::GET, V1::GetLayer { id }), (Method::PUT, V1::PutLayer { id })]),
        "checksum" => only(method, &[(Method::PUT, V1::PutChecksum { id })]),
        "ancestry" => only(method, &[(Method::GET, V1::GetAncestry { id })]),
        _ => Err(Refusal::NotFound),
    }
}

/// The last suffix that fits decides: `tags/images` is the image list of an image called `tags`.
fn v1_repository(method: &Method, rest: &str) -> Result<V1, Refusal> {
    if let Some(name) = rest.strip_suffix("/images") {
        let image = v1_name(name)?;
        let put = V1::PutRepositoryImages { image: image.clone() };
        return only(method, &[(Method::GET, V1::GetRepositoryImages { image }), (Method::PUT, put)]);
    }
    if method == Method::DELETE
        && let Some(name) = rest.strip_suffix("/tags")
    {
        return Ok(V1::DeleteRepository { image: v1_name(name)? });
    }
    if method == Method::GET
        && let Some(route) = v1_read(rest)?
    {
        return Ok(route);
    }
    if let Some((name, tag)) = split_tag(rest) {
        let (image, tag) = (v1_name(name)?, parse_tag(tag)?);
        let put = V1::PutTag { image: image.clone(), tag: tag.clone() };
        let delete = V1::DeleteTag { image: image.clone(), tag: tag.clone() };
        return only(method, &[(Method::GET, V1::GetTag { image, tag }), (Method::PUT, put), (Method::DELETE, delete)]);
    }
    let image = v1_name(rest)?;
    only(method, &[(Method::PUT, V1::PutRepository { image: image.clone() }), (Method::DELETE, V1::DeleteRepository { image })])
}

/// What can only be read. In a PUT the same word is a tag's or an image's name: `foo:json` can be pushed.
fn v1_read(rest: &str) -> Result<Option<V1>, Refusal> {
    Ok(Some(if let Some(name) = rest.strip_suffix("/tags") {
        V1::GetTags { image: v1_name(name)? }
    } else if let Some(name) = rest.strip_suffix("/properties") {
        V1::GetProperties { image: v1_name(name)? }
    } else if let Some((name, tag)) = rest.strip_suffix("/json").and_then(split_tag) {
        V1::GetTagJson { image: v1_name(name)?, tag: parse_tag(tag)? }
    } else if let Some(name) = rest.strip_suffix("/json") {
        V1::GetRepositoryJson { image: v1_name(name)? }
    } else {
        return Ok(None);
    }))
}

/// `<name>/tags/<tag>`
fn split_tag(rest: &str) -> Option<(&str, &str)> {
    let (front, tag) = rest.rsplit_once('/')?;
    Some((front.strip_suffix("/tags")?, tag))
}

/// The route of the method among those that the path has.
fn only<R: Clone>(method: &Method, routes: &[(Method, R)]) -> Result<R, Refusal> {
    routes.iter().find(|(allowed, _)| allowed == method).map(|(_, route)| route.clone()).ok_or(Refusal::MethodNotAllowed)
}

fn image(name: &str) -> Result<ImageName, Refusal> {
    name.parse().map_err(|_| Refusal::InvalidName)
}

fn v1_name(name: &str) -> Result<ImageName, Refusal> {
    ImageName::from_v1(name).map_err(|_| Refusal::InvalidName)
}

fn parse_tag(tag: &str) -> Result<Tag, Refusal> {
    tag.parse().map_err(|_| Refusal::InvalidTag)
}

/// Whether a text is what docker 1.5 has for a layer's digest: `tarsum.v1+sha256:…`, of one version of tarsum or another.
pub(crate) fn is_tarsum(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, _)| algorithm == "tarsum+sha256" || algorithm.starts_with("tarsum."))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|_| Refusal::InvalidDigest)
}

fn invalid_reference(invalid: InvalidReference) -> Refusal {
    match invalid {
        InvalidReference::Tag(_) => Refusal::InvalidTag,
        InvalidReference::Digest(_) => Refusal::InvalidDigest,
    }
}

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod work;
