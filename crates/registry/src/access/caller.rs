use std::collections::BTreeSet;
use std::sync::Arc;

use berth_names::{AccountName, ImageName, RepositoryKey};
use berth_storage::records;

use super::pattern::Pattern;
use super::policy::ANY_REPOSITORY;
use super::rights::Rights;
use crate::Repository;

/// Who a request comes from, and what limits its credentials put on that.
#[derive(Clone, Debug)]
pub struct Caller {
    account: Account,
    /// An access token's own limits.
    scope: Option<Arc<[Scope]>>,
    /// What a signed token was issued for.
    grants: Option<Arc<Grants>>,
    /// The access token that stands behind the request, if any.
    access_token: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum Account {
    Anonymous,
    /// Whoever may open the store's own socket may do everything.
    Operator,
    User {
        name: AccountName,
        generation: u64,
        admin: bool,
        groups: Arc<BTreeSet<AccountName>>,
    },
}

/// What an access token may be used for.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) repository: String,
    pub(super) images: Pattern,
    pub(super) rights: Rights,
}

/// What a signed token was issued for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Images and what may be done with them.
    pub images: Vec<Grant>,
    /// Whether images may be listed.
    pub catalog: bool,
}

/// What a signed token was issued for with one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The repository that the image is in.
    pub repository: RepositoryKey,
    /// The image.
    pub image: ImageName,
    /// What may be done with it.
    pub rights: Rights,
}

impl Caller {
    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { account: Account::Anonymous, scope: None, grants: None, access_token: None }
    }

    /// Whether it is whoever runs the service.
    pub fn is_operator(&self) -> bool {
        matches!(self.account, Account::Operator)
    }

    /// Whoever runs the service.
    pub fn operator() -> Self {
        Self { account: Account::Operator, ..Self::anonymous() }
    }

    pub(super) fn user(name: AccountName, user: records::User) -> Self {
        let records::User { generation, admin, groups, .. } = user;
        Self { account: Account::User { name, generation, admin, groups: Arc::new(groups) }, ..Self::anonymous() }
    }

    pub(super) fn through_access_token(self, id: &str, scope: Option<Vec<Scope>>) -> Self {
        Self { access_token: Some(id.into()), scope: scope.map(Into::into), ..self }
    }

    pub(super) fn limited_to(self, grants: Grants) -> Self {
        Self { grants: Some(Arc::new(grants)), ..self }
    }

    /// The user's name, if somebody has logged in.
    pub fn name(&self) -> Option<&str> {
        self.account_name().map(AccountName::as_str)
    }

    /// The user's name as a name.
    pub fn account_name(&self) -> Option<&AccountName> {
        match &self.account {
            Account::User { name, .. } => Some(name),
            Account::Anonymous | Account::Operator => None,
        }
    }

    /// How a log calls the caller.
    pub fn label(&self) -> &str {
        match &self.account {
            Account::Anonymous => super::ANONYMOUS,
            Account::Operator => "operator",
            Account::User { name, .. } => name.as_str(),
        }
    }

    /// Whether nobody has logged in.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.account, Account::Anonymous)
    }

    /// Whether the caller may change users, groups and permissions: an admin whose credentials carry no limits.
    pub fn is_admin(&self) -> bool {
        self.is_almighty() && self.scope.is_none() && self.grants.is_none()
    }

    /// The id of the access token that the caller logged in with.
    pub fn access_token(&self) -> Option<&str> {
        self.access_token.as_deref()
    }

    /// Whether a signed token was shown.
    pub fn shows_signed_token(&self) -> bool {
        self.grants.is_some()
    }

    /// Whether the credentials allow listing images.
    pub fn may_list(&self) -> bool {
        self.grants.as_ref().is_none_or(|grants| grants.catalog)
    }

    pub(super) fn generation(&self) -> Option<u64> {
        match self.account {
            Account::User { generation, .. } => Some(generation),
            Account::Anonymous | Account::Operator => None,
        }
    }

    /// Whether the account, leaving limits of its credentials aside, may do everything.
    pub(super) fn is_almighty(&self) -> bool {
        matches!(self.account, Account::Operator | Account::User { admin: true, .. })
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &AccountName> {
        match &self.account {
            Account::User { groups, .. } => Some(groups.iter()),
            Account::Anonymous | Account::Operator => None,
        }
        .into_iter()
        .flatten()
    }

    /// What the credentials allow at most with an image (`None`: with any one).
    pub(super) fn limit(&self, repository: &Repository, image: Option<&ImageName>) -> Rights {
        let mut limit = self.scope_limit(repository, |images| image.is_none_or(|image| images.fits(image.as_str())));
        if let Some(grants) = &self.grants {
            let here = grants.images.iter().filter(|grant| grant.repository == repository.key);
            let granted = here.filter(|grant| image.is_none_or(|image| grant.image == *image));
            limit = limit & granted.fold(Rights::NONE, |rights, grant| rights | grant.rights);
        }
        limit
    }

    /// What the credentials allow at most with every image.
    pub(super) fn limit_everywhere(&self, repository: &Repository) -> Rights {
        if self.grants.is_some() { Rights::NONE } else { self.scope_limit(repository, Pattern::is_universal) }
    }

    fn scope_limit(&self, repository: &Repository, counts: impl Fn(&Pattern) -> bool) -> Rights {
        let Some(scope) = &self.scope else { return Rights::ALL };
        let fitting = scope.iter().filter(|scope| scope.repository == ANY_REPOSITORY || scope.repository == repository.key.as_str());
        fitting.filter(|scope| counts(&scope.images)).fold(Rights::NONE, |rights, scope| rights | scope.rights)
    }

    /// The same caller without what a signed token was issued for: what could be issued.
    #[must_use]
    pub fn without_grants(&self) -> Self {
        Self { grants: None, ..self.clone() }
    }
}
