//! Something that is kept until a response has been sent, or nobody takes it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body::{Frame, SizeHint};

/// Keeps `kept` until the body of `response` is dropped, finished or not.
pub(super) fn keep<K: Send + Unpin + 'static>(kept: K, response: Response) -> Response {
    response.map(|body| Body::new(Keeping { body, _kept: kept }))
}

struct Keeping<K> {
    body: Body,
    _kept: K,
}

impl<K: Unpin> http_body::Body for Keeping<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
