//! Who may do what, through the gateway: every route for every kind of caller, real clients, and no secret in any log.

use std::path::Path;
use std::process::Command;

use e2e::client::Body;
use e2e::engine::{Engine, finished};
use e2e::registry::PASSWORD;
use e2e::{Client, Registry, image};
use serde_json::{Value, json};

/// What a route needs its caller to be or have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Credentials that are good, or none.
    GoodOrNone,
    Account,
    /// Some right in the repository, and being asked for a password if there is none.
    Ping,
    /// Some right in the repository.
    Something,
    Read,
    Deploy,
    /// A right to push anything at all.
    DeploySomewhere,
    Delete,
    Annotate,
    Admin,
    /// To be the operator, on the machine itself.
    Operator,
    /// To be a user of one's own, not the operator.
    User,
}

/// A caller, and what it is expected to be able to do.
struct Caller {
    name: &'static str,
    client: fn(&World, u16) -> Client,
    is_good: bool,
    is_anonymous: bool,
    is_admin: bool,
    /// Rights to `team/app`.
    rights: &'static str,
    /// Whether it has any right in the repository.
    is_known: bool,
}

struct World {
    registry: Registry,
    passwords: std::collections::HashMap<&'static str, String>,
    manifest: String,
    digest: String,
    layer: String,
    id: String,
    config: String,
}

struct Probe {
    what: &'static str,
    needs: Needs,
    /// The status for whoever may.
    ok: u16,
    send: fn(&World, &Caller) -> u16,
}

const V1_LAYER: &[u8] = b"";

fn world() -> World {
    let registry = Registry::start();
    let mut passwords = std::collections::HashMap::new();
    for name in ["nothing", "reader", "deployer", "deleter", "elsewhere", "revoked", "expired"] {
        passwords.insert(name, registry.add_user(name, &[]));
    }
    let here = ["--repository", "first", "--repository", "docker-local", "--include", "team/**"];
    let users = ["--user", "reader=r", "--user", "deployer=rw", "--user", "deleter=rd", "--user", "revoked=rwd", "--user", "expired=rwd"];
    registry.operate(&[&["permission", "set", "team"], &here[..], &users[..]].concat()).unwrap();
    registry.operate(&["permission", "set", "other", "--repository", "docker-local2", "--user", "elsewhere=rwd"]).unwrap();
    passwords.insert("admin", PASSWORD.to_owned());
    registry.operate(&["user", "disable", "revoked"]).unwrap();
    let soon = json!({ "user": "expired", "expiresIn": 1 }).to_string();
    let made = registry.client(registry.console).send("POST", "/api/security/tokens", JSON, Body::Bytes(soon.as_bytes()));
    assert_eq!(made.status, 201);
    passwords.insert("expired", made.json()["token"].as_str().unwrap().to_owned());

    let client = registry.client(registry.first);
    let layer = image::Layer::of_oddities("pax");
    let (config, manifest) = image::schema2(std::slice::from_ref(&layer));
    for blob in [config.as_bytes(), &layer.packed] {
        client.push_blob("team/app", blob).unwrap();
    }
    client.push_manifest("team/app", "1", image::SCHEMA2, &manifest).unwrap();
    let digest = format!("sha256:{}", e2e::sha256(manifest.as_bytes()));
    let id = e2e::sha256(b"seed");
    let v1 = registry.client(registry.v1);
    push_v1(&v1, &id);
    let tagged = v1.send("PUT", "/v1/repositories/team/app/tags/1", &[], Body::Bytes(format!("\"{id}\"").as_bytes()));
    assert_eq!(tagged.status, 200);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    World { registry, passwords, manifest, digest, layer: layer.digest(), id, config }
}

/// JSON, layer and checksum of an image with an empty layer; returns the statuses.
fn push_v1(client: &Client, id: &str) -> [u16; 3] {
    let json = format!(r#"{{"id":"{id}"}}"#);
    let payload = format!("sha256:{}", e2e::sha256(format!("{json}\n").as_bytes()));
    let put = |what: &str, body: &[u8]| {
        client.send("PUT", &format!("/v1/images/{id}/{what}"), &[("X-Docker-Checksum-Payload", &payload)], Body::Bytes(body)).status
    };
    [put("json", json.as_bytes()), put("layer", V1_LAYER), put("checksum", b"")]
}

fn with_password(world: &World, name: &str, port: u16) -> Client {
    Client::tls(port, &world.registry.ca()).with_basic(name, &world.passwords[name])
}

fn callers() -> Vec<Caller> {
    macro_rules! user {
        ($name:literal, $rights:literal, $known:literal) => {
            Caller {
                name: $name,
                client: |world, port| with_password(world, $name, port),
                is_good: true,
                is_anonymous: false,
                is_admin: $name == "admin",
                rights: $rights,
                is_known: $known,
            }
        };
    }
    let mut callers = vec![
        user!("nothing", "", false),
        user!("reader", "r", true),
        user!("deployer", "rw", true),
        user!("deleter", "rd", true),
        user!("elsewhere", "", false),
        user!("admin", "rwdn", true),
    ];
    callers.push(Caller {
        name: "anonymous",
        client: |world, port| Client::tls(port, &world.registry.ca()),
        is_good: true,
        is_anonymous: true,
        is_admin: false,
        rights: "",
        is_known: false,
    });
    for name in ["revoked", "expired"] {
        let client: fn(&World, u16) -> Client = match name {
            "revoked" => |world, port| with_password(world, "revoked", port),
            _ => |world, port| with_password(world, "expired", port),
        };
        callers.push(Caller { name, client, is_good: false, is_anonymous: false, is_admin: false, rights: "", is_known: false });
    }
    callers
}

/// What the rules say must come of a probe.
fn expected(probe: &Probe, caller: &Caller) -> u16 {
    let (good, has) = (caller.is_good, |right: char| caller.rights.contains(right));
    let hidden = |right: char, else_status: u16| match (has(right), caller.is_known) {
        (true, _) => probe.ok,
        (false, true) => else_status,
        (false, false) => 404,
    };
    match probe.needs {
        Needs::Nothing => probe.ok,
        Needs::GoodOrNone if good => probe.ok,
        // Logging in would not help.
        Needs::Operator if good => 403,
        _ if !good || caller.is_anonymous => 401,
        // A right password logs in, whatever its owner may do then.
        Needs::GoodOrNone | Needs::Account | Needs::User | Needs::Ping => probe.ok,
        Needs::Something => {
            if caller.is_known {
                probe.ok
            } else {
                404
            }
        }
        Needs::Read => hidden('r', 404),
        Needs::Deploy | Needs::DeploySomewhere => hidden('w', 403),
        Needs::Delete => hidden('d', 403),
        Needs::Annotate => hidden('n', 403),
        Needs::Operator => 401,
        Needs::Admin => {
            if caller.is_admin {
                probe.ok
            } else {
                403
            }
        }
    }
}

macro_rules! v2 {
    ($what:literal, $needs:ident, $ok:literal, $method:literal, |$world:ident, $caller:ident| $path:expr) => {
        Probe {
            what: $what,
            needs: Needs::$needs,
            ok: $ok,
            send: |$world, $caller| ($caller.client)($world, $world.registry.first).send($method, &$path, &[], Body::None).status,
        }
    };
}

macro_rules! v1 {
    ($what:literal, $needs:ident, $ok:literal, $method:literal, |$world:ident, $caller:ident| $path:expr, $body:expr) => {
        Probe {
            what: $what,
            needs: Needs::$needs,
            ok: $ok,
            send: |$world, $caller| {
                let body: String = $body;
                ($caller.client)($world, $world.registry.v1).send($method, &$path, &[], Body::Bytes(body.as_bytes())).status
            },
        }
    };
}

/// What scripts send with JSON.
const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

macro_rules! rest {
    ($what:literal, $needs:ident, $ok:literal, $method:literal, |$world:ident, $caller:ident| $path:expr, $body:expr) => {
        Probe {
            what: $what,
            needs: Needs::$needs,
            ok: $ok,
            send: |$world, $caller| {
                let body: Value = $body;
                let body = if body.is_null() { String::new() } else { body.to_string() };
                ($caller.client)($world, $world.registry.console).send($method, &$path, JSON, Body::Bytes(body.as_bytes())).status
            },
        }
    };
}

/// An upload of the caller's own, or of admin's for whoever can't have one.
fn upload(world: &World, caller: &Caller) -> String {
    let open = |client: Client| client.send("POST", "/v2/team/app/blobs/uploads/", &[], Body::None);
    let own = open((caller.client)(world, world.registry.first));
    let begun = if own.status == 202 { own } else { open(world.registry.client(world.registry.first)) };
    begun.header("Location").unwrap().to_owned()
}

/// A blob that nothing refers to.
fn loose_blob(world: &World, caller: &Caller) -> String {
    world.registry.client(world.registry.first).push_blob("team/app", format!("loose {}", caller.name).as_bytes()).unwrap()
}

/// A tag of this caller's.
fn tag_for(world: &World, caller: &Caller) -> String {
    let tag = format!("for-{}", caller.name);
    world.registry.client(world.registry.first).push_manifest("team/app", &tag, image::SCHEMA2, &world.manifest).unwrap();
    tag
}

fn probes() -> Vec<Probe> {
    vec![
        v2!("V2 base", Ping, 200, "GET", |_w, _c| "/v2/"),
        v2!("token", GoodOrNone, 200, "GET", |_w, _c| "/v2/token?service=x&scope=repository:team/app:pull"),
        v2!("catalog", Something, 200, "GET", |_w, _c| "/v2/_catalog"),
        v2!("tags", Read, 200, "GET", |_w, _c| "/v2/team/app/tags/list"),
        v2!("manifest by tag", Read, 200, "GET", |_w, _c| "/v2/team/app/manifests/1"),
        v2!("manifest HEAD", Read, 200, "HEAD", |_w, _c| "/v2/team/app/manifests/1"),
        v2!("manifest by digest", Read, 200, "GET", |w, _c| format!("/v2/team/app/manifests/{}", w.digest)),
        v2!("blob", Read, 200, "GET", |w, _c| format!("/v2/team/app/blobs/{}", w.layer)),
        v2!("blob HEAD", Read, 200, "HEAD", |w, _c| format!("/v2/team/app/blobs/{}", w.layer)),
        v2!("referrers", Read, 200, "GET", |w, _c| format!("/v2/team/app/referrers/{}", w.digest)),
        v2!("upload start", Deploy, 202, "POST", |_w, _c| "/v2/team/app/blobs/uploads/"),
        v2!("mount", Deploy, 201, "POST", |w, _c| format!("/v2/team/other/blobs/uploads/?mount={}&from=team/app", w.layer)),
        v2!("upload status", Deploy, 204, "GET", |w, c| upload(w, c)),
        v2!("upload cancel", Deploy, 204, "DELETE", |w, c| upload(w, c)),
        v2!("manifest DELETE", Delete, 202, "DELETE", |w, c| format!("/v2/team/app/manifests/{}", tag_for(w, c))),
        v2!("blob DELETE", Delete, 202, "DELETE", |w, c| format!("/v2/team/app/blobs/{}", loose_blob(w, c))),
        Probe {
            what: "upload append",
            needs: Needs::Deploy,
            ok: 202,
            send: |w, c| (c.client)(w, w.registry.first).send("PATCH", &upload(w, c), &[], Body::Bytes(b"bytes")).status,
        },
        Probe {
            what: "upload finish",
            needs: Needs::Deploy,
            ok: 201,
            send: |w, c| {
                let path = format!("{}?digest=sha256:{}", upload(w, c), e2e::sha256(w.config.as_bytes()));
                (c.client)(w, w.registry.first).send("PUT", &path, &[], Body::Bytes(w.config.as_bytes())).status
            },
        },
        Probe {
            what: "manifest PUT",
            needs: Needs::Deploy,
            ok: 201,
            send: |w, c| {
                let path = format!("/v2/team/app/manifests/by-{}", c.name);
                let headers = [("Content-Type", image::SCHEMA2)];
                (c.client)(w, w.registry.first).send("PUT", &path, &headers, Body::Bytes(w.manifest.as_bytes())).status
            },
        },
        v1!("V1 ping", Nothing, 200, "GET", |_w, _c| "/v1/_ping", String::new()),
        v1!("V1 register", Account, 400, "POST", |_w, _c| "/v1/users/", "{}".into()),
        v1!("V1 login", Account, 200, "GET", |_w, _c| "/v1/users/", String::new()),
        v1!("V1 search", Something, 200, "GET", |_w, _c| "/v1/search?q=app", String::new()),
        v1!("V1 push begins", Deploy, 200, "PUT", |_w, _c| "/v1/repositories/team/app/", "[]".into()),
        v1!("V1 push ends", Deploy, 204, "PUT", |_w, _c| "/v1/repositories/team/app/images", "[]".into()),
        v1!("V1 images", Read, 200, "GET", |_w, _c| "/v1/repositories/team/app/images", String::new()),
        v1!("V1 tags", Read, 200, "GET", |_w, _c| "/v1/repositories/team/app/tags", String::new()),
        v1!("V1 tag", Read, 200, "GET", |_w, _c| "/v1/repositories/team/app/tags/1", String::new()),
        v1!("V1 tag JSON", Read, 200, "GET", |_w, _c| "/v1/repositories/team/app/tags/1/json", String::new()),
        v1!("V1 repository JSON", Read, 200, "GET", |_w, _c| "/v1/repositories/team/app/json", String::new()),
        v1!("V1 properties", Read, 200, "GET", |_w, _c| "/v1/repositories/team/app/properties", String::new()),
        v1!("V1 tag PUT", Deploy, 200, "PUT", |w, c| format!("/v1/repositories/team/app/tags/by-{}", c.name), format!("\"{}\"", w.id)),
        v1!("V1 image JSON", Something, 200, "GET", |w, _c| format!("/v1/images/{}/json", w.id), String::new()),
        v1!("V1 ancestry", Something, 200, "GET", |w, _c| format!("/v1/images/{}/ancestry", w.id), String::new()),
        v1!("V1 layer", Something, 200, "GET", |w, _c| format!("/v1/images/{}/layer", w.id), String::new()),
        Probe {
            what: "V1 image JSON PUT",
            needs: Needs::DeploySomewhere,
            ok: 200,
            send: |w, c| push_v1(&(c.client)(w, w.registry.v1), &e2e::sha256(format!("json {}", c.name).as_bytes()))[0],
        },
        Probe {
            what: "V1 layer PUT",
            needs: Needs::DeploySomewhere,
            ok: 200,
            send: |w, c| push_v1(&(c.client)(w, w.registry.v1), &e2e::sha256(format!("layer {}", c.name).as_bytes()))[1],
        },
        Probe {
            what: "V1 checksum PUT",
            needs: Needs::DeploySomewhere,
            ok: 200,
            send: |w, c| push_v1(&(c.client)(w, w.registry.v1), &e2e::sha256(format!("sum {}", c.name).as_bytes()))[2],
        },
        rest!("users", Admin, 200, "GET", |_w, _c| "/artifactory/api/security/users", Value::Null),
        rest!("user", Admin, 200, "GET", |_w, _c| "/artifactory/api/security/users/reader", Value::Null),
        rest!("user PUT", Admin, 201, "PUT", |_w, c| format!("/api/security/users/made-by-{}", c.name), json!({ "robot": true })),
        rest!("user POST", Admin, 200, "POST", |_w, _c| "/api/security/users/reader", json!({ "email": "r@example.com" })),
        rest!("user becomes admin", Admin, 200, "POST", |_w, _c| "/api/security/users/nothing", json!({ "admin": false })),
        rest!("user DELETE", Admin, 200, "DELETE", |_w, c| format!("/api/security/users/made-by-{}", c.name), Value::Null),
        rest!("groups", Admin, 200, "GET", |_w, _c| "/api/security/groups", Value::Null),
        rest!("group PUT", Admin, 201, "PUT", |_w, _c| "/api/security/groups/g", json!({ "userNames": ["reader"] })),
        rest!("group", Admin, 200, "GET", |_w, _c| "/api/security/groups/g", Value::Null),
        rest!("group POST", Admin, 200, "POST", |_w, _c| "/api/security/groups/g", json!({ "description": "d" })),
        rest!("group DELETE", Admin, 200, "DELETE", |_w, _c| "/api/security/groups/g", Value::Null),
        rest!("permissions", Admin, 200, "GET", |_w, _c| "/api/security/permissions", Value::Null),
        rest!("permission", Admin, 200, "GET", |_w, _c| "/api/security/permissions/team", Value::Null),
        rest!(
            "permission PUT",
            Admin,
            201,
            "PUT",
            |_w, c| format!("/api/security/permissions/by-{}", c.name),
            json!({ "repositories": ["nowhere"] })
        ),
        rest!("permission DELETE", Admin, 200, "DELETE", |_w, c| format!("/api/security/permissions/by-{}", c.name), Value::Null),
        rest!("repositories", GoodOrNone, 200, "GET", |_w, _c| "/artifactory/api/repositories", Value::Null),
        rest!("repository", Something, 200, "GET", |_w, _c| "/artifactory/api/repositories/first", Value::Null),
        rest!("repository PUT", Admin, 200, "PUT", |_w, c| format!("/api/repositories/made-by-{}", c.name), json!({ "rclass": "local" })),
        rest!("repository POST", Admin, 200, "POST", |_w, _c| "/api/repositories/first", json!({ "description": "d" })),
        rest!("repository DELETE", Admin, 200, "DELETE", |_w, c| format!("/api/repositories/made-by-{}", c.name), Value::Null),
        rest!("system ping", GoodOrNone, 200, "GET", |_w, _c| "/api/system/ping", Value::Null),
        rest!("system version", User, 200, "GET", |_w, _c| "/api/system/version", Value::Null),
        rest!("what cleanup freed", Admin, 200, "GET", |_w, _c| "/api/system/storage/gc", Value::Null),
        rest!("cleanup", Admin, 200, "POST", |_w, _c| "/api/system/storage/gc", Value::Null),
        rest!("backup", Operator, 200, "POST", |_w, _c| "/api/system/backup", json!({ "directory": "/nowhere" })),
        rest!("how a backup goes", Operator, 200, "GET", |_w, _c| "/api/system/backup", Value::Null),
        rest!("folder", Read, 200, "GET", |_w, _c| "/artifactory/api/storage/first/team/app/1", Value::Null),
        rest!("list of files", Read, 200, "GET", |_w, _c| "/api/storage/first/team/app?list&deep=1", Value::Null),
        rest!("properties", Read, 200, "GET", |_w, _c| "/api/storage/first/team/app/1?properties", Value::Null),
        rest!("properties PUT", Annotate, 204, "PUT", |_w, _c| "/api/storage/first/team/app/1?properties=qa=passed", Value::Null),
        rest!("properties DELETE", Annotate, 204, "DELETE", |_w, _c| "/api/storage/first/team/app/1?properties=qa", Value::Null),
        rest!("file", Read, 200, "GET", |_w, _c| "/artifactory/first/team/app/1/manifest.json", Value::Null),
        rest!("folder DELETE", Delete, 204, "DELETE", |w, c| format!("/artifactory/first/team/app/{}", tag_for(w, c)), Value::Null),
        rest!("search by property", GoodOrNone, 200, "GET", |_w, _c| "/api/search/prop?docker.repoName=team/app", Value::Null),
        rest!("search by name", GoodOrNone, 200, "GET", |_w, _c| "/api/search/artifact?name=app", Value::Null),
        rest!("V1 ancestry", Read, 200, "GET", |_w, _c| "/api/docker/docker-local/v1/ancestry?image=team/app&tag=1", Value::Null),
        rest!("V1 info", Read, 200, "GET", |_w, _c| "/api/docker/docker-local/v1/info?image=team/app&tag=1", Value::Null),
        rest!("V2 info", Read, 200, "GET", |_w, _c| "/api/docker/first/v2/info?image=team/app&tag=1", Value::Null),
        rest!("receipts", Read, 200, "GET", |_w, _c| "/api/docker/first/v2/receipts?image=team/app", Value::Null),
        rest!("jobs", User, 200, "GET", |_w, _c| "/api/docker/jobs", Value::Null),
        rest!("job", User, 404, "GET", |_w, _c| format!("/api/docker/jobs/{}", "0".repeat(32)), Value::Null),
        rest!(
            "promotion",
            Deploy,
            200,
            "POST",
            |_w, _c| "/api/docker/first/v2/promote",
            json!({ "targetRepo": "first", "dockerRepository": "team/app", "tag": "1", "targetTag": "promoted", "copy": true })
        ),
        rest!("audit", Admin, 200, "GET", |_w, _c| "/api/audit?limit=1", Value::Null),
        rest!("own tokens", User, 200, "GET", |_w, _c| "/api/security/tokens", Value::Null),
        rest!("own token POST", User, 201, "POST", |_w, _c| "/api/security/tokens", json!({ "description": "d" })),
        rest!("own token DELETE", User, 404, "DELETE", |_w, _c| "/api/security/tokens/absent", Value::Null),
        rest!(
            "own password",
            User,
            403,
            "PUT",
            |_w, _c| "/api/security/password",
            json!({ "oldPassword": "wrong", "newPassword": "a good horse" })
        ),
    ]
}

#[test]
fn every_route_gives_every_caller_what_the_rules_say_and_no_more() {
    let world = world();
    let mut wrong = Vec::new();
    let mut asked = 0;
    for caller in callers() {
        for probe in probes() {
            let (seen, expected) = ((probe.send)(&world, &caller), expected(&probe, &caller));
            asked += 1;
            if seen != expected {
                wrong.push(format!("{} as {}: {seen} instead of {expected}", probe.what, caller.name));
            }
        }
    }
    assert!(asked > 400, "{asked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn must(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    finished(arguments, output.unwrap_or_else(|error| panic!("{program}: {error}: scripts/deps test installs what is needed")))
}

/// A tar with one file.
fn small_root(directory: &Path) -> String {
    std::fs::create_dir_all(directory.join("root")).unwrap();
    std::fs::write(directory.join("root/hello"), "hello").unwrap();
    let archive = directory.join("root.tar").into_os_string().into_string().unwrap();
    must("tar", &["-C", directory.join("root").to_str().unwrap(), "-cf", &archive, "."]);
    archive
}

/// A robot that may push and pull `team/**` on two repositories, and a user who may pull.
fn team(registry: &Registry) -> [(String, String); 2] {
    let reader = registry.add_user("alice", &[]);
    registry.operate(&["user", "add", "ci", "--robot"]).unwrap();
    let where_to = ["--repository", "first", "--repository", "open", "--include", "team/**"];
    registry.operate(&[&["permission", "set", "team"], &where_to[..], &["--user", "alice=r", "--user", "ci=rwd"]].concat()).unwrap();
    [("alice".into(), reader), ("ci".into(), registry.add_token("ci", &["--description", "pushes", "--days", "1"]))]
}

#[test]
fn docker_works_with_password_access_token_and_identity_token() {
    let registry = Registry::start();
    let [alice, ci] = team(&registry);
    let directory = tempfile::tempdir().unwrap();
    let root = small_root(directory.path());
    let docker = Engine::start(&registry.ca(), &[registry.first, registry.open]);
    let log_in = |(user, secret): &(String, String), port: u16| {
        let file = directory.path().join("secret");
        std::fs::write(&file, secret).unwrap();
        let said = docker.must_with_input(&["login", "-u", user, "--password-stdin", &format!("localhost:{port}")], &file);
        assert!(said.contains("Login Succeeded"), "{said}");
    };
    let (image, hidden) = (format!("localhost:{}/team/hello:1", registry.first), format!("localhost:{}/other/hello:1", registry.first));
    docker.must(&["import", &root, &image]);
    docker.must(&["tag", &image, &hidden]);
    log_in(&ci, registry.first);
    // From here on docker has an identity token, and no password at all.
    let kept = docker.config();
    assert!(kept.contains("identitytoken") && !kept.contains(&ci.1), "{kept}");
    docker.must(&["push", &image]);
    let denied = docker.run(&["push", &hidden]);
    assert!(!denied.status.success());
    log_in(&alice, registry.first);
    docker.must(&["rmi", &image]);
    docker.must(&["pull", &image]);
    docker.must(&["tag", &hidden, &format!("localhost:{}/team/hello:2", registry.first)]);
    assert!(!docker.run(&["push", &format!("localhost:{}/team/hello:2", registry.first)]).status.success());
    // The user goes; the identity token goes with it.
    registry.operate(&["user", "disable", "alice"]).unwrap();
    assert!(!docker.run(&["pull", &image]).status.success());

    // One repository, pulled by anybody, pushed by whoever may.
    let open = format!("localhost:{}/team/hello:1", registry.open);
    docker.must(&["tag", &hidden, &open]);
    assert!(!docker.run(&["push", &open]).status.success());
    log_in(&ci, registry.open);
    docker.must(&["push", &open]);
    docker.must(&["logout", &format!("localhost:{}", registry.open)]);
    docker.must(&["rmi", &open]);
    docker.must(&["pull", &open]);
}

#[test]
fn a_hand_written_docker_configuration_works() {
    use base64::Engine as _;
    let registry = Registry::start();
    let [_, ci] = team(&registry);
    let directory = tempfile::tempdir().unwrap();
    let root = small_root(directory.path());
    let docker = Engine::start(&registry.ca(), &[registry.first]);
    // Without padding, and with a URL for a key, as people write it.
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", ci.0, ci.1));
    let key = format!("https://localhost:{}/v1/", registry.first);
    docker.set_config(&json!({ "auths": { key: { "auth": auth, "email": "ci@example.com" } } }).to_string());
    let image = format!("localhost:{}/team/hello:1", registry.first);
    docker.must(&["import", &root, &image]);
    docker.must(&["push", &image]);
}

#[test]
fn skopeo_and_podman_work_with_password_and_access_token() {
    let registry = Registry::start();
    let [alice, ci] = team(&registry);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
    std::fs::create_dir(path("ca")).unwrap();
    std::fs::copy(registry.ca(), path("ca/ca.crt")).unwrap();
    let (ca, root) = (path("ca"), small_root(directory.path()));
    let (storage, state) = (path("storage"), path("state"));
    let podman_command = |arguments: &[&str]| {
        let global =
            ["--root", &storage, "--runroot", &state, "--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"];
        Command::new("podman").args(global).args(arguments).output().expect("podman is needed: scripts/deps test installs it")
    };
    let podman = |arguments: &[&str]| finished(arguments, podman_command(arguments));
    let (host, open) = (format!("localhost:{}", registry.first), format!("localhost:{}", registry.open));
    for ((user, secret), auth) in [(&ci, path("ci.json")), (&alice, path("alice.json"))] {
        podman(&["login", "--authfile", &auth, "--cert-dir", &ca, "-u", user, "-p", secret, &host]);
        assert!(!podman_command(&["login", "--cert-dir", &ca, "-u", user, "-p", "wrong", &host]).status.success());
    }
    let image = format!("{host}/team/hello:1");
    podman(&["import", &root, &image]);
    let push = |auth: &str| podman_command(&["push", "--authfile", auth, "--cert-dir", &ca, &image]).status.success();
    assert!(!push(&path("alice.json")));
    assert!(push(&path("ci.json")));
    podman(&["rmi", &image]);
    podman(&["pull", "--authfile", &path("alice.json"), "--cert-dir", &ca, &image]);

    let credentials = format!("{}:{}", ci.0, ci.1);
    let (from, to) = (format!("docker://{image}"), format!("docker://{open}/team/hello:1"));
    let certificates = ["--src-cert-dir", &ca, "--dest-cert-dir", &ca];
    let logins = ["--src-creds", &credentials, "--dest-creds", &credentials];
    must("skopeo", &[&["copy"], &certificates[..], &logins[..], &[&from, &to]].concat());
    // Anybody pulls from there, nobody from the other.
    let back = format!("dir:{}", path("back"));
    must("skopeo", &["copy", "--src-cert-dir", &ca, "--src-no-creds", &to, &back]);
    let refused = Command::new("skopeo").args(["copy", "--src-cert-dir", &ca, "--src-no-creds", &from, &back]).output().unwrap();
    assert!(!refused.status.success());
    let refused = Command::new("skopeo").args(["copy", "--dest-cert-dir", &ca, "--dest-no-creds", &back, &to]).output().unwrap();
    assert!(!refused.status.success());
}

#[test]
fn an_operator_manages_users_while_the_backend_runs_and_while_it_does_not() {
    let mut registry = Registry::start();
    let first = registry.add_user("alice", &["--email", "alice@example.com"]);
    let log_in = |registry: &Registry, password: &str| {
        let client = Client::tls(registry.first, &registry.ca()).with_basic("alice", password);
        client.get("/v2/token").status
    };
    assert_eq!(log_in(&registry, &first), 200);
    assert!(registry.operate(&["user", "add", "alice"]).unwrap_err().contains("already exists"));
    assert!(registry.operate(&["user", "delete", "admin"]).unwrap_err().contains("last admin"));
    assert!(registry.operate(&["user", "show", "nobody"]).unwrap_err().contains("not known"));
    registry.stop();
    let said = registry.operate(&["user", "password", "alice"]).unwrap();
    let second = said.lines().find_map(|line| line.strip_prefix("password: ")).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(registry.operate(&["user", "list"]).unwrap().lines().collect::<Vec<_>>(), ["admin", "alice"]);
    registry.restart();
    assert_eq!((log_in(&registry, &first), log_in(&registry, &second)), (401, 200));
    let shown = registry.operate(&["user", "show", "alice"]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["email"], "alice@example.com");
    registry.stop();
    // Both ways, the audit log knows who it was.
    let read = |series: &str| std::fs::read_to_string(registry.path(&format!("data/audit/{series}-00000001.log"))).unwrap();
    let audit = read("changes") + &read("refusals");
    let mut lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let who =
        |line: Value| (line["method"] == "POST" && line["path"] == "/artifactory/api/security/users/alice").then(|| line["user"].clone());
    assert_eq!(lines.find_map(who), Some(json!("operator")));
    let deleted = audit.lines().find(|line| line.contains("DELETE") && line.contains("users/admin")).unwrap();
    assert!(deleted.contains("\"user\":\"operator\"") && deleted.contains("409"), "{deleted}");
}

#[test]
fn logs_contain_no_secret() {
    let mut registry = Registry::start();
    let password = registry.add_user("alice", &[]);
    let token = registry.add_token("alice", &[]);
    registry.operate(&["permission", "set", "all", "--repository", "ANY", "--user", "alice=rwd"]).unwrap();
    let client = |port: u16| Client::tls(port, &registry.ca());
    let mut secrets = vec![password.clone(), token.clone(), "canary-wrong-password".into(), "Canary-As-Name".into(), PASSWORD.into()];
    for port in [registry.first, registry.v1, registry.console, registry.open] {
        for (user, secret) in [("alice", password.as_str()), ("alice", &token), ("alice", "canary-wrong-password"), ("Canary-As-Name", "x")]
        {
            for path in [
                "/v2/",
                "/v2/token?offline_token=true",
                "/v2/x/manifests/1",
                "/v1/users/",
                "/v1/repositories/x/images",
                "/api/security/tokens",
            ] {
                let reply = client(port).with_basic(user, secret).get(path);
                if path.contains("token?") && reply.status == 200 {
                    let body = reply.json();
                    secrets.extend(["token", "refresh_token"].map(|name| body[name].as_str().unwrap().to_owned()));
                }
            }
        }
        client(port).with("Authorization", &format!("Bearer {token}")).get("/v2/");
        client(port).with("X-JFrog-Art-Api", &token).get("/v2/");
        client(port).with("Authorization", "Bearer canary-wrong-password").get("/v2/");
    }
    let change = json!({ "oldPassword": password, "newPassword": "canary-new-password" }).to_string();
    let changed =
        client(registry.console).with_basic("alice", &password).send("PUT", "/api/security/password", JSON, Body::Bytes(change.as_bytes()));
    assert_eq!(changed.status, 200);
    secrets.push("canary-new-password".into());
    let begun = registry.client(registry.v1).send("PUT", "/v1/repositories/x/", &[], Body::Bytes(b"[]"));
    secrets.push(begun.header("X-Docker-Token").unwrap().split(',').next().unwrap().replace("signature=", ""));
    let form = "grant_type=password&username=alice&password=canary-new-password";
    client(registry.first).send("POST", "/v2/token", &[], Body::Bytes(form.as_bytes()));
    registry.stop();
    let logs = ["berth-backend.log", "berth-gateway.log", "berth-gateway.out"].map(|name| registry.path(name));
    let audit = std::fs::read_dir(registry.path("data/audit")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for path in logs.into_iter().chain(audit) {
        let text = std::fs::read_to_string(&path).unwrap();
        seen += text.len();
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{} has {secret}", path.display());
        }
    }
    assert!(seen > 10_000 && secrets.len() > 10);
}
