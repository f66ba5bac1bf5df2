//! What a client has sent and nobody has taken yet: how much of it is held, and how long.
//!
//! A client that is not read cannot be seen to go: its end is behind what it has sent. So whoever waits for somebody to take
//! a client's bytes asks the client, over and over, whether it is there ([`unless_gone`]); what is written to one that has
//! gone fails. The bytes of a whole port-forward session have one bound ([`Backlog`]), however many connections it has.
//! Not here: what the question is (a ping of the protocol).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The most that one message of a port-forward session may carry, over either protocol. Clients of Kubernetes send 32 KiB.
pub(super) const MOST_MESSAGE: usize = 1 << 20;
/// The most that a session holds of what its ports have not taken.
const MOST_HELD: usize = 4 << 20;
/// Messages that wait for one connection.
const QUEUE: usize = 16;
/// How long to wait before the client is asked whether it is there. A client that went is known by the second question: the
/// first is what its end answers to.
const ASK_AGAIN: Duration = if cfg!(test) { Duration::from_millis(5) } else { Duration::from_secs(15) };

/// Bytes on their way to a port, with their part of the session's bound.
#[derive(Debug)]
pub(super) struct Portion {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The bound of a session.
#[derive(Clone)]
pub(super) struct Backlog(Arc<Semaphore>);

/// What waits for one connection.
#[derive(Clone, Debug)]
pub(super) struct Input(mpsc::Sender<Portion>);

impl Backlog {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST_HELD)))
    }

    /// The two ends of what waits for a connection.
    pub(super) fn connection() -> (Input, mpsc::Receiver<Portion>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Input(sender), receiver)
    }

    /// Leaves bytes for a connection, when there is room for them. A connection that takes no more says so by its end: what
    /// is for it is dropped.
    pub(super) async fn leave(&self, input: Input, bytes: Bytes) {
        // More than the whole bound fits by itself: no message is larger than that.
        let length = u32::try_from(bytes.len().min(MOST_HELD)).unwrap_or(u32::MAX);
        let place = async {
            let room = self.0.clone().acquire_many_owned(length).await.ok()?;
            let place = input.0.reserve().await.ok()?;
            Some((place, room))
        };
        tokio::select! {
            Some((place, room)) = place => place.send(Portion { bytes, _room: room }),
            () = input.0.closed() => {}
        }
    }
}

/// Whether a client can be asked.
pub(super) enum Asked {
    /// It was, or it is not reading either: nothing is known.
    Perhaps,
    /// What was written to it has failed.
    Gone,
}

/// Puts a question into what is written to a client. A full queue means that the client does not read: it waits as well.
pub(super) fn ask<T>(sender: &mpsc::Sender<T>, question: T) -> Asked {
    match sender.try_send(question) {
        Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Asked::Perhaps,
        Err(mpsc::error::TrySendError::Closed(_)) => Asked::Gone,
    }
}

/// Waits for `work`, and meanwhile asks the client from time to time. `None` when it has gone.
pub(super) async fn unless_gone<T>(
    work: impl Future<Output = T>,
    mut ask: impl FnMut() -> Asked,
) -> Option<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = tokio::time::sleep(ASK_AGAIN) => {
                if let Asked::Gone = ask() {
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_gone_is_noticed_while_nobody_takes_what_it_sent() {
        let (sender, mut written) = mpsc::channel(1);
        // It reads one question, and is gone.
        let client = async move {
            let _ = written.recv().await;
        };
        let stuck = unless_gone(std::future::pending::<()>(), || ask(&sender, "there?"));
        assert_eq!(tokio::join!(stuck, client).0, None);
        let (sender, _unread) = mpsc::channel(1);
        let slow = tokio::time::sleep(ASK_AGAIN * 5);
        assert_eq!(unless_gone(slow, || ask(&sender, "there?")).await, Some(()), "it only does not read");
    }

    #[tokio::test]
    async fn a_session_holds_so_much_and_no_more() {
        let backlog = Backlog::new();
        let message = Bytes::from(vec![0; MOST_MESSAGE]);
        let (mut held, mut connections) = (0, Vec::new());
        // As many connections as one likes, none of which reads.
        for _ in 0..64 {
            let (input, receiver) = Backlog::connection();
            let left = std::pin::pin!(backlog.leave(input.clone(), message.clone()));
            held += usize::from(futures::poll!(left).is_ready());
            connections.push((input, receiver));
        }
        assert_eq!(held, MOST_HELD / MOST_MESSAGE);
        // One is taken, and there is room for one more; what ends takes its part along.
        drop(connections[0].1.recv().await);
        backlog.leave(connections[1].0.clone(), message.clone()).await;
        let (input, _) = connections.swap_remove(1);
        backlog.leave(input.clone(), message.clone()).await;
        assert!(input.0.is_closed());
    }
}
