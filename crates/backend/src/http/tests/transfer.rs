//! Uploads and downloads that are cut, repeated, resumed and shared, as clients do it.

use serde_json::json;

use super::access::basic;
use super::*;

impl Backend {
    /// Begins an upload and sends its first bytes. Where it goes on.
    async fn begin(&self, image: &str, bytes: &[u8]) -> String {
        let begun = self.send("POST", &format!("@docker-v2/v2/{image}/blobs/uploads/"), &[], b"").await;
        let path = format!("@docker-v2{}", begun.header("Location").unwrap());
        if !bytes.is_empty() {
            let range = format!("0-{}", bytes.len() - 1);
            assert_eq!(self.send("PATCH", &path, &[("Content-Range", &range)], bytes).await.status, 202);
        }
        path
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_put_belongs_where_it_says_and_if_that_is_not_the_end_the_upload_lives() {
    let backend = Backend::start().await;
    let digest = sha256(b"0123456789abcde");
    let path = backend.begin("a", b"0123456789").await;
    let finish = format!("{path}?digest={digest}");
    let put = async |range: &str, bytes: &[u8]| backend.send("PUT", &finish, &[("Content-Range", range)], bytes).await;
    // The answer to the chunk was lost, or one in between was.
    for (range, bytes) in [("0-9", &b"0123456789"[..]), ("bytes 0-9/*", b"0123456789"), ("12-16", b"abcde"), ("11-15", b""), ("0-8", b"")] {
        let refused = put(range, bytes).await;
        assert_eq!(refused.refusal(), (416, "BLOB_UPLOAD_INVALID".into()), "{range}");
        assert_eq!(refused.header("Range"), Some("0-9"), "{range}");
        assert_eq!(refused.header("Location").map(|place| format!("@docker-v2{place}")), Some(path.clone()));
        let status = backend.get(&path).await;
        assert_eq!((status.status, status.header("Range")), (204, Some("0-9")), "{range}");
    }
    assert_eq!(put("10", b"abcde").await.refusal(), (400, "BLOB_UPLOAD_INVALID".into()));
    assert_eq!(put("10-14", b"abcde").await.status, 201);
    assert_eq!(backend.get(&format!("@docker-v2/v2/a/blobs/{digest}")).await.text(), "0123456789abcde");

    // Another length than announced is no reason to lose what came.
    let path = backend.begin("a", b"0123456789").await;
    let finish = format!("{path}?digest={digest}");
    let refused = backend.send("PUT", &finish, &[("Content-Range", "10-15")], b"abcde").await;
    assert_eq!(refused.refusal(), (400, "SIZE_INVALID".into()));
    assert_eq!(backend.get(&path).await.header("Range"), Some("0-14"));
    assert_eq!(backend.send("PUT", &finish, &[], b"").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_closes_with_nothing_may_say_what_came_last_or_what_would_come_next() {
    let backend = Backend::start().await;
    let digest = sha256(b"0123456789");
    for range in ["0-9", "5-9", "10-10", "10-20"] {
        let path = backend.begin("a", b"0123456789").await;
        let closed = backend.send("PUT", &format!("{path}?digest={digest}"), &[("Content-Range", range)], b"").await;
        assert_eq!(closed.status, 201, "{range}: {}", closed.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_put_that_is_repeated_because_its_answer_was_lost_is_answered_the_same() {
    let backend = Backend::start().await;
    let digest = sha256(b"0123456789");
    let path = backend.begin("team/app", b"01234").await;
    let finish = format!("{path}?digest={digest}");
    let first = backend.send("PUT", &finish, &[("Content-Range", "5-9")], b"56789").await;
    let again = backend.send("PUT", &finish, &[("Content-Range", "5-9")], b"56789").await;
    for name in ["Location", "Docker-Content-Digest"] {
        assert_eq!((again.status, again.header(name)), (201, first.header(name)));
    }
    // What is not there was not finished.
    let unknown = format!("{path}?digest={}", sha256(b"other"));
    assert_eq!(backend.send("PUT", &unknown, &[], b"").await.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    let elsewhere = finish.replace("team/app", "team/other");
    assert_eq!(backend.send("PUT", &elsewhere, &[], b"").await.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    // Who may push but not read learns nothing of what is there.
    let bob = backend.add_bob("docker-v2", "team/**", "w").await;
    assert_eq!(backend.as_user(&bob, "PUT", &finish, b"").await.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_challenge_to_a_mount_names_the_source_too() {
    let backend = Backend::start().await;
    let blob = backend.push_blob("docker-bearer", "base", b"shared").await;
    let mount = |from: &str| format!("@docker-bearer/v2/team/app/blobs/uploads/?mount={blob}{from}");
    let scope = async |authorization: &str, from: &str| {
        let asked = backend.as_user(authorization, "POST", &mount(from), b"").await;
        assert_eq!(asked.status, 401, "{from}");
        asked.header("WWW-Authenticate").unwrap().split_once("scope=").unwrap().1.to_owned()
    };
    let both = "\"repository:team/app:pull,push repository:base:pull\"";
    assert_eq!(scope("", "&from=base").await, both);
    for none in ["", "&from=", "&from=Base", "&from=a%22b"] {
        assert_eq!(scope("", none).await, "\"repository:team/app:pull,push\"", "{none}");
    }
    // A token that was asked for before the mount was thought of does not do, and the client is told which would.
    let admin = basic("admin", PASSWORD);
    let narrow = backend.bearer("docker-bearer", &admin, "repository:team/app:pull,push").await;
    assert_eq!(scope(&narrow, "&from=base").await, format!("{both},error=\"insufficient_scope\""));
    let wide = backend.bearer("docker-bearer", &admin, "repository:team/app:pull,push%20repository:base:pull").await;
    assert_eq!(backend.as_user(&wide, "POST", &mount("&from=base"), b"").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_names_no_source_finds_one_that_its_account_may_read() {
    let backend = Backend::start().await;
    let secret = backend.push_blob("docker-v2", "private/app", b"private bytes").await;
    let shared = backend.push_blob("docker-v2", "private/app", b"shared bytes").await;
    backend.push_blob("docker-v2", "zoo/app", b"shared bytes").await;
    let elsewhere = backend.push_blob("docker-open", "zoo/app", b"elsewhere").await;
    let bob = backend.add_bob("docker-v2", "team/**", "rw").await;
    backend.permit("zoo", "docker-v2", "zoo/**", "bob", "r").await;
    let mount = async |who: &str, digest: &str| {
        backend.as_user(who, "POST", &format!("@docker-v2/v2/team/app/blobs/uploads/?mount={digest}"), b"").await
    };
    let refused = [mount(&bob, &secret).await, mount(&bob, &elsewhere).await, mount(&bob, &sha256(b"nothing")).await];
    assert!(refused.iter().all(|reply| reply.status == 202));
    let mounted = mount(&bob, &shared).await;
    assert_eq!((mounted.status, mounted.header("Location")), (201, Some(format!("/v2/team/app/blobs/{shared}").as_str())));
    assert_eq!(mounted.header("Docker-Content-Digest"), Some(shared.as_str()));
    assert_eq!(backend.as_user(&bob, "GET", &format!("@docker-v2/v2/team/app/blobs/{shared}"), b"").await.text(), "shared bytes");
    // A token can't have been issued for a source that nobody has named.
    let token = backend.bearer("docker-v2", &basic("admin", PASSWORD), "repository:team/app:pull,push").await;
    assert_eq!(mount(&token, &secret).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_sent_under_the_conditions_of_http_whoever_serves_it() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "team/app", "1").await;
    backend.push_v1_chain().await;
    let layer = format!("@docker-v2/v2/team/app/blobs/{}", sha256(&[7; 100]));
    let id = super::life::id('2');
    for path in [
        layer.clone(),
        "@docker-v2/v2/team/app/manifests/1".to_owned(),
        format!("@docker-v2/v2/team/app/manifests/{}", sha256(manifest.as_bytes())),
        format!("@docker-v1/v1/images/{id}/json"),
        format!("@docker-v1/v1/images/{id}/layer"),
        format!("@docker-v1/v1/images/{id}/ancestry"),
        "/artifactory/docker-v2/team/app/1/manifest.json".to_owned(),
        format!("/artifactory/docker-v1/.images/22/{id}/layer"),
        "/artifactory/api/openapi.json".to_owned(),
    ] {
        let etag = backend.get(&path).await.header("ETag").unwrap_or_else(|| panic!("{path}")).to_owned();
        let weak = format!("W/{etag}");
        let list = format!("\"x\", {etag}");
        for method in ["GET", "HEAD"] {
            let ask = async |name: &str, value: &str| {
                let reply = backend.send(method, &path, &[(name, value)], b"").await;
                if reply.status == 304 {
                    assert_eq!((reply.header("ETag"), reply.body.len()), (Some(etag.as_str()), 0), "{method} {path}");
                }
                reply.status
            };
            for value in [&etag, &weak, &list, "*"] {
                assert_eq!(ask("If-None-Match", value).await, 304, "{method} {path} {value}");
            }
            assert_eq!(ask("If-None-Match", "\"x\"").await, 200, "{method} {path}");
            for (value, status) in [(etag.as_str(), 200), (&list, 200), ("*", 200), ("\"x\"", 412), (&weak, 412)] {
                assert_eq!(ask("If-Match", value).await, status, "{method} {path} {value}");
            }
        }
    }
    let refused = backend.send("GET", &layer, &[("If-Match", "\"x\"")], b"").await;
    assert_eq!(refused.refusal(), (412, "UNSUPPORTED".into()));
    // What is not there is not there, under any condition.
    let absent = format!("@docker-v2/v2/team/app/blobs/{}", sha256(b"absent"));
    assert_eq!(backend.send("GET", &absent, &[("If-None-Match", "*")], b"").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_known_by_its_date_too() {
    let backend = Backend::start().await;
    backend.push_image("docker-v2", "team/app", "1").await;
    let path = "/artifactory/docker-v2/team/app/1/manifest.json";
    let modified = backend.get(path).await.header("Last-Modified").unwrap().to_owned();
    let ask = async |name: &str, value: &str| backend.send("GET", path, &[(name, value)], b"").await.status;
    assert_eq!(ask("If-Modified-Since", &modified).await, 304);
    assert_eq!(ask("If-Modified-Since", "Tue, 15 Nov 1994 12:45:26 GMT").await, 200);
    assert_eq!(ask("If-Unmodified-Since", &modified).await, 200);
    assert_eq!(ask("If-Unmodified-Since", "Tue, 15 Nov 1994 12:45:26 GMT").await, 412);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_resumed_only_if_it_is_still_the_same() {
    let backend = Backend::start().await;
    let first = backend.push_image("docker-v2", "team/app", "latest").await;
    let path = "/artifactory/docker-v2/team/app/latest/manifest.json";
    let begun = backend.get(path).await;
    let (etag, modified) = (begun.header("ETag").unwrap().to_owned(), begun.header("Last-Modified").unwrap().to_owned());
    let resume = async |condition: &str| backend.send("GET", path, &[("Range", "bytes=50-"), ("If-Range", condition)], b"").await;
    let rest = resume(&etag).await;
    assert_eq!((rest.status, rest.text()), (206, first[50..].to_owned()));
    // The tag moves: what the client has is the beginning of something else.
    let layer = backend.push_blob("docker-v2", "team/app", &[8; 100]).await;
    let second = image_manifest(&sha256(b"{}"), 2, &layer, 100);
    assert_eq!(backend.put_manifest("docker-v2", "team/app", "latest", &second).await.status, 201);
    for condition in [etag.as_str(), "\"x\"", "W/\"x\"", "x", "*", &modified] {
        let whole = resume(condition).await;
        assert_eq!((whole.status, whole.text()), (200, second.clone()), "{condition}");
    }
    let now = backend.get(path).await.header("ETag").unwrap().to_owned();
    assert_eq!(resume(&format!("W/{now}")).await.status, 200);
    assert_eq!(resume(&now).await.text(), second[50..]);
    // A part is had by GET only.
    let head = backend.send("HEAD", path, &[("Range", "bytes=50-")], b"").await;
    assert_eq!((head.status, head.header("Content-Length")), (200, Some(second.len().to_string().as_str())));
}

/// The parts of a body: what each says of itself, and its bytes.
fn parts(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let boundary = reply.header("Content-Type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let body = text.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    let (first, between) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}\r\n"));
    let read = |part: &str| part.split_once("\r\n\r\n").map(|(head, bytes)| (head.to_owned(), bytes.as_bytes().to_vec())).unwrap();
    body.strip_prefix(&first).unwrap().split(&between).map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_of_a_blob_come_in_one_answer_and_no_byte_twice() {
    let backend = Backend::start().await;
    for size in [1000_usize, 700_000] {
        let content: Vec<u8> = (0..size).map(|i| b'a' + (i % 26) as u8).collect();
        let digest = backend.push_blob("docker-v2", "a", &content).await;
        let path = format!("@docker-v2/v2/a/blobs/{digest}");
        let ask = async |range: &str| backend.send("GET", &path, &[("Range", range)], b"").await;
        let reply = ask("bytes=10-19, 500-509, -5").await;
        assert_eq!(reply.status, 206);
        assert_eq!((reply.header("Content-Range"), reply.header("Docker-Content-Digest")), (None, Some(digest.as_str())));
        assert_eq!(reply.header("Content-Length"), Some(reply.body.len().to_string().as_str()));
        let part = |from: usize, to: usize| {
            let head = format!("Content-Type: application/octet-stream\r\nContent-Range: bytes {from}-{}/{size}", to - 1);
            (head, content[from..to].to_vec())
        };
        assert_eq!(parts(&reply), [part(10, 20), part(500, 510), part(size - 5, size)]);
        // Many times the same is once.
        let often = ask(&format!("bytes={}", vec!["0-9"; 60].join(","))).await;
        assert_eq!((often.status, often.header("Content-Range")), (206, Some(format!("bytes 0-9/{size}").as_str())));
        assert!(often.body == content[..10]);
        let many = ask(&format!("bytes={}", (0..65).map(|at| format!("{0}-{0}", 2 * at)).collect::<Vec<_>>().join(","))).await;
        assert_eq!((many.status, many.body.len()), (200, size));
        assert_eq!(ask("bytes=500-0").await.status, 416);
        assert_eq!(ask(&format!("bytes={size}-,-0")).await.header("Content-Range"), Some(format!("bytes */{size}").as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_takes_what_is_stored() {
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "a", b"{}").await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI, "layers": [],
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
    });
    let put = backend.send("PUT", "@docker-v2/v2/a/manifests/1", &[("Content-Type", OCI)], manifest.to_string().as_bytes()).await;
    assert_eq!(put.status, 201);
    for (accept, status) in [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws, */*", 200),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws, application/*;q=0.2", 200),
        ("*/*", 200),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", 404),
    ] {
        let pulled = backend.send("GET", "@docker-v2/v2/a/manifests/1", &[("Accept", accept)], b"").await;
        assert_eq!(pulled.status, status, "{accept}: {}", pulled.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_parameter_that_is_there_twice_the_first_counts() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "a", "t0").await;
    backend.put_manifest("docker-v2", "a", "t1", &manifest).await;
    let page = backend.get("@docker-v2/v2/a/tags/list?n=1&n=2&last=&last=t1").await;
    assert_eq!(page.json()["tags"], json!(["t0"]));
    let form = b"grant_type=password&username=admin&username=bob&password=x";
    assert_eq!(backend.send("POST", "@docker-v2/v2/token", &[("Authorization", "")], form).await.refusal(), (400, "UNSUPPORTED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_spelt_as_everybody_spells_them() {
    let backend = Backend::start().await;
    backend.push_image("docker-v2", "team/app", "1").await;
    let pulled = backend.get("@docker-v2/v2/team/app/manifests/1").await;
    let has = |reply: &Reply, name: &str| reply.headers.iter().any(|(seen, _)| seen == name);
    for name in ["Docker-Content-Digest", "Docker-Distribution-Api-Version", "Content-Type", "Content-Length", "Date"] {
        assert!(has(&pulled, name), "{name}: {:?}", pulled.headers);
    }
    let ping = backend.send("GET", "@docker-v1/v1/_ping", &[("Authorization", "")], b"").await;
    assert!(has(&ping, "X-Docker-Registry-Version"), "{:?}", ping.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_need_not_be_escaped_in_a_path_is_read_as_itself() {
    let backend = Backend::start().await;
    let digest = backend.push_blob("docker-v2", "case/x", b"hello").await;
    let escaped = digest.replace(':', "%3A");
    assert_eq!(backend.get(&format!("@docker-v2/v2/case/x/blobs/{escaped}")).await.text(), "hello");
    assert_eq!(backend.get(&format!("@docker%2Dv2/%76%32/case/%78/blobs/{digest}?a=%61")).await.text(), "hello");
    for refused in ["case%2Fx/blobs", "case/x%2e/blobs", "case/%5cx/blobs", "case/x%00/blobs", "case/%2578/blobs"] {
        let reply = backend.get(&format!("@docker-v2/v2/{refused}/{digest}")).await;
        assert_eq!(reply.refusal(), (400, "NAME_INVALID".into()), "{refused}");
    }
    let user = json!({ "password": "a good one, is it not" });
    assert_eq!(backend.rest("PUT", "security/users/jane.doe%40example.com", user).await.status, 201);
    assert_eq!(
        backend.rest("GET", "security/users/jane.doe@example.com", serde_json::Value::Null).await.json()["name"],
        "jane.doe@example.com"
    );
}
