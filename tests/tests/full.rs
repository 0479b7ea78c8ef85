//! A disk that is full: what grows is refused in words, what frees space works, and it goes on when there is room again.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::{Body, Client, Random, Registry};
use serde_json::{Value, json};

/// The size of the disk.
const DISK: &str = "size=256m";

/// How long the store may take to notice that there is room again.
const ROOM_MAX: Duration = Duration::from_secs(60);

/// A small file system of its own, in memory.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path) -> Self {
        run("mount", &["-t", "tmpfs", "-o", DISK, "tmpfs", path.to_str().unwrap()]);
        Self(path.to_owned())
    }

    /// Takes what is left, up to the last byte.
    fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.0.join("ballast")).unwrap();
        for length in [1 << 20, 4096, 1] {
            let piece = vec![0; length];
            while ballast.write_all(&piece).is_ok() {}
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", self.0.to_str().unwrap()]).status();
    }
}

/// Runs what only root may; others by sudo, as `scripts/deps` does.
fn run(program: &str, arguments: &[&str]) {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let mut command = if is_root { Command::new(program) } else { Command::new("sudo") };
    if !is_root {
        command.args(["--non-interactive", program]);
    }
    let outcome = command.args(arguments).output().unwrap();
    assert!(outcome.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&outcome.stderr));
}

/// A registry whose data is on a small disk.
fn on_a_small_disk() -> (Registry, Disk) {
    let mut registry = Registry::start();
    registry.stop();
    let data = registry.path("data");
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    let disk = Disk::mount(&data);
    registry.restart();
    (registry, disk)
}

fn push(client: &Client, random: &mut Random, tag: &str, layer_bytes: usize) {
    let parts: Vec<Value> = [100, layer_bytes]
        .map(|length| json!({ "mediaType": "l/t", "digest": client.push_blob("a", &random.bytes(length)).unwrap(), "size": length }))
        .into();
    let manifest = json!({ "schemaVersion": 2, "mediaType": e2e::image::SCHEMA2, "config": parts[0], "layers": [parts[1]] });
    client.push_manifest("a", tag, e2e::image::SCHEMA2, &manifest.to_string()).unwrap();
}

/// Tries a whole push of a blob; returns the first status that is no success, or 201.
fn try_push(client: &Client, bytes: &[u8]) -> (u16, String) {
    let begun = client.send("POST", "/v2/a/blobs/uploads/", &[], Body::None);
    if begun.status != 202 {
        return (begun.status, begun.text());
    }
    let location = format!("{}?digest=sha256:{}", begun.header("Location").unwrap(), e2e::sha256(bytes));
    let ended = client.send("PUT", &location, &[], Body::Bytes(bytes));
    (ended.status, ended.text())
}

fn refused(reply: e2e::Reply) {
    let (status, text) = (reply.status, reply.text());
    assert_eq!(status, 507, "{text}");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < ROOM_MAX, "{what}");
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_full_disk_refuses_pushes_with_507_serves_pulls_and_deletes_and_recovers_by_itself() {
    let (mut registry, disk) = on_a_small_disk();
    let (client, health) = (registry.client(registry.first), Client::plain(registry.direct));
    let mut random = Random(7);
    for tag in ["one", "two", "three"] {
        push(&client, &mut random, tag, 5_000_000);
    }
    let held = registry.data_bytes();
    disk.fill();

    // Small and large, by every protocol: a clear answer in the protocol's own form.
    for length in [100, 1_000_000] {
        let (status, text) = try_push(&client, &random.bytes(length));
        assert_eq!(status, 507, "{text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(error["errors"][0]["code"], "INSUFFICIENT_STORAGE", "{text}");
        assert!(error["errors"][0]["message"].as_str().unwrap().contains("disk is full"), "{text}");
    }
    let manifest = client.get("/v2/a/manifests/one").text();
    let moved = client.send("PUT", "/v2/a/manifests/new", &[("Content-Type", e2e::image::SCHEMA2)], Body::Bytes(manifest.as_bytes()));
    refused(moved);
    let v1 = registry.client(registry.v1);
    let id = "0123456789abcdef".repeat(4);
    let image = format!("{{\"id\":\"{id}\"}}");
    let begun = v1.send("PUT", &format!("/v1/images/{id}/json"), &[], Body::Bytes(image.as_bytes()));
    let (status, text) = (begun.status, begun.text());
    assert_eq!(status, 507, "{text}");
    assert!(serde_json::from_str::<Value>(&text).unwrap()["error"].as_str().unwrap().contains("disk is full"), "{text}");
    let console = registry.client(registry.console);
    let group = console.send("PUT", "/artifactory/api/security/groups/full", &[("Content-Type", "application/json")], Body::Bytes(b"{}"));
    refused(group);

    // Who watches is told, and who pulls is served.
    let healthy = health.get("/healthz");
    assert_eq!(healthy.status, 200);
    assert!(healthy.text().contains("disk is full"));
    let blob = serde_json::from_str::<Value>(&manifest).unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    assert_eq!(client.get(&format!("/v2/a/blobs/{blob}")).bytes().len(), 5_000_000);
    assert_eq!(client.send("HEAD", &format!("/v2/a/blobs/{blob}"), &[], Body::None).status, 200);

    // Deleting works: from what is reserved for it, and gives space back.
    let deleted = client.send("DELETE", "/v2/a/manifests/one", &[], Body::None);
    let (status, text) = (deleted.status, deleted.text());
    assert_eq!(status, 202, "{text}");
    until("what was deleted gives no space back", || registry.data_bytes() < held);
    // Somebody else takes that too, again and again, as a log that grows does.
    disk.fill();

    // A store on a full disk opens, after a crash too, and all that was acknowledged is there.
    registry.kill_backend();
    disk.fill();
    registry.start_backend();
    for tag in ["two", "three"] {
        assert_eq!(client.get(&format!("/v2/a/manifests/{tag}")).status, 200, "{tag}");
    }
    assert_eq!(client.get("/v2/a/manifests/one").status, 404);
    assert_eq!(try_push(&client, &random.bytes(100)).0, 507);

    // When there is room, it goes on without a restart.
    disk.empty();
    until("the store does not notice that there is room", || try_push(&client, &random.bytes(1_000_000)).0 == 201);
    assert!(!health.get("/healthz").text().contains("full"));
    push(&client, &mut random, "four", 1_000_000);
    registry.stop();
    let report = registry.check();
    assert!(report.contains("no problems found"), "{report}");
}

#[test]
fn a_disk_that_somebody_else_fills_under_a_push_breaks_nothing() {
    let (mut registry, disk) = on_a_small_disk();
    let client = registry.client(registry.first);
    let mut random = Random(9);
    push(&client, &mut random, "before", 3_000_000);
    // Deletions too run out of space at last, because somebody takes whatever they are given.
    let mut refused = 0;
    for _ in 0..40 {
        disk.fill();
        let (status, text) = try_push(&client, &random.bytes(200_000));
        assert_eq!(status, 507, "{text}");
        let tag = client.send("DELETE", "/v2/a/manifests/nothing", &[], Body::None);
        assert!([404, 507].contains(&tag.status), "{}", tag.status);
        refused += 1;
    }
    assert_eq!(refused, 40);
    disk.empty();
    until("the store does not recover", || try_push(&client, &random.bytes(200_000)).0 == 201);
    let deleted = client.send("DELETE", "/v2/a/manifests/before", &[], Body::None);
    let (status, text) = (deleted.status, deleted.text());
    assert_eq!(status, 202, "{text}");
    registry.stop();
    let report = registry.check();
    assert!(report.contains("no problems found"), "{report}");
}
