//! Fills a store for `make bench-scale`, through the domain, as pushes fill it: the same rows and the same commits.
//!
//! `fill <data_dir> <from> <to>` brings a store that was filled up to `from` up to `to`. What there is then, `scripts/bench_scale.py`
//! knows too: in `scale`, tag `t<n>` in image `team/app-<n / 100>` for each n below `to`, a manifest each, and a tenth as
//! many tags in `team/many`; in `scale-v1`, a V1 image for each n, in chains of five, with a tag at the top of each:
//! `t<n>` in `team/app-<n / 500>`.

use std::ops::Range;
use std::time::Instant;

use berth_names::{ApiVersion, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_registry::v1::{ImageId, Viewer};
use berth_registry::{Body, CleanupTimes, Client, Clock, ExistingTag, Push, Registry, Repository};
use berth_storage::rocksdb;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest as _, Sha256};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const TAGS_PER_IMAGE: u64 = 100;

/// Of the tags, so many have one more beside them in one image.
const TAGS_PER_TAG_OF_MANY: u64 = 10;

const CHAIN: u64 = 5;
const CHAINS_PER_IMAGE: u64 = 100;

/// Layers of V1 images that differ: those of several images are the same blob, as base layers are.
const LAYERS: u64 = 10_007;

/// Pushes that are under way at the same time.
const TOGETHER: usize = 256;

const HOLDER: &str = "fill";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Fill {
    registry: Registry,
    key: RepositoryKey,
    v1: RepositoryKey,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, from, to] = arguments.as_slice() else { return Err("usage: fill <data_dir> <from> <to>".into()) };
    let (from, to): (u64, u64) = (from.parse()?, to.parse()?);
    let stores = rocksdb::open(directory.as_ref())?;
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
    let fill = Fill { registry, key: "scale".parse()?, v1: "scale-v1".parse()? };
    for (key, version) in [(&fill.key, ApiVersion::V2), (&fill.v1, ApiVersion::V1)] {
        fill.registry.adopt_repository(&Repository::new(key.clone(), version)).await?;
    }
    let begun = Instant::now();
    fill.images(from / TAGS_PER_IMAGE..to.div_ceil(TAGS_PER_IMAGE)).await?;
    fill.tags(from..to).await?;
    fill.many(from / TAGS_PER_TAG_OF_MANY..to / TAGS_PER_TAG_OF_MANY).await?;
    println!("{} tags in {:.1} s", to - from + (to - from) / TAGS_PER_TAG_OF_MANY, begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    fill.chains(from / CHAIN..to / CHAIN).await?;
    println!("{} V1 images in {:.1} s", to - from, begun.elapsed().as_secs_f64());
    Ok(())
}

async fn each(numbers: Range<u64>, one: impl AsyncFn(u64) -> Result<(), Failed>) -> Result<(), Failed> {
    stream::iter(numbers).map(|number| one(number)).buffer_unordered(TOGETHER).try_collect().await
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(bytes).into())
}

fn body(bytes: Bytes) -> Body {
    stream::iter([Ok(bytes)]).boxed()
}

fn image_of(number: u64) -> Result<ImageName, Failed> {
    Ok(format!("team/app-{number:05}").parse()?)
}

fn tag_of(number: u64) -> Result<Tag, Failed> {
    Ok(format!("t{number:07}").parse()?)
}

fn many() -> Result<ImageName, Failed> {
    Ok("team/many".parse()?)
}

/// Config and layer of an image.
fn blobs_of(image: &ImageName) -> [Bytes; 2] {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Labels":{{"image":"{image}"}}}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    [config.into(), format!("the layer of {image}, as small as layers can be").into()]
}

/// A manifest of its own for each tag, as a build server pushes them.
fn manifest_of(image: &ImageName, number: u64) -> Bytes {
    let [config, layer] = blobs_of(image);
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}],"annotations":{{"org.opencontainers.image.version":"{number}"}}}}"#,
        sha256(&config),
        config.len(),
        sha256(&layer),
        layer.len(),
    )
    .into()
}

fn v1_id(number: u64) -> ImageId {
    ImageId::from_bytes(Sha256::digest(format!("V1 image {number}")).into())
}

fn v1_layer(number: u64) -> Bytes {
    format!("layer {} of docker's youth", number % LAYERS).into()
}

impl Fill {
    async fn images(&self, numbers: Range<u64>) -> Result<(), Failed> {
        if numbers.start == 0 {
            self.blobs(&many()?).await?;
        }
        each(numbers, async |number| self.blobs(&image_of(number)?).await).await
    }

    async fn blobs(&self, image: &ImageName) -> Result<(), Failed> {
        let client = Client { owner: None, holder: HOLDER };
        for content in blobs_of(image) {
            let id = self.registry.start_upload(&self.key, image, None).await?;
            self.registry.finish_upload(&self.key, image, client, &id, &sha256(&content), body(content)).await?;
        }
        Ok(())
    }

    async fn tag(&self, image: &ImageName, number: u64) -> Result<(), Failed> {
        let push = Push { existing: ExistingTag::Moves, holder: HOLDER };
        let (reference, content) = (Reference::Tag(tag_of(number)?), manifest_of(image, number));
        self.registry.put_manifest(&self.key, image, &reference, Some(MANIFEST), content, push).await?;
        Ok(())
    }

    async fn tags(&self, numbers: Range<u64>) -> Result<(), Failed> {
        each(numbers, async |number| self.tag(&image_of(number / TAGS_PER_IMAGE)?, number).await).await
    }

    async fn many(&self, numbers: Range<u64>) -> Result<(), Failed> {
        let many = many()?;
        each(numbers, async |number| self.tag(&many, number).await).await
    }

    async fn chains(&self, numbers: Range<u64>) -> Result<(), Failed> {
        each(numbers, async |chain| {
            for number in chain * CHAIN..(chain + 1) * CHAIN {
                self.v1_image(number).await?;
            }
            let top = (chain + 1) * CHAIN - 1;
            let (image, tag) = (image_of(chain / CHAINS_PER_IMAGE)?, tag_of(top)?);
            let push = Push { existing: ExistingTag::Moves, holder: HOLDER };
            let sees = |_: &ImageName| true;
            let pusher = Viewer { user: Some(HOLDER), sees_all: true, sees: &sees };
            self.registry.put_v1_tag((&self.v1, &image, &tag), &v1_id(top), "docker/1.5.0", push, pusher).await?;
            Ok(())
        })
        .await
    }

    async fn v1_image(&self, number: u64) -> Result<(), Failed> {
        let (id, layer) = (v1_id(number), v1_layer(number));
        let parent = if number.is_multiple_of(CHAIN) { String::new() } else { format!(r#""parent":"{}","#, v1_id(number - 1)) };
        let json = format!(
            r#"{{"id":"{id}",{parent}"created":"2014-11-05T14:14:17Z","docker_version":"1.5.0","architecture":"amd64","os":"linux"}}"#
        );
        let sees = |_: &ImageName| true;
        let pusher = Viewer { user: Some(HOLDER), sees_all: true, sees: &sees };
        let sum = sha256(&[json.as_bytes(), b"\n", &layer].concat());
        self.registry.put_v1_json(&self.v1, &id, json.into(), pusher, HOLDER).await?;
        self.registry.put_v1_checksum(&self.v1, &id, &[sum.to_string()], pusher.user).await?;
        Ok(self.registry.put_v1_layer(&self.v1, &id, body(layer), pusher, HOLDER).await?)
    }
}
