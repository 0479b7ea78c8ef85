use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign};
use std::str::FromStr;

/// Something that one may be allowed to do. The letters are Artifactory's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Right {
    /// See and pull: `r`.
    Read = 1,
    /// Push what is not there yet: `w`.
    Deploy = 2,
    /// Change properties: `n`.
    Annotate = 4,
    /// Delete, and point a tag to something else: `d`.
    Delete = 8,
    /// Change settings and permissions: `m`.
    Manage = 16,
}

/// Every right with its letter, in the order they are written.
const LETTERS: [(Right, char); 5] =
    [(Right::Read, 'r'), (Right::Deploy, 'w'), (Right::Annotate, 'n'), (Right::Delete, 'd'), (Right::Manage, 'm')];

/// A set of rights, written as letters: `rwn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// No right at all.
    pub const NONE: Self = Self(0);

    /// Every right.
    pub const ALL: Self = Self(31);

    /// Whether `right` is in the set.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right as u8 != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The letters, one by one, as Artifactory's JSON has them.
    pub fn letters(self) -> impl Iterator<Item = char> {
        LETTERS.into_iter().filter(move |(right, _)| self.has(*right)).map(|(_, letter)| letter)
    }
}

impl From<Right> for Rights {
    fn from(right: Right) -> Self {
        Self(right as u8)
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Rights {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Rights {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letters().try_for_each(|letter| write!(f, "{letter}"))
    }
}

/// A letter that stands for no right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no right: r is read, w deploy, n annotate, d delete, m manage")]
pub struct UnknownRight(char);

impl FromStr for Rights {
    type Err = UnknownRight;

    fn from_str(text: &str) -> Result<Self, UnknownRight> {
        text.chars().try_fold(Self::NONE, |rights, letter| {
            let (right, _) = LETTERS.into_iter().find(|(_, known)| *known == letter).ok_or(UnknownRight(letter))?;
            Ok(rights | right.into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_written_as_letters_in_one_order() {
        assert_eq!("nwr".parse::<Rights>().unwrap().to_string(), "rwn");
        assert_eq!("".parse::<Rights>().unwrap(), Rights::NONE);
        assert_eq!(Rights::ALL.to_string(), "rwndm");
        assert_eq!("rx".parse::<Rights>(), Err(UnknownRight('x')));
    }

    #[test]
    fn a_set_has_what_was_put_in() {
        let rights: Rights = "rd".parse().unwrap();
        assert!(rights.has(Right::Read) && rights.has(Right::Delete) && !rights.has(Right::Deploy));
        assert_eq!(rights & "dw".parse().unwrap(), Right::Delete.into());
    }
}
