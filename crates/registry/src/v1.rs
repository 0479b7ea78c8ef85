//! Docker Registry V1: images that are one layer and one JSON each, chained by parent, found by tags.
//!
//! An image goes through three states: its JSON is stored, its layer is stored, a checksum matched. Only then can it be
//! pulled, tagged, or built upon; from then on it never changes. Until then a repeated push overwrites it.
//! Ids are chosen by clients, so they mean something only within their repository.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod images;
pub mod migration;
mod promotion;
mod search;
mod sums;
mod tags;
mod tar;
mod tree;
mod trusted;
mod view;
mod visible;

pub use berth_storage::v1::{ImageId, InvalidImageId};
pub use images::{IMAGE_JSON_BYTES_MAX, ImageContent};
pub use search::SearchPage;
pub use tags::TagRecord;
pub use tree::{TREE_IMAGES_MAX, TreeImage};
pub use trusted::Claim;
pub use visible::Viewer;
