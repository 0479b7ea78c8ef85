//! Pushes of several users to one V1 repository: what each may read, and what a tag ends up on.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_names::{Algorithm, ApiVersion, ImageName, RepositoryKey, Tag};
use berth_storage::records::v1::Image;
use berth_storage::rocksdb::{self, Stores};
use berth_storage::{Batch, keys};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::{CHAIN_IMAGES_MAX, ImageId, Viewer};
use crate::hash::digest_of;
use crate::{CleanupTimes, Clock, Error, ExistingTag, Promotion, Push, Registry, Repository, Result};

const NOW_MS: u64 = 1_800_000_000_000;
/// One test has a clock of its own: they run at the same time.
static LOOPS_NOW_MS: AtomicU64 = AtomicU64::new(NOW_MS);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

struct Fixture {
    _directory: tempfile::TempDir,
    _stores: Stores,
    registry: Registry,
}

/// A user who may read and push images of one namespace.
#[derive(Clone, Copy)]
struct User {
    name: Option<&'static str>,
    sees_all: bool,
}

const ALICE: User = User { name: Some("alice"), sees_all: false };
const MALLORY: User = User { name: Some("mallory"), sees_all: false };
const CAROL: User = User { name: Some("carol"), sees_all: false };
const CI: User = User { name: Some("ci"), sees_all: true };

fn sees_alice(image: &ImageName) -> bool {
    image.as_str().starts_with("alice/")
}

fn sees_mallory(image: &ImageName) -> bool {
    image.as_str().starts_with("mallory/")
}

impl User {
    fn viewer(self) -> Viewer<'static> {
        let sees: &'static (dyn Fn(&ImageName) -> bool + Sync) = if self.name == MALLORY.name { &sees_mallory } else { &sees_alice };
        Viewer { user: self.name, sees_all: self.sees_all, sees }
    }

    fn holder(self) -> String {
        format!("{}@10.0.0.1", self.name.unwrap_or_default())
    }
}

fn old() -> RepositoryKey {
    "old".parse().unwrap()
}

fn id(name: &str) -> ImageId {
    ImageId::from_bytes(digest_of(Algorithm::Sha256, name.as_bytes()).hash().try_into().unwrap())
}

fn json_of(id: &ImageId, parent: Option<&ImageId>, comment: &str) -> String {
    let mut json = json!({ "id": id, "comment": comment });
    if let Some(parent) = parent {
        json["parent"] = json!(parent);
    }
    json.to_string()
}

/// A tar of one file, with an extended attribute if `xattr` has a value.
fn tar(content: &str, xattr: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    if !xattr.is_empty() {
        archive.append_pax_extensions([("SCHILY.xattr.security.capability", xattr.as_bytes())]).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, "bin/sh", content.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

/// The same tar, as a writer has it that puts a name into a PAX record where it need not.
fn tar_otherwise(content: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_pax_extensions([("path", b"bin/sh".as_slice())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, "bin/sh", content.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::new(level));
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn payload(json: &str, layer: &[u8]) -> Vec<String> {
    vec![format!("sha256:{}", digest_of(Algorithm::Sha256, &[json.as_bytes(), b"\n", layer].concat()).hex())]
}

async fn fixture() -> Fixture {
    fixture_at(|| NOW_MS).await
}

async fn fixture_at(now_ms: fn() -> u64) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let stores = rocksdb::open(directory.path()).unwrap();
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::from_fn(now_ms));
    for key in ["old", "older"] {
        registry.create_repository(&Repository::new(key.parse().unwrap(), ApiVersion::V1)).await.unwrap();
    }
    Fixture { _directory: directory, _stores: stores, registry }
}

impl Fixture {
    async fn json(&self, user: User, id: &ImageId, json: &str) -> Result<()> {
        self.registry.put_v1_json(&old(), id, Bytes::copy_from_slice(json.as_bytes()), user.viewer(), &user.holder()).await
    }

    async fn layer(&self, user: User, id: &ImageId, layer: &[u8]) -> Result<()> {
        let body = stream::iter([Ok(Bytes::copy_from_slice(layer))]).boxed();
        self.registry.put_v1_layer(&old(), id, body, user.viewer(), &user.holder()).await
    }

    async fn checksum(&self, user: User, id: &ImageId, claimed: &[String]) -> Result<()> {
        self.registry.put_v1_checksum(&old(), id, claimed, user.name).await
    }

    /// As docker pushes an image that it was not told is there.
    async fn push(&self, user: User, id: &ImageId, json: &str, layer: &[u8]) -> Result<()> {
        self.json(user, id, json).await?;
        self.layer(user, id, layer).await?;
        self.checksum(user, id, &payload(json, layer)).await
    }

    async fn tag(&self, user: User, name: &str, id: &ImageId) -> Result<()> {
        let (image, tag): (ImageName, Tag) = (name.parse().unwrap(), "1".parse().unwrap());
        let (holder, push) = (user.holder(), |holder| Push { existing: ExistingTag::Moves, holder });
        self.registry.put_v1_tag((&old(), &image, &tag), id, "docker/1.9.1", push(&holder), user.viewer()).await
    }

    async fn sees(&self, user: User, id: &ImageId) -> bool {
        self.registry.is_v1_visible(&old(), id, user.viewer()).await.unwrap()
    }

    async fn content(&self, id: &ImageId) -> (String, Vec<u8>) {
        let json = self.registry.v1_image(&old(), id).await.unwrap().json;
        let layer = self.registry.v1_layer(&old(), id).await.unwrap();
        let pieces: Vec<Bytes> = layer.read(0..layer.size).try_collect().await.unwrap();
        (String::from_utf8(json.to_vec()).unwrap(), pieces.concat())
    }

    /// Puts images with their parents as earlier versions put them.
    async fn put_images<'a>(&self, images: impl IntoIterator<Item = (&'a ImageId, Option<&'a ImageId>)>) {
        let mut batch = Batch::new();
        for (id, parent) in images {
            let json = json_of(id, parent, "");
            let image = Image {
                parent: parent.copied(),
                json_digest: digest_of(Algorithm::Sha256, json.as_bytes()),
                json_size: json.len() as u64,
                layer: None,
                announced: Vec::new(),
                complete: false,
                created_ms: 1,
                revision: 1,
                named: None,
            };
            batch.put_record(keys::v1_image(&old(), id), &image).put(keys::v1_json(&old(), id), json.into());
            if let Some(parent) = parent {
                batch.put(keys::v1_child(&old(), parent, id), Bytes::new());
            }
        }
        self.registry.store.commit(batch).await.unwrap();
    }

    async fn images_left(&self) -> usize {
        self.registry.keys_of(&keys::v1_images(&old())).await.unwrap().len()
    }
}

#[tokio::test]
async fn whoever_has_put_something_else_under_an_id_before_its_owner_does_not_read_it() {
    let fixture = fixture().await;
    let (secret, mine) = (id("secret"), id("mine"));
    let squat = json_of(&secret, None, "x");
    fixture.json(MALLORY, &secret, &squat).await.unwrap();
    fixture.layer(MALLORY, &secret, &tar("mine", "")).await.unwrap();
    let json = json_of(&secret, None, "SECRET");
    fixture.push(ALICE, &secret, &json, &tar("secret", "")).await.unwrap();
    fixture.tag(ALICE, "alice/app", &secret).await.unwrap();
    assert!(!fixture.sees(MALLORY, &secret).await && fixture.sees(ALICE, &secret).await);
    assert!(fixture.tag(MALLORY, "mallory/stolen", &secret).await.is_err());
    assert_eq!(fixture.content(&secret).await, (json.clone(), tar("secret", "")));
    // Nor may she push what stands on it: to her it is not there.
    let child = json_of(&mine, Some(&secret), "");
    assert!(matches!(fixture.json(MALLORY, &mine, &child).await, Err(Error::V1JsonInvalid(_))));
    // Nor does it help to have sent the JSON of the one and the layer of another.
    fixture.json(MALLORY, &secret, &json).await.unwrap();
    assert!(matches!(fixture.layer(MALLORY, &secret, &tar("mine", "")).await, Err(Error::V1ImageTaken(_))));
    assert!(!fixture.sees(MALLORY, &secret).await);
}

#[tokio::test]
async fn something_else_takes_the_place_of_an_image_without_a_tag_and_never_of_one_with_a_tag() {
    let fixture = fixture().await;
    let base = id("base");
    let json = json_of(&base, None, "public");
    // The JSON is public; the layer is not what it should be.
    fixture.push(MALLORY, &base, &json, &tar("evil", "")).await.unwrap();
    fixture.push(ALICE, &base, &json, &tar("good", "")).await.unwrap();
    fixture.tag(ALICE, "alice/base", &base).await.unwrap();
    assert_eq!(fixture.content(&base).await.1, tar("good", ""));
    // What mallory sent is no longer there, and so she sees nothing of what is.
    assert!(!fixture.sees(MALLORY, &base).await);
    assert!(matches!(fixture.push(MALLORY, &base, &json, &tar("evil", "")).await, Err(Error::V1ImageTaken(_))));
    assert!(matches!(fixture.json(MALLORY, &base, &json_of(&base, None, "evil")).await, Err(Error::V1ImageTaken(_))));
    // A tag on an image that stands on it counts as well.
    let top = id("top");
    fixture.push(ALICE, &top, &json_of(&top, Some(&base), ""), &tar("top", "")).await.unwrap();
    fixture.tag(ALICE, "alice/top", &top).await.unwrap();
    fixture.registry.delete_v1_tag(&old(), &"alice/base".parse().unwrap(), &"1".parse().unwrap()).await.unwrap();
    assert!(matches!(fixture.json(MALLORY, &base, &json_of(&base, None, "evil")).await, Err(Error::V1ImageTaken(_))));
    assert_eq!(fixture.content(&base).await, (json, tar("good", "")));
}

#[tokio::test]
async fn a_tag_never_ends_up_on_something_else_than_its_pusher_sent() {
    let fixture = fixture().await;
    for user in [ALICE, CI] {
        let (base, top) = (id(&format!("{:?} base", user.name)), id(&format!("{:?} top", user.name)));
        let (json, child) = (json_of(&base, None, "public"), json_of(&top, Some(&base), ""));
        fixture.push(user, &base, &json, &tar("good", "")).await.unwrap();
        // In the middle of the push the base becomes another.
        fixture.push(MALLORY, &base, &json, &tar("evil", "")).await.unwrap();
        fixture.push(user, &top, &child, &tar("top", "")).await.unwrap();
        assert!(matches!(fixture.tag(user, "alice/app", &top).await, Err(Error::V1ImageReplaced(replaced)) if replaced == base));
        // Asking what is there, the next push hears that the base is not, and sends it again.
        assert!(!fixture.sees(user, &base).await);
        fixture.push(user, &base, &json, &tar("good", "")).await.unwrap();
        fixture.tag(user, "alice/healed", &top).await.unwrap();
        assert_eq!(fixture.content(&base).await.1, tar("good", ""));
        // The same again, of another base.
        let (base, top) = (id(&format!("{:?} other base", user.name)), id(&format!("{:?} other top", user.name)));
        let (json, child) = (json_of(&base, None, "public"), json_of(&top, Some(&base), ""));
        fixture.push(user, &base, &json, &tar("good", "")).await.unwrap();
        fixture.push(MALLORY, &base, &json, &tar("evil", "")).await.unwrap();
        fixture.push(user, &top, &child, &tar("top", "")).await.unwrap();
        // Not even if it has a name by now.
        fixture.tag(MALLORY, "mallory/base", &base).await.unwrap();
        assert!(matches!(fixture.tag(user, "alice/app", &top).await, Err(Error::V1ImageReplaced(_))));
        assert!(matches!(fixture.layer(user, &base, &tar("good", "")).await, Err(Error::V1ImageIncomplete(_) | Error::V1ImageTaken(_))));
        fixture.registry.delete_v1_tag(&old(), &"mallory/base".parse().unwrap(), &"1".parse().unwrap()).await.unwrap();
    }
    // Whoever sees everything is told that an image is there to which no tag leads: it stays until that push has ended.
    let told = id("told");
    let json = json_of(&told, None, "public");
    fixture.push(ALICE, &told, &json, &tar("good", "")).await.unwrap();
    fixture.registry.lease_v1_images(&old(), &[told], &CI.holder(), true).await.unwrap();
    assert!(matches!(fixture.push(MALLORY, &told, &json, &tar("evil", "")).await, Err(Error::V1ImageReliedOn(_))));
    fixture.tag(CI, "alice/told", &told).await.unwrap();
    assert_eq!(fixture.content(&told).await, (json, tar("good", "")));
}

#[tokio::test]
async fn dockers_of_different_versions_that_push_one_image_at_once_both_succeed_and_the_first_stays() {
    let fixture = fixture().await;
    let image = id("shared");
    let first = format!(r#"{{"id":"{image}","comment":"c","config":{{"Cmd":["sh"]}}}}"#);
    let second = format!("{{\n \"config\": {{\"Cmd\": [\"sh\"]}}, \"comment\": \"\\u0063\", \"id\": \"{image}\"\n}}");
    let layers = [gzip(&tar("content", ""), 9), gzip(&tar_otherwise("content"), 1)];
    // Every order in which the two can come that ends with both checksums.
    for (round, order) in ["jJlLcC", "jlJLcC", "jlcJLC", "jJLlCc", "jJLClc", "jJlcLC"].into_iter().enumerate() {
        let image = id(&format!("round {round}"));
        let texts = [&first, &second].map(|json| json.replace(&id("shared").to_string(), &image.to_string()));
        let tarsum = |which: usize| {
            let mut sums = super::sums::LayerSums::new(texts[which].as_bytes());
            sums.update(&layers[which]);
            sums.finish().checksums()
        };
        for step in order.chars() {
            let (which, user) = if step.is_lowercase() { (0, ALICE) } else { (1, CAROL) };
            match step.to_ascii_lowercase() {
                'j' => fixture.json(user, &image, &texts[which]).await.unwrap(),
                'l' => fixture.layer(user, &image, &layers[which]).await.unwrap(),
                // Docker claims two sums; each alone is enough.
                _ => {
                    for sum in tarsum(which) {
                        fixture.checksum(user, &image, &[sum]).await.unwrap();
                    }
                }
            }
        }
        let (json, layer) = fixture.content(&image).await;
        let first_layer = if order.find('l') < order.find('L') { 0 } else { 1 };
        assert_eq!((json, layer == layers[first_layer]), (texts[0].clone(), true), "{order}");
        // Each has sent all of it, and knows it.
        for (user, name) in [(ALICE, "alice/a"), (CAROL, "alice/b")] {
            fixture.tag(user, name, &image).await.unwrap();
        }
        assert!(!fixture.sees(MALLORY, &image).await);
        fixture.registry.delete_v1_tags(&old(), &"alice/a".parse().unwrap()).await.unwrap();
        fixture.registry.delete_v1_tags(&old(), &"alice/b".parse().unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn what_an_earlier_version_noted_of_a_push_is_in_nobodys_way() {
    let fixture = fixture().await;
    let image = id("shared");
    let json = json_of(&image, None, "c");
    for row in [&b""[..], b"{}", b"\xff\xff"] {
        let mut batch = Batch::new();
        for user in [ALICE, CAROL] {
            batch.put(keys::v1_pushed(&old(), &image, user.name.unwrap()), Bytes::from_static(row));
        }
        fixture.registry.store.commit(batch).await.unwrap();
        fixture.push(ALICE, &image, &json, &tar("content", "")).await.unwrap();
        fixture.push(CAROL, &image, &json, &tar("content", "")).await.unwrap();
    }
    fixture.tag(CAROL, "alice/app", &image).await.unwrap();
}

#[tokio::test]
async fn a_promotion_finds_the_same_image_in_other_bytes_and_replaces_what_no_tag_leads_to() {
    let fixture = fixture().await;
    let older: RepositoryKey = "older".parse().unwrap();
    let put = async |image: &ImageId, json: &str, layer: &[u8]| {
        let (viewer, holder) = (CI.viewer(), CI.holder());
        let (json, body) = (Bytes::copy_from_slice(json.as_bytes()), stream::iter([Ok(Bytes::copy_from_slice(layer))]).boxed());
        fixture.registry.put_v1_json(&older, image, json.clone(), viewer, &holder).await.unwrap();
        fixture.registry.put_v1_layer(&older, image, body, viewer, &holder).await.unwrap();
        let sums = payload(std::str::from_utf8(&json).unwrap(), layer);
        fixture.registry.put_v1_checksum(&older, image, &sums, CI.name).await.unwrap();
    };
    let promote = async |name: &str| {
        let image: ImageName = name.parse().unwrap();
        let promotion = Promotion { image: image.clone(), tag: None, target_image: image, target_tag: None, copy: true };
        fixture.registry.promote(&old(), &older, &promotion, ExistingTag::Moves).await
    };
    let (same, other) = (id("same"), id("other"));
    for image in [same, other] {
        fixture.push(ALICE, &image, &json_of(&image, None, "c"), &tar("content", "")).await.unwrap();
    }
    fixture.tag(ALICE, "alice/same", &same).await.unwrap();
    fixture.tag(ALICE, "alice/other", &other).await.unwrap();
    let written = format!("{{ \"comment\": \"c\", \"id\": \"{same}\" }}");
    put(&same, &written, &gzip(&tar("content", ""), 9)).await;
    put(&other, &json_of(&other, None, "c"), &tar("something else", "")).await;
    promote("alice/same").await.unwrap();
    promote("alice/other").await.unwrap();
    assert_eq!(fixture.registry.v1_image(&older, &same).await.unwrap().json, written, "what was there stays");
    assert_eq!(fixture.registry.v1_layer(&older, &other).await.unwrap().size, tar("content", "").len() as u64);
    // A tag leads to both now.
    fixture.registry.delete_v1_tags(&old(), &"alice/other".parse().unwrap()).await.unwrap();
    fixture.push(ALICE, &other, &json_of(&other, None, "new"), &tar("new", "")).await.unwrap();
    fixture.tag(ALICE, "alice/other", &other).await.unwrap();
    assert!(matches!(promote("alice/other").await, Err(Error::V1ImageDiffers(id)) if id == other));
}

#[tokio::test]
async fn a_layer_that_differs_only_in_what_tarsum_passes_over_is_another_layer() {
    let fixture = fixture().await;
    let image = id("image");
    let json = json_of(&image, None, "");
    fixture.push(MALLORY, &image, &json, &tar("sh", "may do everything")).await.unwrap();
    fixture.push(ALICE, &image, &json, &tar("sh", "")).await.unwrap();
    fixture.tag(ALICE, "alice/app", &image).await.unwrap();
    assert_eq!(fixture.content(&image).await.1, tar("sh", ""));
}

#[tokio::test]
async fn a_chain_that_is_too_long_is_refused_where_it_is_pushed_and_opens_nothing() {
    let fixture = fixture().await;
    let chain: Vec<ImageId> = (1..CHAIN_IMAGES_MAX).map(|number| id(&number.to_string())).collect();
    fixture.put_images(chain.iter().zip(std::iter::once(None).chain(chain.iter().map(Some)))).await;
    let last = id("last");
    fixture.json(CI, &last, &json_of(&last, chain.last(), "")).await.unwrap();
    let image = id("one too many");
    let pushed = fixture.json(CI, &image, &json_of(&image, Some(&last), "")).await;
    assert!(matches!(pushed, Err(Error::V1ChainTooLong(long)) if long == image));
    assert!(matches!(fixture.registry.v1_row(&old(), &image).await, Ok(None)));
}

#[tokio::test]
async fn a_chain_that_an_earlier_version_took_is_an_error_wherever_it_is_walked() {
    let fixture = fixture().await;
    let secret = id("secret");
    fixture.push(ALICE, &secret, &json_of(&secret, None, "SECRET"), &tar("secret", "")).await.unwrap();
    fixture.tag(ALICE, "alice/app", &secret).await.unwrap();
    let chain: Vec<ImageId> = (0..CHAIN_IMAGES_MAX).map(|number| id(&number.to_string())).collect();
    fixture.put_images(chain.iter().zip(std::iter::once(&secret).chain(&chain).map(Some))).await;
    let below = chain[CHAIN_IMAGES_MAX - 1];
    let registry = &fixture.registry;
    assert!(matches!(fixture.tag(MALLORY, "mallory/app", &below).await, Err(Error::V1ChainTooLong(_))));
    assert!(matches!(fixture.tag(CI, "mallory/app", &below).await, Err(Error::V1ChainTooLong(_))));
    assert!(!fixture.sees(MALLORY, &secret).await);
    // As if it had its tag already.
    let (image, tag): (ImageName, Tag) = ("mallory/app".parse().unwrap(), "1".parse().unwrap());
    let row = super::TagRecord { id: below, updated_ms: 1, user_agent: String::new() };
    let mut batch = Batch::new();
    registry.renew_image(&mut batch, &old(), &image).await.unwrap();
    registry.point_v1_tag(&mut batch, (&old(), &image, &tag), &row, ExistingTag::Moves).await.unwrap();
    registry.store.commit(batch).await.unwrap();
    assert!(!fixture.sees(MALLORY, &secret).await, "what can't be pulled shows nothing");
    let too_long = |error: Error| assert!(matches!(error, Error::V1ChainTooLong(_)), "{error}");
    too_long(registry.v1_images(&old(), &image).await.unwrap_err());
    too_long(registry.v1_chain(&old(), &below).await.unwrap_err());
    too_long(registry.v1_tree(&old(), Some(&image), None, &|_| true).await.unwrap_err());
    let promotion = Promotion { image: image.clone(), tag: None, target_image: image.clone(), target_tag: None, copy: true };
    // Its images were never complete, and an incomplete one is met first.
    registry.promote(&old(), &"older".parse().unwrap(), &promotion, ExistingTag::Moves).await.unwrap_err();
    let report = registry.check().await.unwrap();
    assert!(report.problems.iter().any(|problem| problem.what.contains("more than 1024 images")), "{:?}", report.problems);
}

#[tokio::test]
async fn images_that_stand_on_themselves_are_refused_and_those_of_earlier_versions_go() {
    let fixture = fixture_at(|| LOOPS_NOW_MS.load(Ordering::Relaxed)).await;
    let [one, two, three] = ["one", "two", "three"].map(id);
    for (image, parent) in [(&one, None), (&two, Some(&one)), (&three, Some(&two))] {
        fixture.json(MALLORY, image, &json_of(image, parent, "")).await.unwrap();
    }
    for parent in [&one, &two, &three] {
        let refused = fixture.json(MALLORY, &one, &json_of(&one, Some(parent), "")).await;
        assert!(matches!(refused, Err(Error::V1JsonInvalid(_))));
    }
    // As an earlier version took it: a ring, and something that stands on it.
    let ring: Vec<ImageId> = (0..CHAIN_IMAGES_MAX + 76).map(|number| id(&format!("ring {number}"))).collect();
    let (above, alone) = (id("above"), id("alone"));
    fixture.put_images(ring.iter().zip(ring.iter().cycle().skip(1).map(Some))).await;
    fixture.put_images([(&above, ring.first()), (&alone, Some(&alone))]).await;
    LOOPS_NOW_MS.fetch_add(DAY_MS + 1, Ordering::Relaxed);
    fixture.registry.collect_garbage().await.unwrap();
    assert_eq!(fixture.images_left().await, ring.len() + 2, "what nobody pointed out stays");
    assert_eq!(fixture.registry.find_v1_loops().await.unwrap(), ring.len() + 2);
    fixture.registry.collect_garbage().await.unwrap();
    assert_eq!(fixture.images_left().await, 0);
    assert_eq!(fixture.registry.keys_of(&keys::whole_family(b'w')).await.unwrap().len(), 0);
    assert_eq!(fixture.registry.find_v1_loops().await.unwrap(), 0, "once is enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_images_that_are_put_below_each_other_at_once_do_not_both_succeed() {
    for _ in 0..10 {
        let fixture = fixture().await;
        let [a, b, c, d] = ["a", "b", "c", "d"].map(id);
        for (image, parent) in [(&b, None), (&a, Some(&b)), (&d, None), (&c, Some(&d))] {
            fixture.json(MALLORY, image, &json_of(image, parent, "")).await.unwrap();
        }
        let (one, other) = (json_of(&b, Some(&c), ""), json_of(&d, Some(&a), ""));
        let (one, other) = tokio::join!(fixture.json(MALLORY, &b, &one), fixture.json(MALLORY, &d, &other));
        assert!(one.is_ok() != other.is_ok());
    }
}

#[tokio::test]
async fn however_many_images_stand_on_a_base_its_readers_still_read_it() {
    let fixture = fixture().await;
    let (base, top) = (id("base"), id("top"));
    fixture.push(ALICE, &base, &json_of(&base, None, ""), &tar("base", "")).await.unwrap();
    fixture.push(ALICE, &top, &json_of(&top, Some(&base), ""), &tar("top", "")).await.unwrap();
    let between = keys::v1_child(&old(), &base, &top);
    let value = async || fixture.registry.store.get(&between).await.unwrap();
    assert_eq!(value().await.as_deref(), Some(keys::V1_UNNAMED), "what no tag leads through is passed over");
    assert!(!fixture.sees(CAROL, &base).await);
    fixture.tag(ALICE, "alice/app", &top).await.unwrap();
    assert_eq!(value().await.as_deref(), Some(b"".as_slice()));
    assert!(fixture.sees(CAROL, &base).await);
    // What an earlier version let anybody put there says nothing of whether a tag ever led through it.
    let mut batch = Batch::new();
    for number in 0..20_050_u64 {
        let child = ImageId::from_bytes(std::array::from_fn(|at| if at < 8 { number.to_be_bytes()[at] } else { 0 }));
        batch.put(keys::v1_child(&old(), &base, &child), Bytes::new());
    }
    fixture.registry.store.commit(batch).await.unwrap();
    assert!(fixture.sees(CAROL, &base).await && fixture.sees(ALICE, &base).await && !fixture.sees(MALLORY, &base).await);
}
