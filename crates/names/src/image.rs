use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest image name, in bytes (docker refuses more: host and name together must fit 255).
const NAME_BYTES_MAX: usize = 255;

/// The namespace that Docker V1 gives to a name without one.
const LIBRARY: &str = "library";

/// What a client pushes to and pulls from within a repository, for instance `team/app`.
///
/// The grammar of the OCI distribution specification: components of lowercase letters and digits,
/// separated inside by `.`, `_`, `__` or any number of `-`, joined by single slashes, 255 bytes at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(Arc<str>);

/// The text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an image name has at most {NAME_BYTES_MAX} bytes: lowercase letters and digits, single '.', '_' or '__' or any number of '-' between them, components joined by '/'"
)]
pub struct InvalidImageName;

impl ImageName {
    /// The image that a Docker V1 client means: a name without a namespace lives in `library`,
    /// and `foo` and `library/foo` are the same (docker uses both spellings within one push).
    ///
    /// # Errors
    /// [`InvalidImageName`] if the text is no image name.
    pub fn from_v1(text: &str) -> Result<Self, InvalidImageName> {
        if text.contains('/') { text.parse() } else { format!("{LIBRARY}/{text}").parse() }
    }
}

impl FromStr for ImageName {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, InvalidImageName> {
        if text.len() <= NAME_BYTES_MAX && text.split('/').all(is_component) { Ok(Self(text.into())) } else { Err(InvalidImageName) }
    }
}

crate::text_type!(ImageName, InvalidImageName);

/// `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let starts_and_ends_well = text.starts_with(is_alphanumeric) && text.ends_with(is_alphanumeric);
    let is_separator = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    starts_and_ends_well && text.split(is_alphanumeric).all(is_separator)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn follows_the_oci_grammar() {
        for good in ["a", "library/ubuntu", "a/b/c/d", "a.b", "a_b", "a__b", "a-b", "a---b", "tags", "blobs/uploads", "0", &"a".repeat(255)]
        {
            assert_eq!(good.parse::<ImageName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a._b",
            "a___b",
            ".a",
            "a.",
            "-a",
            "a-",
            "_a",
            "..",
            "a/../b",
            "a b",
            "a%2fb",
            "a\\b",
            "a\0",
            "ä",
            "a:b",
            &"a".repeat(256),
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn v1_names_without_a_namespace_are_in_library() {
        assert_eq!(ImageName::from_v1("foo").unwrap(), ImageName::from_v1("library/foo").unwrap());
        assert_eq!(ImageName::from_v1("jfrog/ubuntu").unwrap().as_str(), "jfrog/ubuntu");
        assert!(ImageName::from_v1("").is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_itself_and_holds_no_separator_of_ours(text in "\\PC{0,40}") {
            if let Ok(name) = text.parse::<ImageName>() {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(!text.contains(['\0', '%', '\\']) && !text.contains("//"));
            }
        }

        #[test]
        fn every_name_of_the_grammar_parses(text in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}(/[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}){0,3}") {
            prop_assert!(text.parse::<ImageName>().is_ok());
        }
    }
}
