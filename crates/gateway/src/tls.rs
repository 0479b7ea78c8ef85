//! TLS of the bindings: certificates from files, client certificates, resumption.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, RootCertStore, ServerConfig, version};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

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

/// A certificate chain with its private key, and what is worth knowing of it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What is given to rustls.
    pub certified: Arc<CertifiedKey>,
    /// When the first certificate of the chain expires, in seconds since 1970.
    pub expires: i64,
    /// The host names and addresses that it is for.
    pub names: Vec<String>,
}

/// Reads a certificate chain, leaf first, and its private key.
///
/// # Errors
/// [`CertificateError`] if they can't be used.
pub fn load(certificate: &Path, key: &Path) -> Result<Identity, CertificateError> {
    let name = |path: &Path| path.display().to_string();
    let chain = read_chain(certificate)?;
    let pem = fs::read(key).map_err(|error| CertificateError::KeyUnreadable(name(key), error))?;
    let private_key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| CertificateError::NoKey(name(key)))?;
    let certified = CertifiedKey::from_der(chain, private_key, &aws_lc_rs::default_provider())
        .map_err(|error| CertificateError::Mismatch(name(certificate), name(key), error))?;
    identity(certified).ok_or_else(|| CertificateError::NoCertificate(name(certificate)))
}

/// What is worth knowing of a certificate. `None` if its first one can't be read.
pub fn identity(certified: CertifiedKey) -> Option<Identity> {
    let (_, leaf) = X509Certificate::from_der(certified.end_entity_cert().ok()?).ok()?;
    let names = leaf.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let names = names.into_iter().flatten().filter_map(subject).collect();
    let expires = leaf.validity().not_after.timestamp();
    Some(Identity { certified: Arc::new(certified), expires, names })
}

fn subject(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|octets| IpAddr::from(octets).to_string());
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|octets| IpAddr::from(octets).to_string())).ok()
        }
        _ => None,
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let name = || path.display().to_string();
    let pem = fs::read(path).map_err(|error| CertificateError::CertificateUnreadable(name(), error))?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| CertificateError::NoCertificate(name()))?;
    if chain.is_empty() { Err(CertificateError::NoCertificate(name())) } else { Ok(chain) }
}

/// The authorities whose certificates clients must show.
#[derive(Clone, Debug)]
pub struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
    /// SHA-256 of the file: connections made under another one are not good for this one.
    id: [u8; 32],
}

impl ClientAuthority {
    /// Reads PEM certificates of authorities.
    ///
    /// # Errors
    /// [`CertificateError`] if there are none, or one is not usable.
    pub fn load(path: &Path) -> Result<Self, CertificateError> {
        let chain = read_chain(path)?;
        let mut digest = Sha256::new();
        let mut roots = RootCertStore::empty();
        for certificate in chain {
            digest.update(&certificate);
            roots.add(certificate).map_err(|_| CertificateError::NoCertificate(path.display().to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(aws_lc_rs::default_provider()))
            .build()
            .map_err(|_| CertificateError::NoCertificate(path.display().to_string()))?;
        Ok(Self { verifier, id: digest.finalize().into() })
    }
}

/// The TLS settings of a binding.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// What it shows, for tables and metrics. `None` if that changes by itself.
    identity: Option<Identity>,
    client_authority: Option<[u8; 32]>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// TLS 1.2 and 1.3, HTTP/1.1, with this certificate.
    ///
    /// HTTP/2 is not offered: Go clients take it when they can, and its flow control halves the speed of uploads.
    ///
    /// # Errors
    /// If the cryptographic provider can't do what is asked of it, which would be a fault of the build.
    pub fn new(identity: Identity, clients: Option<&ClientAuthority>) -> Result<Self, rustls::Error> {
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified)));
        Ok(Self { identity: Some(identity), ..Self::with_resolver(resolver, clients)? })
    }

    /// The same, with a certificate that may be another one at each handshake.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_resolver(resolver: Arc<dyn ResolvesServerCert>, clients: Option<&ClientAuthority>) -> Result<Self, rustls::Error> {
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(&[&version::TLS13, &version::TLS12])?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => builder.with_client_cert_verifier(Arc::clone(&authority.verifier)),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ignore_client_order = true;
        config.session_storage = match clients {
            None => sessions(),
            // A session made without a certificate must not be resumed where one is needed.
            Some(_) => ServerSessionMemoryCache::new(CLIENT_SESSIONS_MAX),
        };
        Ok(Self { config: Arc::new(config), identity: None, client_authority: clients.map(|authority| authority.id) })
    }

    /// What a handshake is done with.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// What it shows. `None` if that changes by itself.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Which authority's certificate a client must have shown, if any.
    pub fn client_authority(&self) -> Option<&[u8; 32]> {
        self.client_authority.as_ref()
    }
}

/// The settings of a handshake that answers an ACME server (RFC 8737): nothing else is ever sent over it.
///
/// # Errors
/// As [`ServerTls::new`].
pub fn for_challenge(certificate: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![crate::acme::TLS_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// TLS sessions that can be resumed, in all and for a binding with client certificates.
const SESSIONS_MAX: usize = 8192;
const CLIENT_SESSIONS_MAX: usize = 256;

/// Sessions outlive a reload, which makes new settings for every binding. rustls checks the server name of each.
fn sessions() -> Arc<dyn StoresServerSessions> {
    static SESSIONS: OnceLock<Arc<ServerSessionMemoryCache>> = OnceLock::new();
    Arc::clone(SESSIONS.get_or_init(|| ServerSessionMemoryCache::new(SESSIONS_MAX))) as _
}

/// AES-128-GCM first: measured the fastest here, and no registry needs a longer key than its clients' own default.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(fastest_first()))
}

fn fastest_first() -> CryptoProvider {
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
