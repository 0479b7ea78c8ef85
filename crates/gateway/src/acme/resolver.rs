//! Shows, in each handshake, the certificate that a name has by then.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Acme, Name};

/// The certificate of one name, whichever it is.
pub struct AcmeResolver {
    /// Where it comes from, once the configuration is in use.
    pub source: Arc<ArcSwapOption<Acme>>,
    /// The name.
    pub name: Name,
}

impl ResolvesServerCert for AcmeResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.source.load().as_ref().map(|acme| acme.certificate(self.name.as_str()))
    }
}

impl fmt::Debug for AcmeResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AcmeResolver").field(&self.name).finish()
    }
}
