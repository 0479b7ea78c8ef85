//! How properties are written in a query: `name=value,value;name=value`.
//!
//! `;` or `|` stands between properties, `,` between values. A backslash in front of any of these, of `=` or of another
//! backslash takes its meaning away. Everything else is what it is; percent signs were decoded before.

use std::collections::{BTreeMap, BTreeSet};

/// Properties, values by name. `None` if one has no `=`, or a backslash stands at the end.
pub(crate) fn properties(text: &str) -> Option<BTreeMap<String, BTreeSet<String>>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in split(text, &[';', '|']).into_iter().filter(|one| !one.is_empty()) {
        let at = position(one, &['='])?;
        let values = list(&one[at + 1..])?;
        found.entry(plain(&one[..at])?).or_default().extend(values);
    }
    Some(found)
}

/// Values or names between commas.
pub(crate) fn list(text: &str) -> Option<Vec<String>> {
    split(text, &[',']).into_iter().map(plain).collect()
}

/// The parts between separators, backslashes still in them.
fn split<'t>(mut text: &'t str, separators: &[char]) -> Vec<&'t str> {
    let mut parts = Vec::new();
    while let Some(at) = position(text, separators) {
        parts.push(&text[..at]);
        // Separators are ASCII: one byte long.
        text = &text[at + 1..];
    }
    parts.push(text);
    parts
}

/// Where the first separator is that means something.
fn position(text: &str, separators: &[char]) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let counts = !is_escaped && separators.contains(&c);
        is_escaped = !is_escaped && c == '\\';
        counts.then_some(at)
    })
}

/// The text without its backslashes.
fn plain(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        plain.push(match c {
            '\\' => rest.next()?,
            c => c,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(String, Vec<String>)> {
        properties(text).unwrap().into_iter().map(|(name, values)| (name, values.into_iter().collect())).collect()
    }

    #[test]
    fn properties_are_written_as_artifactorys_users_write_them() {
        for (text, expected) in [
            ("", &[][..]),
            ("qa=passed", &[("qa", &["passed"][..])]),
            ("os=win,linux;qa=done", &[("os", &["linux", "win"]), ("qa", &["done"])]),
            ("os=win,linux|qa=done;", &[("os", &["linux", "win"]), ("qa", &["done"])]),
            ("a=1;a=2", &[("a", &["1", "2"])]),
            ("a=", &[("a", &[""])]),
            ("url=http://x/?a=b", &[("url", &["http://x/?a=b"])]),
            (r"a=1\,2;b=\;\|\\", &[("a", &["1,2"]), ("b", &[r";|\"])]),
            (r"a\=b=c", &[("a=b", &["c"])]),
        ] {
            let expected: Vec<_> =
                expected.iter().map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect())).collect();
            assert_eq!(read(text), expected, "{text}");
        }
        for bad in ["qa", "a=1;b", r"a=1\", r"a\=1"] {
            assert_eq!(properties(bad), None, "{bad}");
        }
        assert_eq!(list("a,b").unwrap(), ["a", "b"]);
        assert_eq!(list(r"a\,b,").unwrap(), ["a,b", ""]);
    }

    fn escape(text: &str) -> String {
        text.chars().flat_map(|c| if ",;|=\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(all in prop::collection::btree_map("[^\\PC]{1,6}", prop::collection::btree_set("[ -~é]{0,6}", 1..4), 0..4)) {
            let parts: Vec<String> = all.iter().map(|(name, values)| {
                format!("{}={}", escape(name), values.iter().map(|value| escape(value)).collect::<Vec<_>>().join(","))
            }).collect();
            prop_assert_eq!(properties(&parts.join(";")), Some(all.clone()));
            prop_assert_eq!(properties(&parts.join("|")), Some(all));
        }

        #[test]
        fn no_text_makes_reading_panic(text in "[\\\\,;|=aé]{0,20}") {
            let _ = properties(&text);
            let _ = list(&text);
        }
    }
}
