//! `cert self-signed`: a certificate authority of one's own and a server certificate signed by it.
//!
//! What must stay true:
//! - Existing files are kept: clients have been told to trust this authority. Only a server certificate that this very
//!   authority signed is ever replaced, when it lacks a name or is about to expire.
//! - A private key is readable by its owner only, from the moment that its file exists.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::CertificateError as Invalid;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{Error, RootCertStore};
use sha2::{Digest as _, Sha256};

use crate::tls;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority lives until the machines that trust it are replaced.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * DAY.as_secs());

/// Some clients refuse server certificates that are valid for longer.
const SERVER_LIFE: Duration = Duration::from_secs(825 * DAY.as_secs());

/// A server certificate with less left is made anew.
const SERVER_RENEWAL: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Clocks of clients may be behind.
const BACKDATING: Duration = DAY;

/// What `cert self-signed` did.
#[derive(Debug)]
pub struct SelfSigned {
    /// The authority's certificate, which clients must trust.
    pub authority: PathBuf,
    /// SHA-256 of the authority's certificate, in hexadecimal with colons, to compare on the client's side.
    pub fingerprint: String,
    /// The server certificate was made or made anew.
    pub issued: bool,
}

/// Sees to it that `directory` holds an authority (`ca.pem`, `ca.key`) and a server certificate for all of `names` and
/// `addresses` that is signed by it (`server.pem`, `server.key`).
///
/// # Errors
/// If files can't be read or written, or hold something that was not made here.
pub fn self_signed(directory: &Path, names: &[String], addresses: &[IpAddr]) -> anyhow::Result<SelfSigned> {
    let subjects: Vec<String> = names.iter().cloned().chain(addresses.iter().map(IpAddr::to_string)).collect();
    if subjects.is_empty() {
        bail!("a certificate is for at least one name: --name HOST or --ip ADDRESS");
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let files = Files::of(directory);
    let authority = files.authority()?;
    let issued = files.server_needs_issuing(&authority, &subjects)?;
    if issued {
        files.issue_server(&authority, subjects)?;
    }
    Ok(SelfSigned { fingerprint: fingerprint(&authority.certificate), authority: files.authority_certificate, issued })
}

struct Files {
    authority_certificate: PathBuf,
    authority_key: PathBuf,
    server_certificate: PathBuf,
    server_key: PathBuf,
}

struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Files {
    fn of(directory: &Path) -> Self {
        let file = |name| directory.join(name);
        Self {
            authority_certificate: file("ca.pem"),
            authority_key: file("ca.key"),
            server_certificate: file("server.pem"),
            server_key: file("server.key"),
        }
    }

    /// The authority of the directory, made if there is none.
    fn authority(&self) -> anyhow::Result<Authority> {
        match (self.authority_certificate.exists(), self.authority_key.exists()) {
            (true, true) => {}
            (false, _) if self.server_certificate.exists() => {
                bail!(
                    "{} exists without {}: it was not made here, move it away first",
                    self.server_certificate.display(),
                    self.authority_certificate.display()
                )
            }
            // A key alone was left by a run that was interrupted; nobody can trust it yet.
            (false, _) => self.make_authority()?,
            (true, false) => bail!("{} is missing: without it nothing can be signed", self.authority_key.display()),
        }
        let pem = read(&self.authority_certificate)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .with_context(|| format!("{} is no certificate", self.authority_certificate.display()))?;
        let key = KeyPair::from_pem(&read(&self.authority_key)?)
            .with_context(|| format!("{} is no private key", self.authority_key.display()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .with_context(|| format!("{} is no authority", self.authority_certificate.display()))?;
        Ok(Authority { certificate, pem, issuer })
    }

    fn make_authority(&self) -> anyhow::Result<()> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        // The number keeps several authorities apart in a client's trust store.
        let number = Sha256::digest(key.public_key_raw());
        params.distinguished_name = named(&format!("Berth CA {}", hex(&number[..4], "")));
        set_validity(&mut params, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?;
        replace(&self.authority_key, &key.serialize_pem(), KEY_MODE)?;
        replace(&self.authority_certificate, &certificate.pem(), CERTIFICATE_MODE)
    }

    /// Whether the server's certificate is missing, lacks one of the subjects or expires soon.
    fn server_needs_issuing(&self, authority: &Authority, subjects: &[String]) -> anyhow::Result<bool> {
        if !self.server_certificate.exists() && !self.server_key.exists() {
            return Ok(true);
        }
        let path = self.server_certificate.display();
        let Ok(certified) = tls::load(&self.server_certificate, &self.server_key) else {
            bail!("{path} and its key cannot be used together: move both away, and they are made anew");
        };
        let certificate = certified.certified.end_entity_cert()?;
        for subject in subjects {
            match verify(&authority.certificate, certificate, subject) {
                Ok(()) => {}
                Err(Error::InvalidCertificate(Invalid::UnknownIssuer | Invalid::BadSignature)) => {
                    bail!("{path} was not signed by {}: it is kept; move it away to have one made", self.authority_certificate.display())
                }
                Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    fn issue_server(&self, authority: &Authority, subjects: Vec<String>) -> anyhow::Result<()> {
        let key = new_key()?;
        let mut params = CertificateParams::new(subjects.clone()).context("not a host name")?;
        params.distinguished_name = named(&subjects[0]);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, SERVER_LIFE);
        let certificate = params.signed_by(&key, &authority.issuer)?;
        replace(&self.server_key, &key.serialize_pem(), KEY_MODE)?;
        replace(&self.server_certificate, &format!("{}{}", certificate.pem(), authority.pem), CERTIFICATE_MODE)
    }
}

fn new_key() -> anyhow::Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, life: Duration) {
    let start = SystemTime::now() - BACKDATING;
    params.not_before = start.into();
    params.not_after = (start + life).into();
}

/// Whether a client that trusts the authority will take the certificate for `subject` for some time yet.
fn verify(authority: &CertificateDer<'_>, certificate: &CertificateDer<'_>, subject: &str) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(aws_lc_rs::default_provider()))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let subject = ServerName::try_from(subject).map_err(|error| Error::General(error.to_string()))?;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let renewal = UnixTime::since_unix_epoch(since_epoch + SERVER_RENEWAL);
    verifier.verify_server_cert(certificate, &[], &subject, &[], renewal).map(|_| ())
}

/// SHA-256 in hexadecimal with colons, as openssl prints it.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(&Sha256::digest(certificate), ":")
}

fn hex(bytes: &[u8], separator: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(separator)
}

const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file as a whole: a reader sees the old one or the new one.
fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    write_new(&new, text, mode).and_then(|()| fs::rename(&new, path)).with_context(|| format!("cannot write {}", path.display()))
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // A leftover could have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn make(directory: &Path, names: &[&str], addresses: &[&str]) -> anyhow::Result<SelfSigned> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self_signed(directory, &names, &addresses)
    }

    fn files(directory: &Path) -> Vec<(String, u32, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    entry.metadata().unwrap().permissions().mode() & 0o777,
                    fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_client_that_trusts_the_authority_accepts_every_name() {
        let directory = tempfile::tempdir().unwrap();
        let made = make(&directory.path().join("certs"), &["localhost", "r.example"], &["127.0.0.1", "::1"]).unwrap();
        assert!(made.issued && made.fingerprint.len() == 32 * 3 - 1);

        let chain: Vec<_> = CertificateDer::pem_file_iter(directory.path().join("certs/server.pem")).unwrap().map(Result::unwrap).collect();
        assert_eq!(chain.len(), 2);
        for subject in ["localhost", "r.example", "127.0.0.1", "::1"] {
            verify(&chain[1], &chain[0], subject).unwrap();
        }
        assert!(verify(&chain[1], &chain[0], "other.example").is_err());
    }

    #[test]
    fn keys_are_private_and_a_second_run_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), &["localhost"], &[]).unwrap();
        let before = files(directory.path());
        let modes: Vec<_> = before.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        assert_eq!(modes, [("ca.key", 0o600), ("ca.pem", 0o644), ("server.key", 0o600), ("server.pem", 0o644)]);
        assert!(!make(directory.path(), &["localhost"], &[]).unwrap().issued);
        assert_eq!(files(directory.path()), before);
    }

    #[test]
    fn a_new_name_gets_a_new_certificate_of_the_same_authority() {
        let directory = tempfile::tempdir().unwrap();
        let first = make(directory.path(), &["localhost"], &[]).unwrap();
        let second = make(directory.path(), &["localhost", "r.example"], &[]).unwrap();
        assert!(second.issued);
        assert_eq!(first.fingerprint, second.fingerprint);
        let chain: Vec<_> = CertificateDer::pem_file_iter(directory.path().join("server.pem")).unwrap().map(Result::unwrap).collect();
        verify(&chain[1], &chain[0], "r.example").unwrap();
    }

    #[test]
    fn what_was_not_made_here_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let foreign = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        fs::write(directory.path().join("server.pem"), foreign.cert.pem()).unwrap();
        fs::write(directory.path().join("server.key"), foreign.signing_key.serialize_pem()).unwrap();
        assert!(make(directory.path(), &["localhost"], &[]).unwrap_err().to_string().contains("was not made here"));

        let elsewhere = tempfile::tempdir().unwrap();
        make(elsewhere.path(), &["localhost"], &[]).unwrap();
        for name in ["ca.pem", "ca.key"] {
            fs::copy(elsewhere.path().join(name), directory.path().join(name)).unwrap();
        }
        let before = files(directory.path());
        assert!(make(directory.path(), &["localhost"], &[]).unwrap_err().to_string().contains("was not signed by"));
        assert_eq!(files(directory.path()), before);
    }

    #[test]
    fn subjects_are_required_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        assert!(make(directory.path(), &[], &[]).is_err());
        assert!(make(directory.path(), &["ä"], &[]).is_err());
    }
}
