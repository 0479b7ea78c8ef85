//! What an operator does with a registry after the push: every line of the document that users of Artifactory's V1 hold
//! in their hands, migration with the clients of both times, and everything at once with the collector at work.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use e2e::engine::Engine;
use e2e::image::Layer;
use e2e::registry::PASSWORD;
use e2e::v1::{Docker, Version, chain};
use e2e::{Body, Client, Random, Registry, sha256};
use serde_json::{Value, json};

/// How long cleanup may take: it is a matter of seconds.
const CLEANUP_MAX: Duration = Duration::from_secs(20);

fn layers() -> Vec<Layer> {
    vec![Layer::of_busybox(), Layer::new(Vec::new()), Layer::of_oddities("pax")]
}

/// Waits until so many bytes are stored, and no others.
fn wait_for_bytes(registry: &Registry, expected: u64) {
    let begun = Instant::now();
    while registry.data_bytes() != expected {
        assert!(begun.elapsed() < CLEANUP_MAX, "{} bytes are stored, not {expected}", registry.data_bytes());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The JSON behind the head that `curl -i` prints.
fn json_of(printed: &str) -> Value {
    let body = printed.rsplit_once("\r\n\r\n").map_or(printed, |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// The lines are the document's, word for word; only hosts and the password are ours.
#[test]
fn the_lines_of_the_document_do_what_it_says() {
    let mut registry = Registry::start();
    let old = Docker::new(Version::V1_5, registry.client(registry.v1), registry.v1);
    let ubuntu = chain(Version::V1_5, &layers(), "ubuntu");
    for tag in ["12.04", "14.04"] {
        old.push("jfrog/ubuntu", tag, &ubuntu).unwrap();
    }
    let (user, console, artprod) =
        (format!("-uadmin:{PASSWORD}"), format!("https://localhost:{}", registry.console), format!("https://localhost:{}", registry.v1));
    let migrated = registry.curl(&[
        "-i",
        &user,
        "-X",
        "POST",
        &format!("{console}/artifactory/api/docker/docker-local/v1/migrate"),
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"targetRepo":"docker-local2","dockerRepository":"jfrog/ubuntu"}"#,
    ]);
    assert!(migrated.starts_with("HTTP/1.1 200"), "{migrated}");
    let report = json_of(&migrated);
    assert_eq!((&report["tags"], &report["bytesRead"]), (&json!({ "migrated": 2, "unchanged": 0, "failed": 0 }), &json!(0)));
    // The same data: what both repositories have is stored once.
    let stored: u64 = ubuntu.iter().map(|image| image.layer.packed.len() as u64).filter(|bytes| *bytes > 64 << 10).sum();
    assert_eq!(registry.data_bytes(), stored);

    // An engine of today pulls and runs what docker 1.5 pushed.
    let engine = Engine::start(&registry.ca(), &[registry.second]);
    let password = registry.path("password");
    let host = format!("localhost:{}", registry.second);
    engine.must_with_input(&["login", "-u", "admin", "--password-stdin", &host], &password);
    let image = format!("{host}/jfrog/ubuntu:12.04");
    engine.must(&["pull", &image]);
    let said = engine.must(&["run", "--rm", "--network=none", &image, "/bin/busybox", "echo", "migrated"]);
    assert_eq!(said.trim(), "migrated");
    let digest = engine.must(&["inspect", "--format", "{{index .RepoDigests 0}}", &image]);
    let receipt = report["receipts"].as_array().unwrap().iter().find(|receipt| receipt["tag"] == "12.04").unwrap();
    assert!(digest.trim().ends_with(receipt["manifest"].as_str().unwrap()), "{digest} {receipt}");

    // What the document says of browsing, properties and searching.
    let ask = |path: &str| json_of(&registry.curl(&[&user, &format!("{console}/artifactory/{path}")]));
    let top = &ubuntu.last().unwrap().id;
    let folder = ask(&format!("api/storage/docker-local/.images/{}/{top}", &top[..2]));
    let children: Vec<&str> = folder["children"].as_array().unwrap().iter().map(|child| child["uri"].as_str().unwrap()).collect();
    assert_eq!(children, ["/_checksum", "/ancestry", "/json", "/layer"]);
    let said = &ask(&format!("api/storage/docker-local/.images/{}/{top}?properties", &top[..2]))["properties"];
    let size = ubuntu.last().unwrap().layer.packed.len().to_string();
    assert_eq!((&said["docker.imageId"][0], &said["docker.size"][0]), (&json!(top), &json!(size)));
    let said = &ask("api/storage/docker-local/repositories/jfrog/ubuntu/12.04/tag.json?properties")["properties"];
    assert_eq!((&said["docker.tag.name"][0], &said["docker.tag.content"][0]), (&json!("12.04"), &json!(top)));
    let found = ask("api/search/prop?docker.repoName=jfrog/ubuntu&repos=docker-local");
    let uri = format!("{console}/artifactory/api/storage/docker-local/repositories/jfrog/ubuntu");
    assert_eq!(found, json!({ "results": [{ "uri": uri }] }));
    let tree = registry.curl(&[
        &user,
        "-H",
        "Accept: text/plain",
        &format!("{console}/artifactory/api/docker/docker-local/v1/ancestry?image=jfrog/ubuntu"),
    ]);
    assert!(tree.contains(&top[..12]) && tree.contains("jfrog/ubuntu:12.04, jfrog/ubuntu:14.04"), "{tree}");
    let info = ask("api/docker/docker-local/v1/info?image=jfrog/ubuntu&tag=12.04");
    assert_eq!(
        (&info["id"], &info["dockerVersion"], info["layers"].as_array().unwrap().len()),
        (&json!(top), &json!("1.5.0"), ubuntu.len())
    );

    // Old clients go on pulling, until the tag is removed.
    assert_eq!(old.pull("jfrog/ubuntu", "12.04").unwrap().len(), ubuntu.len());
    let removed = registry.curl(&[&user, "-X", "DELETE", &format!("{artprod}/v1/repositories/jfrog/ubuntu/tags/12.04")]);
    assert_eq!(removed, "true");
    old.pull("jfrog/ubuntu", "12.04").unwrap_err();
    assert_eq!(old.pull("jfrog/ubuntu", "14.04").unwrap().len(), ubuntu.len());
    let removed = registry.curl(&[&user, "-X", "DELETE", &format!("{artprod}/v1/repositories/jfrog/ubuntu")]);
    assert_eq!(removed, "true");
    old.pull("jfrog/ubuntu", "14.04").unwrap_err();
    // The layers stay for whom they were migrated.
    engine.must(&["rmi", &image]);
    engine.must(&["pull", &image]);
    assert_eq!(registry.data_bytes(), stored);

    // What was migrated can be checked long after its source is gone.
    registry.stop();
    let verified = registry.run_stopped(&["verify-migration"]);
    assert!(verified.starts_with("2 tags are what was migrated, 2 layers unpacked and hashed; 0 tags were pushed to since"), "{verified}");
    assert!(registry.check().contains("no problems found"));
    registry.restart();

    // Without the last that needs them the layers go, and the report says what the file system says.
    let before = registry.data_bytes();
    let gone = registry.curl(&[&user, "-X", "DELETE", &format!("{console}/artifactory/api/repositories/docker-local2")]);
    assert!(gone.contains("docker-local2"), "{gone}");
    wait_for_bytes(&registry, 0);
    let freed = json_of(&registry.curl(&[&user, &format!("{console}/artifactory/api/system/storage/gc")]));
    assert_eq!(freed["sinceStart"]["fileBytes"], json!(before));
}

#[test]
fn an_old_client_pulls_over_v1_what_an_engine_of_today_pushed() {
    let registry = Registry::start();
    let (console, directory) = (registry.client(registry.console), tempfile::tempdir().unwrap());
    let settings = br#"{"serveV1":true}"#;
    let path = "/artifactory/api/repositories/docker-local2";
    console.send("POST", path, &[("Content-Type", "application/json")], Body::Bytes(settings)).expect(200).unwrap();
    let engine = Engine::start(&registry.ca(), &[registry.second]);
    let host = format!("localhost:{}", registry.second);
    engine.must_with_input(&["login", "-u", "admin", "--password-stdin", &host], &registry.path("password"));
    std::fs::write(directory.path().join("root.tar"), Layer::of_busybox().tar).unwrap();
    std::fs::write(directory.path().join("more"), "more").unwrap();
    let base = format!("{host}/team/base:1");
    engine.must(&["import", directory.path().join("root.tar").to_str().unwrap(), &base]);
    let dockerfile = format!("FROM {base}\nCOPY more /more\nENV GREETING=hello\nCMD [\"/bin/busybox\", \"cat\", \"/more\"]\n");
    std::fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    let image = format!("{host}/team/hello:1");
    engine.must(&["build", "--tag", &image, directory.path().to_str().unwrap()]);
    engine.must(&["push", &base]);
    engine.must(&["push", &image]);

    let old = Docker::new(Version::V1_5, registry.client(registry.second), registry.second);
    let pulled = old.pull_over_v1("team/hello", "1").unwrap();
    let (_, json, _) = pulled.last().unwrap();
    let ids = |pulled: &[(String, String, Vec<u8>)]| pulled.iter().map(|(id, _, _)| id.clone()).collect::<Vec<_>>();
    let base = old.pull_over_v1("team/base", "1").unwrap();
    assert_eq!(base.last().unwrap().2, pulled[0].2, "the layer is the same, and what is said of it is not");
    assert_eq!(ids(&old.pull_over_v1("team/hello", "1").unwrap()), ids(&pulled));
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["config"]["Cmd"], json!(["/bin/busybox", "cat", "/more"]));
    assert!(json["config"]["Env"].as_array().unwrap().contains(&json!("GREETING=hello")));
    let mut files = Vec::new();
    for (_, _, layer) in &pulled {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.as_slice()));
        files.extend(archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()));
    }
    assert!(
        pulled.len() == 2 && files.iter().any(|file| file.ends_with("busybox")) && files.iter().any(|file| file == "more"),
        "{files:?}"
    );
    let found = registry.client(registry.second).get("/v1/search?q=hello").json();
    assert_eq!(found["results"][0]["name"], "team/hello");
}

#[test]
fn a_migration_that_is_killed_goes_on_by_itself_and_ends_as_if_nothing_had_happened() {
    let mut registry = Registry::start();
    let docker = Docker::new(Version::V1_9, registry.client(registry.v1), registry.v1);
    let mut random = Random(7);
    let images = 12;
    for number in 0..images {
        // Not packed, so that there is work to do.
        let layers: Vec<Layer> = (0..2).map(|_| Layer::of_file(&random.bytes(3_000_000)).unpacked()).collect();
        docker.push(&format!("team/app{number}"), "1", &chain(Version::V1_9, &layers, &number.to_string())).unwrap();
    }
    let console = registry.client(registry.console);
    let body = json!({ "targetRepo": "docker-local2" }).to_string();
    let path = "/artifactory/api/docker/docker-local/v1/migrate?async=1";
    let begun = console.send("POST", path, &[("Content-Type", "application/json")], Body::Bytes(body.as_bytes()));
    assert_eq!(begun.status, 202);
    let job = format!("/artifactory/api/docker/jobs/{}", begun.json()["id"].as_str().unwrap());
    let migrated = |console: &Client| {
        let job = console.get(&job).json();
        (job["state"].as_str().unwrap().to_owned(), job["tags"]["migrated"].as_u64().unwrap() + job["tags"]["unchanged"].as_u64().unwrap())
    };
    while migrated(&console).1 < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    registry.kill_backend();
    registry.start_backend();
    let begun = Instant::now();
    loop {
        let (state, tags) = migrated(&registry.client(registry.console));
        if state == "finished" {
            assert_eq!(tags, images);
            break;
        }
        assert!(state == "running" && begun.elapsed() < Duration::from_secs(120), "{state} after {tags} tags");
        std::thread::sleep(Duration::from_millis(50));
    }
    let second = registry.client(registry.second);
    for number in 0..images {
        assert_eq!(second.get(&format!("/v2/team/app{number}/manifests/1")).status, 200);
    }
    registry.stop();
    assert!(
        registry.run_stopped(&["verify-migration"]).starts_with(&format!("{images} tags are what was migrated, {} layers", images * 2))
    );
    assert!(registry.check().contains("no problems found"));
}

/// `BERTH_MIGRATION_MIB=2048` makes the chain as long as one is that people complain of.
#[test]
fn a_chain_that_has_to_be_read_through_is_migrated_at_the_speed_of_unpacking_it_and_in_little_memory() {
    let registry = Registry::start();
    let docker = Docker::new(Version::V1_9, registry.client(registry.v1), registry.v1);
    let (mut random, layers) = (Random(3), 20);
    let layer_bytes = usize::try_from(setting("BERTH_MIGRATION_MIB", 80) << 20).unwrap() / layers;
    // Half of it can be packed, as files can.
    let content = |random: &mut Random| {
        let noise = random.bytes(layer_bytes / 2);
        noise.chunks(512).flat_map(|chunk| [chunk, chunk].concat()).collect::<Vec<u8>>()
    };
    let layers: Vec<Layer> = (0..layers).map(|_| Layer::of_sparse_file(&content(&mut random))).collect();
    docker.push("team/large", "1", &chain(Version::V1_9, &layers, "large")).unwrap();
    let begun = Instant::now();
    for layer in &layers {
        let (mut unpacked, mut hash, mut piece) =
            (flate2::read::GzDecoder::new(layer.packed.as_slice()), sha2::Sha256::default(), vec![0; 128 << 10]);
        loop {
            match unpacked.read(&mut piece).unwrap() {
                0 => break,
                length => sha2::Digest::update(&mut hash, &piece[..length]),
            }
        }
    }
    let unpacking = begun.elapsed();
    let before = registry.reset_peak_memory();
    let body = json!({ "targetRepo": "docker-local2", "dockerRepository": "team/large", "tag": "1" }).to_string();
    let (begun, path) = (Instant::now(), "/artifactory/api/docker/docker-local/v1/migrate");
    let headers = [("Content-Type", "application/json")];
    let report = registry.client(registry.console).send("POST", path, &headers, Body::Bytes(body.as_bytes())).expect(200).unwrap().json();
    let (migrating, extra_kib) = (begun.elapsed(), registry.peak_memory_kib()[1] - before);
    let packed: usize = layers.iter().map(|layer| layer.packed.len()).sum();
    assert_eq!((&report["tags"]["migrated"], &report["bytesRead"]), (&json!(1), &json!(packed)));
    println!("{packed} bytes in {migrating:?}; unpacking and hashing alone {unpacking:?}; {extra_kib} KiB of extra memory");
    assert!(extra_kib < 64 << 10, "{extra_kib} KiB of extra memory");
}

/// A number from the environment, for longer runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One worker's life: it pushes, promotes, migrates and deletes images of its own, made of layers that all share, and
/// looks whether what it has not deleted is there, whole.
struct Worker<'r> {
    name: String,
    random: Random,
    shared: &'r [Layer],
    first: Client,
    second: Client,
    console: Client,
    docker: Docker,
    /// What must be there: the manifest of each tag, by port and image.
    v2: BTreeMap<(bool, String), String>,
    /// The same for V1: how many images.
    v1: BTreeMap<String, usize>,
    steps: usize,
}

impl Worker<'_> {
    fn some_layers(&mut self) -> Vec<Layer> {
        let chosen = self.random.below(1 << self.shared.len());
        let layers = self.shared.iter().enumerate().filter(|(number, _)| chosen & (1 << number) != 0).take(3);
        let layers: Vec<Layer> = layers.map(|(_, layer)| layer.clone()).collect();
        if layers.is_empty() { vec![self.shared[0].clone()] } else { layers }
    }

    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        let image = format!("{}/app{}", self.name, self.random.below(3));
        let second = self.random.below(2) == 0;
        match self.random.below(8) {
            0 | 1 => {
                let layers = self.some_layers();
                let (config, manifest) = e2e::image::schema2(&layers);
                let client = if second { &self.second } else { &self.first };
                for blob in layers.iter().map(|layer| layer.packed.as_slice()).chain([config.as_bytes()]) {
                    // As every client does: what is there is not sent again, and must stay until the tag is set.
                    let digest = format!("sha256:{}", sha256(blob));
                    if client.try_send("HEAD", &format!("/v2/{image}/blobs/{digest}"), &[], Body::None)?.status != 200 {
                        client.push_blob(&image, blob)?;
                    }
                }
                client.push_manifest(&image, "1", e2e::image::SCHEMA2, &manifest)?;
                self.v2.insert((second, image), manifest);
            }
            2 => {
                let layers = self.some_layers();
                // The same chain as others push at the same time: ids come of the layers.
                self.docker.push(&image, "1", &chain(Version::V1_9, &layers, "shared"))?;
                self.v1.insert(image, layers.len());
            }
            3 => {
                if self.v2.remove(&(second, image.clone())).is_some() {
                    let client = if second { &self.second } else { &self.first };
                    client.try_send("DELETE", &format!("/v2/{image}/manifests/1"), &[], Body::None)?.expect(202)?;
                }
            }
            4 => {
                if self.v1.remove(&image).is_some() {
                    let path = format!("/v1/repositories/{image}/tags/1");
                    self.docker.client().try_send("DELETE", &path, &[], Body::None)?.expect(200)?;
                }
            }
            5 => {
                if let Some(manifest) = self.v2.get(&(false, image.clone())).cloned() {
                    let copy = self.random.below(2) == 0;
                    let body = json!({ "targetRepo": "docker-local2", "dockerRepository": image, "tag": "1", "copy": copy }).to_string();
                    self.manage("first/v2/promote", &body)?.expect(200)?;
                    if !copy {
                        self.v2.remove(&(false, image.clone()));
                    }
                    self.v2.insert((true, image), manifest);
                }
            }
            6 => {
                if self.v1.contains_key(&image) {
                    let body = json!({ "targetRepo": "docker-local2", "dockerRepository": image, "tag": "1" }).to_string();
                    let report = self.manage("docker-local/v1/migrate", &body)?.expect(200)?.json();
                    assert_eq!(report["tags"]["failed"], 0, "{report}");
                    let manifest = self.second.get(&format!("/v2/{image}/manifests/1")).expect(200)?.text();
                    self.v2.insert((true, image), manifest);
                }
            }
            _ => self.verify()?,
        }
        Ok(())
    }

    fn manage(&self, path: &str, body: &str) -> io::Result<e2e::Reply> {
        let headers = [("Content-Type", "application/json")];
        self.console.try_send("POST", &format!("/artifactory/api/docker/{path}"), &headers, Body::Bytes(body.as_bytes()))
    }

    fn verify(&self) -> io::Result<()> {
        for ((second, image), manifest) in &self.v2 {
            let client = if *second { &self.second } else { &self.first };
            assert_eq!(client.get(&format!("/v2/{image}/manifests/1")).expect(200)?.text(), *manifest);
            let manifest: Value = serde_json::from_str(manifest)?;
            for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
                let digest = part["digest"].as_str().unwrap();
                let bytes = client.get(&format!("/v2/{image}/blobs/{digest}")).expect(200)?.bytes();
                assert_eq!(format!("sha256:{}", sha256(&bytes)), digest);
            }
        }
        for (image, images) in &self.v1 {
            assert_eq!(self.docker.pull(image, "1")?.len(), *images);
        }
        Ok(())
    }
}

#[test]
fn clients_that_push_delete_promote_and_migrate_at_once_lose_nothing_and_leave_nothing() {
    // Nothing is kept for pulls of what a tag has led to before.
    let mut registry = Registry::start_with("[cleanup]\nkeep_replaced_s = 0\nprune_interval_s = 1\nprune_quiet_s = 1\n");
    let mut random = Random(setting("BERTH_SOAK_SEED", 1));
    let shared: Vec<Layer> = (0..6).map(|number| Layer::of_file(&random.bytes(90_000 + number * 50_000))).collect();
    let until = Instant::now() + Duration::from_secs(setting("BERTH_SOAK_S", 10));
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..4 {
            let client = |port| registry.client(port);
            let mut worker = Worker {
                name: format!("w{number}"),
                random: Random(random.number()),
                shared: &shared,
                first: client(registry.first),
                second: client(registry.second),
                console: client(registry.console),
                docker: Docker::new(Version::V1_9, client(registry.v1), registry.v1),
                v2: BTreeMap::new(),
                v1: BTreeMap::new(),
                steps: 0,
            };
            let ended = &ended;
            scope.spawn(move || {
                while Instant::now() < until {
                    worker.step().unwrap();
                }
                worker.verify().unwrap();
                ended.lock().unwrap().push((worker.v2, worker.v1, worker.steps));
            });
        }
    });
    let ended = ended.into_inner().unwrap();
    let steps: usize = ended.iter().map(|(_, _, steps)| steps).sum();
    println!("{steps} steps");
    assert_eq!(ended.len(), 4);
    for (v2, v1, _) in ended {
        for ((second, image), _) in v2 {
            let client = registry.client(if second { registry.second } else { registry.first });
            client.send("DELETE", &format!("/v2/{image}/manifests/1"), &[], Body::None).expect(202).unwrap();
        }
        for image in v1.into_keys() {
            let client = registry.client(registry.v1);
            client.send("DELETE", &format!("/v1/repositories/{image}"), &[], Body::None).expect(200).unwrap();
        }
    }
    wait_for_bytes(&registry, 0);
    registry.stop();
    assert!(registry.check().contains("no problems found"));
}
