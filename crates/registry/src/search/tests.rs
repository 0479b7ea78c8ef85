//! Searches against a model that looks at everything there is.

use std::collections::BTreeMap;

use berth_names::{ApiVersion, Reference, Tag};
use berth_storage::rocksdb::{self, Stores};
use proptest::prelude::*;

use super::*;
use crate::properties::PropertyChange;
use crate::{CleanupTimes, Clock, ExistingTag, Push, Repository};

const REPOSITORIES: [&str; 3] = ["dev", "dev-2", "prod"];
const IMAGES: [&str; 3] = ["app", "secret/app", "team/app"];
const NAMES: [&str; 3] = ["qa", "stage", "team"];

/// What is said about the tags of the model, each in a repository and an image.
type Model = BTreeMap<(usize, usize, u8), BTreeMap<String, BTreeSet<String>>>;

fn model() -> impl Strategy<Value = Model> {
    let said = prop::collection::btree_map(prop::sample::select(&NAMES[..]), prop::collection::btree_set("[ab]{0,2}", 1..4), 0..4);
    let said = said.prop_map(|said| said.into_iter().map(|(name, values)| (name.to_owned(), values)).collect());
    prop::collection::btree_map((0..REPOSITORIES.len(), 0..IMAGES.len(), 0..3u8), said, 0..12)
}

fn terms() -> impl Strategy<Value = Vec<Term>> {
    let own =
        ("docker.repoName".to_owned(), prop::sample::select(vec!["*app", "app", "team/app", "secret/*"]).prop_map(str::to_owned).boxed());
    let users = prop::sample::select(&NAMES[..]).prop_map(|name| (name.to_owned(), "[ab*?]{0,2}".boxed()));
    let term = prop_oneof![4 => users, 1 => Just(own)].prop_flat_map(|(name, values)| {
        prop::collection::vec(values.prop_map(|value| Wildcard::new(&value)), 1..4)
            .prop_map(move |values| Term { name: name.clone(), values })
    });
    prop::collection::vec(term, 1..4)
}

async fn filled(model: &Model) -> (tempfile::TempDir, Stores, Registry) {
    let directory = tempfile::tempdir().unwrap();
    let stores = rocksdb::open(directory.path()).unwrap();
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
    for key in REPOSITORIES {
        registry.create_repository(&Repository::new(key.parse().unwrap(), ApiVersion::V2)).await.unwrap();
    }
    for (place, said) in model {
        let Found { repository, item } = found(place);
        let Item::Tag(image, tag) = &item else { unreachable!() };
        let kind = "application/vnd.oci.image.index.v1+json";
        let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[]}}"#);
        let push = Push { existing: ExistingTag::Moves, holder: "test" };
        registry.put_manifest(&repository, image, &Reference::Tag(tag.clone()), Some(kind), manifest.into(), push).await.unwrap();
        if !said.is_empty() {
            registry.change_properties(&repository, &item, &PropertyChange::Set(said.clone()), false).await.unwrap();
        }
    }
    (directory, stores, registry)
}

fn found(&(repository, image, tag): &(usize, usize, u8)) -> Found {
    let tag: Tag = format!("t{tag}").parse().unwrap();
    Found { repository: REPOSITORIES[repository].parse().unwrap(), item: Item::Tag(IMAGES[image].parse().unwrap(), tag) }
}

/// Every page of a search, each of which may cost only so much.
async fn all_pages(
    registry: &Registry,
    terms: &[Term],
    repositories: &BTreeSet<RepositoryKey>,
    eyes: Eyes<'_>,
    budget: usize,
) -> Vec<Found> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let page = registry.find_within(budget, terms, repositories, eyes, 2, from.as_deref()).await.unwrap();
        assert!(page.found.len() <= 2);
        all.extend(page.found);
        match page.next {
            Some(next) => from = Some(next),
            None => return all,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_page_together_is_what_fits_and_is_seen_each_once(
        model in model(), searches in prop::collection::vec((terms(), 0..8usize, any::<bool>(), 1..60usize), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_directory, _stores, registry) = filled(&model).await;
            for (terms, asked, sees_all, budget) in &searches {
                // Each bit is a repository that is asked for.
                let is_asked = |repository: usize| asked & (1 << repository) != 0;
                let repositories = (0..REPOSITORIES.len()).filter(|one| is_asked(*one)).map(|one| REPOSITORIES[one].parse().unwrap()).collect();
                let sees = |_: &RepositoryKey, image: &ImageName| !image.as_str().starts_with("secret/");
                let sees_everything = |_: &RepositoryKey| *sees_all;
                let eyes = Eyes { sees: &sees, sees_all: &sees_everything };
                let mut expected: Vec<Found> = Vec::new();
                for (place, said) in &model {
                    let mut said = said.clone();
                    said.insert("docker.repoName".to_owned(), BTreeSet::from([IMAGES[place.1].to_owned()]));
                    let fits = terms.iter().all(|term| has(&said, &term.name, &term.values));
                    if fits && is_asked(place.0) && (*sees_all || place.1 != 1) {
                        expected.push(found(place));
                    }
                }
                let mut all = all_pages(&registry, terms, &repositories, eyes, *budget).await;
                all.sort_by_key(|one| format!("{one:?}"));
                expected.sort_by_key(|one| format!("{one:?}"));
                assert_eq!(all, expected, "{terms:?}");
            }
        });
    }
}

#[tokio::test]
async fn a_place_in_a_search_is_good_only_if_it_was_given_out() {
    let model = Model::from([((0, 0, 0), BTreeMap::new()), ((0, 0, 1), BTreeMap::new())]);
    let (_directory, _stores, registry) = filled(&model).await;
    let eyes = Eyes { sees: &|_, _| true, sees_all: &|_| true };
    let repositories = BTreeSet::from(["dev".parse().unwrap()]);
    let terms = [Term { name: "docker.repoName".to_owned(), values: vec![Wildcard::new("app")] }];
    let next = registry.find(&terms, &repositories, eyes, 1, None).await.unwrap().next.unwrap();
    assert!(registry.find(&terms, &repositories, eyes, 1, Some(&next)).await.is_ok());
    let changed = format!("{}{}", if next.starts_with('A') { 'B' } else { 'A' }, &next[1..]);
    for bad in ["", "AAAA", "!", changed.as_str(), &next[..next.len() - 1], &"A".repeat(10_000)] {
        let refused = registry.find(&terms, &repositories, eyes, 1, Some(bad)).await;
        assert!(matches!(refused, Err(Error::SearchInvalid(_))), "{bad}");
    }
}
