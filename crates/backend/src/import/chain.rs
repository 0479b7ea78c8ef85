//! V1 images from wherever they are, parents before children.

use std::collections::{HashMap, HashSet};

use berth_registry::Error;
use berth_registry::v1::{CHAIN_IMAGES_MAX, Claim, ImageId};
use bytes::Bytes;
use serde::Deserialize;

use super::feed::{Feed, Meter};
use super::{HOLDER, Import, Trouble, VIEWER};

/// Where V1 images come from.
pub(super) trait Source {
    /// The image's JSON, or why it can't be had.
    fn json(&self, id: &ImageId) -> Result<Bytes, String>;

    /// The length of the layer once it is stored, in bytes, if that is known before it is read.
    fn stored_size(&self, id: &ImageId) -> Option<u64>;

    /// The layer, or why it can't be had.
    fn layer(&self, id: &ImageId, meter: &Meter) -> Result<Feed, String>;

    /// Checksums that lie beside the layer.
    fn claims(&self, id: &ImageId) -> Vec<String>;

    /// What is odd about an image that is imported all the same.
    fn remark(&self, _: &ImageId) -> Option<&'static str> {
        None
    }
}

/// Brings images and what is below them, each once.
pub(super) struct Chains<S> {
    source: S,
    /// What became of the images that were looked at: whole with everything below them, or why not.
    known: HashMap<ImageId, Result<(), String>>,
}

#[derive(Deserialize)]
struct Wire {
    parent: Option<String>,
}

/// The parent that an image's JSON names.
pub(super) fn parent_of(json: &[u8]) -> Result<Option<ImageId>, String> {
    let wire: Wire = serde_json::from_slice(json).map_err(|_| "its JSON can't be read".to_owned())?;
    let parent = wire.parent.filter(|parent| !parent.is_empty());
    parent.map(|text| text.parse().map_err(|_| format!("its parent `{}` is no image id", text.escape_debug()))).transpose()
}

impl<S: Source> Chains<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, known: HashMap::new() }
    }

    /// How many images were looked at.
    pub(super) fn looked_at(&self) -> usize {
        self.known.len()
    }

    /// Imports an image and everything below it that is not there.
    pub(super) async fn bring(&mut self, import: &mut Import, top: &ImageId) -> Result<(), Trouble> {
        for id in self.missing(top).map_err(Trouble::Skip)?.iter().rev() {
            let outcome = self.bring_one(import, id).await;
            let outcome = match outcome {
                Err(Trouble::Skip(why)) => Err(format!("image {id}: {why}")),
                Err(fatal) => return Err(fatal),
                Ok(()) => Ok(()),
            };
            self.known.insert(*id, outcome.clone());
            outcome.map_err(Trouble::Skip)?;
        }
        Ok(())
    }

    /// The image and what is below it, top first, down to what is known to be there.
    fn missing(&self, top: &ImageId) -> Result<Vec<ImageId>, String> {
        let (mut chain, mut seen, mut next) = (Vec::new(), HashSet::new(), Some(*top));
        while let Some(id) = next {
            match self.known.get(&id) {
                Some(Ok(())) => break,
                Some(Err(why)) => return Err(why.clone()),
                None if !seen.insert(id) => return Err(format!("image {id}: it is below itself")),
                None if chain.len() == CHAIN_IMAGES_MAX => {
                    return Err(format!("image {top}: its chain has more than {CHAIN_IMAGES_MAX} images"));
                }
                None => chain.push(id),
            }
            next = self.source.json(&id).and_then(|json| parent_of(&json)).map_err(|why| format!("image {id}: {why}"))?;
        }
        Ok(chain)
    }

    async fn bring_one(&self, import: &mut Import, id: &ImageId) -> Result<(), Trouble> {
        let json = self.source.json(id).map_err(Trouble::Skip)?;
        let (registry, key) = (import.registry.clone(), import.repository.key.clone());
        match registry.v1_image(&key, id).await {
            Ok(there) if there.json == json && self.source.stored_size(id).is_none_or(|size| size == there.layer_size) => {
                import.report.present += 1;
                return Ok(());
            }
            Ok(_) => return Err(Trouble::Skip("the repository has another image of this id".to_owned())),
            Err(Error::V1ImageUnknown(_) | Error::V1ImageIncomplete(_)) => {}
            Err(error) => return Err(error.into()),
        }
        // Only with its layer at hand is there any use in its JSON.
        let Feed { body, outcome } = self.source.layer(id, &import.meter).map_err(Trouble::Skip)?;
        registry.put_v1_json(&key, id, json, VIEWER, HOLDER).await?;
        let stored = import.watch(&format!("image {id:.12}"), registry.put_v1_layer(&key, id, body, VIEWER, HOLDER)).await;
        match (stored, outcome.await) {
            (Ok(()), Ok(Ok(_))) => {}
            (Err(Error::Interrupted), Ok(Err(error))) => return Err(Trouble::Skip(format!("its layer can't be read: {error}"))),
            (Err(error), _) => return Err(error.into()),
            (Ok(()), _) => return Err(Error::Internal("reading died").into()),
        }
        if registry.complete_v1_image(&key, id, &self.source.claims(id)).await? == Claim::Differs {
            import.line.say(&format!("warning: image {id}: no checksum that lies beside its layer is the layer's; imported as it is"));
        }
        if let Some(remark) = self.source.remark(id) {
            import.line.say(&format!("warning: image {id}: {remark}"));
        }
        import.report.imported += 1;
        Ok(())
    }
}
