//! Access tokens: secrets with a name, an end and limits, that stand in for a password. Robots have nothing else.

use berth_names::AccountName;
use berth_storage::records::{AccessToken, TokenScope, User};
use berth_storage::{Batch, get_record, keys};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::Access;
use super::caller::{Caller, Scope};
use super::error::{Error, Result};
use super::passwords::random_text;
use super::policy::ANY_REPOSITORY;

/// What every access token begins with, so that people and leak scanners recognise one.
pub const TOKEN_PREFIX: &str = "berth-";

/// Characters of a token's id: 80 random bits.
const ID_CHARS: usize = 16;

/// Characters of a token's secret: 160 random bits.
const SECRET_CHARS: usize = 32;

/// Access tokens of one user.
const TOKENS_MAX: usize = 1000;

/// Entries in one token's scope.
const SCOPE_ENTRIES_MAX: usize = 100;

/// Longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 256;

/// What a token is to be like.
#[derive(Clone, Debug, Default)]
pub struct TokenWish {
    /// What it is for.
    pub description: String,
    /// What it may be used for; `None`: everything that its owner may do.
    pub scope: Option<Vec<TokenScope>>,
    /// After how many seconds it ends; `None`: never.
    pub expires_in_s: Option<u64>,
}

/// A token that was just made: the only time its text is known.
#[derive(Clone)]
pub struct NewToken {
    /// Its id, for lists and for revoking it.
    pub id: String,
    /// The whole of it, to be used as a password.
    pub text: String,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

impl Access {
    /// Makes an access token for `owner`.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for a wish that can't be granted.
    pub async fn create_token(&self, owner: &AccountName, wish: &TokenWish) -> Result<NewToken> {
        if wish.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(Error::Invalid(format!("a description may have {DESCRIPTION_BYTES_MAX} bytes")));
        }
        parse_scope(wish.scope.as_deref().unwrap_or_default())?;
        let (id, secret) = (random_text(ID_CHARS)?, random_text(SECRET_CHARS)?);
        let now_ms = self.clock.now_ms();
        let expires_ms = wish.expires_in_s.map(|seconds| now_ms.saturating_add(seconds.saturating_mul(1000)));
        self.change(|| async {
            let mut batch = Batch::new();
            let user = self.user(owner).await?;
            if self.store.scan(&keys::access_tokens_of(owner), None, TOKENS_MAX).await?.len() == TOKENS_MAX {
                return Err(Error::Invalid(format!("a user may have {TOKENS_MAX} access tokens: revoke some first")));
            }
            let token = AccessToken {
                owner: owner.clone(),
                generation: user.generation,
                description: wish.description.clone(),
                secret_sha256: hex_sha256(&secret),
                scope: wish.scope.clone(),
                created_ms: now_ms,
                expires_ms,
            };
            batch.put_record(keys::access_token(&id), &token).put(keys::access_token_of(owner, &id), Bytes::new());
            Ok(batch)
        })
        .await?;
        Ok(NewToken { text: format!("{TOKEN_PREFIX}{id}-{secret}"), id, expires_ms })
    }

    /// A user's access tokens, by id.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub async fn tokens(&self, owner: &AccountName) -> Result<Vec<(String, AccessToken)>> {
        self.user(owner).await?;
        let prefix = keys::access_tokens_of(owner);
        let (mut ids, mut tokens) = (Vec::new(), Vec::new());
        self.each(&prefix, |key, _| ids.extend(key.text_after(&prefix).map(str::to_owned))).await?;
        for id in ids {
            if let Some((token, _)) = get_record(self.store.as_ref(), &keys::access_token(&id)).await? {
                tokens.push((id, token));
            }
        }
        Ok(tokens)
    }

    /// Ends an access token at once, and everything that was issued for it.
    ///
    /// # Errors
    /// [`Error::TokenUnknown`].
    pub async fn revoke_token(&self, owner: &AccountName, id: &str) -> Result<()> {
        let id = Some(id).filter(|id| is_id(id)).ok_or(Error::TokenUnknown)?;
        self.change(|| async {
            let mut batch = Batch::new().frees();
            let key = keys::access_token_of(owner, id);
            if self.store.get(&key).await?.is_none() {
                return Err(Error::TokenUnknown);
            }
            batch.delete(key).delete(keys::access_token(id));
            Ok(batch)
        })
        .await
    }

    /// Whom an access token belongs to, if it is one and is good; used with a user name, it must be that user's.
    pub(super) async fn token_owner(&self, text: &str, user: Option<&str>) -> crate::Result<Option<Caller>> {
        let parts = text.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once('-'));
        let Some((id, secret)) = parts.filter(|(id, _)| is_id(id)) else { return Ok(None) };
        let Some((token, _)) = get_record::<AccessToken>(self.store.as_ref(), &keys::access_token(id)).await? else { return Ok(None) };
        // Hashes are compared, so how long that takes says nothing about the secret.
        if token.secret_sha256 != hex_sha256(secret) || user.is_some_and(|user| user != token.owner.as_str()) {
            return Ok(None);
        }
        self.caller_through(id, token).await
    }

    /// The caller that an access token of this id stands for, as long as it and its owner are good.
    pub(super) async fn caller_by_token_id(&self, id: &str) -> crate::Result<Option<Caller>> {
        match get_record::<AccessToken>(self.store.as_ref(), &keys::access_token(id)).await? {
            Some((token, _)) => self.caller_through(id, token).await,
            None => Ok(None),
        }
    }

    async fn caller_through(&self, id: &str, token: AccessToken) -> crate::Result<Option<Caller>> {
        let Some((user, _)) = get_record::<User>(self.store.as_ref(), &keys::user(&token.owner)).await? else { return Ok(None) };
        let is_over = token.expires_ms.is_some_and(|end_ms| end_ms <= self.clock.now_ms());
        if is_over || !user.enabled || user.generation != token.generation {
            return Ok(None);
        }
        // A scope that can't be read allows nothing.
        let scope = token.scope.map(|scope| parse_scope(&scope).unwrap_or_default());
        Ok(Some(Caller::user(token.owner, user).through_access_token(id, scope)))
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn parse_scope(scope: &[TokenScope]) -> Result<Vec<Scope>> {
    if scope.len() > SCOPE_ENTRIES_MAX {
        return Err(Error::Invalid(format!("a scope may have {SCOPE_ENTRIES_MAX} entries")));
    }
    let parse = |TokenScope { repository, images, rights }: &TokenScope| {
        if repository != ANY_REPOSITORY {
            repository
                .parse::<berth_names::RepositoryKey>()
                .map_err(|error| Error::Invalid(format!("repository `{repository}`: {error}")))?;
        }
        Ok(Scope {
            repository: repository.clone(),
            images: images.parse().map_err(|error| Error::Invalid(format!("pattern `{images}`: {error}")))?,
            rights: rights.parse().map_err(|error: super::UnknownRight| Error::Invalid(error.to_string()))?,
        })
    };
    scope.iter().map(parse).collect()
}

fn hex_sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
