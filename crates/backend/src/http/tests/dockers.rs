//! What versions of docker make of what they are told: each decides by other parts of an answer.

use serde_json::json;

use super::access::basic;
use super::schema1::EMPTY_LAYER;
use super::*;

const DOCKER_1_9: &str = "docker/1.9.1 go/go1.4.2 git-commit/a34a1d5 kernel/3.16.0 os/linux arch/amd64";
const DOCKER_1_12: &str = "docker/1.12.6 go/go1.6.4 git-commit/78d1802 kernel/3.16.0 os/linux arch/amd64";
const DOCKER_1_13: &str = "docker/1.13.1 go/go1.7.5 git-commit/092cba3 kernel/3.16.0 os/linux arch/amd64";
const DOCKER_17_05: &str = "docker/17.05.0-ce go/go1.7.5 git-commit/89658be kernel/4.4.0 os/linux arch/amd64";
const DOCKER_20_10: &str = "docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.1.0 os/linux arch/amd64";

/// Words by which docker 1.9 to 1.13 give an error of a registry another status than 401; only with 401 do they ask their
/// user to log in.
const OTHER_STATUSES: [&str; 9] =
    ["not found", "cannot find", "no such", "bad parameter", "no command", "conflict", "impossible", "activated", "this node"];

/// Whether docker 1.10 to 20.10 takes the refusal for final: an error that says more than its code. A bare code they try again,
/// five times within 50 seconds.
fn is_final(reply: &Reply) -> bool {
    let error = &reply.json()["errors"][0];
    error["code"] == "UNAUTHORIZED" && (error["message"] != "authentication required" || !error["detail"].is_null())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_login_is_refused_for_good() {
    let backend = Backend::start().await;
    let nobody = backend.bearer("docker-open", "", "repository:team/app:pull,push").await;
    for (method, path, action) in [
        ("POST", "blobs/uploads/", "pull,push"),
        ("POST", "blobs/uploads/?mount=x&from=other", "pull,push"),
        ("PATCH", "blobs/uploads/0123456789abcdef0123456789abcdef", "pull,push"),
        ("PUT", "manifests/1", "pull,push"),
        ("DELETE", "manifests/1", "delete"),
    ] {
        for authorization in ["", &nobody] {
            let headers = [("Authorization", authorization), ("User-Agent", DOCKER_1_12)];
            let reply = backend.send(method, &format!("@docker-open/v2/team/app/{path}"), &headers, b"").await;
            assert_eq!(reply.status, 401, "{method} {path}: {}", reply.text());
            assert!(is_final(&reply), "{method} {path}: {}", reply.text());
            // Whoever showed a token hears that it is not enough, and docker 1.13 and later then say so.
            let challenge = reply.header("WWW-Authenticate").unwrap();
            assert_eq!(challenge.ends_with("error=\"insufficient_scope\""), !authorization.is_empty(), "{challenge}");
            assert!(challenge.contains(&format!("repository:team/app:{action}")), "{challenge}");
        }
    }
    // The detail is what docker's own registry gives: what was needed.
    let reply = backend.send("PUT", "@docker-bearer/v2/team/app/manifests/1", &[("Authorization", "")], b"").await;
    let needed = |action| json!({ "Type": "repository", "Class": "", "Name": "team/app", "Action": action });
    assert_eq!(
        reply.json(),
        json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "authentication required", "detail": [needed("pull"), needed("push")] }] })
    );
    // Where Basic is asked for, too, and where nothing in particular is needed.
    for path in ["@docker-v2/v2/team/app/blobs/uploads/", "@docker-v2/v2/", "@docker-bearer/v2/"] {
        let method = if path.ends_with("uploads/") { "POST" } else { "GET" };
        let reply = backend.send(method, path, &[("Authorization", "")], b"").await;
        assert!(reply.status == 401 && is_final(&reply), "{path}: {}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_that_ask_for_a_login_when_a_pull_is_refused_still_do() {
    let backend = Backend::start().await;
    backend.push_image("docker-bearer", "team/app", "1").await;
    let nobody = backend.bearer("docker-bearer", "", "repository:team/app:pull").await;
    for (docker, is_told) in [(DOCKER_1_12, true), (DOCKER_1_13, false), (DOCKER_17_05, false), (DOCKER_20_10, true), ("", true)] {
        for path in ["manifests/1", "tags/list", &format!("blobs/{}", sha256(b"{}"))] {
            let headers = [("Authorization", nobody.as_str()), ("User-Agent", docker)];
            let reply = backend.send("GET", &format!("@docker-bearer/v2/team/app/{path}"), &headers, b"").await;
            assert_eq!(reply.status, 401, "{docker} {path}: {}", reply.text());
            // 1.13 to 17.05 take this for "not found"; those before don't look at it, those after say "may require 'docker login'".
            assert_eq!(reply.header("WWW-Authenticate").unwrap().contains("error="), is_told, "{docker} {path}");
            // What they make of the body has to be a 401.
            let shown = format!("unauthorized: {}", reply.json()["errors"][0]["message"].as_str().unwrap());
            assert!(OTHER_STATUSES.iter().all(|word| !shown.contains(word)), "{shown}");
        }
        // A push says it to all of them.
        let headers = [("Authorization", nobody.as_str()), ("User-Agent", docker)];
        let push = backend.send("POST", "@docker-bearer/v2/team/app/blobs/uploads/", &headers, b"").await;
        assert!(push.header("WWW-Authenticate").unwrap().ends_with("error=\"insufficient_scope\""), "{docker}");
    }
    // docker 1.9 goes on to V1 when V2 refuses it, and asks for a login because that refuses it too.
    for path in ["@docker-bearer/v1/repositories/team/app/images", "@docker-v1/v1/repositories/team/app/images"] {
        assert_eq!(backend.send("GET", path, &[("Authorization", "")], b"").await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_keeps_newer_dockers_from_going_on_to_plain_http() {
    let backend = Backend::start().await;
    let wrong = basic("admin", "no");
    let path = "@docker-bearer/v2/token?account=admin&client_id=docker&offline_token=true&service=x";
    let reply = backend.as_user(&wrong, "GET", path, b"").await;
    let message = "wrong user name, password or token";
    assert_eq!(reply.status, 401);
    let error = json!({ "code": "UNAUTHORIZED", "message": message, "detail": null });
    assert_eq!(reply.json(), json!({ "errors": [error], "details": message }));
    // The OAuth2 form of containerd, what is wrong with it, and whatever else the token service refuses.
    for (form, status) in [
        (&b"grant_type=password&username=admin&password=no&service=x"[..], 401),
        (b"grant_type=refresh_token&refresh_token=x&service=x", 401),
        (b"grant_type=magic", 400),
        (b"%", 400),
        (&[b'a'; 70_000], 413),
    ] {
        let reply = backend.as_user("", "POST", "@docker-bearer/v2/token", form).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(reply.json()["details"], reply.json()["errors"][0]["message"], "{}", reply.text());
    }
}

impl Backend {
    /// Pushes a config and no layers, with a manifest that says so in these words.
    async fn push_config(&self, image: &str, tag: &str, config: &str, (config_type, rest): (&str, &str)) {
        let digest = self.push_blob("docker-v2", image, config.as_bytes()).await;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{config_type}","digest":"{digest}","size":{}}}{rest}}}"#,
            config.len()
        );
        let pushed = self.put_manifest("docker-v2", image, tag, &manifest).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
    }

    async fn pull_as_docker_1_9(&self, image: &str, tag: &str) -> Reply {
        self.send("GET", &format!("@docker-v2/v2/{image}/manifests/{tag}"), &[("User-Agent", DOCKER_1_9)], b"").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_1_9_pulls_whatever_docker_takes_for_an_image() {
    let backend = Backend::start().await;
    let layer = backend.push_blob("docker-v2", "team/app", &[7; 50]).await;
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [sha256(b"x")] } }).to_string();
    let layers = format!(r#","layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":50,"digest":"{layer}"}}]"#);
    // Docker 1.10 pushed the second; the third is a plugin's; some builders sent the others.
    for (tag, config_type) in [
        "application/vnd.docker.container.image.v1+json",
        "application/octet-stream",
        "application/vnd.docker.plugin.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/json",
        "text/html",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        backend.push_config("team/app", &tag.to_string(), &config, (config_type, &layers)).await;
        let pulled = backend.pull_as_docker_1_9("team/app", &tag.to_string()).await;
        assert_eq!(pulled.status, 200, "{config_type}: {}", pulled.text());
        assert_eq!(pulled.json()["fsLayers"], json!([{ "blobSum": layer }]), "{config_type}");
    }
    backend.push_config("team/app", "chart", &config, ("application/vnd.cncf.helm.config.v1+json", &layers)).await;
    assert_eq!(backend.pull_as_docker_1_9("team/app", "chart").await.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_dockers_pull_images_without_layers() {
    let backend = Backend::start().await;
    backend.rest("POST", "repositories/docker-v2", json!({ "serveV1": true })).await;
    let config_type = "application/vnd.docker.container.image.v1+json";
    let history = json!([{ "created": "2020-01-02T03:04:05Z", "created_by": "LABEL a=b", "empty_layer": true }]);
    for (tag, (rootfs, history, rest)) in [
        // As docker build writes it: the ids of no layers are left out.
        (json!({ "type": "layers" }), history.clone(), r#","layers":[]"#),
        (json!({ "type": "layers", "diff_ids": null }), history.clone(), r#","layers":null"#),
        (json!({ "type": "layers", "diff_ids": [] }), json!(null), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let tag = tag.to_string();
        let config =
            json!({ "architecture": "amd64", "os": "linux", "created": "2020-01-02T03:04:05Z", "config": { "Labels": { "a": "b" } },
            "rootfs": rootfs, "history": history })
            .to_string();
        backend.push_config("team/none", &tag, &config, (config_type, rest)).await;
        let pulled = backend.pull_as_docker_1_9("team/none", &tag).await;
        assert_eq!(pulled.status, 200, "{rest}: {}", pulled.text());
        assert_eq!(pulled.json()["fsLayers"], json!([{ "blobSum": EMPTY_LAYER }]), "{rest}");
        let json = pulled.json()["history"][0]["v1Compatibility"].as_str().unwrap().to_owned();
        assert!(json.contains(r#""Labels":{"a":"b"}"#) && json.contains(r#""throwaway":true"#), "{json}");
        assert_eq!(backend.get(&format!("@docker-v2/v2/team/none/blobs/{EMPTY_LAYER}")).await.body.len(), 32);
        // And over V1.
        let pulled = backend.pull_v1("docker-v2", "team/none", &tag).await;
        let [(_, json, layer)] = pulled.as_slice() else { panic!("one image") };
        assert_eq!((&json["config"]["Labels"]["a"], sha256(layer)), (&json!("b"), EMPTY_LAYER.to_owned()));
    }
    // What is no image at all stays none.
    backend.push_config("team/none", "artifact", "{}", ("application/vnd.oci.empty.v1+json", r#","layers":[]"#)).await;
    backend.push_config("team/none", "odd", "{}", (config_type, r#","layers":[]"#)).await;
    for tag in ["artifact", "odd"] {
        assert_eq!(backend.pull_as_docker_1_9("team/none", tag).await.refusal(), (404, "MANIFEST_UNKNOWN".to_owned()));
        assert_eq!(backend.get(&format!("@docker-v2/v1/repositories/team/none/tags/{tag}")).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_say_what_they_are_or_nothing() {
    let backend = Backend::start().await;
    let subject = backend.push_image("docker-v2", "team/app", "1").await;
    let about = format!(r#""subject":{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}"#, sha256(subject.as_bytes()), subject.len());
    let config = format!(r#""config":{{"mediaType":"application/vnd.example.config","digest":"{}","size":2}}"#, sha256(b"{}"));
    let (oci, index) = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json");
    for (tag, media_type, text) in [
        ("a", oci, format!(r#"{{"schemaVersion":2,"mediaType":"{oci}","artifactType":"",{config},"layers":[],{about}}}"#)),
        ("b", index, format!(r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[],{about}}}"#)),
        ("c", index, format!(r#"{{"schemaVersion":2,"mediaType":"{index}","artifactType":"","manifests":null,{about}}}"#)),
        ("d", oci, format!(r#"{{"schemaVersion":2,"mediaType":"{oci}",{config},"annotations":{{"a":null}},{about}}}"#)),
    ] {
        let path = format!("@docker-v2/v2/team/app/manifests/{tag}");
        let pushed = backend.send("PUT", &path, &[("Content-Type", media_type)], text.as_bytes()).await;
        assert_eq!(pushed.status, 201, "{tag}: {}", pushed.text());
    }
    let listed = backend.get(&format!("@docker-v2/v2/team/app/referrers/{}", sha256(subject.as_bytes()))).await.json();
    let manifests = listed["manifests"].as_array().unwrap();
    let types: Vec<_> = manifests.iter().map(|one| (one["mediaType"].as_str().unwrap(), one.get("artifactType"))).collect();
    let config_type = json!("application/vnd.example.config");
    assert_eq!(types.iter().filter(|one| **one == (oci, Some(&config_type))).count(), 2, "{listed}");
    assert_eq!(types.iter().filter(|one| **one == (index, None)).count(), 2, "{listed}");
    assert!(manifests.iter().any(|one| one["annotations"] == json!({ "a": "" })), "{listed}");
}

/// A member of a layer: its name, what it is, its mode and its content or target.
type Member = (&'static str, u8, u32, &'static [u8]);

/// How one version of docker writes what it pushes.
#[derive(Clone, Copy)]
struct Hand {
    version: &'static str,
    /// What its config has beside what is in it: fields that this version knows.
    knows: &'static str,
    /// What the image has beside that.
    image_knows: &'static str,
    /// Whether it writes `./a` for `a`, the names of users, what a member is into its mode, and the last member first.
    dotted: bool,
    names_users: bool,
    plain_modes: bool,
    backwards: bool,
    packs: bool,
    /// Whether it claims tarsums rather than payload checksums.
    claims_tarsums: bool,
}

const HANDS: [Hand; 7] = [
    hand("0.10.0", r#","Memory":0,"MemorySwap":0,"CpuShares":0,"Cpuset":"","PortSpecs":null,"OnBuild":null"#, r#","Size":0"#, 0b00001),
    hand("1.0.1", r#","Memory":0,"MemorySwap":0,"CpuShares":0,"Cpuset":"","OnBuild":[],"Tty":false"#, r#","Size":1843"#, 0b00101),
    hand("1.3.3", r#","Memory":0,"MemorySwap":0,"SecurityOpt":null"#, r#","Size":2048,"Checksum":"""#, 0b01000),
    hand("1.5.0", r#","MacAddress":"","Memory":0,"OnBuild":null"#, "", 0b10010),
    hand("1.6.2", r#","MacAddress":"","Labels":{},"OnBuild":null"#, r#","author":null"#, 0b11001),
    hand("1.8.3", r#","Labels":null,"VolumeDriver":"""#, r#","layer_id":"sha256:x","parent_id":"""#, 0b10100),
    hand("1.9.1", r#","Labels":null,"Entrypoint":null,"StopSignal":"""#, r#","author":"","Size":77"#, 0b11111),
];

const fn hand(version: &'static str, knows: &'static str, image_knows: &'static str, how: u8) -> Hand {
    Hand {
        version,
        knows,
        image_knows,
        dotted: how & 0b00100 != 0,
        names_users: how & 0b00010 != 0,
        plain_modes: how & 0b01000 != 0,
        backwards: how & 0b10000 != 0,
        packs: how & 0b00010 != 0 || how & 0b01000 != 0,
        claims_tarsums: how & 0b00001 != 0,
    }
}

impl Hand {
    fn json(&self, id: &str, parent: Option<&str>) -> String {
        let parent = parent.map(|parent| format!(r#","parent":"{parent}""#)).unwrap_or_default();
        let fields = format!(r#""created":"2014-06-09T22:28:19.77Z","os":"linux"{}"#, self.image_knows);
        let config = format!(r#""config":{{"Cmd":["/bin/sh","-c","a \u003e b"],"Volumes":{{"/data":{{}}}}{}}}"#, self.knows);
        let named = format!(r#""id":"{id}"{parent}"#);
        match self.backwards {
            true => format!("{{{config},{fields},{named}}}\n").replace(r"\u003e", ">"),
            false => format!("{{{named},{fields},{config}}}"),
        }
    }

    /// The layer, and the tarsum of it with a JSON.
    fn layer(&self, members: &[Member], json: &str) -> (Vec<u8>, String) {
        let (mut archive, mut sums) = (Vec::new(), Vec::new());
        let mut members = members.to_vec();
        if self.backwards {
            members.reverse();
        }
        for (name, kind, mode, content) in members {
            let name = if self.dotted { format!("./{name}") } else { name.to_owned() };
            let bits = match kind {
                _ if self.plain_modes => 0,
                b'5' => 0o040_000,
                b'2' => 0o120_000,
                _ => 0o100_000,
            };
            let (target, content) = if kind == b'2' { (content, &b""[..]) } else { (&b""[..], content) };
            let user = if self.names_users { "root" } else { "" };
            let mut block = [0_u8; 512];
            let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
            put(0, name.as_bytes());
            put(100, format!("{:07o}", bits | mode).as_bytes());
            put(108, b"0000000");
            put(116, b"0000000");
            put(124, format!("{:011o}", content.len()).as_bytes());
            put(136, format!("{:011o}", 1_400_000_000).as_bytes());
            put(148, b"        ");
            put(156, &[kind]);
            put(157, target);
            put(257, b"ustar\x0000");
            put(265, user.as_bytes());
            put(297, user.as_bytes());
            put(329, b"0000000");
            put(337, b"0000000");
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            archive.extend(block);
            archive.extend(content);
            archive.resize(archive.len().next_multiple_of(512), 0);
            let header = format!(
                "name{name}mode{}uid0gid0size{}mtime1400000000typeflag{}linkname{}uname{user}gname{user}devmajor0devminor0",
                bits | mode,
                content.len(),
                char::from(kind),
                String::from_utf8_lossy(target),
            );
            sums.push(hex(&[header.as_bytes(), content].concat()));
        }
        archive.resize(archive.len() + 1024, 0);
        sums.sort();
        let tarsum = format!("tarsum+sha256:{}", hex(&[json.as_bytes(), sums.concat().as_bytes()].concat()));
        if self.packs {
            use std::io::Write as _;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&archive).unwrap();
            archive = encoder.finish().unwrap();
        }
        (archive, tarsum)
    }
}

const LAYERS: [&[Member]; 3] = [
    &[("bin/", b'5', 0o755, b""), ("bin/sh", b'0', 0o4755, b"#!"), ("bin/ash", b'2', 0o777, b"sh")],
    &[("etc/", b'5', 0o755, b""), ("etc/motd", b'0', 0o644, b"hello\n")],
    &[(".wh.tmp", b'0', 0o644, b""), ("data/", b'5', 0o1777, b"")],
];

/// Pushes the chain as one docker does, root first. `step` is awaited before each of its steps.
async fn push_as(backend: &Backend, (hand, authorization): (Hand, &str), (salt, image): (&str, &str), step: &tokio::sync::Barrier) {
    let agent = format!("docker/{} go/go1.4.2 os/linux arch/amd64", hand.version);
    let send = async |method: &str, path: String, extra: &[(&str, &str)], body: &[u8]| {
        let headers = [&[("Authorization", authorization), ("User-Agent", agent.as_str())], extra].concat();
        let reply = backend.send(method, &format!("@docker-v1/v1/{path}"), &headers, body).await;
        (reply.status, reply.text())
    };
    let ids: Vec<String> = (0..LAYERS.len()).map(|depth| sha256(format!("{salt} {depth}").as_bytes()).replace("sha256:", "")).collect();
    let listed: Vec<_> = ids.iter().map(|id| json!({ "id": id })).collect();
    let version = hand.version;
    let begun = send("PUT", format!("repositories/{image}/"), &[("X-Docker-Token", "true")], json!(listed).to_string().as_bytes()).await;
    assert_eq!(begun.0, 200, "{version} begins: {}", begun.1);
    for (depth, id) in ids.iter().enumerate() {
        let json = hand.json(id, depth.checked_sub(1).map(|below| ids[below].as_str()));
        let (layer, tarsum) = hand.layer(LAYERS[depth], &json);
        step.wait().await;
        let reply = send("PUT", format!("images/{id}/json"), &[], json.as_bytes()).await;
        step.wait().await;
        if reply == (409, r#"{"error":"Image already exists"}"#.to_owned()) {
            step.wait().await;
            continue;
        }
        assert_eq!(reply.0, 200, "{version} sends the JSON: {}", reply.1);
        let reply = send("PUT", format!("images/{id}/layer"), &[], &layer).await;
        assert_eq!(reply.0, 200, "{version} sends the layer: {}", reply.1);
        step.wait().await;
        let payload = format!("sha256:{}", hex(&[json.as_bytes(), b"\n", &layer].concat()));
        let claim = if hand.claims_tarsums { ("X-Docker-Checksum", tarsum) } else { ("X-Docker-Checksum-Payload", payload) };
        let reply = send("PUT", format!("images/{id}/checksum"), &[(claim.0, &claim.1)], b"").await;
        assert_eq!(reply.0, 200, "{version} claims {}: {}", claim.0, reply.1);
    }
    let top = format!("\"{}\"", ids[ids.len() - 1]);
    let reply = send("PUT", format!("repositories/{image}/tags/1"), &[], top.as_bytes()).await;
    assert_eq!(reply.0, 200, "{version} tags: {}", reply.1);
    let reply = send("PUT", format!("repositories/{image}/images"), &[], b"[]").await;
    assert_eq!(reply.0, 204, "{version} ends: {}", reply.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_versions_of_docker_push_one_chain_at_once_and_all_succeed() {
    let backend = Arc::new(Backend::start().await);
    for number in 0..HANDS.len() {
        let made = backend.rest("PUT", &format!("security/users/docker{number}"), json!({ "password": "a horse of its own" })).await;
        assert_eq!(made.status, 201, "{}", made.text());
        backend.permit(&format!("docker{number}"), "docker-v1", "**", &format!("docker{number}"), "rwd").await;
    }
    for round in 0..12 {
        // As one user or each as its own, step by step together or as it comes.
        let (is_one_user, is_in_step) = (round % 2 == 0, round % 4 < 2);
        let step = Arc::new(tokio::sync::Barrier::new(if is_in_step { HANDS.len() } else { 1 }));
        let salt = format!("round {round}");
        let pushes: Vec<_> = (0..HANDS.len())
            .map(|number| {
                let (backend, step, salt) = (Arc::clone(&backend), Arc::clone(&step), salt.clone());
                let authorization =
                    if is_one_user { basic("admin", PASSWORD) } else { basic(&format!("docker{number}"), "a horse of its own") };
                tokio::spawn(async move {
                    let image = format!("team/app{number}");
                    push_as(&backend, (HANDS[number], &authorization), (&salt, &image), &step).await;
                })
            })
            .collect();
        for push in pushes {
            tokio::time::timeout(std::time::Duration::from_secs(60), push).await.expect("one of the others has failed").unwrap();
        }
        // What came first stays: JSON and layer of one docker each, the same for all names.
        let mut seen: Vec<_> = Vec::new();
        for number in 0..HANDS.len() {
            seen.push(backend.pull_v1("docker-v1", &format!("team/app{number}"), "1").await);
        }
        assert!(seen.iter().all(|pulled| *pulled == seen[0]), "{salt}");
        for (depth, (id, _, layer)) in seen[0].iter().enumerate() {
            let (id, parent) = (id.as_str(), depth.checked_sub(1).map(|below| seen[0][below].0.as_str()));
            let stored = backend.get(&format!("@docker-v1/v1/images/{id}/json")).await.text();
            assert!(HANDS.iter().any(|hand| hand.json(id, parent) == stored), "{stored}");
            assert!(HANDS.iter().any(|hand| hand.layer(LAYERS[depth], "").0 == *layer), "{salt}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_repository_tells_who_cannot_go_on_to_v1_what_it_speaks() {
    let backend = Backend::start().await;
    for path in ["@docker-v1/v2/", "@docker-v1/v2/team/app/manifests/1", "@docker-v1/v2/team/app/blobs/uploads/"] {
        for docker in ["docker/1.10.3 go/go1.5.3", "docker/1.11.2 go/go1.5.4", DOCKER_1_12, DOCKER_1_13, DOCKER_17_05] {
            let reply = backend.send("GET", path, &[("User-Agent", docker), ("Authorization", "")], b"").await;
            assert_eq!((reply.status, reply.text().as_str()), (404, "404 page not found\n"), "{docker}");
            assert_eq!(reply.header("Docker-Distribution-Api-Version"), None, "{docker}");
        }
        for client in
            [DOCKER_1_9, "docker/17.06.0-ce go/go1.8.3", DOCKER_20_10, "docker/29.1.0 go/go1.25", "skopeo/1.9", "containerd/2.1", ""]
        {
            let reply = backend.send("GET", path, &[("User-Agent", client), ("Authorization", "")], b"").await;
            assert_eq!(reply.refusal(), (404, "NAME_UNKNOWN".to_owned()), "{client}");
            assert!(
                reply.json()["errors"][0]["message"].as_str().unwrap().starts_with("this repository speaks Docker V1; use "),
                "{client}"
            );
            assert_eq!((reply.header("Docker-Distribution-Api-Version"), reply.header("Content-Type")), (None, Some("application/json")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_1_5_hears_that_no_blob_is_called_by_a_tarsum() {
    let backend = Backend::start().await;
    let sum = "0".repeat(64);
    for tarsum in [format!("tarsum.v1+sha256:{sum}"), format!("tarsum.dev+sha256:{sum}"), format!("tarsum+sha256:{sum}")] {
        let path = format!("@docker-v2/v2/team/app/blobs/{tarsum}");
        let looked = backend.send("HEAD", &path, &[], b"").await;
        assert_eq!(looked.status, 404, "{tarsum}");
        let reply = backend.get(&path).await;
        assert_eq!(reply.refusal(), (404, "BLOB_UNKNOWN".to_owned()));
        assert!(reply.json()["errors"][0]["message"].as_str().unwrap().contains("docker 1.6"), "{}", reply.text());
        // It begins an upload, and ends it under such a name.
        let begun = backend.send("POST", "@docker-v2/v2/team/app/blobs/uploads/", &[], b"").await;
        let upload = begun.header("Location").unwrap().split_once("/v2/").unwrap().1.to_owned();
        let ended = backend.send("PUT", &format!("@docker-v2/v2/{upload}?digest={}", tarsum.replace('+', "%2B")), &[], b"layer").await;
        assert_eq!(ended.refusal(), (400, "DIGEST_INVALID".to_owned()));
        assert!(ended.json()["errors"][0]["message"].as_str().unwrap().contains("docker 1.6"), "{}", ended.text());
    }
    for odd in ["tarsumsha256:0", "tarsum", "sha256:tarsum.v1"] {
        assert_eq!(
            backend.get(&format!("@docker-v2/v2/team/app/blobs/{odd}")).await.refusal(),
            (400, "DIGEST_INVALID".to_owned()),
            "{odd}"
        );
    }
}
