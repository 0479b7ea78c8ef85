//! One account, and one order from its first request to the certificate.
//!
//! What must stay true: the account's key is on disk before the server hears of it. Asking for an account with a key that
//! has one gives that account back, so an account is made once, however often the gateway is killed in between.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, Key, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tracing::{info, warn};

use super::answer::{Answer, Current, Given};
use super::client::Client;
use super::store::Store;
use super::{Challenge, Name, certificate};

/// How the server is asked whether it has validated or issued: after a quarter of a second, then ever more seldom.
const POLLING: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(120));

/// An account's key, ready for use and as it is kept.
pub(super) type AccountKey = (Key, PrivateKeyDer<'static>);

/// The kind of problem that the server reported, if it was the server who failed the order, such as `rateLimited`.
pub(super) fn problem(error: &anyhow::Error) -> Option<&str> {
    match error.downcast_ref::<Error>() {
        Some(Error::Api(problem)) => problem.r#type.as_deref()?.strip_prefix("urn:ietf:params:acme:error:"),
        _ => None,
    }
}

/// The account that belongs to the key, made if there is none yet.
pub(super) async fn account(client: Client, directory: &str, contact: Option<&str>, key: AccountKey) -> anyhow::Result<Account> {
    let builder = Account::builder_with_http(Box::new(client));
    // The credentials are the key, which is kept already.
    let (account, _) = builder.create_from_key(key, directory.to_owned()).await.context("no account")?;
    if let Some(contact) = contact {
        let contact = if contact.contains(':') { contact.to_owned() } else { format!("mailto:{contact}") };
        // Some servers refuse some addresses. That is no reason to be without a certificate.
        if let Err(error) = account.update_contacts(&[&contact]).await {
            warn!(acme.contact = contact, %error, "the ACME server does not take the contact");
        }
    }
    info!(acme.account = account.id(), "ACME account ready");
    Ok(account)
}

/// The account's key that the store has, made and kept if there is none yet.
pub(super) fn account_key(store: &Store) -> anyhow::Result<AccountKey> {
    let pair = |der: PrivatePkcs8KeyDer<'static>| Ok((Key::from_pkcs8_der(der.clone_key())?, PrivateKeyDer::Pkcs8(der)));
    if let Some(kept) = store.account_key(|pem| pair(PrivatePkcs8KeyDer::from_pem_slice(pem).context("no PEM private key")?)) {
        return Ok(kept);
    }
    let new = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    store.keep_account_key(&new.serialize_pem())?;
    pair(new.serialize_der().into())
}

/// Orders a certificate for `name`, answers the challenge, and gives back a new private key and the chain, in PEM.
pub(super) async fn certificate(account: &Account, name: &Name, challenge: Challenge, current: &Current) -> anyhow::Result<String> {
    let identifiers = [Identifier::Dns(name.to_string())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.context("no order")?;
    let given = prove(&mut order, name, challenge, current).await?;
    let outcome = order.poll_ready(&POLLING).await;
    drop(given);
    if !matches!(outcome, Ok(OrderStatus::Ready)) {
        // What is said of the challenge names the cause; what is said of the order only that there was one.
        if let Some(reason) = reason(&mut order, challenge).await {
            bail!("{name} was not validated: {reason}");
        }
        let status = outcome.with_context(|| format!("{name} was not validated"))?;
        bail!("{name} was not validated: the order is {status:?}, without a reason");
    }
    let (key, request) = certificate::request(name)?;
    order.finalize_csr(&request).await.context("the request was not taken")?;
    let chain = order.poll_certificate(&POLLING).await.context("no certificate")?;
    Ok(key + &chain)
}

/// Puts up the answer to the challenge of every authorization that is still open, and tells the server.
async fn prove<'a>(order: &mut Order, name: &Name, challenge: Challenge, current: &'a Current) -> anyhow::Result<Option<Given<'a>>> {
    let mut given: Option<Given<'a>> = None;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.context("no authorization")?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => bail!("the authorization is {status:?} already"),
        }
        ensure!(given.is_none(), "the ACME server wants more than one authorization for one name");
        let kind = ChallengeType::from(challenge);
        let mut handle = authorization.challenge(kind).with_context(|| format!("the ACME server offers no {challenge}"))?;
        let answer = Answer::new(challenge, name, &handle.token, &handle.key_authorization())?;
        given = Some(Given::give(current, answer));
        handle.set_ready().await.context("the challenge was not taken")?;
    }
    Ok(given)
}

/// What the server says of the challenge that it could not validate.
async fn reason(order: &mut Order, challenge: Challenge) -> Option<String> {
    let kind = ChallengeType::from(challenge);
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { break };
        let failed = |tried: &&instant_acme::Challenge| tried.r#type == kind && tried.status == ChallengeStatus::Invalid;
        if let Some(problem) = state.challenges.iter().find(failed).and_then(|tried| tried.error.as_ref()) {
            return Some(problem.to_string());
        }
    }
    None
}
