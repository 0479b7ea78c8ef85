use berth_names::{Digest, ImageName, Reference, RepositoryKey, Tag};

use crate::v1::ImageId;

/// The result of every operation of the registry.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the registry refused. Every variant is something that an API tells its client differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No repository has this key.
    #[error("repository {0} is not known")]
    RepositoryUnknown(RepositoryKey),
    /// A repository has this key already.
    #[error("repository {0} exists already")]
    RepositoryExists(RepositoryKey),
    /// The repository was deleted, and its content has not gone yet.
    #[error("the content of the deleted repository {0} is still being removed; try again in a moment")]
    RepositoryEmptying(RepositoryKey),
    /// Something is in the repository that speaks the protocol it has.
    #[error("repository {0} is not empty: its API version can't be changed")]
    RepositoryNotEmpty(RepositoryKey),
    /// The repository's patterns leave out images of this name.
    #[error("the repository does not take images called {0}: its include and exclude patterns say so")]
    ImageNotTaken(ImageName),
    /// Images can't go from one protocol to the other this way.
    #[error("repository {0} has another API version than {1}")]
    ApiVersionsDiffer(RepositoryKey, RepositoryKey),
    /// A promotion that means nothing.
    #[error("{0}")]
    PromotionInvalid(&'static str),
    /// There is more to promote than one commit takes.
    #[error("more than {max} {what} can't be promoted at once: promote tag by tag")]
    PromotionTooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much may be.
        max: usize,
    },
    /// A migration that can't be.
    #[error("{0}")]
    MigrationInvalid(&'static str),
    /// Too many jobs work or wait.
    #[error("{max} jobs are under way; try again when one has ended")]
    TooManyJobs {
        /// How many may be.
        max: usize,
    },
    /// The target repository has another V1 image under an id that is to be promoted.
    #[error("the target has another V1 image called {0}")]
    V1ImageDiffers(ImageId),
    /// There is nothing here that could be looked at, or of which something could be said.
    #[error("there is no such item")]
    ItemUnknown,
    /// A question that can't be asked so.
    #[error("{0}")]
    SearchInvalid(&'static str),
    /// Where a list was to go on is not what it gave for that.
    #[error("the position is not what an answer gave as `next`")]
    PositionInvalid,
    /// A property that can't be.
    #[error("{0}")]
    PropertyInvalid(String),
    /// The repository has no such image.
    #[error("image {0} is not known")]
    ImageUnknown(ImageName),
    /// The image has no such manifest or tag.
    #[error("manifest {0} is not known")]
    ManifestUnknown(Reference),
    /// The image has no such blob.
    #[error("blob {0} is not known")]
    BlobUnknown(Digest),
    /// A manifest refers to a blob or manifest that the image does not have.
    #[error("the manifest refers to {0}, which is not in this image")]
    ManifestBlobUnknown(Digest),
    /// A manifest gives a size that the blob does not have.
    #[error("the manifest says that {digest} has {claimed} bytes; it has {actual}")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// What the manifest says.
        claimed: u64,
        /// What is stored.
        actual: u64,
    },
    /// The manifest can't be understood.
    #[error("invalid manifest: {0}")]
    ManifestInvalid(String),
    /// The manifest has more bytes than are accepted.
    #[error("a manifest may have {max} bytes")]
    ManifestTooLarge {
        /// The limit, in bytes.
        max: usize,
    },
    /// The image can't be put into the only form that the client understands.
    #[error("this client understands only schema 1, as docker 1.9 and older do, and {0}")]
    NotAsSchema1(&'static str),
    /// The bytes do not have the digest that the client says they have.
    #[error("the content does not have the digest {0}")]
    DigestMismatch(Digest),
    /// Something still refers to it.
    #[error("{digest} is in use by manifest {user}; delete that first")]
    InUse {
        /// What was to be deleted.
        digest: Digest,
        /// What refers to it.
        user: Digest,
    },
    /// There is no such upload for this image and this user.
    #[error("upload is not known")]
    UploadUnknown,
    /// Another request is writing to this upload.
    #[error("another request is writing to this upload")]
    UploadBusy,
    /// A chunk does not continue where the upload ended.
    #[error("the upload has {offset} bytes; the next chunk must start there")]
    ChunkOutOfOrder {
        /// Bytes received so far.
        offset: u64,
    },
    /// A body has another length than its request says.
    #[error("the body does not have the length that the request says")]
    LengthMismatch,
    /// The client stopped sending.
    #[error("the client stopped sending")]
    Interrupted,
    /// Other writers were faster again and again.
    #[error("too many concurrent changes; try again")]
    TooContended,
    /// Too many passwords are being checked already.
    #[error("too many logins at once; try again")]
    TooManyLogins,
    /// There were too many wrong passwords before.
    #[error("too many failed logins; try again later")]
    LoginsBlocked {
        /// How long the next try must wait.
        wait: std::time::Duration,
    },
    /// The tag is there already, and the caller may only add.
    #[error("tag {0} exists, and moving it needs the right to delete")]
    TagExists(Tag),
    /// The caller has too many uploads open.
    #[error("{max} uploads are open; finish or cancel some first")]
    TooManyUploads {
        /// How many may be open.
        max: usize,
    },

    /// There is no such V1 image, or not all of it.
    #[error("V1 image {0} is not known")]
    V1ImageUnknown(ImageId),
    /// The V1 image's push has not ended.
    #[error("V1 image {0} is being uploaded")]
    V1ImageIncomplete(ImageId),
    /// The V1 image is complete already.
    #[error("V1 image {0} already exists")]
    V1ImageExists(ImageId),
    /// Another V1 image has the id, and a tag leads to it.
    #[error("another image has the id {0}, and a tag leads to it: it can't be replaced")]
    V1ImageTaken(ImageId),
    /// Another V1 image has the id, and a push that has not ended was told that it is there.
    #[error("another image has the id {0}, and a push that has not ended relies on it; try again when it has")]
    V1ImageReliedOn(ImageId),
    /// Under the id there is another V1 image than the one that the pusher sent.
    #[error("image {0} is not what you pushed under that id: another push has put something else there")]
    V1ImageReplaced(ImageId),
    /// The V1 image stands on too many others, or on itself.
    #[error("image {0} has a chain of more than {max} images, or one without end", max = crate::v1::CHAIN_IMAGES_MAX)]
    V1ChainTooLong(ImageId),
    /// The V1 image's JSON is not acceptable.
    #[error("{0}")]
    V1JsonInvalid(&'static str),
    /// No checksum of the client's matches the layer.
    #[error("checksum mismatch")]
    V1ChecksumMismatch,
    /// The client sent no checksum.
    #[error("missing checksum")]
    V1ChecksumMissing,
    /// The image has no such V1 tag.
    #[error("tag {0} is not known")]
    V1TagUnknown(Tag),

    /// There is no space for anything more.
    #[error("the registry's disk is full: only what frees space is accepted until there is room again")]
    DiskFull,
    /// The store failed; nothing that a client could mend.
    #[error(transparent)]
    Storage(berth_storage::Error),
    /// A background task died; a bug.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl From<berth_storage::Error> for Error {
    fn from(error: berth_storage::Error) -> Self {
        match error {
            berth_storage::Error::Full => Self::DiskFull,
            error => Self::Storage(error),
        }
    }
}
