//! Random histories of pushes, deletions, promotions and collections, all at the same time, against a model.
//!
//! The model knows which tags there are and what each must bring. After every step all of that must be there; at the end,
//! with every tag deleted and every lease over, nothing may be left: neither a row nor a file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use berth_names::{ApiVersion, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::get_record;
use berth_storage::keys::Item;
use berth_storage::records::{self, Record as _};
use berth_storage::rocksdb::{self, Stores};
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, TryStreamExt};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::hash::digest_of;
use crate::properties::PropertyChange;
use crate::receive::Body;
use crate::v1::migration::{Allowed, JobState, MigrationOrder};
use crate::v1::{ImageId, Viewer};
use crate::{Client, Clock, Error, ExistingTag, Promotion, Push, Repository};

/// Each test has its own clock: they run at the same time.
static CLOCKS: [AtomicU64; 6] = [const { AtomicU64::new(BEGINNING_MS) }; 6];
const BEGINNING_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 60 * 60 * 1000;

/// Larger than what is kept in a row, so that space can be compared with the file system's.
const LAYER_BYTES: usize = 70_000;
const LAYERS: u8 = 4;
const IMAGES: [&str; 2] = ["app", "team/app"];
const REPOSITORIES: [&str; 2] = ["dev", "prod"];

struct Fixture {
    directory: tempfile::TempDir,
    _stores: Stores,
    registry: Registry,
    clock: &'static AtomicU64,
}

const VIEWER: Viewer<'static> = Viewer { user: None, sees_all: true, sees: &|_| true };

/// What a tag must bring.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    V2(berth_names::Digest),
    V1(ImageId),
}

/// Where a tag is: protocol and repository, image, tag.
type Place = (RepositoryKey, ImageName, Tag);

#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        repository: usize,
        image: usize,
        tag: u8,
        layers: u8,
        shape: Shape,
    },
    PushV1 {
        image: usize,
        tag: u8,
        top: u8,
    },
    Delete {
        which: u8,
    },
    DeleteDigest {
        which: u8,
    },
    DeleteV1Image {
        image: usize,
    },
    Promote {
        which: u8,
        image: usize,
        tag: u8,
        copy: bool,
    },
    /// Users say something about a tag, its image, or the V1 image that it points to.
    Annotate {
        which: u8,
        what: u8,
        value: u8,
    },
    Migrate {
        which: u8,
    },
    Collect,
    Wait {
        hours: u8,
    },
}

/// What is pushed around an image.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Plain,
    Index,
    Referred,
}

/// A tar, so that V1 layers can be migrated; not packed, so that they have to be packed for it.
fn layer(number: u8) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(LAYER_BYTES as u64);
    archive.append_data(&mut header, "file", vec![number; LAYER_BYTES].as_slice()).unwrap();
    archive.into_inner().unwrap().into()
}

/// The same tar as another client sends it.
fn gzip(layer: &[u8]) -> Bytes {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, layer).unwrap();
    packed.finish().unwrap().into()
}

/// V1 images form a tree: 1 is the root of all, 2 and 3 stand on it, 4 and 5 on 2, 6 and 7 on 3.
fn v1_id(number: u8) -> ImageId {
    ImageId::from_bytes([number; 32])
}

fn v1_chain(top: u8) -> Vec<u8> {
    std::iter::successors(Some(top), |number| Some(number / 2).filter(|parent| *parent > 0)).collect::<Vec<_>>().into_iter().rev().collect()
}

fn body(bytes: Bytes) -> Body {
    futures::stream::iter([Ok(bytes)]).boxed()
}

fn fixture(clock: &'static AtomicU64, now_ms: fn() -> u64) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let stores = rocksdb::open(directory.path()).unwrap();
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::from_fn(now_ms));
    Fixture { directory, _stores: stores, registry, clock }
}

impl Fixture {
    async fn create_repositories(&self) {
        for key in REPOSITORIES {
            // One of them shows V1 clients what is in it.
            let serve_v1 = key == REPOSITORIES[0];
            let repository = Repository { serve_v1, ..Repository::new(key.parse().unwrap(), ApiVersion::V2) };
            self.registry.create_repository(&repository).await.unwrap();
        }
        for key in ["old", "older"] {
            self.registry.create_repository(&Repository::new(key.parse().unwrap(), ApiVersion::V1)).await.unwrap();
        }
    }

    /// What stands in the files of the data directory, in bytes.
    fn file_bytes(&self) -> u64 {
        fn walk(directory: &std::path::Path) -> u64 {
            let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
            entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
        }
        walk(&self.directory.path().join("data"))
    }

    /// Collects, and compares what the report says with what the file system says.
    async fn collect(&self) -> Freed {
        let before = self.file_bytes();
        let freed = self.registry.collect_garbage().await.unwrap();
        assert_eq!(before - self.file_bytes(), freed.file_bytes, "the report and the file system disagree");
        freed
    }

    async fn bring_blob(&self, repository: &RepositoryKey, image: &ImageName, bytes: Bytes, holder: &str) -> serde_json::Value {
        let digest = digest_of(berth_names::Algorithm::Sha256, &bytes);
        let size = bytes.len();
        let client = Client { owner: None, holder };
        // Like every client: what is there already is not sent again.
        if !self.registry.lease(repository, image, &digest, holder).await.unwrap() {
            let id = self.registry.start_upload(repository, image, None).await.unwrap();
            self.registry.finish_upload(repository, image, client, &id, &digest, body(bytes)).await.unwrap();
        }
        pause().await;
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size })
    }

    async fn put(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        reference: Option<&Tag>,
        manifest: &serde_json::Value,
        holder: &str,
    ) -> berth_names::Digest {
        let bytes = Bytes::from(manifest.to_string());
        let digest = digest_of(berth_names::Algorithm::Sha256, &bytes);
        let reference = reference.map_or(Reference::Digest(digest), |tag| Reference::Tag(tag.clone()));
        let push = Push { existing: ExistingTag::Moves, holder };
        let media_type = manifest["mediaType"].as_str();
        self.registry.put_manifest(repository, image, &reference, media_type, bytes, push).await.unwrap();
        digest
    }

    async fn push(&self, (repository, image, tag): &Place, layers: u8, shape: Shape, holder: &str) -> Content {
        let mut parts = Vec::new();
        for number in (0..LAYERS).filter(|number| layers & (1 << number) != 0) {
            parts.push(self.bring_blob(repository, image, layer(number), holder).await);
        }
        let diff_ids: Vec<_> =
            (0..LAYERS).filter(|number| layers & (1 << number) != 0).map(|n| digest_of(berth_names::Algorithm::Sha256, &[n])).collect();
        let config = json!({ "layers": layers, "rootfs": { "diff_ids": diff_ids } }).to_string();
        let mut config = self.bring_blob(repository, image, config.into(), holder).await;
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": parts,
        });
        let size = manifest.to_string().len();
        let descriptor = |digest| json!({ "mediaType": manifest["mediaType"], "digest": digest, "size": size });
        match shape {
            Shape::Plain => Content::V2(self.put(repository, image, Some(tag), &manifest, holder).await),
            Shape::Index => {
                let child = self.put(repository, image, None, &manifest, holder).await;
                pause().await;
                let index = json!({
                    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [descriptor(child)],
                });
                Content::V2(self.put(repository, image, Some(tag), &index, holder).await)
            }
            Shape::Referred => {
                let subject = self.put(repository, image, Some(tag), &manifest, holder).await;
                let about = json!({
                    "schemaVersion": 2, "mediaType": manifest["mediaType"], "config": config, "layers": [],
                    "artifactType": "application/x.signature", "subject": descriptor(subject),
                });
                self.put(repository, image, None, &about, holder).await;
                Content::V2(subject)
            }
        }
    }

    async fn push_v1(&self, (repository, image, tag): &Place, top: u8, holder: &str) -> Content {
        let chain = v1_chain(top);
        let ids: Vec<ImageId> = chain.iter().copied().map(v1_id).collect();
        self.registry.lease_v1_images(repository, &ids, holder, true).await.unwrap();
        // Every other client is another docker, which writes the same in other bytes.
        let is_other = holder.bytes().last().is_some_and(|byte| byte % 2 == 1);
        let viewer = Viewer { user: Some(holder), ..VIEWER };
        let mut below: Option<ImageId> = None;
        for number in chain {
            let (id, parent) = (v1_id(number), below);
            below = Some(id);
            pause().await;
            // What is there is not sent again.
            if self.registry.v1_image(repository, &id).await.is_ok() {
                continue;
            }
            let json = json!({ "id": id, "parent": parent });
            let json = Bytes::from(if is_other { format!("{json:#}") } else { json.to_string() });
            match self.registry.put_v1_json(repository, &id, json.clone(), viewer, holder).await {
                Ok(()) => {}
                // Another client was faster.
                Err(Error::V1ImageExists(_)) => continue,
                Err(error) => panic!("{error}"),
            }
            let layer = if is_other { gzip(&layer(number % LAYERS)) } else { layer(number % LAYERS) };
            self.registry.put_v1_layer(repository, &id, body(layer.clone()), viewer, holder).await.unwrap();
            let payload = digest_of(berth_names::Algorithm::Sha256, &[&json, b"\n".as_slice(), &layer].concat());
            let sums = [format!("sha256:{}", payload.hex())];
            self.registry.put_v1_checksum(repository, &id, &sums, Some(holder)).await.unwrap();
        }
        let push = Push { existing: ExistingTag::Moves, holder };
        self.registry.put_v1_tag((repository, image, tag), &v1_id(top), "docker/1.5.0", push, VIEWER).await.unwrap();
        Content::V1(v1_id(top))
    }

    /// Everything that the model says is there is, whole; and no other tag is.
    async fn verify(&self, model: &BTreeMap<Place, Content>) {
        let report = self.registry.check().await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        for ((repository, image, tag), content) in model {
            match content {
                Content::V2(digest) => {
                    let found = self.registry.manifest(repository, image, &Reference::Tag(tag.clone())).await.unwrap();
                    assert_eq!(found.digest, *digest);
                    self.verify_view(repository, image, tag).await;
                }
                Content::V1(id) => {
                    assert_eq!(self.registry.v1_tag(repository, image, tag).await.unwrap().id, *id);
                    for id in self.registry.v1_ancestry(repository, id).await.unwrap() {
                        let layer = self.registry.v1_layer(repository, &id).await.unwrap();
                        let pieces: Vec<Bytes> = layer.read(0..layer.size).try_collect().await.unwrap();
                        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>() as u64, layer.size);
                    }
                }
            }
        }
        let mut tags = BTreeSet::new();
        for repository in REPOSITORIES.iter().chain(&["old", "older"]) {
            let repository: RepositoryKey = repository.parse().unwrap();
            for image in IMAGES {
                let image: ImageName = image.parse().unwrap();
                let v2 = self.registry.tags(&repository, &image, None, None).await.map(|page| page.names).unwrap_or_default();
                let v1 = self.registry.v1_tags(&repository, &image).await.unwrap_or_default();
                let names = v2.into_iter().chain(v1.into_iter().map(|(tag, _)| tag.to_string()));
                tags.extend(names.map(|tag| (repository.clone(), image.clone(), tag.parse::<Tag>().unwrap())));
            }
        }
        assert_eq!(tags, model.keys().cloned().collect());
    }

    /// Says something about a tag, its image or what it points to, or takes it back. Others may be deleting it just now.
    async fn annotate(&self, (repository, image, tag): &Place, content: &Content, what: u8, value: u8) {
        let item = match (what, content) {
            (0, _) => Item::Image(image.clone()),
            (1, Content::V1(id)) => Item::V1Image(*id),
            _ => Item::Tag(image.clone(), tag.clone()),
        };
        let change = match value {
            0 => PropertyChange::Remove(BTreeSet::from(["team".to_owned()])),
            _ => PropertyChange::Set(BTreeMap::from([("team".to_owned(), (0..value).map(|n| format!("v{n}")).collect())])),
        };
        match self.registry.change_properties(repository, &item, &change, what == 0).await {
            Ok(()) | Err(Error::ItemUnknown) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The index finds what there is by everything that is said about it, and nothing else.
    async fn verify_index(&self) {
        let registry = &self.registry;
        let mut expected = BTreeSet::new();
        let mut items = BTreeSet::new();
        for repository in REPOSITORIES.iter().chain(&["old", "older"]) {
            let repository: RepositoryKey = repository.parse().unwrap();
            for key in registry.keys_of(&keys::images(&repository)).await.unwrap() {
                let image: ImageName = key.text_after(&keys::images(&repository)).unwrap().parse().unwrap();
                for prefix in [keys::tags(&repository, &image), keys::v1_tags(&repository, &image)] {
                    for key in registry.keys_of(&prefix).await.unwrap() {
                        items.insert((repository.clone(), Item::Tag(image.clone(), key.text_after(&prefix).unwrap().parse().unwrap())));
                    }
                }
                items.insert((repository.clone(), Item::Image(image)));
            }
            let all = keys::v1_images(&repository);
            let ids = registry.keys_of(&all).await.unwrap();
            items.extend(ids.iter().map(|key| (repository.clone(), Item::V1Image(key.v1_image_after(&all).unwrap()))));
        }
        for (repository, item) in &items {
            match registry.properties(repository, item).await {
                Ok(said) => {
                    let pairs = said.into_iter().flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)));
                    expected.extend(pairs.map(|(name, value)| keys::found_by(&name, &value, repository, item).to_string()));
                }
                Err(Error::ItemUnknown) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let found: BTreeSet<String> = registry.keys_of(&keys::whole_family(b'n')).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    /// A repository that shows V1 clients what is in it shows all of it, and no other shows anything.
    async fn verify_view(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag) {
        let shown = self.registry.viewed_tag(repository, image, tag).await;
        if repository.as_str() != REPOSITORIES[0] {
            assert!(matches!(shown, Err(Error::V1TagUnknown(_))));
            return;
        }
        for id in self.registry.viewed_ancestry(repository, &shown.unwrap(), &|_| true).await.unwrap() {
            self.registry.viewed_image(repository, &id, &|_| true).await.unwrap();
            let layer = self.registry.viewed_layer(repository, &id, &|_| true).await.unwrap();
            let pieces: Vec<Bytes> = layer.read(0..layer.size).try_collect().await.unwrap();
            assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>() as u64, layer.size);
        }
    }

    /// Blobs that are stored, and those that some tag leads to.
    async fn stored_blobs(&self) -> usize {
        self.registry.keys_of(&keys::blobs()).await.unwrap().len()
    }

    fn pass(&self, hours: u64) {
        self.clock.fetch_add(hours * HOUR_MS, Ordering::Relaxed);
    }
}

impl Fixture {
    /// Migrates one tag; returns what it has become.
    async fn migrate(&self, from: &Place, to: &Place) -> berth_names::Digest {
        let order = MigrationOrder {
            source: from.0.clone(),
            target: to.0.clone(),
            image: Some(from.1.clone()),
            tag: Some(from.2.clone()),
            dry_run: false,
            owner: None,
            resumes: false,
        };
        let id = self.registry.start_migration(order, Arc::new(|_| Allowed::Yes(ExistingTag::Moves))).await.unwrap();
        if let Some((_, Some(mut watch))) = self.registry.job(&id).await.unwrap() {
            let job = watch.wait_for(|job| job.state != JobState::Running).await.unwrap();
            assert_eq!((job.state, job.done.failed), (JobState::Finished, 0), "{:?}", job.failures);
        }
        self.registry.manifest(&to.0, &to.1, &Reference::Tag(to.2.clone())).await.unwrap().digest
    }
}

/// What one step changes in the model.
type Change = Box<dyn FnOnce(&mut BTreeMap<Place, Content>) + Send>;

fn put(place: Place, content: Content) -> Change {
    Box::new(move |model| {
        model.insert(place, content);
    })
}

fn take(place: Place) -> Change {
    Box::new(move |model| {
        model.remove(&place);
    })
}

fn place(repository: &str, image: usize, tag: u8) -> Place {
    (repository.parse().unwrap(), IMAGES[image].parse().unwrap(), format!("t{tag}").parse().unwrap())
}

fn nth(model: &BTreeMap<Place, Content>, which: u8) -> Option<(Place, Content)> {
    let index = usize::from(which).checked_rem(model.len())?;
    model.iter().nth(index).map(|(place, content)| (place.clone(), content.clone()))
}

/// The step as work on the registry; `taken` are tags that another step of the same round changes.
fn begin<'f>(
    fixture: &'f Fixture,
    model: &BTreeMap<Place, Content>,
    taken: &mut BTreeSet<Place>,
    step: Step,
    number: usize,
) -> Option<BoxFuture<'f, Change>> {
    let holder = format!("client-{number}");
    let unchanged = |_: &mut BTreeMap<Place, Content>| {};
    match step {
        Step::Push { repository, image, tag, layers, shape } => {
            let place = place(REPOSITORIES[repository], image, tag);
            taken.insert(place.clone()).then(|| {
                async move {
                    let content = fixture.push(&place, layers, shape, &holder).await;
                    put(place, content)
                }
                .boxed()
            })
        }
        Step::PushV1 { image, tag, top } => {
            let place = place("old", image, tag);
            taken.insert(place.clone()).then(|| {
                async move {
                    let content = fixture.push_v1(&place, top, &holder).await;
                    put(place, content)
                }
                .boxed()
            })
        }
        Step::Delete { which } => {
            let (place, content) = nth(model, which)?;
            taken.insert(place.clone()).then(|| {
                async move {
                    let (repository, image, tag) = &place;
                    match content {
                        Content::V2(_) => {
                            fixture.registry.delete_manifest(repository, image, &Reference::Tag(tag.clone())).await.unwrap();
                        }
                        Content::V1(_) => fixture.registry.delete_v1_tag(repository, image, tag).await.unwrap(),
                    }
                    take(place)
                }
                .boxed()
            })
        }
        Step::Promote { which, image, tag, copy } => {
            let ((repository, from_image, from_tag), content) = nth(model, which)?;
            let target = match content {
                Content::V2(_) => "prod",
                Content::V1(_) => "older",
            };
            let to = place(target, image, tag);
            let from = (repository, from_image, from_tag);
            if from == to || taken.contains(&from) || taken.contains(&to) {
                return None;
            }
            taken.extend([from.clone(), to.clone()]);
            Some(
                async move {
                    let promotion = Promotion {
                        image: from.1.clone(),
                        tag: Some(from.2.clone()),
                        target_image: to.1.clone(),
                        target_tag: Some(to.2.clone()),
                        copy,
                    };
                    fixture.registry.promote(&from.0, &to.0, &promotion, ExistingTag::Moves).await.unwrap();
                    Box::new(move |model: &mut BTreeMap<_, _>| {
                        if !copy {
                            model.remove(&from);
                        }
                        model.insert(to, content);
                    }) as Change
                }
                .boxed(),
            )
        }
        Step::Annotate { which, what, value } => {
            let (place, content) = nth(model, which)?;
            Some(
                async move {
                    fixture.annotate(&place, &content, what, value).await;
                    Box::new(unchanged) as Change
                }
                .boxed(),
            )
        }
        Step::Migrate { which } => {
            let ((repository, image, tag), content) = nth(model, which)?;
            let from = (repository, image.clone(), tag.clone());
            let to: Place = (REPOSITORIES[0].parse().unwrap(), image, tag);
            if !matches!(content, Content::V1(_)) || taken.contains(&from) || taken.contains(&to) {
                return None;
            }
            taken.extend([from.clone(), to.clone()]);
            Some(
                async move {
                    let digest = fixture.migrate(&from, &to).await;
                    put(to, Content::V2(digest))
                }
                .boxed(),
            )
        }
        Step::Collect => Some(
            async move {
                fixture.registry.collect_garbage().await.unwrap();
                Box::new(unchanged) as Change
            }
            .boxed(),
        ),
        // These have a round of their own.
        Step::DeleteDigest { .. } | Step::DeleteV1Image { .. } | Step::Wait { .. } => None,
    }
}

async fn alone(fixture: &Fixture, model: &mut BTreeMap<Place, Content>, step: Step) {
    match step {
        Step::DeleteDigest { which } => {
            let Some(((repository, image, _), Content::V2(digest))) = nth(model, which) else { return };
            let reference = Reference::Digest(digest);
            let delete = fixture.registry.delete_manifest(&repository, &image, &reference);
            match tokio::join!(delete, fixture.registry.collect_garbage()).0 {
                Ok(()) => model.retain(|place, content| (&place.0, &place.1) != (&repository, &image) || *content != Content::V2(digest)),
                Err(Error::InUse { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Step::DeleteV1Image { image } => {
            let (repository, image, _) = place("old", image, 0);
            tokio::join!(fixture.registry.delete_v1_tags(&repository, &image), fixture.registry.collect_garbage()).0.unwrap();
            model.retain(|place, _| (&place.0, &place.1) != (&repository, &image));
        }
        Step::Wait { hours } => {
            fixture.pass(u64::from(hours));
            fixture.collect().await;
        }
        Step::Push { .. } | Step::PushV1 { .. } | Step::Delete { .. } | Step::Promote { .. } => {}
        Step::Annotate { .. } | Step::Migrate { .. } | Step::Collect => {}
    }
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let shape = prop_oneof![Just(Shape::Plain), Just(Shape::Index), Just(Shape::Referred)];
    let step = prop_oneof![
        5 => (0..2usize, 0..2usize, 0..3u8, 1..1u8 << LAYERS, shape)
            .prop_map(|(repository, image, tag, layers, shape)| Step::Push { repository, image, tag, layers, shape }),
        3 => (0..2usize, 0..3u8, 1..8u8).prop_map(|(image, tag, top)| Step::PushV1 { image, tag, top }),
        5 => any::<u8>().prop_map(|which| Step::Delete { which }),
        1 => any::<u8>().prop_map(|which| Step::DeleteDigest { which }),
        1 => (0..2usize).prop_map(|image| Step::DeleteV1Image { image }),
        3 => (any::<u8>(), 0..2usize, 0..3u8, any::<bool>())
            .prop_map(|(which, image, tag, copy)| Step::Promote { which, image, tag, copy }),
        4 => (any::<u8>(), 0..3u8, 0..4u8).prop_map(|(which, what, value)| Step::Annotate { which, what, value }),
        3 => any::<u8>().prop_map(|which| Step::Migrate { which }),
        2 => Just(Step::Collect),
        1 => (1..30u8).prop_map(|hours| Step::Wait { hours }),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..6), 1..14)
}

fn cases() -> u32 {
    std::env::var("BERTH_CLEANUP_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_a_tag_leads_to_stays_and_everything_else_goes(rounds in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(history(rounds));
    }
}

async fn history(rounds: Vec<Vec<Step>>) {
    let fixture = fixture(&CLOCKS[0], || CLOCKS[0].load(Ordering::Relaxed));
    fixture.create_repositories().await;
    let mut model = BTreeMap::new();
    for (round, steps) in rounds.into_iter().enumerate() {
        let mut taken = BTreeSet::new();
        let begun = steps.iter().enumerate().filter_map(|(n, step)| begin(&fixture, &model, &mut taken, *step, round * 8 + n));
        let work: Vec<_> = begun.collect();
        let changes = while_collecting(&fixture, join_all(work)).await;
        changes.into_iter().for_each(|change| change(&mut model));
        for step in steps {
            alone(&fixture, &mut model, step).await;
        }
        fixture.collect().await;
        fixture.verify(&model).await;
        fixture.verify_index().await;
    }
    // What some tag leads to is all that is left once every push and every grace is over.
    fixture.pass(100);
    fixture.collect().await;
    fixture.verify(&model).await;
    let report = fixture.registry.check().await.unwrap();
    assert_eq!(fixture.stored_blobs().await as u64, report.blobs);
    for ((repository, image, tag), content) in model {
        match content {
            Content::V2(_) => fixture.registry.delete_manifest(&repository, &image, &Reference::Tag(tag)).await.unwrap(),
            Content::V1(_) => fixture.registry.delete_v1_tag(&repository, &image, &tag).await.unwrap(),
        }
    }
    fixture.collect().await;
    assert_eq!(fixture.file_bytes(), 0, "files are left");
    // Empty images go with the next pruning.
    fixture.pass(1);
    fixture.collect().await;
    fixture.registry.expire_leases().await.unwrap();
    let left: Vec<String> = fixture.registry.all_keys().await.iter().filter(|key| !key.starts_with(['0', 'R', 'j'])).cloned().collect();
    assert_eq!(left, Vec::<String>::new(), "rows are left");
}

/// The collector is never still while the work goes on. It is not cut off at the end: cut off between a commit and the
/// deletion of the file, as by a crash, it would leave the file to the sweep.
async fn while_collecting<T>(fixture: &Fixture, work: impl Future<Output = T>) -> T {
    let is_done = AtomicBool::new(false);
    let work = async {
        let outcome = work.await;
        is_done.store(true, Ordering::Relaxed);
        outcome
    };
    let collecting = async {
        while !is_done.load(Ordering::Relaxed) {
            fixture.registry.collect_garbage().await.unwrap();
            // What a deletion in this very millisecond left is due in the next.
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
    };
    tokio::join!(work, collecting).0
}

/// The time that a client takes between two requests.
async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
}

impl Registry {
    async fn all_keys(&self) -> Vec<String> {
        let mut found = Vec::new();
        for family in 0x21..0x7f {
            found.extend(self.keys_of(&keys::whole_family(family)).await.unwrap().iter().map(ToString::to_string));
        }
        found
    }
}

#[tokio::test]
async fn a_deleted_repository_leaves_nothing_and_its_key_can_be_used_again() {
    let fixture = fixture(&CLOCKS[1], || CLOCKS[1].load(Ordering::Relaxed));
    fixture.create_repositories().await;
    for (n, shape) in [Shape::Plain, Shape::Index, Shape::Referred].into_iter().enumerate() {
        fixture.push(&place("dev", n % 2, n as u8), 0b1011, shape, "a").await;
        fixture.push(&place("prod", 0, n as u8), 0b11, shape, "a").await;
    }
    let content = fixture.push_v1(&place("old", 0, 0), 5, "a").await;
    for what in 0..3 {
        fixture.annotate(&place("old", 0, 0), &content, what, 3).await;
        fixture.annotate(&place("dev", 0, 0), &content, what, 3).await;
    }
    fixture.verify_index().await;
    let dev: RepositoryKey = "dev".parse().unwrap();
    assert!(matches!(
        fixture.registry.create_repository(&Repository::new(dev.clone(), ApiVersion::V1)).await,
        Err(Error::RepositoryExists(_))
    ));
    for key in ["dev", "old", "prod"] {
        fixture.registry.delete_repository(&key.parse().unwrap()).await.unwrap();
        let push = Push { existing: ExistingTag::Moves, holder: "a" };
        let refused =
            fixture.registry.put_manifest(&dev, &"app".parse().unwrap(), &"x".parse().unwrap(), None, Bytes::from("{}"), push).await;
        assert!(refused.is_err());
        fixture.collect().await;
    }
    assert_eq!(fixture.file_bytes(), 0);
    let left: Vec<String> = fixture.registry.all_keys().await.into_iter().filter(|key| !key.starts_with(['0', 'R', 'c', 'L'])).collect();
    assert_eq!(left, Vec::<String>::new());
    fixture.registry.create_repository(&Repository::new(dev, ApiVersion::V1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_of_one_user_from_one_machine_each_keep_what_they_were_told_of() {
    let fixture = fixture(&CLOCKS[2], || CLOCKS[2].load(Ordering::Relaxed));
    fixture.create_repositories().await;
    let old: RepositoryKey = "old".parse().unwrap();
    let held = async |number| {
        let row = get_record::<records::Lease>(fixture.registry.store.as_ref(), &keys::v1_lease(&old, &v1_id(number))).await.unwrap();
        row.map_or(0, |(lease, _)| lease.holders.len() as u32 + lease.more.values().sum::<u32>())
    };
    let place = place("old", 0, 0);
    for _ in 0..2 {
        fixture.push_v1(&place, 2, "ci@10.0.0.1").await;
        assert_eq!((held(1).await, held(2).await), (0, 0));
    }
    // The second push has been told that all is there when the first ends and its tag goes.
    let ids = [v1_id(1), v1_id(2)];
    for _ in 0..2 {
        fixture.registry.lease_v1_images(&old, &ids, "ci@10.0.0.1", true).await.unwrap();
    }
    let push = Push { existing: ExistingTag::Moves, holder: "ci@10.0.0.1" };
    let (repository, image, tag) = (&place.0, &place.1, &place.2);
    fixture.registry.put_v1_tag((repository, image, tag), &v1_id(2), "docker/1.9.1", push, VIEWER).await.unwrap();
    fixture.registry.delete_v1_tag(repository, image, tag).await.unwrap();
    fixture.collect().await;
    assert_eq!((held(1).await, held(2).await), (1, 1));
    fixture.registry.put_v1_tag((repository, image, tag), &v1_id(2), "docker/1.9.1", push, VIEWER).await.unwrap();
    fixture.registry.delete_v1_tag(repository, image, tag).await.unwrap();
    fixture.collect().await;
    assert_eq!(fixture.file_bytes(), 0);
    let work = (0..8).map(|number| {
        let (fixture, place) = (&fixture, super::tests::place("old", number % 2, number as u8));
        async move {
            for _ in 0..20 {
                fixture.push_v1(&place, 1 + (number as u8 % 3), "ci@10.0.0.1").await;
                fixture.registry.delete_v1_tag(&place.0, &place.1, &place.2).await.unwrap();
            }
        }
    });
    while_collecting(&fixture, join_all(work)).await;
    assert_eq!((held(1).await, held(2).await, held(3).await), (0, 0, 0));
}

#[tokio::test]
async fn what_an_earlier_version_stored_is_indexed_once() {
    let fixture = fixture(&CLOCKS[3], || CLOCKS[3].load(Ordering::Relaxed));
    fixture.create_repositories().await;
    let registry = &fixture.registry;
    for (n, shape) in [Shape::Plain, Shape::Index, Shape::Referred].into_iter().enumerate() {
        fixture.push(&place("dev", n % 2, n as u8), 0b1011, shape, "a").await;
    }
    fixture.push_v1(&place("old", 0, 0), 5, "a").await;
    let index = keys::whole_family(b'n');
    let whole = registry.keys_of(&index).await.unwrap();
    // An earlier version had no index, and tags that said less.
    let mut batch = Batch::new();
    for key in &whole {
        batch.delete(key.clone());
    }
    for (key, row) in registry.store.scan(&keys::all_tags(), None, 100).await.unwrap() {
        let row = records::Tag::decode(&row).unwrap();
        batch.put_record(key, &records::Tag { media_type: String::new(), size: 0, ..row });
    }
    registry.store.commit(batch).await.unwrap();
    assert_eq!(registry.index_once().await.unwrap(), 3 + 1 + 3);
    assert_eq!(registry.keys_of(&index).await.unwrap(), whole);
    fixture.verify_index().await;
    assert_eq!(registry.index_once().await.unwrap(), 0);
}

#[tokio::test]
async fn a_clock_that_is_set_back_by_years_keeps_nothing_for_years() {
    let fixture = fixture(&CLOCKS[4], || CLOCKS[4].load(Ordering::Relaxed));
    fixture.create_repositories().await;
    fixture.pass(10 * 365 * 24);
    let registry = &fixture.registry;
    let (repository, image, tag) = place("dev", 0, 0);
    // A push that never ends, an upload that rests, a tag that was moved, and an image of which nothing is left.
    fixture.bring_blob(&repository, &image, layer(3), "a").await;
    registry.start_upload(&repository, &image, None).await.unwrap();
    for layers in [0b1, 0b11] {
        fixture.push(&(repository.clone(), image.clone(), tag.clone()), layers, Shape::Plain, "b").await;
    }
    registry.delete_manifest(&repository, &image, &Reference::Tag(tag)).await.unwrap();
    fixture.clock.store(BEGINNING_MS, Ordering::Relaxed);
    for _ in 0..5 {
        registry.expire_leases().await.unwrap();
        registry.expire_uploads(24 * HOUR_MS).await.unwrap();
        registry.bring_candidates_forward().await.unwrap();
        fixture.collect().await;
        fixture.pass(25);
    }
    assert_eq!(fixture.file_bytes(), 0);
    let left: Vec<String> = registry.all_keys().await.into_iter().filter(|key| !key.starts_with(['0', 'R'])).collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(registry.bring_candidates_forward().await.unwrap(), 0);
}

#[tokio::test]
async fn what_an_earlier_version_showed_v1_clients_is_shown_anew_under_ids_that_stand_for_their_content() {
    let fixture = fixture(&CLOCKS[5], || CLOCKS[5].load(Ordering::Relaxed));
    fixture.create_repositories().await;
    let registry = &fixture.registry;
    assert_eq!(registry.finish_views().await.unwrap(), 0);
    let place = place("dev", 0, 0);
    let (repository, image, tag) = (&place.0, &place.1, &place.2);
    let Content::V2(digest) = fixture.push(&place, 0b1011, Shape::Plain, "a").await else { panic!("it was pushed over V2") };
    let rows = async |family| registry.store.scan(&keys::whole_family(family), None, 100).await.unwrap();
    let (views, viewed) = (rows(b'E').await, rows(b's').await);
    let top = registry.viewed_tag(repository, image, tag).await.unwrap();
    // As an earlier version left it: other ids, and a record without a rule.
    let key = keys::v1_view(repository, image, &digest);
    let (mut view, _) = get_record::<records::v1::View>(registry.store.as_ref(), &key).await.unwrap().unwrap();
    let mut batch = Batch::new();
    for (number, shown) in (0_u8..).zip(&mut view.images) {
        batch.delete(keys::v1_viewed(repository, &shown.id, image, &digest));
        shown.id = ImageId::from_bytes([number; 32]);
        batch.put(keys::v1_viewed(repository, &shown.id, image, &digest), Bytes::new());
    }
    let old_top = view.images.last().unwrap().id;
    view.rule = 0;
    batch.put_record(key, &view).delete(keys::v1_views_rule());
    registry.store.commit(batch).await.unwrap();
    // Until it is made anew it is not shown: what such an id brings is not certain.
    assert!(matches!(registry.viewed_tag(repository, image, tag).await, Err(Error::V1TagUnknown(_))));
    assert!(matches!(registry.viewed_layer(repository, &old_top, &|_| true).await, Err(Error::V1ImageUnknown(_))));
    assert_eq!(registry.finish_views().await.unwrap(), 1);
    assert_eq!((rows(b'E').await, rows(b's').await), (views, viewed));
    assert_eq!(registry.viewed_tag(repository, image, tag).await.unwrap(), top);
    fixture.verify_view(repository, image, tag).await;
    assert_eq!(registry.finish_views().await.unwrap(), 0, "once is enough");

    // What a later version left is made anew, too, and shown meanwhile: the ids are the same.
    let key = keys::v1_view(repository, image, &digest);
    view = get_record::<records::v1::View>(registry.store.as_ref(), &key).await.unwrap().unwrap().0;
    view.rule = 1;
    let mut batch = Batch::new();
    batch.put_record(key.clone(), &view).put(keys::v1_views_rule(), Bytes::from_static(&[1]));
    registry.store.commit(batch).await.unwrap();
    assert_eq!(registry.viewed_tag(repository, image, tag).await.unwrap(), top);
    assert_eq!(registry.finish_views().await.unwrap(), 1);
    let anew = get_record::<records::v1::View>(registry.store.as_ref(), &key).await.unwrap().unwrap().0;
    assert_eq!((anew.images, anew.rule), (view.images, 2));
}
