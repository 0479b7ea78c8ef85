//! The power is cut at a thousand moments: what was acknowledged is there, and nothing dangles.
//!
//! A backend works and is stopped and killed in between, while `tests/power/record.c` writes down what it does to its files.
//! For each moment a data directory is made as a disk could have it, and opened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use berth_names::{Digest, ImageName, Reference, RepositoryKey};
use berth_registry::{CleanupTimes, Clock, Registry};
use berth_storage::rocksdb;
use e2e::power::{Disk, Event, Loss, note, read_record};
use e2e::registry::{PASSWORD, binary, free_port};
use e2e::{Body, Client, Random};
use serde_json::json;

/// How long a backend may take to start.
const START_MAX: Duration = Duration::from_secs(60);

/// Images that each client pushes in one run of the backend.
const IMAGES: u64 = 4;

/// Clients at once.
const CLIENTS: u64 = 3;

/// How the runs of the backend end: killed, or told to.
const RUNS: [bool; 6] = [true, false, true, true, false, true];

/// What was acknowledged, or is no longer certain.
#[derive(Debug)]
enum Said {
    Blob(Digest),
    /// With the blobs that its manifest names.
    Tag(String, Digest, Vec<Digest>),
    /// From here on the tag may be there or not.
    Deleting(String),
    /// From here on it may not be there.
    Deleted(String),
}

impl Said {
    fn text(&self) -> String {
        match self {
            Self::Blob(digest) => format!("blob {digest}"),
            Self::Tag(tag, digest, blobs) => {
                let blobs: Vec<String> = blobs.iter().map(ToString::to_string).collect();
                format!("tag {tag} {digest} {}", blobs.join(" "))
            }
            Self::Deleting(tag) => format!("deleting {tag}"),
            Self::Deleted(tag) => format!("deleted {tag}"),
        }
    }

    fn read(text: &str) -> Self {
        match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["blob", digest] => Self::Blob(digest.parse().unwrap()),
            ["tag", tag, digest, blobs @ ..] => {
                Self::Tag((*tag).to_owned(), digest.parse().unwrap(), blobs.iter().map(|blob| blob.parse().unwrap()).collect())
            }
            ["deleting", tag] => Self::Deleting((*tag).to_owned()),
            ["deleted", tag] => Self::Deleted((*tag).to_owned()),
            _ => panic!("{text}"),
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A place in memory, if there is one: a thousand stores are made and thrown away.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A backend that is recorded.
struct Recorded {
    root: PathBuf,
    recorder: PathBuf,
    port: u16,
}

impl Recorded {
    fn new(root: &Path) -> Self {
        let recorder = root.join("record.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("power/record.c");
        let made = Command::new("cc").args(["-O1", "-Wall", "-shared", "-fPIC", "-o"]).arg(&recorder).arg(source).arg("-ldl").output();
        let made = made.expect("a C compiler is needed, as for RocksDB");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let config = format!(
            "data_dir = \"data\"\n[listen]\ntcp = \"127.0.0.1:{port}\"\n[[repository]]\nkey = \"dev\"\napi_version = \"V2\"\nanonymous_pull = true\n"
        );
        fs::write(root.join("backend.toml"), config).unwrap();
        fs::write(root.join("password"), PASSWORD).unwrap();
        Self { root: root.to_owned(), recorder, port }
    }

    fn record(&self) -> PathBuf {
        self.root.join("record")
    }

    fn start(&self) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(self.root.join("log")).unwrap();
        let out = self.root.join("out");
        let child = Command::new(binary("berth-backend"))
            .args(["serve", "--config", "backend.toml", "--admin-password-file", "password"])
            .current_dir(&self.root)
            .env("LD_PRELOAD", &self.recorder)
            .env("POWER_ROOT", self.root.join("data"))
            .env("POWER_LOG", self.record())
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while !fs::read_to_string(&out).unwrap().contains("berth-backend ready") {
            let log = || fs::read_to_string(self.root.join("log")).unwrap();
            assert!(begun.elapsed() < START_MAX, "the backend does not start:\n{}", log());
            sleep(Duration::from_millis(5));
        }
        child
    }
}

/// Notes something in the record: one write, like those of the recorder.
struct Notes(Mutex<File>);

impl Notes {
    fn add(&self, said: &Said) {
        self.0.lock().unwrap().write_all(&note(&said.text())).unwrap();
    }
}

/// Where the repository is, for those who ask the backend itself.
const BASE: &str = "/artifactory/api/docker/dev/v2/a/b";

fn push_blob(client: &Client, bytes: &[u8]) -> io::Result<String> {
    let digest = format!("sha256:{}", e2e::sha256(bytes));
    let begun = client.try_send("POST", &format!("{BASE}/blobs/uploads/"), &[], Body::None)?;
    let location = begun.expect(202)?.header("Location").unwrap_or_default().to_owned();
    // The path of an address.
    let location =
        location.splitn(4, '/').last().filter(|_| location.starts_with("http")).map_or(location.clone(), |path| format!("/{path}"));
    let mut content = bytes;
    client.try_send("PATCH", &location, &[], Body::Chunked(&mut content))?.expect(202)?;
    client.try_send("PUT", &format!("{location}?digest={digest}"), &[], Body::None)?.expect(201)?;
    Ok(digest)
}

/// Pushes images, and deletes some, until it has done its work or the backend is gone.
fn push(client: &Client, name: &str, random: &mut Random, notes: &Notes) -> io::Result<()> {
    for number in 0..IMAGES {
        let (mut parts, mut blobs) = (Vec::new(), Vec::<Digest>::new());
        // A row, and a file of several pages.
        let lengths = [40 + random.below(20_000), 70_000 + random.below(60_000)];
        for length in lengths {
            let bytes = random.bytes(usize::try_from(length).map_err(io::Error::other)?);
            let digest = push_blob(client, &bytes)?;
            blobs.push(digest.parse().map_err(io::Error::other)?);
            notes.add(&Said::Blob(blobs[blobs.len() - 1]));
            parts.push(json!({ "mediaType": "l/t", "digest": digest, "size": length }));
        }
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": e2e::image::SCHEMA2, "config": parts[0], "layers": [parts[1]] }).to_string();
        let digest = format!("sha256:{}", e2e::sha256(manifest.as_bytes())).parse().map_err(io::Error::other)?;
        let tag = format!("{name}-{number}");
        let (path, media_type) = (format!("{BASE}/manifests/{tag}"), ("Content-Type", e2e::image::SCHEMA2));
        client.try_send("PUT", &path, &[media_type], Body::Bytes(manifest.as_bytes()))?.expect(201)?;
        notes.add(&Said::Tag(tag.clone(), digest, blobs));
        if number % 2 == 1 {
            notes.add(&Said::Deleting(tag.clone()));
            client.try_send("DELETE", &path, &[], Body::None)?.expect(202)?;
            notes.add(&Said::Deleted(tag));
        }
    }
    Ok(())
}

fn record(root: &Path, random: &mut Random) -> Vec<Event> {
    let recorded = Recorded::new(root);
    for (run, is_killed) in RUNS.into_iter().enumerate() {
        let mut backend = recorded.start();
        let notes = Notes(Mutex::new(OpenOptions::new().append(true).open(recorded.record()).unwrap()));
        let client = Client::plain(recorded.port).with_basic("admin", PASSWORD);
        scope(|scope| {
            let pushers: Vec<_> = (0..CLIENTS)
                .map(|pusher| {
                    let (client, notes, seed) = (&client, &notes, random.number() | 1);
                    scope.spawn(move || push(client, &format!("r{run}-{pusher}"), &mut Random(seed), notes))
                })
                .collect();
            if !is_killed {
                for pusher in pushers {
                    pusher.join().unwrap().unwrap();
                }
            } else {
                sleep(Duration::from_millis(200 + random.below(500)));
                backend.kill().unwrap();
            }
        });
        if !is_killed {
            assert!(Command::new("kill").args(["-TERM", &backend.id().to_string()]).status().unwrap().success());
        }
        backend.wait().unwrap();
    }
    read_record(&recorded.record()).unwrap()
}

/// What must be there after what was said.
#[derive(Clone, Default)]
struct Promised {
    blobs: Vec<Digest>,
    tags: Vec<(String, Digest, Vec<Digest>)>,
    gone: Vec<String>,
}

impl Promised {
    fn hear(&mut self, said: Said) {
        match said {
            Said::Blob(digest) => self.blobs.push(digest),
            Said::Tag(tag, digest, blobs) => self.tags.push((tag, digest, blobs)),
            Said::Deleting(tag) => {
                // Its layers go with it.
                for (_, _, blobs) in self.tags.extract_if(.., |(seen, ..)| *seen == tag) {
                    self.blobs.retain(|blob| !blobs.contains(blob));
                }
            }
            Said::Deleted(tag) => self.gone.push(tag),
        }
    }
}

fn names() -> (RepositoryKey, ImageName) {
    ("dev".parse().unwrap(), "a/b".parse().unwrap())
}

/// Opens the store as the next start would, and reads all of it.
async fn verify(data_dir: &Path, promised: &Promised, what: &str) {
    let stores = rocksdb::open(data_dir).unwrap_or_else(|error| panic!("{what}: the store does not open: {error}"));
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
    let report = registry.check().await.unwrap();
    assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
    let (repository, image) = names();
    for (tag, digest, _) in &promised.tags {
        let found = registry.manifest(&repository, &image, &Reference::Tag(tag.parse().unwrap())).await;
        let found = found.unwrap_or_else(|error| panic!("{what}: {tag} was acknowledged: {error}"));
        assert_eq!(found.digest, *digest, "{what}: {tag}");
    }
    for tag in &promised.gone {
        let found = registry.manifest(&repository, &image, &Reference::Tag(tag.parse().unwrap())).await;
        assert!(found.is_err(), "{what}: {tag} was deleted");
    }
    for digest in &promised.blobs {
        let found = registry.stat_blob(&repository, &image, digest).await;
        assert!(found.is_ok(), "{what}: {digest} was acknowledged: {found:?}");
    }
    // It goes on: what nobody owns is swept, and what nothing leads to is collected.
    registry.sweep_data().await.unwrap();
    registry.collect_garbage().await.unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    let seed = setting("BERTH_POWER_SEED", u64::from(std::process::id()) + 1);
    let cuts = setting("BERTH_POWER_CUTS", 1000);
    println!("BERTH_POWER_SEED={seed}");
    let mut random = Random(seed);
    let directory = directory();
    let events = record(directory.path(), &mut random);
    let syncs = events.iter().filter(|event| event.is_note()).count();
    println!("{} events with {syncs} notes", events.len());
    assert!(syncs > 50 && events.len() > 1000, "the backend was not recorded");

    let mut moments: Vec<u64> = (0..cuts).map(|_| random.below(events.len() as u64 + 1)).collect();
    moments.sort_unstable();
    let (sender, receiver) = mpsc::sync_channel::<(PathBuf, Promised, String)>(2);
    let (receiver, verified) = (Mutex::new(receiver), AtomicUsize::new(0));
    let root = directory.path();
    scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let next = receiver.lock().unwrap().recv();
                    let Ok((path, promised, what)) = next else { return };
                    runtime.block_on(verify(&path, &promised, &what));
                    fs::remove_dir_all(&path).unwrap();
                    verified.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let sender = sender;
        let (mut disk, mut promised, mut played) = (Disk::default(), Promised::default(), 0);
        for (number, moment) in moments.into_iter().enumerate() {
            for event in &events[played..usize::try_from(moment).unwrap()] {
                if event.is_note() { promised.hear(Said::read(&event.text)) } else { disk.play(event) }
            }
            played = usize::try_from(moment).unwrap();
            let loss = [Loss::Everything, Loss::Some, Loss::Some, Loss::Nothing][number % 4];
            let path = root.join(format!("cut-{number}"));
            disk.cut(&path, loss, &mut random).unwrap();
            sender.send((path, promised.clone(), format!("cut at event {moment}, {loss:?} of what was not synced lost"))).unwrap();
        }
        drop(sender);
    });
    assert_eq!(verified.load(Ordering::Relaxed) as u64, cuts);
}
