//! Notices when a file of the configuration has changed.
//!
//! Directories are watched, not files: editors, certificate renewal and mounted volumes replace a file, by renaming
//! another or by turning a symbolic link. What an event was about is not asked; whether a file is another one, is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

/// How long files must be left alone before they are looked at: a certificate and its key are written one by one.
const SETTLING: Duration = Duration::from_millis(500);

/// The least pause between two looks, however many events come.
const PAUSE: Duration = Duration::from_millis(100);

/// Watches a set of files.
pub(crate) struct Watch {
    seen: Files,
    events: mpsc::Receiver<()>,
    /// Watching ends when it is dropped.
    _watcher: Option<RecommendedWatcher>,
}

/// Files, each as it was when it was last looked at.
pub(crate) type Files = BTreeMap<PathBuf, Option<Stamp>>;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// The state of a file now. `None`: there is none, or it can't be seen.
    pub fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self { device: data.dev(), inode: data.ino(), size: data.size(), modified: (data.mtime(), data.mtime_nsec()) })
    }
}

impl Watch {
    /// Begins to watch files that were read when they were like this. What has changed since then is noticed too.
    pub(crate) fn new(files: Files) -> Self {
        // One event waiting is as good as many. The first is our own: something may have changed already.
        let (sender, events) = mpsc::channel(1);
        let _ = sender.try_send(());
        let watcher = notify::recommended_watcher(move |_| {
            let _ = sender.try_send(());
        });
        let watcher = match watcher {
            Ok(mut watcher) => {
                for directory in directories(&files) {
                    if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
                        warn!(directory = %directory.display(), %error, "cannot watch: reload with SIGHUP after a change there");
                    }
                }
                Some(watcher)
            }
            Err(error) => {
                warn!(%error, "cannot watch files: reload with SIGHUP after a change");
                None
            }
        };
        Self { seen: files, events, _watcher: watcher }
    }

    /// Resolves when a file has changed and all have been left alone for a moment.
    pub(crate) async fn changed(&mut self) {
        loop {
            if self.events.recv().await.is_none() {
                // There is no watcher.
                return std::future::pending().await;
            }
            // Others may write to the same directories without a pause: it is our files that must be left alone.
            sleep(PAUSE).await;
            let mut last = self.now();
            while last != self.seen {
                sleep(SETTLING).await;
                let now = self.now();
                if now == last {
                    self.seen = now;
                    return;
                }
                last = now;
            }
        }
    }

    fn now(&self) -> Files {
        self.seen.keys().map(|file| (file.clone(), Stamp::of(file))).collect()
    }
}

fn directories(files: &Files) -> BTreeSet<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // What a link leads to may change too.
    let real = files.keys().filter_map(|file| fs::canonicalize(file).ok());
    files.keys().cloned().chain(real).map(|file| parent(&file)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_file_written_renamed_over_or_linked_anew_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["1", "2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("key"), version).unwrap();
        }
        symlink("1", at("data")).unwrap();
        symlink("data/key", at("key")).unwrap();
        fs::write(at("gateway.toml"), "a").unwrap();
        let seen = [at("gateway.toml"), at("key")].map(|file| (file.clone(), Stamp::of(&file))).into();
        // Before anybody watches.
        fs::write(at("gateway.toml"), "b\n\n\n\n").unwrap();
        let mut watch = Watch::new(seen);
        timeout(SOON, watch.changed()).await.unwrap();

        fs::write(at("gateway.toml"), "bb").unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        fs::write(at("new"), "ccc").unwrap();
        fs::rename(at("new"), at("gateway.toml")).unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        symlink("2", at("new")).unwrap();
        fs::rename(at("new"), at("data")).unwrap();
        timeout(SOON, watch.changed()).await.unwrap();

        fs::write(at("something-else"), "d").unwrap();
        assert!(timeout(SETTLING * 3, watch.changed()).await.is_err());

        // A log beside it that is written all the time.
        let log = at("log");
        let writing = tokio::spawn(async move {
            for line in 0.. {
                fs::write(&log, line.to_string()).unwrap();
                sleep(SETTLING / 20).await;
            }
        });
        fs::write(at("gateway.toml"), "eeeee").unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        writing.abort();
    }
}
