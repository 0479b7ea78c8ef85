//! The storage of the original V1 registry (docker-registry, in Python), on files (protocol reference §1.3):
//!
//! ```text
//! images/<id>/json          as received
//!             layer         as received: gzip, plain, bzip2 or xz
//!             _checksum     a list of checksums, or one
//!             _inprogress   there as long as the push has not ended, and after a client that did not end it
//! repositories/<namespace>/<name>/tag_<tag>      the id
//!                                 tag<tag>_json  who pushed it
//! ```
//!
//! `<name>` is escaped: what it has behind its first slash once, and since 0.9 every part of a path once more, so that
//! `a/b` is `a%2Fb` or `a%252Fb`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Context as _;
use berth_names::{ApiVersion, ImageName, Tag};
use berth_registry::v1::{IMAGE_JSON_BYTES_MAX, ImageId};
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::beneath::Beneath;
use super::chain::{Chains, Source};
use super::feed::{Feed, Meter};
use super::unpack::{MAGIC_BYTES, Packing, unpacked};
use super::{Import, PUSH, Trouble, require_version, shown, tar};

/// Tags of one storage.
const TAGS_MAX: usize = 5_000_000;

/// How often the original escapes a name.
const ESCAPED_MAX: usize = 2;

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
    let storage = Storage::open(directory).with_context(|| format!("can't read {}", shown(directory)))?;
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
    let image: ImageName = format!("{}/{}", unescaped(namespace), unescaped(name)).parse().map_err(|_| invalid("image name"))?;
    let tag: Tag = unescaped(tag).parse().map_err(|_| invalid("tag"))?;
    import.require_taken(&image)?;
    let text = storage.read_small(path, SMALL_BYTES_MAX).map_err(Trouble::Skip)?;
    let id: ImageId = String::from_utf8_lossy(&text).trim().trim_matches('"').parse().map_err(|_| invalid("image id"))?;
    chains.bring(import, &id).await?;
    let agent = storage.pushed_by(&path.with_file_name(format!("tag{}_json", found.tag)));
    import.registry.put_v1_tag((&import.repository.key, &image, &tag), &id, &agent, PUSH, super::VIEWER).await?;
    import.keep_newest(&image, &tag).await
}

/// A part of a path as it was before the original escaped it. No name that Berth takes has a `%`; what is no escape stays, and is
/// refused as a name.
fn unescaped(part: &str) -> String {
    let mut text = part.to_owned();
    for _ in 0..ESCAPED_MAX {
        let Some(once) = unescaped_once(&text) else { break };
        text = once;
    }
    text
}

fn unescaped_once(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind.get(..2).filter(|_| byte == b'%').and_then(|digits| str::from_utf8(digits).ok());
        let code = code
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &behind[2..];
            }
            (b'%', None) => return None,
            _ => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// The directory; everything is read beneath it.
#[derive(Clone)]
struct Storage {
    root: Beneath,
    /// Images that are marked as being pushed: whether they are whole all the same, or why not.
    marked: Arc<Mutex<HashMap<ImageId, Result<(), String>>>>,
}

/// What is not looked at, and why.
type Refused = Vec<(PathBuf, String)>;

impl Storage {
    fn open(directory: &Path) -> io::Result<Self> {
        Ok(Self { root: Beneath::open(directory)?, marked: Arc::default() })
    }

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

    /// Whether an image that is marked as being pushed has arrived whole: its client may have gone before it said so, and the
    /// original keeps the mark for ever. The layer must unpack to its end and be a tar to its end, as what was broken off is not;
    /// and a checksum that was computed when it came must be its own.
    fn is_whole(&self, id: &ImageId) -> Result<(), String> {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = marked.get(id) {
            return known.clone();
        }
        let found = self.look_through(id).map_err(|why| format!("its push has not ended: {why}"));
        marked.insert(*id, found.clone());
        found
    }

    fn look_through(&self, id: &ImageId) -> Result<(), String> {
        let json = self.read_small(&Self::path(id, "json"), IMAGE_JSON_BYTES_MAX as u64)?;
        let open = || match self.root.file(&Self::path(id, "layer")) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err("its layer is missing".to_owned()),
            Err(error) => Err(format!("its layer can't be read: {error}")),
        };
        let unreadable = |error: io::Error| format!("its layer can't be read: {error}");
        let (mut file, mut start) = (open()?, Vec::with_capacity(MAGIC_BYTES));
        (&mut file).take(MAGIC_BYTES as u64).read_to_end(&mut start).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut content = unpacked(open()?, Packing::of(&start), size).map_err(unreadable)?;
        tar::require_end(&mut content).map_err(|error| format!("its layer: {error}"))?;
        let claims = self.claims(id);
        if claims.iter().any(|claim| claim.starts_with("sha256:")) {
            let mut payload = Sha256::new();
            payload.update(&json);
            payload.update(b"\n");
            io::copy(&mut open()?, &mut HashWriter(&mut payload)).map_err(unreadable)?;
            let payload = berth_names::Digest::sha256(payload.finalize().into()).to_string();
            if !claims.contains(&payload) {
                return Err("its layer is not the one whose checksum lies beside it".to_owned());
            }
        }
        Ok(())
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

/// What is written is hashed.
struct HashWriter<'h>(&'h mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
            self.is_whole(id)?;
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

    fn remark(&self, id: &ImageId) -> Option<&'static str> {
        let is_marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id);
        is_marked.then_some("it was marked as being pushed (`_inprogress`), but is whole")
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
