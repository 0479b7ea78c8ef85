//! Where a search goes on, in a form that tells its client nothing: the row behind which it goes on may be about something
//! that the client can't see.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_storage::{Batch, Key, keys};
use bytes::Bytes;

use super::TERMS_MAX;
use crate::{Error, Registry, Result};

/// The longest position that is looked at, in bytes: name and value of a property at their longest, and a thing's name.
const POSITION_BYTES_MAX: usize = 8192;

/// Behind this row, for this value of this term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) term: usize,
    pub(super) value: usize,
    pub(super) after: Option<Key>,
}

const _: () = assert!(TERMS_MAX <= u8::MAX as usize, "a term's and a value's number are a byte each");

impl Position {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (term, value, key) = (*bytes.first()?, *bytes.get(1)?, bytes.get(2..)?);
        let after = (!key.is_empty()).then(|| Key::from_cursor(key));
        Some(Self { term: term.into(), value: value.into(), after })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.term as u8, self.value as u8];
        bytes.extend(self.after.iter().flat_map(|key| key.as_bytes()));
        bytes
    }
}

impl Registry {
    pub(super) async fn seal_position(&self, position: &Position) -> Result<String> {
        let failed = |_| Error::Internal("a position can't be sealed");
        let mut sealed = position.to_bytes();
        let nonce = self.position_key().await?.seal_in_place_append_tag(Aad::empty(), &mut sealed).map_err(failed)?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// The position, unless the text is none of ours.
    pub(super) async fn open_position(&self, text: &str) -> Result<Option<Position>> {
        if text.len() > POSITION_BYTES_MAX {
            return Ok(None);
        }
        let key = self.position_key().await?;
        Ok(URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| {
            let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
            let mut sealed = sealed.to_vec();
            let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed).ok()?;
            Position::from_bytes(opened)
        }))
    }

    /// The key that positions are sealed with, made when it is first needed.
    async fn position_key(&self) -> Result<RandomizedNonceKey> {
        let row = keys::position_key();
        let bytes = match self.store.get(&row).await? {
            Some(bytes) => bytes,
            None => self.make_position_key(&row).await?,
        };
        RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| Error::Internal("the key of positions is none"))
    }

    async fn make_position_key(&self, row: &Key) -> Result<Bytes> {
        self.commit_with(|| async {
            // Another question may have been first.
            if let Some(bytes) = self.store.get(row).await? {
                return Ok((Batch::deferred(), bytes));
            }
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|_| Error::Internal("no random bytes"))?;
            let bytes = Bytes::copy_from_slice(&bytes);
            let mut batch = Batch::new();
            batch.expect(row.clone(), None).put(row.clone(), bytes.clone());
            Ok((batch, bytes))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_comes_back_out_of_its_bytes(term in 0..TERMS_MAX, value in 0..TERMS_MAX, key in prop::collection::vec(any::<u8>(), 0..40)) {
            let after = (!key.is_empty()).then(|| Key::from_cursor(&key));
            let position = Position { term, value, after };
            prop_assert_eq!(Position::from_bytes(&position.to_bytes()), Some(position));
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Position::from_bytes(&bytes);
        }
    }
}
