//! What every JSON that we keep, or take apart, must be: text, not nested without end, and not of a million values, each of
//! which takes a hundred times the memory that its two bytes do.
//!
//! The parser skips over what it is not asked for without looking at any of this.

mod clear;
pub(crate) mod shapes;

pub(crate) use clear::{check_names, folded};
use serde::{Deserialize, Deserializer};

/// A list or map of which `null`, an empty one and none at all are the same: Go writes a list that was never made as `null`,
/// and leaves out what is empty.
pub(crate) fn or_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// How deep objects and lists may be nested. The parser's own limit for what it does look at.
const DEPTH_MAX: usize = 128;

/// Values, and names of values, in one document. The largest that anybody needs is an index of ten thousand manifests.
const VALUES_MAX: usize = 200_000;

/// Whether the bytes are UTF-8, nested no deeper than the limit, and of no more values. Everything else is the parser's to
/// say.
pub(crate) fn is_sane(bytes: &[u8]) -> bool {
    is_sane_within(bytes, VALUES_MAX)
}

/// The same with another limit: a value that is taken apart into maps and lists takes some 600 bytes.
pub fn is_sane_within(bytes: &[u8], values_max: usize) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let mut values = 1_usize;
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => (depth, values) = (depth + 1, values + 1),
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            b',' | b':' if !in_text => values += 1,
            _ => {}
        }
        if depth > DEPTH_MAX || values > values_max {
            return false;
        }
    }
    std::str::from_utf8(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_text_are_checked_even_where_nobody_looks() {
        let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        assert!(is_sane(&nested(127)) && !is_sane(&nested(128)) && !is_sane(&nested(100_000)));
        assert!(is_sane(format!("{{\"x\":\"\\\"{}\"}}", "[".repeat(1000)).as_bytes()));
        assert!(!is_sane(b"{\"x\":\"\xff\"}"));
    }

    #[test]
    fn a_document_of_a_million_tiny_values_is_not_sane_and_one_of_many_bytes_is() {
        let many = |what: &str, count: usize| format!("[{}]", vec![what; count].join(",")).into_bytes();
        for tiny in ["{\"\":0}", "0", "\"\"", "[]", "{\"a\":{}}"] {
            assert!(is_sane(&many(tiny, 10_000)) && !is_sane(&many(tiny, 500_000)), "{tiny}");
        }
        let descriptor = "{\"mediaType\":\"a/b\",\"digest\":\"sha256:0\",\"size\":1,\"platform\":{\"os\":\"o\",\"architecture\":\"a\"}}";
        assert!(is_sane(&many(descriptor, 10_000)));
        assert!(is_sane(format!("{{\"x\":\"{}\"}}", ",:{[".repeat(1_000_000)).as_bytes()));
    }
}
