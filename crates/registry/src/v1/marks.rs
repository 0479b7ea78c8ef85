//! What users have sent of V1 images. Whoever has sent all of one knows it, and may read it although no tag leads to it.
//!
//! A mark is bound to the content that it is about, by the digests of JSON and layer: an id alone means nothing, because
//! clients choose ids. What earlier versions wrote was bound to nothing, so it counts for nothing; whoever was pushing then
//! is not told that anything is there, and sends it again.

use std::collections::{BTreeMap, BTreeSet};

use berth_names::RepositoryKey;
use berth_storage::records::v1::{Image, Layer, Pushed};
use berth_storage::records::{Record as _, WithBody};
use berth_storage::{Batch, keys};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};

use super::ImageId;
use crate::json::folded;
use crate::{Error, Registry, Result};

/// JSONs in one mark: as many versions of docker may push one image at the same time as one user.
const JSONS_MAX: usize = 8;

/// Bytes of the JSONs in one mark; a single one may have more.
const JSONS_BYTES_MAX: usize = 256 << 10;

/// Checksums in one mark: of each of so many layers with each JSON.
const CHECKSUMS_MAX: usize = 256;

/// What a user has sent, as it is stored.
#[derive(Clone)]
pub(super) struct Mark {
    pub(super) record: Pushed,
    /// Each JSON that says the same as the image's in other bytes, the last one first.
    pub(super) jsons: Vec<Bytes>,
}

impl Mark {
    fn decode(row: &Bytes) -> Option<Self> {
        let WithBody { record, body }: WithBody<Pushed> = WithBody::decode(row)?;
        let (mut jsons, mut rest) = (Vec::new(), body);
        for size in &record.json_sizes {
            jsons.push(rest.split_to(rest.len().min(*size)));
        }
        jsons.push(rest);
        jsons.retain(|json| !json.is_empty());
        Some(Self { record, jsons })
    }

    /// Those JSONs, and one that has come now.
    pub(super) fn jsons_with(&self, json: Bytes) -> Vec<Bytes> {
        let known = self.jsons.iter().filter(|known| **known != json).cloned();
        let mut bytes = 0;
        let fits = |json: &Bytes| {
            let is_first = bytes == 0;
            bytes += json.len();
            is_first || bytes <= JSONS_BYTES_MAX
        };
        std::iter::once(json.clone()).filter(|json| !json.is_empty()).chain(known).take(JSONS_MAX).take_while(fits).collect()
    }
}

/// Whether a user with this mark has sent all of the image.
pub(super) fn knows(mark: &Pushed, image: &Image) -> bool {
    mark.json == image.json_digest && mark.layer.is_some() && mark.layer == image.layer.as_ref().map(|layer| layer.digest)
}

/// Whether a user with this mark has sent something else under the image's id.
pub(super) fn contradicts(mark: &Pushed, image: &Image) -> bool {
    mark.json != image.json_digest || (mark.layer.is_some() && !knows(mark, image))
}

/// Whether two layers unpack to the same, however they are packed and whichever docker wrote the tar.
pub(super) fn is_same_layer(one: &Layer, other: &Layer) -> bool {
    let both = |one: Option<_>, other: Option<_>| one.is_some() && one == other;
    let unpacks_to_the_same = both(one.content, other.content) || both(one.tree, other.tree);
    one.digest == other.digest || both(one.diff_id, other.diff_id) || unpacks_to_the_same
}

impl Registry {
    /// What a user has sent of a V1 image. All anonymous clients are one.
    pub(super) async fn v1_mark(&self, repository: &RepositoryKey, id: &ImageId, user: Option<&str>) -> Result<Option<Mark>> {
        Ok(self.v1_mark_seen(repository, id, user).await?.0)
    }

    /// The same, and the row, which an earlier version may have written otherwise, for whoever changes it.
    pub(super) async fn v1_mark_seen(
        &self,
        repository: &RepositoryKey,
        id: &ImageId,
        user: Option<&str>,
    ) -> Result<(Option<Mark>, Option<Bytes>)> {
        let row = self.store.get(&keys::v1_pushed(repository, id, user.unwrap_or_default())).await?;
        Ok((row.as_ref().and_then(Mark::decode), row))
    }

    /// The same of many, in their order; nothing of anonymous clients.
    pub(super) async fn v1_marks(&self, repository: &RepositoryKey, ids: &[ImageId], user: Option<&str>) -> Result<Vec<Option<Pushed>>> {
        let Some(user) = user else { return Ok(vec![None; ids.len()]) };
        let keys: Vec<_> = ids.iter().map(|id| keys::v1_pushed(repository, id, user)).collect();
        let rows = self.store.multi_get(&keys).await?;
        Ok(rows.into_iter().map(|row| WithBody::decode(&row?).map(|mark: WithBody<Pushed>| mark.record)).collect())
    }

    /// Whether a JSON says the same as a V1 image's: its bytes, if they are others; none if they are the same.
    pub(super) async fn same_v1_json(
        &self,
        (repository, id): (&RepositoryKey, &ImageId),
        image: &Image,
        (digest, json): (&berth_names::Digest, &Bytes),
    ) -> Result<Option<Bytes>> {
        if image.json_digest == *digest {
            return Ok(Some(Bytes::new()));
        }
        let (stored, json) = (self.v1_json(repository, id).await?, json.clone());
        let compared = tokio::task::spawn_blocking(move || says_the_same(&stored, &json).then_some(json)).await;
        compared.map_err(|_| Error::Internal("comparing died"))
    }
}

/// Adds to the batch what a user has sent.
pub(super) fn put_mark(
    batch: &mut Batch,
    (repository, id, user): (&RepositoryKey, &ImageId, Option<&str>),
    record: Pushed,
    jsons: &[Bytes],
) {
    batch.put_record(keys::v1_pushed(repository, id, user.unwrap_or_default()), &row_of(record, jsons));
}

fn row_of(mut record: Pushed, jsons: &[Bytes]) -> WithBody<Pushed> {
    record.checksums.truncate(CHECKSUMS_MAX);
    record.json_sizes = jsons.iter().map(Bytes::len).collect();
    WithBody { record, body: jsons.concat().into() }
}

/// The same in place of what was there: of two clients of one user at once, neither takes away what the other has noted.
pub(super) fn renew_mark(
    batch: &mut Batch,
    place: (&RepositoryKey, &ImageId, Option<&str>),
    (before, seen): (Option<Mark>, Option<Bytes>),
    mut record: Pushed,
    jsons: &[Bytes],
) {
    let (repository, id, user) = place;
    batch.expect(keys::v1_pushed(repository, id, user.unwrap_or_default()), seen);
    if let Some(Mark { record: before, .. }) = before.filter(|mark| (mark.record.json, mark.record.layer) == (record.json, record.layer)) {
        let known: Vec<_> = before.checksums.into_iter().filter(|sum| !record.checksums.contains(sum)).collect();
        record.checksums.extend(known);
    }
    put_mark(batch, place, record, jsons);
}

/// What is ignored in comparing: what docker wrote about where it kept an image.
const NOT_CONTENT: [&str; 3] = ["Size", "layer_id", "parent_id"];

/// Numbers that docker 0.10 to 1.6 wrote into every config, and later ones into none.
const MOVED_NUMBERS: [&str; 3] = ["Memory", "MemorySwap", "CpuShares"];

/// Whether two JSONs differ in nothing but how they are written. One in which a name repeats says the same as no other:
/// readers make different things of it.
///
/// Versions of docker know different fields, and write every one that they know: what is left out and what says nothing are
/// one thing, in the image and in its configs, whose fields docker knows by name. Further down a name may mean something by
/// being there, as that of a volume does.
fn says_the_same(one: &[u8], other: &[u8]) -> bool {
    let read = |json| serde_json::from_slice::<Said>(json).ok().and_then(said_by_image);
    read(one).is_some_and(|one| read(other).is_some_and(|other| one == other))
}

/// What an image's JSON says, without what says nothing.
fn said_by_image(said: Said) -> Option<BTreeMap<String, Said>> {
    let Said::Object(fields) = said else { return None };
    let mut fields = said_by_fields(fields)?;
    for name in ["config", "container_config"] {
        if let Some(Said::Object(config)) = fields.get_mut(name) {
            *config = said_by_fields(std::mem::take(config))?;
        }
    }
    fields.retain(|name, value| !NOT_CONTENT.contains(&name.as_str()) && *value != Said::Object(BTreeMap::new()));
    Some(fields)
}

/// The fields that say something; nothing if docker could take one for another, because then the last one counts even if it
/// says nothing.
fn said_by_fields(fields: BTreeMap<String, Said>) -> Option<BTreeMap<String, Said>> {
    let folded: BTreeSet<String> = fields.keys().map(|name| folded(name)).collect();
    let says_something = |(name, value): &(String, Said)| match value {
        Said::Nothing | Said::Truth(false) => false,
        Said::Number(number) => number.as_f64() != Some(0.0) || !MOVED_NUMBERS.contains(&name.as_str()),
        Said::Text(text) => !text.is_empty(),
        Said::List(list) => !list.is_empty(),
        Said::Object(object) => !object.is_empty(),
        Said::Truth(true) => true,
    };
    (folded.len() == fields.len()).then(|| fields.into_iter().filter(says_something).collect())
}

/// What a JSON says.
#[derive(PartialEq)]
enum Said {
    Nothing,
    Truth(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Said>),
    Object(BTreeMap<String, Said>),
}

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Said;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON in which no name repeats")
    }

    fn visit_unit<E>(self) -> std::result::Result<Said, E> {
        Ok(Said::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Said, E> {
        Ok(Said::Truth(value))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Said, E> {
        Ok(Said::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Said, E> {
        Ok(Said::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Said, E> {
        serde_json::Number::from_f64(value).map(Said::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Said, E> {
        Ok(Said::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Said, A::Error> {
        let mut said = Vec::new();
        while let Some(one) = list.next_element()? {
            said.push(one);
        }
        Ok(Said::List(said))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<Said, A::Error> {
        let mut said = BTreeMap::new();
        while let Some((name, one)) = object.next_entry::<String, Said>()? {
            if said.insert(name, one).is_some() {
                return Err(A::Error::custom("a name repeats"));
            }
        }
        Ok(Said::Object(said))
    }
}

#[cfg(test)]
mod tests {
    use berth_names::Digest;

    use super::*;

    /// Docker before 1.6 wrote limits into every config, 1.5 added a MAC address, 1.6 labels; a size is what a storage driver made of it.
    #[test]
    fn what_a_version_of_docker_adds_without_saying_anything_makes_no_difference() {
        let known = r#""Cmd":["sh"],"Volumes":{"/data":{}}"#;
        let json =
            |config: &str, rest: &str| format!(r#"{{"id":"a","container_config":null,"config":{{{known}{config}}}{rest}}}"#).into_bytes();
        let one = json("", "");
        for same in [
            json(r#","Memory":0,"MemorySwap":0,"CpuShares":0,"Cpuset":"","OnBuild":null"#, r#","Size":0"#),
            json(r#","MacAddress":"","OnBuild":[],"Tty":false"#, r#","Size":1843,"architecture":"""#),
            json(r#","Labels":{}"#, r#","layer_id":"sha256:x","parent_id":"sha256:y""#),
            json(r#","Labels":null,"Entrypoint":[]"#, r#","author":null"#),
        ] {
            assert!(says_the_same(&one, &same) && says_the_same(&same, &one), "{}", String::from_utf8_lossy(&same));
        }
        for other in [
            json(r#","Memory":7"#, ""),
            json(r#","Labels":{"a":""}"#, ""),
            json(r#","StopTimeout":0"#, ""),
            json(r#","Tty":true"#, ""),
            json("", r#","architecture":"arm""#),
            String::from_utf8(one.clone()).unwrap().replace(r#"{"/data":{}}"#, "{}").into_bytes(),
            // Go reads the last of them, which takes the command away.
            json(r#","cmd":null"#, ""),
            json("", r#","CONFIG":null"#),
        ] {
            assert!(!says_the_same(&one, &other) && !says_the_same(&other, &one), "{}", String::from_utf8_lossy(&other));
        }
    }

    #[test]
    fn a_mark_keeps_the_last_few_jsons_and_one_of_an_earlier_version_is_read() {
        let record = Pushed { json: Digest::sha256([1; 32]), layer: None, checksums: Vec::new(), json_sizes: Vec::new() };
        let earlier = WithBody { record: record.clone(), body: Bytes::from_static(b"{}") }.encode();
        let mut mark = Mark::decode(&earlier).unwrap();
        assert_eq!(mark.jsons, [b"{}".as_slice()]);
        let none = WithBody { record: record.clone(), body: Bytes::new() }.encode();
        assert!(Mark::decode(&none).unwrap().jsons.is_empty());
        for number in 0..20 {
            mark.jsons = mark.jsons_with(Bytes::from(format!("{{\"a\":{number}}}")));
        }
        assert_eq!((mark.jsons.len(), &mark.jsons[0]), (JSONS_MAX, &Bytes::from_static(b"{\"a\":19}")));
        assert_eq!(mark.jsons_with(mark.jsons[3].clone()).len(), JSONS_MAX);
        let large = Bytes::from(vec![b' '; JSONS_BYTES_MAX + 1]);
        assert_eq!(mark.jsons_with(large.clone()), [large]);
        assert_eq!(Mark::decode(&row_of(record, &mark.jsons).encode()).unwrap().jsons, mark.jsons);
    }

    #[test]
    fn a_json_is_the_same_however_it_is_written_and_no_other_is() {
        let one = br#"{"id":"a","config":{"Cmd":["sh"],"Env":null},"Size":7,"os":"linux"}"#;
        for same in [
            br#"{"os":"linux","Size":7,"id":"a","config":{"Env":null,"Cmd":["sh"]}}"#.as_slice(),
            b"{ \"id\" : \"\\u0061\",\n\"config\":{\"Cmd\":[\"sh\"],\"Env\":null},\"Size\":7,\"os\":\"linux\"}\r",
        ] {
            assert!(says_the_same(one, same) && says_the_same(same, one), "{}", String::from_utf8_lossy(same));
        }
        for other in [
            br#"{"id":"a","config":{"Cmd":["ls"],"Env":null},"Size":7,"os":"linux"}"#.as_slice(),
            br#"{"id":"a","config":{"Cmd":["sh"],"Env":["a"]},"Size":7,"os":"linux"}"#,
            br#"{"id":"a","config":{"Cmd":["sh"],"Env":null},"Size":7,"os":"linux","OS":"linux"}"#,
            // Go would keep the first command: it reads the second object into what the first left.
            br#"{"id":"a","config":{"Cmd":["evil"]},"config":{"Cmd":["sh"],"Env":null},"Size":7,"os":"linux"}"#,
            br#"{"id":"a","config":{"Cmd":["evil"],"Cmd":["sh"],"Env":null},"Size":7,"os":"linux"}"#,
            b"[]",
            b"",
        ] {
            assert!(!says_the_same(one, other) && !says_the_same(other, one), "{}", String::from_utf8_lossy(other));
        }
    }
}
