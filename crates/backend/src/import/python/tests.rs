use std::fs::File;
use std::os::unix::fs::symlink;

use super::super::fixture::{Fixture, fixture, gzip, id, json, layer};
use super::super::{Report, feed::Meter};
use super::*;

/// Writes what the original registry keeps of an image.
fn write_image(root: &Path, id: &str, parent: Option<&str>, layer: Option<&[u8]>) {
    let directory = root.join("images").join(id);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("json"), json(id, parent)).unwrap();
    std::fs::write(directory.join("ancestry"), "[]").unwrap();
    if let Some(layer) = layer {
        std::fs::write(directory.join("layer"), layer).unwrap();
    }
}

fn write_tag(root: &Path, name: &str, tag: &str, id: &str) {
    let directory = root.join("repositories").join(name);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(format!("tag_{tag}")), id).unwrap();
    let pushed = r#"{"last_update": 1400000000, "docker_version": "1.5.0", "docker_go_version": "go1.4", "arch": "amd64", "os": "linux", "kernel": null}"#;
    std::fs::write(directory.join(format!("tag{tag}_json")), pushed).unwrap();
    std::fs::write(directory.join("_index_images"), "[]").unwrap();
}

async fn run(fixture: &Fixture) -> (bool, Report) {
    let path = fixture.path("registry");
    fixture.run("old", async |import| super::import(import, &path).await).await.unwrap()
}

/// A storage with a gzip and a plain layer on a parent that both have, and with everything that can be wrong.
fn storage(fixture: &Fixture) -> PathBuf {
    let root = fixture.path("registry");
    write_image(&root, &id('1'), None, Some(&gzip(&layer(1, 300_000))));
    write_image(&root, &id('2'), Some(&id('1')), Some(&gzip(&layer(2, 1000))));
    write_image(&root, &id('3'), Some(&id('1')), Some(&layer(3, 100_000)));
    write_image(&root, &id('4'), None, Some(b"half of a la"));
    std::fs::write(root.join("images").join(id('4')).join("_inprogress"), "true").unwrap();
    write_image(&root, &id('5'), Some(&id('4')), Some(&layer(5, 10)));
    write_image(&root, &id('6'), Some(&id('1')), None);
    write_image(&root, &id('7'), Some(&id('8')), Some(&layer(7, 10)));
    write_image(&root, &id('8'), Some(&id('7')), Some(&layer(8, 10)));
    write_image(&root, &id('9'), None, Some(&layer(9, 10)));
    write_image(&root, &id('a'), None, Some(b""));
    for (name, tag, digit) in [
        ("library/ubuntu", "12.04", '2'),
        ("library/ubuntu", "latest", '3'),
        ("jfrog/app", "_x", '2'),
        ("jfrog/deep%2Fer", "1", 'a'),
        ("jfrog/broken", "in-progress", '5'),
        ("jfrog/broken", "no-layer", '6'),
        ("jfrog/broken", "cyclic", '7'),
        ("jfrog/broken", "missing", 'f'),
        ("jfrog/Upper", "1", '1'),
    ] {
        write_tag(&root, name, tag, &id(digit));
    }
    std::fs::write(root.join("repositories/jfrog/app/tag_bad"), "no id").unwrap();
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_what_they_lead_to_come_over_byte_for_byte() {
    let fixture = fixture("");
    storage(&fixture);
    let (went_well, report) = run(&fixture).await;
    assert!(!went_well);
    assert_eq!(report, Report { tags: 4, imported: 4, present: 0, problems: 6 });
    let ubuntu = fixture.pull_v1("library/ubuntu", "12.04").await.unwrap();
    let ids: Vec<String> = ubuntu.iter().map(|(id, ..)| id.to_string()).collect();
    assert_eq!(ids, [id('1'), id('2')]);
    assert_eq!(ubuntu[1].1, json(&id('2'), Some(&id('1'))));
    assert!(ubuntu[0].2 == gzip(&layer(1, 300_000)) && ubuntu[1].2 == gzip(&layer(2, 1000)));
    assert!(fixture.pull_v1("library/ubuntu", "latest").await.unwrap()[1].2 == layer(3, 100_000));
    assert_eq!(fixture.pull_v1("jfrog/deep/er", "1").await.unwrap()[0].2, b"");
    assert_eq!(fixture.pull_v1("jfrog/app", "_x").await.unwrap().len(), 2);
    for tag in ["in-progress", "no-layer", "cyclic", "missing"] {
        assert_eq!(fixture.pull_v1("jfrog/broken", tag).await, None, "{tag}");
    }
    // 1, 2 and 3, and the layer of nothing.
    assert_eq!(fixture.check().await.0, 4);
    let (_stores, registry) = fixture.open();
    let row = registry.v1_tag(&"old".parse().unwrap(), &"jfrog/app".parse().unwrap(), &"_x".parse().unwrap()).await.unwrap();
    assert_eq!(row.user_agent, "docker/1.5.0 go/go1.4 os/linux arch/amd64");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_read_again() {
    let fixture = fixture("");
    let root = storage(&fixture);
    // An import that was killed: one image is complete, one has its JSON and no layer.
    {
        let path = fixture.path("registry");
        let chains_of = |digit: char| id(digit).parse::<ImageId>().unwrap();
        fixture
            .run("old", async |import| {
                let mut chains = Chains::new(Storage::open(&path).unwrap());
                chains.bring(import, &chains_of('1')).await.map_err(|trouble| anyhow::anyhow!("{trouble:?}"))?;
                let json = json(&id('2'), Some(&id('1'))).into();
                Ok(import.registry.put_v1_json(&import.repository.key, &chains_of('2'), json, super::super::VIEWER, "import").await?)
            })
            .await
            .unwrap();
    }
    // Touched, it would be noticed; only its length is looked at.
    let first = root.join("images").join(id('1')).join("layer");
    let size = first.metadata().unwrap().len();
    std::fs::write(&first, vec![0; usize::try_from(size).unwrap()]).unwrap();
    assert_eq!(run(&fixture).await.1, Report { tags: 4, imported: 3, present: 1, problems: 6 });
    assert_eq!(run(&fixture).await.1, Report { tags: 4, imported: 0, present: 4, problems: 6 });
    assert!(fixture.pull_v1("library/ubuntu", "12.04").await.unwrap()[0].2 == gzip(&layer(1, 300_000)));
    // Another length, or another JSON, is another image: that is said, and the one that is there stays.
    std::fs::write(&first, b"other").unwrap();
    assert_eq!(run(&fixture).await.1, Report { tags: 1, imported: 0, present: 1, problems: 9 });
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_tags_are_kept_where_a_limit_is_set() {
    let fixture = fixture("");
    let root = fixture.path("registry");
    // Older ones first in the order of names, so that the same age for two would keep the wrong one.
    let tags: Vec<_> = (0..20_u8).map(|number| format!("tag-{number:02}")).collect();
    write_image(&root, &id('1'), None, Some(&layer(1, 10)));
    for (number, tag) in tags.iter().enumerate() {
        write_tag(&root, "jfrog/app", tag, &id('1'));
        let file = File::options().write(true).open(root.join("repositories/jfrog/app").join(format!("tag_{tag}"))).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(1) * u32::try_from(number).unwrap()).unwrap();
    }
    let path = fixture.path("registry");
    fixture.run("old", async |_| Ok(())).await.unwrap();
    {
        let (_stores, registry) = fixture.open();
        let limited = |settings| berth_registry::Repository { max_unique_tags: 2, ..settings };
        registry.update_repository(&"old".parse().unwrap(), limited).await.unwrap();
    }
    fixture.run("old", async |import| super::import(import, &path).await).await.unwrap();
    for (number, tag) in tags.iter().enumerate() {
        assert_eq!(fixture.pull_v1("jfrog/app", tag).await.is_some(), number >= tags.len() - 2, "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_storage_or_goes_nowhere_is_refused_at_once() {
    let fixture = fixture("");
    let empty = fixture.path("");
    let refused = fixture.run("old", async |import| super::import(import, &empty).await).await.unwrap_err();
    assert!(refused.to_string().contains("no storage of a V1 registry"), "{refused}");
    let root = storage(&fixture);
    let refused = fixture.run("new", async |import| super::import(import, &root).await).await.unwrap_err();
    assert!(refused.to_string().contains("speaks V2"), "{refused}");
    assert!(fixture.run("nowhere", async |import| super::import(import, &root).await).await.is_err());
    let (_stores, _registry) = fixture.open();
    let refused = fixture.run("old", async |import| super::import(import, &root).await).await.unwrap_err();
    assert!(refused.to_string().contains("stop the backend"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leads_out_of_the_storage_brings_nothing_in() {
    let fixture = fixture("");
    let root = fixture.path("registry");
    let secret = fixture.path("shadow");
    std::fs::write(&secret, gzip(&layer(9, 1000))).unwrap();
    for (digit, tag) in [('1', "good"), ('2', "layer"), ('3', "directory"), ('5', "within")] {
        write_image(&root, &id(digit), None, Some(&gzip(&layer(digit as u8, 100))));
        write_tag(&root, "jfrog/app", tag, &id(digit));
    }
    let images = root.join("images");
    let replace = |path: &Path, target: &Path| {
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
        symlink(target, path).unwrap();
    };
    replace(&images.join(id('2')).join("layer"), &secret);
    // An image whose directory is elsewhere, and tags that are.
    let elsewhere = fixture.path("elsewhere");
    write_image(&elsewhere, &id('3'), None, Some(&gzip(&layer(3, 100))));
    write_tag(&elsewhere, "evil/app", "1", &id('1'));
    replace(&images.join(id('3')), &elsewhere.join("images").join(id('3')));
    symlink(elsewhere.join("repositories/evil"), root.join("repositories/evil")).unwrap();
    symlink(elsewhere.join("repositories/evil/app/tag_1"), root.join("repositories/jfrog/app/tag_stolen")).unwrap();
    // What stays within may be linked.
    replace(&images.join(id('5')).join("layer"), Path::new(&format!("../{}/layer", id('1'))));
    let (went_well, report) = run(&fixture).await;
    assert!(!went_well);
    assert_eq!(report, Report { tags: 2, imported: 2, present: 0, problems: 4 });
    for (tag, found) in [("good", true), ("within", true), ("layer", false), ("directory", false), ("stolen", false)] {
        assert_eq!(fixture.pull_v1("jfrog/app", tag).await.is_some(), found, "{tag}");
    }
    assert_eq!(fixture.pull_v1("evil/app", "1").await, None);
}

#[test]
fn checksums_are_read_as_every_version_wrote_them() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::open(directory.path()).unwrap();
    let image: ImageId = id('1').parse().unwrap();
    let place = directory.path().join("images").join(id('1'));
    std::fs::create_dir_all(&place).unwrap();
    for (text, expected) in [
        (r#"["sha256:a", "tarsum+sha256:b"]"#, vec!["sha256:a", "tarsum+sha256:b"]),
        (r#""sha256:a""#, vec!["sha256:a"]),
        ("sha256:a\n", vec!["sha256:a"]),
        ("[]", vec![]),
        ("", vec![]),
    ] {
        std::fs::write(place.join("_checksum"), text).unwrap();
        assert_eq!(storage.claims(&image), expected, "{text}");
    }
    assert!(storage.layer(&image, &Meter::default()).is_err());
}

/// A client that has sent everything may go before it claims a checksum; the original keeps its mark for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_whole_is_imported_though_its_push_never_ended() {
    use super::super::fixture::sha256;
    use super::super::unpack::tests::{bzip2, xz};
    let fixture = fixture("");
    let root = fixture.path("registry");
    let whole = layer(1, 100_000);
    let payload = |digit: char, layer: &[u8]| sha256(&[json(&id(digit), None).as_bytes(), b"\n", layer].concat());
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let images = [
        ('1', gzip(&whole), None, true),
        ('2', whole.clone(), Some(payload('2', &whole)), true),
        ('3', xz(&whole), Some("tarsum+sha256:0".to_owned()), true),
        ('4', bzip2(&whole), None, true),
        ('5', half(gzip(&whole)), None, false),
        // The original sums up what has come, however little that is.
        ('6', half(whole.clone()), Some(payload('6', &half(whole.clone()))), false),
        ('7', whole.clone(), Some(payload('7', b"another")), false),
        ('8', Vec::new(), None, false),
        ('9', whole[..whole.len() - 1024].to_vec(), None, false),
        ('a', b"no tar at all".to_vec(), None, false),
    ];
    for (digit, layer, checksum, _) in &images {
        write_image(&root, &id(*digit), None, Some(layer));
        let directory = root.join("images").join(id(*digit));
        std::fs::write(directory.join("_inprogress"), "true").unwrap();
        if let Some(checksum) = checksum {
            std::fs::write(directory.join("_checksum"), format!("[\"{checksum}\"]")).unwrap();
        }
        write_tag(&root, "jfrog/app", &format!("t{digit}"), &id(*digit));
    }
    let (_, report) = run(&fixture).await;
    assert_eq!(report, Report { tags: 4, imported: 4, present: 0, problems: 6 });
    for (digit, layer, _, is_whole) in &images {
        let pulled = fixture.pull_v1("jfrog/app", &format!("t{digit}")).await;
        assert_eq!(pulled.map(|chain| chain[0].2 == *layer), is_whole.then_some(true), "{digit}");
    }
    fixture.check().await;
}

/// As docker-registry 0.6 to 0.8 and 0.9 write `jfrog/deep/er/still` on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_read_as_often_as_they_were_escaped() {
    let fixture = fixture("");
    let root = fixture.path("registry");
    write_image(&root, &id('1'), None, Some(&gzip(&layer(1, 100))));
    write_tag(&root, "jfrog/deep%2Fer%2Fstill", "old", &id('1'));
    write_tag(&root, "jfrog/deep%252Fer%252Fstill", "new", &id('1'));
    write_tag(&root, "jfrog/app%2Ejs", "1", &id('1'));
    for wrong in ["jfrog/a%25252Fb", "jfrog/..%252F..%252Fetc", "jfrog/a%2", "jfrog/a%zz", "jfrog/a+b", "jfrog/a%00"] {
        write_tag(&root, wrong, "1", &id('1'));
    }
    let (_, report) = run(&fixture).await;
    assert_eq!(report, Report { tags: 3, imported: 1, present: 0, problems: 6 });
    for (name, tag) in [("jfrog/deep/er/still", "old"), ("jfrog/deep/er/still", "new"), ("jfrog/app.js", "1")] {
        assert!(fixture.pull_v1(name, tag).await.is_some(), "{name}:{tag}");
    }
}

#[test]
fn escapes_are_undone_twice_at_most() {
    for (escaped, plain) in [
        ("app", "app"),
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("a%252Fb", "a/b"),
        ("a%25252Fb", "a%2Fb"),
        ("a%b", "a%b"),
        ("a%2", "a%2"),
        ("%", "%"),
        ("%+5", "%+5"),
        ("%ff", "%ff"),
    ] {
        assert_eq!(unescaped(escaped), plain, "{escaped}");
    }
}
