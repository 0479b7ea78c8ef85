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
