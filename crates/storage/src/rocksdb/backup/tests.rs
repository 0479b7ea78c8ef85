use std::os::unix::fs::MetadataExt as _;

use berth_names::Digest;
use bytes::Bytes;

use super::*;
use crate::blobs::DataId;
use crate::records::{Blob, Place, Record, Upload, WithBody};
use crate::rocksdb::{Stores, open, restore};
use crate::{Batch, SMALL_BLOB_BYTES_MAX, keys};

const NOW_MS: u64 = 1_700_000_000_123;

fn digest(name: u8) -> Digest {
    Digest::sha256([name; 32])
}

fn content(name: u8) -> Bytes {
    vec![name; SMALL_BLOB_BYTES_MAX + 1].into()
}

/// Stores a blob in a file, as the registry does.
async fn put_blob(stores: &Stores, name: u8) -> DataId {
    let (data, bytes) = (stores.blobs.allocate(), content(name));
    let size = bytes.len() as u64;
    stores.blobs.append(data, 0, bytes).await.unwrap();
    stores.blobs.seal(data, size).await.unwrap();
    let mut batch = Batch::new();
    batch.put(keys::data_owner(data), Bytes::new());
    batch.put_record(keys::blob(&digest(name)), &Blob { size, place: Place::Data(data), revision: 0, damaged: false });
    stores.metadata.commit(batch).await.unwrap();
    data
}

/// Begins an upload and leaves it.
async fn put_upload(stores: &Stores) -> DataId {
    let data = stores.blobs.allocate();
    stores.blobs.append(data, 0, Bytes::from_static(b"begun")).await.unwrap();
    let record = Upload {
        repository: "docker-local".parse().unwrap(),
        image: "app".parse().unwrap(),
        owner: None,
        data: Some(data),
        offset: 5,
        sha256_state: String::new(),
        started_ms: 1,
        touched_ms: 1,
    };
    let mut batch = Batch::new();
    batch.put(keys::data_owner(data), Bytes::new());
    batch.put(keys::upload_of("", "u1"), Bytes::new());
    batch.put(keys::upload("u1"), WithBody { record, body: Bytes::new() }.encode());
    stores.metadata.commit(batch).await.unwrap();
    data
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

fn in_backup(taken: &Taken, data: DataId) -> PathBuf {
    path_of(&taken.path.join(DATA), data)
}

#[tokio::test]
async fn a_backup_is_the_store_of_one_moment_without_open_uploads() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(&directory.path().join("store")).unwrap();
    let kept = put_blob(&stores, 1).await;
    let upload = put_upload(&stores).await;
    let taken = stores.backups.take(&directory.path().join("backups"), NOW_MS).unwrap();
    assert!(taken.path.ends_with("20231114T221320.123Z"), "{}", taken.path.display());
    assert_eq!((taken.manifest.data_files, taken.manifest.data_bytes), (1, content(1).len() as u64));
    assert_eq!((taken.manifest.missing, taken.copied_files), (0, 0));
    assert_eq!(stores.backups.progress(), BackupProgress::default());
    // What comes later is not in it, and the store is as it was.
    put_blob(&stores, 2).await;
    assert_eq!(stores.metadata.scan(&keys::uploads(), None, 10).await.unwrap().len(), 1);
    drop(stores);

    let restored_to = directory.path().join("restored");
    let mut last = BackupProgress::default();
    assert_eq!(restore(&taken.path, &restored_to, |progress| last = progress).unwrap(), taken.manifest);
    assert_eq!((last.files, last.bytes), (last.files_total, last.bytes_total));
    let restored = open(&restored_to).unwrap();
    assert!(restored.metadata.get(&keys::blob(&digest(1))).await.unwrap().is_some());
    assert!(restored.metadata.get(&keys::blob(&digest(2))).await.unwrap().is_none());
    assert_eq!(restored.blobs.size(kept).await.unwrap(), Some(content(1).len() as u64));
    assert!(restored.blobs.is_from_earlier_run(kept));
    for forgotten in [keys::upload("u1"), keys::upload_of("", "u1"), keys::data_owner(upload)] {
        assert!(restored.metadata.get(&forgotten).await.unwrap().is_none(), "{forgotten}");
    }
    // The store goes on, and the backup stays what it was: it can be restored again.
    restored.blobs.delete(kept).await.unwrap();
    put_blob(&restored, 3).await;
    drop(restored);
    restore(&taken.path, &directory.path().join("again"), |_| {}).unwrap();
}

#[tokio::test]
async fn backups_share_what_they_have_in_common() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(&directory.path().join("store")).unwrap();
    let (kept, deleted) = (put_blob(&stores, 1).await, put_blob(&stores, 2).await);
    let first = stores.backups.take(&directory.path().join("backups"), NOW_MS).unwrap();
    let mut batch = Batch::new();
    batch.delete(keys::blob(&digest(2))).delete(keys::data_owner(deleted));
    stores.metadata.commit(batch).await.unwrap();
    stores.blobs.delete(deleted).await.unwrap();
    let second = stores.backups.take(&directory.path().join("backups"), NOW_MS + 1).unwrap();
    assert_eq!(inode(&in_backup(&first, kept)), inode(&path_of(&directory.path().join("store/data"), kept)));
    assert_eq!(inode(&in_backup(&first, kept)), inode(&in_backup(&second, kept)));
    assert!(in_backup(&first, deleted).exists() && !in_backup(&second, deleted).exists());
    // Removing one leaves the other whole.
    std::fs::remove_dir_all(&first.path).unwrap();
    restore(&second.path, &directory.path().join("restored"), |_| {}).unwrap();
}

#[tokio::test]
async fn on_another_file_system_only_what_is_new_is_copied() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(&directory.path().join("store")).unwrap();
    let old = put_blob(&stores, 1).await;
    // What happens there, whether or not there is one.
    let (staging, first, second) = (directory.path().join("staging"), directory.path().join("1"), directory.path().join("2"));
    let (manifest, _) = stores.backups.stage(&staging, "first".into()).unwrap();
    let copied = stores.backups.copy_out(&staging, &first, None).unwrap();
    assert_eq!(copied.files, 1 + manifest.meta_files.len() as u64);
    remove_tree(&staging).unwrap();
    let new = put_blob(&stores, 2).await;
    stores.backups.stage(&staging, "second".into()).unwrap();
    let copied = stores.backups.copy_out(&staging, &second, Some(&first)).unwrap();
    assert!(copied.bytes < 2 * content(2).len() as u64 + (256 << 10), "{copied:?}");
    assert_eq!(inode(&path_of(&first.join(DATA), old)), inode(&path_of(&second.join(DATA), old)));
    assert_ne!(inode(&path_of(&staging.join(DATA), new)), inode(&path_of(&second.join(DATA), new)));
    restore(&second, &directory.path().join("restored"), |_| {}).unwrap();

    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
    let taken = stores.backups.take(elsewhere.path(), NOW_MS).unwrap();
    let again = stores.backups.take(elsewhere.path(), NOW_MS + 1).unwrap();
    assert_eq!(inode(&in_backup(&taken, old)), inode(&in_backup(&again, old)));
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 2);
    assert!(!directory.path().join("store").join(UNFINISHED).exists());
    restore(&again.path, &elsewhere.path().join("restored"), |_| {}).unwrap();
}

#[tokio::test]
async fn what_was_interrupted_is_no_backup_and_goes_with_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let (store, backups) = (directory.path().join("store"), directory.path().join("backups"));
    let stores = open(&store).unwrap();
    let data = put_blob(&stores, 1).await;
    // Killed while linking, and while copying to another file system.
    stores.backups.stage(&store.join(UNFINISHED), "x".into()).unwrap();
    stores.backups.copy_out(&store.join(UNFINISHED), &backups.join(UNFINISHED), None).unwrap();
    let refused = restore(&backups.join(UNFINISHED), &directory.path().join("restored"), |_| {});
    assert!(matches!(refused, Err(BackupError::NotWhole { .. })), "{refused:?}");
    drop(stores);
    let stores = open(&store).unwrap();
    assert!(!store.join(UNFINISHED).exists());
    let taken = stores.backups.take(&backups, NOW_MS).unwrap();
    assert_eq!(std::fs::read_dir(&backups).unwrap().count(), 1);

    // A backup that lost something later is refused too, before anything is written.
    let gone = in_backup(&taken, data);
    let meta = taken.path.join(META).join(&taken.manifest.meta_files[0].name);
    for (path, restore_to) in [(gone, "a"), (meta, "b"), (taken.path.join(MANIFEST), "c")] {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let to = directory.path().join(restore_to);
        assert!(matches!(restore(&taken.path, &to, |_| {}), Err(BackupError::NotWhole { .. })), "{}", path.display());
        assert!(!to.exists());
        std::fs::write(&path, bytes).unwrap();
    }
    restore(&taken.path, &directory.path().join("d"), |_| {}).unwrap();
}

#[tokio::test]
async fn a_restore_touches_no_store_and_half_of_one_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let stores = open(&store).unwrap();
    let taken = stores.backups.take(&store.join("backups"), NOW_MS).unwrap();
    assert!(matches!(restore(&taken.path, &store, |_| {}), Err(BackupError::NotEmpty(_))));
    let half = directory.path().join("half");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("restore-unfinished"), "").unwrap();
    assert!(open(&half).is_err());
    assert!(matches!(restore(&taken.path, &half, |_| {}), Err(BackupError::NotEmpty(_))));
    // Where backups lie beside the store, they may stay.
    drop(stores);
    std::fs::remove_dir_all(store.join(META)).unwrap();
    std::fs::remove_dir_all(store.join(DATA)).unwrap();
    restore(&taken.path, &store, |_| {}).unwrap();
    assert!(open(&store).is_ok());
}

#[tokio::test]
async fn deletions_wait_for_a_backup_to_have_its_links() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(directory.path()).unwrap();
    let data = put_blob(&stores, 1).await;
    let held = stores.backups.blobs.hold_deletions();
    stores.blobs.delete(data).await.unwrap();
    assert!(stores.blobs.size(data).await.unwrap().is_some());
    drop(held);
    assert!(stores.blobs.size(data).await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_that_the_store_has_lost_does_not_keep_the_rest_from_being_saved() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(&directory.path().join("store")).unwrap();
    let (lost, cut) = (put_blob(&stores, 1).await, put_blob(&stores, 2).await);
    put_blob(&stores, 3).await;
    stores.blobs.delete(lost).await.unwrap();
    stores.blobs.seal(cut, 10).await.unwrap();
    let taken = stores.backups.take(&directory.path().join("backups"), NOW_MS).unwrap();
    assert_eq!((taken.manifest.data_files, taken.manifest.missing), (1, 2));
    assert!(taken.manifest.missing_data.contains(&lost) && taken.manifest.missing_data.contains(&cut));
    restore(&taken.path, &directory.path().join("restored"), |_| {}).unwrap();
}

#[tokio::test]
async fn one_backup_at_a_time_and_not_among_the_stores_own_files() {
    let directory = tempfile::tempdir().unwrap();
    let stores = open(&directory.path().join("store")).unwrap();
    for inside in ["store", "store/data", "store/meta/backups"] {
        let refused = stores.backups.take(&directory.path().join(inside), NOW_MS);
        assert!(matches!(refused, Err(BackupError::InsideStore(_))), "{inside}");
    }
    let turn = stores.backups.turn().unwrap();
    assert!(matches!(stores.backups.take(&directory.path().join("backups"), NOW_MS), Err(BackupError::Busy)));
    drop(turn);
    let backups = directory.path().join("backups");
    std::fs::create_dir(&backups).unwrap();
    let held = lock(&backups).unwrap();
    assert!(matches!(stores.backups.take(&backups, NOW_MS), Err(BackupError::Busy)));
    drop(held);
    stores.backups.take(&backups, NOW_MS).unwrap();
}
