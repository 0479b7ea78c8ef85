//! `api/search/…`.

use std::collections::BTreeSet;

use berth_names::RepositoryKey;
use berth_registry::Error;
use berth_registry::browse::path_of;
use berth_registry::search::{Found, FoundPage, Named, PAGE_MAX, Term, Wildcard};
use http::{HeaderName, StatusCode};
use serde_json::{Map, Value, json};

use super::browse::Sight;
use super::storage::{describe, uri};
use super::{RestCall, bad, log_in, notation, refused};
use crate::http::errors;
use crate::http::respond::{Answer, json as json_answer};

type Outcome = Result<Answer, Answer>;

const RESULT_DETAIL: HeaderName = HeaderName::from_static("x-result-detail");

/// Parameters that are no properties.
const REPOS: &str = "repos";
const LIMIT: &str = "limit";
const FROM: &str = "from";

/// Results in one answer, if the client does not say how many, and the most if it wants to know more of each.
pub(super) const RESULTS_DEFAULT: usize = 1000;

/// What the client wants to know of each result beside where it is.
#[derive(Clone, Copy, Default)]
struct Detail {
    info: bool,
    properties: bool,
}

impl Detail {
    fn wanted(call: &RestCall) -> Self {
        let text = call.headers.get(RESULT_DETAIL).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let has = |name: &str| text.split(',').any(|one| one.trim().eq_ignore_ascii_case(name));
        Self { info: has("info"), properties: has("properties") }
    }

    fn limit(self) -> usize {
        if self.info || self.properties { RESULTS_DEFAULT } else { PAGE_MAX }
    }
}

/// `?<property>=<value>,<value>&…&repos=a,b`: what has all these properties.
pub(super) async fn by_properties(call: &RestCall) -> Outcome {
    let parameters = call.query.all();
    if parameters.is_empty() {
        return Err(errors::rest(StatusCode::NOT_FOUND, "say which properties to search for"));
    }
    let wanted = parameters.into_iter().filter(|(name, _)| ![REPOS, LIMIT, FROM].contains(name));
    let mut terms = Vec::new();
    let mut all_wild = true;
    for (name, text) in wanted {
        let values = notation::list(text).ok_or_else(|| bad("a value ends in a backslash"))?;
        all_wild &= values.iter().all(|value| is_wild(value));
        terms.push(Term { name: name.to_owned(), values: values.iter().map(|value| Wildcard::new(value)).collect() });
    }
    if terms.is_empty() {
        return Err(bad("say which properties to search for, not only where"));
    }
    if all_wild {
        return Err(bad("a search needs more than wildcards"));
    }
    let (sight, detail) = (Sight::of(call).await?, Detail::wanted(call));
    let (repositories, limit) = (repositories(call, &sight)?, limit(call, detail)?);
    let from = call.query.get(FROM);
    let page = sight.look(async |eyes| call.registry.find(&terms, &repositories, eyes, limit, from).await).await;
    let FoundPage { found, next } = page.map_err(refused)?;
    let mut answer = json!({ "results": results(call, &sight, &found, detail).await? });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(json_answer(StatusCode::OK, &answer))
}

/// `?name=<pattern>&repos=a,b`: images, tags and V1 images that are called so.
pub(super) async fn by_name(call: &RestCall) -> Outcome {
    let name = call.query.get("name").filter(|name| !name.is_empty()).ok_or_else(|| bad("say which name to search for: name"))?;
    if is_wild(name) {
        return Err(bad("a search needs more than wildcards"));
    }
    let (sight, detail) = (Sight::of(call).await?, Detail::wanted(call));
    let (repositories, limit) = (repositories(call, &sight)?, limit(call, detail)?);
    let wanted = Wildcard::new(name);
    let named = sight.look(async |eyes| call.registry.find_by_name(&wanted, &repositories, eyes, limit).await).await;
    let Named { found, more } = named.map_err(refused)?;
    let mut answer = json!({ "results": results(call, &sight, &found, detail).await? });
    if more {
        answer["incomplete"] = true.into();
    }
    Ok(json_answer(StatusCode::OK, &answer))
}

/// Whether a value is nothing but wildcards. The empty one is none: it asks for the property, whatever its value.
fn is_wild(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| matches!(byte, b'*' | b'?'))
}

/// Where to search: everywhere that the caller sees something, or there among what it names.
fn repositories(call: &RestCall, sight: &Sight<'_>) -> Result<BTreeSet<RepositoryKey>, Answer> {
    let mut keys = sight.keys();
    if keys.is_empty() && call.caller.is_anonymous() {
        return Err(log_in());
    }
    if let Some(text) = call.query.get(REPOS).filter(|text| !text.is_empty()) {
        let named: Result<BTreeSet<RepositoryKey>, _> = text.split(',').map(str::parse).collect();
        let named = named.map_err(|_| bad("repos must be keys of repositories, separated by commas"))?;
        // What the caller does not see looks like what is not there: nothing is found in it.
        keys.retain(|key| named.contains(key));
    }
    Ok(keys)
}

fn limit(call: &RestCall, detail: Detail) -> Result<usize, Answer> {
    match call.query.number(LIMIT) {
        None => Ok(RESULTS_DEFAULT),
        Some(Ok(limit)) if limit > 0 => Ok(limit.min(detail.limit())),
        Some(_) => Err(bad("limit must be a whole number above zero")),
    }
}

async fn results(call: &RestCall, sight: &Sight<'_>, found: &[Found], detail: Detail) -> Result<Vec<Value>, Answer> {
    let mut results = Vec::with_capacity(found.len());
    for Found { repository: key, item } in found {
        let Some(repository) = sight.repository(key) else { continue };
        let path = path_of(repository.api_version, item);
        let mut result = Map::new();
        if detail.info {
            let node = sight.look(async |eyes| call.registry.browse(repository, &path, eyes).await).await;
            match node {
                Ok(node) => result.extend(describe(call, repository, &path, &node).await?),
                // It was deleted meanwhile.
                Err(Error::ItemUnknown) => continue,
                Err(error) => return Err(refused(error)),
            }
        }
        if detail.properties {
            match call.registry.properties(key, item).await {
                Ok(said) => drop(result.insert("properties".to_owned(), json!(said))),
                Err(Error::ItemUnknown) => continue,
                Err(error) => return Err(refused(error)),
            }
        }
        result.insert("uri".to_owned(), uri(call, key, &path).into());
        results.push(result.into());
    }
    Ok(results)
}
