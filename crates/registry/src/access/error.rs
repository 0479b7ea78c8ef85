use std::fmt;

use berth_names::AccountName;

/// The result of managing users, groups, permissions and tokens.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// What a name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A user or robot.
    User,
    /// A group.
    Group,
    /// A permission target.
    Permission,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Permission => "permission target",
        })
    }
}

/// Why a change of users, groups, permissions or tokens was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of this name.
    #[error("{0} {1} is not known")]
    Unknown(Kind, AccountName),
    /// There is one of this name already.
    #[error("{0} {1} already exists")]
    Exists(Kind, AccountName),
    /// The user has no such access token.
    #[error("there is no such access token")]
    TokenUnknown,
    /// The password is too easy to guess.
    #[error("the password {0}")]
    WeakPassword(String),
    /// Something about the request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Nobody would be left who could change anything.
    #[error("this is the last admin who can log in; make another one first")]
    LastAdmin,
    /// The registry's own trouble.
    #[error(transparent)]
    Registry(#[from] crate::Error),
}

impl From<berth_storage::Error> for Error {
    fn from(error: berth_storage::Error) -> Self {
        Self::Registry(error.into())
    }
}
