//! Users' passwords.
//!
//! Hashing a password is slow on purpose, and Docker sends the password with every request. So verdicts, good and bad,
//! are remembered for a short time, the same question asked twice at once is answered once, and only a few hashes are
//! computed at a time: a flood of bad passwords costs a bounded share of the machine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use berth_names::AccountName;
use berth_storage::records::User;
use berth_storage::{MetadataStore, get_record, keys};
use bytes::Bytes;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::strength::{PASSWORD_BYTES_MAX, PasswordPolicy};
use super::throttle::Throttle;
use crate::{Clock, Error, Result};

/// How long a verdict is remembered. A changed password takes effect at once all the same.
const VERDICT_MS: u64 = 5 * 60 * 1000;

/// Verdicts remembered at once.
const VERDICTS_MAX: usize = 10_000;

/// Hashes computed at once. Each takes 19 MiB and some 20 ms of a core.
const HASHES_AT_ONCE: usize = 2;

/// Requests that may wait for their turn before others are turned away.
const WAITING_MAX: usize = 64;

/// How long the refusal of a login that must wait takes.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// How long one waits before it is turned away.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Characters of random passwords and tokens: without those that look like another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Length of a random password: 120 bits.
const RANDOM_PASSWORD_CHARS: usize = 24;

/// The checking of passwords.
pub(super) struct Passwords {
    store: Arc<dyn MetadataStore>,
    clock: Clock,
    policy: PasswordPolicy,
    verdicts: Cache<[u8; 32], Verdict>,
    /// Makes keys of the cache meaningless outside this process.
    salt: [u8; 32],
    turns: Semaphore,
    places: Semaphore,
    throttle: Throttle,
    /// Checked in place of a user who does not exist, so that both take equally long.
    nobody: Arc<str>,
}

#[derive(Clone)]
struct Verdict {
    /// The hash that was checked against: a changed password makes the verdict void.
    password_hash: Arc<str>,
    good: bool,
    until_ms: u64,
}

impl Passwords {
    pub(super) fn new(store: Arc<dyn MetadataStore>, clock: Clock, policy: PasswordPolicy) -> Result<Self> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|_| Error::Internal("no random bytes"))?;
        Ok(Self {
            store,
            clock,
            policy,
            verdicts: Cache::new(VERDICTS_MAX),
            salt,
            turns: Semaphore::new(HASHES_AT_ONCE),
            places: Semaphore::new(WAITING_MAX),
            throttle: Throttle::new(clock),
            nobody: hash(&random_password()?)?.into(),
        })
    }

    pub(super) fn policy(&self) -> &PasswordPolicy {
        &self.policy
    }

    /// The user, if the password is theirs. Takes equally long for users who do not exist, are disabled, or have none.
    pub(super) async fn verify(&self, name: &str, password: &str, from: Option<IpAddr>) -> Result<Option<(AccountName, User)>> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(None);
        }
        let user = match name.parse::<AccountName>() {
            Ok(name) => get_record::<User>(self.store.as_ref(), &keys::user(&name)).await?.map(|(user, _)| (name, user)),
            Err(_) => None,
        };
        let user = user.filter(|(_, user)| user.enabled);
        let own_hash = user.as_ref().and_then(|(_, user)| user.password_hash.as_deref());
        let password_hash: Arc<str> = own_hash.map_or_else(|| Arc::clone(&self.nobody), Arc::from);
        let has_password = own_hash.is_some();
        let question = self.question(name, password);
        let good = match self.verdicts.get(&question).filter(|known| self.is_current(known, &password_hash)) {
            Some(known) => known.good,
            None => {
                if let Some(wait) = self.throttle.wait(name, from) {
                    // Answered at once, a guesser would keep us busy with refusing.
                    tokio::time::sleep(wait.min(REFUSAL_PAUSE)).await;
                    return Err(Error::LoginsBlocked { wait });
                }
                let good = self.decide(question, password_hash, password).await?.good && has_password;
                if good {
                    self.throttle.succeeded(name, from)
                } else {
                    self.throttle.failed(name, from)
                }
                good
            }
        };
        Ok(user.filter(|_| good && has_password))
    }

    fn question(&self, name: &str, password: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(name);
        hash.update([0]);
        hash.update(password);
        hash.finalize().into()
    }

    fn is_current(&self, verdict: &Verdict, password_hash: &str) -> bool {
        *verdict.password_hash == *password_hash && self.clock.now_ms() < verdict.until_ms
    }

    async fn decide(&self, question: [u8; 32], password_hash: Arc<str>, password: &str) -> Result<Verdict> {
        let _place = self.places.try_acquire().map_err(|_| Error::TooManyLogins)?;
        let turn = tokio::time::timeout(WAIT_MAX, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| Error::TooManyLogins)?.map_err(|_| Error::TooManyLogins)?;
        // Docker asks in parallel: whoever waited for the same question finds the answer here.
        if let Some(known) = self.verdicts.get(&question).filter(|known| self.is_current(known, &password_hash)) {
            return Ok(known);
        }
        let (claimed, against) = (Bytes::copy_from_slice(password.as_bytes()), Arc::clone(&password_hash));
        let checked = tokio::task::spawn_blocking(move || is_password(&claimed, &against)).await;
        let good = checked.map_err(|_| Error::Internal("password check died"))?;
        let verdict = Verdict { password_hash, good, until_ms: self.clock.now_ms() + VERDICT_MS };
        self.verdicts.insert(question, verdict.clone());
        Ok(verdict)
    }
}

/// A password from 120 random bits, easy to read out and safe in a shell.
///
/// # Errors
/// Only if the operating system has no random bytes.
pub fn random_password() -> Result<String> {
    random_text(RANDOM_PASSWORD_CHARS)
}

/// So many random characters of five bits each.
pub(super) fn random_text(chars: usize) -> Result<String> {
    let mut bytes = vec![0; chars];
    getrandom::fill(&mut bytes).map_err(|_| Error::Internal("no random bytes"))?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// argon2id with the library's parameters (19 MiB, two passes), in PHC string form.
pub(super) fn hash(password: &str) -> Result<String> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| Error::Internal("no random bytes"))?;
    let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    let hashed: PasswordHash = hashed.map_err(|_| Error::Internal("password hashing failed"))?;
    Ok(hashed.to_string())
}

fn is_password(password: &[u8], against: &str) -> bool {
    PasswordHash::new(against).is_ok_and(|parsed| Argon2::default().verify_password(password, &parsed).is_ok())
}
