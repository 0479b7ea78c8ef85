//! Images made of real files.

use std::io::Write;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::sha256;

/// A layer: its tar, and what docker sends of it.
#[derive(Clone)]
pub struct Layer {
    /// The unpacked tar.
    pub tar: Vec<u8>,
    /// The tar, packed by gzip.
    pub packed: Vec<u8>,
}

impl Layer {
    /// Packs a tar.
    pub fn new(tar: Vec<u8>) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&tar).unwrap();
        let packed = encoder.finish().unwrap();
        Self { tar, packed }
    }

    /// One file with these bytes.
    pub fn of_file(content: &[u8]) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, "file", 0o644, content);
        Self::new(archive.into_inner().unwrap())
    }

    /// The same with a member of a kind that checksums of members can't be made of, so that nobody knows what the layer
    /// unpacks to until it is read through.
    pub fn of_sparse_file(content: &[u8]) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_pax_extensions([("GNU.sparse.test", b"1".as_slice())]).unwrap();
        append(&mut archive, "file", 0o644, content);
        Self::new(archive.into_inner().unwrap())
    }

    /// A root that can be run: busybox and nothing else.
    pub fn of_busybox() -> Self {
        let busybox = std::fs::read("/bin/busybox").expect("the Debian package busybox-static is needed: scripts/deps test installs it");
        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, "bin/busybox", 0o755, &busybox);
        Self::new(archive.into_inner().unwrap())
    }

    /// The same layer as old tools may have sent it: not packed.
    #[must_use]
    pub fn unpacked(self) -> Self {
        Self { packed: self.tar.clone(), tar: self.tar }
    }

    /// The files of an installed Debian package, with their owners, modes, links and long names.
    pub fn of_package(package: &str) -> Self {
        let listed = Command::new("dpkg").args(["-L", package]).output().unwrap();
        assert!(listed.status.success(), "the Debian package {package} is needed: scripts/deps test installs it");
        Self::new(tar(&["--no-recursion", "-C", "/"], &String::from_utf8(listed.stdout).unwrap()))
    }

    /// A tar with every kind of member that layers have, and names that need GNU or PAX extensions.
    pub fn of_oddities(format: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let deep = root.join("d".repeat(90)).join("e".repeat(90));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f".repeat(40)), b"long").unwrap();
        std::fs::write(root.join("empty"), b"").unwrap();
        std::fs::write(root.join(".wh.gone"), b"").unwrap();
        std::fs::write(root.join("block"), [7; 512]).unwrap();
        std::fs::hard_link(root.join("block"), root.join("hard")).unwrap();
        std::os::unix::fs::symlink("x".repeat(150), root.join("soft")).unwrap();
        Self::new(tar(&[&format!("--format={format}"), "-C", root.to_str().unwrap()], "."))
    }

    /// The digest of what docker sends.
    pub fn digest(&self) -> String {
        format!("sha256:{}", sha256(&self.packed))
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_371_157_430);
    archive.append_data(&mut header, name, content).unwrap();
}

/// GNU tar of the listed names.
fn tar(arguments: &[&str], names: &str) -> Vec<u8> {
    let list = tempfile::NamedTempFile::new().unwrap();
    let relative: Vec<&str> = names.lines().map(|name| name.trim_start_matches('/')).filter(|name| !name.is_empty()).collect();
    std::fs::write(list.path(), relative.join("\n")).unwrap();
    let made = Command::new("tar").args(["-cf", "-"]).args(arguments).arg("-T").arg(list.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// A V2 image in Docker's schema 2: its config and its manifest.
pub fn schema2(layers: &[Layer]) -> (String, String) {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(&layer.tar))).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/busybox", "echo", "hello from berth"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string();
    let descriptors: Vec<serde_json::Value> = layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": layer.packed.len(), "digest": layer.digest(),
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": SCHEMA2,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(),
            "digest": format!("sha256:{}", sha256(config.as_bytes())),
        },
        "layers": descriptors,
    })
    .to_string();
    (config, manifest)
}

/// The media type of Docker's schema 2 manifest.
pub const SCHEMA2: &str = "application/vnd.docker.distribution.manifest.v2+json";
