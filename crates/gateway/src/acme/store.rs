//! The state directory: the account's key, the certificates with their keys, and the orders of the last hours.
//!
//! What must stay true:
//! - A file is replaced as a whole, and is on disk before the call returns. A certificate and its key are one file, so that
//!   no crash can part them.
//! - Every file can be read by its owner only.
//! - What can't be understood is set aside under another name, never deleted, and is then as if it had never been there.
//! - One process at a time orders certificates: the one that holds the [`Lock`].

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::Name;
use super::certificate::Certificate;
use super::pace::Ledger;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

const ACCOUNT_KEY: &str = "account.key";
const ORDERS: &str = "orders.json";
const LOCK: &str = "lock";

/// The ending of a certificate with its key.
const CERTIFICATE: &str = "pem";

/// The largest file that is read, in bytes. A chain of four certificates with its key has about 8 KB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Most certificates that are read from the directory.
const CERTIFICATES_MAX: usize = 10_000;

/// Longest part of a directory's name that shows which server it is for, in bytes.
const LABEL_BYTES_MAX: usize = 100;

/// The state that belongs to one ACME server.
#[derive(Clone, Debug)]
pub(super) struct Store(PathBuf);

/// Held by the one process that orders certificates, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

impl Store {
    /// Opens the state for the server `directory_url`, each of which has its own: a certificate from a server for tests
    /// must not keep the real one from being asked.
    pub(super) fn open(state: &Path, directory_url: &str) -> anyhow::Result<Self> {
        let directory = state.join(label(directory_url));
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        // There may be one that somebody made otherwise, with keys of accounts and certificates in it.
        fs::set_permissions(&directory, Permissions::from_mode(DIRECTORY_MODE))
            .with_context(|| format!("cannot close {} to others", directory.display()))?;
        let store = Self(directory);
        // To know now and not when a certificate has been issued that can't be kept. Several processes may do so at once.
        let probe = format!("probe-{}", process::id());
        store
            .replace(&probe, b"")
            .and_then(|()| fs::remove_file(store.path(&probe)))
            .with_context(|| format!("cannot write in {}", store.0.display()))?;
        Ok(store)
    }

    /// When a file was last added, replaced or removed.
    pub(super) fn changed(&self) -> Option<SystemTime> {
        fs::metadata(&self.0).and_then(|metadata| metadata.modified()).ok()
    }

    /// Takes the lock, or `None` while another process holds it.
    pub(super) fn lock(&self) -> anyhow::Result<Option<Lock>> {
        let path = self.path(LOCK);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// All certificates that can be used.
    pub(super) fn certificates(&self) -> Vec<(Name, Certificate)> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(directory = %self.0.display(), %error, "cannot read certificates");
                return Vec::new();
            }
        };
        entries
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let is_certificate = path.extension().is_some_and(|extension| extension == CERTIFICATE);
                path.file_stem()?.to_str()?.parse::<Name>().ok().filter(|_| is_certificate)
            })
            .filter_map(|name| self.certificate(&name).map(|certificate| (name, certificate)))
            .take(CERTIFICATES_MAX)
            .collect()
    }

    fn certificate(&self, name: &Name) -> Option<Certificate> {
        let file = certificate_file(name);
        let modified = fs::metadata(self.path(&file)).and_then(|metadata| metadata.modified()).ok()?;
        self.read(&file, |bytes| Certificate::from_pem(bytes, name, modified))
    }

    /// Keeps a certificate with its key.
    pub(super) fn keep_certificate(&self, name: &Name, pem: &str) -> anyhow::Result<()> {
        self.keep(&certificate_file(name), pem)
    }

    /// What `read` makes of the account's key.
    pub(super) fn account_key<T>(&self, read: impl FnOnce(&[u8]) -> anyhow::Result<T>) -> Option<T> {
        self.read(ACCOUNT_KEY, read)
    }

    /// Keeps the account's key.
    pub(super) fn keep_account_key(&self, pem: &str) -> anyhow::Result<()> {
        self.keep(ACCOUNT_KEY, pem)
    }

    /// The orders of the last hours.
    pub(super) fn ledger(&self) -> Ledger {
        self.read(ORDERS, |bytes| Ok(serde_json::from_slice(bytes)?)).unwrap_or_default()
    }

    /// Keeps the orders of the last hours.
    pub(super) fn keep_ledger(&self, ledger: &Ledger) -> anyhow::Result<()> {
        self.keep(ORDERS, &serde_json::to_string(ledger)?)
    }

    /// What `read` makes of a file. One that is broken is set aside.
    fn read<T>(&self, file: &str, read: impl FnOnce(&[u8]) -> anyhow::Result<T>) -> Option<T> {
        let path = self.path(file);
        match read_bounded(&path) {
            Ok(bytes) => match read(&bytes) {
                Ok(value) => Some(value),
                Err(error) => {
                    let aside = self.path(&format!("{file}.broken"));
                    let moved = fs::rename(&path, &aside);
                    warn!(file = %path.display(), set_aside = moved.is_ok(), error = format!("{error:#}"), "state cannot be used and is made anew");
                    None
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(file = %path.display(), %error, "state cannot be read");
                None
            }
        }
    }

    fn keep(&self, file: &str, text: &str) -> anyhow::Result<()> {
        if text.len() as u64 > FILE_BYTES_MAX {
            bail!("{file} would be larger than {FILE_BYTES_MAX} bytes");
        }
        self.replace(file, text.as_bytes()).with_context(|| format!("cannot write {}", self.path(file).display()))
    }

    fn replace(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.path(&format!("{file}.new"));
        // A leftover could have another mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut written = File::options().write(true).create_new(true).mode(FILE_MODE).open(&new)?;
        written.write_all(bytes)?;
        written.sync_all()?;
        fs::rename(&new, self.path(file))?;
        File::open(&self.0)?.sync_all()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
}

fn certificate_file(name: &Name) -> String {
    format!("{name}.{CERTIFICATE}")
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A directory's name that a person recognizes and that no other server has.
fn label(directory_url: &str) -> String {
    let readable: String = directory_url
        .trim_start_matches("https://")
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() || matches!(char, '.' | '-') { char } else { '_' })
        .take(LABEL_BYTES_MAX)
        .collect();
    let number: String = Sha256::digest(directory_url).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{readable}-{number}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const URL: &str = "https://acme.example/directory";

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn pem_for(name: &str) -> String {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem())
    }

    #[test]
    fn what_is_kept_is_private_and_comes_back() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("acme");
        let store = Store::open(&directory, URL).unwrap();
        store.keep_certificate(&name("a.example"), &pem_for("a.example")).unwrap();
        store.keep_account_key("key").unwrap();
        let mut ledger = Ledger::default();
        ledger.note(&name("a.example"), SystemTime::now());
        store.keep_ledger(&ledger).unwrap();

        let again = Store::open(&directory, URL).unwrap();
        assert_eq!(again.certificates().len(), 1);
        assert_eq!(again.account_key(|bytes| Ok(bytes.to_vec())).unwrap(), b"key");
        assert_eq!(again.ledger(), ledger);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&again.0)), (0o700, 0o700));
        let mut files: Vec<_> = fs::read_dir(&again.0).unwrap().map(|entry| entry.unwrap()).collect();
        files.sort_by_key(|entry| entry.file_name());
        let modes: Vec<_> = files.iter().map(|entry| (entry.file_name().into_string().unwrap(), mode(&entry.path()))).collect();
        assert_eq!(
            modes,
            [("a.example.pem", 0o600), ("account.key", 0o600), ("orders.json", 0o600)].map(|(name, mode)| (name.to_owned(), mode))
        );
    }

    #[test]
    fn servers_do_not_share_state() {
        let state = tempfile::tempdir().unwrap();
        let test = Store::open(state.path(), "https://acme.example/test").unwrap();
        test.keep_certificate(&name("a.example"), &pem_for("a.example")).unwrap();
        for url in ["https://acme.example/directory", "https://acme.example/Test", "https://acme.example_test"] {
            assert!(Store::open(state.path(), url).unwrap().certificates().is_empty());
        }
        assert!(label(&format!("https://{}", "../".repeat(100))).len() < 120);
        assert_eq!(Path::new(&label("https://../..")).components().count(), 1);
    }

    #[test]
    fn broken_files_are_set_aside_and_the_rest_is_used() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), URL).unwrap();
        store.keep_certificate(&name("good.example"), &pem_for("good.example")).unwrap();
        let half = pem_for("half.example");
        for (file, text) in [
            ("half.example.pem", &half[..half.len() / 2]),
            ("other.example.pem", &pem_for("a.example")),
            ("empty.example.pem", ""),
            ("orders.json", "{\"orders\":[{"),
            ("good.example.pem.new", "left by a crash"),
            ("..pem", "no name"),
        ] {
            fs::write(store.path(file), text).unwrap();
        }
        fs::create_dir(store.path("directory.example.pem")).unwrap();
        let names: Vec<_> = store.certificates().into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["good.example"]);
        assert_eq!(store.ledger(), Ledger::default());
        assert_eq!(fs::read_to_string(store.path("half.example.pem.broken")).unwrap(), half[..half.len() / 2]);
        assert!(store.path("orders.json.broken").exists() && !store.path("orders.json").exists());
        store.keep_certificate(&name("good.example"), &pem_for("good.example")).unwrap();
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        let state = tempfile::tempdir().unwrap();
        let (one, two) = (Store::open(state.path(), URL).unwrap(), Store::open(state.path(), URL).unwrap());
        let lock = one.lock().unwrap().unwrap();
        assert!(two.lock().unwrap().is_none());
        drop(lock);
        assert!(two.lock().unwrap().is_some());
    }

    #[test]
    fn a_directory_that_cannot_be_had_is_named() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file, URL).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot create {}", file.display())), "{error:#}");
    }
}
