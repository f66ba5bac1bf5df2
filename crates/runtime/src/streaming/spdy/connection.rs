//! A connection that speaks SPDY: frames as they arrive, and a queue for those that go.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Frame, Reader};

/// Bytes of one read.
const CHUNK: usize = 16 * 1024;
/// Frames that wait to be sent: a client that does not read holds up what writes to it.
const QUEUE: usize = 16;

/// The frames of a client.
pub(in crate::streaming) struct Incoming<R> {
    from: R,
    reader: Reader,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(in crate::streaming) fn new(from: R) -> Self {
        Self { from, reader: Reader::new() }
    }

    /// The next frame; `None` when the client has gone or speaks no SPDY. Nothing is lost when it is not waited for to
    /// the end.
    pub(in crate::streaming) async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.reader.next() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a streaming session ended");
                    return None;
                }
            }
            self.reader.buffer().reserve(CHUNK);
            if !matches!(self.from.read_buf(self.reader.buffer()).await, Ok(1..)) {
                return None;
            }
        }
    }
}

/// Sends frames until every sender is gone and all are sent, or the client is, or the set is dropped.
pub(in crate::streaming) fn outgoing(
    mut to: impl AsyncWrite + Send + Unpin + 'static,
) -> (mpsc::Sender<Bytes>, JoinSet<()>) {
    let (sender, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Some(bytes) = queue.recv().await {
            if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    (sender, task)
}
