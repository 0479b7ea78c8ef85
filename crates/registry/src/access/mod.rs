//! Who is asking, and what they may do.
//!
//! For now there are users with passwords; every user may do everything, and nobody else may do more than pull from
//! repositories that say so. The one decision is [`permits`]: whatever comes later decides there.

mod passwords;

use std::sync::Arc;

use crate::Repository;
pub use passwords::{Passwords, random_password};

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// A user who has proved it.
    User(Arc<str>),
}

impl Identity {
    /// The user's name, if there is a user.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::User(name) => Some(name),
        }
    }
}

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read anything of a repository.
    Pull,
    /// Change anything of a repository.
    Push,
}

/// Whether `identity` may do `action` in `repository`.
pub fn permits(identity: &Identity, repository: &Repository, action: Action) -> bool {
    match (identity, action) {
        (Identity::User(_), Action::Pull | Action::Push) => true,
        (Identity::Anonymous, Action::Pull) => repository.anonymous_pull,
        (Identity::Anonymous, Action::Push) => false,
    }
}
