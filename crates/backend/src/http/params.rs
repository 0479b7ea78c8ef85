//! Query parameters, and where chunks of uploads belong.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Parameters in one query.
const PARAMETERS_MAX: usize = 16;

/// Entries in one page, whatever the client asks for.
const PAGE_ENTRIES_MAX: usize = 10_000;

/// A query, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(HashMap<String, String>);

/// The query has too many parameters or broken escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidQuery;

/// A parameter that should be a number is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoNumber;

/// How many entries a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageSize {
    Absent,
    Entries(usize),
    Invalid,
}

impl Query {
    /// Reads what stands behind the question mark. Of a parameter that is there twice the first counts.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, InvalidQuery> {
        Self::parse_with(text.unwrap_or_default(), Ok(()))
    }

    /// Reads a form of OAuth, in which no parameter may be there twice (RFC 6749, 3.2).
    pub(crate) fn parse_form(text: &str) -> Result<Self, InvalidQuery> {
        Self::parse_with(text, Err(InvalidQuery))
    }

    fn parse_with(text: &str, repeated: Result<(), InvalidQuery>) -> Result<Self, InvalidQuery> {
        let mut parameters: HashMap<String, String> = HashMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            match parameters.get_mut(&name) {
                // The one parameter that may stand there more often: docker asks for several scopes this way.
                Some(scopes) if name == "scope" => {
                    scopes.push(' ');
                    scopes.push_str(&value);
                }
                Some(_) => repeated?,
                None => drop(parameters.insert(name, value)),
            }
            if parameters.len() > PARAMETERS_MAX {
                return Err(InvalidQuery);
            }
        }
        Ok(Self(parameters))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All parameters, by name.
    pub(crate) fn all(&self) -> BTreeMap<&str, &str> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// A parameter that is a number: digits and nothing else, neither a sign nor a blank. What does not fit is large.
    pub(crate) fn number(&self, name: &str) -> Option<Result<usize, NoNumber>> {
        let text = self.get(name)?;
        Some(if is_number(text) { Ok(text.parse().unwrap_or(usize::MAX)) } else { Err(NoNumber) })
    }

    /// The parameter `n`. More than we list at once is cut down to that, as the protocol allows.
    pub(crate) fn page_size(&self) -> PageSize {
        match self.number("n") {
            None => PageSize::Absent,
            Some(Err(NoNumber)) => PageSize::Invalid,
            Some(Ok(entries)) => PageSize::Entries(entries.min(PAGE_ENTRIES_MAX)),
        }
    }
}

fn decode(text: &str) -> Result<String, InvalidQuery> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(InvalidQuery);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).map_err(|_| InvalidQuery)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| InvalidQuery)
}

/// A value as it stands in a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => encoded.push(char::from(byte)),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

/// A chunk's first byte and the one behind its last: `0-1023`, or as HTTP has it `bytes 0-1023/*`. `None` if it is neither.
pub(crate) fn content_range(text: &str) -> Option<Range<u64>> {
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split_once('/').map_or(text, |(range, _)| range);
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    // A last byte of u64::MAX would have no length.
    (first <= last && last < u64::MAX).then(|| first..last + 1)
}

fn number(text: &str) -> Option<u64> {
    is_number(text).then(|| text.parse().ok())?
}

/// Digits and nothing else, and at least one.
pub(crate) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries_are_decoded_once_and_strictly() {
        let query = Query::parse(Some("digest=sha256%3Aab&last=a+b&flag&n=7")).unwrap();
        assert_eq!(
            (query.get("digest"), query.get("last"), query.get("flag"), query.get("x")),
            (Some("sha256:ab"), Some("a b"), Some(""), None)
        );
        assert_eq!(query.page_size(), PageSize::Entries(7));
        for bad in ["a=%", "a=%2", "a=%zz", "a=%ff", "%+1=2"] {
            assert_eq!(Query::parse(Some(bad)), Err(InvalidQuery), "{bad}");
        }
        let many: String = (0..17).map(|i| format!("p{i}=&")).collect();
        assert_eq!(Query::parse(Some(&many)), Err(InvalidQuery));
    }

    #[test]
    fn of_a_parameter_that_is_there_twice_the_first_counts_but_for_scopes_and_in_forms() {
        let query = Query::parse(Some("n=1&last=a&n=2&n=x&last=&scope=a&scope=b")).unwrap();
        assert_eq!((query.get("n"), query.get("last"), query.get("scope")), (Some("1"), Some("a"), Some("a b")));
        assert_eq!(Query::parse_form("grant_type=password&grant_type=refresh_token"), Err(InvalidQuery));
        assert_eq!(Query::parse_form("scope=a&scope=b").unwrap().get("scope"), Some("a b"));
        assert_eq!(Query::parse(Some("n=1&n=%zz")), Err(InvalidQuery));
    }

    #[test]
    fn a_huge_page_is_cut_down_and_nonsense_is_refused() {
        let size = |text: &str| Query::parse(Some(text)).unwrap().page_size();
        assert_eq!(size(""), PageSize::Absent);
        assert_eq!(size("n=0"), PageSize::Entries(0));
        for huge in ["n=9223372036854775808", "n=99999999999999999999999999"] {
            assert_eq!(size(huge), PageSize::Entries(PAGE_ENTRIES_MAX));
        }
        for bad in ["n=", "n=-1", "n=x", "n=1.5", "n=%2B1"] {
            assert_eq!(size(bad), PageSize::Invalid, "{bad}");
        }
    }

    #[test]
    fn a_number_is_digits_and_nothing_else() {
        let number = |text: &str| Query::parse(Some(text)).unwrap().number("limit");
        assert_eq!(number("other=1"), None);
        assert_eq!((number("limit=0"), number("limit=007")), (Some(Ok(0)), Some(Ok(7))));
        assert_eq!(number("limit=99999999999999999999999999"), Some(Ok(usize::MAX)));
        for bad in
            ["limit", "limit=", "limit=%2B1", "limit=+1", "limit=-1", "limit=1+", "limit=1.0", "limit=0x1", "limit=%D9%A1", "limit=1_0"]
        {
            assert_eq!(number(bad), Some(Err(NoNumber)), "{bad}");
        }
    }

    #[test]
    fn chunks_say_where_they_start_and_end() {
        assert_eq!(content_range("0-1023"), Some(0..1024));
        assert_eq!(content_range("bytes 5-9/*"), Some(5..10));
        for bad in ["", "5", "9-5", "-5", "5-", "a-b", "+1-2", "0-18446744073709551615"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(text in "\\PC{0,60}") {
            let query = Query::parse(Some(&format!("a={}", encoded(&text)))).unwrap();
            prop_assert_eq!(query.get("a"), Some(text.as_str()));
        }

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,60}") {
            let _ = Query::parse(Some(&text)).map(|query| query.page_size());
            let _ = content_range(&text);
        }
    }
}
