//! Archives that today's tools save, packed as people pack them, imported into a store and pulled by a client.

use std::path::Path;
use std::process::Command;

use e2e::Registry;
use e2e::engine::{Engine, finished};

fn must(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    finished(arguments, output.unwrap_or_else(|error| panic!("{program}: {error}: scripts/deps test installs what is needed")))
}

/// A tar of a root with nothing but busybox.
fn busybox_root(directory: &Path) -> String {
    let bin = directory.join("root/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("the Debian package busybox-static is needed: scripts/deps test installs it");
    let archive = directory.join("root.tar");
    must("tar", &["-C", directory.join("root").to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    archive.into_os_string().into_string().unwrap()
}

#[test]
fn what_docker_skopeo_and_podman_save_is_imported_however_it_is_packed() {
    let mut registry = Registry::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).into_os_string().into_string().unwrap();
    let root = busybox_root(directory.path());
    let docker = Engine::start(&registry.ca(), &[registry.open]);
    docker.must(&["import", "-c", "LABEL of=archives", &root, "team/hello:1"]);
    docker.must(&["save", "-o", &path("docker.tar"), "team/hello:1"]);
    must(
        "skopeo",
        &["copy", &format!("docker-archive:{}", path("docker.tar")), &format!("oci-archive:{}:team/hello:1", path("skopeo-oci.tar"))],
    );
    let (storage, state) = (path("storage"), path("state"));
    let podman =
        |arguments: &[&str]| must("podman", &[&["--root", &storage, "--runroot", &state, "--storage-driver", "vfs"], arguments].concat());
    podman(&["import", &root, "localhost/team/hello:1"]);
    podman(&["save", "--format", "docker-archive", "-o", &path("podman.tar"), "localhost/team/hello:1"]);
    podman(&["save", "--format", "oci-archive", "-o", &path("podman-oci.tar"), "localhost/team/hello:1"]);
    let mut files = vec!["docker.tar", "skopeo-oci.tar", "podman.tar", "podman-oci.tar"];
    // Called as they are, as `docker load` takes them, or as something else: the first bytes tell.
    for (program, packed) in [("gzip", "docker.tar.gz"), ("xz", "docker.txz"), ("bzip2", "docker.backup"), ("zstd", "docker.tar.gz.old")] {
        let content = Command::new(program).args(["-c", &path("docker.tar")]).output().unwrap();
        assert!(content.status.success(), "{program}: {}", String::from_utf8_lossy(&content.stderr));
        std::fs::write(path(packed), content.stdout).unwrap();
        files.push(packed);
    }
    registry.stop();
    for (number, file) in files.iter().enumerate() {
        let said =
            registry.run_stopped(&["import-archive", "--repository", "open", "--image", &format!("team/hello:from-{number}"), &path(file)]);
        assert!(said.starts_with("1 tags, 1 images imported"), "{file}: {said}");
    }
    // What docker writes for its elders is in there too.
    let said = registry.run_stopped(&["import-archive", "--repository", "docker-local", &path("docker.txz")]);
    assert!(said.starts_with("1 tags, 1 images imported"), "{said}");
    let found = registry.check();
    registry.restart();
    docker.must(&["rmi", "team/hello:1"]);
    for (number, file) in files.iter().enumerate() {
        let image = format!("localhost:{}/team/hello:from-{number}", registry.open);
        docker.must(&["pull", &image]);
        let said = docker.must(&["run", "--rm", "--network=none", &image, "/bin/busybox", "echo", "hello", file]);
        assert_eq!(said.trim(), format!("hello {file}"), "{found}");
        docker.must(&["rmi", &image]);
    }
    let tags = registry.client(registry.v1).get("/v1/repositories/team/hello/tags").text();
    assert!(tags.contains("\"1\":"), "{tags}");
}
