//! Today's clients: docker engine, skopeo and podman, on ports that are bound to different repositories.

use std::path::Path;
use std::process::Command;

use e2e::Registry;
use e2e::engine::{Engine, finished};
use e2e::registry::PASSWORD;

/// A tar of a root with nothing but busybox.
fn busybox_root(directory: &Path) -> std::path::PathBuf {
    let bin = directory.join("root/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("the Debian package busybox-static is needed: scripts/deps test installs it");
    let archive = directory.join("root.tar");
    must("tar", &["-C", directory.join("root").to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    archive
}

fn must(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    finished(arguments, output.unwrap_or_else(|error| panic!("{program}: {error}: scripts/deps test installs what is needed")))
}

#[test]
fn docker_logs_in_pushes_pulls_and_runs_and_two_ports_stay_apart() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let root = busybox_root(directory.path());
    let docker = Engine::start(&registry.ca(), &[registry.first, registry.second]);
    for port in [registry.first, registry.second] {
        let login = docker.must_with_input(&["login", "-u", "admin", "--password-stdin", &format!("localhost:{port}")], &password);
        assert!(login.contains("Login Succeeded"), "{login}");
    }
    for (port, text) in [(registry.first, "first"), (registry.second, "second")] {
        let image = format!("localhost:{port}/team/hello:{text}");
        docker.must(&["import", "-c", &format!("LABEL of={text}"), root.to_str().unwrap(), &image]);
        docker.must(&["push", &image]);
        docker.must(&["rmi", &image]);
        docker.must(&["pull", &image]);
        let said = docker.must(&["run", "--rm", "--network=none", &image, "/bin/busybox", "echo", "hello", text]);
        assert_eq!(said.trim(), format!("hello {text}"));
    }
    let elsewhere = docker.run(&["pull", &format!("localhost:{}/team/hello:first", registry.second)]);
    assert!(!elsewhere.status.success() && String::from_utf8_lossy(&elsewhere.stderr).contains("not found"));
    let wrong = directory.path().join("wrong");
    std::fs::write(&wrong, "no").unwrap();
    let refused =
        Command::new("/usr/bin/docker").args(["login", "-u", "admin", "-p", "no", &format!("localhost:{}", registry.first)]).output();
    assert!(!refused.unwrap().status.success());
    assert!(docker.must(&["search", &format!("localhost:{}/hello", registry.first)]).contains("team/hello"));
}

#[test]
fn docker_is_told_at_once_and_in_words_what_is_wrong() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    let root = busybox_root(directory.path());
    let docker = Engine::start(&registry.ca(), &[registry.first, registry.open, registry.v1]);
    let at = |port: u16| format!("localhost:{port}/team/hello:1");
    // What it says, and how long it takes to say it: a refusal that it tries again takes 50 seconds.
    let refused = |arguments: &[&str]| {
        let begun = std::time::Instant::now();
        let output = docker.run(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}: {said}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{arguments:?} took {:?}: {said}", begun.elapsed());
        said
    };
    for port in [registry.first, registry.open, registry.v1] {
        docker.must(&["import", root.to_str().unwrap(), &at(port)]);
    }
    // Without a login: where pulling needs one, and where it doesn't.
    for port in [registry.first, registry.open] {
        let said = refused(&["push", &at(port)]);
        assert!(said.contains("denied: requested access to the resource is denied"), "{said}");
    }
    let said = refused(&["pull", &format!("localhost:{}/team/nothing:1", registry.first)]);
    assert!(said.contains("pull access denied") && said.contains("may require 'docker login'"), "{said}");
    let said = refused(&["login", "-u", "admin", "-p", "no", &format!("localhost:{}", registry.first)]);
    assert!(said.contains("unauthorized: wrong user name, password or token"), "{said}");
    // At a port that speaks V1 it can't do anything, and says so.
    for action in ["pull", "push"] {
        let said = refused(&[action, &at(registry.v1)]);
        assert!(said.contains("this repository speaks Docker V1"), "{said}");
    }
}

#[test]
fn skopeo_copies_both_formats_there_and_back() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
    std::fs::create_dir(path("ca")).unwrap();
    std::fs::copy(registry.ca(), path("ca/ca.crt")).unwrap();
    let credentials = format!("admin:{PASSWORD}");
    let layers = [e2e::image::Layer::of_package("busybox-static"), e2e::image::Layer::of_oddities("pax")];
    let client = registry.client(registry.first);
    let (config, manifest) = e2e::image::schema2(&layers);
    for blob in [config.as_bytes(), &layers[0].packed, &layers[1].packed] {
        client.push_blob("team/app", blob).unwrap();
    }
    client.push_manifest("team/app", "seed", e2e::image::SCHEMA2, &manifest).unwrap();
    let seed = format!("docker://localhost:{}/team/app:seed", registry.first);
    for format in ["v2s2", "oci"] {
        let (there, back) = (format!("docker://localhost:{}/team/app:{format}", registry.second), format!("dir:{}", path(format)));
        let ca = path("ca");
        must(
            "skopeo",
            &[
                "copy",
                "--src-cert-dir",
                &ca,
                "--dest-cert-dir",
                &ca,
                "--src-creds",
                &credentials,
                "--dest-creds",
                &credentials,
                "--format",
                format,
                &seed,
                &there,
            ],
        );
        must("skopeo", &["copy", "--src-cert-dir", &ca, "--src-creds", &credentials, &there, &back]);
        for layer in &layers {
            let name = layer.digest().replace("sha256:", "");
            assert!(e2e::client::read_file(&directory.path().join(format).join(name)) == layer.packed);
        }
    }
    let listed = must(
        "skopeo",
        &["list-tags", "--cert-dir", &path("ca"), "--creds", &credentials, &format!("docker://localhost:{}/team/app", registry.second)],
    );
    assert!(listed.contains("oci") && listed.contains("v2s2"));
}

#[test]
fn skopeo_copies_schema_1_there_and_back_and_reads_what_is_made_for_old_dockers() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
    std::fs::create_dir(path("ca")).unwrap();
    std::fs::copy(registry.ca(), path("ca/ca.crt")).unwrap();
    let (ca, credentials) = (path("ca"), format!("admin:{PASSWORD}"));
    let from = ["--src-cert-dir", &ca, "--src-creds", &credentials];
    let to = ["--dest-cert-dir", &ca, "--dest-creds", &credentials];
    // An image with something in its history that has no layer.
    let layer = e2e::image::Layer::of_busybox();
    let (config, manifest) = e2e::image::schema2(std::slice::from_ref(&layer));
    let mut with_history: serde_json::Value = serde_json::from_str(&config).unwrap();
    with_history["created"] = "2020-01-02T03:04:05Z".into();
    with_history["history"] = serde_json::json!([{ "created_by": "ADD" }, { "created_by": "ENV a=b", "empty_layer": true }]);
    let with_history = with_history.to_string();
    let digest = |text: &str| format!("sha256:{}", e2e::sha256(text.as_bytes()));
    let manifest = manifest
        .replace(&digest(&config), &digest(&with_history))
        .replace(&format!("\"size\":{}", config.len()), &format!("\"size\":{}", with_history.len()));
    let client = registry.client(registry.first);
    for blob in [with_history.as_bytes(), &layer.packed] {
        client.push_blob("team/app", blob).unwrap();
    }
    client.push_manifest("team/app", "1", e2e::image::SCHEMA2, &manifest).unwrap();

    let at = |port: u16, tag: &str| format!("docker://localhost:{port}/team/app:{tag}");
    // skopeo signs with docker's own library; what it gets back is what it pushed.
    must("skopeo", &[&["copy"], &from[..], &to, &["--format", "v2s1", &at(registry.first, "1"), &at(registry.second, "1")]].concat());
    must("skopeo", &[&["copy"], &from[..], &[&at(registry.second, "1"), &format!("dir:{}", path("back"))]].concat());
    let back = std::fs::read(path("back/manifest.json")).unwrap();
    let headers = [("User-Agent", "docker/1.6.2 go/go1.4.2 git-commit/7c8fca2 kernel/3.13.0 os/linux arch/amd64")];
    let pull = |port: u16| registry.client(port).send("GET", "/v2/team/app/manifests/1", &headers, e2e::client::Body::None);
    assert!(pull(registry.second).bytes() == back);
    must("skopeo", &[&["copy"], &from[..], &to, &["--format", "v2s2", &at(registry.second, "1"), &at(registry.first, "again")]].concat());

    // What the registry makes of the same image is what skopeo made of it, signature and layout apart.
    let made = pull(registry.first);
    let named = made.header("Docker-Content-Digest").unwrap().to_owned();
    let made = made.bytes();
    let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    for field in ["name", "tag", "architecture", "fsLayers"] {
        assert_eq!(read(&made)[field], read(&back)[field], "{field}");
    }
    for at in 0..2 {
        let image = |bytes: &[u8]| read(read(bytes)["history"][at]["v1Compatibility"].as_str().unwrap().as_bytes());
        assert_eq!(image(&made), image(&back));
    }
    std::fs::create_dir(path("made")).unwrap();
    std::fs::write(path("made/manifest.json"), &made).unwrap();
    std::fs::copy(path("back/version"), path("made/version")).unwrap();
    for layer in read(&made)["fsLayers"].as_array().unwrap() {
        let sum = layer["blobSum"].as_str().unwrap();
        let blob = client.get(&format!("/v2/team/app/blobs/{sum}")).expect(200).unwrap().bytes();
        std::fs::write(path("made").to_owned() + "/" + &sum.replace("sha256:", ""), blob).unwrap();
    }
    assert_eq!(must("skopeo", &["manifest-digest", &path("made/manifest.json")]).trim(), named);
    let made = format!("dir:{}", path("made"));
    must("skopeo", &[&["copy", "--preserve-digests"], &to[..], &[&made, &at(registry.second, "1")]].concat());
}

#[test]
fn podman_logs_in_pushes_pulls_and_runs() {
    let registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
    std::fs::create_dir(path("ca")).unwrap();
    std::fs::copy(registry.ca(), path("ca/ca.crt")).unwrap();
    let root = busybox_root(directory.path());
    let (storage, state, auth, ca) = (path("storage"), path("state"), path("auth.json"), path("ca"));
    let podman = |arguments: &[&str]| {
        let global =
            ["--root", &storage, "--runroot", &state, "--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"];
        must("podman", &[&global, arguments].concat())
    };
    let image = format!("localhost:{}/team/hello:1", registry.second);
    let host = format!("localhost:{}", registry.second);
    podman(&["login", "--authfile", &auth, "--cert-dir", &ca, "-u", "admin", "-p", PASSWORD, &host]);
    podman(&["import", root.to_str().unwrap(), &image]);
    podman(&["push", "--authfile", &auth, "--cert-dir", &ca, &image]);
    podman(&["rmi", &image]);
    podman(&["pull", "--authfile", &auth, "--cert-dir", &ca, &image]);
    let limits = ["run", "--rm", "--network=none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let said = podman(&[&limits[..], &[&image, "/bin/busybox", "echo", "hello"]].concat());
    assert_eq!(said.trim(), "hello");
}
