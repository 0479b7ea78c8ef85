//! The tree, its files and what is said about them, through the front door.

use serde_json::{Value, json};

use super::life::{hex, id};
use super::*;

const STORAGE: &str = "/artifactory/api/storage";
const ORIGIN: &str = "https://r.example:444";

impl Backend {
    async fn info(&self, place: &str) -> Value {
        let found = self.get(&format!("{STORAGE}/{place}")).await;
        assert_eq!(found.status, 200, "{place}: {}", found.text());
        found.json()
    }

    /// The names of what is in a folder; folders with a slash at their end.
    async fn children(&self, place: &str) -> Vec<String> {
        let info = self.info(place).await;
        let describe = |child: &Value| {
            let slash = if child["folder"] == json!(true) { "/" } else { "" };
            format!("{}{slash}", child["uri"].as_str().unwrap())
        };
        info["children"].as_array().unwrap().iter().map(describe).collect()
    }

    async fn said(&self, place: &str) -> Value {
        let found = self.get(&format!("{STORAGE}/{place}?properties")).await;
        assert_eq!(found.status, 200, "{place}: {}", found.text());
        found.json()["properties"].clone()
    }

    /// A chain of two images, `jfrog/ubuntu:12.04` on the upper, `library/busybox:latest` on the lower.
    pub(super) async fn push_v1_chain(&self) {
        self.push_v1("docker-v1", &id('1'), None, b"lower").await;
        self.push_v1("docker-v1", &id('2'), Some(&id('1')), b"upper layer").await;
        self.tag_v1("docker-v1", "jfrog/ubuntu", "12.04", &id('2')).await;
        self.tag_v1("docker-v1", "busybox", "latest", &id('1')).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_repository_has_the_layout_that_the_vendor_documents() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    let upper = format!("docker-v1/.images/22/{}", id('2'));
    for (folder, children) in [
        ("docker-v1", vec!["/.images/".to_owned(), "/repositories/".to_owned()]),
        ("docker-v1/.images", vec!["/11/".to_owned(), "/22/".to_owned()]),
        ("docker-v1/.images/22", vec![format!("/{}/", id('2'))]),
        (&upper, ["/_checksum", "/ancestry", "/json", "/layer"].map(str::to_owned).to_vec()),
        ("docker-v1/repositories", vec!["/jfrog/".to_owned(), "/library/".to_owned()]),
        ("docker-v1/repositories/jfrog", vec!["/ubuntu/".to_owned()]),
        ("docker-v1/repositories/jfrog/ubuntu", vec!["/12.04/".to_owned()]),
        ("docker-v1/repositories/jfrog/ubuntu/12.04", vec!["/tag.json".to_owned()]),
        ("docker-v1/repositories/library/busybox", vec!["/latest/".to_owned()]),
    ] {
        assert_eq!(backend.children(folder).await, children, "{folder}");
    }
    let layer = backend.info(&format!("{upper}/layer")).await;
    for (field, value) in [
        ("repo", json!("docker-v1")),
        ("path", json!(format!("/.images/22/{}/layer", id('2')))),
        ("uri", json!(format!("{ORIGIN}{STORAGE}/{upper}/layer"))),
        ("downloadUri", json!(format!("{ORIGIN}/artifactory/{upper}/layer"))),
        ("size", json!("11")),
        ("mimeType", json!("application/octet-stream")),
    ] {
        assert_eq!(layer[field], value, "{field}");
    }
    assert_eq!(layer["checksums"]["sha256"], json!(hex(&Sha256::digest(b"upper layer"))));
    assert_eq!((layer["checksums"]["sha1"].as_str().unwrap().len(), layer["checksums"]["md5"].as_str().unwrap().len()), (40, 32));
    assert!(layer["created"].as_str().unwrap().ends_with('Z') && layer["lastModified"].is_string() && layer["lastUpdated"].is_string());
    // Every file can be had, by either name, whole or in part; and what its info says is what it is.
    for (name, other, content) in [
        ("layer", "layer.tar", "upper layer".to_owned()),
        ("json", "json.json", format!(r#"{{"id":"{}","parent":"{}"}}"#, id('2'), id('1'))),
        ("ancestry", "ancestry.json", json!([id('2'), id('1')]).to_string()),
    ] {
        for name in [name, other] {
            let place = format!("{upper}/{name}");
            assert_eq!(backend.get(&format!("/artifactory/{place}")).await.text(), content);
            assert_eq!(backend.info(&place).await["checksums"]["sha256"], json!(hex(&Sha256::digest(&content))));
        }
    }
    let part = backend.send("GET", &format!("/artifactory/{upper}/layer"), &[("Range", "bytes=6-10")], b"").await;
    assert_eq!((part.status, part.text().as_str(), part.header("Content-Range")), (206, "layer", Some("bytes 6-10/11")));
    let head = backend.send("HEAD", &format!("/artifactory/{upper}/layer"), &[], b"").await;
    assert_eq!((head.status, head.header("Content-Length"), head.body.len()), (200, Some("11"), 0));
    let etag = head.header("ETag").unwrap();
    assert_eq!(backend.send("GET", &format!("/artifactory/{upper}/layer"), &[("If-None-Match", etag)], b"").await.status, 304);
    let tag = backend.get("/artifactory/docker-v1/repositories/jfrog/ubuntu/12.04/tag.json").await.json();
    assert_eq!((&tag["id"], &tag["tag"]), (&json!(id('2')), &json!("12.04")));
    for absent in [
        "docker-v1/x",
        "docker-v1/.images/33",
        "docker-v1/.images/2",
        "docker-v1/.images/zz",
        "docker-v1/repositories/none",
        "docker-v1/repositories/jfrog/ubuntu/14.04",
        "docker-v1/repositories/jfrog/ubuntu/12.04/manifest.json",
        &format!("docker-v1/.images/11/{}", id('2')),
        &format!("{upper}/other"),
        &format!("{upper}/json/x"),
        "nowhere",
    ] {
        assert_eq!(backend.get(&format!("{STORAGE}/{absent}")).await.status, 404, "{absent}");
    }
    assert_eq!(backend.get(&format!("/artifactory/{upper}")).await.status, 404);
    for unsafe_path in ["docker-v1//repositories", "docker-v1/../docker-v2", "docker-v1/a%2fb"] {
        assert_eq!(backend.get(&format!("/artifactory/{unsafe_path}")).await.status, 400, "{unsafe_path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_repository_has_a_folder_for_each_tag_with_its_manifest_and_blobs() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "team/app", "1.0").await;
    backend.push_image("docker-v2", "team/app/sub", "2").await;
    backend.push_image("docker-v2", "web", "1").await;
    let (config, layer) = (sha256(b"{}").replace(':', "__"), sha256(&[7; 100]).replace(':', "__"));
    let mut files = vec!["/manifest.json".to_owned(), format!("/{config}"), format!("/{layer}")];
    files.sort();
    for (folder, children) in [
        ("docker-v2", vec!["/team/".to_owned(), "/web/".to_owned()]),
        ("docker-v2/team", vec!["/app/".to_owned()]),
        // Tags, and images below.
        ("docker-v2/team/app", vec!["/1.0/".to_owned(), "/sub/".to_owned()]),
        ("docker-v2/team/app/1.0", files),
    ] {
        assert_eq!(backend.children(folder).await, children, "{folder}");
    }
    let info = backend.info("docker-v2/team/app/1.0/manifest.json").await;
    let digest = hex(&Sha256::digest(&manifest));
    assert_eq!((&info["mimeType"], &info["size"]), (&json!(MANIFEST), &json!(manifest.len().to_string())));
    assert_eq!((&info["checksums"]["sha256"], &info["originalChecksums"]["sha256"]), (&json!(digest), &json!(digest)));
    let download = info["downloadUri"].as_str().unwrap().strip_prefix(ORIGIN).unwrap().to_owned();
    assert_eq!(backend.get(&download).await.text(), manifest);
    assert_eq!(backend.get(&format!("/artifactory/docker-v2/team/app/1.0/{layer}")).await.body, vec![7; 100]);

    let list = backend.get(&format!("{STORAGE}/docker-v2?list&deep=1")).await.json();
    let uris: Vec<&str> = list["files"].as_array().unwrap().iter().map(|file| file["uri"].as_str().unwrap()).collect();
    assert_eq!(uris.len(), 9);
    assert!(uris.contains(&"/team/app/1.0/manifest.json") && uris.contains(&format!("/team/app/sub/2/{layer}").as_str()));
    let of_layer = list["files"].as_array().unwrap().iter().find(|file| file["uri"] == json!(format!("/web/1/{layer}"))).unwrap().clone();
    assert_eq!((&of_layer["size"], &of_layer["folder"]), (&json!(100), &json!(false)));
    assert_eq!(of_layer["sha2"], json!(hex(&Sha256::digest([7; 100]))));
    let listed = async |query: &str| {
        let list = backend.get(&format!("{STORAGE}/docker-v2/team?{query}")).await.json();
        list["files"].as_array().unwrap().iter().map(|file| file["uri"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("list").await, Vec::<String>::new());
    assert_eq!(listed("list&listFolders=1").await, ["/app"]);
    assert_eq!(listed("list&listFolders=1&depth=2").await, ["/app", "/app/1.0", "/app/sub"]);
    assert_eq!(backend.get(&format!("{STORAGE}/docker-v2/team?list&depth=0")).await.status, 400);
    assert_eq!(backend.get(&format!("{STORAGE}/docker-v2/web/1/manifest.json?list")).await.status, 404);
    // An image of several platforms.
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{MANIFEST}","digest":"sha256:{digest}","size":{}}}]}}"#,
        manifest.len()
    );
    let path = "@docker-v2/v2/team/app/manifests/all";
    let pushed = backend.send("PUT", path, &[("Content-Type", "application/vnd.oci.image.index.v1+json")], index.as_bytes()).await;
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    let children = backend.children("docker-v2/team/app/all").await;
    assert_eq!(children, ["/list.manifest.json".to_owned(), format!("/sha256__{digest}")]);
    for name in ["list.manifest.json", "manifest.json"] {
        assert_eq!(backend.get(&format!("/artifactory/docker-v2/team/app/all/{name}")).await.text(), index);
    }
    assert_eq!(backend.get(&format!("/artifactory/docker-v2/team/app/all/sha256__{digest}")).await.text(), manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_are_set_read_and_deleted() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    backend.push_image("docker-v2", "team/app", "1").await;
    assert_eq!(
        backend.said(&format!("docker-v1/.images/22/{}", id('2'))).await,
        json!({ "docker.imageId": [id('2')], "docker.size": ["11"] })
    );
    for place in ["12.04", "12.04/tag.json"] {
        assert_eq!(
            backend.said(&format!("docker-v1/repositories/jfrog/ubuntu/{place}")).await,
            json!({ "docker.tag.name": ["12.04"], "docker.tag.content": [id('2')] })
        );
    }
    assert_eq!(backend.said("docker-v1/repositories/library/busybox").await, json!({ "docker.repoName": ["library/busybox"] }));
    let tag = backend.said("docker-v2/team/app/1/manifest.json").await;
    assert_eq!(
        (&tag["docker.manifest"], &tag["docker.repoName"], &tag["docker.size"]),
        (&json!(["1"]), &json!(["team/app"]), &json!(["102"]))
    );
    let none = backend.get(&format!("{STORAGE}/docker-v2/team?properties")).await;
    assert_eq!((none.status, none.json()["errors"][0]["message"].clone()), (404, json!("No properties could be found.")));

    let put = async |place: &str, query: &str| backend.send("PUT", &format!("{STORAGE}/{place}?{query}"), &[], b"").await;
    assert_eq!(put("docker-v2/team/app/1", "properties=qa=passed,signed;build=7").await.status, 204);
    let said = backend.get(&format!("{STORAGE}/docker-v2/team/app/1/manifest.json?properties=qa,build,none")).await;
    assert_eq!(said.json()["properties"], json!({ "qa": ["passed", "signed"], "build": ["7"] }));
    assert_eq!(said.json()["uri"], json!(format!("{ORIGIN}{STORAGE}/docker-v2/team/app/1/manifest.json")));
    // An image with all its tags, as long as nothing else is asked for.
    assert_eq!(put("docker-v2/team/app", "properties=owner=ops%5C,dev&recursive=0").await.status, 204);
    assert_eq!(backend.said("docker-v2/team/app").await, json!({ "owner": ["ops,dev"] }));
    assert_eq!(backend.said("docker-v2/team/app/1").await["owner"], json!(null));
    assert_eq!(put("docker-v2/team/app", "properties=owner=ops").await.status, 204);
    assert_eq!(backend.said("docker-v2/team/app/1").await["owner"], json!(["ops"]));
    let deleted = backend.send("DELETE", &format!("{STORAGE}/docker-v2/team/app/1?properties=qa,owner"), &[], b"").await;
    assert_eq!(deleted.status, 204);
    let said = backend.said("docker-v2/team/app/1").await;
    assert_eq!((&said["qa"], &said["owner"], &said["build"]), (&json!(null), &json!(null), &json!(["7"])));
    for (place, query) in [
        ("docker-v2/team/app/1", "properties=qa"),
        ("docker-v2/team/app/1", "properties="),
        ("docker-v2/team/app/1", "x=y"),
        ("docker-v2/team/app/1", "properties=docker.manifest=2"),
        ("docker-v2/team/app/1", "properties=a%20b=2"),
        ("docker-v2/team", "properties=qa=1"),
        ("docker-v2", "properties=qa=1"),
    ] {
        assert_eq!(put(place, query).await.status, 400, "{place} {query}");
    }
    assert_eq!(put("docker-v2/none/1", "properties=qa=1").await.status, 404);
    // What was said of a tag's content is not said of other content, and goes with it.
    backend.push_image("docker-v2", "team/app", "1").await;
    assert_eq!(backend.said("docker-v2/team/app/1").await["build"], json!(["7"]));
    let config = backend.push_blob("docker-v2", "team/app", b"{\"other\":1}").await;
    let layer = backend.push_blob("docker-v2", "team/app", &[7; 100]).await;
    assert_eq!(backend.put_manifest("docker-v2", "team/app", "1", &image_manifest(&config, 11, &layer, 100)).await.status, 201);
    assert_eq!(backend.said("docker-v2/team/app/1").await["build"], json!(null));

    for (query, status) in [("lastModified", 200), ("stats", 400), ("permissions", 400)] {
        assert_eq!(backend.get(&format!("{STORAGE}/docker-v2/team/app?{query}")).await.status, status, "{query}");
    }
    assert_eq!(backend.get(&format!("{STORAGE}/docker-v2/team?lastModified")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_or_a_tag_is_deleted_by_its_path() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    for tag in ["1", "2", "3"] {
        backend.push_image("docker-v2", "team/app", tag).await;
    }
    let delete = async |path: &str| backend.send("DELETE", &format!("/artifactory/{path}"), &[], b"").await.status;
    assert_eq!(delete("docker-v2/team/app/2").await, 204);
    assert_eq!(delete("docker-v2/team/app/2").await, 404);
    assert_eq!(delete("docker-v2/team").await, 400);
    assert_eq!(backend.get("@docker-v2/v2/team/app/tags/list").await.json()["tags"], json!(["1", "3"]));
    assert_eq!(delete("docker-v2/team/app/").await, 204);
    assert_eq!(delete("docker-v1/repositories/jfrog/ubuntu/12.04").await, 204);
    assert_eq!(delete("docker-v1/repositories/library/busybox").await, 204);
    assert_eq!(delete(&format!("docker-v1/.images/11/{}", id('1'))).await, 400);
    let freed = backend.collect().await;
    assert_eq!((&freed["v1Images"], &freed["manifests"]), (&json!(2), &json!(1)));
    assert_eq!(backend.children("docker-v2").await, Vec::<String>::new());
    assert_eq!(backend.children("docker-v1/.images").await, Vec::<String>::new());
    assert_eq!(backend.children("docker-v1/repositories").await, Vec::<String>::new());
    assert_eq!(backend.get(&format!("{STORAGE}/docker-v2/team/app")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_shows_and_changes_only_what_its_caller_may() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    backend.push_image("docker-v2", "team/app", "1").await;
    backend.push_image("docker-v2", "secret/app", "1").await;
    let bob = backend.add_bob("docker-v2", "team/**", "r").await;
    backend.permit("bobs-v1", "docker-v1", "library/**", "bob", "rn").await;
    let ask = async |method: &str, path: &str| backend.as_user(&bob, method, &format!("/artifactory/{path}"), b"").await;
    let children = async |place: &str| {
        let info = ask("GET", &format!("api/storage/{place}")).await.json();
        info["children"].as_array().unwrap().iter().map(|child| child["uri"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(children("docker-v2").await, ["/team"]);
    // Through `busybox` only the lower image is seen.
    assert_eq!(children("docker-v1/.images").await, ["/11"]);
    assert_eq!(children("docker-v1/repositories").await, ["/library"]);
    let listed = ask("GET", "api/storage/docker-v1?list&deep=1").await.text();
    assert!(listed.contains(&id('1')) && !listed.contains(&id('2')) && !listed.contains("jfrog"), "{listed}");
    let layer = sha256(&[7; 100]).replace(':', "__");
    for (path, status) in [
        ("docker-v2/team/app/1/manifest.json".to_owned(), 200),
        (format!("docker-v2/team/app/1/{layer}"), 200),
        ("docker-v2/secret/app/1/manifest.json".to_owned(), 404),
        (format!("docker-v2/secret/app/1/{layer}"), 404),
        ("docker-v2/none/app/1/manifest.json".to_owned(), 404),
        (format!("docker-v1/.images/11/{}/layer", id('1')), 200),
        (format!("docker-v1/.images/22/{}/layer", id('2')), 404),
        ("docker-v1/repositories/jfrog/ubuntu/12.04/tag.json".to_owned(), 404),
        ("docker-bearer/x".to_owned(), 404),
    ] {
        assert_eq!(ask("GET", &path).await.status, status, "{path}");
    }
    for (method, path, status) in [
        ("PUT", "api/storage/docker-v2/team/app/1?properties=qa=1".to_owned(), 403),
        ("DELETE", "api/storage/docker-v2/team/app/1?properties=qa".to_owned(), 403),
        ("PUT", "api/storage/docker-v2/secret/app/1?properties=qa=1".to_owned(), 404),
        ("PUT", "api/storage/docker-v1/repositories/library/busybox?properties=qa=1".to_owned(), 204),
        ("PUT", format!("api/storage/docker-v1/.images/11/{}?properties=qa=1", id('1')), 204),
        ("PUT", format!("api/storage/docker-v1/.images/22/{}?properties=qa=1", id('2')), 404),
        ("DELETE", "docker-v2/team/app/1".to_owned(), 403),
        ("DELETE", "docker-v2/secret/app/1".to_owned(), 404),
        ("DELETE", "docker-v1/repositories/library/busybox/latest".to_owned(), 403),
    ] {
        assert_eq!(ask(method, &path).await.status, status, "{method} {path}");
    }
    // Whoever has not logged in is asked to, whether there is something or not; where anybody may read, there is an answer.
    let nobody = async |method: &str, path: &str| backend.as_user("", method, &format!("/artifactory/{path}"), b"").await.status;
    for path in ["docker-v2/team/app/1/manifest.json", "docker-v2/none/1", "nowhere/x", "api/storage/docker-v2"] {
        assert_eq!(nobody("GET", path).await, 401, "{path}");
    }
    backend.push_image("docker-open", "app", "1").await;
    assert_eq!(nobody("GET", "docker-open/app/1/manifest.json").await, 200);
    assert_eq!(nobody("GET", "docker-open/none/1/manifest.json").await, 404);
    assert_eq!(nobody("PUT", "api/storage/docker-open/app/1?properties=qa=1").await, 401);
    assert_eq!(nobody("DELETE", "docker-open/app/1").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_of_v1_images_is_the_one_that_docker_shows() {
    let backend = Backend::start().await;
    backend.push_v1_chain().await;
    backend.push_v1("docker-v1", &id('3'), Some(&id('1')), &[0; 1_500_000]).await;
    backend.tag_v1("docker-v1", "busybox", "big", &id('3')).await;
    let ancestry = "/api/docker/docker-v1/v1/ancestry";
    let tree = backend.get(&format!("{ancestry}?image=jfrog/ubuntu&tag=12.04")).await.json();
    let images = tree["images"].as_array().unwrap();
    assert_eq!((images.len(), &images[0]["id"], &images[1]["id"]), (2, &json!(id('1')), &json!(id('2'))));
    assert_eq!((&images[0]["parent"], &images[1]["parent"], &images[0]["children"]), (&json!(null), &json!(id('1')), &json!([id('2')])));
    assert_eq!((&images[1]["size"], &images[1]["virtualSize"]), (&json!(11), &json!(16)));
    // All tags are placed on it, also those of other images.
    assert_eq!((&images[0]["tags"], &images[1]["tags"]), (&json!(["library/busybox:latest"]), &json!(["jfrog/ubuntu:12.04"])));
    let drawn = backend.send("GET", ancestry, &[("Accept", "text/plain")], b"").await;
    let expected = "\
└─111111111111 Virtual Size: 5 B Tags: busybox:latest
  ├─222222222222 Virtual Size: 16 B Tags: jfrog/ubuntu:12.04
  └─333333333333 Virtual Size: 1.5 MB Tags: busybox:big
";
    assert_eq!(drawn.text(), expected);
    for (path, status) in
        [("?image=none", 404), ("?image=jfrog/ubuntu&tag=none", 404), ("?tag=12.04", 400), ("?image=A", 400), ("?image=busybox", 200)]
    {
        assert_eq!(backend.get(&format!("{ancestry}{path}")).await.status, status, "{path}");
    }
    assert_eq!(backend.get("/api/docker/docker-v2/v1/ancestry").await.status, 400);
    let bob = backend.add_bob("docker-v1", "library/**", "r").await;
    let seen = backend.as_user(&bob, "GET", ancestry, b"").await.text();
    assert!(seen.contains("library/busybox") && !seen.contains("jfrog") && !seen.contains(&id('2').to_string()[..]), "{seen}");
    assert_eq!(backend.as_user(&bob, "GET", &format!("{ancestry}?image=jfrog/ubuntu"), b"").await.status, 404);
    let by_id = async |digit| backend.as_user(&bob, "GET", &format!("/api/docker/docker-v1/v1/info?id={}", id(digit)), b"").await.status;
    assert_eq!((by_id('1').await, by_id('2').await), (200, 404));
}

#[tokio::test(flavor = "multi_thread")]
async fn info_says_what_an_image_is_made_of_and_hides_what_is_empty() {
    let backend = Backend::start().await;
    let config = json!({
        "created": "2015-01-02T03:04:05Z", "author": "me", "architecture": "amd64", "os": "linux", "docker_version": "1.5.0",
        "config": {
            "Cmd": ["/bin/sh"], "Env": ["A=1"], "ExposedPorts": { "80/tcp": {} }, "Volumes": null, "Labels": {}, "User": "", "Memory": 0,
        },
    })
    .to_string();
    let digest = backend.push_blob("docker-v2", "app", config.as_bytes()).await;
    let layer = backend.push_blob("docker-v2", "app", &[7; 100]).await;
    let manifest = image_manifest(&digest, config.len(), &layer, 100);
    assert_eq!(backend.put_manifest("docker-v2", "app", "1", &manifest).await.status, 201);
    let info = backend.get("/api/docker/docker-v2/v2/info?image=app&tag=1").await.json();
    let expected = json!({
        "id": digest, "digest": sha256(manifest.as_bytes()), "mediaType": MANIFEST, "created": "2015-01-02T03:04:05Z", "author": "me",
        "architecture": "amd64", "os": "linux", "dockerVersion": "1.5.0", "command": ["/bin/sh"], "env": ["A=1"], "ports": ["80/tcp"],
        "layers": [{ "digest": layer, "size": 100 }], "size": 100,
    });
    assert_eq!(info, expected);
    let by_digest = format!("/api/docker/docker-v2/v2/info?image=app&digest={}", sha256(manifest.as_bytes()));
    assert_eq!(backend.get(&by_digest).await.json(), expected);
    // Of several platforms, the one that is asked for.
    let of = |architecture: &str| {
        json!({
            "mediaType": MANIFEST, "digest": sha256(manifest.as_bytes()), "size": manifest.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [of("arm64")] }).to_string();
    let headers = [("Content-Type", "application/vnd.oci.image.index.v1+json")];
    assert_eq!(backend.send("PUT", "@docker-v2/v2/app/manifests/all", &headers, index.as_bytes()).await.status, 201);
    let info = backend.get("/api/docker/docker-v2/v2/info?image=app&tag=all&platform=linux/arm64").await.json();
    assert_eq!(info["platforms"], json!([{ "platform": "linux/arm64", "digest": sha256(manifest.as_bytes()) }]));
    for (query, status) in [
        ("image=app&tag=all&platform=linux/amd64", 404),
        ("image=app&tag=1&platform=linux/arm64", 404),
        ("image=app&tag=none", 404),
        ("image=app", 400),
        ("tag=1", 400),
        ("image=app&digest=x", 400),
        ("image=app&tag=1&digest=x", 400),
    ] {
        assert_eq!(backend.get(&format!("/api/docker/docker-v2/v2/info?{query}")).await.status, status, "{query}");
    }

    backend.push_v1_chain().await;
    let json_of = format!(
        r#"{{"id":"{}","parent":"{}","author":"me","config":{{"Entrypoint":["/x"],"Volumes":{{"/data":{{}}}}}}}}"#,
        id('4'),
        id('1')
    );
    let path = format!("@docker-v1/v1/images/{}", id('4'));
    assert_eq!(backend.send("PUT", &format!("{path}/json"), &[], json_of.as_bytes()).await.status, 200);
    assert_eq!(backend.send("PUT", &format!("{path}/layer"), &[], b"top").await.status, 200);
    let sum = format!("sha256:{}", hex(&Sha256::digest([json_of.as_bytes(), b"\n", b"top"].concat())));
    assert_eq!(backend.send("PUT", &format!("{path}/checksum"), &[("X-Docker-Checksum-Payload", &sum)], b"").await.status, 200);
    backend.tag_v1("docker-v1", "app", "4", &id('4')).await;
    let info = backend.get("/api/docker/docker-v1/v1/info?image=app&tag=4").await.json();
    let expected = json!({
        "id": id('4'), "parent": id('1'), "author": "me", "entrypoint": ["/x"], "volumes": ["/data"], "size": 3, "virtualSize": 8,
        "layers": [{ "id": id('4'), "size": 3 }, { "id": id('1'), "size": 5 }],
        "uri": format!("{ORIGIN}{STORAGE}/docker-v1/.images/44/{}", id('4')),
    });
    assert_eq!(info, expected);
    assert_eq!(backend.get(&format!("/api/docker/docker-v1/v1/info?id={}", id('4'))).await.json(), expected);
    for (query, status) in [("image=app", 400), ("id=x", 400), ("image=app&tag=none", 404), ("", 400)] {
        assert_eq!(backend.get(&format!("/api/docker/docker-v1/v1/info?{query}")).await.status, status, "{query}");
    }
}
