//! Connections over which nothing is asked.
//!
//! A connection that never brings a request, or has had none for a while, holds a descriptor of a process that may
//! also be the node's: it is closed. One that serves a request (a watch, a stream) is not quiet, however silent.
//! Upstream: net/http's IdleTimeout and ReadHeaderTimeout, set in apiserver/pkg/server/secure_serving.go.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use client::{Body, BoxError};
use foundation::SharedClock;
use http_body::{Frame, SizeHint};

use super::gather;

/// How long a connection may be open before its first request (upstream's ReadHeaderTimeout).
const FIRST: Duration = Duration::from_secs(32);
/// And between two (upstream's IdleTimeout).
const NEXT: Duration = Duration::from_secs(90);

/// The requests of one connection.
pub(super) struct Requests {
    clock: SharedClock,
    open: AtomicUsize,
    served: AtomicUsize,
    /// When the last one ended, or the connection began: milliseconds of the monotonic clock.
    since: AtomicU64,
}

/// One of them, from its head to the end of its answer.
pub(super) struct Open(Arc<Requests>);

impl Requests {
    pub(super) fn new(clock: SharedClock) -> Arc<Self> {
        let since = AtomicU64::new(millis(&clock));
        Arc::new(Self { clock, open: AtomicUsize::new(0), served: AtomicUsize::new(0), since })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.served.fetch_add(1, Ordering::SeqCst);
        Open(self.clone())
    }

    /// Returns when the connection has been quiet for too long.
    pub(super) async fn quiet(&self) {
        loop {
            let allowed = if self.served.load(Ordering::SeqCst) == 0 { FIRST } else { NEXT };
            let busy = self.open.load(Ordering::SeqCst) > 0;
            let since = Duration::from_millis(self.since.load(Ordering::SeqCst));
            let quiet = if busy { Duration::ZERO } else { self.clock.monotonic().saturating_sub(since) };
            if quiet >= allowed {
                return;
            }
            // Whatever comes meanwhile, there is nothing to decide before then.
            self.clock.sleep(allowed - quiet).await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.since.store(millis(&self.0.clock), Ordering::SeqCst);
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn millis(clock: &SharedClock) -> u64 {
    u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// The body of an answer, with which its request ends.
pub(super) struct Answer {
    body: Body,
    /// Other answers go over the connection at the same time.
    shared: bool,
    /// What of the last frame is still to be handed over.
    rest: Bytes,
    #[expect(dead_code, reason = "held, not used")]
    open: Open,
}

impl Answer {
    /// An answer over a connection that other answers share or do not.
    pub(super) fn new(body: Body, open: Open, shared: bool) -> Self {
        Self { body, shared, rest: Bytes::new(), open }
    }

    /// The next piece of what is left of a frame.
    fn piece(&mut self) -> Frame<Bytes> {
        let length = self.rest.len().min(gather::PIECE);
        Frame::data(self.rest.split_to(length))
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let in_pieces =
            |data: &Bytes| self.shared && data.len() > gather::PIECE && data.len() <= gather::PIECES;
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) if in_pieces(&data) => {
                self.rest = data;
                Poll::Ready(Some(Ok(self.piece())))
            }
            Some(Ok(Ok(data))) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Ok(Err(trailers))) => Poll::Ready(Some(Ok(trailers))),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(inner.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;

    use super::*;

    #[tokio::test]
    async fn answers_of_a_shared_connection_come_in_pieces() {
        use http_body::Body as _;
        use http_body_util::BodyExt as _;
        for (length, shared, pieces) in
            [(10, true, 1), (2_500, true, 3), (2_500, false, 1), (5_000, true, 1), (0, true, 0)]
        {
            let requests = Requests::new(Arc::new(ManualClock::default()));
            let data: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
            let mut answer = Answer::new(client::full_body(data.clone()), requests.begin(), shared);
            let (mut seen, mut count) = (Vec::new(), 0);
            while !answer.is_end_stream() {
                assert_eq!(answer.size_hint().exact(), Some((data.len() - seen.len()) as u64));
                let Some(frame) = answer.frame().await else { break };
                seen.extend_from_slice(&frame.unwrap().into_data().unwrap());
                count += 1;
            }
            assert_eq!((seen, count), (data, pieces), "{length}");
        }
    }

    #[tokio::test]
    async fn only_a_connection_without_requests_is_quiet() {
        // Seconds to wait; requests begun and ended before; is the connection closed after it.
        #[derive(Clone, Copy)]
        enum Step {
            Wait(u64),
            Begin,
            End,
        }
        use Step::{Begin, End, Wait};
        let cases: [(&str, &[Step], bool); 6] = [
            ("young", &[Wait(31)], false),
            ("never asked", &[Wait(31), Wait(1)], true),
            ("asked once", &[Begin, End, Wait(60)], false),
            ("asked once, long ago", &[Wait(20), Begin, End, Wait(12), Wait(78)], true),
            ("a watch", &[Begin, Wait(90), Wait(90), Wait(90)], false),
            ("after a watch", &[Begin, Wait(90), Wait(90), End, Wait(80)], false),
        ];
        for (name, steps, closed) in cases {
            let clock = ManualClock::default();
            let requests = Requests::new(Arc::new(clock.clone()));
            let mut quiet = Box::pin(requests.quiet());
            let mut open = Vec::new();
            let mut ended = false;
            for step in steps {
                ended |= futures::poll!(&mut quiet).is_ready();
                match step {
                    Wait(seconds) => clock.advance(Duration::from_secs(*seconds)),
                    Begin => open.push(requests.begin()),
                    End => drop(open.pop()),
                }
            }
            ended |= futures::poll!(&mut quiet).is_ready();
            assert_eq!(ended, closed, "{name}");
        }
    }
}
