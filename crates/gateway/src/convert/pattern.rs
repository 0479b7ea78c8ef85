//! Regular expressions. Both other proxies have those of PCRE; what looks around or back is not known here, and said.

use regex::RegexBuilder;

/// What a pattern has found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The whole first, then the groups in their order; empty: a group that took no part.
    pub(super) groups: Vec<String>,
    /// Groups that have a name.
    pub(super) named: Vec<(String, String)>,
}

/// Looks for a pattern. `Err`: it is written in a way that only the other engine knows, as one that looks ahead is.
pub(super) fn find(pattern: &str, ignores_case: bool, text: &str) -> Result<Option<Found>, String> {
    let regex = RegexBuilder::new(pattern).case_insensitive(ignores_case).build().map_err(|_| format!("the pattern {pattern}"))?;
    let Some(found) = regex.captures(text) else { return Ok(None) };
    let group = |at: usize| found.get(at).map_or("", |group| group.as_str()).to_owned();
    let named = regex.capture_names().enumerate().filter_map(|(at, name)| Some((name?.to_owned(), group(at)))).collect();
    Ok(Some(Found { groups: (0..found.len()).map(group).collect(), named }))
}
