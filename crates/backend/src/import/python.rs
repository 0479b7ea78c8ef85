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

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use berth_names::{ApiVersion, ImageName, Tag};
use berth_registry::v1::{IMAGE_JSON_BYTES_MAX, ImageId};
use bytes::Bytes;
use serde_json::Value;

use super::beneath::Beneath;
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
    let storage = Storage { root: Beneath::open(directory).with_context(|| format!("can't read {}", shown(directory)))? };
    for part in ["images", "repositories"] {
        let none = || format!("{} has no directory `{part}`: it is no storage of a V1 registry", shown(directory));
        anyhow::ensure!(storage.root.metadata(Path::new(part)).with_context(none)?.is_dir(), none());
    }
    let (mut tags, refused) = storage.find_tags().with_context(|| format!("can't read {}", shown(directory)))?;
    for (path, why) in refused {
        import.problem(&shown(&path).to_string(), &why);
    }
    // In the order in which they were pushed, so that where only the newest are kept those are.
    tags.sort_by_key(|found| found.modified);
    let mut chains = Chains::new(storage.clone());
    let total = tags.len();
    for (number, found) in tags.iter().enumerate() {
        import.show(&format!("tag {} of {total}", number + 1));
        let outcome = import_tag(import, &storage, &mut chains, found).await;
        import.settle(&format!("{}/{}:{}", found.namespace, found.name, found.tag), outcome)?;
    }
    let images = storage.root.names(Path::new("images"))?.len();
    if let Some(rest @ 1..) = images.checked_sub(chains.looked_at()) {
        import.line.say(&format!("{rest} images that no tag leads to were left where they are"));
    }
    Ok(())
}

async fn import_tag(import: &mut Import, storage: &Storage, chains: &mut Chains<Storage>, found: &Found) -> Result<(), Trouble> {
    let Found { path, namespace, name, tag, .. } = found;
    let invalid = |what: &str| Trouble::Skip(format!("it has no valid {what}"));
    // The original quotes what a name has behind its first slash.
    let image: ImageName = format!("{namespace}/{}", unquote(name)).parse().map_err(|_| invalid("image name"))?;
    let tag: Tag = tag.parse().map_err(|_| invalid("tag"))?;
    import.require_taken(&image)?;
    let text = storage.read_small(path, SMALL_BYTES_MAX).map_err(Trouble::Skip)?;
    let id: ImageId = String::from_utf8_lossy(&text).trim().trim_matches('"').parse().map_err(|_| invalid("image id"))?;
    chains.bring(import, &id).await?;
    let agent = storage.pushed_by(&path.with_file_name(format!("tag{tag}_json")));
    import.registry.put_v1_tag((&import.repository.key, &image, &tag), &id, &agent, PUSH, super::VIEWER).await?;
    import.keep_newest(&image, &tag).await
}

/// `a%2Fb` is `a/b`; what is no escape stays, and is refused as a name.
fn unquote(name: &str) -> String {
    name.replace("%2F", "/").replace("%2f", "/")
}

/// The directory; everything is read beneath it.
#[derive(Clone)]
struct Storage {
    root: Beneath,
}

/// What is not looked at, and why.
type Refused = Vec<(PathBuf, String)>;

impl Storage {
    fn path(id: &ImageId, file: &str) -> PathBuf {
        Path::new("images").join(id.to_string()).join(file)
    }

    fn find_tags(&self) -> anyhow::Result<(Vec<Found>, Refused)> {
        let (mut tags, mut refused) = (Vec::new(), Vec::new());
        for namespace in self.directories(Path::new("repositories"), &mut refused)? {
            for name in self.directories(&namespace, &mut refused)? {
                for file in self.root.names(&name)? {
                    let Some(tag) = text(&file).strip_prefix("tag_").map(str::to_owned) else { continue };
                    // `tag_x_json` may be the tag `x_json`, or say who pushed the tag `_x`: the one is an id, the other is JSON.
                    let (path, pushed) = (name.join(&file), tag.strip_suffix("_json").map(|rest| name.join(format!("tag__{rest}"))));
                    let is_file = |path: &PathBuf| self.root.metadata(path).is_ok_and(|metadata| metadata.is_file());
                    if pushed.as_ref().is_some_and(is_file)
                        && self.read_small(&path, SMALL_BYTES_MAX).is_ok_and(|text| text.starts_with(b"{"))
                    {
                        continue;
                    }
                    let modified = self.root.metadata(&path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                    let part = |path: &Path| text(path.file_name().unwrap_or_default());
                    tags.push(Found { namespace: part(&namespace), name: part(&name), path, tag, modified });
                    anyhow::ensure!(tags.len() <= TAGS_MAX, "there are more than {TAGS_MAX} tags");
                }
            }
        }
        Ok((tags, refused))
    }

    /// The directories in a directory. What can't be looked at is said.
    fn directories(&self, parent: &Path, refused: &mut Refused) -> anyhow::Result<Vec<PathBuf>> {
        let names = self.root.names(parent).with_context(|| format!("can't read {}", shown(parent)))?;
        let paths = names.into_iter().map(|name| parent.join(name));
        Ok(paths
            .filter(|path| match self.root.metadata(path) {
                Ok(metadata) => metadata.is_dir(),
                Err(error) => {
                    refused.push((path.clone(), error.to_string()));
                    false
                }
            })
            .collect())
    }

    /// The words of a `User-Agent` that the original made its push information from.
    fn pushed_by(&self, path: &Path) -> String {
        let json = self.read_small(path, SMALL_BYTES_MAX).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let json = json.unwrap_or_default();
        let fields = [("docker_version", "docker"), ("docker_go_version", "go"), ("kernel", "kernel"), ("os", "os"), ("arch", "arch")];
        let words = fields.iter().filter_map(|(field, word)| Some(format!("{word}/{}", json[field].as_str()?)));
        words.filter(|word| !word.contains(char::is_whitespace)).collect::<Vec<_>>().join(" ")
    }

    fn read_small(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
        let file = || path.file_name().unwrap_or_default().display().to_string();
        let mut bytes = Vec::new();
        let read = self.root.file(path).and_then(|opened| opened.take(bytes_max + 1).read_to_end(&mut bytes));
        match read {
            Ok(read) if read as u64 > bytes_max => Err(format!("{} has more than {bytes_max} bytes", file())),
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!("{} is missing", file())),
            Err(error) => Err(format!("{} can't be read: {error}", file())),
        }
    }
}

fn text(name: impl AsRef<OsStr>) -> String {
    name.as_ref().to_string_lossy().into_owned()
}

impl Source for Storage {
    fn json(&self, id: &ImageId) -> Result<Bytes, String> {
        match self.root.metadata(&Path::new("images").join(id.to_string())) {
            Ok(metadata) if metadata.is_dir() => {}
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(format!("its directory can't be read: {error}")),
            _ => return Err("it is missing".to_owned()),
        }
        if self.root.metadata(&Self::path(id, "_inprogress")).is_ok() {
            return Err("its push has not ended".to_owned());
        }
        Ok(self.read_small(&Self::path(id, "json"), IMAGE_JSON_BYTES_MAX as u64)?.into())
    }

    fn stored_size(&self, id: &ImageId) -> Option<u64> {
        self.root.metadata(&Self::path(id, "layer")).ok().map(|metadata| metadata.len())
    }

    fn layer(&self, id: &ImageId, meter: &Meter) -> Result<Feed, String> {
        match self.root.file(&Self::path(id, "layer")) {
            Ok(file) => Ok(Feed::plain(file, meter)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("its layer is missing".to_owned()),
            Err(error) => Err(format!("its layer can't be read: {error}")),
        }
    }

    fn claims(&self, id: &ImageId) -> Vec<String> {
        let Ok(bytes) = self.read_small(&Self::path(id, "_checksum"), SMALL_BYTES_MAX) else { return Vec::new() };
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
