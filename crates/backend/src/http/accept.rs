//! What a client says that it understands (RFC 9110, 12.5.1): the one place that reads `Accept`.
//!
//! Parameters of media types but their quality are passed over: nothing that is served here differs in them.

use http::HeaderMap;
use http::header::ACCEPT;

/// How much a client wants something, in thousandths; nothing if it does not understand it.
type Quality = u16;

const QUALITY_MAX: Quality = 1000;

/// What a request says of that; it may say nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accept<'h>(&'h HeaderMap);

/// How exactly a range of media types fits one of them. The more exact one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// `*/*`.
    Anything,
    /// `application/*`.
    Kind,
    /// The type itself.
    Itself,
}

impl<'h> Accept<'h> {
    pub(crate) fn of(headers: &'h HeaderMap) -> Self {
        Self(headers)
    }

    /// Whether the client understands the type, be it by a wildcard. Who says nothing says nothing of this either.
    pub(crate) fn takes(self, media_type: &str) -> bool {
        self.best(media_type).is_some_and(|(_, quality)| quality > 0)
    }

    /// Whether the client names the type itself as one that it understands.
    pub(crate) fn names(self, media_type: &str) -> bool {
        matches!(self.best(media_type), Some((Fit::Itself, 1..)))
    }

    /// How much the client wants the type; nothing if it does not understand it, or says nothing of it.
    pub(crate) fn quality(self, media_type: &str) -> Quality {
        self.best(media_type).map_or(0, |(_, quality)| quality)
    }

    /// Whether the client names the type itself, and wants no less of it than of `other`, which it gets otherwise.
    pub(crate) fn prefers(self, media_type: &str, other: &str) -> bool {
        self.names(media_type) && self.quality(media_type) >= self.quality(other)
    }

    /// What counts for a type: of what fits it equally well, what is wanted most.
    fn best(self, media_type: &str) -> Option<(Fit, Quality)> {
        let values = self.0.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(','));
        ranges
            .filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                Some((fit(parts.next().unwrap_or_default(), media_type)?, quality(parts)))
            })
            .max()
    }
}

fn fit(range: &str, media_type: &str) -> Option<Fit> {
    if range.eq_ignore_ascii_case(media_type) {
        return Some(Fit::Itself);
    }
    match range.split_once('/') {
        Some(("*", "*")) => Some(Fit::Anything),
        Some((kind, "*")) => {
            let (of, _) = media_type.split_once('/')?;
            kind.eq_ignore_ascii_case(of).then_some(Fit::Kind)
        }
        _ => None,
    }
}

/// The quality among the parameters of a range. One that can't be read says nothing.
fn quality<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Quality {
    let said = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    said.and_then(thousandths).unwrap_or(QUALITY_MAX)
}

/// `0.5`, with three digits behind the point at most.
fn thousandths(text: &str) -> Option<Quality> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match (whole, format!("{rest:0<3}").parse()) {
        ("0", Ok(rest)) => Some(rest),
        ("1", Ok(0)) => Some(QUALITY_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const JSON: &str = "application/json";

    fn quality_of(lines: &[&str], media_type: &str) -> Option<(Fit, Quality)> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT, HeaderValue::from_str(line).unwrap());
        }
        Accept::of(&headers).best(media_type)
    }

    #[test]
    fn the_most_exact_range_counts_with_its_quality() {
        for (lines, expected) in [
            (&[][..], None),
            (&["*/*"], Some((Fit::Anything, 1000))),
            (&["application/*"], Some((Fit::Kind, 1000))),
            (&["APPLICATION/Json"], Some((Fit::Itself, 1000))),
            (&["text/*", "text/html"], None),
            (&["*/*;q=0.1, application/json;q=0.5"], Some((Fit::Itself, 500))),
            (&["application/json;q=0, */*"], Some((Fit::Itself, 0))),
            (&["*/*", "application/*;q=0.25"], Some((Fit::Kind, 250))),
            (&["application/json;q=0.2,application/json;q=0.7"], Some((Fit::Itself, 700))),
            (&["application/json; charset=utf-8 ; Q = 0.123"], Some((Fit::Itself, 123))),
            (&["application/json;q=1.000"], Some((Fit::Itself, 1000))),
            (&["application/json;q=0."], Some((Fit::Itself, 0))),
            (&["application/json;q=2"], Some((Fit::Itself, 1000))),
            (&["application/json;q=0.1234"], Some((Fit::Itself, 1000))),
            (&["*", "/", "", ",;,", "json"], None),
        ] {
            assert_eq!(quality_of(lines, JSON), expected, "{lines:?}");
        }
    }

    #[test]
    fn something_else_than_usual_is_given_to_those_who_name_it_and_want_it_as_much() {
        let prefers = |line: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(line))]);
            Accept::of(&headers).prefers("text/plain", JSON)
        };
        for line in ["text/plain", "application/json;q=0.9, text/plain", "text/plain, */*", "text/plain;q=0.5, */*;q=0.1"] {
            assert!(prefers(line), "{line}");
        }
        for line in ["*/*", "text/*", "text/html, */*;q=0.8", "text/plain;q=0", "application/json, text/plain;q=0.9", ""] {
            assert!(!prefers(line), "{line}");
        }
    }
}
