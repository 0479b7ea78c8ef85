//! What clients ask that are not at hand here, request for request: their paths, queries, headers and order, and what they
//! make of the answers. One pair of services serves them all at once.

mod artifacts;
mod caches;
mod early;
mod lazy;
mod mounts;
mod tools;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use e2e::{Body, Client, Registry, Reply, sha256};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

/// A client by what it calls itself.
struct Tool {
    client: Client,
}

impl Tool {
    fn new(client: &Client, user_agent: &str) -> Self {
        Self { client: client.clone().with("User-Agent", user_agent) }
    }

    /// Sends a request; the line is its method, its path and the status that the client needs.
    fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let [method, path, status] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let body = if body.is_empty() { Body::None } else { Body::Bytes(body) };
        let reply = self.client.send(method, path, headers, body);
        match reply.status.to_string() {
            seen if seen == status => reply,
            seen => panic!("{line}: {seen}: {}", reply.text().chars().take(300).collect::<String>()),
        }
    }

    fn json(&self, line: &str, headers: &[(&str, &str)]) -> Value {
        self.ask(line, headers, b"").json()
    }

    /// As containerd, buildkit, oras and helm push a blob: not if it is there, and in one piece.
    fn push_blob(&self, image: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let seen = self.client.send("HEAD", &format!("/v2/{image}/blobs/{digest}"), &[("Accept", "*/*")], Body::None);
        if seen.status == 200 {
            return digest;
        }
        let begun = self.ask(&format!("POST /v2/{image}/blobs/uploads/ 202"), &[], b"");
        let location = begun.header("Location").unwrap().to_owned();
        let done = self.ask(&format!("PUT {location}?digest={} 201", digest.replace(':', "%3A")), &[OCTETS], bytes);
        assert_eq!(done.header("Docker-Content-Digest"), Some(digest.as_str()));
        digest
    }

    /// As go-containerregistry does it (crane, cosign, kaniko): streamed, with nothing in the closing request.
    fn stream_blob(&self, image: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.ask(&format!("HEAD /v2/{image}/blobs/{digest} 404"), &[], b"");
        let begun = self.ask(&format!("POST /v2/{image}/blobs/uploads/ 202"), &[("Content-Type", "application/json")], b"");
        self.stream(begun.header("Location").unwrap(), &digest, bytes);
        digest
    }

    fn stream(&self, location: &str, digest: &str, mut bytes: &[u8]) {
        let sent = self.client.send("PATCH", location, &[OCTETS], Body::Chunked(&mut bytes)).expect(202).unwrap();
        let location = sent.header("Location").unwrap();
        self.ask(&format!("PUT {location}?digest={} 201", digest.replace(':', "%3A")), &[OCTETS], b"");
    }

    fn push_manifest(&self, image: &str, reference: &str, media_type: &str, document: &Value) -> Reply {
        self.ask(&format!("PUT /v2/{image}/manifests/{reference} 201"), &[("Content-Type", media_type)], document.to_string().as_bytes())
    }

    /// An image of one layer; returns its descriptor.
    fn push_image(&self, image: &str, reference: &str, layer: &[u8]) -> Value {
        let config =
            json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [digest(layer)] } }).to_string();
        self.push_blob(image, config.as_bytes());
        self.push_blob(image, layer);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config.as_bytes()), "layers": [descriptor(LAYER, layer)],
        });
        let described = descriptor(MANIFEST, manifest.to_string().as_bytes());
        let reference = if reference.is_empty() { described["digest"].as_str().unwrap() } else { reference };
        self.push_manifest(image, reference, MANIFEST, &manifest);
        described
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// The text of a field.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// The services that all tests share as long as one of them runs: starting them takes longer than any of these.
fn registry() -> Arc<Registry> {
    static SHARED: Mutex<Weak<Registry>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Registry::start());
        *shared = Arc::downgrade(&started);
        started
    })
}
