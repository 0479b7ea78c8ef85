//! A connection is in use from the head of a request to the last byte of its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_places::Place;
use hyper::body::{Body, Frame, SizeHint};

/// Keeps a connection in use until it is dropped.
pub(super) struct Using(Arc<Place>);

impl Using {
    pub(super) fn begin(place: &Arc<Place>) -> Self {
        place.busy();
        Self(Arc::clone(place))
    }

    /// The body of the answer, with all that goes when it has been sent.
    pub(super) fn until_sent<B, H>(self, body: B, held: H) -> Sending<B, H> {
        Sending { body, _held: held, _using: self }
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// A body on its way out.
pub(super) struct Sending<B, H> {
    body: B,
    _held: H,
    _using: Using,
}

impl<B: Body + Unpin, H: Unpin> Body for Sending<B, H> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
