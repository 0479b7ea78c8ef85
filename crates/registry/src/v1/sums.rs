//! (being written)
pub(crate) struct LayerSums(Vec<u8>, u64);
pub(crate) struct Sums {
    pub(crate) blob: [u8; 32],
    pub(crate) diff_id: Option<[u8; 32]>,
    pub(crate) size: u64,
}
impl LayerSums {
    pub(crate) fn new(json: &[u8]) -> Self {
        Self(json.to_vec(), 0)
    }
    pub(crate) fn update(&mut self, b: &[u8]) {
        self.1 += b.len() as u64
    }
    pub(crate) fn finish(self) -> Sums {
        Sums { blob: [0; 32], diff_id: None, size: self.1 }
    }
}
impl Sums {
    pub(crate) fn checksums(&self) -> Vec<String> {
        vec![]
    }
}
