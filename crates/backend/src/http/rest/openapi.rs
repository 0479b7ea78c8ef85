//! The description of this API in OpenAPI 3.1, made by the code that serves it.
//!
//! - Every route has an operation: [`OperationName::of`] is one exhaustive match, so a new route does not compile undescribed.
//! - What is read and answered is described by the types that serde reads and writes ([`schemas`]).
//! - Who may call is what [`super::demand`] says of the route that the router itself finds for a path.
//! - Every answer that the in-process tests of this API get is held against the description (`http/tests/described.rs`).

mod docker;
pub(super) mod names;
mod operation;
mod repositories;
mod schemas;
mod security;
mod storage;
mod system;

use std::sync::OnceLock;

use berth_names::ApiVersion;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, ETAG};
use serde_json::{Map, Value, json};

use super::{Browse, Noun, Rest, demand, find};
use crate::http::respond::{Answer, With, tag_of, whole};
use crate::http::route;
use operation::{Operation, REFUSALS, Tag, Way};
pub(super) use schemas::add_properties;
use schemas::{Schemas, object};

/// The path in front of all paths but those at the root.
const CONTEXT: &str = "/artifactory";

/// A parameter of paths.
struct PathParameter {
    name: &'static str,
    /// One that the router takes.
    example: &'static str,
    meaning: &'static str,
    schema: fn(&mut Schemas) -> Value,
}

const PATH_PARAMETERS: [PathParameter; 7] = [
    PathParameter {
        name: "repoKey",
        example: "docker-local",
        meaning: "The key of a repository.",
        schema: Schemas::inline::<names::RepositoryKey>,
    },
    PathParameter {
        name: "itemPath",
        example: "jfrog/ubuntu/12.04",
        meaning: "A path in the repository's tree. It may have several parts; the slashes between them are not encoded.",
        schema: Schemas::inline::<String>,
    },
    PathParameter { name: "userName", example: "alice", meaning: "The name of a user.", schema: Schemas::inline::<names::AccountName> },
    PathParameter {
        name: "groupName",
        example: "developers",
        meaning: "The name of a group.",
        schema: Schemas::inline::<names::AccountName>,
    },
    PathParameter {
        name: "permissionName",
        example: "releases",
        meaning: "The name of a permission target.",
        schema: Schemas::inline::<names::AccountName>,
    },
    PathParameter {
        name: "tokenId",
        example: "7f3ab2c4d5e6f708",
        meaning: "The id of an access token, as lists have it.",
        schema: Schemas::inline::<String>,
    },
    PathParameter {
        name: "jobId",
        example: "0000019a0b1c2d3e4f5061728394a5b6",
        meaning: "The id of a job, as the answer to a migration has it.",
        schema: Schemas::inline::<names::JobId>,
    },
];

/// Makes the names of all operations, and the list of them, in one go.
macro_rules! operation_names {
    ($($name:ident)*) => {
        /// What an operation is called.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum OperationName {
            $($name,)*
        }

        impl OperationName {
            const ALL: &[Self] = &[$(Self::$name,)*];

            const fn in_code(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

operation_names! {
    ListRepositories GetRepository CreateRepository UpdateRepository DeleteRepository
    GetItem SetProperties DeleteProperties GetFile DeleteItem
    SearchByProperties SearchByName
    PromoteV1 PromoteV2 Migrate ListReceipts ListJobs GetJob GetAncestry GetV1Info GetV2Info
    ListUsers GetUser PutUser UpdateUser DeleteUser
    ListGroups GetGroup PutGroup UpdateGroup DeleteGroup
    ListPermissions GetPermission PutPermission UpdatePermission DeletePermission
    ChangePassword ListTokens CreateToken RevokeToken GetAuditLog
    Ping GetVersion GetFreed CollectGarbage MakeBackup GetBackupProgress GetLiveness GetReadiness GetDescription
}

impl OperationName {
    /// The operation of a route.
    pub(crate) fn of(route: &Rest) -> Self {
        match route {
            Rest::List(Noun::User) => Self::ListUsers,
            Rest::Get(Noun::User, _) => Self::GetUser,
            Rest::Put(Noun::User, _) => Self::PutUser,
            Rest::Post(Noun::User, _) => Self::UpdateUser,
            Rest::Delete(Noun::User, _) => Self::DeleteUser,
            Rest::List(Noun::Group) => Self::ListGroups,
            Rest::Get(Noun::Group, _) => Self::GetGroup,
            Rest::Put(Noun::Group, _) => Self::PutGroup,
            Rest::Post(Noun::Group, _) => Self::UpdateGroup,
            Rest::Delete(Noun::Group, _) => Self::DeleteGroup,
            Rest::List(Noun::Permission) => Self::ListPermissions,
            Rest::Get(Noun::Permission, _) => Self::GetPermission,
            Rest::Put(Noun::Permission, _) => Self::PutPermission,
            Rest::Post(Noun::Permission, _) => Self::UpdatePermission,
            Rest::Delete(Noun::Permission, _) => Self::DeletePermission,
            Rest::ChangePassword => Self::ChangePassword,
            Rest::ListTokens => Self::ListTokens,
            Rest::CreateToken => Self::CreateToken,
            Rest::RevokeToken(_) => Self::RevokeToken,
            Rest::Audit => Self::GetAuditLog,
            Rest::ListRepositories => Self::ListRepositories,
            Rest::GetRepository(_) => Self::GetRepository,
            Rest::CreateRepository(_) => Self::CreateRepository,
            Rest::UpdateRepository(_) => Self::UpdateRepository,
            Rest::DeleteRepository(_) => Self::DeleteRepository,
            Rest::SystemPing => Self::Ping,
            Rest::SystemVersion => Self::GetVersion,
            Rest::Promote(ApiVersion::V1, _) => Self::PromoteV1,
            Rest::Promote(ApiVersion::V2, _) => Self::PromoteV2,
            Rest::Migrate(_) => Self::Migrate,
            Rest::Receipts(_) => Self::ListReceipts,
            Rest::ListJobs => Self::ListJobs,
            Rest::GetJob(_) => Self::GetJob,
            Rest::Browse(Browse::Info(_)) => Self::GetItem,
            Rest::Browse(Browse::SetProperties(_)) => Self::SetProperties,
            Rest::Browse(Browse::DeleteProperties(_)) => Self::DeleteProperties,
            Rest::Browse(Browse::Download(_)) => Self::GetFile,
            Rest::Browse(Browse::Delete(_)) => Self::DeleteItem,
            Rest::Browse(Browse::SearchProperties) => Self::SearchByProperties,
            Rest::Browse(Browse::SearchNames) => Self::SearchByName,
            Rest::Browse(Browse::Ancestry(_)) => Self::GetAncestry,
            Rest::Browse(Browse::V1Info(_)) => Self::GetV1Info,
            Rest::Browse(Browse::V2Info(_)) => Self::GetV2Info,
            Rest::Freed => Self::GetFreed,
            Rest::CollectGarbage => Self::CollectGarbage,
            Rest::MakeBackup => Self::MakeBackup,
            Rest::BackupProgress => Self::GetBackupProgress,
            Rest::Alive => Self::GetLiveness,
            Rest::Ready => Self::GetReadiness,
            Rest::Description => Self::GetDescription,
        }
    }

    /// What it is.
    fn operation(self, schemas: &mut Schemas) -> Operation {
        match self {
            Self::ListRepositories => repositories::list(schemas),
            Self::GetRepository => repositories::get(schemas),
            Self::CreateRepository => repositories::create(schemas),
            Self::UpdateRepository => repositories::update(schemas),
            Self::DeleteRepository => repositories::delete(),
            Self::GetItem => storage::info(schemas),
            Self::SetProperties => storage::set_properties(),
            Self::DeleteProperties => storage::delete_properties(),
            Self::GetFile => storage::download(),
            Self::DeleteItem => storage::delete(),
            Self::SearchByProperties => storage::by_properties(schemas),
            Self::SearchByName => storage::by_name(schemas),
            Self::PromoteV1 => docker::promote(schemas, ApiVersion::V1),
            Self::PromoteV2 => docker::promote(schemas, ApiVersion::V2),
            Self::Migrate => docker::migrate(schemas),
            Self::ListReceipts => docker::receipts(schemas),
            Self::ListJobs => docker::list_jobs(schemas),
            Self::GetJob => docker::get_job(schemas),
            Self::GetAncestry => docker::ancestry(schemas),
            Self::GetV1Info => docker::v1_info(schemas),
            Self::GetV2Info => docker::v2_info(schemas),
            Self::ListUsers => security::list(schemas, Noun::User),
            Self::GetUser => security::get(schemas, Noun::User),
            Self::PutUser => security::put(schemas, Noun::User),
            Self::UpdateUser => security::update(schemas, Noun::User),
            Self::DeleteUser => security::delete(Noun::User),
            Self::ListGroups => security::list(schemas, Noun::Group),
            Self::GetGroup => security::get(schemas, Noun::Group),
            Self::PutGroup => security::put(schemas, Noun::Group),
            Self::UpdateGroup => security::update(schemas, Noun::Group),
            Self::DeleteGroup => security::delete(Noun::Group),
            Self::ListPermissions => security::list(schemas, Noun::Permission),
            Self::GetPermission => security::get(schemas, Noun::Permission),
            Self::PutPermission => security::put(schemas, Noun::Permission),
            Self::UpdatePermission => security::update(schemas, Noun::Permission),
            Self::DeletePermission => security::delete(Noun::Permission),
            Self::ChangePassword => security::change_password(schemas),
            Self::ListTokens => security::list_tokens(schemas),
            Self::CreateToken => security::create_token(schemas),
            Self::RevokeToken => security::revoke_token(schemas),
            Self::GetAuditLog => security::audit(schemas),
            Self::Ping => system::ping(),
            Self::GetVersion => system::version(schemas),
            Self::GetFreed => system::freed(schemas),
            Self::CollectGarbage => system::collect_garbage(schemas),
            Self::MakeBackup => system::make_backup(schemas),
            Self::GetBackupProgress => system::backup_progress(schemas),
            Self::GetLiveness => system::alive(),
            Self::GetReadiness => system::ready(),
            Self::GetDescription => system::description(),
        }
    }

    /// The name as OpenAPI's tools like it: `listUsers`.
    pub(crate) fn id(self) -> String {
        let name = self.in_code();
        name[..1].to_lowercase() + &name[1..]
    }
}

/// A path with an example in place of each parameter.
fn example(path: &str) -> String {
    PATH_PARAMETERS.iter().fold(path.to_owned(), |path, one| path.replace(&format!("{{{}}}", one.name), one.example))
}

/// The route that the router finds for the method and an example of the path.
fn leads_to(way: &Way) -> Option<Rest> {
    find(&route::target(&example(way.path)).ok()?, &way.method).ok()
}

/// The whole description.
pub(crate) fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    for name in OperationName::ALL {
        let operation = name.operation(&mut schemas);
        for way in &operation.ways {
            // A way that leads elsewhere than it says is none, and fails a test.
            let Some(route) = leads_to(way).filter(|route| OperationName::of(route) == *name) else { continue };
            let described = operation.describe(&name.id(), way, path_parameters(way.path), demand(&route));
            let (path, at_root) = match way.path.strip_prefix(CONTEXT) {
                Some(path) => (path, false),
                None => (way.path, true),
            };
            let item = paths.entry(path).or_insert_with(|| if at_root { json!({ "servers": [{ "url": "/" }] }) } else { json!({}) });
            item[way.method.as_str().to_lowercase()] = described;
        }
    }
    let refusal = object(
        &["errors"],
        json!({ "errors": { "type": "array", "items": object(&["status", "message"], json!({
            "status": { "type": "integer", "description": "The same as the answer's." },
            "message": { "type": "string", "description": "For a person." },
        })) } }),
    );
    let refusal = schemas.written("Errors", refusal);
    let responses: Map<String, Value> = REFUSALS
        .iter()
        .map(|(_, name, meaning)| {
            let described = json!({ "description": meaning, "content": { "application/json": { "schema": refusal } } });
            ((*name).to_owned(), described)
        })
        .collect();
    let parameters = parameters(&mut schemas);
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Berth",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Managing a registry of container images.",
            "description": "Paths, parameters and answers are Artifactory's, so that its scripts work. What stands under \
                `/artifactory/api/` is found under `/api/` too. `HEAD` is answered like `GET`, without the body. \
                What docker itself speaks is described by its own protocols.",
            "license": { "name": "Apache License 2.0", "identifier": "Apache-2.0" },
        },
        // Relative to where the description was read: right behind every binding, port and front.
        "servers": [{ "url": CONTEXT }],
        "tags": Tag::ALL.map(|(tag, meaning)| json!({ "name": tag.name(), "description": meaning })),
        "paths": paths,
        "components": {
            "schemas": schemas.into_components(),
            "responses": responses,
            "parameters": parameters,
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic", "description": "A user's name, and the password or an access token." },
                "accessToken": { "type": "http", "scheme": "bearer", "description": "An access token." },
            },
        },
    })
}

fn parameters(schemas: &mut Schemas) -> Map<String, Value> {
    let describe = |PathParameter { name, example, meaning, schema }: &PathParameter| {
        let schema = schema(schemas);
        let described = json!({
            "name": name, "in": "path", "required": true, "example": example, "description": meaning, "schema": schema,
        });
        ((*name).to_owned(), described)
    };
    PATH_PARAMETERS.iter().map(describe).collect()
}

/// References to the parameters that a path has.
fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0));
    names.map(|name| json!({ "$ref": format!("#/components/parameters/{name}") })).collect()
}

/// The description as it is served: the same bytes for everybody, made once.
pub(super) fn serve() -> Answer {
    static BYTES: OnceLock<Bytes> = OnceLock::new();
    static TAG: OnceLock<String> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| document().to_string().into()).clone();
    let tag = TAG.get_or_init(|| tag_of(&bytes));
    whole(StatusCode::OK, "application/json", bytes).with(CACHE_CONTROL, "no-cache").with(ETAG, tag)
}

#[cfg(test)]
mod tests;
