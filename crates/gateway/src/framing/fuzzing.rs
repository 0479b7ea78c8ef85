//! What the fuzz targets see of the framing: where it says that requests begin and end.

use std::ops::Range;

use super::{Framing, Part};

/// A request, as it stands between other requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where in the bytes its head is.
    pub head: Range<usize>,
    /// What is in its body, without what frames it.
    pub body: Vec<u8>,
    /// Where it ends; none if its end has not come.
    pub end: Option<usize>,
}

/// How a connection's bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Between two requests or within one.
    Open,
    /// From here on nothing will be served: the head that begins here is refused.
    Refused(usize),
    /// The body is in doubt with this byte, and the connection breaks off.
    Doubt(usize),
}

/// Follows a connection byte by byte.
pub fn messages(bytes: &[u8]) -> (Vec<Message>, End) {
    let (mut framing, mut messages) = (Framing::default(), Vec::<Message>::new());
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let before = framing.part;
        framing.follow(&[*byte]);
        match (before, framing.part) {
            (_, Part::Doubt) => return (messages, End::Doubt(at)),
            (_, Part::Anything) => return (messages, End::Refused(start)),
            (Part::Head, Part::Head) if !framing.partial.is_empty() => {}
            (Part::Head, _) => messages.push(Message { head: start..at + 1, body: Vec::new(), end: None }),
            (Part::Body(_) | Part::Chunk(_), _) => {
                if let Some(last) = messages.last_mut() {
                    last.body.push(*byte);
                }
            }
            _ => {}
        }
        if framing.part == Part::Head && framing.partial.is_empty() {
            start = at + 1;
            if let Some(last) = messages.last_mut() {
                last.end = Some(start);
            }
        }
    }
    (messages, End::Open)
}

/// Follows a connection in pieces of so many bytes; gives back how many bytes pass, and what is said of it then.
pub fn pieces(bytes: &[u8], size: usize) -> (usize, String) {
    let mut framing = Framing::default();
    let passed = bytes.chunks(size.max(1)).map(|piece| framing.follow(piece)).sum();
    (passed, format!("{:?}", framing.part))
}
