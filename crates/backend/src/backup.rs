//! `berth-backend backup` and `restore`.
//!
//! Only one process can have the store open, so a backend that runs is asked over its operator's socket to make the backup;
//! if none runs, it is made here.

use std::convert::Infallible;
use std::path::Path;

use anyhow::Context as _;
use berth_registry::Clock;
use berth_storage::rocksdb::{self, BackupProgress, Taken};
use http::Method;
use serde_json::json;

use crate::config::Config;
use crate::operator::ask_backend;
use crate::progress::{self, Progress};

/// Where a backend is asked for a backup, and how far it is.
const PATH: &str = "system/backup";

/// Makes a backup within `directory`.
pub(crate) async fn backup(config: &Config, directory: &Path) -> anyhow::Result<()> {
    // The backend that runs has a working directory of its own.
    let directory = std::path::absolute(directory)?;
    let line = Progress::on_stderr();
    let body = json!({ "directory": directory });
    let asked = beside(ask_backend(&config.data_dir, Method::POST, PATH, Some(body)), &line, async || {
        let answer = ask_backend(&config.data_dir, Method::GET, PATH, None).await.ok()??;
        serde_json::from_value(answer).ok()
    });
    let taken: Taken = match asked.await? {
        Some(answer) => serde_json::from_value(answer).context("the running backend's answer")?,
        None => {
            let (stores, _) = crate::open(config)?;
            let backups = stores.backups.clone();
            let work = tokio::task::spawn_blocking(move || backups.take(&directory, Clock::system().now_ms()));
            beside(work, &line, async || Some(stores.backups.progress())).await??
        }
    };
    line.clear();
    let Taken { path, manifest, copied_files, copied_bytes } = taken;
    let (bytes, copied) = (progress::bytes(manifest.data_bytes), progress::bytes(copied_bytes));
    println!("backup {}: {} data files with {bytes}; {copied_files} files with {copied} copied", path.display(), manifest.data_files);
    for rows in &manifest.unreadable_rows {
        println!("problem: {rows}");
    }
    anyhow::ensure!(
        manifest.unreadable == 0,
        "the store's metadata can't be read in {} places, nor can the backup's: keep older backups, and run `berth-backend check`",
        manifest.unreadable
    );
    if manifest.missing > 0 {
        let named: Vec<String> = manifest.missing_data.iter().map(ToString::to_string).collect();
        anyhow::bail!("the store has lost {} data files, so the backup lacks them too: {}", manifest.missing, named.join(", "));
    }
    Ok(())
}

/// Does `work`, and shows meanwhile what `look` sees, if there is anybody to see it.
async fn beside<T>(work: impl Future<Output = T>, line: &Progress, look: impl AsyncFn() -> Option<BackupProgress>) -> T {
    if !line.is_shown() {
        return work.await;
    }
    tokio::select! {
        outcome = work => outcome,
        never = look_on(line, look) => match never {},
    }
}

async fn look_on(line: &Progress, look: impl AsyncFn() -> Option<BackupProgress>) -> Infallible {
    loop {
        tokio::time::sleep(progress::INTERVAL).await;
        if let Some(seen) = look().await.filter(|seen| seen.running) {
            line.show(|_| describe(&seen));
        }
    }
}

fn describe(seen: &BackupProgress) -> String {
    let (files, bytes) = (seen.files, progress::bytes(seen.bytes));
    match seen.files_total {
        0 => format!("linked {files} files with {bytes}"),
        total => format!("copied {files} of {total} files, {bytes} of {}", progress::bytes(seen.bytes_total)),
    }
}

/// Makes the data directory what it was when the backup was made.
pub(crate) fn restore(config: &Config, backup: &Path) -> anyhow::Result<()> {
    let line = Progress::on_stderr();
    let manifest = rocksdb::restore(backup, &config.data_dir, |seen| line.show(|_| describe(&seen)))?;
    line.clear();
    let (files, bytes) = (manifest.data_files, progress::bytes(manifest.data_bytes));
    println!("restored into {}: the store of {}, {files} data files with {bytes}", config.data_dir.display(), manifest.created);
    if manifest.missing > 0 {
        println!(
            "{} data files were missing already when the backup was made: `berth-backend check` names what they belong to",
            manifest.missing
        );
    }
    Ok(())
}
