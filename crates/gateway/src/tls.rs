//! TLS of the listeners: certificates from files, chosen by server name, replaceable while running.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use berth_names::Authority;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig, version};

/// Why a certificate and its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate's file can't be read.
    #[error("certificate {0:?} cannot be read: {1}")]
    CertificateUnreadable(String, io::Error),
    /// The certificate's file holds no certificate.
    #[error("{0:?} holds no PEM certificate")]
    NoCertificate(String),
    /// The key's file can't be read.
    #[error("private key {0:?} cannot be read: {1}")]
    KeyUnreadable(String, io::Error),
    /// The key's file holds no private key.
    #[error("{0:?} holds no PEM private key")]
    NoKey(String),
    /// Both are there and don't belong together, or are of a kind that rustls does not know.
    #[error("certificate {0:?} and private key {1:?} cannot be used together: {2}")]
    Mismatch(String, String, rustls::Error),
}

impl CertificateError {
    /// Whether the file of the key, not that of the certificate, is at fault.
    pub const fn is_about_key(&self) -> bool {
        matches!(self, Self::KeyUnreadable(..) | Self::NoKey(_) | Self::Mismatch(..))
    }
}

/// Reads a certificate chain, leaf first, and its private key.
///
/// # Errors
/// [`CertificateError`] if they can't be used.
pub fn load(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, CertificateError> {
    let name = |path: &Path| path.display().to_string();
    let pem = fs::read(certificate).map_err(|error| CertificateError::CertificateUnreadable(name(certificate), error))?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| CertificateError::NoCertificate(name(certificate)))?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate(name(certificate)));
    }
    let pem = fs::read(key).map_err(|error| CertificateError::KeyUnreadable(name(key), error))?;
    let private_key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| CertificateError::NoKey(name(key)))?;
    let certified = CertifiedKey::from_der(chain, private_key, &aws_lc_rs::default_provider())
        .map_err(|error| CertificateError::Mismatch(name(certificate), name(key), error))?;
    Ok(Arc::new(certified))
}

/// The certificates of one listener.
#[derive(Clone, Debug)]
pub struct Certificates {
    by_server_name: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// For clients that name no server (an IP address is never named) or one that has no binding: such a client
    /// complains about the wrong name, which says more than a failed handshake.
    default: Arc<CertifiedKey>,
    /// The default belongs to the binding without a server name.
    has_own_default: bool,
}

impl Certificates {
    /// The certificates of a listener whose first binding has this one.
    pub fn new(server_name: Option<&Authority>, certificate: Arc<CertifiedKey>) -> Self {
        let mut certificates = Self { by_server_name: HashMap::new(), default: Arc::clone(&certificate), has_own_default: false };
        certificates.add(server_name, certificate);
        certificates
    }

    /// Adds the certificate of one more binding.
    pub fn add(&mut self, server_name: Option<&Authority>, certificate: Arc<CertifiedKey>) {
        match server_name {
            Some(name) => {
                self.by_server_name.insert(name.host().into(), certificate);
            }
            None if !self.has_own_default => {
                self.default = certificate;
                self.has_own_default = true;
            }
            None => {}
        }
    }

    fn choose(&self, server_name: Option<&str>) -> &Arc<CertifiedKey> {
        // rustls hands the name over in lower case.
        server_name.and_then(|name| self.by_server_name.get(name)).unwrap_or(&self.default)
    }
}

/// Chooses a certificate for each handshake; the set can be replaced without touching the listener.
#[derive(Debug)]
pub struct CertificateResolver(ArcSwap<Certificates>);

impl CertificateResolver {
    /// Starts with these certificates.
    pub fn new(certificates: Certificates) -> Self {
        Self(ArcSwap::from_pointee(certificates))
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.load().choose(client_hello.server_name())))
    }
}

/// The TLS settings of a listener: TLS 1.2 and 1.3, HTTP/1.1.
///
/// HTTP/2 is not offered: Go clients take it when they can, and its flow control halves the speed of uploads.
///
/// # Errors
/// If the cryptographic provider can't do what is asked of it, which would be a fault of the build.
pub fn server_config(resolver: Arc<CertificateResolver>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    Ok(config)
}

/// AES-128-GCM first: measured the fastest here, and no registry needs a longer key than its clients' own default.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_aes_128 = |suite: CipherSuite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    // A stable sort: TLS 1.3 stays before TLS 1.2, and the other suites keep their order.
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_128_is_preferred_in_both_protocol_versions() {
        let suites: Vec<_> = provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(suites[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(suites.len(), aws_lc_rs::DEFAULT_CIPHER_SUITES.len());
        assert!(suites[1..3].iter().all(|suite| format!("{suite:?}").contains("AES_128_GCM")));
    }
}
