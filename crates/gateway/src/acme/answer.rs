//! What the gateway answers an ACME server that validates a name.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use instant_acme::{ChallengeType, KeyAuthorization};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

use super::{Challenge, Name, certificate};

/// The application protocol of a handshake that validates a name (RFC 8737).
pub const TLS_ALPN: &[u8] = b"acme-tls/1";

/// Where an ACME server asks for a token (RFC 8555, section 8.3).
pub const HTTP_PREFIX: &str = "/.well-known/acme-challenge/";

/// The answer to one challenge.
pub(super) enum Answer {
    Http { token: Box<str>, text: Arc<str> },
    Tls { name: Name, certificate: Arc<CertifiedKey> },
}

/// The answer that is given at present: there is one order at a time, of one name.
pub(super) type Current = ArcSwapOption<Answer>;

impl Answer {
    pub(super) fn new(challenge: Challenge, name: &Name, token: &str, authorization: &KeyAuthorization) -> anyhow::Result<Self> {
        Ok(match challenge {
            Challenge::Http01 => Self::Http { token: token.into(), text: authorization.as_str().into() },
            Challenge::TlsAlpn01 => {
                Self::Tls { name: name.clone(), certificate: certificate::challenge(name, authorization.digest().as_ref())? }
            }
        })
    }
}

/// Gives an answer until it is dropped.
pub(super) struct Given<'a>(&'a Current);

impl<'a> Given<'a> {
    pub(super) fn give(current: &'a Current, answer: Answer) -> Self {
        current.store(Some(Arc::new(answer)));
        Self(current)
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        self.0.store(None);
    }
}

impl From<Challenge> for ChallengeType {
    fn from(challenge: Challenge) -> Self {
        match challenge {
            Challenge::TlsAlpn01 => Self::TlsAlpn01,
            Challenge::Http01 => Self::Http01,
        }
    }
}

/// Whether this handshake validates a name: nobody else offers this protocol, and it is offered alone.
pub fn is_validation(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(TLS_ALPN) && offered.next().is_none())
}
