//! What every engine must do. Each scenario gets fresh stores; each engine runs them all.

use std::sync::Arc;

use berth_names::{ImageName, RepositoryKey, Tag};
use bytes::Bytes;
use futures::TryStreamExt;

use crate::{Batch, BlobStore, Chunk, DataId, Error, Key, MetadataStore, keys};

fn key(tag: &str) -> Key {
    keys::tag(&repository(), &image("app"), &tag.parse::<Tag>().unwrap())
}

fn repository() -> RepositoryKey {
    "docker-local".parse().unwrap()
}

fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn MetadataStore, entries: &[(&str, &str)]) {
    let mut batch = Batch::new();
    for (name, text) in entries {
        batch.put(key(name), value(text));
    }
    store.commit(batch).await.unwrap();
}

pub(crate) async fn a_batch_is_applied_whole_or_not_at_all(store: &dyn MetadataStore) {
    put(store, &[("a", "1")]).await;
    let mut stale = Batch::new();
    stale.expect(key("a"), Some(value("0"))).put(key("a"), value("2")).put(key("b"), value("2"));
    assert!(matches!(store.commit(stale).await, Err(Error::Conflict)));
    assert_eq!(store.multi_get(&[key("a"), key("b")]).await.unwrap(), [Some(value("1")), None]);

    let mut fresh = Batch::new();
    fresh.expect(key("a"), Some(value("1"))).expect(key("b"), None).delete(key("a")).put(key("b"), value("2"));
    store.commit(fresh).await.unwrap();
    assert_eq!(store.multi_get(&[key("a"), key("b")]).await.unwrap(), [None, Some(value("2"))]);
}

pub(crate) async fn of_many_who_expect_the_same_exactly_one_wins(store: Arc<dyn MetadataStore>) {
    for round in 0..10 {
        let name = format!("round-{round}");
        let racers: Vec<_> = (0..32)
            .map(|racer| {
                let (store, name) = (Arc::clone(&store), name.clone());
                tokio::spawn(async move {
                    let mut batch = Batch::new();
                    batch.expect(key(&name), None).put(key(&name), value(&racer.to_string()));
                    store.commit(batch).await
                })
            })
            .collect();
        let mut winners = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Ok(()) => winners += 1,
                Err(Error::Conflict) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners, 1);
    }
}

pub(crate) async fn a_counter_under_contention_loses_no_increment(store: Arc<dyn MetadataStore>) {
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..25 {
                    loop {
                        let seen = store.get(&key("counter")).await.unwrap();
                        let count: u32 = seen.as_ref().map_or(0, |bytes| std::str::from_utf8(bytes).unwrap().parse().unwrap());
                        let mut batch = Batch::new();
                        batch.expect(key("counter"), seen.clone()).put(key("counter"), value(&(count + 1).to_string()));
                        match store.commit(batch).await {
                            Ok(()) => break,
                            // Who lost can see at once against what: else trying again would lose again.
                            Err(Error::Conflict) => assert_ne!(store.get(&key("counter")).await.unwrap(), seen),
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            })
        })
        .collect();
    for racer in racers {
        racer.await.unwrap();
    }
    assert_eq!(store.get(&key("counter")).await.unwrap(), Some(value("200")));
}

pub(crate) async fn scans_are_ordered_bounded_and_stay_in_their_prefix(store: &dyn MetadataStore) {
    put(store, &[("b", "2"), ("a", "1"), ("a.b", "3"), ("c", "4")]).await;
    let mut other = Batch::new();
    other.put(keys::tag(&repository(), &image("app2"), &"x".parse().unwrap()), value("other"));
    other.put(keys::tag(&repository(), &image("ap"), &"x".parse().unwrap()), value("other"));
    store.commit(other).await.unwrap();

    let prefix = keys::tags(&repository(), &image("app"));
    let names =
        |found: Vec<(Key, Bytes)>| -> Vec<String> { found.iter().map(|(key, _)| key.text_after(&prefix).unwrap().to_owned()).collect() };
    assert_eq!(names(store.scan(&prefix, None, 100).await.unwrap()), ["a", "a.b", "b", "c"]);
    assert_eq!(names(store.scan(&prefix, None, 2).await.unwrap()), ["a", "a.b"]);
    assert_eq!(names(store.scan(&prefix, Some(&key("a")), 2).await.unwrap()), ["a.b", "b"]);
    assert_eq!(names(store.scan(&prefix, Some(&keys::tags_after(&repository(), &image("app"), "aa")), 9).await.unwrap()), ["b", "c"]);
    assert_eq!(names(store.scan(&prefix, Some(&key("z")), 9).await.unwrap()), Vec::<String>::new());
    assert_eq!(store.scan(&prefix, None, 0).await.unwrap().len(), 0);
    // A position before the prefix, or behind it, belongs to other groups.
    let before = keys::tags_after(&repository(), &image("aaa"), "z");
    let behind = keys::tags_after(&repository(), &image("zzz"), "z");
    assert_eq!(store.scan(&prefix, Some(&before), 9).await.unwrap().len(), 4);
    assert_eq!(store.scan(&prefix, Some(&behind), 9).await.unwrap().len(), 0);
}

async fn read(blobs: &dyn BlobStore, data: DataId, range: std::ops::Range<u64>) -> Vec<u8> {
    blobs.read(data, range).try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

pub(crate) async fn data_comes_back_whole_and_in_ranges(blobs: &dyn BlobStore) {
    let content = pattern(3 * 512 * 1024 + 77);
    let data = blobs.allocate();
    for (number, piece) in content.chunks(512 * 1024).enumerate() {
        let mut chunk = Chunk::empty();
        chunk.fill(piece);
        blobs.append(data, (number * 512 * 1024) as u64, chunk.freeze()).await.unwrap();
    }
    blobs.seal(data, content.len() as u64).await.unwrap();
    assert_eq!(blobs.size(data).await.unwrap(), Some(content.len() as u64));
    assert!(read(blobs, data, 0..content.len() as u64).await == content);
    for range in [0..0, 5..6, 524_287..524_290, 1_000_000..1_500_000, content.len() as u64 - 1..content.len() as u64] {
        assert!(read(blobs, data, range.clone()).await == content[range.start as usize..range.end as usize], "{range:?}");
    }
}

pub(crate) async fn an_append_may_go_on_at_any_offset_and_overwrites_what_a_crash_left(blobs: &dyn BlobStore) {
    let content = pattern(10_000);
    let data = blobs.allocate();
    blobs.append(data, 0, Bytes::copy_from_slice(&content[..4_097])).await.unwrap();
    blobs.append(data, 4_097, Bytes::from_static(&[0xff; 8_000])).await.unwrap();
    blobs.append(data, 4_097, Bytes::copy_from_slice(&content[4_097..])).await.unwrap();
    blobs.seal(data, content.len() as u64).await.unwrap();
    assert_eq!(blobs.size(data).await.unwrap(), Some(10_000));
    assert!(read(blobs, data, 0..10_000).await == content);
}

pub(crate) async fn sealing_more_than_was_written_is_an_error(blobs: &dyn BlobStore) {
    let data = blobs.allocate();
    blobs.append(data, 0, value("abc")).await.unwrap();
    assert!(matches!(blobs.seal(data, 4).await, Err(Error::Data { .. })));
    assert!(matches!(blobs.seal(blobs.allocate(), 0).await, Err(Error::Data { .. })));
}

pub(crate) async fn deleting_gives_no_error_twice_and_leaves_readers_alone(blobs: &dyn BlobStore) {
    let content = pattern(2_000_000);
    let data = blobs.allocate();
    blobs.append(data, 0, Bytes::from(content.clone())).await.unwrap();
    blobs.seal(data, 2_000_000).await.unwrap();
    let mut reader = blobs.read(data, 0..2_000_000);
    let first = reader.try_next().await.unwrap().unwrap();
    blobs.delete(data).await.unwrap();
    blobs.delete(data).await.unwrap();
    let rest = reader.try_collect::<Vec<Bytes>>().await.unwrap().concat();
    assert!([first.to_vec(), rest].concat() == content);
    assert_eq!(blobs.size(data).await.unwrap(), None);
    assert!(blobs.read(data, 0..1).try_next().await.is_err());
}

pub(crate) async fn listing_pages_through_everything(blobs: &dyn BlobStore) {
    let mut all = Vec::new();
    for _ in 0..7 {
        let data = blobs.allocate();
        blobs.append(data, 0, value("x")).await.unwrap();
        assert!(!blobs.is_from_earlier_run(data));
        all.push(data);
    }
    let first = blobs.list(None, 4).await.unwrap();
    let rest = blobs.list(first.last().copied(), 4).await.unwrap();
    assert_eq!((first.len(), blobs.list(rest.last().copied(), 4).await.unwrap()), (4, Vec::new()));
    let mut found = [first, rest].concat();
    all.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, all);
}

/// Runs every scenario against the embedded engine.
mod embedded {
    use crate::rocksdb::{Stores, open};

    fn fresh() -> (tempfile::TempDir, Stores) {
        let directory = tempfile::tempdir().unwrap();
        let stores = open(directory.path()).unwrap();
        (directory, stores)
    }

    macro_rules! scenarios {
        ($field:ident: $($name:ident),* $(; shared: $($shared:ident),*)?) => {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let (_directory, stores) = fresh();
                super::$name(stores.$field.as_ref()).await;
            })*
            $($(#[tokio::test(flavor = "multi_thread")]
            async fn $shared() {
                let (_directory, stores) = fresh();
                super::$shared(stores.$field).await;
            })*)?
        };
    }

    scenarios!(metadata: a_batch_is_applied_whole_or_not_at_all, scans_are_ordered_bounded_and_stay_in_their_prefix;
        shared: of_many_who_expect_the_same_exactly_one_wins, a_counter_under_contention_loses_no_increment);
    scenarios!(blobs: data_comes_back_whole_and_in_ranges, an_append_may_go_on_at_any_offset_and_overwrites_what_a_crash_left,
        sealing_more_than_was_written_is_an_error, deleting_gives_no_error_twice_and_leaves_readers_alone, listing_pages_through_everything);

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_committed_is_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let stores = open(directory.path()).unwrap();
        super::put(stores.metadata.as_ref(), &[("a", "1")]).await;
        let old = stores.blobs.allocate();
        drop(stores);
        let stores = open(directory.path()).unwrap();
        assert_eq!(stores.metadata.get(&super::key("a")).await.unwrap(), Some(super::value("1")));
        assert!(stores.blobs.is_from_earlier_run(old));
    }
}
