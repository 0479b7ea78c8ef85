//! What a request demands of whoever sends it, and what those hear who don't have it: the one gate in front of handlers.

use berth_names::ImageName;
use berth_registry::access::{Caller, Policy, Right};
use berth_registry::{Error, Repository};
use http::StatusCode;

use super::errors;
use super::respond::Answer;
use super::route::{Route, V1, V2};

/// What a route demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand<'r> {
    /// Nothing: clients send no credentials with it, or it looks at them itself.
    Nothing,
    /// To have logged in.
    Account,
    /// To have logged in, or to have some right in the repository without it. A client that pings must be asked for its
    /// password, or it never sends one; and whoever has given the right one has logged in, whatever they may do then.
    Ping,
    /// To have some right in the repository; the answer shows only what the caller may read.
    List,
    /// To have some right in the repository. Ids carry no name: the handlers ask through which names they can be seen.
    ById,
    /// A right to an image.
    Image(&'r ImageName, Right),
    /// A right to some image: what has no name is checked when it gets one.
    SomeImage(Right),
}

/// What the route demands.
pub(crate) fn demand(route: &Route) -> Demand<'_> {
    match route {
        Route::V1(V1::Ping) | Route::V2(V2::Token) => Demand::Nothing,
        Route::V1(V1::CreateUser | V1::GetUser) => Demand::Account,
        Route::V2(V2::Base) => Demand::Ping,
        Route::V1(V1::Search) | Route::V2(V2::Catalog) => Demand::List,
        Route::V1(V1::GetImageJson { .. } | V1::GetLayer { .. } | V1::GetAncestry { .. }) => Demand::ById,
        Route::V1(V1::PutImageJson { .. } | V1::PutLayer { .. } | V1::PutChecksum { .. }) => Demand::SomeImage(Right::Deploy),
        Route::V1(
            V1::GetRepositoryImages { image }
            | V1::GetProperties { image }
            | V1::GetRepositoryJson { image }
            | V1::GetTags { image }
            | V1::GetTag { image, .. }
            | V1::GetTagJson { image, .. },
        )
        | Route::V2(V2::Tags { image } | V2::GetManifest { image, .. } | V2::GetBlob { image, .. } | V2::Referrers { image, .. }) => {
            Demand::Image(image, Right::Read)
        }
        Route::V1(V1::PutRepository { image } | V1::PutRepositoryImages { image } | V1::PutTag { image, .. })
        | Route::V2(
            V2::PutManifest { image, .. }
            | V2::StartUpload { image }
            | V2::UploadStatus { image, .. }
            | V2::AppendUpload { image, .. }
            | V2::FinishUpload { image, .. }
            | V2::CancelUpload { image, .. },
        ) => Demand::Image(image, Right::Deploy),
        Route::V1(V1::DeleteRepository { image } | V1::DeleteTag { image, .. })
        | Route::V2(V2::DeleteManifest { image, .. } | V2::DeleteBlob { image, .. }) => Demand::Image(image, Right::Delete),
    }
}

/// Why a request may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// Nobody has logged in: whoever does may get further.
    LogIn,
    /// The account may, but the token was not issued for it.
    OtherToken,
    /// The caller may not even know whether it is there.
    Hidden,
    /// The caller may not.
    Forbidden,
}

/// Whether the caller may go on.
pub(crate) fn decide(demand: Demand<'_>, caller: &Caller, repository: &Repository, policy: &Policy) -> Result<(), Denied> {
    let account = caller.without_grants();
    let nowhere = policy.rights_somewhere(&account, repository).is_empty();
    let denied = |denied: Denied| Err(if caller.is_anonymous() { Denied::LogIn } else { denied });
    match demand {
        Demand::Nothing => Ok(()),
        Demand::Account if caller.is_anonymous() => Err(Denied::LogIn),
        Demand::Account => Ok(()),
        Demand::Ping => {
            let asks_first = !caller.shows_signed_token() && repository.challenge == berth_registry::Challenge::Bearer;
            if caller.is_anonymous() && (nowhere || asks_first) { Err(Denied::LogIn) } else { Ok(()) }
        }
        Demand::List | Demand::ById if nowhere => denied(Denied::Hidden),
        Demand::List if !caller.may_list() => Err(Denied::OtherToken),
        Demand::List | Demand::ById => Ok(()),
        Demand::Image(image, right) => {
            let may = |caller: &Caller| policy.rights(caller, repository, image).has(right);
            match (may(caller), may(&account), right) {
                (true, ..) => Ok(()),
                (false, true, _) => Err(Denied::OtherToken),
                _ if nowhere => denied(Denied::Hidden),
                (false, false, Right::Read) => denied(Denied::Hidden),
                (false, false, _) => denied(Denied::Forbidden),
            }
        }
        Demand::SomeImage(right) => {
            let may = |caller: &Caller| policy.rights_somewhere(caller, repository).has(right);
            match (may(caller), may(&account)) {
                (true, _) => Ok(()),
                (false, true) => Err(Denied::OtherToken),
                _ if nowhere => denied(Denied::Hidden),
                _ => denied(Denied::Forbidden),
            }
        }
    }
}

/// What a caller hears of something that it may not know of: the same as if it was not there.
pub(crate) fn as_if_absent(route: &Route) -> Answer {
    match route {
        Route::V1(V1::GetRepositoryImages { .. }) => errors::v1(StatusCode::NOT_FOUND, "images not found"),
        Route::V1(V1::GetTag { tag, .. } | V1::GetTagJson { tag, .. }) => errors::of_v1(&Error::V1TagUnknown(tag.clone())),
        Route::V1(V1::GetImageJson { id } | V1::GetLayer { id } | V1::GetAncestry { id }) => errors::of_v1(&Error::V1ImageUnknown(*id)),
        Route::V1(_) => errors::v1(StatusCode::NOT_FOUND, "Repository not found"),
        Route::V2(_) => errors::v2(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "the image is not known"),
    }
}
