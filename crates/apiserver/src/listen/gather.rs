//! Many answers over one connection in few system calls.
//!
//! A connection has one task that writes, and one for each of its streams that has something to say. A change that a
//! thousand watches see makes a thousand of them ready at once; if the writer ran after each, every event would be a TLS
//! record, a system call and a packet of its own. Hence: the writer lets the others that are ready go first
//! ([`last`]), and what it writes then is put together ([`Gathering`]). Bodies help by coming in pieces that the HTTP/2
//! library puts together too ([`PIECE`]).
//! Not here: what is written.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Data frames shorter than this are copied into one buffer by the HTTP/2 library, where the connection takes no vectors
/// (h2's `CHAIN_THRESHOLD_WITHOUT_VECTORED_IO`). Longer ones are written one by one.
pub(super) const PIECE: usize = 1023;
/// Up to so many bytes are cut into such pieces. Above, the pieces cost more than the system call.
pub(super) const PIECES: usize = 4 * 1024;

/// What is put together at most: one TLS record. Larger writes are passed on as they are.
const RECORD: usize = 16 * 1024;

/// Polls `future` at each of its wake-ups only when the tasks that are ready now have been polled.
pub(super) async fn last<F: Future>(mut future: Pin<&mut F>) -> F::Output {
    let mut waited = false;
    std::future::poll_fn(move |context| {
        if !std::mem::replace(&mut waited, true) {
            // To the end of the queue.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        waited = false;
        future.as_mut().poll(context)
    })
    .await
}

/// A connection on which small writes wait for the next flush. Only where all that writes is the HTTP/2 library, which
/// flushes: over HTTP/1.1 the connection may become another protocol's.
pub(super) struct Gathering<T> {
    inner: T,
    gathers: bool,
    /// What waits, from `written` on. No memory is held while nothing does.
    waiting: Vec<u8>,
    written: usize,
}

impl<T> Gathering<T> {
    /// A connection over which HTTP/2 is spoken or not.
    pub(super) fn new(inner: T, gathers: bool) -> Self {
        Self { inner, gathers, waiting: Vec::new(), written: 0 }
    }
}

impl<T: Write + Unpin> Gathering<T> {
    /// Writes what waits.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.waiting = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for Gathering<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.gathers {
            return Pin::new(&mut self.inner).poll_write(context, data);
        }
        if self.waiting.len() + data.len() > RECORD {
            ready!(self.poll_waiting(context))?;
            if data.len() >= RECORD {
                return Pin::new(&mut self.inner).poll_write(context, data);
            }
        }
        if self.waiting.capacity() == 0 {
            // Most answers are small; a burst grows it.
            self.waiting.reserve(data.len().max(RECORD / 4));
        }
        self.waiting.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn is_write_vectored(&self) -> bool {
        // Where it is, the HTTP/2 library writes each frame by itself.
        !self.gathers && self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.gathers {
            return Pin::new(&mut self.inner).poll_write_vectored(context, data);
        }
        let first = data.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| &**slice);
        self.poll_write(context, first)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<T: Read + Unpin> Read for Gathering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Takes at most so many bytes at once, and notes what it was given.
    #[derive(Default)]
    struct Sink {
        writes: Vec<Vec<u8>>,
        most: usize,
        flushes: usize,
    }

    impl Write for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            let taken = data.len().min(self.most);
            self.writes.push(data[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }
        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn write(to: &mut Gathering<Sink>, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            let taken = std::future::poll_fn(|context| Pin::new(&mut *to).poll_write(context, rest)).await;
            rest = &rest[taken.unwrap()..];
        }
    }

    #[tokio::test]
    async fn small_writes_go_together_and_in_order() {
        let mut gathering = Gathering::new(Sink { most: usize::MAX, ..Sink::default() }, true);
        write(&mut gathering, b"one ").await;
        write(&mut gathering, b"two").await;
        assert!(gathering.inner.writes.is_empty());
        std::future::poll_fn(|context| Pin::new(&mut gathering).poll_flush(context)).await.unwrap();
        assert_eq!(gathering.inner.writes, [b"one two".to_vec()]);
        assert_eq!((gathering.inner.flushes, gathering.waiting.capacity()), (1, 0));
        // One that fills a record of its own follows what was there before it, and is not copied.
        write(&mut gathering, b"head").await;
        write(&mut gathering, &vec![b'x'; RECORD]).await;
        assert_eq!(gathering.inner.writes[1..], [b"head".to_vec(), vec![b'x'; RECORD]]);
        // A connection that may be another protocol's writes what it is given.
        let mut plain = Gathering::new(Sink { most: usize::MAX, ..Sink::default() }, false);
        write(&mut plain, b"at once").await;
        assert_eq!(plain.inner.writes, [b"at once".to_vec()]);
    }

    #[tokio::test]
    async fn a_slow_connection_gets_every_byte_once() {
        let mut gathering = Gathering::new(Sink { most: 7, ..Sink::default() }, true);
        let data: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        for part in data.chunks(1_000) {
            write(&mut gathering, part).await;
        }
        std::future::poll_fn(|context| Pin::new(&mut gathering).poll_flush(context)).await.unwrap();
        assert_eq!(gathering.inner.writes.concat(), data);
    }

    #[tokio::test]
    async fn what_is_ready_goes_first() {
        let order = Arc::new(AtomicUsize::new(0));
        let of = |order: &Arc<AtomicUsize>| {
            let order = order.clone();
            async move { order.fetch_add(1, Ordering::SeqCst) }
        };
        let waiting = of(&order);
        let writer = tokio::spawn(async move {
            tokio::pin!(waiting);
            last(waiting).await
        });
        let others = [of(&order), of(&order)].map(tokio::spawn);
        for other in others {
            assert!(other.await.unwrap() < 2);
        }
        assert_eq!(writer.await.unwrap(), 2);
    }
}
