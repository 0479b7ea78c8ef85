//! Who may do what, through the front door.

use serde_json::json;

use super::*;

pub(super) const BOB: &str = "bobs own horse";

pub(super) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

impl Backend {
    pub(super) async fn as_user(&self, authorization: &str, method: &str, path: &str, body: &[u8]) -> Reply {
        self.send(method, path, &[("Authorization", authorization)], body).await
    }

    /// Creates `bob`, who has these rights to the images of one repository that fit a pattern.
    pub(super) async fn add_bob(&self, repository: &str, pattern: &str, rights: &str) -> String {
        let made = self.rest("PUT", "security/users/bob", json!({ "password": BOB })).await;
        assert_eq!(made.status, 201, "{}", made.text());
        self.permit("bobs", repository, pattern, "bob", rights).await;
        basic("bob", BOB)
    }

    pub(super) async fn permit(&self, target: &str, repository: &str, pattern: &str, user: &str, rights: &str) {
        let letters: Vec<String> = rights.chars().map(String::from).collect();
        let target = format!("security/permissions/{target}");
        let body = json!({ "repositories": [repository], "includesPattern": pattern, "principals": { "users": { user: letters } } });
        let put = self.rest("PUT", &target, body).await;
        assert_eq!(put.status, 201, "{}", put.text());
    }

    /// A token for V2 requests.
    pub(super) async fn bearer(&self, repository: &str, authorization: &str, scope: &str) -> String {
        let reply = self.as_user(authorization, "GET", &format!("@{repository}/v2/token?service=x&scope={scope}"), b"").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        format!("Bearer {}", reply.json()["token"].as_str().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_leads_to_a_token_and_the_token_opens_what_it_was_asked_for() {
    let backend = Backend::start().await;
    backend.push_image("docker-bearer", "team/app", "1").await;
    let bob = backend.add_bob("docker-bearer", "team/**", "rw").await;
    let asked = backend.as_user("", "GET", "@docker-bearer/v2/team/app/manifests/1", b"").await;
    assert_eq!(asked.status, 401);
    let challenge = "Bearer realm=\"https://r.example:444/v2/token\",service=\"r.example:444\",scope=\"repository:team/app:pull\"";
    assert_eq!(asked.header("WWW-Authenticate"), Some(challenge));

    let pull = backend.bearer("docker-bearer", &bob, "repository:team/app:pull").await;
    assert_eq!(backend.as_user(&pull, "GET", "@docker-bearer/v2/team/app/manifests/1", b"").await.status, 200);
    assert_eq!(backend.as_user(&pull, "GET", "@docker-bearer/v2/", b"").await.status, 200);
    // A pull token does not push: the client is told what to ask for.
    let push = backend.as_user(&pull, "POST", "@docker-bearer/v2/team/app/blobs/uploads/", b"").await;
    assert_eq!(push.status, 401);
    assert!(push.header("WWW-Authenticate").unwrap().ends_with("scope=\"repository:team/app:pull,push\",error=\"insufficient_scope\""));
    let push = backend.bearer("docker-bearer", &bob, "repository:team/app:pull,push").await;
    assert_eq!(backend.as_user(&push, "POST", "@docker-bearer/v2/team/app/blobs/uploads/", b"").await.status, 202);
    // What bob may not do, no token does, whatever it is asked for.
    let greedy = backend.bearer("docker-bearer", &bob, "repository:team/app:*&scope=repository:other:*&scope=registry:catalog:*").await;
    assert_eq!(backend.as_user(&greedy, "DELETE", "@docker-bearer/v2/team/app/manifests/1", b"").await.status, 403);
    assert_eq!(backend.as_user(&greedy, "GET", "@docker-bearer/v2/other/tags/list", b"").await.status, 404);
    assert_eq!(backend.as_user(&greedy, "GET", "@docker-bearer/v2/_catalog", b"").await.json()["repositories"], json!(["team/app"]));
    assert_eq!(backend.as_user(&push, "GET", "@docker-bearer/v2/_catalog", b"").await.status, 401);
    // Another repository, another binding.
    assert_eq!(backend.as_user(&pull, "GET", "@docker-open/v2/team/app/manifests/1", b"").await.status, 401);
    let elsewhere = [("Authorization", pull.as_str()), ("Host", "other.example:444")];
    assert_ne!(backend.send("GET", "@docker-bearer/v2/team/app/manifests/1", &elsewhere, b"").await.status, 200);
    // Wrong credentials get no token, and nobody's token is good for nothing here.
    assert_eq!(backend.as_user(&basic("bob", "wrong"), "GET", "@docker-bearer/v2/token", b"").await.status, 401);
    let nobody = backend.bearer("docker-bearer", "", "repository:team/app:pull&account=admin").await;
    assert_eq!(backend.as_user(&nobody, "GET", "@docker-bearer/v2/team/app/manifests/1", b"").await.status, 401);
    assert_eq!(backend.as_user(&nobody, "GET", "@docker-bearer/v2/", b"").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_login_gets_an_identity_token_that_ends_with_the_password() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-bearer", "**", "rw").await;
    let login =
        backend.as_user(&bob, "GET", "@docker-bearer/v2/token?account=bob&client_id=docker&offline_token=true&service=x", b"").await;
    let refresh = login.json()["refresh_token"].as_str().unwrap().to_owned();
    assert!(login.json()["expires_in"].as_u64().unwrap() <= 300);
    let form = |token: &str| {
        format!("grant_type=refresh_token&service=x&client_id=docker&scope=repository%3Aapp%3Apull%2Cpush&refresh_token={token}")
    };
    let ask = async |token: &str| backend.as_user("", "POST", "@docker-bearer/v2/token", form(token).as_bytes()).await;
    let fresh = ask(&refresh).await;
    assert_eq!(fresh.json()["refresh_token"], json!(refresh));
    let bearer = format!("Bearer {}", fresh.json()["access_token"].as_str().unwrap());
    assert_eq!(backend.as_user(&bearer, "POST", "@docker-bearer/v2/app/blobs/uploads/", b"").await.status, 202);
    // It is no access token, and an access token is none of its kind.
    assert_eq!(backend.as_user(&format!("Bearer {refresh}"), "GET", "@docker-bearer/v2/", b"").await.status, 401);
    assert_eq!(ask(bearer.strip_prefix("Bearer ").unwrap()).await.status, 401);
    // containerd and others send the password in the form.
    let form = format!("grant_type=password&username=bob&password={}&access_type=offline&service=x", BOB.replace(' ', "+"));
    assert!(backend.as_user("", "POST", "@docker-bearer/v2/token", form.as_bytes()).await.json()["refresh_token"].is_string());
    assert_eq!(backend.as_user("", "POST", "@docker-bearer/v2/token", b"grant_type=magic").await.status, 400);

    let change = json!({ "userName": "bob", "oldPassword": BOB, "newPassword1": "a new horse!", "newPassword2": "a new horse!" });
    let body = change.to_string();
    let changed = backend.as_user(&bob, "POST", "/api/security/users/authorization/changePassword", body.as_bytes()).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(ask(&refresh).await.status, 401);
    assert_eq!(backend.as_user(&bearer, "GET", "@docker-bearer/v2/", b"").await.status, 401);
    assert_eq!(backend.as_user(&bob, "GET", "@docker-bearer/v2/", b"").await.status, 401);
    assert_eq!(backend.as_user(&basic("bob", "a new horse!"), "GET", "@docker-bearer/v2/", b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_pull_and_authenticated_push_live_on_one_repository() {
    let backend = Backend::start().await;
    backend.push_image("docker-open", "app", "1").await;
    let bob = backend.add_bob("docker-open", "**", "rw").await;
    let nobody = backend.bearer("docker-open", "", "repository:app:pull,push").await;
    assert_eq!(backend.as_user(&nobody, "GET", "@docker-open/v2/", b"").await.status, 200);
    assert_eq!(backend.as_user(&nobody, "GET", "@docker-open/v2/app/manifests/1", b"").await.status, 200);
    assert_eq!(backend.as_user(&nobody, "POST", "@docker-open/v2/app/blobs/uploads/", b"").await.status, 401);
    let somebody = backend.bearer("docker-open", &bob, "repository:app:pull,push").await;
    assert_eq!(backend.as_user(&somebody, "POST", "@docker-open/v2/app/blobs/uploads/", b"").await.status, 202);
    // The same by permission target instead of by configuration.
    backend.push_image("docker-bearer", "public/app", "1").await;
    backend.permit("everybody", "docker-bearer", "public/**", "anonymous", "r").await;
    assert_eq!(backend.as_user("", "GET", "@docker-bearer/v2/public/app/manifests/1", b"").await.status, 200);
    assert_eq!(backend.as_user(&bob, "GET", "@docker-bearer/v2/public/app/manifests/1", b"").await.status, 200);
    assert_eq!(backend.as_user("", "GET", "@docker-bearer/v2/other/manifests/1", b"").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_read_looks_exactly_like_what_is_not_there() {
    let backend = Backend::start().await;
    backend.push_image("docker-v2", "private/app", "1").await;
    let blob = backend.push_blob("docker-v2", "private/app", b"private bytes").await;
    backend.push_image("docker-v2", "team/app", "1").await;
    let bob = backend.add_bob("docker-v2", "team/**", "rwd").await;
    let missing = sha256(b"no such bytes");
    let same = async |method: &str, private: String, absent: String, names: [(&str, &str); 2]| {
        let (one, other) = (backend.as_user(&bob, method, &private, b"").await, backend.as_user(&bob, method, &absent, b"").await);
        assert_eq!(one.status, other.status, "{private}");
        let neutral = |reply: &Reply| names.iter().fold(reply.text(), |text, (a, b)| text.replace(a, "X").replace(b, "X"));
        assert_eq!(neutral(&one), neutral(&other), "{private}");
        let visible = |reply: &Reply| {
            reply.headers.iter().filter(|(name, _)| name != "date" && name != "content-length").cloned().collect::<Vec<_>>()
        };
        assert_eq!(visible(&one), visible(&other), "{private}");
    };
    let names = [("private/app", "private/absent"), (blob.as_str(), missing.as_str())];
    for tail in ["manifests/1", "tags/list", &format!("blobs/{blob}"), &format!("referrers/{blob}")] {
        for method in ["GET", "HEAD"] {
            same(method, format!("@docker-v2/v2/private/app/{tail}"), format!("@docker-v2/v2/private/absent/{tail}"), names).await;
        }
    }
    // A blob that exists only there is not found through an image of one's own, by whatever way.
    same("GET", format!("@docker-v2/v2/team/app/blobs/{blob}"), format!("@docker-v2/v2/team/app/blobs/{missing}"), names).await;
    for tail in ["manifests/1", "blobs/uploads/"] {
        let method = if tail.starts_with('m') { "PUT" } else { "POST" };
        same(method, format!("@docker-v2/v2/private/app/{tail}"), format!("@docker-v2/v2/private/absent/{tail}"), names).await;
    }
    // A repository that bob has no right in, and one that is not there.
    let repositories = [("docker-bearer", "docker-absent"), ("", "")];
    for (method, tail) in [
        ("GET", "v2/"),
        ("GET", "v2/_catalog"),
        ("GET", "v2/a/tags/list"),
        ("PUT", "v2/a/manifests/1"),
        ("GET", "v1/_ping"),
        ("GET", "v1/search?q=a"),
    ] {
        for key in ["docker-bearer"] {
            let names = [repositories[0], ("@", "@")];
            same(method, format!("@{key}/{tail}"), format!("@docker-absent/{tail}"), names).await;
        }
    }
    assert_eq!(backend.as_user(&bob, "GET", "@docker-v2/v2/_catalog", b"").await.json()["repositories"], json!(["team/app"]));
    assert_eq!(backend.as_user(&bob, "GET", "@docker-v2/v1/search?q=app", b"").await.json()["num_results"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mount_unreadable_source_is_202_not_201() {
    let backend = Backend::start().await;
    let blob = backend.push_blob("docker-v2", "private/app", b"private bytes").await;
    let bob = backend.add_bob("docker-v2", "team/**", "rw").await;
    let mount = async |digest: &str, from: &str| {
        let reply = backend.as_user(&bob, "POST", &format!("@docker-v2/v2/team/app/blobs/uploads/?mount={digest}&from={from}"), b"").await;
        assert_eq!(reply.status, 202);
        let names: Vec<String> = reply.headers.iter().map(|(name, _)| name.clone()).collect();
        (names, reply.text())
    };
    assert_eq!(mount(&blob, "private/app").await, mount(&sha256(b"none"), "private/app").await);
    // Whoever may read both may mount, and a token must have been issued for both.
    backend.permit("more", "docker-v2", "private/**", "bob", "r").await;
    let token = backend.bearer("docker-v2", &bob, "repository:team/app:pull,push").await;
    let path = format!("@docker-v2/v2/team/app/blobs/uploads/?mount={blob}&from=private/app");
    assert_eq!(backend.as_user(&token, "POST", &path, b"").await.status, 401);
    let token = backend.bearer("docker-v2", &bob, "repository:team/app:pull,push&scope=repository:private/app:pull").await;
    assert_eq!(backend.as_user(&token, "POST", &path, b"").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_uuid_bound_to_repo_and_principal() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-v2", "**", "rwd").await;
    backend.permit("elsewhere", "docker-bearer", "**", "bob", "rwd").await;
    let begun = backend.send("POST", "@docker-v2/v2/app/blobs/uploads/", &[], b"").await;
    let id = begun.header("Docker-Upload-UUID").unwrap().to_owned();
    let own = |who: &str| who.to_owned();
    let admin = basic("admin", PASSWORD);
    for (who, repository, image) in [
        (own(&bob), "docker-v2", "app"),
        (admin.clone(), "docker-v2", "other"),
        (admin.clone(), "docker-bearer", "app"),
        (bob.clone(), "docker-bearer", "app"),
    ] {
        for method in ["GET", "PATCH", "PUT", "DELETE"] {
            let path = format!("@{repository}/v2/{image}/blobs/uploads/{id}?digest={}", sha256(b"x"));
            let reply = backend.as_user(&who, method, &path, if method == "PATCH" { b"x" } else { b"" }).await;
            assert_eq!(reply.refusal(), (404, "BLOB_UPLOAD_UNKNOWN".into()), "{method} {path}");
        }
    }
    assert_eq!(backend.as_user(&admin, "GET", &format!("@docker-v2/v2/app/blobs/uploads/{id}"), b"").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_survives_other_repo_reads() {
    let backend = Backend::start().await;
    let blob = backend.push_blob("docker-v2", "a", b"shared bytes").await;
    backend.push_blob("docker-bearer", "b", b"shared bytes").await;
    let get = async |repository: &str, image: &str| backend.get(&format!("@{repository}/v2/{image}/blobs/{blob}")).await.status;
    assert_eq!(get("docker-v2", "a").await, 200);
    assert_eq!(backend.send("DELETE", &format!("@docker-v2/v2/a/blobs/{blob}"), &[], b"").await.status, 202);
    for _ in 0..5 {
        assert_eq!((get("docker-bearer", "b").await, get("docker-v2", "a").await), (200, 404));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moving_a_tag_needs_the_right_to_delete_whatever_the_tag_is_called() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-v2", "**", "rw").await;
    let config = backend.push_blob("docker-v2", "app", b"{}").await;
    let layers = [backend.push_blob("docker-v2", "app", b"one").await, backend.push_blob("docker-v2", "app", b"two").await];
    let manifests = layers.map(|layer| image_manifest(&config, 2, &layer, 3));
    let put = async |who: &str, tag: &str, manifest: &str| {
        let headers = [("Authorization", who), ("Content-Type", MANIFEST)];
        backend.send("PUT", &format!("@docker-v2/v2/app/manifests/{tag}"), &headers, manifest.as_bytes()).await
    };
    let token = backend.bearer("docker-v2", &bob, "repository:app:pull,push").await;
    for tag in ["latest", "v1", "master", "stable", "_", "LATEST"] {
        assert_eq!(put(&bob, tag, &manifests[0]).await.status, 201, "{tag}");
        assert_eq!(put(&bob, tag, &manifests[0]).await.status, 201, "{tag}: the same again moves nothing");
        for who in [&bob, &token] {
            assert_eq!(put(who, tag, &manifests[1]).await.refusal(), (403, "DENIED".into()), "{tag}");
        }
        assert_eq!(backend.get(&format!("@docker-v2/v2/app/manifests/{tag}")).await.text(), manifests[0]);
    }
    backend.permit("bobs", "docker-v2", "**", "bob", "rwd").await;
    for (who, manifest) in [(&bob, &manifests[1]), (&token, &manifests[0])] {
        assert_eq!(put(who, "latest", manifest).await.status, 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_images_are_seen_through_names_one_may_read_or_after_pushing_them() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-v1", "team/**", "rw").await;
    let json = format!(r#"{{"id":"{ID}"}}"#);
    push_v1(&backend, ID, &json).await;
    let image = |what: &str| format!("@docker-v1/v1/images/{ID}/{what}");
    let quoted = format!("\"{ID}\"");
    assert_eq!(backend.send("PUT", "@docker-v1/v1/repositories/private/app/tags/1", &[], quoted.as_bytes()).await.status, 200);
    let read = async || {
        let mut statuses = Vec::new();
        for what in ["json", "layer", "ancestry"] {
            statuses.push(backend.as_user(&bob, "GET", &image(what), b"").await.status);
        }
        statuses
    };
    assert_eq!(read().await, [404; 3]);
    assert_eq!(backend.as_user(&bob, "GET", "@docker-v1/v1/repositories/private/app/tags", b"").await.status, 404);
    // Knowing the id is not enough to make it readable under a name of one's own.
    let tag = async || backend.as_user(&bob, "PUT", "@docker-v1/v1/repositories/team/app/tags/1", quoted.as_bytes()).await.status;
    assert_eq!(tag().await, 404);
    // Knowing its JSON alone, or its layer alone, is not either.
    assert_eq!(backend.as_user(&bob, "PUT", &image("layer"), b"").await.status, 200);
    assert_eq!(tag().await, 404);
    assert_eq!(backend.as_user(&bob, "PUT", &image("json"), json.as_bytes()).await.status, 200);
    assert_eq!(tag().await, 404);
    assert_eq!(backend.as_user(&bob, "PUT", &image("layer"), b"something else").await.status, 409);
    assert_eq!(read().await, [404; 3]);
    // Having pushed all of it, bob knows all of it.
    assert_eq!(backend.as_user(&bob, "PUT", &image("layer"), b"").await.status, 200);
    assert_eq!(read().await, [200; 3]);
    assert_eq!(tag().await, 200);
    // A repeated push of what one sees is skipped, as docker expects.
    assert_eq!(backend.as_user(&bob, "PUT", &image("json"), json.as_bytes()).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_parent_is_seen_through_its_children() {
    let backend = Backend::start().await;
    let child = "f".repeat(64);
    push_v1(&backend, ID, &format!(r#"{{"id":"{ID}"}}"#)).await;
    push_v1(&backend, &child, &format!(r#"{{"id":"{child}","parent":"{ID}"}}"#)).await;
    let bob = backend.add_bob("docker-v1", "team/**", "r").await;
    let parent = format!("@docker-v1/v1/images/{ID}/json");
    assert_eq!(backend.as_user(&bob, "GET", &parent, b"").await.status, 404);
    let quoted = format!("\"{child}\"");
    assert_eq!(backend.send("PUT", "@docker-v1/v1/repositories/team/app/tags/1", &[], quoted.as_bytes()).await.status, 200);
    assert_eq!(backend.as_user(&bob, "GET", &parent, b"").await.status, 200);
    // The tag moves to another image: what only it led to is gone.
    let other = "e".repeat(64);
    push_v1(&backend, &other, &format!(r#"{{"id":"{other}"}}"#)).await;
    let quoted = format!("\"{other}\"");
    assert_eq!(backend.send("PUT", "@docker-v1/v1/repositories/team/app/tags/1", &[], quoted.as_bytes()).await.status, 200);
    assert_eq!(backend.as_user(&bob, "GET", &parent, b"").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_token_carries_a_push_where_no_password_is_sent() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-v1", "team/**", "rw").await;
    let list = format!(r#"[{{"id":"{ID}","Tag":"1"}}]"#);
    let begun = backend.as_user(&bob, "PUT", "@docker-v1/v1/repositories/team/app/", list.as_bytes()).await;
    let token = format!("Token {}", begun.header("X-Docker-Token").unwrap());
    let json = format!(r#"{{"id":"{ID}"}}"#);
    let payload = format!("sha256:{}", hex(&[json.as_bytes(), b"\n"].concat()));
    let put = async |path: &str, body: &[u8]| {
        let headers = [("Authorization", token.as_str()), ("X-Docker-Checksum-Payload", payload.as_str())];
        backend.send("PUT", &format!("@docker-v1/v1/{path}"), &headers, body).await.status
    };
    // docker from 1.0 looks with the token for writing whether an image is there: writing includes reading.
    assert_eq!(backend.as_user(&token, "GET", &format!("@docker-v1/v1/images/{ID}/json"), b"").await.status, 404);
    assert_eq!(put(&format!("images/{ID}/json"), json.as_bytes()).await, 200);
    assert_eq!(put(&format!("images/{ID}/layer"), b"").await, 200);
    assert_eq!(put(&format!("images/{ID}/checksum"), b"").await, 200);
    assert_eq!(put("repositories/team/app/tags/1", format!("\"{ID}\"").as_bytes()).await, 200);
    assert_eq!(put("repositories/team/app/images", b"[]").await, 204);
    // Another name is another token's; and one for reading does not write.
    assert_eq!(put("repositories/team/other/tags/1", format!("\"{ID}\"").as_bytes()).await, 401);
    let pulled = backend.as_user(&bob, "GET", "@docker-v1/v1/repositories/team/app/images", b"").await;
    let reads = format!("Token Token {}", pulled.header("X-Docker-Token").unwrap());
    assert_eq!(backend.as_user(&reads, "GET", &format!("@docker-v1/v1/images/{ID}/layer"), b"").await.status, 200);
    assert_eq!(
        backend.as_user(&reads, "PUT", "@docker-v1/v1/repositories/team/app/tags/2", format!("\"{ID}\"").as_bytes()).await.status,
        401
    );
    // An empty token is nobody's; a made-up one is refused.
    assert_eq!(backend.as_user("Token ", "GET", "@docker-v1/v1/repositories/team/app/tags", b"").await.status, 401);
    assert_eq!(backend.as_user("Token signature=x", "GET", "@docker-v1/v1/repositories/team/app/tags", b"").await.status, 401);
    let bearer = token.replace("Token signature=", "Bearer ").split(',').next().unwrap().to_owned();
    assert_eq!(backend.as_user(&bearer, "GET", "@docker-v1/v1/repositories/team/app/tags", b"").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn robots_and_scripts_log_in_with_access_tokens() {
    let backend = Backend::start().await;
    assert_eq!(backend.rest("PUT", "security/users/ci", json!({ "robot": true })).await.status, 201);
    backend.permit("ci", "docker-v2", "**", "ci", "rw").await;
    backend.push_image("docker-v2", "app", "1").await;
    let scope = json!([{ "repository": "docker-v2", "rights": "r" }]);
    let made = backend.rest("POST", "security/tokens", json!({ "user": "ci", "description": "pulls", "scope": scope })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let (id, token) = (made.json()["id"].as_str().unwrap().to_owned(), made.json()["token"].as_str().unwrap().to_owned());
    assert!(token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "safe in a shell: {token}");
    let get = async |headers: &[(&str, &str)]| backend.send("GET", "@docker-v2/v2/app/manifests/1", headers, b"").await.status;
    assert_eq!(get(&[("Authorization", &basic("ci", &token))]).await, 200);
    assert_eq!(get(&[("Authorization", &format!("Bearer {token}"))]).await, 200);
    assert_eq!(get(&[("Authorization", ""), ("X-JFrog-Art-Api", &token)]).await, 200);
    assert_eq!(get(&[("Authorization", &basic("admin", &token))]).await, 401);
    assert_eq!(backend.as_user(&basic("ci", &token), "POST", "@docker-v2/v2/app/blobs/uploads/", b"").await.status, 403);
    // A token makes no tokens, and sees only its owner's.
    let own = basic("ci", &token);
    assert_eq!(backend.as_user(&own, "POST", "/api/security/tokens", b"{}").await.status, 403);
    assert_eq!(backend.as_user(&own, "GET", "/api/security/tokens?user=admin", b"").await.status, 403);
    assert_eq!(backend.as_user(&own, "GET", "/api/security/tokens", b"").await.json()[0]["id"], json!(id));
    // deleted_token_dies_now
    assert_eq!(backend.rest("DELETE", &format!("security/tokens/{id}?user=ci"), serde_json::Value::Null).await.status, 200);
    assert_eq!(get(&[("Authorization", &own)]).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_groups_and_permissions_are_managed_as_artifactory_does_it() {
    let backend = Backend::start().await;
    let user =
        json!({ "name": "alice", "email": "alice@example.com", "password": "a good horse", "admin": false, "profileUpdatable": true });
    assert_eq!(backend.rest("PUT", "security/users/alice", user.clone()).await.status, 201);
    // Not quite what was meant to keep it from replacing.
    assert_eq!(backend.rest("PUT", "security/users/alice?create=1", user.clone()).await.status, 400);
    assert_eq!(backend.rest("PUT", "security/users/alice?create=true", user).await.status, 409);
    let seen = backend.rest("GET", "security/users/alice", serde_json::Value::Null).await.json();
    assert_eq!((&seen["name"], &seen["admin"], &seen["realm"]), (&json!("alice"), &json!(false), &json!("internal")));
    assert!(!seen.to_string().contains("argon2"));
    assert_eq!(backend.rest("PUT", "security/groups/devs", json!({ "description": "d", "userNames": ["alice"] })).await.status, 201);
    assert_eq!(backend.rest("GET", "security/groups/devs", serde_json::Value::Null).await.json()["userNames"], json!(["alice"]));
    let target = json!({
        "name": "team", "includesPattern": "team/**,lib/*", "excludesPattern": "team/secret/**", "repositories": ["docker-v2"],
        "principals": { "groups": { "devs": ["r", "w", "n"] } },
    });
    assert_eq!(backend.rest("PUT", "security/permissions/team", target).await.status, 201);
    let seen = backend.rest("GET", "security/permissions/team", serde_json::Value::Null).await.json();
    assert_eq!(seen["principals"]["groups"]["devs"], json!(["r", "w", "n"]));
    assert_eq!(seen["includesPattern"], "team/**,lib/*");
    let alice = basic("alice", "a good horse");
    assert_eq!(backend.as_user(&alice, "POST", "@docker-v2/v2/team/app/blobs/uploads/", b"").await.status, 202);
    assert_eq!(backend.as_user(&alice, "POST", "@docker-v2/v2/team/secret/app/blobs/uploads/", b"").await.status, 403);
    let names = backend.rest("GET", "security/users", serde_json::Value::Null).await.json();
    assert_eq!(names.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect::<Vec<_>>(), ["admin", "alice"]);
    // unknown_or_privileged_fields_rejected
    for (path, body) in [
        ("security/users/eve", json!({ "password": "a good horse", "has_admin_role": true })),
        ("security/users/eve", json!({ "password": "short" })),
        ("security/users/eve", json!({ "name": "mallory", "password": "a good horse" })),
        ("security/users/Eve", json!({ "password": "a good horse" })),
        ("security/groups/g", json!({ "members": [] })),
        ("security/permissions/p", json!({ "repositories": [], "principals": {} })),
        ("security/permissions/p", json!({ "repositories": ["ANY"], "principals": { "users": { "alice": ["x"] } } })),
        ("security/permissions/p", json!({ "repositories": ["ANY"], "actions": {} })),
        ("security/tokens", json!({})),
    ] {
        let refused = backend.rest("PUT", path, body.clone()).await;
        assert!((400..=405).contains(&refused.status), "{path} {body}: {}", refused.status);
        assert!(refused.json()["errors"][0]["message"].is_string());
    }
    for path in ["security/users/alice", "security/groups/devs", "security/permissions/team"] {
        assert_eq!(backend.rest("DELETE", path, serde_json::Value::Null).await.status, 200);
        assert_eq!(backend.rest("DELETE", path, serde_json::Value::Null).await.status, 404);
    }
    assert_eq!(backend.rest("DELETE", "security/users/admin", serde_json::Value::Null).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_at_the_operators_socket_is_the_operator_and_nobody_else_is() {
    let backend = Backend::start().await;
    let over = async |socket: PathBuf| {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        // Headers that a client could have sent make nobody an operator.
        let head = "GET /api/security/users HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(over(crate::operator::socket(&backend.directory.path().join("data"))).await, "200");
    assert_eq!(over(backend.socket()).await, "401");
    use std::os::unix::fs::PermissionsExt as _;
    let directory = backend.directory.path().join("data").join(crate::operator::DIRECTORY);
    assert_eq!(std::fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_who_did_what_and_no_secret() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-v2", "team/**", "rw").await;
    let forwarded = [("Authorization", bob.as_str()), ("X-Forwarded-For", "192.0.2.7"), ("X-Request-Id", "abc")];
    assert_eq!(backend.send("POST", "@docker-v2/v2/team/app/blobs/uploads/", &forwarded, b"").await.status, 202);
    assert_eq!(backend.as_user(&basic("bob", "canary-password-1"), "GET", "@docker-v2/v2/", b"").await.status, 401);
    assert_eq!(backend.as_user(&basic("My Canary-2", "x"), "GET", "@docker-v2/v2/", b"").await.status, 401);
    assert_eq!(backend.as_user(&bob, "POST", "@docker-v2/v2/other/blobs/uploads/", b"").await.status, 403);
    let form = b"grant_type=password&username=carol&password=canary-password-3";
    assert_eq!(backend.as_user("", "POST", "@docker-v2/v2/token", form).await.status, 401);
    let token = backend.bearer("docker-v2", &bob, "repository:team/app:pull").await;
    assert_eq!(backend.as_user("", "GET", "@docker-v2/v2/", b"").await.status, 401);
    let page = async |query: &str| backend.rest("GET", &format!("audit?{query}"), serde_json::Value::Null).await.json();
    // The log is written behind the answer.
    let mut entries = Vec::new();
    for _ in 0..200 {
        entries = page("limit=50").await["entries"].as_array().unwrap().clone();
        if entries.first().is_some_and(|entry| entry["path"].as_str().unwrap().ends_with("/token") && entry["status"] == 200) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let find = |status: u64, path: &str| {
        entries
            .iter()
            .find(|entry| entry["status"] == status && entry["path"].as_str().unwrap().ends_with(path))
            .unwrap_or_else(|| panic!("{status} {path}: {entries:#?}"))
    };
    let upload = find(202, "/team/app/blobs/uploads/");
    assert_eq!(
        (&upload["user"], &upload["client"], &upload["request_id"], &upload["repository"]),
        (&json!("bob"), &json!("192.0.2.7"), &json!("abc"), &json!("docker-v2"))
    );
    assert_eq!(find(401, "/v2/")["claimed"], json!(null), "the newer one has a name that is none");
    assert_eq!(find(401, "/v2/token")["claimed"], json!("carol"), "names in a form count as well");
    assert_eq!(find(403, "/other/blobs/uploads/")["user"], json!("bob"));
    assert_eq!(find(201, "security/users/bob")["user"], json!("admin"));
    assert_eq!(find(200, "/token")["user"], json!("bob"));
    assert_eq!(entries.iter().filter(|entry| entry["status"] == 401).count(), 3, "asking for a password is no event");
    let first = page("limit=1").await;
    let second = page(&format!("limit=1&before={}", first["before"].as_str().unwrap())).await;
    assert_eq!((&first["entries"][0], &second["entries"][0]), (&entries[0], &entries[1]));
    assert_eq!(backend.as_user(&bob, "GET", "/api/audit", b"").await.status, 403);
    let text = serde_json::to_string(&entries).unwrap();
    for secret in ["canary-password-1", "Canary-2", "canary-password-3", BOB, PASSWORD, token.strip_prefix("Bearer ").unwrap(), "argon2"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_client_goes_away_is_checked_and_written_down() {
    let backend = Backend::start().await;
    for i in 0..4 {
        let mut stream = UnixStream::connect(backend.socket()).await.unwrap();
        let credentials = basic(&format!("somebody{i}"), "guess");
        let head = format!("GET /artifactory/api/docker/docker-v2/v2/ HTTP/1.1\r\nHost: r.example\r\nAuthorization: {credentials}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // Long enough for the request to be read, and not for the hash.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let mut written = 0;
    for _ in 0..500 {
        let page = backend.rest("GET", "audit?limit=100", serde_json::Value::Null).await.json();
        let entries = page["entries"].as_array().unwrap();
        written = entries.iter().filter(|entry| entry["status"] == 401 && entry["claimed"].is_string()).count();
        if written == 4 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(written, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_things_are_forbidden_if_the_operator_prefers_that() {
    let mut backend = Backend::start().await;
    backend.push_image("docker-v2", "private/app", "1").await;
    let bob = backend.add_bob("docker-v2", "team/**", "r").await;
    assert_eq!(backend.as_user(&bob, "GET", "@docker-v2/v2/private/app/manifests/1", b"").await.status, 404);
    backend.config = format!("{CONFIG}[security]\nhide_unauthorized = false\n");
    backend.restart().await;
    assert_eq!(backend.as_user(&bob, "GET", "@docker-v2/v2/private/app/manifests/1", b"").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_password_logs_in_whatever_its_owner_may_do() {
    let backend = Backend::start().await;
    let made = backend.rest("PUT", "security/users/newbie", json!({ "password": "Gr\u{fc}n-Haus-77" })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let newbie = basic("newbie", "Gr\u{fc}n-Haus-77");
    // What is not there looks the same.
    for repository in ["docker-v2", "docker-bearer", "docker-open", "no-such-repository"] {
        let token = backend.bearer(repository, &newbie, "repository:team/app:pull").await;
        for authorization in [&newbie, &token] {
            let reply = backend.as_user(authorization, "GET", &format!("@{repository}/v2/"), b"").await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "{}"), "{repository}");
            assert_eq!(reply.header("Docker-Distribution-Api-Version"), Some("registry/2.0"), "{repository}");
        }
        // And that is all.
        for path in ["v2/team/app/manifests/1", "v2/team/app/tags/list", "v2/_catalog"] {
            let reply = backend.as_user(&newbie, "GET", &format!("@{repository}/{path}"), b"").await;
            assert!(repository == "docker-open" || reply.status == 404, "{repository} {path}: {}", reply.text());
        }
        assert_eq!(backend.as_user(&basic("newbie", "wrong"), "GET", &format!("@{repository}/v2/"), b"").await.status, 401);
    }
    // Older clients send the bytes of Latin-1.
    use base64::Engine as _;
    let latin1 = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(b"newbie:Gr\xfcn-Haus-77"));
    assert_eq!(backend.as_user(&latin1, "GET", "@docker-v2/v2/", b"").await.status, 200);
    assert_eq!(backend.as_user(&latin1, "GET", "@docker-v1/v1/users/", b"").await.status, 200);
    let wrong = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(b"newbie:Gr\xfdn-Haus-77"));
    assert_eq!(backend.as_user(&wrong, "GET", "@docker-v2/v2/", b"").await.status, 401);
    for path in ["@docker-v2/v2/", "@docker-v1/v1/users/", "/artifactory/api/system/storage/gc"] {
        let challenge = backend.as_user("", "GET", path, b"").await;
        assert!(challenge.header("WWW-Authenticate").unwrap().ends_with(", charset=\"UTF-8\""), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pushes_plugins_and_scopes_may_carry_the_host() {
    let backend = Backend::start().await;
    let bob = backend.add_bob("docker-bearer", "**", "rw").await;
    for scope in ["repository%28plugin%29%3Ateam%2Fplug%3Apush%2Cpull", "repository:r.example:444/team/plug:pull,push"] {
        let token = backend.bearer("docker-bearer", &bob, scope).await;
        assert_eq!(backend.as_user(&token, "POST", "@docker-bearer/v2/team/plug/blobs/uploads/", b"").await.status, 202, "{scope}");
        assert_eq!(backend.as_user(&token, "POST", "@docker-bearer/v2/team/other/blobs/uploads/", b"").await.status, 401, "{scope}");
    }
}
