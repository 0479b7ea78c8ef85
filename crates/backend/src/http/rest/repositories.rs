//! Repositories: listing, reading, creating, changing and deleting them, in Artifactory's forms.

use std::collections::BTreeMap;

use berth_names::{ApiVersion, RepositoryKey};
use berth_registry::access::Pattern;
use berth_registry::{Body, Challenge, Repository};
use http::StatusCode;
use http::header::CACHE_CONTROL;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::openapi::{add_properties, names};
use super::{RestCall, bad, read_json, refused, said, seen_repository};
use crate::http::respond::{Answer, With, json as json_answer};

type Outcome = Result<Answer, Answer>;

/// The longest description or notes, in bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// Artifactory's settings that mean nothing here: taken, kept, and given back.
const FOREIGN: [&str; 24] = [
    "archiveBrowsingEnabled",
    "cdnRedirect",
    "checksumPolicyType",
    "debianTrivialLayout",
    "downloadRedirect",
    "enableFileListsIndexing",
    "environments",
    "handleReleases",
    "handleSnapshots",
    "internalDescription",
    "maxUniqueSnapshots",
    "optionalIndexCompressionFormats",
    "primaryKeyPairRef",
    "priorityResolution",
    "projectKey",
    "propertySets",
    "repoLayoutRef",
    "secondaryKeyPairRef",
    "signedUrlTtl",
    "snapshotVersionBehavior",
    "suppressPomConsistencyChecks",
    "xrayIndex",
    "calculateYumMetadata",
    "yumRootDepth",
];

/// What foreign settings may take up together, in bytes.
const FOREIGN_BYTES_MAX: usize = 16 << 10;

/// A repository, as it is sent. What is missing stays as it is, or gets its default.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = with_foreign)]
pub(super) struct Form {
    /// The same as in the path, if it is there.
    #[schemars(with = "Option<names::RepositoryKey>")]
    key: Option<RepositoryKey>,
    /// Only `local`.
    #[schemars(extend("enum" = ["local", null]))]
    rclass: Option<String>,
    /// Only `docker`, in any case of letters.
    #[schemars(regex(pattern = "^[Dd][Oo][Cc][Kk][Ee][Rr]$"))]
    package_type: Option<String>,
    #[schemars(length(max = TEXT_BYTES_MAX))]
    description: Option<String>,
    #[schemars(length(max = TEXT_BYTES_MAX))]
    notes: Option<String>,
    /// Patterns of the image names that may be pushed, separated by commas.
    includes_pattern: Option<String>,
    /// Patterns of the image names that may not be pushed, separated by commas.
    excludes_pattern: Option<String>,
    /// `V2` if it is not said. It can be changed while the repository is empty.
    #[schemars(with = "Option<names::ApiVersion>")]
    docker_api_version: Option<ApiVersion>,
    /// Tags of one image that are kept, the newest; `0`: all.
    max_unique_tags: Option<u32>,
    /// Whether manifests of schema 1 are refused.
    block_pushing_schema1: Option<bool>,
    /// The opposite of `anonymousPull`.
    force_docker_authentication: Option<bool>,
    /// Only `false`.
    #[schemars(extend("enum" = [false, null]))]
    blacked_out: Option<bool>,
    /// Only `1`.
    #[schemars(range(max = 1))]
    docker_tag_retention: Option<u32>,
    /// Whether pulling needs no credentials.
    anonymous_pull: Option<bool>,
    /// How clients are asked for credentials.
    challenge: Option<ChallengeForm>,
    /// Whether V1 clients may pull V2 images.
    serve_v1: Option<bool>,
    #[serde(flatten)]
    #[schemars(skip)]
    rest: BTreeMap<String, Value>,
}

/// What `rest` may hold.
fn with_foreign(schema: &mut Schema) {
    add_properties(schema, FOREIGN, &json!({ "description": "Artifactory's, without meaning here: kept, and given back." }));
    schema.insert("additionalProperties".to_owned(), false.into());
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ChallengeForm {
    Bearer,
    Basic,
}

/// A repository, in the list of all.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RepositoryEntry")]
pub(super) struct Listed<'r> {
    #[schemars(with = "names::RepositoryKey")]
    key: &'r RepositoryKey,
    description: &'r str,
    /// Always `LOCAL`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Where its files are.
    url: String,
    /// Always `Docker`.
    package_type: &'static str,
}

pub(super) async fn list(call: &RestCall) -> Outcome {
    let is = |name: &str, expected: &str| call.query.get(name).is_none_or(|wanted| wanted.eq_ignore_ascii_case(expected));
    let all = call.registry.repositories().await.map_err(refused)?;
    let fits = is("type", "local") && is("packageType", "docker");
    let entries: Vec<Listed<'_>> = all
        .values()
        .filter(|repository| fits && sees(call, repository))
        .map(|repository| Listed {
            key: &repository.key,
            description: &repository.description,
            kind: "LOCAL",
            url: format!("{}/artifactory/{}", call.view.origin, repository.key),
            package_type: "Docker",
        })
        .collect();
    Ok(json_answer(StatusCode::OK, &entries).with(CACHE_CONTROL, "no-store"))
}

pub(super) async fn get(call: &RestCall, key: &RepositoryKey) -> Outcome {
    let repository = seen_repository(call, key).await?;
    let mut described = describe(&repository);
    if !call.caller.is_admin() {
        described.retain(|field, _| {
            matches!(field.as_str(), "key" | "rclass" | "packageType" | "description" | "dockerApiVersion" | "repoLayoutRef" | "serveV1")
        });
    }
    Ok(json_answer(StatusCode::OK, &described))
}

pub(super) async fn create(call: &RestCall, key: &RepositoryKey, body: Body) -> Outcome {
    let form: Form = read_json(call, body).await?;
    let api_version = form.docker_api_version.unwrap_or(ApiVersion::V2);
    let repository = form.apply(Repository::new(key.clone(), api_version)).map_err(|why| bad(&why))?;
    call.registry.create_repository(&repository).await.map_err(refused)?;
    Ok(said(StatusCode::OK, format!("Successfully created repository '{key}'\n")))
}

pub(super) async fn update(call: &RestCall, key: &RepositoryKey, body: Body) -> Outcome {
    let form: Form = read_json(call, body).await?;
    // Whether the form fits does not depend on what another writer changes meanwhile, so it is said before.
    let present = call.registry.repository(key).await.map_err(refused)?;
    form.apply(present.as_ref().clone()).map_err(|why| bad(&why))?;
    call.registry.update_repository(key, |before| form.apply(before.clone()).unwrap_or(before)).await.map_err(refused)?;
    Ok(said(StatusCode::OK, format!("Repository {key} updated successfully.\n")))
}

pub(super) async fn delete(call: &RestCall, key: &RepositoryKey) -> Outcome {
    call.registry.delete_repository(key).await.map_err(refused)?;
    Ok(said(StatusCode::OK, format!("Repository {key} and all its content have been removed successfully.\n")))
}

fn sees(call: &RestCall, repository: &Repository) -> bool {
    call.caller.is_admin() || !call.policy.rights_somewhere(&call.caller, repository).is_empty()
}

impl Form {
    /// The repository with what the form says, or why that can't be.
    fn apply(&self, before: Repository) -> Result<Repository, String> {
        if let Some(key) = self.key.as_ref().filter(|key| **key != before.key) {
            return Err(format!("the path says {} and the body says {key}", before.key));
        }
        if let Some(rclass) = self.rclass.as_ref().filter(|rclass| *rclass != "local") {
            return Err(format!("rclass must be \"local\": {rclass} repositories are not supported"));
        }
        if let Some(package) = self.package_type.as_ref().filter(|package| !package.eq_ignore_ascii_case("docker")) {
            return Err(format!("packageType must be \"docker\": {package} repositories are not supported"));
        }
        if self.blacked_out == Some(true) {
            return Err("blackedOut is not supported: take the permissions or the binding away instead".to_owned());
        }
        if self.docker_tag_retention.is_some_and(|kept| kept > 1) {
            return Err("dockerTagRetention is not supported: a tag that is moved away can be pulled by its digest for a while".to_owned());
        }
        for (name, text) in [("description", &self.description), ("notes", &self.notes)] {
            if text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
                return Err(format!("{name} may have {TEXT_BYTES_MAX} bytes"));
            }
        }
        let anonymous_pull = match (self.anonymous_pull, self.force_docker_authentication) {
            (Some(open), Some(forced)) if open == forced => {
                return Err("anonymousPull and forceDockerAuthentication say the opposite of each other".to_owned());
            }
            (Some(open), _) => open,
            (None, Some(forced)) => !forced,
            (None, None) => before.anonymous_pull,
        };
        Ok(Repository {
            api_version: self.docker_api_version.unwrap_or(before.api_version),
            anonymous_pull,
            challenge: match self.challenge {
                Some(ChallengeForm::Bearer) => Challenge::Bearer,
                Some(ChallengeForm::Basic) => Challenge::Basic,
                None => before.challenge,
            },
            description: self.description.clone().unwrap_or(before.description),
            notes: self.notes.clone().unwrap_or(before.notes),
            includes: patterns("includesPattern", self.includes_pattern.as_deref())?.unwrap_or(before.includes),
            excludes: patterns("excludesPattern", self.excludes_pattern.as_deref())?.unwrap_or(before.excludes),
            max_unique_tags: self.max_unique_tags.unwrap_or(before.max_unique_tags),
            block_schema1: self.block_pushing_schema1.unwrap_or(before.block_schema1),
            serve_v1: self.serve_v1.unwrap_or(before.serve_v1),
            foreign: self.foreign(before.foreign)?,
            key: before.key,
        })
    }

    fn foreign(&self, mut foreign: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
        for (name, value) in &self.rest {
            if !FOREIGN.contains(&name.as_str()) {
                return Err(format!("the field {name} is not known"));
            }
            foreign.insert(name.clone(), value.to_string());
        }
        match foreign.values().map(String::len).sum::<usize>() {
            0..=FOREIGN_BYTES_MAX => Ok(foreign),
            _ => Err(format!("the settings that mean nothing here may have {FOREIGN_BYTES_MAX} bytes together")),
        }
    }
}

/// Patterns separated by commas. Artifactory's own way to say "everything" is no pattern at all.
fn patterns(field: &str, text: Option<&str>) -> Result<Option<Vec<Pattern>>, String> {
    let Some(text) = text else { return Ok(None) };
    let mut found = Vec::new();
    for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        // `team/**/*` means every path below `team`: of image names, `team/**` says the same.
        let one = one.strip_suffix("/*").filter(|front| front.ends_with("**")).unwrap_or(one);
        found.push(one.parse().map_err(|error| format!("{field}: {error}"))?);
    }
    let is_everything = field == "includesPattern" && found.iter().any(Pattern::is_universal);
    Ok(Some(if is_everything { Vec::new() } else { found }))
}

fn describe(repository: &Repository) -> Map<String, Value> {
    let joined = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let includes = if repository.includes.is_empty() { "**/*".to_owned() } else { joined(&repository.includes) };
    let challenge = match repository.challenge {
        Challenge::Bearer => "bearer",
        Challenge::Basic => "basic",
    };
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("repoLayoutRef", "simple-default".into());
    for (name, text) in &repository.foreign {
        put(name, serde_json::from_str(text).unwrap_or_default());
    }
    put("key", repository.key.as_str().into());
    put("rclass", "local".into());
    put("packageType", "docker".into());
    put("description", repository.description.clone().into());
    put("notes", repository.notes.clone().into());
    put("includesPattern", includes.into());
    put("excludesPattern", joined(&repository.excludes).into());
    put("dockerApiVersion", json!(repository.api_version));
    put("maxUniqueTags", repository.max_unique_tags.into());
    put("blockPushingSchema1", repository.block_schema1.into());
    put("forceDockerAuthentication", (!repository.anonymous_pull).into());
    put("blackedOut", false.into());
    put("anonymousPull", repository.anonymous_pull.into());
    put("challenge", challenge.into());
    put("serveV1", repository.serve_v1.into());
    fields
}
