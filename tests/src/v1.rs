//! Docker's V1 client, request for request (protocol reference §4.2 to §4.8): what docker 1.5, 1.9 and 1.12 send and what
//! they insist on. It fails where docker would fail.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::client::{Body, Client};
use crate::image::Layer;
use crate::{hex, sha256};

/// Lookups that docker makes at once.
const LOOKUPS_AT_ONCE: usize = 5;

/// A version of docker, as far as V1 is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.5.0
    V1_5,
    /// 1.9.1
    V1_9,
    /// 1.12.6
    V1_12,
}

/// A V1 image: its JSON as docker wrote it, and its layer.
#[derive(Clone)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// Its JSON.
    pub json: String,
    /// Its layer.
    pub layer: Layer,
}

/// What a push did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Images that went up.
    pub uploaded: usize,
    /// Images that were there already.
    pub skipped: usize,
}

/// An old docker.
pub struct Docker {
    version: Version,
    client: Client,
    authority: String,
}

/// A chain of images, root first, with the JSON that this version of docker sends.
pub fn chain(version: Version, layers: &[Layer], salt: &str) -> Vec<Image> {
    let mut images: Vec<Image> = Vec::new();
    for (depth, layer) in layers.iter().enumerate() {
        let parent = images.last().map(|image| image.id.clone());
        let id = sha256(format!("{salt}/{depth}/{}/{}", parent.as_deref().unwrap_or_default(), layer.digest()).as_bytes());
        let top = depth + 1 == layers.len();
        let json = match (version, &parent) {
            // 1.10 and later invent images for all but the top: an id and a parent, nothing else (§4.6).
            (Version::V1_12, None) if !top => json!({ "id": id }).to_string(),
            (Version::V1_12, Some(parent)) if !top => json!({ "id": id, "parent": parent }).to_string(),
            // Not the order nor the spacing that any serialiser of ours would choose: it must come back byte for byte.
            _ => format!(
                "{{\"id\" : \"{id}\",{} \"created\":\"2013-06-13T14:03:50.821769-07:00\", \"Size\": {}, \"docker_version\":\"1.5.0\", \"config\":{{\"Cmd\":[\"/bin/sh\"]}} }}\r",
                parent.map(|parent| format!("\"parent\":\"{parent}\",")).unwrap_or_default(),
                layer.tar.len(),
            ),
        };
        images.push(Image { id, json, layer: layer.clone() });
    }
    images
}

impl Image {
    /// `sha256(json, LF, layer as sent)`.
    pub fn payload_checksum(&self) -> String {
        let hash = Sha256::new().chain_update(&self.json).chain_update("\n").chain_update(&self.layer.packed);
        format!("sha256:{}", hex(&hash.finalize()))
    }

    /// Tarsum version 0, computed from the listing that GNU tar's reader sees.
    pub fn tarsum(&self) -> String {
        let mut sums: Vec<String> = members(&self.layer.tar);
        sums.sort();
        let hash = Sha256::new().chain_update(&self.json).chain_update(sums.concat());
        format!("tarsum+sha256:{}", hex(&hash.finalize()))
    }
}

/// The sums of a tar's members, by the `tar` crate: a reader that shares nothing with the one under test.
fn members(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let mut sums = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let name = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        let mut hash = Sha256::new();
        let mut field = |key: &str, value: &[u8]| {
            hash.update(key);
            hash.update(value);
        };
        field("name", &name);
        field("mode", header.mode().unwrap().to_string().as_bytes());
        field("uid", header.uid().unwrap().to_string().as_bytes());
        field("gid", header.gid().unwrap().to_string().as_bytes());
        field("size", header.size().unwrap().to_string().as_bytes());
        field("mtime", header.mtime().unwrap().to_string().as_bytes());
        field("typeflag", &[header.as_bytes()[156]]);
        field("linkname", &link);
        field("uname", header.username_bytes().unwrap_or_default());
        field("gname", header.groupname_bytes().unwrap_or_default());
        field("devmajor", header.device_major().ok().flatten().unwrap_or(0).to_string().as_bytes());
        field("devminor", header.device_minor().ok().flatten().unwrap_or(0).to_string().as_bytes());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        hash.update(&content);
        sums.push(hex(&hash.finalize()));
    }
    sums
}

impl Docker {
    /// A docker of this version that trusts the client's authority and has its password in the configuration.
    pub fn new(version: Version, client: Client, port: u16) -> Self {
        Self::at(version, client, &format!("localhost:{port}"))
    }

    /// The same, for a registry under another name.
    pub fn at(version: Version, client: Client, authority: &str) -> Self {
        let agent = match version {
            Version::V1_5 => "docker/1.5.0 go/go1.3.3 git-commit/a8a31ef kernel/3.16.0 os/linux arch/amd64",
            Version::V1_9 => "docker/1.9.1 go/go1.4.2 git-commit/a34a1d5 kernel/3.16.0 os/linux arch/amd64",
            Version::V1_12 => "docker/1.12.6 go/go1.6.4 git-commit/78d1802 kernel/3.16.0 os/linux arch/amd64",
        };
        Self { version, client: client.with("User-Agent", agent), authority: authority.to_owned() }
    }

    /// What it asks with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A request that a server answers; one whose backend has gone away is no answer.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body<'_>) -> io::Result<crate::Reply> {
        let reply = self.client.try_send(method, path, headers, body)?;
        if reply.status < 500 { Ok(reply) } else { Err(io::Error::other(format!("{method} {path}: {}", reply.status))) }
    }

    /// `docker login`.
    pub fn login(&self) -> io::Result<()> {
        if self.version == Version::V1_12 {
            // Anything but 200 without the V2 header leads on to V1.
            let v2 = self.ask("GET", "/v2/", &[], Body::None)?;
            assert!(v2.status != 200 && v2.header("Docker-Distribution-Api-Version").is_none());
            return self.ask("GET", "/v1/users/", &[], Body::None)?.expect(200).map(drop);
        }
        let registration = json!({ "username": "admin", "password": "x", "email": "a@example.com", "auth": "" }).to_string();
        let asked = self.ask("POST", "/v1/users/", &[("Content-Type", "application/json")], Body::Bytes(registration.as_bytes()))?;
        match (asked.status, asked.text().as_str()) {
            (401, _) | (400, "\"Username or email already exists\"") => {
                self.ask("GET", "/v1/users/", &[], Body::None)?.expect(200).map(drop)
            }
            (status, text) => Err(io::Error::other(format!("Registration: {status} {text}"))),
        }
    }

    /// Everything before the first V1 call: is it V2 after all, and is it a registry?
    fn probe(&self, image: &str, pushes: bool) -> io::Result<()> {
        let v2 = self.ask("GET", "/v2/", &[], Body::None)?;
        assert!(v2.header("Docker-Distribution-Api-Version").is_none(), "docker would speak V2 from here on");
        if self.version == Version::V1_12 {
            let refused = match pushes {
                true => self.ask("POST", &format!("/v2/{image}/blobs/uploads/"), &[], Body::None)?,
                false => self.ask("GET", &format!("/v2/{image}/manifests/latest"), &[], Body::None)?,
            };
            // A JSON body here costs 50 s of retries or the whole operation, depending on the version (§4.5).
            assert_eq!(refused.status, 404);
            assert!(serde_json::from_str::<Value>(&refused.text()).is_err());
        }
        for _ in 0..if self.version == Version::V1_5 { 2 } else { 1 } {
            let ping = self.ask("GET", "/v1/_ping", &[], Body::None)?;
            assert!(ping.header("X-Docker-Registry-Version").is_some_and(|version| !version.is_empty()));
            assert_eq!(ping.header("X-Docker-Registry-Standalone"), Some("True"));
        }
        Ok(())
    }

    /// `docker push` of a chain, root first, whose top has the tag.
    pub fn push(&self, image: &str, tag: &str, chain: &[Image]) -> io::Result<Pushed> {
        self.probe(image, true)?;
        let index: Vec<Value> = chain
            .iter()
            .enumerate()
            .map(|(i, image)| if i + 1 == chain.len() { json!({ "id": image.id, "Tag": tag }) } else { json!({ "id": image.id }) })
            .collect();
        let index = Value::from(index).to_string();
        let wants_token = [("Content-type", "application/json"), ("X-Docker-Token", "true")];
        let begun = self.ask("PUT", &format!("/v1/repositories/{image}/"), &wants_token, Body::Bytes(index.as_bytes()))?;
        assert!(matches!(begun.status, 200 | 201), "{}", begun.text());
        self.check_session(&begun)?;
        let present = self.look_up(chain)?;
        let mut pushed = Pushed::default();
        for one in chain {
            match present.contains(&one.id) || !self.push_image(one)? {
                true => pushed.skipped += 1,
                false => pushed.uploaded += 1,
            }
        }
        let top = format!("\"{}\"", chain.last().unwrap().id);
        let tagged = self.ask("PUT", &format!("/v1/repositories/{image}/tags/{tag}"), &[], Body::Bytes(top.as_bytes()))?;
        assert!(matches!(tagged.status, 200 | 201), "{}", tagged.text());
        let endpoints = format!("https://{}/v1/", self.authority);
        let ends = [("Content-type", "application/json"), ("X-Docker-Token", "true"), ("X-Docker-Endpoints", endpoints.as_str())];
        self.ask("PUT", &format!("/v1/repositories/{image}/images"), &ends, Body::Bytes(b"[]"))?.expect(204)?;
        Ok(pushed)
    }

    /// Docker goes on at the host that the header names, and up to 1.6 gives up without a token.
    fn check_session(&self, reply: &crate::Reply) -> io::Result<()> {
        let endpoint = reply.header("X-Docker-Endpoints").ok_or_else(|| io::Error::other("Index response didn't contain any endpoints"))?;
        assert_eq!(endpoint, self.authority);
        reply.header("X-Docker-Token").map(drop).ok_or_else(|| io::Error::other("Index response didn't contain an access token"))
    }

    /// Asks for every image, a few at a time; only a 200 means that it is there.
    fn look_up(&self, chain: &[Image]) -> io::Result<HashSet<String>> {
        let mut present = HashSet::new();
        for some in chain.chunks(LOOKUPS_AT_ONCE) {
            let found = std::thread::scope(|scope| {
                let asked: Vec<_> = some
                    .iter()
                    .map(|image| scope.spawn(|| self.ask("GET", &format!("/v1/images/{}/json", image.id), &[], Body::None)))
                    .collect();
                asked.into_iter().map(|one| one.join().unwrap().map(|reply| reply.status)).collect::<io::Result<Vec<u16>>>()
            })?;
            present.extend(some.iter().zip(found).filter(|(_, status)| *status == 200).map(|(image, _)| image.id.clone()));
        }
        Ok(present)
    }

    /// Sends one image; whether it had to be sent.
    pub fn push_image(&self, image: &Image) -> io::Result<bool> {
        let path = |what: &str| format!("/v1/images/{}/{what}", image.id);
        let json = [("Content-type", "application/json")];
        let begun = self.ask("PUT", &path("json"), &json, Body::Bytes(image.json.as_bytes()))?;
        if begun.status != 200 {
            let text = begun.text();
            return if text == r#"{"error":"Image already exists"}"# { Ok(false) } else { Err(io::Error::other(text)) };
        }
        let mut packed = image.layer.packed.as_slice();
        let octets = [("Content-Type", "application/octet-stream")];
        self.ask("PUT", &path("layer"), &octets, Body::Chunked(&mut packed))?.expect(200)?;
        let (tarsum, payload) = (image.tarsum(), image.payload_checksum());
        let sums = [("X-Docker-Checksum", tarsum.as_str()), ("X-Docker-Checksum-Payload", payload.as_str())];
        self.ask("PUT", &path("checksum"), &sums, Body::None)?.expect(200)?;
        Ok(true)
    }

    /// `docker pull`: the chain, root first, with every byte checked against what the server says of it.
    pub fn pull(&self, image: &str, tag: &str) -> io::Result<Vec<(String, String, Vec<u8>)>> {
        self.probe(image, false)?;
        self.pull_over_v1(image, tag)
    }

    /// The same without looking for V2 first, as docker up to 1.4 does, and 1.5 to 1.7 after V2 has failed them.
    pub fn pull_over_v1(&self, image: &str, tag: &str) -> io::Result<Vec<(String, String, Vec<u8>)>> {
        let ping = self.ask("GET", "/v1/_ping", &[], Body::None)?.expect(200)?;
        assert_eq!(ping.header("X-Docker-Registry-Standalone"), Some("True"));
        let begun = self.ask("GET", &format!("/v1/repositories/{image}/images"), &[("X-Docker-Token", "true")], Body::None)?;
        self.check_session(&begun)?;
        let listed = begun.expect(200)?.json();
        assert!(listed.as_array().unwrap().iter().all(|entry| entry.get("Tag").is_none()));
        // Registry calls spell the namespace out.
        let full = if image.contains('/') { image.to_owned() } else { format!("library/{image}") };
        let top: String = if self.version == Version::V1_5 {
            let tags = self.ask("GET", &format!("/v1/repositories/{full}/tags"), &[], Body::None)?.expect(200)?.text();
            let tags: BTreeMap<String, String> = serde_json::from_str(&tags)?;
            tags.get(tag).cloned().ok_or_else(|| io::Error::other("no such tag"))?
        } else {
            let one = self.ask("GET", &format!("/v1/repositories/{full}/tags/{tag}"), &[], Body::None)?.expect(200)?.text();
            serde_json::from_str(&one)?
        };
        let ancestry = self.ask("GET", &format!("/v1/images/{top}/ancestry"), &[], Body::None)?.expect(200)?.json();
        let ancestry: Vec<String> = serde_json::from_value(ancestry)?;
        assert_eq!(ancestry.first(), Some(&top));
        ancestry.into_iter().rev().map(|id| self.pull_image(id)).collect()
    }

    fn pull_image(&self, id: String) -> io::Result<(String, String, Vec<u8>)> {
        let json = self.ask("GET", &format!("/v1/images/{id}/json"), &[], Body::None)?.expect(200)?;
        let size: u64 = json.header("X-Docker-Size").and_then(|size| size.parse().ok()).expect("X-Docker-Size is a number");
        let json = json.text();
        let path = format!("/v1/images/{id}/layer");
        let whole = self.ask("GET", &path, &[], Body::None)?.expect(200)?;
        assert_eq!((whole.header("Accept-Ranges"), whole.header("Content-Length")), (Some("bytes"), Some(size.to_string().as_str())));
        // The connection breaks half way: docker resumes, with an end that is one too far.
        let mut layer = vec![0; usize::try_from(size / 2).map_err(io::Error::other)?];
        whole.reader().read_exact(&mut layer)?;
        if size > 0 {
            let rest = self.ask("GET", &path, &[("Range", &format!("bytes={}-{size}", layer.len()))], Body::None)?.expect(206)?;
            assert_eq!(rest.header("Content-Range"), Some(format!("bytes {}-{}/{size}", layer.len(), size - 1).as_str()));
            layer.extend(rest.bytes());
        }
        let done = self.ask("GET", &path, &[("Range", &format!("bytes={size}-{size}"))], Body::None)?;
        assert_eq!((done.status, done.header("Content-Length")), (416, Some("0")));
        Ok((id, json, layer))
    }
}
