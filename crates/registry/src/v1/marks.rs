//! What users have sent of V1 images. Whoever has sent all of one knows it, and may read it although no tag leads to it.
//!
//! A mark is bound to the content that it is about, by the digests of JSON and layer: an id alone means nothing, because
//! clients choose ids. What earlier versions wrote was bound to nothing, so it counts for nothing; whoever was pushing then
//! is not told that anything is there, and sends it again.

use std::collections::BTreeMap;

use berth_names::RepositoryKey;
use berth_storage::records::v1::{Image, Layer, Pushed};
use berth_storage::records::{Record as _, WithBody};
use berth_storage::{Batch, keys};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};

use super::ImageId;
use crate::{Error, Registry, Result};

/// Checksums in one mark: of the last few layers that two clients of one user sent of one image at the same time.
const CHECKSUMS_MAX: usize = 16;

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
    one.digest == other.digest || both(one.diff_id, other.diff_id) || both(one.content, other.content)
}

impl Registry {
    /// What a user has sent of a V1 image. All anonymous clients are one.
    pub(super) async fn v1_mark(&self, repository: &RepositoryKey, id: &ImageId, user: Option<&str>) -> Result<Option<WithBody<Pushed>>> {
        let row = self.store.get(&keys::v1_pushed(repository, id, user.unwrap_or_default())).await?;
        Ok(row.as_ref().and_then(WithBody::decode))
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
    before: Option<WithBody<Pushed>>,
    mut mark: WithBody<Pushed>,
) {
    if let Some(before) = before.filter(|before| (before.record.json, before.record.layer) == (mark.record.json, mark.record.layer)) {
        let known = before.record.checksums.into_iter().filter(|sum| !mark.record.checksums.contains(sum)).collect::<Vec<_>>();
        mark.record.checksums.extend(known);
    }
    mark.record.checksums.truncate(CHECKSUMS_MAX);
    batch.put_record(keys::v1_pushed(repository, id, user.unwrap_or_default()), &mark);
}

/// Whether two JSONs differ in nothing but how they are written. One in which a name repeats says the same as no other:
/// readers make different things of it.
fn says_the_same(one: &[u8], other: &[u8]) -> bool {
    let read = |json| serde_json::from_slice::<Said>(json).ok();
    read(one).is_some_and(|one| read(other).is_some_and(|other| one == other))
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
    use super::*;

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
            br#"{"id":"a","config":{"Cmd":["sh"],"Env":null},"Size":8,"os":"linux"}"#.as_slice(),
            br#"{"id":"a","config":{"Cmd":["sh"]},"Size":7,"os":"linux"}"#,
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
