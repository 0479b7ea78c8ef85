//! Whose store it is, stays so: a command that root runs on somebody else's store goes on as its owner.
//!
//! Everything that opens a store makes files in it. Made by root, they would keep the backend, which runs as another user,
//! from opening it the next time.

use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use rustix::fs::Mode;
use rustix::process::{geteuid, umask};

/// What may be created: nothing that anybody but the owner can use.
const PRIVATE: Mode = Mode::RWXG.union(Mode::RWXO);

/// The directory of the metadata within a data directory. Who made the store, made it.
const META: &str = "meta";

/// The program that is running, whatever became of the file that it was started from.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// From now on everything that this process creates, RocksDB's files included, is private, however it was started.
pub(crate) fn keep_private() {
    umask(PRIVATE);
}

/// Starts over as the owner of the store in `data_dir`, if that is somebody else and this is root; returns if it is not.
pub(crate) fn become_owner_of(data_dir: &Path) -> anyhow::Result<()> {
    let meta = data_dir.join(META);
    let Ok(found) = meta.metadata().or_else(|_| data_dir.metadata()) else { return Ok(()) };
    let (user, group) = (found.uid(), found.gid());
    if !geteuid().is_root() || user == geteuid().as_raw() {
        return Ok(());
    }
    give_back(&meta, user, group).with_context(|| format!("can't give the files in {} to their directory's owner", meta.display()))?;
    eprintln!("berth-backend: going on as user {user}, whose store {} is", data_dir.display());
    // Not by changing this process: other threads would have to follow, and the kernel lets each be somebody else.
    let failed = Command::new(THIS_PROGRAM).arg0("berth-backend").args(std::env::args_os().skip(1)).uid(user).gid(group).exec();
    Err(failed).with_context(|| format!("can't go on as user {user}, whose store {} is", data_dir.display()))
}

/// Files that an earlier version left there as root.
fn give_back(meta: &Path, user: u32, group: u32) -> io::Result<()> {
    if !meta.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(meta)? {
        let entry = entry?;
        if entry.metadata()?.uid() != user {
            lchown(entry.path(), Some(user), Some(group))?;
        }
    }
    Ok(())
}
