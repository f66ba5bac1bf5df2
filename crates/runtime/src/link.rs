//! The runtime's end of the connection to a pod's supervisor: requests with answers, events as they come.
//!
//! Not here: what the messages mean (`wire`), what is done about them (`engine`).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foundation::Tasks;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::wire::{Event, Message, Reply, Request, Verb};

/// Why a supervisor did not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It answers no more.
    #[error("the pod's supervisor is gone")]
    Gone,
    /// Its socket.
    #[error("talk to the pod's supervisor")]
    Io(#[from] io::Error),
    /// It is there, and says nothing.
    #[error("the pod's supervisor does not answer")]
    Silent,
    /// It said so.
    #[error("{0}")]
    Refused(String),
}

/// What a link reports.
#[derive(Debug)]
pub(crate) enum News {
    /// An event of the sandbox's supervisor.
    Event(Event),
    /// The supervisor is gone.
    Closed,
}

/// How long a supervisor may take to answer; what starts a program may wait for a disk.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_TO_START: Duration = Duration::from_secs(120);

type Answer = (Reply, Vec<OwnedFd>);
/// Who waits for which answer; `None` once the supervisor is gone.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A connection to one supervisor. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Arc<AsyncFd<OwnedFd>>,
    next: AtomicU64,
    waiting: Waiting,
    reader: tokio::task::AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Link {
    /// Connects, and reports what comes unasked, with the sandbox's name, to `news`.
    pub(crate) fn connect(
        path: &Path,
        sandbox: &str,
        news: mpsc::UnboundedSender<(String, News)>,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps the promise it asks for")]
        let socket = Arc::new(AsyncFd::new(fd)?);
        let waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let work = read(socket.clone(), waiting.clone(), sandbox.to_owned(), news);
        let reader = tasks.spawn_until_cancelled("supervisor-link", work);
        Ok(Self { socket, next: AtomicU64::new(1), waiting, reader })
    }

    /// Whether the supervisor is gone, or has let go of us.
    pub(crate) fn is_closed(&self) -> bool {
        self.waiting.lock().is_none()
    }

    /// Asks, and waits for the answer. Descriptors of the answer come with it.
    pub(crate) async fn call(&self, verb: Verb, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let starts = matches!(verb, Verb::Start { .. } | Verb::Exec { .. });
        let patience = if starts { PATIENCE_TO_START } else { PATIENCE };
        self.waiting.lock().as_mut().ok_or(Error::Gone)?.insert(id, sender);
        let message = serde_json::to_vec(&Request { id, verb }).map_err(io::Error::from)?;
        let asked = async {
            let send = |fd: &OwnedFd| sys::process::send(fd.as_fd(), &message, descriptors);
            match self.socket.async_io(Interest::WRITABLE, send).await {
                Ok(_) => receiver.await.map_err(|_| Error::Gone),
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Error::Gone),
                Err(e) => Err(e.into()),
            }
        };
        let answer = tokio::time::timeout(patience, asked).await.unwrap_or(Err(Error::Silent));
        if answer.is_err()
            && let Some(waiting) = self.waiting.lock().as_mut()
        {
            waiting.remove(&id);
        }
        match answer? {
            (Reply::Failed(reason), _) => Err(Error::Refused(reason)),
            answer => Ok(answer),
        }
    }
}

async fn read(
    socket: Arc<AsyncFd<OwnedFd>>,
    waiting: Waiting,
    sandbox: String,
    news: mpsc::UnboundedSender<(String, News)>,
) {
    // Made when there is something to read: an idle pod costs no buffer.
    loop {
        let received = socket
            .async_io(Interest::READABLE, |fd| {
                let mut buffer = vec![0; sys::process::MAX_MESSAGE];
                let (length, descriptors) = sys::process::receive(fd.as_fd(), &mut buffer)?;
                buffer.truncate(length);
                Ok((buffer, descriptors))
            })
            .await;
        let (bytes, descriptors) = match received {
            Ok((bytes, descriptors)) if !bytes.is_empty() => (bytes, descriptors),
            _ => break,
        };
        match serde_json::from_slice(&bytes) {
            Ok(Message::Reply { id, reply }) => {
                let sender = waiting.lock().as_mut().and_then(|w| w.remove(&id));
                if let Some(sender) = sender {
                    // Who asked may have given up.
                    let _ = sender.send((reply, descriptors));
                }
            }
            Ok(Message::Event(event)) => drop(news.send((sandbox.clone(), News::Event(event)))),
            Err(error) => tracing::warn!(%sandbox, %error, "supervisor said something unknown"),
        }
    }
    // Dropping the senders tells everyone who waits.
    *waiting.lock() = None;
    let _ = news.send((sandbox, News::Closed));
}
