//! Bodies, in and out.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berth_places::Share;
use berth_registry::{BlobContent, Body, Interrupted};
use berth_storage::BlobStream;
use berth_traces::Span;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

/// How long a client may send nothing in the middle of a body. The whole body may take as long as it likes.
const BODY_IDLE_MAX: Duration = Duration::from_secs(600);

/// How long a small body may take however few its bytes are, and how many bytes a second it must have brought after that.
/// Forms, JSON and manifests are made before they are sent: who takes longer holds a place for nothing.
const SMALL_BODY_MAX: Duration = Duration::from_secs(15);
const SMALL_BODY_BYTES_PER_S_MIN: u32 = 4 << 10;

/// How much of a body is read and thrown away so that a client that is refused early reads the answer rather than
/// finding its connection reset, in bytes.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// How long that may take.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// An answer's body. Its length is known, but for one that tells of something while it happens.
pub(crate) enum ResponseBody {
    /// In memory; taken when sent.
    Whole(Option<Bytes>),
    /// Something stored, of which nothing has been read yet.
    Content(BlobContent),
    /// Streamed from storage.
    Stream {
        /// What is left to send, in bytes.
        left: u64,
        /// The pieces.
        pieces: BlobStream,
    },
    /// Told while it happens.
    Live(BoxStream<'static, Bytes>),
    /// Any of these, with the span that ends when it has been sent.
    Traced(Box<(Self, Span)>),
}

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let body = self.get_mut();
        match body {
            Self::Content(content) => {
                *body = Self::Stream { left: content.size, pieces: content.read(0..content.size) };
                Pin::new(body).poll_frame(context)
            }
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { left: 0, .. } => Poll::Ready(None),
            Self::Stream { left, pieces } => pieces.as_mut().poll_next(context).map(|piece| match piece {
                Some(Ok(bytes)) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    Some(Ok(Frame::data(bytes)))
                }
                // The status is long gone: all that can be done is to cut the connection, so that the client notices.
                Some(Err(error)) => {
                    tracing::error!(%error, "a blob could not be read to its end");
                    Some(Err(io::Error::other(error)))
                }
                None => Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof))),
            }),
            Self::Live(pieces) => pieces.as_mut().poll_next(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Traced(traced) => {
                let (body, span) = &mut **traced;
                let frame = Pin::new(body).poll_frame(context);
                if matches!(frame, Poll::Ready(Some(Err(_)))) {
                    span.failed("body");
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Content(content) => content.size == 0,
            Self::Stream { left, .. } => *left == 0,
            Self::Live(_) => false,
            Self::Traced(traced) => traced.0.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Content(content) => SizeHint::with_exact(content.size),
            Self::Stream { left, .. } => SizeHint::with_exact(*left),
            Self::Live(_) => SizeHint::default(),
            Self::Traced(traced) => traced.0.size_hint(),
        }
    }
}

/// A request's body as the registry takes it in.
pub(crate) fn incoming(body: Incoming) -> Body {
    let pieces = body.into_data_stream();
    stream::unfold(Some(pieces), |pieces| async {
        let mut pieces = pieces?;
        match tokio::time::timeout(BODY_IDLE_MAX, pieces.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(pieces))),
            Ok(Some(Err(_))) | Err(_) => Some((Err(Interrupted), None)),
            Ok(None) => None,
        }
    })
    .boxed()
}

/// A small body, which has to come soon. Whoever sends it holds `share` until it has come.
pub(crate) fn hasten(body: Body, share: Option<Share>) -> Body {
    hasten_within(SMALL_BODY_MAX, body, share)
}

fn hasten_within(limit: Duration, body: Body, share: Option<Share>) -> Body {
    let late = Instant::now() + limit;
    stream::unfold(Some((body, late, share)), |reading| async {
        let (mut body, late, share) = reading?;
        match tokio::time::timeout_at(late, body.next()).await {
            Ok(Some(Ok(bytes))) => {
                let more =
                    Duration::from_secs(1).saturating_mul(u32::try_from(bytes.len()).unwrap_or(u32::MAX)) / SMALL_BODY_BYTES_PER_S_MIN;
                Some((Ok(bytes), Some((body, late + more, share))))
            }
            Ok(Some(Err(_))) | Err(_) => Some((Err(Interrupted), None)),
            Ok(None) => None,
        }
    })
    .boxed()
}

/// Why a body could not be read into memory.
pub(crate) enum Unreadable {
    /// It has more bytes than allowed.
    TooLarge,
    /// The client stopped sending.
    Interrupted,
}

/// Reads a body that is meant to be small.
pub(crate) async fn read_limited(mut body: Body, bytes_max: usize) -> Result<Bytes, Unreadable> {
    let mut read = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|_| Unreadable::Interrupted)?;
        if read.len() + piece.len() > bytes_max {
            drain(body).await;
            return Err(Unreadable::TooLarge);
        }
        read.extend_from_slice(&piece);
    }
    Ok(read.freeze())
}

/// What a handler has left of a body.
pub(crate) struct Rest(Arc<Mutex<Option<Body>>>);

/// A body that comes back when whoever reads it stops before its end.
struct Lent {
    body: Option<Body>,
    rest: Arc<Mutex<Option<Body>>>,
}

/// Lends a body to a handler, which reads of it what it likes.
pub(crate) fn lend(body: Body) -> (Body, Rest) {
    let rest = Arc::default();
    (Lent { body: Some(body), rest: Arc::clone(&rest) }.boxed(), Rest(rest))
}

impl Rest {
    /// Reads on for a while what the handler has left, if it has stopped reading.
    pub(crate) async fn drain(self) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(body) = left {
            drain(body).await;
        }
    }
}

impl Stream for Lent {
    type Item = Result<Bytes, Interrupted>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let piece = ready!(body.as_mut().poll_next(context));
        // Nothing comes after an interruption either.
        if !matches!(piece, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(piece)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}

/// Reads on for a while without keeping anything.
pub(crate) async fn drain(mut body: Body) {
    let mut drained = 0;
    let _ = tokio::time::timeout(DRAIN_MAX, async {
        while let Some(Ok(piece)) = body.next().await {
            drained += piece.len();
            if drained > DRAIN_BYTES_MAX {
                break;
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_small_body_has_to_come_soon_and_the_longer_it_is_the_longer_it_may_take() {
        const LIMIT: Duration = Duration::from_millis(400);
        let bodies = berth_places::Shares::new(1);
        let client = std::net::IpAddr::from([192, 0, 2, 1]).into();
        // Pieces of so many bytes, 50 ms apart: how many are read before it is given up.
        for (bytes, pieces, read) in [(1, 100, 1..=8), (0, 100, 0..=8), (4096, 30, 30..=30), (1, 3, 3..=3)] {
            let share = bodies.take(client).unwrap();
            let slow = stream::iter(0..pieces).then(move |_| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(Bytes::from(vec![0; bytes]))
            });
            let mut body = hasten_within(LIMIT, slow.boxed(), Some(share));
            let mut seen = 0;
            let mut is_whole = true;
            while let Some(piece) = body.next().await {
                is_whole = piece.is_ok();
                seen += usize::from(is_whole);
            }
            assert!(read.contains(&seen), "{seen} of {bytes} bytes");
            assert_eq!(is_whole, seen == pieces, "{bytes} bytes");
            drop(body);
            drop(bodies.take(client).expect("the share is given back"));
        }
    }

    #[tokio::test]
    async fn what_a_handler_leaves_of_a_body_is_read_and_what_it_has_read_is_not_read_again() {
        for taken in 0..=3 {
            let read = Arc::new(Mutex::new(0));
            let count = Arc::clone(&read);
            let pieces = stream::iter(0..2).map(move |_| {
                *count.lock().unwrap() += 1;
                Ok(Bytes::from_static(b"x"))
            });
            let (mut lent, rest) = lend(pieces.boxed());
            for _ in 0..taken {
                lent.next().await;
            }
            drop(lent);
            assert_eq!(*read.lock().unwrap(), taken.min(2));
            rest.drain().await;
            assert_eq!(*read.lock().unwrap(), 2);
        }
        // Whoever still reads is not disturbed.
        let (mut lent, rest) = lend(stream::iter([Ok(Bytes::from_static(b"x"))]).boxed());
        rest.drain().await;
        assert_eq!(lent.next().await.unwrap().unwrap(), "x");
    }
}
