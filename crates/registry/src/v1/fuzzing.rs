//! What the fuzz targets see of the tar reader.

use super::tar::{Events, Header, TarReader};

/// A member of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is a link to.
    pub link: Vec<u8>,
    /// What kind of thing it is.
    pub kind: u8,
    /// How large it says it is.
    pub size: i64,
    /// What it holds.
    pub content: Vec<u8>,
    /// Whether its end was seen.
    pub ended: bool,
    /// All that its header says, for comparison.
    pub header: String,
}

#[derive(Default)]
struct Members(Vec<Member>);

impl Events for Members {
    fn begin(&mut self, header: &Header) {
        self.0.push(Member {
            name: header.name.clone(),
            link: header.linkname.clone(),
            kind: header.typeflag,
            size: header.size,
            content: Vec::new(),
            ended: false,
            header: format!("{header:?}"),
        });
    }

    fn content(&mut self, bytes: &[u8]) {
        if let Some(member) = self.0.last_mut() {
            member.content.extend_from_slice(bytes);
        }
    }

    fn end(&mut self) {
        if let Some(member) = self.0.last_mut() {
            member.ended = true;
        }
    }
}

/// The members of a tar that comes in pieces of so many bytes, and whether it could be read to its end.
pub fn tar_members(bytes: &[u8], piece: usize) -> (Vec<Member>, bool) {
    let (mut reader, mut members) = (TarReader::new(), Members::default());
    let pushed = bytes.chunks(piece.max(1)).try_for_each(|piece| reader.push(piece, &mut members));
    (members.0, pushed.and_then(|()| reader.finish()).is_ok())
}
