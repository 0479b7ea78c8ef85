//! TLS as the doctor speaks it: a certificate that no client should accept is noted, and the examination goes on.
//!
//! Nothing secret is ever sent over such a connection: the doctor has no credentials.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// What a handshake showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) trust: Trust,
    /// Names and addresses that it is for.
    pub(super) subjects: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub(super) not_after_unix_s: i64,
    pub(super) issuer: String,
    /// It is signed by itself.
    pub(super) self_signed: bool,
    /// How many certificates the server sent.
    pub(super) chain: usize,
}

/// What a client makes of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Trusted,
    UnknownIssuer,
    WrongName,
    Expired,
    NotYetValid,
    Other(String),
}

/// The authorities that clients of this machine trust, and those of a file.
pub(super) fn roots(file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Whatever is wrong with the system's store shows as a certificate that is not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = file {
        let certificates = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("cannot read certificates from {}", file.display()))?;
        if roots.add_parsable_certificates(certificates).0 == 0 {
            bail!("{} holds no certificate", file.display());
        }
    }
    Ok(roots)
}

/// Which TLS to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// As the doctor talks: any version, HTTP/1.1.
    Any,
    /// As docker before 18.09 talks: TLS 1.2.
    Old,
    /// Any version, HTTP/2 if the server wants.
    Http2,
}

/// Settings for a handshake, and what it will have shown.
pub(super) fn client(roots: RootCertStore, dialect: Dialect) -> anyhow::Result<(Arc<ClientConfig>, Arc<Recorder>)> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    // Without any authority there is no verifier, and nothing is trusted.
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok();
    let recorder = Arc::new(Recorder { verifier, provider: Arc::clone(&provider), seen: Mutex::new(None) });
    let versions: &[_] = if dialect == Dialect::Old { &[&version::TLS12] } else { &[&version::TLS13, &version::TLS12] };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as _)
        .with_no_client_auth();
    config.alpn_protocols = match dialect {
        Dialect::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Dialect::Any | Dialect::Old => vec![b"http/1.1".to_vec()],
    };
    // A resumed session shows no certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Ok((Arc::new(config), recorder))
}

/// Judges a certificate as a client would, and lets the handshake go on.
#[derive(Debug)]
pub(super) struct Recorder {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Certificate>>,
}

impl Recorder {
    /// What the last handshake showed.
    pub(super) fn seen(&self) -> Option<Certificate> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = match self.verifier.as_ref().map(|verifier| verifier.verify_server_cert(leaf, rest, name, stapled, now)) {
            None => Trust::UnknownIssuer,
            Some(Ok(_)) => Trust::Trusted,
            Some(Err(error)) => distrust(error),
        };
        let certificate = describe(leaf, 1 + rest.len(), trust);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = certificate;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn distrust(error: Error) -> Trust {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => Trust::UnknownIssuer,
        Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => Trust::WrongName,
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => Trust::Expired,
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => Trust::NotYetValid,
        error => Trust::Other(error.to_string()),
    }
}

fn describe(leaf: &CertificateDer<'_>, chain: usize, trust: Trust) -> Option<Certificate> {
    let (_, parsed) = parse_x509_certificate(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten().map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let subject = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    };
    Some(Certificate {
        trust,
        subjects: names.iter().filter_map(subject).collect(),
        not_after_unix_s: parsed.validity().not_after.timestamp(),
        issuer: parsed.issuer().to_string(),
        self_signed: parsed.issuer() == parsed.subject(),
        chain,
    })
}
