//! Signed tokens: what docker fetches with a password and shows instead of it for a few minutes.
//!
//! A token says who, where and what for. It is never the last word: whoever shows one is looked up again, so a deleted
//! user, another password, a revoked access token and a withdrawn right count at once. We check what we issued and nobody
//! else does, so the signature is a MAC, under keys that only the store knows and that change every day.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use berth_names::{AccountName, Authority, ImageName, RepositoryKey};
use berth_storage::records::{Record, SigningKey, User};
use berth_storage::{Batch, MetadataStore, get_record, keys};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};

use super::Access;
use super::caller::{Caller, Grant, Grants};
use crate::blobs::random_u64;
use crate::{Clock, Error, Result};

/// How long a token for V2 requests is good, in seconds. Docker fetches another one when it ends.
pub const ACCESS_LIFE_S: u64 = 300;

/// How long a V1 token is good: docker gets one at the beginning of a push and can't get another before its end.
const V1_LIFE_S: u64 = 24 * 60 * 60;

/// How long `docker login`'s identity token is good.
const REFRESH_LIFE_S: u64 = 90 * 24 * 60 * 60;

/// How long a key signs.
const KEY_SIGNS_MS: u64 = 24 * 60 * 60 * 1000;

/// How long a key is kept: until nothing that it signed can still be good.
const KEY_KEPT_MS: u64 = KEY_SIGNS_MS + (REFRESH_LIFE_S + 60) * 1000;

/// How far the clocks of two backends over one store may be apart, in seconds.
const CLOCK_SKEW_S: u64 = 60;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8192;

/// Keys kept in memory.
const KEYS_MAX: usize = 200;

const ISSUER: &str = "berth";

/// What a token is for. One kind is never good as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenUse {
    /// Requests to V2, for what it grants.
    Access,
    /// Fetching access tokens: docker's identity token.
    Refresh,
    /// Requests to V1, for what it grants.
    V1,
}

impl TokenUse {
    const fn life_s(self) -> u64 {
        match self {
            Self::Access => ACCESS_LIFE_S,
            Self::Refresh => REFRESH_LIFE_S,
            Self::V1 => V1_LIFE_S,
        }
    }
}

/// Where a token is good: at an address of one repository or of all of them, and only under the host and port that it was
/// asked for at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience(String);

impl Audience {
    /// The audience of requests for a repository at an address that is bound to it.
    pub fn of(repository: &RepositoryKey, authority: &Authority) -> Self {
        Self(format!("{repository}@{authority}"))
    }

    /// The audience of requests at an address of all repositories. No repository has an empty key.
    pub fn of_all(authority: &Authority) -> Self {
        Self(format!("@{authority}"))
    }
}

/// A token that was just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub text: String,
    /// When, in seconds since 1970.
    pub issued_at_s: u64,
    /// How long it is good, in seconds.
    pub expires_in_s: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<AccountName>,
    /// The user's generation: another password ends the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    /// The access token that was shown for it: revoking that ends this.
    #[serde(skip_serializing_if = "Option::is_none")]
    through: Option<String>,
    #[serde(rename = "use")]
    token_use: TokenUse,
    grants: Vec<(RepositoryKey, ImageName, String)>,
    catalog: bool,
    iat: u64,
    exp: u64,
    jti: String,
}

pub(super) struct Signer {
    store: Arc<dyn MetadataStore>,
    clock: Clock,
    keys: RwLock<HashMap<String, SigningKey>>,
}

impl Signer {
    pub(super) fn new(store: Arc<dyn MetadataStore>, clock: Clock) -> Self {
        Self { store, clock, keys: RwLock::default() }
    }

    /// The key of this id, unless it is too old for anything it signed to be good.
    async fn key(&self, id: &str) -> Result<Option<SigningKey>> {
        if !is_key_id(id) {
            return Ok(None);
        }
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let key = match known {
            Some(key) => Some(key),
            None => get_record::<SigningKey>(self.store.as_ref(), &keys::signing_key(id)).await?.map(|(key, _)| key),
        };
        let key = key.filter(|key| key.created_ms + KEY_KEPT_MS > self.clock.now_ms());
        if let Some(key) = &key {
            self.remember(id, key);
        }
        Ok(key)
    }

    fn remember(&self, id: &str, key: &SigningKey) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        keys.insert(id.to_owned(), key.clone());
    }

    /// The key that signs at present; makes a new one when the last one is a day old, and drops those past their time.
    async fn current_key(&self) -> Result<(String, SigningKey)> {
        let now_ms = self.clock.now_ms();
        // One from a time that has not come was made when the clock was wrong. It must not sign until then.
        let signs =
            |key: &SigningKey| key.created_ms <= now_ms + CLOCK_SKEW_S * 1000 && key.created_ms.saturating_add(KEY_SIGNS_MS) > now_ms;
        let newest = {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            keys.iter().filter(|(_, key)| signs(key)).max_by(|a, b| a.0.cmp(b.0)).map(|(id, key)| (id.clone(), key.clone()))
        };
        if let Some(found) = newest {
            return Ok(found);
        }
        let prefix = keys::signing_keys();
        let rows = self.store.scan(&prefix, None, usize::MAX).await?;
        let mut batch = Batch::new();
        for (key, row) in &rows {
            match (key.text_after(&prefix), SigningKey::decode(row)) {
                (Some(id), Some(found)) if signs(&found) => {
                    self.remember(id, &found);
                    return Ok((id.to_owned(), found));
                }
                (_, Some(found)) if found.created_ms + KEY_KEPT_MS <= now_ms => {
                    batch.delete(key.clone());
                }
                _ => {}
            }
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|_| Error::Internal("no random bytes"))?;
        let key = SigningKey { secret: secret.iter().map(|byte| format!("{byte:02x}")).collect(), created_ms: now_ms };
        let id = format!("{now_ms:012x}{:08x}", random_u64()? as u32);
        batch.put_record(keys::signing_key(&id), &key);
        self.store.commit(batch).await?;
        self.remember(&id, &key);
        Ok((id, key))
    }
}

fn is_key_id(text: &str) -> bool {
    text.len() == 20 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Access {
    /// Issues a token for the caller: what is granted must have been decided before.
    ///
    /// # Errors
    /// Only if the store or the operating system's random numbers fail.
    pub async fn issue(&self, token_use: TokenUse, caller: &Caller, audience: &Audience, grants: &Grants) -> Result<Issued> {
        let (id, key) = self.signer.current_key().await?;
        let now_s = self.clock.now_ms() / 1000;
        let claims = Claims {
            iss: ISSUER.into(),
            aud: audience.0.clone(),
            sub: caller.account_name().cloned(),
            generation: caller.generation(),
            through: caller.access_token().map(str::to_owned),
            token_use,
            catalog: grants.catalog,
            grants: grants.images.iter().map(|grant| (grant.repository.clone(), grant.image.clone(), grant.rights.to_string())).collect(),
            iat: now_s,
            exp: now_s + token_use.life_s(),
            jti: format!("{:016x}", random_u64()?),
        };
        let header = Header { kid: Some(id), ..Header::new(Algorithm::HS256) };
        let text = encode(&header, &claims, &EncodingKey::from_secret(key.secret.as_bytes()));
        let text = text.map_err(|_| Error::Internal("a token could not be signed"))?;
        Ok(Issued { text, issued_at_s: now_s, expires_in_s: token_use.life_s() })
    }

    /// Who shows a signed token, limited to what it was issued for; `None` if it is not good here and now.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn caller_by_signed(&self, text: &str, token_use: TokenUse, audience: &Audience) -> Result<Option<Caller>> {
        let Some(claims) = self.verified(text, audience).await? else { return Ok(None) };
        let now_s = self.clock.now_ms() / 1000;
        if claims.token_use != token_use || claims.exp <= now_s || claims.iat > now_s + CLOCK_SKEW_S {
            return Ok(None);
        }
        let caller = match (&claims.sub, &claims.through) {
            (None, _) => Some(Caller::anonymous()),
            (Some(_), Some(id)) => self.caller_by_token_id(id).await?,
            (Some(name), None) => {
                let user = get_record::<User>(self.store.as_ref(), &keys::user(name)).await?;
                user.filter(|(user, _)| user.enabled).map(|(user, _)| Caller::user(name.clone(), user))
            }
        };
        // The same name with another generation is another password, or even another person.
        let Some(caller) = caller.filter(|caller| caller.account_name() == claims.sub.as_ref() && caller.generation() == claims.generation)
        else {
            return Ok(None);
        };
        if token_use == TokenUse::Refresh {
            return Ok(Some(caller));
        }
        let grant = |(repository, image, rights): (_, _, String)| Some(Grant { repository, image, rights: rights.parse().ok()? });
        let images = claims.grants.into_iter().map(grant);
        Ok(images.collect::<Option<Vec<_>>>().map(|images| caller.limited_to(Grants { images, catalog: claims.catalog })))
    }

    async fn verified(&self, text: &str, audience: &Audience) -> Result<Option<Claims>> {
        if text.len() > TOKEN_BYTES_MAX {
            return Ok(None);
        }
        // Nothing in the header is believed but which of our own keys to try; algorithm and key are ours.
        let Some(id) = decode_header(text).ok().and_then(|header| header.kid) else { return Ok(None) };
        let Some(key) = self.signer.key(&id).await? else { return Ok(None) };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[&audience.0]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["aud", "exp", "iss"]);
        // Time is checked by our own clock, to the second.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Ok(decode::<Claims>(text, &DecodingKey::from_secret(key.secret.as_bytes()), &validation).ok().map(|token| token.claims))
    }
}
