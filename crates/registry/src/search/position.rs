//! Where a search goes on.

use berth_storage::Key;

use super::TERMS_MAX;

/// Behind this row, for this value of this term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) term: usize,
    pub(super) value: usize,
    pub(super) after: Option<Key>,
}

const _: () = assert!(TERMS_MAX <= u8::MAX as usize, "a term's and a value's number are a byte each");

impl Position {
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (term, value, key) = (*bytes.first()?, *bytes.get(1)?, bytes.get(2..)?);
        let after = (!key.is_empty()).then(|| Key::from_cursor(key));
        Some(Self { term: term.into(), value: value.into(), after })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.term as u8, self.value as u8];
        bytes.extend(self.after.iter().flat_map(|key| key.as_bytes()));
        bytes
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
