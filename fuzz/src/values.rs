//! Header values and queries.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use berth_backend::fuzzing::{Asked, PARTS_MAX, content_range, list, properties, query, requested_range, schema1};
use http::HeaderMap;
use http::header::{ACCEPT, HeaderValue, USER_AGENT};

/// Parts are what RFC 9110 says they are, lie in the content, and have no byte in common.
pub fn range(input: &[u8]) {
    let Some((size, text)) = input.split_first_chunk::<8>() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    // Small contents are as likely as large ones.
    let size = u64::from_le_bytes(*size) >> (size[7] % 64);
    let found = requested_range(text, size);
    match plain_ranges(text, size) {
        None => assert_eq!(found, Asked::Whole, "{text:?}"),
        Some(wanted) => {
            let wanted: Vec<Range<u64>> = wanted.into_iter().filter(|part| !part.is_empty()).collect();
            match &found {
                Asked::Whole => panic!("{text:?}"),
                Asked::Nothing => assert!(wanted.is_empty(), "{text:?}"),
                Asked::Parts(parts) => {
                    assert!(!parts.is_empty() && parts.len() <= PARTS_MAX);
                    assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
                    let apart = |a: &Range<u64>, b: &Range<u64>| a.end <= b.start || b.end <= a.start;
                    assert!(parts.iter().enumerate().all(|(at, part)| parts[..at].iter().all(|other| apart(part, other))));
                    // All that was asked for, each in one piece, and nothing besides.
                    let within =
                        |part: &Range<u64>, all: &[Range<u64>]| all.iter().any(|one| one.start <= part.start && part.end <= one.end);
                    assert!(wanted.iter().all(|part| within(part, parts)), "{text:?}");
                    let begins = |at: u64| wanted.iter().any(|part| part.start == at);
                    let ends = |at: u64| wanted.iter().any(|part| part.end == at);
                    assert!(parts.iter().all(|part| begins(part.start) && ends(part.end)), "{text:?}");
                }
            }
        }
    }
    if let Some(chunk) = content_range(text) {
        assert!(chunk.start < chunk.end);
        let (first, last) = (chunk.start, chunk.end - 1);
        for again in [format!("{first}-{last}"), format!("bytes {first}-{last}/*")] {
            assert_eq!(content_range(&again), Some(chunk.clone()));
        }
    }
}

/// Ranges of bytes as the standard has them, cut to the content; none if it is no such list, or too long a one.
fn plain_ranges(text: &str, size: u64) -> Option<Vec<Range<u64>>> {
    let (unit, set) = text.split_once('=')?;
    let parts: Vec<&str> = set.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if !unit.trim().eq_ignore_ascii_case("bytes") || parts.is_empty() || parts.len() > PARTS_MAX {
        return None;
    }
    parts.into_iter().map(|part| plain_range(part, size)).collect()
}

fn plain_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Numbers of any length, compared without their zeros.
    let number = |text: &str| {
        let text = text.trim_start_matches('0');
        if text.len() > 30 { u128::MAX } else { text.parse().unwrap_or(0_u128) }
    };
    let within = |number: u128| u64::try_from(number.min(u128::from(size))).unwrap_or(size);
    match (first, last) {
        (first, "") if digits(first) => Some(within(number(first))..size),
        ("", last) if digits(last) => Some(size - within(number(last))..size),
        (first, last) if digits(first) && digits(last) => Some(within(number(first))..within(number(last).saturating_add(1))),
        _ => None,
    }
}

/// What a client understands does not depend on how it writes it: in one line or many, in any order and case.
pub fn accept(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    let Some(agent) = lines.next() else { return };
    let accepts: Vec<HeaderValue> = lines.take(16).collect();
    const STORED: &str = "application/vnd.oci.image.manifest.v1+json";
    let ask = |accepts: &[HeaderValue]| {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, agent.clone());
        for accept in accepts {
            headers.append(ACCEPT, accept.clone());
        }
        schema1(&headers, STORED)
    };
    let found = ask(&accepts);
    assert!(!(found.0 && accepts.iter().any(|one| one.as_bytes() == STORED.as_bytes())));
    // What can't be read as text says nothing; in one line with others it would silence them.
    let readable: Vec<&HeaderValue> = accepts.iter().filter(|accept| accept.to_str().is_ok()).collect();
    let mut reversed = accepts.clone();
    reversed.reverse();
    assert_eq!(ask(&reversed), found);
    let joined = readable.iter().map(|accept| accept.as_bytes()).collect::<Vec<_>>().join(&b", "[..]);
    assert_eq!(ask(&[HeaderValue::from_bytes(&joined).unwrap()]), found);
    let split: Vec<HeaderValue> =
        joined.split(|byte| *byte == b',').map(|one| HeaderValue::from_bytes(one.trim_ascii()).unwrap()).collect();
    assert_eq!(ask(&split), found);
    let upper = HeaderValue::from_bytes(&joined.to_ascii_uppercase()).unwrap();
    assert_eq!(ask(&[upper]).0, found.0);
    // Whoever understands what is stored gets that.
    let more: Vec<HeaderValue> = accepts.iter().cloned().chain([HeaderValue::from_static(STORED)]).collect();
    assert_eq!(ask(&more), (false, false));
}

/// A query says what is written in it: written anew, it says the same.
pub fn property_query(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Some(found) = query(text) {
        let written: Vec<String> = found.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
        assert_eq!(query(&written.join("&")), Some(found.clone()));
        found.values().for_each(|value| by_name(value));
    }
    assert_eq!(query(&format!("properties={}", percent(text))), Some(BTreeMap::from([("properties".to_owned(), text.to_owned())])));
    by_name(text);
}

fn by_name(text: &str) {
    if let Some(found) = properties(text) {
        let values = |values: &BTreeSet<String>| values.iter().map(|value| escaped(value)).collect::<Vec<_>>().join(",");
        let written: Vec<String> = found.iter().map(|(name, of)| format!("{}={}", escaped(name), values(of))).collect();
        assert_eq!(properties(&written.join(";")), Some(found.clone()));
        assert_eq!(properties(&written.join("|")), Some(found));
    }
    if let Some(found) = list(text) {
        let written: Vec<String> = found.iter().map(|one| escaped(one)).collect();
        assert_eq!(list(&written.join(",")), Some(found));
    }
}

fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| [Some('\\').filter(|_| ",;|=\\".contains(c)), Some(c)].into_iter().flatten()).collect()
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
