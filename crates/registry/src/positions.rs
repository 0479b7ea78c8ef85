//! Where a list goes on, in a form that tells its client nothing: the row behind which it goes on may be about something that
//! the client can't see.
//!
//! Every position that is not made of what its client has just been shown leaves the server this way. What is sealed for one
//! list opens for no other, and its length says nothing of the row's.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_names::RepositoryKey;
use berth_storage::{Batch, Key, keys};
use bytes::Bytes;

use crate::{Error, Registry, Result};

/// The longest position that is looked at, in bytes: name and value of a property at their longest, and a thing's name.
const POSITION_BYTES_MAX: usize = 8192;

/// What positions are filled up to a multiple of before they are sealed, in bytes: most are of one length then.
const FILLED_BYTES: usize = 512;

/// The list that a position is in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum List<'a> {
    /// Of what a search by properties finds.
    Search,
    /// Of the receipts of a repository.
    Receipts(&'a RepositoryKey),
}

impl List<'_> {
    fn aad(self) -> Aad<Vec<u8>> {
        Aad::from(match self {
            Self::Search => b"search".to_vec(),
            Self::Receipts(repository) => [b"receipts ", repository.as_str().as_bytes()].concat(),
        })
    }
}

impl Registry {
    pub(crate) async fn seal_position(&self, list: List<'_>, position: &[u8]) -> Result<String> {
        let failed = |_| Error::Internal("a position can't be sealed");
        let mut sealed = filled(position);
        let nonce = self.position_key().await?.seal_in_place_append_tag(list.aad(), &mut sealed).map_err(failed)?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// The position, unless the text is none of ours for this list.
    pub(crate) async fn open_position(&self, list: List<'_>, text: &str) -> Result<Option<Vec<u8>>> {
        if text.len() > POSITION_BYTES_MAX {
            return Ok(None);
        }
        let key = self.position_key().await?;
        Ok(URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| {
            let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
            let mut sealed = sealed.to_vec();
            let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), list.aad(), &mut sealed).ok()?;
            emptied(opened).map(<[u8]>::to_vec)
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

/// The position, a one that marks its end, and zeros.
fn filled(position: &[u8]) -> Vec<u8> {
    let mut filled = [position, &[1]].concat();
    filled.resize(filled.len().next_multiple_of(FILLED_BYTES), 0);
    filled
}

fn emptied(filled: &[u8]) -> Option<&[u8]> {
    let end = filled.iter().rposition(|byte| *byte != 0)?;
    Some(&filled[..end])
}

#[cfg(test)]
mod tests {
    use berth_storage::rocksdb;
    use proptest::prelude::*;

    use super::*;
    use crate::{CleanupTimes, Clock};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_position_opens_in_its_own_list_and_shows_nothing_of_itself() {
        let directory = tempfile::tempdir().unwrap();
        let stores = rocksdb::open(directory.path()).unwrap();
        let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
        let (one, other): (RepositoryKey, RepositoryKey) = ("one".parse().unwrap(), "other".parse().unwrap());
        let mut lengths = Vec::new();
        for position in [&b""[..], b"hidden-project/codename", &[0; 3], &[b'x'; 300]] {
            let sealed = registry.seal_position(List::Receipts(&one), position).await.unwrap();
            assert_eq!(registry.open_position(List::Receipts(&one), &sealed).await.unwrap().as_deref(), Some(position));
            for list in [List::Receipts(&other), List::Search] {
                assert_eq!(registry.open_position(list, &sealed).await.unwrap(), None, "{list:?}");
            }
            lengths.push(sealed.len());
        }
        assert!(lengths.windows(2).all(|pair| pair[0] == pair[1]), "{lengths:?}");
        for none in ["", "x", "hidden-project/codename:1", &"A".repeat(700), &"A".repeat(POSITION_BYTES_MAX + 1)] {
            assert_eq!(registry.open_position(List::Search, none).await.unwrap(), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn a_position_comes_back_out_of_its_filling(position in prop::collection::vec(any::<u8>(), 0..1200)) {
            let filled = filled(&position);
            prop_assert_eq!(filled.len() % FILLED_BYTES, 0);
            prop_assert_eq!(emptied(&filled), Some(position.as_slice()));
        }
    }
}
