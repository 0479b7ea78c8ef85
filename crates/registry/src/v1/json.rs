//! The JSON of a V1 image, as far as the registry must understand it.

use serde::Deserialize;

use super::ImageId;
use crate::json::{check_names, shapes};
use crate::{Error, Result};

/// The largest image JSON that is accepted, in bytes. Docker's own are a few kilobytes.
pub const IMAGE_JSON_BYTES_MAX: usize = 1 << 20;

/// What only the registry may say of a V1 image that it makes, with what docker stored under other names.
const MADE_BY_REGISTRY: [&str; 5] = ["id", "parent", "parent_id", "layer_id", "throwaway"];

#[derive(Deserialize)]
struct Wire {
    id: Option<serde_json::Value>,
    parent: Option<String>,
}

/// The parent that the JSON names, if it is the JSON of the image `id`.
pub(super) fn parent_of(id: &ImageId, json: &[u8]) -> Result<Option<ImageId>> {
    let wire: Option<Wire> = Some(json).filter(|json| crate::json::is_sane(json)).and_then(|json| serde_json::from_slice(json).ok());
    let wire = wire.ok_or(Error::V1JsonInvalid("Invalid JSON"))?;
    let said = wire.id.ok_or(Error::V1JsonInvalid("Missing key `id' in JSON"))?;
    if said.as_str() != Some(&id.to_string()) {
        return Err(Error::V1JsonInvalid("JSON data contains invalid id"));
    }
    // Docker would go by another parent than we do.
    check_names(json, &shapes::V1_IMAGE).map_err(|_| Error::V1JsonInvalid("JSON has `id' or `parent' in another case or twice"))?;
    // Docker writes an empty parent for an image that has none.
    let parent = wire.parent.filter(|parent| !parent.is_empty());
    parent.map(|parent| parent.parse().map_err(|_| Error::V1JsonInvalid("Image depends on a non existing parent"))).transpose()
}

/// Whether a pushed document may not say this of a V1 image that is made of it: the registry says it, or nobody.
pub(crate) fn is_made_by_registry(name: &str) -> bool {
    MADE_BY_REGISTRY.iter().any(|made| name.eq_ignore_ascii_case(made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_that_only_go_would_read_is_refused() {
        let id = ImageId::from_bytes([0x11; 32]);
        let parent = ImageId::from_bytes([0x22; 32]);
        let read = |more: &str| parent_of(&id, format!(r#"{{"id":"{id}"{more}}}"#).as_bytes());
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read(r#","parent":"""#).unwrap(), None);
        assert_eq!(read(&format!(r#","parent":"{parent}""#)).unwrap(), Some(parent));
        for name in ["Parent", "PARENT", "Id", "ID"] {
            let refused = read(&format!(r#","{name}":"{parent}""#));
            assert!(matches!(refused, Err(Error::V1JsonInvalid(why)) if why.contains("case")), "{name}");
        }
    }
}
