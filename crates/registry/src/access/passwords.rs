//! Users' passwords.
//!
//! Hashing a password is slow on purpose, and Docker sends the password with every request. So verdicts, good and bad,
//! are remembered for a short time, the same question asked twice at once is answered once, and only a few hashes are
//! computed at a time: a flood of bad passwords costs a bounded share of the machine.
//!
//! A check that has begun is carried through, whether or not somebody still waits for it: hashing can't be called off, so
//! whoever asks and goes away must not get its place back before the hash is done, nor a try that does not count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use berth_names::AccountName;
use berth_storage::records::User;
use berth_storage::{MetadataStore, get_record, keys};
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::remote::Remote;
use super::strength::{PASSWORD_BYTES_MAX, PasswordPolicy};
use super::throttle::{Attempt, Throttle};
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

/// Refusals that take so long at once; others are made at once.
const PAUSES_MAX: usize = 512;

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
    /// Checks that have begun, and how they ended for those who wait for the same.
    under_way: Mutex<HashMap<Question, watch::Receiver<Option<Decision>>>>,
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
    pauses: Semaphore,
    throttle: Arc<Throttle>,
    /// Checked in place of a user who does not exist, so that both take equally long.
    nobody: Arc<str>,
}

/// Whether a password is right, asked from somewhere: what is wrong counts against the address that it came from.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    /// The user and the password.
    digest: [u8; 32],
    from: Remote,
    /// What it is checked against: a changed password makes another question of it.
    password_hash: Arc<str>,
}

/// What became of a check.
#[derive(Clone, Copy)]
enum Decision {
    Good,
    Wrong,
    /// It must wait so long: there were too many wrong ones.
    Blocked(Duration),
    /// Too many wait already.
    Full,
}

/// A check, from its beginning to its end.
struct Check {
    question: Question,
    name: String,
    password: String,
    has_password: bool,
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
            under_way: Mutex::default(),
            turns: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            places: Arc::new(Semaphore::new(WAITING_MAX)),
            pauses: Semaphore::new(PAUSES_MAX),
            throttle: Arc::new(Throttle::new(clock)),
            nobody: hash(&random_password()?)?.into(),
        })
    }

    pub(super) fn policy(&self) -> &PasswordPolicy {
        &self.policy
    }

    /// Whether the password must be hashed to be checked, rather than being known.
    pub(super) fn must_check(&self, name: &str, password: &str) -> bool {
        let known = self.verdicts.get(&self.digest(name, password));
        known.is_none_or(|known| self.clock.steady_ms() >= known.until_ms)
    }

    /// The user, if the password is theirs. Takes equally long for users who do not exist, are disabled, or have none.
    pub(super) async fn verify(self: &Arc<Self>, name: &str, password: &str, from: Remote) -> Result<Option<(AccountName, User)>> {
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
        let question = Question { digest: self.digest(name, password), from, password_hash };
        let good = match self.known(&question) {
            Some(known) => known.good,
            None => {
                let check = Check { question, name: name.to_owned(), password: password.to_owned(), has_password };
                match self.decision(check).await? {
                    Decision::Good => true,
                    Decision::Wrong => false,
                    Decision::Full => return Err(Error::TooManyLogins),
                    Decision::Blocked(wait) => {
                        // Answered at once, a guesser would keep us busy with refusing.
                        if let Ok(_pause) = self.pauses.try_acquire() {
                            tokio::time::sleep(wait.min(REFUSAL_PAUSE)).await;
                        }
                        return Err(Error::LoginsBlocked { wait });
                    }
                }
            }
        };
        Ok(user.filter(|_| good && has_password))
    }

    /// How the check ends, be it one's own or the same one that is under way. It goes on when nobody waits for it any more.
    async fn decision(self: &Arc<Self>, check: Check) -> Result<Decision> {
        if let Some(wait) = self.throttle.wait(&check.name, check.question.from) {
            return Ok(Decision::Blocked(wait));
        }
        let mut decided = {
            let mut under_way = self.under_way();
            match under_way.get(&check.question) {
                // Docker asks in parallel.
                Some(same) => same.clone(),
                None => {
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Ok(Decision::Full) };
                    let (decide, decided) = watch::channel(None);
                    under_way.insert(check.question.clone(), decided.clone());
                    tokio::spawn(Arc::clone(self).carry_through(check, place, decide));
                    decided
                }
            }
        };
        let decision = decided.wait_for(Option::is_some).await.ok().and_then(|decision| *decision);
        decision.ok_or(Error::Internal("password check died"))
    }

    async fn carry_through(self: Arc<Self>, check: Check, place: OwnedSemaphorePermit, decide: watch::Sender<Option<Decision>>) {
        // Removed even if the check dies, or its question could never be asked again.
        let _under_way = UnderWay { passwords: &self, question: check.question.clone() };
        let decision = self.decide(check, place).await;
        decide.send_replace(decision);
    }

    async fn decide(&self, check: Check, place: OwnedSemaphorePermit) -> Option<Decision> {
        let Check { question, name, password, has_password } = check;
        let turn = tokio::time::timeout(WAIT_MAX, async {
            let attempt = self.throttle.begin(&name, question.from).await.map_err(Decision::Blocked)?;
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Decision::Full)?;
            Ok::<(Attempt, OwnedSemaphorePermit), Decision>((attempt, turn))
        });
        let (attempt, turn) = match turn.await {
            Ok(Ok(turn)) => turn,
            Ok(Err(decision)) => return Some(decision),
            Err(_) => return Some(Decision::Full),
        };
        // The same may have been asked from elsewhere.
        let good = match self.known(&question) {
            Some(known) => known.good,
            None => {
                let against = Arc::clone(&question.password_hash);
                // The permits are the thread's: it is what they count.
                let checked = tokio::task::spawn_blocking(move || {
                    let _permits = (place, turn);
                    is_password(password.as_bytes(), &against)
                });
                let good = checked.await.ok()?;
                let until_ms = self.clock.steady_ms() + VERDICT_MS;
                self.verdicts.insert(question.digest, Verdict { password_hash: question.password_hash, good, until_ms });
                good
            }
        };
        Some(if good && has_password {
            attempt.succeeded();
            Decision::Good
        } else {
            attempt.failed();
            Decision::Wrong
        })
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Question, watch::Receiver<Option<Decision>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verdict about a question, if it is still good for this hash.
    fn known(&self, question: &Question) -> Option<Verdict> {
        let known = self.verdicts.get(&question.digest)?;
        (known.password_hash == question.password_hash && self.clock.steady_ms() < known.until_ms).then_some(known)
    }

    /// A password's hash, made in turn with those that are checked.
    pub(super) async fn hash(&self, password: String) -> Result<String> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Error::Internal("no turns for hashing"))?;
        let hashed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            hash(&password)
        });
        hashed.await.map_err(|_| Error::Internal("password hashing died"))?
    }

    fn digest(&self, name: &str, password: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.salt);
        hash.update(name);
        hash.update([0]);
        hash.update(password);
        hash.finalize().into()
    }
}

/// A question that is being answered, for as long as it is.
struct UnderWay<'a> {
    passwords: &'a Passwords,
    question: Question,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.passwords.under_way().remove(&self.question);
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
fn hash(password: &str) -> Result<String> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| Error::Internal("no random bytes"))?;
    let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    let hashed: PasswordHash = hashed.map_err(|_| Error::Internal("password hashing failed"))?;
    Ok(hashed.to_string())
}

fn is_password(password: &[u8], against: &str) -> bool {
    PasswordHash::new(against).is_ok_and(|parsed| Argon2::default().verify_password(password, &parsed).is_ok())
}
