//! [`Work::of`], by which both services bound their waits, says of every route what is true of it.

use berth_names::Work;

use super::*;
use crate::http::rest::{self, Browse, Rest};

/// How much of a request to a route is sent, and how long its answer may take.
fn work(route: &Route) -> Work {
    match route {
        Route::V1(V1::PutLayer { .. }) => Work::UPLOAD,
        Route::V2(V2::StartUpload { .. } | V2::AppendUpload { .. } | V2::FinishUpload { .. }) => Work::UPLOAD,
        // All tags of an image go, or all tags of a manifest.
        Route::V1(V1::DeleteRepository { .. }) | Route::V2(V2::DeleteManifest { .. }) => Work::LONG,
        Route::V1(
            V1::Ping
            | V1::CreateUser
            | V1::GetUser
            | V1::Search
            | V1::PutRepository { .. }
            | V1::GetRepositoryImages { .. }
            | V1::PutRepositoryImages { .. }
            | V1::GetProperties { .. }
            | V1::GetRepositoryJson { .. }
            | V1::GetTags { .. }
            | V1::GetTag { .. }
            | V1::PutTag { .. }
            | V1::DeleteTag { .. }
            | V1::GetTagJson { .. }
            | V1::GetImageJson { .. }
            | V1::PutImageJson { .. }
            | V1::GetLayer { .. }
            | V1::PutChecksum { .. }
            | V1::GetAncestry { .. },
        ) => Work::QUICK,
        Route::V2(
            V2::Base
            | V2::Token
            | V2::Catalog
            | V2::Tags { .. }
            | V2::GetManifest { .. }
            | V2::PutManifest { .. }
            | V2::GetBlob { .. }
            | V2::DeleteBlob { .. }
            | V2::UploadStatus { .. }
            | V2::CancelUpload { .. }
            | V2::Referrers { .. },
        ) => Work::QUICK,
    }
}

fn work_of_rest(route: &Rest) -> Work {
    match route {
        Rest::Promote(..) | Rest::Migrate(_) | Rest::DeleteRepository(_) | Rest::CollectGarbage | Rest::MakeBackup => Work::LONG,
        // A folder goes with all that is in it, and so do its properties; a repository is looked through.
        Rest::Browse(
            Browse::SetProperties(_)
            | Browse::DeleteProperties(_)
            | Browse::Delete(_)
            | Browse::Ancestry(_)
            | Browse::V1Info(_)
            | Browse::V2Info(_),
        ) => Work::LONG,
        Rest::Browse(Browse::Info(_) | Browse::Download(_) | Browse::SearchProperties | Browse::SearchNames)
        | Rest::List(_)
        | Rest::Get(..)
        | Rest::Put(..)
        | Rest::Post(..)
        | Rest::Delete(..)
        | Rest::ChangePassword
        | Rest::ListTokens
        | Rest::CreateToken
        | Rest::RevokeToken(_)
        | Rest::Audit
        | Rest::ListRepositories
        | Rest::GetRepository(_)
        | Rest::CreateRepository(_)
        | Rest::UpdateRepository(_)
        | Rest::SystemPing
        | Rest::SystemVersion
        | Rest::Receipts(_)
        | Rest::ListJobs
        | Rest::GetJob(_)
        | Rest::Freed
        | Rest::BackupProgress
        | Rest::Description
        | Rest::Alive
        | Rest::Ready => Work::QUICK,
    }
}

const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::PATCH, Method::DELETE];

/// What stands in front, and what may follow it: words of paths, and names that look like them.
const FRONTS: [&str; 8] =
    ["docker/docker-local/v2/", "docker/_all/v2/key/", "docker/jobs/v2/", "docker/v1/v1/", "docker/jobs/v1/", "storage/", "", "docker/"];
const WORDS: [&str; 22] = [
    "a",
    "tags",
    "list",
    "1.0",
    "manifests",
    "blobs",
    "uploads",
    "token",
    "_catalog",
    "referrers",
    "repositories",
    "images",
    "json",
    "layer",
    "checksum",
    "properties",
    "promote",
    "migrate",
    "info",
    "ancestry",
    "v1",
    "v2",
];
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Holds one path against its route, if it has one. Whether it does.
fn agrees(method: &Method, path: &str) -> bool {
    let expected = match target(path) {
        Ok(Target::Docker(target)) => target.route(method).ok().map(|route| work(&route)),
        Ok(target) => rest::find(&target, method).ok().map(|route| work_of_rest(&route)),
        Err(_) => None,
    };
    if let Some(expected) = expected {
        assert_eq!(Work::of(method.as_str(), path), expected, "{method} {path}");
    }
    expected.is_some()
}

#[test]
fn what_a_path_tells_of_the_work_is_what_its_route_does() {
    let mut seen = 0;
    let mut hold = |path: &str| seen += METHODS.iter().filter(|method| agrees(method, path)).count();
    let digest = format!("sha256:{ID}");
    for prefix in ["/api/", "/artifactory/api/", "/artifactory/"] {
        for front in FRONTS {
            for first in WORDS {
                for second in WORDS {
                    for rest in [
                        "",
                        "/",
                        "/a",
                        "/uploads",
                        "/uploads/",
                        "/1.0",
                        "/tags/1.0",
                        "/images",
                        "/layer",
                        "/manifests/1.0",
                        &format!("/{ID}"),
                        &format!("/{digest}"),
                    ] {
                        hold(&format!("{prefix}{front}{first}/{second}{rest}"));
                    }
                }
                hold(&format!("{prefix}{front}{first}"));
                hold(&format!("{prefix}{front}{first}/{ID}/layer"));
                hold(&format!("{prefix}{front}a/{first}/blobs/uploads/0123456789abcdef0123456789abcdef"));
            }
        }
        for path in [
            "security/users",
            "security/users/a",
            "security/groups/a",
            "security/permissions/a",
            "security/tokens",
            "security/tokens/a",
            "security/password",
            "repositories",
            "repositories/a",
            "system/ping",
            "system/version",
            "system/storage/gc",
            "system/backup",
            "search/prop",
            "search/artifact",
            "openapi.json",
            "audit",
            "docker/jobs",
            "storage/a/b",
            "docker/a/v2/receipts",
        ] {
            hold(&format!("{prefix}{path}"));
            hold(&format!("{prefix}{path}/"));
        }
    }
    for path in ["/healthz", "/healthz/live", "/healthz/ready"] {
        hold(path);
    }
    assert!(seen > 10_000, "{seen} routes were found");
}
