//! Hashing what streams past.

use berth_names::{Algorithm, Digest};
use berth_storage::BlobStream;
use futures::TryStreamExt;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

use crate::Result;

/// Takes the bytes of a body in order.
pub(crate) trait Absorb: Send + 'static {
    /// The next bytes.
    fn absorb(&mut self, bytes: &[u8]);
}

/// A SHA-256 whose state can be stored between the requests of an upload.
#[derive(Clone, Default)]
pub(crate) struct ContentHash(Sha256);

impl ContentHash {
    /// The state as text, for an upload's record.
    pub(crate) fn save(&self) -> String {
        self.0.serialize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads what [`ContentHash::save`] wrote, or `None` if it did not.
    pub(crate) fn restore(text: &str) -> Option<Self> {
        let mut state = SerializedState::<Sha256>::default();
        if text.len() != 2 * state.len() || !text.is_ascii() {
            return None;
        }
        for (byte, at) in state.iter_mut().zip((0..text.len()).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Sha256::deserialize(&state).ok().map(Self)
    }

    /// The digest of everything absorbed.
    pub(crate) fn finish(self) -> Digest {
        Digest::sha256(self.0.finalize().into())
    }
}

impl Absorb for ContentHash {
    fn absorb(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// The digest of bytes that are in memory.
pub(crate) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => Digest::sha256(Sha256::digest(bytes).into()),
        Algorithm::Sha512 => Digest::sha512(Sha512::digest(bytes).into()),
    }
}

/// The digest of stored bytes, read through once.
pub(crate) async fn digest_stream(algorithm: Algorithm, mut content: BlobStream) -> Result<Digest> {
    let (mut sha256, mut sha512) = (Sha256::new(), Sha512::new());
    while let Some(bytes) = content.try_next().await? {
        match algorithm {
            Algorithm::Sha256 => sha256.update(&bytes),
            Algorithm::Sha512 => sha512.update(&bytes),
        }
        tokio::task::yield_now().await;
    }
    Ok(match algorithm {
        Algorithm::Sha256 => Digest::sha256(sha256.finalize().into()),
        Algorithm::Sha512 => Digest::sha512(sha512.finalize().into()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_saved_hash_goes_on_where_it_stopped(bytes in prop::collection::vec(any::<u8>(), 0..500), cut in any::<prop::sample::Index>()) {
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut hash = ContentHash::default();
            hash.absorb(head);
            let mut restored = ContentHash::restore(&hash.save()).unwrap();
            restored.absorb(tail);
            prop_assert_eq!(restored.finish(), digest_of(Algorithm::Sha256, &bytes));
        }

        #[test]
        fn no_text_makes_restoring_panic(text in "\\PC{0,220}") {
            let _ = ContentHash::restore(&text);
        }
    }
}
