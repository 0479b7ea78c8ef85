//! Every endpoint in process, over a Unix socket and a real store in a temporary directory.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::*;
use crate::server;

mod access;
mod all;
mod browse;
mod classes;
mod conformance;
mod cors;
mod described;
mod dockers;
mod life;
mod migration;
mod places;
mod schema1;
mod search;
mod shown;
mod site;
mod tools;
mod transfer;

const PASSWORD: &str = "correct horse";
const CONFIG: &str = r#"
data_dir = "data"
[listen]
unix = "backend.sock"
[[repository]]
key = "docker-v2"
api_version = "V2"
challenge = "basic"
[[repository]]
key = "docker-open"
api_version = "V2"
anonymous_pull = true
[[repository]]
key = "docker-v1"
api_version = "V1"
[[repository]]
key = "docker-bearer"
api_version = "V2"
"#;
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A backend with two V2 repositories, one of them open for pulls, and a V1 repository.
struct Backend {
    directory: tempfile::TempDir,
    config: String,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(seen, _)| seen.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Status and the code of a V2 error.
    fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["errors"][0]["code"].as_str().unwrap_or("no code").to_owned())
    }
}

impl Backend {
    async fn start() -> Self {
        let mut backend = Self { directory: tempfile::tempdir().unwrap(), config: CONFIG.to_owned(), stop: None, task: None };
        backend.open().await;
        backend
    }

    async fn open(&mut self) {
        let path = self.directory.path().join("backend.toml");
        std::fs::write(&path, &self.config).unwrap();
        let config = Config::load(&path).unwrap();
        let opened = crate::open(&config).unwrap();
        let (service, audit_writer) = Service::open(&config, &opened).unwrap();
        if !service.access().any_user().await.unwrap() {
            service.access().create_first_admin(&"admin".parse().unwrap(), PASSWORD).await.unwrap();
        }
        crate::adopt_repositories(&config, &opened.1).await.unwrap();
        let listeners = server::bind(&config.listen, Some(&crate::operator::socket(&config.data_dir))).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.task = Some(tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            server::serve(config.places.connections, listeners, move |request| service.clone().answer(request), shutdown).await;
            tokio::task::spawn_blocking(move || audit_writer.join()).await.unwrap().unwrap();
            drop(opened);
        }));
    }

    async fn restart(&mut self) {
        drop(self.stop.take());
        self.task.take().unwrap().await.unwrap();
        self.open().await;
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("backend.sock")
    }

    /// Sends a request as a gateway would, and as `admin` unless the headers say otherwise.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let path = match path.strip_prefix('@') {
            Some(rest) => format!("/artifactory/api/docker/{rest}"),
            None => path.to_owned(),
        };
        let host = headers.iter().find(|(name, _)| *name == "Host").map_or("r.example:444", |(_, host)| *host);
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Authorization") {
            head += "Authorization: Basic YWRtaW46Y29ycmVjdCBob3JzZQ==\r\n";
        }
        for (name, value) in headers.iter().filter(|(name, value)| !value.is_empty() && *name != "Host") {
            head += &format!("{name}: {value}\r\n");
        }
        // As a script would, unless the test says otherwise, if only by an empty value.
        if is_rest(&path) && !body.is_empty() && !headers.iter().any(|(name, _)| *name == "Content-Type") {
            head += "Content-Type: application/json\r\n";
        }
        if !headers.iter().any(|(name, _)| *name == "Content-Length") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        // A server that refuses early may have closed its end, or close it on a body unread; its answer is what counts.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer).await {
            assert!(!answer.is_empty(), "{method} {path}: {error}");
        }
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let reply = Reply { status, headers, body: answer[end + 4..].to_vec() };
        described::check(method, &path, body, &reply);
        conformance::check(&path, &reply);
        reply
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").await
    }

    async fn rest(&self, method: &str, path: &str, body: serde_json::Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/artifactory/api/{path}"), &[("Content-Type", "application/json")], body.as_bytes()).await
    }

    async fn push_blob(&self, repository: &str, image: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let pushed = self.send("POST", &format!("@{repository}/v2/{image}/blobs/uploads/?digest={digest}"), &[], bytes).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        digest
    }

    async fn put_manifest(&self, repository: &str, image: &str, reference: &str, manifest: &str) -> Reply {
        let path = format!("@{repository}/v2/{image}/manifests/{reference}");
        self.send("PUT", &path, &[("Content-Type", MANIFEST)], manifest.as_bytes()).await
    }

    /// Pushes an image with one layer and returns its manifest.
    async fn push_image(&self, repository: &str, image: &str, tag: &str) -> String {
        let config = self.push_blob(repository, image, b"{}").await;
        let layer = self.push_blob(repository, image, &[7; 100]).await;
        let manifest = image_manifest(&config, 2, &layer, 100);
        let pushed = self.put_manifest(repository, image, tag, &manifest).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        manifest
    }
}

fn is_rest(path: &str) -> bool {
    matches!(route::target(path.split('?').next().unwrap_or_default()), Ok(route::Target::Rest(_)))
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn image_manifest(config: &str, config_size: usize, layer: &str, layer_size: usize) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":{config_size},"digest":"{config}"}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":{layer_size},"digest":"{layer}"}}]}}"#
    )
}

fn sha256(bytes: &[u8]) -> String {
    berth_names::Digest::sha256(Sha256::digest(bytes).into()).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_asks_for_a_password_and_takes_only_the_right_one() {
    let backend = Backend::start().await;
    let challenge = backend.send("GET", "@docker-v2/v2/", &[("Authorization", "")], b"").await;
    assert_eq!(challenge.refusal(), (401, "UNAUTHORIZED".into()));
    assert_eq!(challenge.header("WWW-Authenticate"), Some("Basic realm=\"Berth\", charset=\"UTF-8\""));
    assert_eq!(challenge.header("Docker-Distribution-Api-Version"), Some("registry/2.0"));
    assert_eq!(backend.get("@docker-v2/v2/").await.status, 200);
    for wrong in ["Basic YWRtaW46d3Jvbmc=", "Basic bm9ib2R5Ong=", "Basic !", "Digest x"] {
        assert_eq!(backend.send("GET", "@docker-v2/v2/", &[("Authorization", wrong)], b"").await.status, 401, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_in_and_comes_out_as_it_was() {
    let mut backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "team/app", "1.0").await;
    // What was acknowledged is there after a restart.
    backend.restart().await;
    for reference in ["1.0".to_owned(), sha256(manifest.as_bytes())] {
        let pulled = backend.get(&format!("@docker-v2/v2/team/app/manifests/{reference}")).await;
        assert_eq!((pulled.status, pulled.text()), (200, manifest.clone()));
        assert_eq!(pulled.header("Content-Type"), Some(MANIFEST));
        assert_eq!(pulled.header("Docker-Content-Digest"), Some(sha256(manifest.as_bytes()).as_str()));
        let head = backend.send("HEAD", &format!("@docker-v2/v2/team/app/manifests/{reference}"), &[], b"").await;
        assert_eq!((head.status, head.header("Content-Length"), head.body.len()), (200, Some(manifest.len().to_string().as_str()), 0));
    }
    let layer = backend.get(&format!("@docker-v2/v2/team/app/blobs/{}", sha256(&[7; 100]))).await;
    assert_eq!(layer.body, vec![7; 100]);
    // Another repository and another image see nothing of it.
    for elsewhere in ["docker-open/v2/team/app", "docker-v2/v2/team/app2"] {
        assert_eq!(backend.get(&format!("@{elsewhere}/manifests/1.0")).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
        assert_eq!(backend.get(&format!("@{elsewhere}/blobs/{}", sha256(&[7; 100]))).await.refusal(), (404, "BLOB_UNKNOWN".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_stopped() {
    let mut backend = Backend::start().await;
    let content: Vec<u8> = (0..1_500_001_u32).map(|i| (i * 7 + i / 255) as u8).collect();
    let digest = sha256(&content);
    let started = backend.send("POST", "@docker-v2/v2/a/blobs/uploads/", &[], b"").await;
    assert_eq!((started.status, started.header("Range")), (202, Some("0-0")));
    // Behind a front the client sees `/v2/`.
    let id = started.header("Location").unwrap().strip_prefix("/v2/a/blobs/uploads/").unwrap().to_owned();
    let path = format!("@docker-v2/v2/a/blobs/uploads/{id}");
    let mut from = 0;
    for to in [1, 70_000, 70_001, 900_000] {
        let range = format!("{from}-{}", to - 1);
        let appended = backend.send("PATCH", &path, &[("Content-Range", &range)], &content[from..to]).await;
        assert_eq!((appended.status, appended.header("Range")), (202, Some(format!("0-{}", to - 1).as_str())));
        from = to;
    }
    backend.restart().await;
    let gap = backend.send("PATCH", &path, &[("Content-Range", "900001-900001")], b"x").await;
    assert_eq!((gap.refusal(), gap.header("Range")), ((416, "BLOB_UPLOAD_INVALID".into()), Some("0-899999")));
    let status = backend.get(&path).await;
    assert_eq!((status.status, status.header("Range")), (204, Some("0-899999")));
    assert_eq!(backend.get(&format!("@docker-v2/v2/b/blobs/uploads/{id}")).await.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    let finished = backend.send("PUT", &format!("{path}?digest={digest}"), &[], &content[from..]).await;
    assert_eq!((finished.status, finished.header("Docker-Content-Digest")), (201, Some(digest.as_str())));
    assert_eq!(backend.get(&path).await.status, 404);
    assert!(backend.get(&format!("@docker-v2/v2/a/blobs/{digest}")).await.body == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_leaves_nothing() {
    let backend = Backend::start().await;
    for (content, right) in [(vec![1; 10], sha256(&[1; 10])), (vec![2; 200_000], sha256(&vec![2; 200_000]))] {
        let wrong = sha256(b"something else");
        let refused = backend.send("POST", &format!("@docker-v2/v2/a/blobs/uploads/?digest={wrong}"), &[], &content).await;
        assert_eq!(refused.refusal(), (400, "DIGEST_INVALID".into()));
        for digest in [wrong, right] {
            assert_eq!(backend.get(&format!("@docker-v2/v2/a/blobs/{digest}")).await.status, 404);
        }
    }
    let files: usize = std::fs::read_dir(backend.directory.path().join("data/data"))
        .unwrap()
        .map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap().count())
        .sum();
    assert_eq!(files, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_a_digest_too() {
    let backend = Backend::start().await;
    for content in [vec![3; 10], vec![4; 200_000]] {
        let digest = berth_names::Digest::sha512(sha2::Sha512::digest(&content).into()).to_string();
        let pushed = backend.send("POST", &format!("@docker-v2/v2/a/blobs/uploads/?digest={digest}"), &[], &content).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        assert!(backend.get(&format!("@docker-v2/v2/a/blobs/{digest}")).await.body == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_blob() {
    let backend = Backend::start().await;
    for size in [1000, 700_000] {
        let content: Vec<u8> = (0..size).map(|i| (i / 3) as u8).collect();
        let digest = backend.push_blob("docker-v2", "a", &content).await;
        let path = format!("@docker-v2/v2/a/blobs/{digest}");
        let part = backend.send("GET", &path, &[("Range", &format!("bytes=5-{size}"))], b"").await;
        assert_eq!((part.status, part.header("Content-Range")), (206, Some(format!("bytes 5-{}/{size}", size - 1).as_str())));
        assert!(part.body == content[5..]);
        let behind = backend.send("GET", &path, &[("Range", &format!("bytes={size}-{size}"))], b"").await;
        assert_eq!((behind.status, behind.header("Content-Length"), behind.body.len()), (416, Some("0"), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_needs_what_it_refers_to() {
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "a", b"{}").await;
    let layer = backend.push_blob("docker-v2", "a", &[7; 100]).await;
    let unknown = sha256(b"nowhere");
    for (manifest, expected) in [
        (image_manifest(&config, 2, &unknown, 100), (400, "MANIFEST_BLOB_UNKNOWN")),
        (image_manifest(&unknown, 2, &layer, 100), (400, "MANIFEST_BLOB_UNKNOWN")),
        (image_manifest(&config, 2, &layer, 101), (400, "SIZE_INVALID")),
        ("{".to_owned(), (400, "MANIFEST_INVALID")),
        ("[".repeat(100_000), (400, "MANIFEST_INVALID")),
        (" ".repeat((4 << 20) + 1), (413, "MANIFEST_INVALID")),
    ] {
        let (status, code) = backend.put_manifest("docker-v2", "a", "1", &manifest).await.refusal();
        assert_eq!((status, code.as_str()), expected);
    }
    assert_eq!(backend.get("@docker-v2/v2/a/manifests/1").await.status, 404);
    let good = image_manifest(&config, 2, &layer, 100);
    assert_eq!(backend.put_manifest("docker-v2", "a", &unknown, &good).await.refusal(), (400, "DIGEST_INVALID".into()));
    assert_eq!(backend.put_manifest("docker-v2", "a", "1", &good).await.status, 201);
    // What a manifest refers to stays while it does.
    assert_eq!(backend.send("DELETE", &format!("@docker-v2/v2/a/blobs/{layer}"), &[], b"").await.refusal(), (409, "DENIED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_tag_leaves_its_siblings_and_deleting_a_manifest_takes_them() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "a", "1").await;
    backend.put_manifest("docker-v2", "a", "2", &manifest).await;
    assert_eq!(backend.send("DELETE", "@docker-v2/v2/a/manifests/1", &[], b"").await.status, 202);
    assert_eq!(backend.get("@docker-v2/v2/a/tags/list").await.json()["tags"], serde_json::json!(["2"]));
    let digest = sha256(manifest.as_bytes());
    assert_eq!(backend.send("DELETE", &format!("@docker-v2/v2/a/manifests/{digest}"), &[], b"").await.status, 202);
    assert_eq!(backend.get("@docker-v2/v2/a/manifests/2").await.status, 404);
    assert_eq!(backend.get("@docker-v2/v2/a/tags/list").await.refusal(), (404, "NAME_UNKNOWN".into()));
    let layer = sha256(&[7; 100]);
    assert_eq!(backend.send("DELETE", &format!("@docker-v2/v2/a/blobs/{layer}"), &[], b"").await.status, 202);
    assert_eq!(backend.get(&format!("@docker-v2/v2/a/blobs/{layer}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_needs_the_blob_in_its_source() {
    let backend = Backend::start().await;
    let digest = backend.push_blob("docker-v2", "a", &[9; 100]).await;
    let mount = |repository: &str, from: &str| format!("@{repository}/v2/b/blobs/uploads/?mount={digest}&from={from}");
    assert_eq!(backend.send("POST", &mount("docker-v2", "c"), &[], b"").await.status, 202);
    assert_eq!(backend.send("POST", &mount("docker-open", "a"), &[], b"").await.status, 202);
    assert_eq!(backend.get(&format!("@docker-v2/v2/b/blobs/{digest}")).await.status, 404);
    assert_eq!(backend.send("POST", &mount("docker-v2", "a"), &[], b"").await.status, 201);
    assert_eq!(backend.get(&format!("@docker-v2/v2/b/blobs/{digest}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "a", "t0").await;
    for tag in ["t1", "t10", "t2"] {
        backend.put_manifest("docker-v2", "a", tag, &manifest).await;
    }
    backend.push_image("docker-v2", "a/b", "x").await;
    assert_eq!(backend.get("@docker-v2/v2/a/tags/list").await.json()["tags"], serde_json::json!(["t0", "t1", "t10", "t2"]));
    let page = backend.get("@docker-v2/v2/a/tags/list?n=2&last=t0").await;
    assert_eq!(page.json()["tags"], serde_json::json!(["t1", "t10"]));
    assert_eq!(page.header("Link"), Some("</v2/a/tags/list?n=2&last=t10>; rel=\"next\""));
    let last = backend.get("@docker-v2/v2/a/tags/list?n=2&last=t10").await;
    assert_eq!((last.json()["tags"].clone(), last.header("Link")), (serde_json::json!(["t2"]), None));
    assert_eq!(backend.get("@docker-v2/v2/a/tags/list?n=0").await.json()["tags"], serde_json::json!([]));
    assert_eq!(backend.get("@docker-v2/v2/_catalog?n=1").await.json()["repositories"], serde_json::json!(["a"]));
    for bad in ["-1", "x", ""] {
        let refused = backend.get(&format!("@docker-v2/v2/_catalog?n={bad}")).await;
        assert_eq!(refused.refusal(), (400, "UNSUPPORTED".into()));
    }
    assert_eq!(backend.get("@docker-v2/v2/_catalog?n=9223372036854775808").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_by_their_subject() {
    let backend = Backend::start().await;
    let subject = sha256(backend.push_image("docker-v2", "a", "1").await.as_bytes());
    let config = sha256(b"{}");
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{oci}","artifactType":"x/sig","config":{{"mediaType":"c/t","size":2,"digest":"{config}"}},"layers":[],"subject":{{"mediaType":"{MANIFEST}","size":1,"digest":"{subject}"}}}}"#
    );
    let path = format!("@docker-v2/v2/a/manifests/{}", sha256(manifest.as_bytes()));
    let pushed = backend.send("PUT", &path, &[("Content-Type", oci)], manifest.as_bytes()).await;
    assert_eq!((pushed.status, pushed.header("OCI-Subject")), (201, Some(subject.as_str())));
    let found = backend.get(&format!("@docker-v2/v2/a/referrers/{subject}?artifactType=x/sig")).await;
    assert_eq!(found.json()["manifests"][0]["digest"], sha256(manifest.as_bytes()));
    assert_eq!(found.header("OCI-Filters-Applied"), Some("artifactType"));
    let none = backend.get(&format!("@docker-v2/v2/a/referrers/{subject}?artifactType=y")).await;
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_referrers_are_bounded_in_bytes_and_lead_to_all_of_them() {
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    let backend = Backend::start().await;
    let subject = sha256(backend.push_image("docker-v2", "a", "1").await.as_bytes());
    let config = sha256(b"{}");
    let mut pushed = std::collections::BTreeSet::new();
    for (number, length) in [1_500_000, 1_500_000, 1_500_000, 4_000_000, 10, 10].into_iter().enumerate() {
        let artifact_type = if number == 4 { "x/other" } else { r#"x/sig+json; a=\"b\""# };
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI}","artifactType":"{artifact_type}","config":{{"mediaType":"c/t","size":2,"digest":"{config}"}},"layers":[],"subject":{{"mediaType":"{MANIFEST}","size":1,"digest":"{subject}"}},"annotations":{{"n":"{number}","x":"{}"}}}}"#,
            "x".repeat(length)
        );
        let digest = sha256(manifest.as_bytes());
        let path = format!("@docker-v2/v2/a/manifests/{digest}");
        assert_eq!(backend.send("PUT", &path, &[("Content-Type", OCI)], manifest.as_bytes()).await.status, 201);
        pushed.insert((digest, number.to_string()));
    }
    let all = pushed.len();
    for (query, expected) in [("", all), ("?artifactType=x/sig%2Bjson%3B%20a=%22b%22", all - 1), ("?artifactType=x/none", 0)] {
        let (mut path, mut found, mut pages) = (format!("/v2/a/referrers/{subject}{query}"), std::collections::BTreeSet::new(), 0);
        loop {
            let page = backend.get(&format!("@docker-v2{path}")).await;
            assert_eq!((page.status, page.header("OCI-Filters-Applied").is_some()), (200, !query.is_empty()));
            assert!(page.body.len() < 5 << 20, "{}", page.body.len());
            pages += 1;
            for entry in page.json()["manifests"].as_array().unwrap() {
                found.insert((entry["digest"].as_str().unwrap().to_owned(), entry["annotations"]["n"].as_str().unwrap().to_owned()));
            }
            match page.header("Link") {
                Some(link) => path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned(),
                None => break,
            }
        }
        assert_eq!(found.len(), expected, "{query}");
        assert!(found.is_subset(&pushed) && (expected == 0 || pages > 1));
    }
    assert_eq!(backend.get(&format!("@docker-v2/v2/a/referrers/{subject}?last=x")).await.refusal(), (400, "DIGEST_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_may_name_a_manifest_often_and_each_time_its_size_must_be_right() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let backend = Backend::start().await;
    let image = backend.push_image("docker-v2", "a", "1").await;
    let named = |size: usize| format!(r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{size}}}"#, sha256(image.as_bytes()));
    let index = |entries: Vec<String>| format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, entries.join(","));
    let put =
        async |index: String| backend.send("PUT", "@docker-v2/v2/a/manifests/all", &[("Content-Type", INDEX)], index.as_bytes()).await;
    assert_eq!(put(index(vec![named(image.len()); 10_000])).await.status, 201);
    let mut wrong = vec![named(image.len()); 300];
    wrong.push(named(1));
    assert_eq!(put(index(wrong)).await.refusal(), (400, "SIZE_INVALID".into()));
    let absent = named(image.len()).replace(&sha256(image.as_bytes()), &sha256(b"absent"));
    assert_eq!(put(index(vec![named(image.len()), absent])).await.refusal(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    // It goes with what it names, however often.
    assert_eq!(backend.send("DELETE", "@docker-v2/v2/a/manifests/all", &[], b"").await.status, 202);
    assert_eq!(backend.send("DELETE", "@docker-v2/v2/a/manifests/1", &[], b"").await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_index_is_read_entry_by_entry_and_told_apart_from_what_is_none() {
    let backend = Backend::start().await;
    let put = async |body: String| {
        let reply = backend.send("PUT", "@docker-v1/v1/repositories/team/app/", &[], body.as_bytes()).await;
        (reply.status, reply.json()["error"].as_str().unwrap_or_default().to_owned())
    };
    let entry = |number: usize| format!(r#"{{"Tag":"x","id":"{number:064x}","more":{{"a":[1,null]}}}}"#);
    let list = |entries: Vec<String>| format!("[{}]", entries.join(","));
    let tiny = list(vec![r#"{"":0}"#.to_owned(); 590_000]);
    assert!(tiny.len() < 4 << 20);
    for (body, expected) in [
        (list((0..3).map(entry).collect()), (200, "")),
        (list(vec![entry(1); 30_000]), (200, "")),
        (list((0..10_001).map(entry).collect()), (413, "Too many images")),
        (tiny.clone(), (400, "Invalid data")),
        ("{}".to_owned(), (400, "Invalid data")),
        (r#"["x"]"#.to_owned(), (400, "Invalid data")),
        (tiny + "]", (400, "Error Decoding JSON")),
        ("[".to_owned(), (400, "Error Decoding JSON")),
    ] {
        let cut: String = body.chars().take(40).collect();
        assert_eq!(put(body).await, (expected.0, expected.1.to_owned()), "{cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_repository_is_pulled_by_anybody_and_pushed_by_users() {
    let backend = Backend::start().await;
    backend.push_image("docker-open", "a", "1").await;
    let anonymous = [("Authorization", "")];
    for path in ["@docker-open/v2/a/manifests/1", "@docker-open/v2/a/tags/list"] {
        assert_eq!(backend.send("GET", path, &anonymous, b"").await.status, 200, "{path}");
    }
    // Or docker would never send a password, and so never push.
    let ping = backend.send("GET", "@docker-open/v2/", &anonymous, b"").await;
    assert_eq!(ping.status, 401);
    let challenge = "Bearer realm=\"https://r.example:444/v2/token\",service=\"r.example:444\"";
    assert_eq!(ping.header("WWW-Authenticate"), Some(challenge));
    assert_eq!(backend.send("POST", "@docker-open/v2/a/blobs/uploads/", &anonymous, b"").await.status, 401);
    assert_eq!(backend.send("DELETE", "@docker-open/v2/a/manifests/1", &anonymous, b"").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_protocol_is_told_so_in_the_way_its_clients_need() {
    let backend = Backend::start().await;
    for path in ["@docker-v1/v2/", "@docker-v1/v2", "@docker-v1/v2/a/manifests/1"] {
        let docker = ("User-Agent", "docker/1.12.6 go/go1.6.4 git-commit/78d1802 os/linux arch/amd64");
        let reply = backend.send("GET", path, &[("Authorization", ""), docker], b"").await;
        assert_eq!((reply.status, reply.header("Content-Type")), (404, Some("text/plain; charset=utf-8")));
        assert_eq!(reply.header("Docker-Distribution-Api-Version"), None);
        assert!(serde_json::from_slice::<serde_json::Value>(&reply.body).is_err());
    }
    let reply = backend.get("@docker-v2/v1/repositories/a/tags").await;
    assert_eq!(reply.status, 404);
    assert!(reply.json()["error"].is_string());
    assert_eq!(backend.get("@docker-v2/v1/_ping").await.text(), "true");
    assert_eq!(backend.get("@nowhere/v2/").await.refusal(), (404, "NAME_UNKNOWN".into()));
}

/// The least image there is: an empty layer.
async fn push_v1(backend: &Backend, id: &str, json: &str) {
    let layer: &[u8] = b"";
    let path = |what: &str| format!("@docker-v1/v1/images/{id}/{what}");
    assert_eq!(backend.send("PUT", &path("json"), &[], json.as_bytes()).await.text(), "true");
    assert_eq!(backend.send("PUT", &path("layer"), &[], layer).await.text(), "true");
    let payload = format!("sha256:{}", hex(&[json.as_bytes(), b"\n", layer].concat()));
    assert_eq!(backend.send("PUT", &path("checksum"), &[("X-Docker-Checksum-Payload", &payload)], b"").await.text(), "true");
}

fn hex(bytes: &[u8]) -> String {
    sha256(bytes)["sha256:".len()..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_image_lives_through_its_states() {
    let backend = Backend::start().await;
    let json = format!(r#"{{ "id": "{ID}" }}"#);
    let path = |what: &str| format!("@docker-v1/v1/images/{ID}/{what}");
    let error = |reply: &Reply| (reply.status, reply.json()["error"].as_str().unwrap_or("").to_owned());

    let ping = backend.send("GET", "@docker-v1/v1/_ping", &[("Authorization", "")], b"").await;
    assert_eq!((ping.status, ping.text().as_str(), ping.header("X-Docker-Registry-Standalone")), (200, "true", Some("True")));
    let begun = backend.send("PUT", "@docker-v1/v1/repositories/foo/", &[], b"[]").await;
    assert_eq!((begun.status, begun.text().as_str(), begun.header("X-Docker-Endpoints")), (200, "\"\"", Some("r.example:444")));
    assert!(begun.header("X-Docker-Token").is_some());

    assert_eq!(error(&backend.get(&path("json")).await), (404, "Image not found".into()));
    assert_eq!(error(&backend.send("PUT", &path("layer"), &[], b"x").await), (404, "Image not found".into()));
    for (bad, message) in [
        ("{", "Invalid JSON"),
        ("{}", "Missing key `id' in JSON"),
        (r#"{"id":"x"}"#, "JSON data contains invalid id"),
        (&format!(r#"{{"id":"{ID}","parent":"{}"}}"#, hex(b"no")), "Image depends on a non existing parent"),
    ] {
        assert_eq!(error(&backend.send("PUT", &path("json"), &[], bad.as_bytes()).await), (400, message.into()));
    }
    for _ in 0..2 {
        assert_eq!(backend.send("PUT", &path("json"), &[], json.as_bytes()).await.text(), "true");
    }
    assert_eq!(error(&backend.get(&path("json")).await), (400, "Image is being uploaded, retry later".into()));
    assert_eq!(backend.send("PUT", &path("layer"), &[], b"not a tar").await.text(), "true");
    let tag = "@docker-v1/v1/repositories/foo/tags/latest";
    let quoted = format!("\"{ID}\"");
    assert_eq!(error(&backend.send("PUT", tag, &[], quoted.as_bytes()).await), (404, "Image not found".into()));
    assert_eq!(backend.send("PUT", &path("checksum"), &[], b"").await.status, 400);
    let wrong = backend.send("PUT", &path("checksum"), &[("X-Docker-Checksum", "tarsum+sha256:00")], b"").await;
    assert_eq!(error(&wrong), (400, "Checksum mismatch".into()));
    let payload = format!("sha256:{}", hex(&[json.as_bytes(), b"\nnot a tar"].concat()));
    for _ in 0..2 {
        let done = backend.send("PUT", &path("checksum"), &[("X-Docker-Checksum-Payload", &payload)], b"").await;
        assert_eq!((done.status, done.text().as_str()), (200, "true"));
    }
    assert_eq!(error(&backend.send("PUT", &path("json"), &[], json.as_bytes()).await), (409, "Image already exists".into()));
    assert_eq!(error(&backend.send("PUT", &path("layer"), &[], b"other").await), (409, "Image already exists".into()));
    assert_eq!(backend.send("PUT", &path("layer"), &[], b"not a tar").await.status, 200);

    assert_eq!(backend.send("PUT", tag, &[], quoted.as_bytes()).await.text(), "true");
    assert_eq!(backend.send("PUT", "@docker-v1/v1/repositories/foo/images", &[], b"[]").await.status, 204);
    assert_eq!(backend.get("@docker-v1/v1/repositories/library/foo/tags/latest").await.text(), quoted);
    assert_eq!(backend.get("@docker-v1/v1/repositories/foo/tags").await.json(), serde_json::json!({ "latest": ID }));
    assert_eq!(backend.get("@docker-v1/v1/repositories/foo/images").await.json(), serde_json::json!([{ "id": ID }]));
    let pulled = backend.get(&path("json")).await;
    assert_eq!((pulled.text(), pulled.header("X-Docker-Size")), (json, Some("9")));
    assert_eq!(backend.get(&path("layer")).await.body, b"not a tar");
    assert_eq!(backend.send("GET", &path("layer"), &[("Range", "bytes=9-9")], b"").await.status, 416);
    assert_eq!(backend.get(&path("ancestry")).await.json(), serde_json::json!([ID]));
    let found = backend.get("@docker-v1/v1/search?q=fo").await.json();
    assert_eq!((found["num_results"].clone(), found["results"][0]["name"].clone()), (1.into(), "library/foo".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_may_come_before_its_layer() {
    let backend = Backend::start().await;
    let json = format!(r#"{{"id":"{ID}"}}"#);
    let path = |what: &str| format!("@docker-v1/v1/images/{ID}/{what}");
    backend.send("PUT", &path("json"), &[], json.as_bytes()).await;
    let payload = format!("sha256:{}", hex(&[json.as_bytes(), b"\nlayer"].concat()));
    assert_eq!(backend.send("PUT", &path("checksum"), &[("X-Docker-Checksum-Payload", &payload)], b"").await.status, 200);
    assert_eq!(backend.get(&path("json")).await.status, 400);
    assert_eq!(backend.send("PUT", &path("layer"), &[], b"layer").await.status, 200);
    assert_eq!(backend.get(&path("json")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ancestry_runs_from_the_image_to_its_root() {
    let backend = Backend::start().await;
    let ids: Vec<String> = (0..5).map(|i| hex(&[i])).collect();
    push_v1(&backend, &ids[0], &format!(r#"{{"id":"{}"}}"#, ids[0])).await;
    for pair in ids.windows(2) {
        push_v1(&backend, &pair[1], &format!(r#"{{"id":"{}","parent":"{}"}}"#, pair[1], pair[0])).await;
    }
    let expected: Vec<&String> = ids.iter().rev().collect();
    assert_eq!(backend.get(&format!("@docker-v1/v1/images/{}/ancestry", ids[4])).await.json(), serde_json::json!(expected));
    let own = format!(r#"{{"id":"{ID}","parent":"{ID}"}}"#);
    assert_eq!(backend.send("PUT", &format!("@docker-v1/v1/images/{ID}/json"), &[], own.as_bytes()).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_login_says_what_docker_looks_for() {
    let backend = Backend::start().await;
    let known = backend.send("POST", "@docker-v1/v1/users/", &[], b"{}").await;
    assert_eq!((known.status, known.text().as_str()), (400, "\"Username or email already exists\""));
    assert_eq!(backend.get("@docker-v1/v1/users/").await.text(), "\"OK\"");
    for credentials in ["", "Basic Og==", "Basic YWRtaW46d3Jvbmc=", "Token x"] {
        let reply = backend.send("GET", "@docker-v1/v1/users/", &[("Authorization", credentials)], b"").await;
        assert_eq!(reply.status, 401, "{credentials}");
        assert!(reply.json()["error"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_body_is_kept_for_an_upload_and_thrown_away_for_a_v1_layer() {
    let backend = Backend::start().await;
    let started = backend.send("POST", "@docker-v2/v2/a/blobs/uploads/", &[], b"").await;
    let path = format!("/artifactory/api/docker/docker-v2{}", started.header("Location").unwrap());
    let cut = |path: String, method: &'static str| {
        let socket = backend.socket();
        async move {
            let mut stream = UnixStream::connect(socket).await.unwrap();
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Basic YWRtaW46Y29ycmVjdCBob3JzZQ==\r\nContent-Length: 1000\r\n\r\n0123456789"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    };
    cut(path.clone(), "PATCH").await;
    let mut range = String::new();
    for _ in 0..100 {
        range = backend.get(&path).await.header("Range").unwrap_or_default().to_owned();
        if range == "0-9" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(range, "0-9");

    let json = format!(r#"{{"id":"{ID}"}}"#);
    backend.send("PUT", &format!("@docker-v1/v1/images/{ID}/json"), &[], json.as_bytes()).await;
    cut(format!("/artifactory/api/docker/docker-v1/v1/images/{ID}/layer"), "PUT").await;
    let payload = format!("sha256:{}", hex(&[json.as_bytes(), b"\n0123456789"].concat()));
    // No layer is there, so the sum is only announced; the whole layer then completes nothing it does not match.
    backend.send("PUT", &format!("@docker-v1/v1/images/{ID}/checksum"), &[("X-Docker-Checksum-Payload", &payload)], b"").await;
    assert_eq!(backend.get(&format!("@docker-v1/v1/images/{ID}/json")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_push_the_same_v1_image_at_once_both_succeed() {
    let backend = Arc::new(Backend::start().await);
    let json = format!(r#"{{"id":"{ID}"}}"#);
    let pushes: Vec<_> = (0..4)
        .map(|_| {
            let (backend, json) = (Arc::clone(&backend), json.clone());
            tokio::spawn(async move {
                let path = |what: &str| format!("@docker-v1/v1/images/{ID}/{what}");
                let begun = backend.send("PUT", &path("json"), &[], json.as_bytes()).await;
                if begun.status == 409 {
                    return;
                }
                assert_eq!(backend.send("PUT", &path("layer"), &[], &[5; 100_000]).await.status, 200);
                let payload = format!("sha256:{}", hex(&[json.as_bytes(), b"\n", &[5; 100_000]].concat()));
                assert_eq!(backend.send("PUT", &path("checksum"), &[("X-Docker-Checksum-Payload", &payload)], b"").await.status, 200);
            })
        })
        .collect();
    for push in pushes {
        push.await.unwrap();
    }
    assert!(backend.get(&format!("@docker-v1/v1/images/{ID}/layer")).await.body == vec![5; 100_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_push_tags_of_one_image_at_once_all_succeed() {
    const CLIENTS: usize = 100;
    let backend = Arc::new(Backend::start().await);
    let (config, layer) = (backend.push_blob("docker-v2", "app", b"{}").await, backend.push_blob("docker-v2", "app", b"layer").await);
    let manifest = Arc::new(image_manifest(&config, 2, &layer, 5));
    let pushes: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (backend, manifest) = (Arc::clone(&backend), Arc::clone(&manifest));
            tokio::spawn(async move { backend.put_manifest("docker-v2", "app", &format!("build-{client}"), &manifest).await.status })
        })
        .collect();
    for push in pushes {
        assert_eq!(push.await.unwrap(), 201);
    }
    assert_eq!(backend.get("@docker-v2/v2/app/tags/list").await.json()["tags"].as_array().unwrap().len(), CLIENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wrong_passwords_is_turned_away_and_good_ones_pass() {
    let backend = Arc::new(Backend::start().await);
    assert_eq!(backend.get("@docker-v2/v2/").await.status, 200);
    let flood: Vec<_> = (0..150)
        .map(|i| {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move {
                use base64::Engine as _;
                let credentials = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("admin:wrong{i}")));
                backend.send("GET", "@docker-v2/v2/", &[("Authorization", &credentials)], b"").await.status
            })
        })
        .collect();
    // Whoever was verified before does not wait behind the flood.
    for _ in 0..20 {
        assert_eq!(backend.get("@docker-v2/v2/").await.status, 200);
    }
    let mut turned_away = 0;
    for one in flood {
        match one.await.unwrap() {
            401 => {}
            429 => turned_away += 1,
            other => panic!("{other}"),
        }
    }
    assert!(turned_away > 0);
}
