//! A stream that says when it was last used, and the end of one that is not.
//!
//! Upstream: `streamingConnectionIdleTimeout` of the kubelet's configuration.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use foundation::SharedClock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a stream may be silent; upstream's default.
pub(super) const TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// When a stream was last used.
#[derive(Clone)]
pub(super) struct Use {
    clock: SharedClock,
    /// Milliseconds of the clock's monotonic time.
    last: Arc<AtomicU64>,
}

impl Use {
    pub(super) fn new(clock: SharedClock) -> Self {
        let used = Self { clock, last: Arc::default() };
        used.now();
        used
    }

    fn now(&self) {
        self.last.store(self.clock.monotonic().as_millis() as u64, Ordering::Relaxed);
    }

    /// Waits until the stream has not been used for the timeout.
    pub(super) async fn ended(&self) {
        loop {
            let until = Duration::from_millis(self.last.load(Ordering::Relaxed)) + TIMEOUT;
            let left = until.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return;
            }
            self.clock.sleep(left).await;
        }
    }

    /// The stream, watched.
    pub(super) fn of<T>(&self, inner: T) -> Watched<T> {
        Watched { inner, used: self.clone() }
    }
}

/// See [`Use::of`].
pub(super) struct Watched<T> {
    inner: T,
    used: Use,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.used.now();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(1..)) = polled {
            self.used.now();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use foundation::{Clock, ManualClock};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_when_it_is_not_used() {
        let clock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
        let used = Use::new(clock.clone());
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = used.of(near);
        let mut ended = Box::pin(used.ended());
        let begun = clock.monotonic();
        assert!(futures::poll!(&mut ended).is_pending());
        // It is used from both sides, each time a moment before the end.
        for writes in [true, false] {
            clock.advance(TIMEOUT - Duration::from_secs(1));
            if writes {
                near.write_all(b"x").await.unwrap();
            } else {
                far.write_all(b"y").await.unwrap();
                near.read_u8().await.unwrap();
            }
            assert!(futures::poll!(&mut ended).is_pending());
        }
        clock.advance(TIMEOUT);
        ended.await;
        assert!(clock.monotonic() - begun > TIMEOUT * 2);
    }
}
