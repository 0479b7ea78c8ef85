//! What must not cost more the more there is: searching by property, listing tags, deleting a tag, browsing.
//!
//! `cargo build --workspace --examples && target/debug/examples/costs [properties]`; with a million properties most of the time
//! goes into putting in what is then looked at. Every number is the median of many tries, on the disk of `TMPDIR`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use berth_names::{ApiVersion, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_registry::browse::Node;
use berth_registry::properties::PropertyChange;
use berth_registry::search::{Eyes, Term, Wildcard};
use berth_registry::{CleanupTimes, Clock, ExistingTag, Push, Registry, Repository};
use berth_storage::keys::Item;
use berth_storage::rocksdb;
use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest as _, Sha256};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Tags of the image that is compared with one that has few.
const MANY_TAGS: usize = 100_000;
const FEW_TAGS: usize = 100;

/// Requests that are under way at the same time while the store is filled.
const TOGETHER: usize = 256;

const TRIES: usize = 31;

struct Costs {
    registry: Registry,
    key: RepositoryKey,
    repository: Repository,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let properties = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let stores = rocksdb::open(directory.path())?;
    let key: RepositoryKey = "docker-local".parse()?;
    let repository = Repository::new(key.clone(), ApiVersion::V2);
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
    registry.create_repository(&repository).await?;
    let costs = Costs { registry, key, repository };
    costs.tags().await?;
    costs.searches(properties).await
}

/// The median of what many tries take.
async fn median<T>(mut work: impl AsyncFnMut() -> Result<T, Failed>) -> Result<Duration, Failed> {
    let mut taken = Vec::with_capacity(TRIES);
    for _ in 0..TRIES {
        let begun = Instant::now();
        work().await?;
        taken.push(begun.elapsed());
    }
    taken.sort_unstable();
    Ok(taken[TRIES / 2])
}

fn say(what: &str, taken: Duration) {
    println!("{what:<76} {:>9.3} ms", taken.as_secs_f64() * 1000.0);
}

fn tag(number: usize) -> Result<Tag, Failed> {
    Ok(format!("t{number:07}").parse()?)
}

impl Costs {
    /// Pushes one manifest without anything in it under many tags of an image.
    async fn push_tags(&self, image: &ImageName, tags: std::ops::Range<usize>) -> Result<(), Failed> {
        let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let push = Push { existing: ExistingTag::Moves, holder: "costs" };
        let one = async |number: usize| -> Result<(), Failed> {
            let (reference, kind) = (Reference::Tag(tag(number)?), Some("application/vnd.oci.image.index.v1+json"));
            self.registry.put_manifest(&self.key, image, &reference, kind, manifest.into(), push).await?;
            Ok(())
        };
        stream::iter(tags).map(one).buffer_unordered(TOGETHER).try_collect().await
    }

    async fn tags(&self) -> Result<(), Failed> {
        let (few, many): (ImageName, ImageName) = ("few".parse()?, "many".parse()?);
        let begun = Instant::now();
        self.push_tags(&few, 0..FEW_TAGS).await?;
        self.push_tags(&many, 0..MANY_TAGS).await?;
        println!("{} tags were pushed in {:.1} s", FEW_TAGS + MANY_TAGS, begun.elapsed().as_secs_f64());
        for (image, number) in [(&few, FEW_TAGS), (&many, MANY_TAGS)] {
            let last = tag(number / 2 - 1)?;
            let first = median(async || Ok(self.registry.tags(&self.key, image, None, Some(100)).await?)).await?;
            say(&format!("100 tags of {number}, from the beginning"), first);
            let middle = median(async || Ok(self.registry.tags(&self.key, image, Some(last.as_str()), Some(50)).await?)).await?;
            say(&format!("50 tags of {number}, from the middle"), middle);
        }
        for (image, number) in [(&few, 10), (&many, MANY_TAGS)] {
            if number == 10 {
                for number in number + TRIES..FEW_TAGS {
                    self.registry.delete_manifest(&self.key, image, &Reference::Tag(tag(number)?)).await?;
                }
            }
            let mut next = 0;
            let taken = median(async || {
                next += 1;
                Ok(self.registry.delete_manifest(&self.key, image, &Reference::Tag(tag(next - 1)?)).await?)
            })
            .await?;
            say(&format!("delete a tag of about {number}, synced to the disk"), taken);
        }
        let (sees, sees_all) = (|_: &RepositoryKey, _: &ImageName| true, |_: &RepositoryKey| true);
        let eyes = Eyes { sees: &sees, sees_all: &sees_all };
        let taken = median(async || match self.registry.browse(&self.repository, "", eyes).await? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err("the root is a folder".into()),
        })
        .await?;
        say("the root folder above them", taken);
        let taken = median(async || Ok(self.registry.browse(&self.repository, "many/t0050000", eyes).await.map(drop)?)).await?;
        say(&format!("the folder of one of {MANY_TAGS} tags"), taken);
        Ok(())
    }

    /// Says ten things about each of many tags, among them one that is rare and one that is about all.
    async fn searches(&self, properties: usize) -> Result<(), Failed> {
        let image: ImageName = "many".parse()?;
        let things = (properties / 10).min(MANY_TAGS - TRIES);
        let begun = Instant::now();
        let one = async |number: usize| -> Result<(), Failed> {
            let mut said = BTreeMap::from([
                ("build".to_owned(), BTreeSet::from([number.to_string()])),
                ("stage".to_owned(), BTreeSet::from([["dev", "test", "prod"][number % 3].to_owned()])),
                ("digest".to_owned(), BTreeSet::from([Digest::sha256(Sha256::digest(number.to_be_bytes()).into()).to_string()])),
            ]);
            said.extend((0..7).map(|n| (format!("team{n}"), BTreeSet::from([format!("value-{}", number % 1000)]))));
            let item = Item::Tag(image.clone(), tag(number + TRIES)?);
            self.registry.change_properties(&self.key, &item, &PropertyChange::Set(said), false).await?;
            Ok(())
        };
        stream::iter(0..things).map(one).buffer_unordered(TOGETHER).try_collect::<()>().await?;
        let own = (MANY_TAGS - TRIES) * 6;
        println!("{} properties were set in {:.1} s; {own} more are Berth's own", things * 10, begun.elapsed().as_secs_f64());
        let everywhere = BTreeSet::from([self.key.clone()]);
        let (sees_some, sees_all) = (|_: &RepositoryKey, _: &ImageName| true, |_: &RepositoryKey| false);
        let eyes = Eyes { sees: &sees_some, sees_all: &sees_all };
        for (what, terms) in [
            ("one of them, by a value that only it has", vec![("build", "7")]),
            ("100 of a third of them, by a value that those have", vec![("stage", "prod")]),
            ("100 of them by a wildcard at the end", vec![("build", "12*")]),
            ("by a rare value and a frequent one (33 fit)", vec![("team3", "value-7"), ("stage", "prod")]),
            ("by two values of which neither is rare, 100 of a third", vec![("stage", "dev"), ("docker.repoName", "many")]),
            ("by a wildcard at the beginning: a part of all values is looked at", vec![("digest", "*ffff")]),
        ] {
            let terms: Vec<Term> =
                terms.into_iter().map(|(name, value)| Term { name: name.to_owned(), values: vec![Wildcard::new(value)] }).collect();
            let mut found = 0;
            let taken = median(async || {
                let page = self.registry.find(&terms, &everywhere, eyes, 100, None).await?;
                found = page.found.len();
                Ok(page)
            })
            .await?;
            say(&format!("{what}: {found} found"), taken);
        }
        Ok(())
    }
}
