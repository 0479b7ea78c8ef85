//! What was acknowledged is there: after kill -9 at random moments, and when it is three gigabytes.

use std::io::{self, Read};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Duration;

use e2e::image::Layer;
use e2e::v1::{Docker, Version, chain};
use e2e::{Body, Client, Random, Registry, sha256};
use sha2::{Digest as _, Sha256};

/// Something that the registry has acknowledged.
enum Acknowledged {
    Blob { digest: String, bytes: Vec<u8> },
    Tag { tag: String, manifest: String },
    V1 { image: String, chain: Vec<e2e::v1::Image> },
}

/// A number from the environment, for longer runs.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Pushes images with small and large layers until something breaks.
fn push_v2(client: &Client, random: &mut Random, acknowledged: &Mutex<Vec<Acknowledged>>) -> io::Result<()> {
    loop {
        let config = random.bytes(40);
        let size = if random.below(2) == 0 { random.below(60_000) } else { random.below(3_000_000) } + 1;
        let layer = random.bytes(usize::try_from(size).map_err(io::Error::other)?);
        let mut digests = Vec::new();
        for bytes in [config, layer] {
            let digest = client.push_blob("a/b", &bytes)?;
            digests.push((digest.clone(), bytes.len()));
            acknowledged.lock().unwrap().push(Acknowledged::Blob { digest, bytes });
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": e2e::image::SCHEMA2,
            "config": { "mediaType": "c/t", "digest": digests[0].0, "size": digests[0].1 },
            "layers": [{ "mediaType": "l/t", "digest": digests[1].0, "size": digests[1].1 }],
        })
        .to_string();
        let tag = format!("t{}", random.below(1 << 40));
        client.push_manifest("a/b", &tag, e2e::image::SCHEMA2, &manifest)?;
        acknowledged.lock().unwrap().push(Acknowledged::Tag { tag, manifest });
    }
}

fn push_v1(registry: &Registry, random: &mut Random, acknowledged: &Mutex<Vec<Acknowledged>>) -> io::Result<()> {
    let docker = Docker::new(Version::V1_9, registry.client(registry.v1), registry.v1);
    loop {
        let layers: Vec<Layer> = (0..2).map(|_| Layer { tar: Vec::new(), packed: random.bytes(200_000) }).collect();
        let mut chain = chain(Version::V1_9, &layers, &random.number().to_string());
        for image in &mut chain {
            // No tar: the payload checksum is what completes it.
            image.layer.tar = Vec::new();
        }
        let image = format!("a/v{}", random.below(1 << 40));
        docker.push(&image, "1", &chain)?;
        acknowledged.lock().unwrap().push(Acknowledged::V1 { image, chain });
    }
}

fn verify(registry: &Registry, acknowledged: &[Acknowledged]) {
    let client = registry.client(registry.first);
    for one in acknowledged {
        match one {
            Acknowledged::Blob { digest, bytes } => {
                let reply = client.get(&format!("/v2/a/b/blobs/{digest}"));
                assert_eq!(reply.status, 200, "{digest} was acknowledged and is gone");
                assert!(reply.bytes() == *bytes, "{digest} was acknowledged and has changed");
            }
            Acknowledged::Tag { tag, manifest } => assert_eq!(client.get(&format!("/v2/a/b/manifests/{tag}")).text(), *manifest),
            Acknowledged::V1 { image, chain } => {
                let docker = Docker::new(Version::V1_5, registry.client(registry.v1), registry.v1);
                let pulled = docker.pull(image, "1").unwrap();
                assert!(
                    chain
                        .iter()
                        .zip(&pulled)
                        .all(|(pushed, (id, json, layer))| { pushed.id == *id && pushed.json == *json && pushed.layer.packed == *layer })
                );
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let seed = setting("BERTH_CRASH_SEED", u64::from(std::process::id()) + 1);
    println!("BERTH_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let mut registry = Registry::start();
    let mut total = 0;
    for round in 0..setting("BERTH_KILLS", 30) {
        let acknowledged = Mutex::new(Vec::new());
        let seeds: Vec<u64> = (0..3).map(|_| random.number() | 1).collect();
        let moment = Duration::from_millis(30 + random.below(400));
        // The clients only look at the gateway; the backend is killed under their feet.
        let clients = registry.client(registry.first);
        let mut backend = registry.take_backend();
        std::thread::scope(|scope| {
            let (registry, acknowledged, clients) = (&registry, &acknowledged, &clients);
            for seed in &seeds[..2] {
                scope.spawn(move || push_v2(clients, &mut Random(*seed), acknowledged).unwrap_err());
            }
            scope.spawn(|| push_v1(registry, &mut Random(seeds[2]), acknowledged).unwrap_err());
            sleep(moment);
            backend.kill().unwrap();
            backend.wait().unwrap();
        });
        registry.start_backend();
        let acknowledged = acknowledged.into_inner().unwrap();
        total += acknowledged.len();
        verify(&registry, &acknowledged);
        // What was interrupted goes through when it is done again.
        let again = random.bytes(1_000_000);
        registry.client(registry.first).push_blob("a/b", &again).unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    registry.stop();
    let report = registry.check();
    println!("{total} acknowledgements verified; {report}");
    assert!(report.contains("no problems found"), "{report}");
}

/// Bytes that do not compress, without an end, the same for the same seed; hashed on their way.
struct Stream {
    random: Random,
    left: u64,
    hash: Sha256,
    block: Vec<u8>,
}

impl Stream {
    fn new(length: u64) -> Self {
        Self { random: Random(7), left: length, hash: Sha256::new(), block: Random(9).bytes(1 << 20) }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.block.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let start = usize::try_from(self.random.below(1 << 19)).unwrap_or(0).min(self.block.len() - most);
        buffer[..most].copy_from_slice(&self.block[start..start + most]);
        self.hash.update(&buffer[..most]);
        self.left -= most as u64;
        Ok(most)
    }
}

#[test]
fn a_layer_of_three_gigabytes_comes_back_and_memory_stays_small() {
    /// What each service may have resident, in KiB.
    const RESIDENT_MAX_KIB: u64 = 128 << 10;
    let length = setting("BERTH_LARGE_BYTES", 3 << 30);
    let registry = Registry::start();
    let client = registry.client(registry.first);
    let begun = client.send("POST", "/v2/big/one/blobs/uploads/", &[], Body::None).expect(202).unwrap();
    let location = begun.header("Location").unwrap().to_owned();
    let mut stream = Stream::new(length);
    client.send("PATCH", &location, &[], Body::Chunked(&mut stream)).expect(202).unwrap();
    let digest = format!("sha256:{}", e2e::hex(&stream.hash.finalize()));
    client.send("PUT", &format!("{location}?digest={digest}"), &[], Body::None).expect(201).unwrap();

    let pulled = client.get(&format!("/v2/big/one/blobs/{digest}")).expect(200).unwrap();
    assert_eq!(pulled.header("Content-Length"), Some(length.to_string().as_str()));
    let (mut reader, mut hash, mut piece) = (pulled.reader(), Sha256::new(), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut piece).unwrap() {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    assert_eq!(format!("sha256:{}", e2e::hex(&hash.finalize())), digest);
    let [gateway, backend] = registry.peak_memory_kib();
    println!("{length} bytes; peak resident memory: gateway {gateway} KiB, backend {backend} KiB");
    assert!(gateway < RESIDENT_MAX_KIB && backend < RESIDENT_MAX_KIB, "gateway {gateway} KiB, backend {backend} KiB");
}

#[test]
fn a_restart_keeps_everything_and_the_password() {
    let mut registry = Registry::start();
    let client = registry.client(registry.first);
    let digest = client.push_blob("a", b"kept").unwrap();
    registry.kill_backend();
    registry.start_backend();
    assert_eq!(client.get(&format!("/v2/a/blobs/{digest}")).bytes(), b"kept");
    assert_eq!(digest, format!("sha256:{}", sha256(b"kept")));
    registry.stop();
}
