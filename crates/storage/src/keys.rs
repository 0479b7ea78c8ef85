//! Every key there is, and the only place that builds one.
//!
//! A key is one family byte, then fields. Text fields end with NUL, which no name can contain, so that scanning
//! image `app` can't return `app2`. Digests and ids are raw and come last. The order of keys is the order of answers.
//!
//! | family | fields | value | answers |
//! |---|---|---|---|
//! | `0` | name | varies | the store's own facts: format, number of the run |
//! | `a` | token id | [`AccessToken`](crate::records::AccessToken) | access tokens |
//! | `A` | user name, token id | – | access tokens by owner |
//! | `b` | digest | [`Blob`](crate::records::Blob) | where a blob's bytes are |
//! | `B` | digest | bytes | the bytes of a small blob |
//! | `c` | time, what | – | what may have become unreachable, and when to look |
//! | `d` | name | – | repositories of the configuration that were created once |
//! | `D` | data id | – | this data has an owner; data without one is garbage |
//! | `e` | V1 layer's digest | [`v1::Conversion`](crate::records::v1::Conversion) | what a V1 layer became for V2 clients |
//! | `E` | repository, image, digest | [`v1::View`](crate::records::v1::View) | what V1 clients are shown of a V2 manifest |
//! | `F` | repository | – | repositories of which V1 clients are not yet shown everything |
//! | `g` | group name, user name | – | members of a group |
//! | `G` | group name | [`Group`](crate::records::Group) | groups |
//! | `i` | repository, image | [`Image`](crate::records::Image) | images by repository |
//! | `j` | job id | [`Job`](crate::records::Job) | migrations, under way and done |
//! | `k` | repository, image, digest | – | link: the blob is readable through this image |
//! | `K` | digest, repository, image | – | who links a blob |
//! | `l` | repository, image, digest | [`Lease`](crate::records::Lease) | who relies on something in an image that no tag leads to |
//! | `L` | repository, V1 image id | [`Lease`](crate::records::Lease) | the same for V1 images |
//! | `m` | repository, image, digest | [`Manifest`](crate::records::Manifest) + bytes | manifests |
//! | `M` | repository, image, tag | [`v1::Receipt`](crate::records::v1::Receipt) | what V1 tag a tag was migrated from |
//! | `n` | property, value, repository, item | – | what has a property |
//! | `o` | owner, upload id | – | open uploads by owner |
//! | `p` | repository, item | [`Properties`](crate::records::Properties) | what users say about an image, tag or V1 image |
//! | `P` | name | [`Permission`](crate::records::Permission) | permission targets |
//! | `q` | repository, V1 image id, user name | [`v1::Pushed`](crate::records::v1::Pushed) + JSON | what a user has sent of a V1 image |
//! | `r` | repository, image, subject, digest | [`Referrer`](crate::records::Referrer) | referrers by subject |
//! | `R` | repository | [`Repository`](crate::records::Repository) | repositories |
//! | `s` | repository, V1 image id, image, digest | – | V2 manifests by the V1 images that V1 clients are shown of them |
//! | `S` | key id | [`SigningKey`](crate::records::SigningKey) | keys that signed tokens are checked with |
//! | `t` | repository, image, tag | [`Tag`](crate::records::Tag) | tags by image |
//! | `T` | repository, image, digest, tag | – | tags by digest |
//! | `u` | upload id | [`Upload`](crate::records::Upload) + bytes | open uploads |
//! | `U` | user name | [`User`](crate::records::User) | users |
//! | `v` | repository, V1 image id | [`v1::Image`](crate::records::v1::Image) | V1 images |
//! | `V` | repository, V1 image id | bytes | a V1 image's JSON as received |
//! | `w` | repository, parent id, V1 image id | [`V1_UNNAMED`] or what else | V1 children by parent |
//! | `W` | digest, repository, V1 image id | – | which V1 images use a blob |
//! | `x` | repository, image, tag | [`v1::Tag`](crate::records::v1::Tag) | V1 tags by image |
//! | `X` | repository, V1 image id, image, tag | – | V1 tags by V1 image |
//! | `y` | repository, image, child digest, digest | – | which manifests refer to a blob or manifest |
//! | `Z` | repository | – | deleted repositories that are being emptied |

mod cleanup;
mod migration;
mod properties;
mod view;

use std::fmt;

use berth_names::{AccountName, Digest, ImageName, RepositoryKey, Tag};

use crate::blobs::DataId;
use crate::v1::ImageId;
pub use cleanup::{Candidate, candidate, candidates, candidates_after, lease, leases, split_candidate, v1_lease, v1_leases};
pub use migration::{all_receipts, conversion, job, jobs, receipt, receipts, receipts_in, split_receipt};
pub use properties::{Item, found_by, having, having_in, having_like, properties, properties_in, split_found_by, split_properties};
pub use view::{split_v1_viewed, v1_view, v1_view_begun, v1_viewed, v1_viewed_in, v1_views, v1_views_begun, v1_views_rule};

/// A whole key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

/// The beginning that all keys of a group share.
#[derive(Clone, PartialEq, Eq)]
pub struct Prefix(Vec<u8>);

impl Key {
    /// The key as the engine stores it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A key that the engine returned.
    pub(crate) fn from_engine(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Whether the value is content (bytes that clients sent) rather than a small record.
    pub(crate) fn holds_content(&self) -> bool {
        matches!(self.0.first(), Some(b'B' | b'm' | b'V'))
    }

    /// A position that a client gave back. It need not be a key that exists, nor one that is anything.
    pub fn from_cursor(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// What stands behind `prefix`, which the key must start with.
    fn after<'a>(&'a self, prefix: &Prefix) -> Option<&'a [u8]> {
        self.0.strip_prefix(prefix.0.as_slice())
    }

    /// The text that follows `prefix`, for keys whose last field is text.
    pub fn text_after(&self, prefix: &Prefix) -> Option<&str> {
        std::str::from_utf8(self.after(prefix)?.strip_suffix(&[0])?).ok()
    }

    /// The two texts that follow `prefix`, for keys whose last two fields are text.
    pub fn texts_after(&self, prefix: &Prefix) -> Option<(&str, &str)> {
        std::str::from_utf8(self.after(prefix)?.strip_suffix(&[0])?).ok()?.split_once('\0')
    }

    /// The digest that follows `prefix`, for keys whose last field is a digest.
    pub fn digest_after(&self, prefix: &Prefix) -> Option<Digest> {
        Digest::from_key(self.after(prefix)?)
    }

    /// The data id that follows `prefix`.
    pub fn data_after(&self, prefix: &Prefix) -> Option<DataId> {
        let hex: String = self.after(prefix)?.iter().map(|b| format!("{b:02x}")).collect();
        hex.parse().ok()
    }

    /// The V1 image id that follows `prefix`.
    pub fn v1_image_after(&self, prefix: &Prefix) -> Option<ImageId> {
        self.after(prefix)?.try_into().map(ImageId::from_bytes).ok()
    }
}

impl Prefix {
    /// The prefix as the engine compares it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Keys are binary; logs show them escaped.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.0.escape_ascii())
    }
}

/// Puts a key together field by field.
struct Builder(Vec<u8>);

/// A text field, and what follows it.
fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn family(byte: u8) -> Builder {
    let mut key = Vec::with_capacity(96);
    key.push(byte);
    Builder(key)
}

impl Builder {
    fn text(mut self, field: &str) -> Self {
        debug_assert!(!field.contains('\0'), "names can't contain NUL");
        self.0.extend_from_slice(field.as_bytes());
        self.0.push(0);
        self
    }

    fn raw(mut self, field: &[u8]) -> Self {
        self.0.extend_from_slice(field);
        self
    }

    fn digest(self, digest: &Digest) -> Self {
        self.raw(&digest.to_key())
    }

    fn image(self, repository: &RepositoryKey, image: &ImageName) -> Self {
        self.text(repository.as_str()).text(image.as_str())
    }

    fn key(self) -> Key {
        Key(self.0)
    }

    fn prefix(self) -> Prefix {
        Prefix(self.0)
    }
}

/// The first bytes of all keys there are.
pub const FAMILIES: &[u8] = b"0aAbBcdDeEFgGijkKlLmMnopPqrRsStTuUvVwWxXyZ";

/// Everything of one family, for checks and dumps.
pub fn whole_family(byte: u8) -> Prefix {
    family(byte).prefix()
}

/// The format of the whole store.
pub fn format() -> Key {
    family(b'0').text("format").key()
}

/// How often the store was opened for writing: the number of the current run.
pub fn run() -> Key {
    family(b'0').text("run").key()
}

/// What was not yet durable when a batch was written: the first sequence number. Only ever read from the log.
pub(crate) fn first_not_durable() -> Key {
    family(b'0').text("first-not-durable").key()
}

/// The mark that everything an earlier version had stored is in the index of properties.
pub fn indexed() -> Key {
    family(b'0').text("indexed").key()
}

/// How the engine's table files are laid out, and which are not yet.
pub fn tables() -> Key {
    family(b'0').text("tables").key()
}

/// The mark that V1 images which stand on themselves were looked for once.
pub fn v1_loops_sought() -> Key {
    family(b'0').text("v1-loops").key()
}

/// The key that positions in a search are sealed with.
pub fn position_key() -> Key {
    family(b'0').text("position-key").key()
}

/// The key that manifests made for old clients are signed with.
pub fn schema1_key() -> Key {
    family(b'0').text("schema1-key").key()
}

/// What changes with every change of a repository's settings.
pub fn repositories_revision() -> Key {
    family(b'0').text("repositories").key()
}

/// A repository.
pub fn repository(repository: &RepositoryKey) -> Key {
    family(b'R').text(repository.as_str()).key()
}

/// All repositories.
pub fn repositories() -> Prefix {
    family(b'R').prefix()
}

/// The mark that a repository of the configuration was created once: deleted, it stays deleted.
pub fn repository_default(repository: &RepositoryKey) -> Key {
    family(b'd').text(repository.as_str()).key()
}

/// The mark that a repository was deleted and is being emptied.
pub fn repository_emptied(repository: &RepositoryKey) -> Key {
    family(b'Z').text(repository.as_str()).key()
}

/// All repositories that are being emptied.
pub fn repositories_emptied() -> Prefix {
    family(b'Z').prefix()
}

/// A blob's record.
pub fn blob(digest: &Digest) -> Key {
    family(b'b').digest(digest).key()
}

/// All blobs.
pub fn blobs() -> Prefix {
    family(b'b').prefix()
}

/// The bytes of a small blob.
pub fn small_blob(digest: &Digest) -> Key {
    family(b'B').digest(digest).key()
}

/// The mark that data has an owner.
pub fn data_owner(data: DataId) -> Key {
    family(b'D').raw(data.as_bytes()).key()
}

/// All owned data.
pub fn data_owners() -> Prefix {
    family(b'D').prefix()
}

/// An image of a repository.
pub fn image(repository: &RepositoryKey, image: &ImageName) -> Key {
    family(b'i').image(repository, image).key()
}

/// All images of a repository.
pub fn images(repository: &RepositoryKey) -> Prefix {
    family(b'i').text(repository.as_str()).prefix()
}

/// A blob's visibility in an image.
pub fn link(repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Key {
    family(b'k').image(repository, image).digest(digest).key()
}

/// All links of every image, for checks.
pub fn all_links() -> Prefix {
    family(b'k').prefix()
}

/// The same link, found from the blob.
pub fn linked_from(digest: &Digest, repository: &RepositoryKey, image: &ImageName) -> Key {
    family(b'K').digest(digest).image(repository, image).key()
}

/// All images of a repository that link a blob.
pub fn links_in(digest: &Digest, repository: &RepositoryKey) -> Prefix {
    family(b'K').digest(digest).text(repository.as_str()).prefix()
}

/// All images that link a blob.
pub fn links_of(digest: &Digest) -> Prefix {
    family(b'K').digest(digest).prefix()
}

/// A manifest's record and bytes.
pub fn manifest(repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Key {
    family(b'm').image(repository, image).digest(digest).key()
}

/// All manifests of every image, for checks.
pub fn all_manifests() -> Prefix {
    family(b'm').prefix()
}

/// All manifests of a repository.
pub fn manifests_in(repository: &RepositoryKey) -> Prefix {
    family(b'm').text(repository.as_str()).prefix()
}

/// All manifests of an image.
pub fn manifests(repository: &RepositoryKey, image: &ImageName) -> Prefix {
    family(b'm').image(repository, image).prefix()
}

/// A manifest that names `subject`.
pub fn referrer(repository: &RepositoryKey, image: &ImageName, subject: &Digest, digest: &Digest) -> Key {
    family(b'r').image(repository, image).digest(subject).digest(digest).key()
}

/// The position behind which a scan goes on after every image whose name starts with `start`, which ends in `/`.
pub fn images_behind(repository: &RepositoryKey, start: &str) -> Key {
    family(b'i').text(repository.as_str()).raw(start.as_bytes()).raw(&[0xff]).key()
}

/// All images of a repository whose name starts with `start`.
pub fn images_like(repository: &RepositoryKey, start: &str) -> Prefix {
    family(b'i').text(repository.as_str()).raw(start.as_bytes()).prefix()
}

/// All V1 images of a repository whose id starts with these bytes.
pub fn v1_images_like(repository: &RepositoryKey, start: &[u8]) -> Prefix {
    family(b'v').text(repository.as_str()).raw(start).prefix()
}

/// All links of an image.
pub fn links(repository: &RepositoryKey, image: &ImageName) -> Prefix {
    family(b'k').image(repository, image).prefix()
}

/// Everything of an image that goes with it, but for links and V1 tags, which leave something behind.
pub fn rows_of_image(repository: &RepositoryKey, image: &ImageName) -> [Prefix; 6] {
    [b't', b'T', b'r', b'y', b'm', b'l'].map(|byte| family(byte).image(repository, image).prefix())
}

/// All V1 images of a repository.
pub fn v1_images(repository: &RepositoryKey) -> Prefix {
    family(b'v').text(repository.as_str()).prefix()
}

/// All marks of users who have pushed a V1 image.
pub fn v1_pushers(repository: &RepositoryKey, id: &ImageId) -> Prefix {
    family(b'q').text(repository.as_str()).raw(id.as_bytes()).prefix()
}

/// All manifests that name `subject`.
pub fn referrers(repository: &RepositoryKey, image: &ImageName, subject: &Digest) -> Prefix {
    family(b'r').image(repository, image).digest(subject).prefix()
}

/// A tag.
pub fn tag(repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Key {
    family(b't').image(repository, image).text(tag.as_str()).key()
}

/// All tags of an image.
pub fn tags(repository: &RepositoryKey, image: &ImageName) -> Prefix {
    family(b't').image(repository, image).prefix()
}

/// The position behind which a tag listing goes on after `last`, which need not be an existing tag, nor even a valid one.
pub fn tags_after(repository: &RepositoryKey, image: &ImageName, last: &str) -> Key {
    family(b't').image(repository, image).raw(last.as_bytes()).raw(&[0]).key()
}

/// The position behind which an image listing goes on after `last`, which need not be an existing image.
pub fn images_after(repository: &RepositoryKey, last: &str) -> Key {
    family(b'i').text(repository.as_str()).raw(last.as_bytes()).raw(&[0]).key()
}

/// All tags of every image, for checks.
pub fn all_tags() -> Prefix {
    family(b't').prefix()
}

/// A tag, found from the manifest it points to.
pub fn tag_of(repository: &RepositoryKey, image: &ImageName, digest: &Digest, tag: &Tag) -> Key {
    family(b'T').image(repository, image).digest(digest).text(tag.as_str()).key()
}

/// All tags that point to a manifest.
pub fn tags_of(repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Prefix {
    family(b'T').image(repository, image).digest(digest).prefix()
}

/// An open upload.
pub fn upload(id: &str) -> Key {
    family(b'u').text(id).key()
}

/// All open uploads.
pub fn uploads() -> Prefix {
    family(b'u').prefix()
}

/// A user.
pub fn user(name: &AccountName) -> Key {
    family(b'U').text(name.as_str()).key()
}

/// All users.
pub fn users() -> Prefix {
    family(b'U').prefix()
}

/// What changes with every change of groups, permissions and memberships: who has seen the present value has seen them all.
pub fn access_revision() -> Key {
    family(b'0').text("access").key()
}

/// A group.
pub fn group(name: &AccountName) -> Key {
    family(b'G').text(name.as_str()).key()
}

/// All groups.
pub fn groups() -> Prefix {
    family(b'G').prefix()
}

/// A user's membership in a group, found from the group.
pub fn member(group: &AccountName, user: &AccountName) -> Key {
    family(b'g').text(group.as_str()).text(user.as_str()).key()
}

/// All members of a group.
pub fn members(group: &AccountName) -> Prefix {
    family(b'g').text(group.as_str()).prefix()
}

/// A permission target.
pub fn permission(name: &AccountName) -> Key {
    family(b'P').text(name.as_str()).key()
}

/// All permission targets.
pub fn permissions() -> Prefix {
    family(b'P').prefix()
}

/// An access token.
pub fn access_token(id: &str) -> Key {
    family(b'a').text(id).key()
}

/// An access token, found from its owner.
pub fn access_token_of(owner: &AccountName, id: &str) -> Key {
    family(b'A').text(owner.as_str()).text(id).key()
}

/// All access tokens of a user.
pub fn access_tokens_of(owner: &AccountName) -> Prefix {
    family(b'A').text(owner.as_str()).prefix()
}

/// A key for signed tokens. Ids ascend with the time of their making.
pub fn signing_key(id: &str) -> Key {
    family(b'S').text(id).key()
}

/// All keys for signed tokens.
pub fn signing_keys() -> Prefix {
    family(b'S').prefix()
}

/// An open upload, found from its owner; the empty name stands for anonymous clients.
pub fn upload_of(owner: &str, id: &str) -> Key {
    family(b'o').text(owner).text(id).key()
}

/// All open uploads, by owner.
pub fn uploads_by_owner() -> Prefix {
    family(b'o').prefix()
}

/// All open uploads of an owner.
pub fn uploads_of(owner: &str) -> Prefix {
    family(b'o').text(owner).prefix()
}

/// A V1 tag, found from the V1 image it points to.
pub fn v1_tag_of(repository: &RepositoryKey, id: &ImageId, image: &ImageName, tag: &Tag) -> Key {
    family(b'X').text(repository.as_str()).raw(id.as_bytes()).text(image.as_str()).text(tag.as_str()).key()
}

/// All V1 tags that point to a V1 image.
pub fn v1_tags_of(repository: &RepositoryKey, id: &ImageId) -> Prefix {
    family(b'X').text(repository.as_str()).raw(id.as_bytes()).prefix()
}

/// All V1 images whose parent is `parent`.
pub fn v1_children(repository: &RepositoryKey, parent: &ImageId) -> Prefix {
    family(b'w').text(repository.as_str()).raw(parent.as_bytes()).prefix()
}

/// What a user has sent of a V1 image; the empty name stands for anonymous clients.
pub fn v1_pushed(repository: &RepositoryKey, id: &ImageId, user: &str) -> Key {
    family(b'q').text(repository.as_str()).raw(id.as_bytes()).text(user).key()
}

/// A V1 image.
pub fn v1_image(repository: &RepositoryKey, id: &ImageId) -> Key {
    family(b'v').text(repository.as_str()).raw(id.as_bytes()).key()
}

/// All V1 images of every repository, for checks.
pub fn all_v1_images() -> Prefix {
    family(b'v').prefix()
}

/// A V1 image's JSON.
pub fn v1_json(repository: &RepositoryKey, id: &ImageId) -> Key {
    family(b'V').text(repository.as_str()).raw(id.as_bytes()).key()
}

/// The value of [`v1_child`] as long as no tag has ever led through the child. Any other value, like the empty one that
/// earlier versions wrote, says nothing.
pub const V1_UNNAMED: &[u8] = b"u";

/// A V1 image, found from its parent.
pub fn v1_child(repository: &RepositoryKey, parent: &ImageId, id: &ImageId) -> Key {
    family(b'w').text(repository.as_str()).raw(parent.as_bytes()).raw(id.as_bytes()).key()
}

/// A V1 image, found from the blob that is its layer.
pub fn v1_user_of(digest: &Digest, repository: &RepositoryKey, id: &ImageId) -> Key {
    family(b'W').digest(digest).text(repository.as_str()).raw(id.as_bytes()).key()
}

/// All V1 images whose layer is a blob.
pub fn v1_users_of(digest: &Digest) -> Prefix {
    family(b'W').digest(digest).prefix()
}

/// A V1 tag.
pub fn v1_tag(repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Key {
    family(b'x').image(repository, image).text(tag.as_str()).key()
}

/// All V1 tags of an image.
pub fn v1_tags(repository: &RepositoryKey, image: &ImageName) -> Prefix {
    family(b'x').image(repository, image).prefix()
}

/// All V1 tags of every image, for checks.
pub fn all_v1_tags() -> Prefix {
    family(b'x').prefix()
}

/// A manifest, found from something it refers to.
pub fn parent_of(repository: &RepositoryKey, image: &ImageName, child: &Digest, digest: &Digest) -> Key {
    family(b'y').image(repository, image).digest(child).digest(digest).key()
}

/// All manifests that refer to `child`.
pub fn parents_of(repository: &RepositoryKey, image: &ImageName, child: &Digest) -> Prefix {
    family(b'y').image(repository, image).digest(child).prefix()
}

/// The repository and image that a key of an image-scoped family starts with, and what follows them.
pub fn split_image<'k>(key: &'k Key, family: &Prefix) -> Option<(RepositoryKey, ImageName, &'k [u8])> {
    let (repository, rest) = split_repository(key, family)?;
    let end = rest.iter().position(|b| *b == 0)?;
    let image = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((repository, image, &rest[end + 1..]))
}

/// The repository that a key of a repository-scoped family starts with, and what follows it.
pub fn split_repository<'k>(key: &'k Key, family: &Prefix) -> Option<(RepositoryKey, &'k [u8])> {
    let rest = key.after(family)?;
    let end = rest.iter().position(|b| *b == 0)?;
    let repository = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((repository, &rest[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repository() -> RepositoryKey {
        "docker-local".parse().unwrap()
    }

    #[test]
    fn the_list_of_families_is_the_table_of_keys() {
        let table = include_str!("keys.rs").lines().filter_map(|line| line.strip_prefix("//! | `")?.bytes().next());
        assert_eq!(table.collect::<Vec<u8>>(), FAMILIES);
    }

    #[test]
    fn scanning_one_image_cannot_return_another() {
        let (app, app2, nested) = ("app".parse().unwrap(), "app2".parse().unwrap(), "app/x".parse().unwrap());
        let latest: Tag = "latest".parse().unwrap();
        let prefix = tags(&repository(), &app);
        assert!(tag(&repository(), &app, &latest).as_bytes().starts_with(prefix.as_bytes()));
        for other in [&app2, &nested] {
            assert!(!tag(&repository(), other, &latest).as_bytes().starts_with(prefix.as_bytes()));
        }
    }

    proptest! {
        #[test]
        fn fields_come_back_out_of_keys(name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", tag_text in "[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", hash in any::<[u8; 32]>()) {
            let (image, tag_name): (ImageName, Tag) = (name.parse().unwrap(), tag_text.parse().unwrap());
            let digest = Digest::sha256(hash);
            let by_name = tag(&repository(), &image, &tag_name);
            prop_assert_eq!(by_name.text_after(&tags(&repository(), &image)), Some(tag_name.as_str()));
            let by_digest = tag_of(&repository(), &image, &digest, &tag_name);
            prop_assert_eq!(by_digest.text_after(&tags_of(&repository(), &image, &digest)), Some(tag_name.as_str()));
            let link = link(&repository(), &image, &digest);
            let (found_repository, found_image, rest) = split_image(&link, &all_links()).unwrap();
            prop_assert_eq!(found_repository, repository());
            prop_assert_eq!(found_image, image);
            prop_assert_eq!(Digest::from_key(rest), Some(digest));
        }

        #[test]
        fn tags_list_in_byte_order(a in "[A-Za-z0-9_][A-Za-z0-9._-]{0,6}", b in "[A-Za-z0-9_][A-Za-z0-9._-]{0,6}") {
            let image: ImageName = "app".parse().unwrap();
            let key = |text: &str| tag(&repository(), &image, &text.parse().unwrap());
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }
    }
}
