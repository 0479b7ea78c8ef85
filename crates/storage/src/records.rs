//! Every value there is. One version byte, then JSON, then for some the bytes that a client sent.
//!
//! JSON, because an operator can read it in a dump, unknown fields of a later minor version are kept out of the way,
//! and parsing a record of this size costs less than finding it.

use std::collections::{BTreeMap, BTreeSet};

use berth_names::{AccountName, ApiVersion, Digest, ImageName, RepositoryKey, Tag as TagName};
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::blobs::DataId;

/// The version that this build writes in front of every record.
const RECORD_VERSION: u8 = 1;

/// Something that is stored under a key.
pub trait Record: Sized {
    /// The stored form.
    fn encode(&self) -> Bytes;

    /// Reads the stored form, or `None` if it is none.
    fn decode(bytes: &Bytes) -> Option<Self>;
}

/// A record with content behind it: four bytes for the length of the JSON, the JSON, the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithBody<R> {
    /// The record.
    pub record: R,
    /// The content, as received.
    pub body: Bytes,
}

fn encode_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Our records hold text, numbers and maps with text keys: serialising them cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

impl<R: Serialize + DeserializeOwned> Record for WithBody<R> {
    fn encode(&self) -> Bytes {
        let json = encode_json(&self.record);
        let mut bytes = BytesMut::with_capacity(5 + json.len() + self.body.len());
        bytes.put_u8(RECORD_VERSION);
        bytes.put_u32_le(u32::try_from(json.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&json);
        bytes.put_slice(&self.body);
        bytes.freeze()
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let json = rest.get(..length)?;
        let record = (*version == RECORD_VERSION).then(|| serde_json::from_slice(json).ok())??;
        Some(Self { record, body: bytes.slice(5 + length..) })
    }
}

/// Implements [`Record`] as a version byte and JSON.
macro_rules! json_records {
    ($($name:ty),*) => {$(
        impl Record for $name {
            fn encode(&self) -> Bytes {
                let mut bytes = vec![RECORD_VERSION];
                bytes.extend(encode_json(self));
                bytes.into()
            }

            fn decode(bytes: &Bytes) -> Option<Self> {
                let (version, json) = bytes.split_first()?;
                (*version == RECORD_VERSION).then(|| serde_json::from_slice(json).ok())?
            }
        }
    )*};
}

json_records!(
    AccessToken,
    Blob,
    Group,
    Image,
    Job,
    Lease,
    Permission,
    Properties,
    Referrer,
    Repository,
    SigningKey,
    Tag,
    User,
    v1::Conversion,
    v1::Image,
    v1::Receipt,
    v1::Tag,
    v1::View
);

/// Where a blob's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Length in bytes.
    pub size: u64,
    /// Where.
    pub place: Place,
    /// Counts up whenever the blob gets another user, so that a collector that saw none loses its compare-and-set.
    pub revision: u64,
    /// The stored bytes were found not to be those of the digest: nobody is told that it is there, and whoever pushes it
    /// brings its bytes anew.
    #[serde(default, skip_serializing_if = "is_false")]
    pub damaged: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The two places a blob's bytes can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the metadata store, under [`keys::small_blob`](crate::keys::small_blob).
    Small,
    /// In the blob store.
    Data(DataId),
}

/// An image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// When something was first pushed to it, in milliseconds since 1970.
    pub created_ms: u64,
    /// Changes with every commit that adds or removes something a deletion must know of.
    pub revision: u64,
    /// Since when nothing has a name in it, in milliseconds since 1970: it is not listed, and its row goes after a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vacant_since_ms: Option<u64>,
}

/// Who relies on something staying although nothing with a name leads to it yet: pushes that were told it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Until when, in milliseconds since 1970, by holder.
    pub holders: BTreeMap<String, u64>,
    /// How many pushes of a holder rely on it, if more than one: two pushes of one user from one machine look the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, u32>,
    /// Holders who see everything, and so may have been told that something is there which no tag leads to.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub told: BTreeSet<String>,
}

/// A repository's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// The protocol it speaks.
    pub api_version: ApiVersion,
    /// For people.
    pub description: String,
    /// For the people who run it.
    pub notes: String,
    /// Whether pulling needs no credentials.
    pub anonymous_pull: bool,
    /// Whether V2 clients are asked for a password rather than for a token.
    pub basic_challenge: bool,
    /// Patterns of image names that it takes; none: all.
    pub includes: Vec<String>,
    /// Patterns of image names that it does not take although they are included.
    pub excludes: Vec<String>,
    /// Tags that an image may have before the oldest go; 0: any number.
    pub max_unique_tags: u32,
    /// Whether manifests of schema 1 are refused.
    pub block_schema1: bool,
    /// Whether V1 clients may pull its V2 images.
    pub serve_v1: bool,
    /// Settings of Artifactory's that mean nothing here, given back as they came.
    pub foreign: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A manifest; its body is the bytes that were pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The media type it was pushed with, and is served with.
    pub media_type: String,
    /// Everything it refers to that must stay as long as it does: config, layers, children.
    pub children: Vec<Digest>,
    /// Layers that it says can be fetched elsewhere. What is here of them stays, too; nothing has to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Digest>,
    /// The manifest it is about, if it says so.
    pub subject: Option<Digest>,
    /// When it was pushed, in milliseconds since 1970.
    pub created_ms: u64,
}

impl Manifest {
    /// Everything that it holds as long as it is there.
    pub fn holds(&self) -> impl Iterator<Item = &Digest> {
        self.children.iter().chain(&self.elsewhere)
    }
}

/// What the referrers list says about one manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Referrer {
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its artifact type, or the media type of its config.
    pub artifact_type: Option<String>,
    /// Its annotations: an object of texts, as JSON. Nobody looks into it, and taken apart it would be many times as large.
    pub annotations: Box<RawValue>,
}

/// What a tag points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The manifest.
    pub digest: Digest,
    /// When it last moved, in milliseconds since 1970.
    pub updated_ms: u64,
    /// The manifest's media type.
    #[serde(default)]
    pub media_type: String,
    /// The bytes of everything that the manifest refers to, as it says.
    #[serde(default)]
    pub size: u64,
}

/// What users say about something: values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties(pub BTreeMap<String, BTreeSet<String>>);

/// An open upload; its body is what was received so far, as long as that is small and `data` is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// The repository it was opened in; it can be used nowhere else.
    pub repository: RepositoryKey,
    /// The image it was opened in; it can be used nowhere else.
    pub image: ImageName,
    /// Who opened it; nobody else can use it. `None` is an anonymous user.
    pub owner: Option<String>,
    /// Where the bytes are, once there are too many for the record.
    pub data: Option<DataId>,
    /// How many bytes were received and are safe.
    pub offset: u64,
    /// The state of the SHA-256 of those bytes, in hexadecimal, so that a resumed upload is not read again.
    pub sha256_state: String,
    /// When it was opened, in milliseconds since 1970.
    pub started_ms: u64,
    /// When bytes last came, in milliseconds since 1970.
    pub touched_ms: u64,
}

/// A user or a robot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// argon2id in PHC string form; robots, and users who log in with access tokens only, have none.
    pub password_hash: Option<String>,
    /// May do everything.
    pub admin: bool,
    /// May log in.
    pub enabled: bool,
    /// A machine: it has no password, and gets none.
    pub robot: bool,
    /// For people.
    pub email: String,
    /// The groups it belongs to.
    pub groups: BTreeSet<AccountName>,
    /// Random, and new whenever everything that was issued before must end: another password, for instance. A user who is
    /// created anew under an old name gets another one too.
    pub generation: u64,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// For people.
    pub description: String,
    /// Whether users who are created from now on belong to it.
    pub auto_join: bool,
}

/// Who may do what with which images of which repositories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// The repositories it is about; `ANY` stands for all, those to come included.
    pub repositories: BTreeSet<String>,
    /// Patterns of image names it is about.
    pub includes: Vec<String>,
    /// Patterns of image names that it is not about although they are included.
    pub excludes: Vec<String>,
    /// Rights by user. The user `anonymous` stands for whoever does not log in.
    pub users: BTreeMap<AccountName, String>,
    /// Rights by group.
    pub groups: BTreeMap<AccountName, String>,
}

/// A secret that a user or robot can log in with instead of a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    /// Whom it belongs to.
    pub owner: AccountName,
    /// The owner's generation when it was made: it dies with it.
    pub generation: u64,
    /// What it is for, in the owner's words.
    pub description: String,
    /// SHA-256 of the secret, in hexadecimal. The secret has 160 random bits, so a slow hash would add nothing.
    pub secret_sha256: String,
    /// What it may be used for, of what its owner may do; `None`: everything.
    pub scope: Option<Vec<TokenScope>>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// One thing that an access token may be used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenScope {
    /// A repository, or `ANY`.
    pub repository: String,
    /// A pattern of image names.
    pub images: String,
    /// Rights, as letters.
    pub rights: String,
}

/// A key that tokens are signed with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// 32 random bytes, in hexadecimal.
    pub secret: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A migration of V1 images into a V2 repository, under way or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The V1 repository.
    pub source: RepositoryKey,
    /// The V2 repository.
    pub target: RepositoryKey,
    /// The image; `None`: all.
    pub image: Option<ImageName>,
    /// The tag; `None`: all.
    pub tag: Option<TagName>,
    /// Whether nothing is changed.
    pub dry_run: bool,
    /// Who asked for it; `None`: the operator.
    pub owner: Option<AccountName>,
    /// Whether it goes on by itself after a restart: whoever asked for it may do everything in both repositories.
    pub resumes: bool,
    /// How it stands.
    pub state: JobState,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: Option<u64>,
    /// What it has done.
    pub done: JobDone,
    /// The tags that could not be migrated, as far as they are kept.
    pub failures: Vec<JobFailure>,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It is under way.
    Running,
    /// It has looked at every tag.
    Finished,
    /// It was stopped, or the process ended, before that. Asked for again, it goes on.
    Interrupted,
}

/// What a job has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobDone {
    /// Tags that were migrated.
    pub migrated: u64,
    /// Tags that had been migrated before and have not changed.
    pub unchanged: u64,
    /// Tags that could not be migrated.
    pub failed: u64,
    /// Layers that V2 clients get as they were pushed.
    pub layers_reused: u64,
    /// Layers that had to be packed anew.
    pub layers_repacked: u64,
    /// Bytes of layers that were read through, because they had to be packed anew or nobody knew what they unpack to.
    pub bytes_read: u64,
}

/// A tag that could not be migrated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobFailure {
    /// The image.
    pub image: ImageName,
    /// Its tag.
    pub tag: TagName,
    /// Why, in words for the person who reads it.
    pub reason: String,
}

/// Records that only Docker V1 has.
pub mod v1 {
    use berth_names::{ImageName, RepositoryKey};

    use super::{Deserialize, Digest, Serialize, TagName};
    use crate::v1::ImageId;

    /// A V1 image; its JSON is stored beside it.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Image {
        /// The image below, if any.
        pub parent: Option<ImageId>,
        /// SHA-256 of the JSON as received: tells whether a layer that is being stored still belongs to it.
        pub json_digest: Digest,
        /// Length of the JSON in bytes.
        pub json_size: u64,
        /// The layer, once it is stored.
        pub layer: Option<Layer>,
        /// Checksums that the client announced before the layer was there.
        pub announced: Vec<String>,
        /// A checksum matched: the image can be pulled, and once a tag leads to it, it can't be changed any more.
        pub complete: bool,
        /// When its JSON first came, in milliseconds since 1970.
        pub created_ms: u64,
        /// Counts up whenever the image gets a child or a tag, so that a collector that saw none loses its compare-and-set.
        #[serde(default)]
        pub revision: u64,
        /// Whether a tag has ever led to it. Earlier versions did not write it down; then it may have.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub named: Option<bool>,
    }

    /// The layer of a V1 image.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Layer {
        /// The blob that holds it: the digest of the bytes as received.
        pub digest: Digest,
        /// Length in bytes, as received.
        pub size: u64,
        /// The digest of the uncompressed tar, if it could be computed.
        pub diff_id: Option<Digest>,
        /// Every checksum that a client may claim for it, as it stands in the header.
        pub checksums: Vec<String>,
        /// What stands for the members of the tar and all that is said of them, however the tar is written. None if names
        /// repeat, because then their order means something, and in images of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub content: Option<Digest>,
        /// The same of what unpacking takes from the tar, leaving aside what versions of docker write differently.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub tree: Option<Digest>,
    }

    /// What a user has sent of a V1 image. Its body is their JSON, if it says the same as the image's in other bytes; if they
    /// have sent several such, one behind the other.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Pushed {
        /// The JSON of the image that theirs says the same as.
        pub json: Digest,
        /// The layer of the image that theirs has the same content as, once they have sent it.
        pub layer: Option<Digest>,
        /// The checksums of what they sent, where these differ from the image's.
        pub checksums: Vec<String>,
        /// How many bytes each JSON in the body has. Earlier versions kept one only, which is all of it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub json_sizes: Vec<usize>,
    }

    /// What a V1 tag points to.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Tag {
        /// The V1 image.
        pub id: ImageId,
        /// When it last moved, in milliseconds since 1970.
        pub updated_ms: u64,
        /// The `User-Agent` of the client that moved it, from which the protocol's push information is made.
        pub user_agent: String,
    }

    /// What V1 clients are shown of a V2 manifest: a chain of V1 images, one for each layer. It goes with the manifest.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct View {
        /// The config, which says what the images are; none if the manifest itself says it, as those of schema 1 do.
        pub config: Option<Digest>,
        /// The images, root first.
        pub images: Vec<ViewImage>,
        /// By which rule the ids were made. Those that earlier versions made of a config are not shown.
        #[serde(default)]
        pub rule: u8,
    }

    /// A V1 image that V1 clients are shown.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ViewImage {
        /// Its id.
        pub id: ImageId,
        /// Its layer.
        pub layer: Digest,
        /// Length of that in bytes.
        pub size: u64,
    }

    /// What a V1 layer became for V2 clients. It goes with the V1 layer's blob.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Conversion {
        /// The digest of the uncompressed tar.
        pub diff_id: Digest,
        /// The blob that V2 clients get: the V1 layer's own if it was gzip already.
        pub digest: Digest,
        /// Length of that in bytes.
        pub size: u64,
    }

    /// What a tag of a V2 repository was made from. It goes with the tag.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct Receipt {
        /// The V1 repository.
        pub source: RepositoryKey,
        /// The image there.
        pub image: ImageName,
        /// Its tag there.
        pub tag: TagName,
        /// The V1 image that the tag pointed to.
        pub id: ImageId,
        /// That image and all below it, root first.
        pub layers: Vec<ReceiptLayer>,
        /// The config that was made.
        pub config: Digest,
        /// The manifest that was made.
        pub manifest: Digest,
        /// When, in milliseconds since 1970.
        pub migrated_ms: u64,
    }

    /// What one V1 image became.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub struct ReceiptLayer {
        /// The V1 image.
        pub id: ImageId,
        /// Its layer as it was pushed.
        pub layer: Digest,
        /// The digest of its uncompressed tar.
        pub diff_id: Digest,
        /// The layer that V2 clients get; none if there is nothing in it, which V2 says without a layer.
        pub blob: Option<Digest>,
        /// Its JSON. Earlier versions did not write it down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub json: Option<Digest>,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_of_another_version_is_refused_rather_than_guessed_at() {
        let user = User {
            password_hash: Some("x".into()),
            admin: true,
            enabled: true,
            robot: false,
            email: String::new(),
            groups: BTreeSet::from(["developers".parse().unwrap()]),
            generation: 7,
            created_ms: 1,
        };
        let mut bytes = user.encode().to_vec();
        assert_eq!(User::decode(&bytes.clone().into()), Some(user));
        bytes[0] = RECORD_VERSION + 1;
        assert_eq!(User::decode(&bytes.into()), None);
    }

    proptest! {
        #[test]
        fn bodies_come_back_byte_for_byte(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let record = WithBody { record: Image { created_ms: 7, revision: 1, vacant_since_ms: None }, body: Bytes::from(body) };
            prop_assert_eq!(WithBody::<Image>::decode(&record.encode()), Some(record));
        }

        #[test]
        fn damage_is_an_absence_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = Bytes::from(bytes);
            let _ = WithBody::<Manifest>::decode(&bytes);
            let _ = Blob::decode(&bytes);
            let _ = v1::Image::decode(&bytes);
        }
    }
}
