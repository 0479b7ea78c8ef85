//! Host names that a certificate can be ordered for.
//!
//! What must stay true: a [`Name`] is safe as the name of a file, whatever the configuration said.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest name, in bytes. DNS allows 253; a file of this name and its longest ending must fit the 255 bytes of a file
/// system.
const NAME_BYTES_MAX: usize = 240;

/// Longest part between two dots, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// A host name in lower case, such as `registry.company.com`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Why no certificate can be ordered for a name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// `*.company.com`
    #[error(
        "{0:?} is a wildcard: ACME gives wildcard certificates by dns-01 only, which Berth does not do; name each host, or use `certificate` and `key`"
    )]
    Wildcard(String),
    /// `192.0.2.1`
    #[error("{0:?} is an IP address: ACME certificates are ordered for host names; use `certificate` and `key`")]
    Address(String),
    /// Anything else.
    #[error("{0:?} is no host name: letters, digits and hyphens, parts separated by dots, at most {NAME_BYTES_MAX} bytes")]
    Invalid(String),
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.to_ascii_lowercase();
        if name.contains('*') {
            return Err(NameError::Wildcard(text.to_owned()));
        }
        if text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok() {
            return Err(NameError::Address(text.to_owned()));
        }
        // A last label of digits alone would be read as part of an address by some clients.
        let is_numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() > NAME_BYTES_MAX || is_numeric || !name.split('.').all(is_label) {
            return Err(NameError::Invalid(text.to_owned()));
        }
        Ok(Self(name.into()))
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_certificate_can_be_ordered_for() {
        for (text, name) in [
            ("registry.company.com", "registry.company.com"),
            ("Registry.Company.COM", "registry.company.com"),
            ("localhost", "localhost"),
            ("a-1.b2.example", "a-1.b2.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), name);
        }
        assert!(format!("{}.example", "a".repeat(63)).parse::<Name>().is_ok());
    }

    #[test]
    fn the_refusal_says_why() {
        let refusal = |text: &str| text.parse::<Name>().unwrap_err();
        for text in ["*.company.com", "a.*.company.com", "*"] {
            assert_eq!(refusal(text), NameError::Wildcard(text.to_owned()));
            assert!(refusal(text).to_string().contains("dns-01"));
        }
        for text in ["192.0.2.1", "::1", "[::1]"] {
            assert_eq!(refusal(text), NameError::Address(text.to_owned()));
        }
        let (long_label, long_name) = ("a".repeat(64), vec!["a"; 121].join("."));
        for text in ["", ".", "a..b", ".a", "a.", "-a.b", "a-.b", "a_b", "a b", "a/b", "..", "a:443", "bücher.example", "1.2", "a.1"]
            .into_iter()
            .chain([long_label.as_str(), long_name.as_str()])
        {
            assert_eq!(refusal(text), NameError::Invalid(text.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_part_of_a_path(text in "[a-zA-Z0-9./*_-]{0,260}") {
            if let Ok(name) = text.parse::<Name>() {
                let path = std::path::Path::new(name.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().unwrap(), name.as_str());
                prop_assert_eq!(name.as_str().parse::<Name>().unwrap(), name);
            }
        }
    }
}
