use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest account name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The name of a user, a robot, a group or a permission target, for instance `jane.doe@example.com` or `ci-builder`.
///
/// 1–64 bytes of lower-case ASCII letters, digits, `.`, `_`, `-` and `@`, starting with a letter or digit: nothing that a
/// shell, a URL or a configuration file would take for something else, and no two names that differ only in case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(Arc<str>);

/// The text is no account name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_BYTES_MAX} lower-case letters, digits, '.', '_', '-' or '@' and starts with a letter or digit")]
pub struct InvalidAccountName;

impl FromStr for AccountName {
    type Err = InvalidAccountName;

    fn from_str(text: &str) -> Result<Self, InvalidAccountName> {
        let bytes = text.as_bytes();
        let is_plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let starts_well = bytes.first().is_some_and(is_plain);
        let all_allowed = bytes.iter().all(|b| is_plain(b) || matches!(b, b'.' | b'_' | b'-' | b'@'));
        if starts_well && all_allowed && bytes.len() <= NAME_BYTES_MAX { Ok(Self(text.into())) } else { Err(InvalidAccountName) }
    }
}

crate::text_type!(AccountName, InvalidAccountName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_people_and_machines_are_called_and_nothing_that_a_shell_interprets() {
        for good in ["admin", "jane.doe@example.com", "ci-builder_2", "7", &"a".repeat(64)] {
            assert_eq!(good.parse::<AccountName>().unwrap().as_str(), good);
        }
        for bad in ["", "Admin", "robot$ci", "a b", "a:b", "a/b", "-a", ".a", "@a", "a\0b", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad:?}");
        }
    }
}
