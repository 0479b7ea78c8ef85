//! Nobody but its owner reads the store, whoever starts a program on it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use e2e::Registry;

/// Somebody who is not root: `nobody`.
const OTHER: u32 = 65_534;

/// Everything in a directory, and itself.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        found.extend(fs::read_dir(path).unwrap().flat_map(|entry| tree(&entry.unwrap().path())));
    }
    found
}

/// What others can do something with.
fn open_to_others(root: &Path) -> Vec<String> {
    let found = tree(root).into_iter().filter_map(|path| {
        let metadata = path.symlink_metadata().unwrap();
        let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
        let mode = metadata.permissions().mode() & 0o7777;
        // A socket is protected by its directory.
        (!metadata.file_type().is_socket() && mode != wanted).then(|| format!("{} {mode:o}", path.display()))
    });
    found.collect()
}

#[test]
fn a_store_is_its_owners_alone_whatever_the_umask() {
    let mut registry = Registry::start();
    let client = registry.client(registry.first);
    client.push_blob("a", &[1; 100_000]).unwrap();
    client.push_blob("a", &[2; 100]).unwrap();
    registry.operate(&["backup", registry.path("backups").to_str().unwrap()]).unwrap();
    registry.stop();
    for root in ["data", "backups"] {
        assert_eq!(open_to_others(&registry.path(root)), Vec::<String>::new());
    }
    // One from before is closed by the next start.
    for path in tree(&registry.path("data")) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    registry.restart();
    registry.stop();
    let store = ["data", "data/meta"].map(|name| registry.path(name).metadata().unwrap().mode() & 0o7777);
    assert_eq!(store, [0o700, 0o700]);
    for root in ["data/meta", "data/data"] {
        assert_eq!(open_to_others(&registry.path(root)), Vec::<String>::new());
    }
}

#[test]
fn a_command_that_root_runs_leaves_the_store_to_its_owner() {
    let mut registry = Registry::start();
    if registry.path("data").metadata().unwrap().uid() != 0 {
        println!("only root can run a command on somebody else's store: as another user there is nothing to see here");
        return;
    }
    registry.client(registry.first).push_blob("a", &[1; 100_000]).unwrap();
    registry.stop();
    let data = registry.path("data");
    for path in tree(&data) {
        chown(path, Some(OTHER), Some(OTHER)).unwrap();
    }
    // The owner must get at the configuration, as in /etc/berth.
    fs::set_permissions(registry.path("."), Permissions::from_mode(0o755)).unwrap();
    let strangers = || tree(&data).into_iter().filter(|path| path.metadata().is_ok_and(|found| found.uid() != OTHER)).collect::<Vec<_>>();
    let report = registry.check();
    assert!(report.contains("no problems found"), "{report}");
    assert_eq!(strangers(), Vec::<PathBuf>::new());

    let backups = registry.path("backups");
    fs::create_dir(&backups).unwrap();
    chown(&backups, Some(OTHER), Some(OTHER)).unwrap();
    registry.run_stopped(&["backup", backups.to_str().unwrap()]);
    assert_eq!(strangers(), Vec::<PathBuf>::new());
    let backup = fs::read_dir(&backups).unwrap().next().unwrap().unwrap().path();
    assert!(tree(&backup).iter().all(|path| path.metadata().unwrap().uid() == OTHER));

    // What an earlier version has left as root is given back.
    chown(data.join("meta/CURRENT"), Some(0), Some(0)).unwrap();
    registry.check();
    assert_eq!(strangers(), Vec::<PathBuf>::new());

    for part in ["meta", "data"] {
        fs::remove_dir_all(data.join(part)).unwrap();
    }
    registry.run_stopped(&["restore", backup.to_str().unwrap()]);
    assert_eq!(strangers(), Vec::<PathBuf>::new());
    let report = registry.check();
    assert!(report.contains("no problems found"), "{report}");
}
