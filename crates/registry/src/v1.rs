//! Docker Registry V1: images that are one layer and one JSON each, chained by parent, found by tags.
//!
//! An image goes through three states: its JSON is stored, its layer is stored, a checksum matched. Only then can it be
//! pulled or tagged. What a tag leads to never changes; until then a push of something else takes its place.
//! Ids are chosen by clients, so they mean something only within their repository, and only together with their content.

mod chain;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod images;
mod json;
mod marks;
pub mod migration;
mod promotion;
mod push;
mod search;
mod sums;
mod tags;
mod tar;
#[cfg(test)]
mod tests;
mod tree;
mod trusted;
mod view;
mod visible;

pub use berth_storage::v1::{ImageId, InvalidImageId};
pub use chain::CHAIN_IMAGES_MAX;
pub(crate) use chain::Chains;
pub use images::ImageContent;
pub use json::IMAGE_JSON_BYTES_MAX;
pub(crate) use json::is_made_by_registry;
pub use search::SearchPage;
pub use tags::TagRecord;
pub use tree::{TREE_IMAGES_MAX, TreeImage};
pub use trusted::Claim;
pub use visible::Viewer;
