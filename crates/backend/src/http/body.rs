//! Bodies, in and out.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berth_registry::{Body, Interrupted};
use berth_storage::BlobStream;
use berth_traces::Span;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// How long a client may send nothing in the middle of a body. The whole body may take as long as it likes.
const BODY_IDLE_MAX: Duration = Duration::from_secs(600);

/// How much of a body is read and thrown away so that a client that is refused early reads the answer rather than
/// finding its connection reset, in bytes.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// How long that may take.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// An answer's body. Its length is known, but for one that tells of something while it happens.
pub(crate) enum ResponseBody {
    /// In memory; taken when sent.
    Whole(Option<Bytes>),
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
        match self.get_mut() {
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
            Self::Stream { left, .. } => *left == 0,
            Self::Live(_) => false,
            Self::Traced(traced) => traced.0.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
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
