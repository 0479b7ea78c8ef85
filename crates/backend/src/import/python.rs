//! The storage of the original V1 registry (docker-registry, in Python), on files (protocol reference §1.3):
//!
//! ```text
//! images/<id>/json          as received
//!             layer         as received: gzip, plain, bzip2 or xz
//!             _checksum     a list of checksums, or one
//!             _inprogress   there as long as the push has not ended
//! repositories/<namespace>/<name>/tag_<tag>      the id
//!                                 tag<tag>_json  who pushed it
//! ```

use std::fs::{DirEntry, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use berth_names::{ApiVersion, ImageName, Tag};
use berth_registry::v1::{IMAGE_JSON_BYTES_MAX, ImageId};
use bytes::Bytes;
use serde_json::Value;

use super::chain::{Chains, Source};
use super::feed::{Feed, Meter};
use super::{Import, PUSH, Trouble, require_version, shown};

/// Tags of one storage.
const TAGS_MAX: usize = 5_000_000;

/// The largest of the small files, in bytes.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A tag that is to be imported.
struct Found {
    path: PathBuf,
    namespace: String,
    name: String,
    tag: String,
    modified: SystemTime,
}

/// Imports every tag and what it leads to.
pub(super) async fn import(import: &mut Import, directory: &Path) -> anyhow::Result<()> {
    require_version(import, ApiVersion::V1)?;
    for part in ["images", "repositories"] {
        anyhow::ensure!(directory.join(part).is_dir(), "{} has no directory `{part}`: it is no storage of a V1 registry", shown(directory));
    }
    let mut tags = find_tags(&directory.join("repositories"))?;
    // In the order in which they were pushed, so that where only the newest are kept those are.
    tags.sort_by_key(|found| found.modified);
    let mut chains = Chains::new(Storage { images: directory.join("images") });
    let total = tags.len();
    for (number, found) in tags.iter().enumerate() {
        import.show(&format!("tag {} of {total}", number + 1));
        let outcome = import_tag(import, &mut chains, found).await;
        import.settle(&format!("{}/{}:{}", found.namespace, found.name, found.tag), outcome)?;
    }
    let images = std::fs::read_dir(directory.join("images"))?.count();
    if let Some(rest @ 1..) = images.checked_sub(chains.looked_at()) {
        import.line.say(&format!("{rest} images that no tag leads to were left where they are"));
    }
    Ok(())
}

async fn import_tag(import: &mut Import, chains: &mut Chains<Storage>, found: &Found) -> Result<(), Trouble> {
    let Found { path, namespace, name, tag, .. } = found;
    let invalid = |what: &str| Trouble::Skip(format!("it has no valid {what}"));
    // The original quotes what a name has behind its first slash.
    let image: ImageName = format!("{namespace}/{}", unquote(name)).parse().map_err(|_| invalid("image name"))?;
    let tag: Tag = tag.parse().map_err(|_| invalid("tag"))?;
    import.require_taken(&image)?;
    let text = read_small(path, SMALL_BYTES_MAX).map_err(Trouble::Skip)?;
    let id: ImageId = String::from_utf8_lossy(&text).trim().trim_matches('"').parse().map_err(|_| invalid("image id"))?;
    chains.bring(import, &id).await?;
    let agent = pushed_by(&path.with_file_name(format!("tag{tag}_json")));
    import.registry.put_v1_tag((&import.repository.key, &image, &tag), &id, &agent, PUSH, super::VIEWER).await?;
    import.keep_newest(&image, &tag).await
}

fn find_tags(repositories: &Path) -> anyhow::Result<Vec<Found>> {
    let mut tags = Vec::new();
    for namespace in entries(repositories)?.into_iter().filter(is_directory) {
        for name in entries(&namespace.path())?.into_iter().filter(is_directory) {
            for file in entries(&name.path())? {
                let text = |entry: &DirEntry| entry.file_name().to_string_lossy().into_owned();
                let Some(tag) = text(&file).strip_prefix("tag_").map(str::to_owned) else { continue };
                // `tag_x_json` may be the tag `x_json`, or say who pushed the tag `_x`: the one is an id, the other is JSON.
                let (path, pushed) = (file.path(), tag.strip_suffix("_json").map(|rest| name.path().join(format!("tag__{rest}"))));
                if pushed.is_some_and(|tag| tag.is_file()) && read_small(&path, SMALL_BYTES_MAX).is_ok_and(|text| text.starts_with(b"{")) {
                    continue;
                }
                let modified = file.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                tags.push(Found { path, namespace: text(&namespace), name: text(&name), tag, modified });
                anyhow::ensure!(tags.len() <= TAGS_MAX, "there are more than {TAGS_MAX} tags");
            }
        }
    }
    Ok(tags)
}

fn entries(directory: &Path) -> anyhow::Result<Vec<DirEntry>> {
    let read = || std::fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>();
    let mut entries = read().with_context(|| format!("can't read {}", shown(directory)))?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

fn is_directory(entry: &DirEntry) -> bool {
    entry.path().is_dir()
}

/// `a%2Fb` is `a/b`; what is no escape stays, and is refused as a name.
fn unquote(name: &str) -> String {
    name.replace("%2F", "/").replace("%2f", "/")
}

/// The words of a `User-Agent` that the original made its push information from.
fn pushed_by(path: &Path) -> String {
    let json = read_small(path, SMALL_BYTES_MAX).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()).unwrap_or_default();
    let fields = [("docker_version", "docker"), ("docker_go_version", "go"), ("kernel", "kernel"), ("os", "os"), ("arch", "arch")];
    let words = fields.iter().filter_map(|(field, word)| Some(format!("{word}/{}", json[field].as_str()?)));
    words.filter(|word| !word.contains(char::is_whitespace)).collect::<Vec<_>>().join(" ")
}

fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let file = || path.file_name().unwrap_or_default().display().to_string();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|opened| opened.take(bytes_max + 1).read_to_end(&mut bytes));
    match read {
        Ok(read) if read as u64 > bytes_max => Err(format!("{} has more than {bytes_max} bytes", file())),
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!("{} is missing", file())),
        Err(error) => Err(format!("{} can't be read: {error}", file())),
    }
}

struct Storage {
    images: PathBuf,
}

impl Storage {
    fn path(&self, id: &ImageId, file: &str) -> PathBuf {
        self.images.join(id.to_string()).join(file)
    }
}

impl Source for Storage {
    fn json(&self, id: &ImageId) -> Result<Bytes, String> {
        if !self.path(id, "").is_dir() {
            return Err("it is missing".to_owned());
        }
        if self.path(id, "_inprogress").exists() {
            return Err("its push has not ended".to_owned());
        }
        Ok(read_small(&self.path(id, "json"), IMAGE_JSON_BYTES_MAX as u64)?.into())
    }

    fn stored_size(&self, id: &ImageId) -> Option<u64> {
        self.path(id, "layer").metadata().ok().map(|metadata| metadata.len())
    }

    fn layer(&self, id: &ImageId, meter: &Meter) -> Result<Feed, String> {
        let path = self.path(id, "layer");
        match File::open(&path).and_then(|file| Ok((file.metadata()?.is_file(), file))) {
            Ok((true, file)) => Ok(Feed::plain(file, meter)),
            Ok((false, _)) => Err("its layer is no file".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("its layer is missing".to_owned()),
            Err(error) => Err(format!("its layer can't be read: {error}")),
        }
    }

    fn claims(&self, id: &ImageId) -> Vec<String> {
        let Ok(bytes) = read_small(&self.path(id, "_checksum"), SMALL_BYTES_MAX) else { return Vec::new() };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Array(sums)) => sums.iter().filter_map(|sum| sum.as_str().map(str::to_owned)).collect(),
            Ok(Value::String(sum)) => vec![sum],
            // The oldest wrote it down without quotes.
            _ => Some(String::from_utf8_lossy(&bytes).trim().to_owned()).filter(|sum| !sum.is_empty()).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
