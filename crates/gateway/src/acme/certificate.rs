//! Keys and certificates: what is ordered, what came back, what a challenge and an unfinished start show.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::Name;

/// The name in the certificate that is shown until the first one has been issued: a client's complaint about it says
/// what to wait for.
const PENDING: &str = "acme-certificate-pending.invalid";

/// A certificate of the state directory.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// When it came, by this machine's clock.
    pub(super) obtained: SystemTime,
}

impl Certificate {
    /// Reads a private key and a chain, leaf first, and makes sure that they belong together and to `name`.
    pub(super) fn from_pem(pem: &[u8], name: &Name, obtained: SystemTime) -> anyhow::Result<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("no PEM certificate")?;
        let leaf = chain.first().context("no certificate")?;
        let parsed = ParsedCertificate::try_from(leaf).context("no certificate")?;
        let server_name = ServerName::try_from(name.as_str()).context("no host name")?;
        verify_server_name(&parsed, &server_name).with_context(|| format!("the certificate is not for {name}"))?;
        let (not_before, not_after) = validity(leaf)?;
        let key = PrivateKeyDer::from_pem_slice(pem).context("no PEM private key")?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
        Ok(Self { certified: Arc::new(certified), not_before, not_after, obtained })
    }

    /// Whether both are the same certificate.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

/// From when until when a certificate is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> anyhow::Result<(SystemTime, SystemTime)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).context("no certificate")?;
    let validity = parsed.validity();
    let time = |unix_s: i64| {
        let since_epoch = u64::try_from(unix_s).context("a certificate from before 1970")?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since_epoch)).context("a certificate for ever")
    };
    let (not_before, not_after) = (time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?);
    ensure!(not_before < not_after, "a certificate that is never valid");
    Ok((not_before, not_after))
}

/// What is shown for names without a certificate, so that a listener can start before one was issued.
pub(super) fn placeholder() -> anyhow::Result<Arc<CertifiedKey>> {
    self_signed(CertificateParams::new([PENDING.to_owned()])?)
}

/// What is shown to a server that validates `name` by tls-alpn-01 (RFC 8737, section 3).
pub(super) fn challenge(name: &Name, key_authorization_digest: &[u8]) -> anyhow::Result<Arc<CertifiedKey>> {
    ensure!(key_authorization_digest.len() == 32, "a key authorization's digest has 32 bytes");
    let mut params = CertificateParams::new([name.to_string()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(key_authorization_digest)];
    self_signed(params)
}

fn self_signed(mut params: CertificateParams) -> anyhow::Result<Arc<CertifiedKey>> {
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = new_key()?;
    let certificate = params.self_signed(&key)?;
    let private_key = PrivateKeyDer::from(key);
    let signing_key = aws_lc_rs::default_provider().key_provider.load_private_key(private_key)?;
    // `from_der` would parse the certificate, and refuse a challenge's critical extension as unknown.
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing_key)))
}

/// A key, in PEM, and a request for a certificate of it, in DER.
pub(super) fn request(name: &Name) -> anyhow::Result<(String, Vec<u8>)> {
    let mut params = CertificateParams::new([name.to_string()])?;
    params.distinguished_name = DistinguishedName::new();
    let key = new_key()?;
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

fn new_key() -> anyhow::Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem_for(name: &str) -> String {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem())
    }

    fn read(pem: &str, name: &str) -> anyhow::Result<Certificate> {
        Certificate::from_pem(pem.as_bytes(), &name.parse().unwrap(), SystemTime::now())
    }

    #[test]
    fn key_and_chain_must_belong_together_and_to_the_name() {
        let pem = pem_for("a.example");
        let certificate = read(&pem, "a.example").unwrap();
        assert!(certificate.not_before < SystemTime::now() && SystemTime::now() < certificate.not_after);
        assert!(certificate.is(&certificate.clone()));

        assert!(read(&pem, "b.example").unwrap_err().to_string().contains("not for b.example"));
        let other = pem_for("a.example");
        let end_of_key = other.find("-----BEGIN CERTIFICATE").unwrap();
        let mixed = format!("{}{}", &other[..end_of_key], &pem[pem.find("-----BEGIN CERTIFICATE").unwrap()..]);
        assert!(read(&mixed, "a.example").is_err(), "another key");
    }

    #[test]
    fn no_half_of_it_is_taken() {
        let pem = pem_for("a.example");
        for length in 0..pem.trim_end().len() {
            assert!(read(&pem[..length], "a.example").is_err(), "{length} of {} bytes", pem.len());
        }
    }

    #[test]
    fn a_challenge_has_the_name_and_the_critical_digest_and_nothing_else() {
        let digest: Vec<u8> = (0..32).collect();
        let shown = challenge(&"a.example".parse().unwrap(), &digest).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&shown.cert[0]).unwrap();
        let extension = parsed.extensions().iter().find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value, [&[4, 32], &digest[..]].concat());
        let names = parsed.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(names, [x509_parser::extensions::GeneralName::DNSName("a.example")]);
        assert!(challenge(&"a.example".parse().unwrap(), &digest[1..]).is_err());
    }
}
