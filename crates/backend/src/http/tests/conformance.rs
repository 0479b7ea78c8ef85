//! What the OCI distribution specification demands of a registry, where no other test stands for it (`docs/conformance.md`).

use super::*;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The codes of the specification, and the two of docker's first schema that it lets pass.
const CODES: [&str; 16] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
    "TAG_INVALID",
    "MANIFEST_UNVERIFIED",
];

/// Panics if an answer to a V2 request breaks a rule that all of them have to keep.
pub(super) fn check(path_and_query: &str, reply: &Reply) {
    if let Some(problem) = problem(path_and_query, reply) {
        panic!("{path_and_query} answered {}: {problem}: {}", reply.status, reply.text());
    }
}

fn problem(path_and_query: &str, reply: &Reply) -> Option<&'static str> {
    let is_v2 = match route::target(path_and_query.split('?').next().unwrap_or_default()) {
        Ok(route::Target::Docker(target)) => target.api == route::Api::V2,
        Ok(_) => false,
        Err((api, _)) => api == route::Api::V2,
    };
    if !is_v2 {
        return None;
    }
    if reply.header("Warning").is_some() {
        return Some("a warning that nobody has written a test for");
    }
    let kind = reply.header("Content-Type").unwrap_or_default();
    if !(400..500).contains(&reply.status) || !kind.starts_with("application/json") || reply.body.is_empty() {
        return None;
    }
    let body = reply.json();
    let Some(errors) = body["errors"].as_array().filter(|errors| !errors.is_empty()) else { return Some("no list of errors") };
    let is_known = |error: &serde_json::Value| error["code"].as_str().is_some_and(|code| CODES.contains(&code));
    if errors.iter().any(|error| !is_known(error)) {
        return Some("a code that the specification does not have");
    }
    let has_text = |error: &serde_json::Value| error.get("message").is_none_or(serde_json::Value::is_string);
    if errors.iter().all(has_text) { None } else { Some("a message that is no text") }
}

#[test]
fn a_refusal_that_is_not_as_the_specification_has_it_is_found() {
    let reply = |status, kind: &str, body: &str| Reply {
        status,
        headers: vec![("Content-Type".to_owned(), kind.to_owned())],
        body: body.as_bytes().to_vec(),
    };
    let path = "/artifactory/api/docker/docker-v2/v2/a/tags/list?n=x";
    for (expected, status, kind, body) in [
        (None, 400, "application/json", r#"{"errors":[{"code":"UNSUPPORTED","message":"x","detail":null}]}"#),
        (None, 404, "text/plain", "404 page not found\n"),
        (None, 503, "application/json", r#"{"errors":[{"code":"UNAVAILABLE","message":"x"}]}"#),
        (Some("a code"), 400, "application/json", r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID","message":"x"}]}"#),
        (Some("a code"), 400, "application/json", r#"{"errors":[{"status":400,"message":"x"}]}"#),
        (Some("no list"), 400, "application/json", r#"{"error":"x"}"#),
        (Some("a message"), 400, "application/json", r#"{"errors":[{"code":"UNSUPPORTED","message":1}]}"#),
    ] {
        let found = problem(path, &reply(status, kind, body));
        assert!(found.unwrap_or("nothing").starts_with(expected.unwrap_or("nothing")), "{body}: {found:?}");
    }
}

/// Where a `Location` of the backend's leads, as tests write it.
fn at(repository: &str, reply: &Reply) -> String {
    format!("@{repository}{}", reply.header("Location").expect("a Location"))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_blob_is_said_to_be_it_is_whichever_way_it_came() {
    let backend = Backend::start().await;
    let uploads = "@docker-v2/v2/a/blobs/uploads/";
    let mut places = std::collections::BTreeSet::new();
    for (number, way) in ["post", "put", "patch", "patch and put", "mount"].into_iter().enumerate() {
        let bytes = [number as u8; 300];
        let digest = sha256(&bytes);
        let done = match way {
            "post" => backend.send("POST", &format!("{uploads}?digest={digest}"), &[], &bytes).await,
            "mount" => {
                backend.push_blob("docker-v2", "elsewhere", &bytes).await;
                backend.send("POST", &format!("{uploads}?mount={digest}&from=elsewhere"), &[], b"").await
            }
            _ => {
                let begun = backend.send("POST", uploads, &[], b"").await;
                assert_eq!(begun.status, 202);
                let place = at("docker-v2", &begun);
                // Each upload has a place of its own, and no chunk is too small.
                assert!(places.insert(place.clone()) && begun.header("OCI-Chunk-Min-Length").is_none());
                let cut = match way {
                    "put" => 0,
                    "patch" => bytes.len(),
                    _ => 1,
                };
                let mut place = place;
                if cut > 0 {
                    let range = format!("0-{}", cut - 1);
                    let sent = backend.send("PATCH", &place, &[("Content-Range", &range)], &bytes[..cut]).await;
                    assert_eq!((sent.status, sent.header("Range")), (202, Some(range.as_str())));
                    place = at("docker-v2", &sent);
                }
                backend.send("PUT", &format!("{place}?digest={digest}"), &[], &bytes[cut..]).await
            }
        };
        assert_eq!((done.status, done.header("Docker-Content-Digest")), (201, Some(digest.as_str())), "{way}: {}", done.text());
        let found = backend.get(&at("docker-v2", &done)).await;
        assert!(found.status == 200 && found.body == bytes, "{way}");
        assert_eq!(found.header("Docker-Content-Digest"), Some(digest.as_str()));
        let head = backend.send("HEAD", &at("docker-v2", &done), &[], b"").await;
        assert_eq!(
            (head.status, head.header("Content-Length"), head.header("Docker-Content-Digest")),
            (200, Some("300"), Some(digest.as_str()))
        );
    }
    let absent = format!("@docker-v2/v2/a/blobs/{}", sha256(b"absent"));
    for method in ["GET", "HEAD", "DELETE"] {
        assert_eq!(backend.send(method, &absent, &[], b"").await.status, 404, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_comes_back_under_its_type_whatever_parameters_it_was_pushed_with() {
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "a", b"{}").await;
    // White space and the order of fields are the client's.
    let manifest = format!(
        "{{ \"layers\" : [], \"schemaVersion\":2,\n\t\"config\":{{\"size\":2,\"mediaType\":\"c/t\",\"digest\":\"{config}\"}},\"mediaType\":\"{OCI}\" }}\n"
    );
    let digest = sha256(manifest.as_bytes());
    for (reference, kind) in [("1", format!("{OCI}; charset=utf-8")), (digest.as_str(), OCI.to_owned()), ("2", String::new())] {
        let path = format!("@docker-v2/v2/a/manifests/{reference}");
        let pushed = backend.send("PUT", &path, &[("Content-Type", &kind)], manifest.as_bytes()).await;
        assert_eq!((pushed.status, pushed.header("Docker-Content-Digest")), (201, Some(digest.as_str())), "{kind}");
        for place in [at("docker-v2", &pushed), path] {
            let found = backend.get(&place).await;
            assert_eq!((found.status, found.text().as_str(), found.header("Content-Type")), (200, manifest.as_str(), Some(OCI)));
        }
    }
    for absent in ["@docker-v2/v2/a/manifests/3", "@docker-v2/v2/nothing/manifests/1"] {
        for method in ["GET", "HEAD", "DELETE"] {
            assert_eq!(backend.send(method, absent, &[], b"").await.status, 404, "{method} {absent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_may_have_four_mebibytes_and_not_a_byte_more() {
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "a", b"{}").await;
    let start =
        format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"c/t","size":2,"digest":"{config}"}},"layers":[],"annotations":{{"x":""#);
    for (length, expected) in [(4 << 20, 201), ((4 << 20) + 1, 413)] {
        let manifest = format!("{start}{}\"}}}}", "x".repeat(length - start.len() - 3));
        assert_eq!(manifest.len(), length);
        let pushed = backend.send("PUT", "@docker-v2/v2/a/manifests/large", &[("Content-Type", OCI)], manifest.as_bytes()).await;
        assert_eq!(pushed.status, expected, "{length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_name_tag_or_digest_is_refused() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "a", "1").await;
    let (long, longer) = ("t".repeat(128), "t".repeat(129));
    for (reference, expected) in
        [("_A.b-C", 201), (&long, 201), (&longer, 400), (".a", 400), ("-a", 400), ("sha256:baddigeststring", 400), ("a:b", 400)]
    {
        let pushed = backend.put_manifest("docker-v2", "a", reference, &manifest).await;
        assert_eq!(pushed.status, expected, "{reference}: {}", pushed.text());
    }
    for name in ["a--b", "a__b", "a.b_c-d/e"] {
        assert_eq!(backend.send("POST", &format!("@docker-v2/v2/{name}/blobs/uploads/"), &[], b"").await.status, 202, "{name}");
    }
    for name in ["A", "a..b", "a___b", "-a", "a/-b"] {
        let refused = backend.send("POST", &format!("@docker-v2/v2/{name}/blobs/uploads/"), &[], b"").await;
        assert_eq!(refused.refusal(), (400, "NAME_INVALID".into()), "{name}");
    }
    assert_eq!(backend.get("@docker-v2/v2/a/blobs/sha256:00").await.refusal(), (400, "DIGEST_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_in_order_from_where_the_client_says() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "team/app", "b").await;
    for tag in ["a", "C", "1.10", "1.9"] {
        backend.put_manifest("docker-v2", "team/app", tag, &manifest).await;
    }
    let all = ["1.10", "1.9", "C", "a", "b"];
    for (query, tags, more) in [
        ("", &all[..], false),
        ("?n=5", &all, false),
        ("?n=6", &all, false),
        ("?n=2", &all[..2], true),
        ("?n=0", &[], false),
        ("?n=0&last=1.9", &[], false),
        ("?last=1.9", &all[2..], false),
        ("?last=b", &[], false),
        // What is behind a tag that is not there is behind where it would be.
        ("?n=2&last=1.9.9", &all[2..4], true),
    ] {
        let list = backend.get(&format!("@docker-v2/v2/team/app/tags/list{query}")).await;
        assert_eq!((list.status, list.header("Content-Type")), (200, Some("application/json")));
        assert_eq!(list.json(), serde_json::json!({ "name": "team/app", "tags": tags }), "{query}");
        assert_eq!(list.header("Link").is_some(), more, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_may_come_before_what_they_are_about_and_are_told_apart_by_their_type() {
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "a", b"{}").await;
    let subject = image_manifest(&config, 2, &backend.push_blob("docker-v2", "a", &[7; 100]).await, 100);
    let about = sha256(subject.as_bytes());
    let referrers = format!("@docker-v2/v2/a/referrers/{about}");
    // The list is there before anything is, even before the image.
    for path in [referrers.as_str(), &format!("@docker-v2/v2/nothing/referrers/{about}")] {
        let none = backend.get(path).await;
        assert_eq!((none.status, none.header("Content-Type")), (200, Some(INDEX)));
        assert_eq!(none.json(), serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }));
    }
    assert_eq!(backend.get("@docker-v2/v2/a/referrers/sha256:00").await.refusal(), (400, "DIGEST_INVALID".into()));
    let end = format!(r#""subject":{{"mediaType":"{MANIFEST}","size":{},"digest":"{about}"}},"annotations":{{"a":"b"}}}}"#, subject.len());
    let image = |artifact_type: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI}",{artifact_type}"config":{{"mediaType":"c/t","size":2,"digest":"{config}"}},"layers":[],{end}"#
        )
    };
    let index = |artifact_type: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}",{artifact_type}"manifests":[],{end}"#);
    let mut expected = Vec::new();
    for (kind, manifest, artifact_type) in [
        (OCI, image(r#""artifactType":"x/sig","#), Some("x/sig")),
        (OCI, image(""), Some("c/t")),
        (INDEX, index(r#""artifactType":"x/list","#), Some("x/list")),
    ] {
        let digest = sha256(manifest.as_bytes());
        let pushed =
            backend.send("PUT", &format!("@docker-v2/v2/a/manifests/{digest}"), &[("Content-Type", kind)], manifest.as_bytes()).await;
        assert_eq!((pushed.status, pushed.header("OCI-Subject")), (201, Some(about.as_str())), "{}", pushed.text());
        expected.push((digest, kind, manifest.len(), artifact_type));
    }
    assert_eq!(backend.put_manifest("docker-v2", "a", "1", &subject).await.status, 201);
    let found = backend.get(&referrers).await.json();
    assert_eq!(found["manifests"].as_array().unwrap().len(), expected.len());
    for (digest, kind, size, artifact_type) in &expected {
        let one = found["manifests"].as_array().unwrap().iter().find(|one| one["digest"] == digest.as_str()).unwrap();
        assert_eq!(
            (&one["mediaType"], &one["size"], &one["annotations"]),
            (&(*kind).into(), &(*size).into(), &serde_json::json!({ "a": "b" }))
        );
        assert_eq!(one["artifactType"].as_str(), *artifact_type);
        let filtered = backend.get(&format!("{referrers}?artifactType={}", artifact_type.unwrap())).await;
        assert_eq!(
            (filtered.json()["manifests"].clone(), filtered.header("OCI-Filters-Applied")),
            (serde_json::json!([one]), Some("artifactType"))
        );
    }
    // What is deleted is in no list, and its subject stays.
    assert_eq!(backend.send("DELETE", &format!("@docker-v2/v2/a/manifests/{}", expected[0].0), &[], b"").await.status, 202);
    assert_eq!(backend.get(&referrers).await.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(backend.get("@docker-v2/v2/a/manifests/1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cache_is_no_image_to_anybody_who_wants_one() {
    let backend = Backend::start().await;
    let layer = backend.push_blob("docker-v2", "cache", &[7; 100]).await;
    let config = backend.push_blob("docker-v2", "cache", b"{}").await;
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{layer}","size":100}},{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{config}","size":2}}]}}"#
    );
    let path = "@docker-v2/v2/cache/manifests/1";
    let pushed = backend.send("PUT", path, &[("Content-Type", INDEX)], index.as_bytes()).await;
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    let wrong = index.replace(r#""size":100"#, r#""size":101"#);
    assert_eq!(backend.send("PUT", path, &[("Content-Type", INDEX)], wrong.as_bytes()).await.refusal(), (400, "SIZE_INVALID".into()));
    // An old docker, and whoever looks into images, hears that there is none.
    let old = backend.send("GET", path, &[("User-Agent", "docker/1.9.1 go/go1.4.2")], b"").await;
    assert_eq!(old.refusal(), (404, "MANIFEST_UNKNOWN".into()));
    assert_eq!(backend.rest("GET", "docker/docker-v2/v2/info?image=cache&tag=1", serde_json::Value::Null).await.status, 404);
    // Promoted, it brings its blobs; deleted, it lets them go.
    let promotion = serde_json::json!({ "targetRepo": "docker-open", "dockerRepository": "cache", "tag": "1", "copy": true });
    let promoted = backend.rest("POST", "docker/docker-v2/v2/promote", promotion).await;
    assert_eq!(promoted.status, 200, "{}", promoted.text());
    assert_eq!(backend.get(&format!("@docker-open/v2/cache/blobs/{layer}")).await.body, vec![7; 100]);
    assert_eq!(backend.send("DELETE", &format!("@docker-v2/v2/cache/blobs/{layer}"), &[], b"").await.refusal(), (409, "DENIED".into()));
    let by_digest = format!("@docker-v2/v2/cache/manifests/{}", sha256(index.as_bytes()));
    assert_eq!(backend.send("DELETE", &by_digest, &[], b"").await.status, 202);
    // Unless the collector was there first.
    let freed = backend.send("DELETE", &format!("@docker-v2/v2/cache/blobs/{layer}"), &[], b"").await.status;
    assert!(matches!(freed, 202 | 404), "{freed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_v1_get_answers_head_too_and_a_slash_at_the_end_changes_nothing() {
    const DOCKER: &str = "docker/1.9.1 go/go1.4.2 git-commit/a34a1d5 kernel/4.1.0 os/linux arch/amd64";
    let backend = Backend::start().await;
    push_v1(&backend, ID, &format!(r#"{{"id":"{ID}"}}"#)).await;
    for name in ["repositories/team/app", "repositories/team/app/"] {
        let begun = backend.send("PUT", &format!("@docker-v1/v1/{name}"), &[("X-Docker-Token", "true")], b"[]").await;
        assert_eq!((begun.status, begun.text().as_str(), begun.header("X-Docker-Endpoints")), (200, "\"\"", Some("r.example:444")));
    }
    let tag = "@docker-v1/v1/repositories/team/app/tags/1";
    let tagged = backend.send("PUT", tag, &[("User-Agent", DOCKER)], format!("\"{ID}\"").as_bytes()).await;
    assert_eq!((tagged.status, tagged.text().as_str()), (200, "true"));
    let about = backend.get(&format!("{tag}/json")).await.json();
    assert_eq!(
        (&about["docker_version"], &about["docker_go_version"], &about["os"], &about["arch"], &about["kernel"]),
        (&"1.9.1".into(), &"go1.4.2".into(), &"linux".into(), &"amd64".into(), &"4.1.0".into())
    );
    assert_eq!(backend.get("@docker-v1/v1/repositories/team/app/properties").await.json(), serde_json::json!({ "access": "private" }));
    let image = format!("images/{ID}");
    for path in [
        "_ping",
        "users",
        "users/",
        "search?q=app",
        "repositories/team/app/images",
        "repositories/team/app/tags",
        "repositories/team/app/tags/1",
        "repositories/team/app/tags/1/json",
        "repositories/team/app/json",
        "repositories/team/app/properties",
        &format!("{image}/json"),
        &format!("{image}/layer"),
        &format!("{image}/ancestry"),
    ] {
        let path = format!("@docker-v1/v1/{path}");
        let (got, head) = (backend.get(&path).await, backend.send("HEAD", &path, &[], b"").await);
        assert_eq!((got.status, head.status, head.body.len()), (200, 200, 0), "{path}");
        assert_eq!(head.header("Content-Length"), Some(got.body.len().to_string().as_str()), "{path}");
    }
    // What no docker asks for is not there, in a form that all of them read.
    for (method, path) in [
        ("PUT", "users/admin/"),
        ("GET", &format!("{image}/files")),
        ("GET", &format!("{image}/diff")),
        ("GET", &format!("private_{image}/json")),
    ] {
        let refused = backend.send(method, &format!("@docker-v1/v1/{path}"), &[], b"").await;
        assert!(matches!(refused.status, 404 | 405) && refused.json()["error"].is_string(), "{method} {path}: {}", refused.status);
    }
}
