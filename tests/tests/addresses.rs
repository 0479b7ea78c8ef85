//! Addresses that are bound to more than one repository: the first element of an image's name, or the first label of the
//! host, says which.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use e2e::engine::{Engine, finished};
use e2e::image::{self, Layer};
use e2e::registry::{PASSWORD, binary, free_port};
use e2e::v1::{self, Docker, Version};
use e2e::{Client, Registry};

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}: scripts/deps test installs it"))
}

fn must(program: &str, arguments: &[&str]) -> String {
    finished(arguments, run(program, arguments))
}

/// Adds a binding to the running gateway and returns its port.
fn bind(registry: &Registry, certificate: &str, what: &str) -> u16 {
    let port = free_port();
    registry.add_to_gateway(&format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\n{what}\ncertificate = \"{certificate}/server.pem\"\nkey = \"{certificate}/server.key\"\n"
    ));
    port
}

fn archive(directory: &Path) -> String {
    let root = directory.join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("file"), "content").unwrap();
    let archive = directory.join("root.tar").into_os_string().into_string().unwrap();
    must("tar", &["-C", root.to_str().unwrap(), "-cf", &archive, "."]);
    archive
}

#[test]
fn docker_reaches_every_v2_repository_through_one_address_by_the_first_element_of_the_name() {
    let registry = Registry::start();
    let port = bind(&registry, "certs", "repository_from = \"path\"");
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    fs::write(&password, PASSWORD).unwrap();
    let archive = archive(directory.path());
    let docker = Engine::start(&registry.ca(), &[port]);
    // What anybody may pull, docker pulls before it has an account.
    let (config, manifest) = image::schema2(&[Layer::of_busybox()]);
    let layer = Layer::of_busybox();
    for blob in [config.as_bytes(), &layer.packed] {
        registry.client(registry.open).push_blob("app", blob).unwrap();
    }
    registry.client(registry.open).push_manifest("app", "1", image::SCHEMA2, &manifest).unwrap();
    docker.must(&["pull", &format!("localhost:{port}/open/app:1")]);
    // One login is good for all of them.
    docker.must_with_input(&["login", "-u", "admin", "--password-stdin", &format!("localhost:{port}")], &password);
    for key in ["first", "docker-local2"] {
        let name = format!("localhost:{port}/{key}/team/hello:1");
        docker.must(&["import", "-c", &format!("LABEL of={key}"), &archive, &name]);
        docker.must(&["push", &name]);
        docker.must(&["rmi", &name]);
        docker.must(&["pull", &name]);
        assert_eq!(docker.must(&["inspect", "-f", "{{.Config.Labels.of}}", &name]).trim(), key);
        // docker tries to mount the layer from the repository that it pushed it to first: here that is an upload.
        let own = if key == "first" { registry.first } else { registry.second };
        let tags = registry.client(own).get("/v2/team/hello/tags/list").json();
        assert_eq!(tags, serde_json::json!({ "name": "team/hello", "tags": ["1"] }));
    }
    for (name, says) in [("docker-local/app:1", "not found"), ("absent/app:1", "not found"), ("app:1", "<repository>/<image>")] {
        let refused = docker.run(&["pull", &format!("localhost:{port}/{name}")]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(says), "{name}: {said}");
    }
}

#[test]
fn skopeo_copies_between_an_address_of_all_and_one_of_its_own() {
    let registry = Registry::start();
    let port = bind(&registry, "certs", "repository_from = \"path\"");
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().to_str().unwrap();
    fs::copy(registry.ca(), directory.path().join("ca.crt")).unwrap();
    let layer = Layer::of_busybox();
    let (config, manifest) = image::schema2(std::slice::from_ref(&layer));
    let client = registry.client(registry.first);
    for blob in [config.as_bytes(), &layer.packed] {
        client.push_blob("team/app", blob).unwrap();
    }
    for tag in ["1", "2"] {
        client.push_manifest("team/app", tag, image::SCHEMA2, &manifest).unwrap();
    }
    let login = format!("admin:{PASSWORD}");
    let both = ["--src-cert-dir", ca, "--dest-cert-dir", ca, "--src-creds", &login, "--dest-creds", &login];
    let copy = |from: &str, to: &str| must("skopeo", &[&["copy"], &both[..], &[from, to]].concat());
    copy(&format!("docker://localhost:{}/team/app:1", registry.first), &format!("docker://localhost:{port}/docker-local2/copy/app:1"));
    copy(&format!("docker://localhost:{port}/docker-local2/copy/app:1"), &format!("docker://localhost:{port}/first/copy/app:1"));
    for own in [registry.first, registry.second] {
        assert_eq!(registry.client(own).get("/v2/copy/app/manifests/1").text(), manifest);
    }
    let listed = must("skopeo", &["list-tags", "--cert-dir", ca, "--creds", &login, &format!("docker://localhost:{port}/first/team/app")]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["Tags"], serde_json::json!(["1", "2"]));
    must("skopeo", &["delete", "--cert-dir", ca, "--creds", &login, &format!("docker://localhost:{port}/docker-local2/copy/app:1")]);
    assert_eq!(registry.client(registry.second).get("/v2/copy/app/manifests/1").status, 404);
    let catalog = registry.client(port).get("/v2/_catalog?n=2");
    let next = "</v2/_catalog?n=2&last=first%2Fteam%2Fapp>; rel=\"next\"";
    assert!(catalog.header("Link").is_none_or(|link| link == next), "{:?}", catalog.header("Link"));
    assert_eq!(catalog.json(), serde_json::json!({ "repositories": ["first/copy/app", "first/team/app"] }));
}

#[test]
fn the_first_label_of_the_host_chooses_a_repository_of_either_api() {
    let registry = Registry::start();
    let hosts = ["first.docker.example", "docker-local.docker.example", "absent.docker.example"];
    let names: Vec<_> = hosts.iter().flat_map(|host| ["--name", host]).collect();
    let directory = registry.path("names");
    let made = run(
        binary("berth-gateway").to_str().unwrap(),
        &[&["cert", "self-signed", "--dir", directory.to_str().unwrap()], &names[..]].concat(),
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = bind(&registry, "names", "server_name = \"*.docker.example\"\nrepository_from = \"host\"");
    let client = |host: &str| Client::tls(port, &registry.path("names/ca.pem")).with_basic("admin", PASSWORD).named(host);

    // V2: every URL that is answered leads back to the host that was asked.
    let layer = Layer::of_busybox();
    let (config, manifest) = image::schema2(std::slice::from_ref(&layer));
    let v2 = client(hosts[0]);
    for blob in [config.as_bytes(), &layer.packed] {
        v2.push_blob("team/app", blob).unwrap();
    }
    v2.push_manifest("team/app", "1", image::SCHEMA2, &manifest).unwrap();
    assert_eq!(registry.client(registry.first).get("/v2/team/app/manifests/1").text(), manifest);
    let resolve = format!("{}:{port}:127.0.0.1", hosts[0]);
    let url = format!("https://{}:{port}/v2/team/app/tags/list", hosts[0]);
    let ca = registry.path("names/ca.pem");
    let login = format!("admin:{PASSWORD}");
    let said = must("curl", &["-sSf", "--cacert", ca.to_str().unwrap(), "--resolve", &resolve, "-u", &login, &url]);
    assert!(said.contains("\"1\""), "{said}");

    // V1: the endpoint that docker is sent to is the same host and port.
    let begun = client(hosts[1]).send("PUT", "/v1/repositories/a/b/", &[("X-Docker-Token", "true")], e2e::client::Body::Bytes(b"[]"));
    assert_eq!(begun.header("X-Docker-Endpoints"), Some(format!("{}:{port}", hosts[1]).as_str()));
    let docker = Docker::at(Version::V1_5, client(hosts[1]), &format!("{}:{port}", hosts[1]));
    docker.push("team/old", "1", &v1::chain(Version::V1_5, std::slice::from_ref(&layer), "host")).unwrap();
    let own = Docker::new(Version::V1_5, registry.client(registry.v1), registry.v1);
    assert_eq!(own.pull("team/old", "1").unwrap().len(), 1);

    // A repository that is not there is the backend's to refuse; a host that is not bound the gateway's.
    let absent = client(hosts[2]).get("/v2/team/app/tags/list");
    assert_eq!(absent.status, 404);
    assert!(absent.text().contains("NAME_UNKNOWN"));
    let stranger = client(hosts[0]).send("GET", "/v2/", &[("Host", "first.other.example")], e2e::client::Body::None);
    assert_eq!(stranger.status, 400, "two hosts in one request");
}
