//! What the transport takes of others, and how much of it at a time.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use raft::eraftpb::Snapshot;
use tempfile::TempDir;

use super::*;
use crate::member::inbox::{Inbox, Input};

#[path = "../../../tests/it/authority.rs"]
mod authority;

use authority::Authority;

/// A member's transport without a member.
struct End {
    transport: Arc<TlsTransport>,
    inbox: Arc<Inbox>,
    directory: TempDir,
    member: Member,
}

impl End {
    async fn new(authority: &Authority, id: u64) -> Self {
        let (inbox, directory) = (Arc::new(Inbox::default()), TempDir::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inward = Inward { inbox: inbox.clone(), directory: directory.path().to_owned() };
        let identity = Identity { cluster: 7, member: id };
        let transport =
            TlsTransport::start(identity, address.clone(), listener, authority.security(id), inward);
        Self { transport, inbox, directory, member: Member { id, name: format!("m{id}"), address } }
    }

    /// The first of what comes that is looked for.
    fn next<T>(&self, mut wanted: impl FnMut(Input) -> Option<T>) -> T {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        tokio::task::block_in_place(|| {
            loop {
                assert!(std::time::Instant::now() < end, "it does not come");
                let inputs = self.inbox.take(Duration::from_millis(50)).unwrap();
                if let Some(found) = inputs.into_iter().find_map(&mut wanted) {
                    return found;
                }
            }
        })
    }

    fn level_of(&self, member: u64) -> u32 {
        self.next(|input| match input {
            Input::Level(from, level) if from == member => Some(level),
            _ => None,
        })
    }
}

async fn two(authority: &Authority) -> [End; 2] {
    let ends = [End::new(authority, 1).await, End::new(authority, 2).await];
    let members: Vec<_> = ends.iter().map(|end| end.member.clone()).collect();
    ends[0].transport.members(&members, &[]);
    ends
}

/// A checkpoint that is made as it is read, and looks how much of it the other has written meanwhile.
struct Measured {
    left: u64,
    read: u64,
    to: PathBuf,
    most: Arc<AtomicU64>,
}

impl Read for Measured {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.left.min(buffer.len() as u64);
        buffer[..count as usize].fill(self.left as u8);
        (self.left, self.read) = (self.left - count, self.read + count);
        let files = std::fs::read_dir(&self.to)?.flatten();
        let written: u64 = files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        self.most.fetch_max(self.read - written, Ordering::Relaxed);
        Ok(count as usize)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_takes_no_more_memory_the_larger_it_is() {
    const SIZE: u64 = 128 << 20;
    let [sender, receiver] = two(&Authority::default()).await;
    let mut message = Message { from: 1, to: 2, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().index = 9;
    message.set_snapshot(snapshot);
    let most = Arc::new(AtomicU64::new(0));
    let to = receiver.directory.path().to_owned();
    let checkpoint = Measured { left: SIZE, read: 0, to, most: most.clone() };
    sender.transport.send_snapshot(message, Box::new(checkpoint));
    let file = receiver.next(|input| match input {
        Input::Snapshot(message, file) => {
            assert_eq!(message.get_snapshot().get_metadata().index, 9);
            Some(file)
        }
        _ => None,
    });
    assert_eq!(std::fs::metadata(file).unwrap().len(), SIZE);
    let arrived = sender.next(|input| match input {
        Input::SnapshotSent(2, arrived) => Some(arrived),
        _ => None,
    });
    assert!(arrived);
    // All that is anywhere between the two disks, the kernel's buffers included.
    let most = most.load(Ordering::Relaxed);
    assert!(most < SIZE / 4, "{most} bytes were on their way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_said_who_it_is_takes_little() {
    let authority = Authority::default();
    let [caller, called] = two(&authority).await;
    called.level_of(1);
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES + 20 {
        silent.push(TcpStream::connect(&called.member.address).await.unwrap());
    }
    let handshakes = &called.transport.shared.handshakes;
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while handshakes.available_permits() > 0 {
        assert!(std::time::Instant::now() < end, "nobody waits for them");
        tokio::task::yield_now().await;
    }
    // Those who are members come in all the same, as soon as the others are given up.
    let third = Member { id: 3, ..caller.member.clone() };
    let security = authority.security(3);
    let call = connect(&security, MEMBER.to_owned(), &called.member.address, VANISHED);
    let stream = &mut timeout(Duration::from_secs(60), call).await.unwrap().unwrap();
    let mut hello = Writer::default();
    hello.u64(7).u64(3).u64(2).bytes(third.address.as_bytes());
    write_frame(stream, HELLO, &hello.0).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(called.level_of(3), FIRST, "one that says none is of a version before there were any");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_say_what_they_understand_and_the_kernel_looks_after_their_connections() {
    let authority = Authority::default();
    let [_caller, called] = two(&authority).await;
    assert_eq!(called.level_of(1), LATEST);
    let stream = TcpStream::connect(&called.member.address).await.unwrap();
    watch_over(&stream, VANISHED).unwrap();
    let socket = SockRef::from(&stream);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(VANISHED));
    assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
}
