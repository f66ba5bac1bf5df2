//! Answers that broke off: begun, and not sent to their end.
//!
//! Only bodies that come piece by piece can: long lists, compressed answers, those of other servers. Who reads a watch or
//! a log leaves when they like; that is no abort.
//! Upstream: apiserver/pkg/server/filters/wrap.go, apiserver/pkg/endpoints/metrics (RecordRequestAbort).

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use client::{Body, BoxError};
use foundation::metrics::{Counter, Family, registry};
use http::header;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::{scope, verb};
use crate::request::RequestInfo;
use crate::response::Response;

static ABORTS: LazyLock<Family<Counter>> = LazyLock::new(|| {
    registry().counter(
        "apiserver_request_aborts_total",
        "Answers that broke off before their end.",
        &["verb", "group", "version", "resource", "subresource", "scope"],
    )
});

/// The answer, counted if it does not reach its end. `known` as in [`super::Metrics::answered`].
pub fn watched(response: Response, info: &RequestInfo, known: bool) -> Response {
    let whole = http_body::Body::size_hint(response.body()).exact().is_some();
    if whole || info.is_long_running() {
        return response;
    }
    // What is known to be complete is not asked for more.
    let length = response.headers().get(header::CONTENT_LENGTH);
    let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut info = info.clone();
    if !known {
        for made_up in [&mut info.group, &mut info.version, &mut info.resource, &mut info.subresource] {
            made_up.clear();
        }
    }
    response.map(|body| Watched { body, left, info, ended: false }.boxed_unsync())
}

struct Watched {
    body: Body,
    /// Bytes that are still to come, where it is known.
    left: Option<u64>,
    info: RequestInfo,
    ended: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.ended || self.left == Some(0) || http_body::Body::is_end_stream(&self.body) {
            return;
        }
        let info = &self.info;
        let (group, version, resource) = (&*info.group, &*info.version, &*info.resource);
        ABORTS.with(&[verb(info, false), group, version, resource, &*info.subresource, scope(info)]).inc();
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            None => self.ended = true,
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(length));
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http::Method;

    use super::*;
    use crate::response;

    #[tokio::test]
    async fn only_what_breaks_off_counts() {
        let info = RequestInfo::parse(&Method::GET, "/apis/aborts.example.com/v1/things", None);
        let counter = ABORTS.with(&["LIST", "aborts.example.com", "v1", "things", "", "cluster"]);
        let pieces = |failing: bool| {
            let end = failing.then(|| Err("lost".into()));
            let pieces = [Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"cd"))];
            response::stream(200, response::JSON, stream::iter(pieces.into_iter().chain(end)))
        };
        let sized = || {
            let mut response = pieces(false);
            response.headers_mut().insert(header::CONTENT_LENGTH, 4.into());
            response
        };
        // How many pieces are taken before the body is let go.
        for (what, response, taken, counts) in [
            ("to its end", pieces(false), 3, 0),
            ("the client goes", pieces(false), 1, 1),
            ("the end was not asked for", pieces(false), 2, 1),
            ("its length was sent", sized(), 2, 0),
            ("a part of its length was sent", sized(), 1, 1),
            ("the other server goes", pieces(true), 3, 1),
            ("known in whole", response::text(200, "ok"), 0, 0),
        ] {
            let before = counter.get();
            let mut body = watched(response, &info, true).into_body();
            for _ in 0..taken {
                let _ = body.frame().await;
            }
            drop(body);
            assert_eq!(counter.get() - before, counts, "{what}");
        }
    }
}
