//! An address of all repositories, where names begin with the key of one.

use serde_json::json;

use super::access::basic;
use super::*;

/// What a client at such an address sends to this path.
fn all(path: &str) -> String {
    format!("@_all{path}")
}

/// The path that an answer leads to, which must be one at the client's own address.
fn location(reply: &Reply) -> String {
    reply.header("Location").unwrap_or_else(|| panic!("{}: {}", reply.status, reply.text())).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_that_leads_on_carries_the_key() {
    let backend = Backend::start().await;
    let begun = backend.send("POST", &all("/v2/docker-v2/team/app/blobs/uploads/"), &[], b"").await;
    let upload = location(&begun);
    assert!(upload.starts_with("/v2/docker-v2/team/app/blobs/uploads/"), "{upload}");
    // Each answer is followed as a client would follow it.
    let sent = backend.send("PATCH", &all(&upload), &[], b"{}").await;
    assert_eq!((sent.status, location(&sent)), (202, upload.clone()));
    let status = backend.send("GET", &all(&upload), &[], b"").await;
    assert_eq!((status.status, location(&status)), (204, upload.clone()));
    let gap = backend.send("PATCH", &all(&upload), &[("Content-Range", "9-9")], b"x").await;
    assert_eq!((gap.status, location(&gap)), (416, upload.clone()));
    let config = sha256(b"{}");
    let finished = backend.send("PUT", &all(&format!("{upload}?digest={config}")), &[], b"").await;
    assert_eq!((finished.status, location(&finished)), (201, format!("/v2/docker-v2/team/app/blobs/{config}")));
    assert_eq!(backend.get(&all(&location(&finished))).await.text(), "{}");
    let layer = sha256(&[7; 100]);
    let at_once = all(&format!("/v2/docker-v2/team/app/blobs/uploads/?digest={layer}"));
    let at_once = backend.send("POST", &at_once, &[], &[7; 100]).await;
    assert_eq!((at_once.status, location(&at_once)), (201, format!("/v2/docker-v2/team/app/blobs/{layer}")));
    let manifest = image_manifest(&config, 2, &layer, 100);
    for tag in ["1", "2"] {
        let path = all(&format!("/v2/docker-v2/team/app/manifests/{tag}"));
        let put = backend.send("PUT", &path, &[("Content-Type", MANIFEST)], manifest.as_bytes()).await;
        assert_eq!((put.status, location(&put)), (201, format!("/v2/docker-v2/team/app/manifests/{}", sha256(manifest.as_bytes()))));
        assert_eq!(backend.get(&all(&location(&put))).await.text(), manifest);
    }
    let tags = backend.get(&all("/v2/docker-v2/team/app/tags/list?n=1")).await;
    assert_eq!(tags.json(), json!({ "name": "docker-v2/team/app", "tags": ["1"] }));
    assert_eq!(tags.header("Link"), Some("</v2/docker-v2/team/app/tags/list?n=1&last=1>; rel=\"next\""));
    // The same image at the repository's own address, under its own name.
    let own = backend.get("@docker-v2/v2/team/app/tags/list").await;
    assert_eq!(own.json(), json!({ "name": "team/app", "tags": ["1", "2"] }));
    // Old dockers need the whole URL.
    let old = [("User-Agent", "docker/1.6.2 go/go1.4.2")];
    let begun = backend.send("POST", &all("/v2/docker-v2/team/app/blobs/uploads/"), &old, b"").await;
    assert!(location(&begun).starts_with("https://r.example:444/v2/docker-v2/team/app/blobs/uploads/"));
    // Without a front the path in front of `v2/` stays.
    let path = all("/v2/docker-v2/team/app/blobs/uploads/");
    let direct = backend.send("POST", &path, &[("X-Forwarded-Proto", "")], b"").await;
    assert_eq!(direct.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_leads_to_a_token_for_exactly_the_repositories_it_names() {
    let backend = Backend::start().await;
    backend.push_image("docker-bearer", "team/app", "1").await;
    backend.push_image("docker-v2", "team/app", "1").await;
    let bob = backend.add_bob("docker-bearer", "**", "rw").await;
    backend.permit("more", "docker-v2", "**", "bob", "rw").await;
    let challenged = |reply: &Reply| (reply.status, reply.header("WWW-Authenticate").unwrap_or("none").to_owned());
    let realm = "Bearer realm=\"https://r.example:444/v2/token\",service=\"r.example:444\"";
    let ping = backend.as_user("", "GET", &all("/v2/"), b"").await;
    assert_eq!(challenged(&ping), (401, realm.to_owned()));
    // Even of a repository whose own address asks for a password: docker looks at the ping only.
    for (key, scope) in [("docker-bearer", "docker-bearer"), ("docker-v2", "docker-v2"), ("docker-absent", "docker-absent")] {
        let asked = backend.as_user("", "GET", &all(&format!("/v2/{key}/team/app/manifests/1")), b"").await;
        assert_eq!(challenged(&asked), (401, format!("{realm},scope=\"repository:{scope}/team/app:pull\"")));
    }
    let get =
        async |token: &str, key: &str| backend.as_user(token, "GET", &all(&format!("/v2/{key}/team/app/manifests/1")), b"").await.status;
    let one = backend.bearer("_all", &bob, "repository:docker-bearer/team/app:pull").await;
    assert_eq!((get(&one, "docker-bearer").await, get(&one, "docker-v2").await), (200, 401));
    assert_eq!(backend.as_user(&one, "GET", &all("/v2/"), b"").await.status, 200);
    let push = backend.as_user(&one, "POST", &all("/v2/docker-bearer/team/app/blobs/uploads/"), b"").await;
    let scope = "scope=\"repository:docker-bearer/team/app:pull,push\",error=\"insufficient_scope\"";
    assert_eq!(challenged(&push), (401, format!("{realm},{scope}")));
    let both = "repository:docker-bearer/team/app:pull,push&scope=repository:docker-v2/team/app:pull";
    let both = backend.bearer("_all", &bob, both).await;
    assert_eq!((get(&both, "docker-bearer").await, get(&both, "docker-v2").await), (200, 200));
    let start = async |token: &str, key: &str| {
        backend.as_user(token, "POST", &all(&format!("/v2/{key}/team/app/blobs/uploads/")), b"").await.status
    };
    assert_eq!((start(&both, "docker-bearer").await, start(&both, "docker-v2").await), (202, 401));
    // It is good at this address only, and a token of a repository's own address is none here.
    assert_eq!(backend.as_user(&both, "GET", "@docker-bearer/v2/team/app/manifests/1", b"").await.status, 401);
    let own = backend.bearer("docker-bearer", &bob, "repository:team/app:pull&scope=repository:docker-bearer/team/app:pull").await;
    assert_eq!((get(&own, "docker-bearer").await, backend.as_user(&own, "GET", &all("/v2/"), b"").await.status), (401, 401));
    let elsewhere = [("Authorization", both.as_str()), ("Host", "other.example:444")];
    assert_eq!(backend.send("GET", &all("/v2/docker-bearer/team/app/manifests/1"), &elsewhere, b"").await.status, 401);
    // A scope without a repository is none.
    let none = backend.bearer("_all", &bob, "repository:app:pull&scope=repository:docker-absent/team/app:pull").await;
    assert_eq!(get(&none, "docker-bearer").await, 401);
    assert_eq!(get(&none, "docker-absent").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_login_works_with_an_account_that_has_no_rights_yet_and_with_a_right_password_only() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-bearer", "none", "r").await;
    let path = all("/v2/token?account=bob&client_id=docker&offline_token=true&service=x");
    let login = backend.as_user(&bob, "GET", &path, b"").await;
    let bearer = format!("Bearer {}", login.json()["token"].as_str().unwrap());
    assert_eq!(backend.as_user(&bearer, "GET", &all("/v2/"), b"").await.status, 200);
    let refresh = login.json()["refresh_token"].as_str().unwrap().to_owned();
    let form = format!("grant_type=refresh_token&service=x&scope=repository%3Adocker-bearer%2Fnone%3Apull&refresh_token={refresh}");
    assert_eq!(backend.as_user("", "POST", &all("/v2/token"), form.as_bytes()).await.status, 200);
    assert_eq!(backend.as_user("", "POST", "@docker-bearer/v2/token", form.as_bytes()).await.status, 401);
    assert_eq!(backend.as_user(&basic("bob", "wrong"), "GET", &path, b"").await.status, 401);
    assert_eq!(backend.as_user(&basic("bob", "wrong"), "GET", &all("/v2/"), b"").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_may_pull_is_pulled_without_an_account() {
    let backend = Backend::start().await;
    backend.push_image("docker-open", "app", "1").await;
    backend.push_image("docker-bearer", "app", "1").await;
    assert_eq!(backend.as_user("", "GET", &all("/v2/"), b"").await.status, 401);
    let scopes = "repository:docker-open/app:pull,push&scope=repository:docker-bearer/app:pull&scope=registry:catalog:*";
    let nobody = backend.bearer("_all", "", scopes).await;
    assert_eq!(backend.as_user(&nobody, "GET", &all("/v2/"), b"").await.status, 200);
    assert_eq!(backend.as_user(&nobody, "GET", &all("/v2/docker-open/app/manifests/1"), b"").await.status, 200);
    assert_eq!(backend.as_user(&nobody, "GET", &all("/v2/docker-bearer/app/manifests/1"), b"").await.status, 401);
    assert_eq!(backend.as_user(&nobody, "POST", &all("/v2/docker-open/app/blobs/uploads/"), b"").await.status, 401);
    for who in [nobody.as_str(), ""] {
        let catalog = backend.as_user(who, "GET", &all("/v2/_catalog"), b"").await;
        assert_eq!(catalog.json(), json!({ "repositories": ["docker-open/app"] }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_from_another_repository_is_an_upload() {
    let backend = Backend::start().await;
    let blob = backend.push_blob("docker-v2", "base", b"shared bytes").await;
    backend.push_blob("docker-bearer", "base", b"shared bytes").await;
    let mount = async |to: &str, from: &str| {
        let path = all(&format!("/v2/{to}/team/app/blobs/uploads/?mount={blob}&from={from}"));
        backend.send("POST", &path, &[], b"").await
    };
    let mounted = mount("docker-v2", "docker-v2/base").await;
    assert_eq!((mounted.status, location(&mounted)), (201, format!("/v2/docker-v2/team/app/blobs/{blob}")));
    for from in ["docker-v2/base", "docker-absent/base", "docker-bearer/none", "base"] {
        let begun = mount("docker-bearer", from).await;
        assert_eq!(begun.status, 202, "{from}");
        assert!(location(&begun).starts_with("/v2/docker-bearer/team/app/blobs/uploads/"));
    }
    assert_eq!(backend.get(&all(&format!("/v2/docker-bearer/team/app/blobs/{blob}"))).await.status, 404);
    // What is no name names no source.
    for from in ["docker-v2/Base", ""] {
        assert_eq!(mount("docker-v2", from).await.status, 202, "{from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_has_what_the_caller_may_read_of_all_repositories_page_by_page() {
    let mut backend = Backend::start().await;
    backend.config += "[[repository]]\nkey = \"docker\"\napi_version = \"V2\"\n";
    backend.restart().await;
    for (key, image) in [("docker", "b"), ("docker-v2", "a"), ("docker-v2", "team/x"), ("docker-open", "a"), ("docker", "a/a")] {
        backend.push_image(key, image, "1").await;
    }
    let names = ["docker-open/a", "docker-v2/a", "docker-v2/team/x", "docker/a/a", "docker/b"];
    assert_eq!(backend.get(&all("/v2/_catalog")).await.json(), json!({ "repositories": names }));
    for size in 1..=6 {
        let (mut path, mut seen) = (format!("/v2/_catalog?n={size}"), Vec::new());
        loop {
            let page = backend.get(&all(&path)).await;
            let listed = page.json()["repositories"].as_array().unwrap().clone();
            assert!(!listed.is_empty() && listed.len() <= size, "{path}");
            seen.extend(listed.iter().map(|name| name.as_str().unwrap().to_owned()));
            let Some(link) = page.header("Link") else { break };
            path = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap().0.to_owned();
        }
        assert_eq!(seen, names, "pages of {size}");
    }
    for (last, expected) in
        [("docker-v2/a", &names[2..]), ("docker-w", &names[3..]), ("docker-", &names[..]), ("docker/b", &[]), ("z", &[])]
    {
        let page = backend.get(&all(&format!("/v2/_catalog?last={last}"))).await;
        assert_eq!(page.json(), json!({ "repositories": expected }), "{last}");
    }
    assert_eq!(backend.get(&all("/v2/_catalog?n=0")).await.json(), json!({ "repositories": [] }));
    assert_eq!(backend.get(&all("/v2/_catalog?n=-1")).await.refusal(), (400, "UNSUPPORTED".into()));
    assert_eq!(backend.get(&all("/v2/_catalog?n=99999999999999999999")).await.json()["repositories"], json!(names));
    let bob = backend.add_bob("docker-v2", "team/**", "r").await;
    let listed = backend.as_user(&bob, "GET", &all("/v2/_catalog"), b"").await;
    assert_eq!(listed.json(), json!({ "repositories": ["docker-open/a", "docker-v2/team/x"] }));
    let narrow = backend.bearer("_all", &bob, "repository:docker-v2/team/x:pull").await;
    let refused = backend.as_user(&narrow, "GET", &all("/v2/_catalog"), b"").await;
    assert_eq!(refused.status, 401);
    assert!(refused.header("WWW-Authenticate").unwrap().ends_with("scope=\"registry:catalog:*\",error=\"insufficient_scope\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_v1_is_not_there_and_v1_is_refused_in_its_own_form() {
    let backend = Backend::start().await;
    for path in ["/v1/_ping", "/v1/users/", "/v1/repositories/docker-v1/app/images", &format!("/v1/images/{ID}/json"), "/v1/promote"] {
        let refused = backend.get(&all(path)).await;
        assert_eq!(refused.status, 404, "{path}");
        let body = refused.json();
        assert!(body["error"].as_str().unwrap().contains("speaks V2") && body.as_object().unwrap().len() == 1, "{path}: {body}");
    }
    // Whoever is not logged in can't tell a repository that speaks V1 from one that is not there.
    for who in ["", &basic("admin", PASSWORD)] {
        let [v1, absent] = ["docker-v1", "docker-absent"].map(|key| all(&format!("/v2/{key}/app/tags/list")));
        let (v1, absent) = (backend.as_user(who, "GET", &v1, b"").await, backend.as_user(who, "GET", &absent, b"").await);
        // But for the name, which is the client's own.
        assert_eq!((v1.status, v1.text().replace("docker-v1", "docker-absent")), (absent.status, absent.text()));
    }
    // A name without its repository is what people get wrong first: they are told.
    let plain = backend.get(&all("/v2/ubuntu/manifests/latest")).await;
    assert_eq!(plain.refusal(), (404, "NAME_UNKNOWN".into()));
    assert!(plain.text().contains("<repository>/<image>"));
    assert_eq!(backend.send("PUT", &all("/v2/_catalog"), &[], b"").await.refusal(), (405, "UNSUPPORTED".into()));
}
