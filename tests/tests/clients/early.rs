//! docker 0.6 to 1.1, request for request: what they send to a port that speaks V1, and what they insist on.

use e2e::image::Layer;
use e2e::registry::PASSWORD;
use e2e::v1::{Image, Version, chain};
use e2e::{Body, Client, Registry, Reply};
use serde_json::{Value, json};

use crate::{Tool, registry};

const JSON: (&str, &str) = ("Content-type", "application/json");
const WANTS_TOKEN: (&str, &str) = ("X-Docker-Token", "true");

fn layers(name: &str) -> [Layer; 2] {
    [Layer::of_file(format!("the root of {name}").as_bytes()), Layer::of_file(format!("the top of {name}").as_bytes())]
}

fn agent(version: &str) -> String {
    format!("docker/{version} go/go1.1.2 git-commit/cb48ecc kernel/3.8.0-19-generic os/linux arch/amd64")
}

/// One of these versions: the password goes where a token is asked for, everything else shows the token.
struct Early {
    login: Tool,
    nobody: Client,
    agent: String,
    authority: String,
}

impl Early {
    fn new(registry: &Registry, version: &str) -> Self {
        let agent = agent(version);
        Self {
            login: Tool::new(&registry.client(registry.v1), &agent),
            nobody: Client::tls(registry.v1, &registry.ca()),
            agent,
            authority: format!("localhost:{}", registry.v1),
        }
    }

    /// Up to 0.10 a host is no registry without a version, whatever the status.
    fn ping(&self) {
        let ping = self.nobody.send("GET", "/v1/_ping", &[("User-Agent", "Go 1.1 package http")], Body::None);
        assert!(ping.header("X-Docker-Registry-Version").is_some_and(|version| !version.is_empty()));
    }

    /// The client that goes on where an answer of the index leads, with the token that it brought.
    fn session(&self, reply: &Reply) -> Tool {
        assert_eq!(reply.header("X-Docker-Endpoints"), Some(self.authority.as_str()), "Index response didn't contain any endpoints");
        let token = reply.header("X-Docker-Token").expect("Index response didn't contain an access token");
        Tool::new(&self.nobody.clone().with("Authorization", &format!("Token {token}")), &self.agent)
    }

    /// Every image of the chain carries the tag, and the tag is put after each of them: it walks from the root to the top.
    fn push(&self, image: &str, tag: &str, chain: &[Image]) {
        self.ping();
        let index: Vec<Value> = chain.iter().map(|image| json!({ "id": image.id, "Tag": tag })).collect();
        let index = Value::from(index).to_string();
        let begun = self.login.ask(&format!("PUT /v1/repositories/{image}/ 200"), &[JSON, WANTS_TOKEN], index.as_bytes());
        let session = self.session(&begun);
        for one in chain {
            let looked = session.client.send("GET", &format!("/v1/images/{}/json", one.id), &[], Body::None);
            if looked.status != 200 {
                push_image(&session, one, &[("X-Docker-Checksum", &one.tarsum())]);
            }
            session.ask(&format!("PUT /v1/repositories/{image}/tags/{tag} 200"), &[JSON], format!("\"{}\"", one.id).as_bytes());
        }
        // These versions send the checksums back with which the index is told that all is there.
        let list: Vec<Value> = chain.iter().map(|image| json!({ "id": image.id, "checksum": image.tarsum() })).collect();
        let endpoints = format!("https://{}/v1/", self.authority);
        let ends = [JSON, WANTS_TOKEN, ("X-Docker-Endpoints", endpoints.as_str())];
        self.login.ask(&format!("PUT /v1/repositories/{image}/images 204"), &ends, Value::from(list).to_string().as_bytes());
    }

    fn pull(&self, image: &str, tag: &str) -> Vec<(String, Vec<u8>)> {
        self.ping();
        let begun = self.login.ask(&format!("GET /v1/repositories/{image}/images 200"), &[WANTS_TOKEN], b"");
        let session = self.session(&begun);
        let known = begun.json();
        let tags = session.json(&format!("GET /v1/repositories/{image}/tags 200"), &[]);
        let top = tags[tag].as_str().unwrap().to_owned();
        // Only what the first list names is pulled.
        assert!(known.as_array().unwrap().iter().any(|one| one["id"] == top.as_str()));
        let ancestry = session.json(&format!("GET /v1/images/{top}/ancestry 200"), &[]);
        let ids = ancestry.as_array().unwrap().iter().rev().map(|id| id.as_str().unwrap().to_owned());
        ids.map(|id| {
            let json = session.ask(&format!("GET /v1/images/{id}/json 200"), &[], b"");
            let size: usize = json.header("X-Docker-Size").expect("these versions need a size").parse().unwrap();
            let layer = session.ask(&format!("GET /v1/images/{id}/layer 200"), &[], b"").bytes();
            assert_eq!(layer.len(), size);
            (json.text(), layer)
        })
        .collect()
    }
}

fn push_image(session: &Tool, image: &Image, sums: &[(&str, &str)]) {
    session.ask(&format!("PUT /v1/images/{}/json 200", image.id), &[JSON], image.json.as_bytes());
    // Without a type before docker 1.2.
    let mut packed = image.layer.packed.as_slice();
    let sent = session.client.send("PUT", &format!("/v1/images/{}/layer", image.id), &[], Body::Chunked(&mut packed));
    sent.expect(200).unwrap();
    session.ask(&format!("PUT /v1/images/{}/checksum 200", image.id), sums, b"");
}

fn assert_same(chain: &[Image], pulled: &[(String, Vec<u8>)]) {
    let pushed: Vec<_> = chain.iter().map(|image| (image.json.clone(), image.layer.packed.clone())).collect();
    assert!(pushed == pulled);
}

/// Token for all but the index; the tag walks up the chain.
#[test]
fn docker_0_6_and_0_7_push_a_tag_that_walks_up_the_chain() {
    let registry = registry();
    for version in ["0.6.7", "0.7.6"] {
        let docker = Early::new(&registry, version);
        let image = format!("early/app-{}", version.replace('.', "-"));
        let chain = chain(Version::V1_5, &layers(version), version);
        docker.push(&image, "1", &chain);
        assert_same(&chain, &docker.pull(&image, "1"));
        // Again: nothing is sent but the tags.
        docker.push(&image, "1", &chain);
        assert_same(&chain, &docker.pull(&image, "1"));
    }
}

/// The password with every request, and two checksums of which the one of the payload is of something else.
#[test]
fn docker_0_9_pushes_with_a_payload_sum_of_something_else_and_docker_1_0_resumes() {
    let registry = registry();
    let docker = Tool::new(&registry.client(registry.v1), &agent("0.9.1"));
    let chain = chain(Version::V1_5, &layers("0.9.1"), "0.9.1");
    let ping = docker.ask("GET /v1/_ping 200", &[], b"");
    assert_eq!(ping.header("X-Docker-Registry-Standalone"), Some("True"));
    let index = json!([{ "id": chain[0].id }, { "id": chain[1].id, "Tag": "1" }]).to_string();
    docker.ask("PUT /v1/repositories/early/nine/ 200", &[JSON, WANTS_TOKEN], index.as_bytes());
    for image in &chain {
        docker.ask(&format!("GET /v1/images/{}/json 404", image.id), &[], b"");
        let payload = crate::digest(&image.layer.tar);
        push_image(&docker, image, &[("X-Docker-Checksum", &image.tarsum()), ("X-Docker-Checksum-Payload", &payload)]);
    }
    docker.ask("PUT /v1/repositories/early/nine/tags/1 200", &[JSON], format!("\"{}\"", chain[1].id).as_bytes());
    docker.ask("PUT /v1/repositories/early/nine/images 204", &[JSON, WANTS_TOKEN], b"[]");
    assert_same(&chain, &Early::new(&registry, "0.9.1").pull("early/nine", "1"));
    // docker 0.12 to 1.1 look at a layer before they fetch it, and resume.
    let docker = Tool::new(&registry.client(registry.v1), &agent("1.0.1"));
    for image in &chain {
        let path = format!("/v1/images/{}/layer", image.id);
        let size = image.layer.packed.len();
        let head = docker.ask(&format!("HEAD {path} 200"), &[], b"");
        assert_eq!((head.header("Accept-Ranges"), head.header("Content-Length")), (Some("bytes"), Some(size.to_string().as_str())));
        let rest = docker.ask(&format!("GET {path} 206"), &[("Range", &format!("bytes=10-{size}"))], b"");
        assert!(rest.bytes() == image.layer.packed[10..]);
        let done = docker.ask(&format!("GET {path} 416"), &[("Range", &format!("bytes={size}-{size}"))], b"");
        assert_eq!(done.header("Content-Length"), Some("0"));
    }
}

/// `docker push <id>` up to 1.5: an image without any name, and nothing said to the index.
#[test]
fn docker_1_5_pushes_an_image_without_a_name() {
    let registry = registry();
    let docker = Tool::new(&registry.client(registry.v1).with_basic("admin", PASSWORD), &agent("1.5.0"));
    for image in &chain(Version::V1_5, &layers("no name"), "no name") {
        push_image(&docker, image, &[("X-Docker-Checksum", &image.tarsum()), ("X-Docker-Checksum-Payload", &image.payload_checksum())]);
        assert_eq!(docker.ask(&format!("GET /v1/images/{}/json 200", image.id), &[], b"").text(), image.json);
    }
}
