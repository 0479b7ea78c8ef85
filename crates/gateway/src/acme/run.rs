//! The background task: orders what is due, one name after the other.
//!
//! What must stay true:
//! - An order is noted on disk before it is placed. If it can't be noted, it is not placed: neither could the certificate
//!   be kept.
//! - A failure concerns one name. It is logged once, and the others go on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use instant_acme::Account;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::certificate::Certificate;
use super::store::Lock;
use super::{Acme, Name, order, pace};

/// How long an order may take, from the account to the certificate.
const ORDER_MAX: Duration = Duration::from_secs(300);

/// The longest sleep. Clocks are set and machines suspended: what is due is looked at anew by the clock on the wall.
const SLEEP_MAX: Duration = Duration::from_secs(10 * 60);

/// How often a gateway that may not order looks whether it may, and whether there are new certificates on disk.
const LOCK_EVERY: Duration = Duration::from_secs(2);

/// How long a name rests when the server has said that it is asked too often, but not for how long.
const RATE_LIMITED: Duration = Duration::from_secs(60 * 60);

/// The longest rest that a server can ask for. Let's Encrypt's longest limit is for a week.
const BUSY_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Longest text of an error in the log, in characters: a part of it is the server's.
const ERROR_CHARS_MAX: usize = 1000;

/// A name whose last order failed.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    pub(super) failures: u32,
    next: SystemTime,
}

impl Acme {
    /// Orders and renews certificates until `shutdown` becomes true. To be called once; where several processes, or an old
    /// and a new configuration, share a state directory, one of them orders and the others take up what it gets.
    pub async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            () = self.keep_certificates() => {}
            // An error means that nobody is left who could say that the gateway goes on.
            _ = shutdown.wait_for(|stopping| *stopping) => {}
        }
    }

    async fn keep_certificates(self: &Arc<Self>) {
        let _lock = self.wait_for_lock().await;
        let mut names = self.names.subscribe();
        let mut account = None;
        loop {
            names.borrow_and_update();
            let now = SystemTime::now();
            match self.next() {
                Some((name, at)) if at <= now => self.attempt(&name, &mut account).await,
                next => {
                    let until_due = next.and_then(|(_, at)| at.duration_since(now).ok()).unwrap_or(SLEEP_MAX);
                    tokio::select! {
                        // Can't fail: the sender is in `self`.
                        _ = names.changed() => {}
                        () = sleep(until_due.min(SLEEP_MAX)) => {}
                    }
                }
            }
        }
    }

    /// Until the lock is had, takes up what its holder writes.
    async fn wait_for_lock(self: &Arc<Self>) -> Lock {
        let mut seen = None;
        let mut is_told = false;
        loop {
            let lock = self.store.lock();
            let changed = self.store.changed();
            if changed != seen {
                seen = changed;
                self.take_up().await;
            }
            match lock {
                Ok(Some(lock)) => return lock,
                Ok(None) if !is_told => info!("another process orders certificates; taking up what it gets"),
                Err(error) if !is_told => error!(error = format!("{error:#}"), "no certificates can be ordered"),
                Ok(None) | Err(_) => {}
            }
            is_told = true;
            sleep(LOCK_EVERY).await;
        }
    }

    /// Takes up certificates and orders that another process has written.
    async fn take_up(self: &Arc<Self>) {
        let acme = Arc::clone(self);
        let Ok((found, ledger)) = spawn_blocking(move || (acme.store.certificates(), acme.store.ledger())).await else { return };
        self.ledger.store(Arc::new(ledger));
        let known = self.certificates.load_full();
        let new: Vec<_> = found.into_iter().filter(|(name, found)| !known.get(name).is_some_and(|known| known.is(found))).collect();
        if !new.is_empty() {
            self.show(new);
        }
    }

    /// The name that is due first, and when.
    fn next(&self) -> Option<(Name, SystemTime)> {
        let (names, now) = (Arc::clone(&self.names.borrow()), SystemTime::now());
        names.iter().map(|name| (self.next_order(name, now), name)).min().map(|(at, name)| (name.clone(), at))
    }

    /// When the next order for a name is placed.
    pub(super) fn next_order(&self, name: &Name, now: SystemTime) -> SystemTime {
        let certificates = self.certificates.load();
        let due = certificates.get(name).map_or(SystemTime::UNIX_EPOCH, |certificate| {
            pace::renewal(certificate.not_before, certificate.not_after, certificate.obtained)
        });
        let retry = self.failing.load().get(name).map_or(SystemTime::UNIX_EPOCH, |failing| failing.next);
        due.max(retry).max(self.ledger.load().allowed_from(name, now))
    }

    /// Places one order and sees to what follows from its outcome.
    async fn attempt(self: &Arc<Self>, name: &Name, account: &mut Option<Account>) {
        let mut outcome = self.order_within_bounds(name, account).await;
        // A private server that was set up anew. Its limits, if it has any, were too.
        if outcome.as_ref().is_err_and(|error| order::problem(error) == Some("accountDoesNotExist")) {
            *account = None;
            outcome = self.order_within_bounds(name, account).await;
        }
        let busy_until = self.client.take_busy_until();
        match outcome {
            Ok(certificate) => {
                info!(acme.name = %name, expires_in_s = seconds_until(certificate.not_after), "certificate issued");
                self.set_failing(name, None);
                self.show([(name.clone(), certificate)]);
            }
            Err(error) => self.failed(name, &error, busy_until),
        }
    }

    async fn order_within_bounds(self: &Arc<Self>, name: &Name, account: &mut Option<Account>) -> anyhow::Result<Certificate> {
        timeout(ORDER_MAX, self.order(name, account)).await.unwrap_or_else(|_| bail!("not done within {} s", ORDER_MAX.as_secs()))
    }

    async fn order(self: &Arc<Self>, name: &Name, account: &mut Option<Account>) -> anyhow::Result<Certificate> {
        let settings = &self.settings;
        let account = match account {
            Some(account) => account,
            None => {
                let acme = Arc::clone(self);
                let key = blocking(move || order::account_key(&acme.store)).await?;
                account.insert(order::account(self.client.clone(), &settings.directory, settings.contact.as_deref(), key).await?)
            }
        };
        self.note(name).await?;
        info!(acme.name = %name, acme.challenge = %settings.challenge, "ordering a certificate");
        let pem = order::certificate(account, name, settings.challenge, &self.answer).await?;
        let certificate = Certificate::from_pem(pem.as_bytes(), name, SystemTime::now()).context("what was issued cannot be used")?;
        let (acme, kept) = (Arc::clone(self), name.clone());
        if let Err(error) = blocking(move || acme.store.keep_certificate(&kept, &pem)).await {
            // It is good until the gateway is started anew, and better than none.
            error!(acme.name = %name, error = format!("{error:#}"), "a new certificate could not be kept");
        }
        Ok(certificate)
    }

    /// Notes that an order is about to be placed.
    async fn note(self: &Arc<Self>, name: &Name) -> anyhow::Result<()> {
        let mut ledger = (*self.ledger.load_full()).clone();
        ledger.note(name, SystemTime::now());
        let ledger = Arc::new(ledger);
        let (acme, kept) = (Arc::clone(self), Arc::clone(&ledger));
        blocking(move || acme.store.keep_ledger(&kept)).await?;
        self.ledger.store(ledger);
        Ok(())
    }

    fn failed(&self, name: &Name, error: &anyhow::Error, busy_until: Option<SystemTime>) {
        let now = SystemTime::now();
        let failures = self.failing.load().get(name).map_or(0, |failing| failing.failures).saturating_add(1);
        // Without randomness the wait is the shortest.
        let mut next = now + pace::retry_delay(failures, getrandom::u32().unwrap_or_default());
        if order::problem(error) == Some("rateLimited") {
            next = next.max(now + RATE_LIMITED);
        }
        if let Some(until) = busy_until {
            next = next.max(until.min(now + BUSY_MAX));
        }
        self.set_failing(name, Some(Failing { failures, next }));
        warn!(
            acme.name = %name,
            acme.failures = failures,
            retry_s = seconds_until(self.next_order(name, now)),
            expires_in_s = self.expiry(name.as_str()).map(seconds_until),
            error = printable(&format!("{error:#}")),
            "no certificate was issued"
        );
    }

    fn set_failing(&self, name: &Name, failing: Option<Failing>) {
        let mut all = (*self.failing.load_full()).clone();
        match failing {
            Some(failing) => all.insert(name.clone(), failing),
            None => all.remove(name),
        };
        // What is not asked for any more is not failing either.
        let names = Arc::clone(&self.names.borrow());
        all.retain(|name, _| names.binary_search(name).is_ok());
        self.failing.store(Arc::new(all));
    }

    /// Shows certificates from now on.
    fn show(&self, new: impl IntoIterator<Item = (Name, Certificate)>) {
        let mut all = (*self.certificates.load_full()).clone();
        all.extend(new);
        self.certificates.store(Arc::new(all));
        self.changed.send_modify(|count| *count += 1);
    }
}

/// File operations, which wait for the disk, don't keep connections waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    spawn_blocking(work).await.context("the gateway is ending")?
}

fn seconds_until(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::now()).unwrap_or_default().as_secs()
}

/// Text of which a part is the server's, fit for a line of the log.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(ERROR_CHARS_MAX).collect()
}
