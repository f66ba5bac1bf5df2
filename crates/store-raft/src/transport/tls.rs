//! Members over the network: TCP with mutual TLS, and frames with their length.
//!
//! A member dials every other one and sends over that connection only; what the other has to say comes over the one that
//! it dials. The first frame says who is there, so that a member whose address has changed is found by its own dialling.
//! A checkpoint goes over a connection of its own and holds up nothing; it is written to a file as it comes. Queues are
//! bounded: what does not fit is lost, which Raft expects.
//!
//! Who is let in is the TLS configuration's to say: it must take certificates of members and of nobody else. Who somebody
//! *is*, his certificate says: it has a name of that member alone ([`names`]), which is looked for on both sides, so that
//! no member can speak for another.
//!
//! A frame (`frames`): its length u32, its kind u8, its content. Not here: what the messages mean.

mod frames;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use frames::{STALLED, in_time, read_frame, receive, write_frame};
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Inward, Transport};
use crate::Member;
use crate::identity::Identity;
use crate::level::{FIRST, LATEST};
use crate::member::received_path;
use crate::wire::{Reader, Writer};

/// The protocol's name in the TLS handshake.
pub const PROTOCOL: &[u8] = b"ironclad-raft/1";

const HELLO: u8 = 1;
const MESSAGE: u8 = 2;
const SNAPSHOT: u8 = 3;
const CHUNK: u8 = 4;
const END: u8 = 5;
const JOIN: u8 = 6;
const JOINED: u8 = 7;
const REFUSED: u8 = 8;
/// What the one that was dialled may say, in one byte: that it has the checkpoint, and that the other was removed.
const RECEIVED: u8 = 1;
const REMOVED: u8 = 9;

/// A piece of a checkpoint.
const PIECE: usize = 256 << 10;
/// Messages and bytes that wait for one member.
const WAITING: usize = 4096;
const WAITING_BYTES: usize = 64 << 20;
/// How long a connection may take to stand, and a checkpoint's next piece to go or come.
const DIAL: Duration = Duration::from_secs(3);
/// How long what was sent may stay without the other's kernel having it: a machine that has vanished without a word is
/// not waited for as TCP would, ever longer, but called anew.
const VANISHED: Duration = Duration::from_secs(5);
/// A connection on which nothing is said is asked whether there is still somebody after this long, and given up when
/// nobody has answered for as long as [`VANISHED`].
const QUIET: Duration = Duration::from_secs(15);
/// Connections at a time that have not shown a member's certificate yet.
const HANDSHAKES: usize = 256;
/// How long the members may take to agree on a new one.
const JOINING: Duration = Duration::from_secs(30);
/// The pause before dialling again; doubled up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How members prove themselves to each other.
#[derive(Clone)]
pub struct Security {
    /// As the one that dials. Must show this member's certificate.
    pub client: Arc<rustls::ClientConfig>,
    /// As the one that is dialled. Must ask for a member's certificate.
    pub server: Arc<rustls::ServerConfig>,
}

/// The name that all members' certificates have: who asks to join does not know yet whom it talks to.
pub const MEMBER: &str = "member.ironclad.internal";

/// The DNS names that a member's certificate must have: that of all members, and its own, which stays though its address
/// changes.
pub fn names(member: u64) -> [String; 2] {
    [MEMBER.to_owned(), format!("{member:016x}.{MEMBER}")]
}

/// Whether a certificate, which must have been found good already, is that of a member.
pub fn vouches_for(certificate: &CertificateDer<'_>, member: u64) -> bool {
    let [_, own] = names(member);
    let (Ok(parsed), Ok(name)) =
        (rustls::server::ParsedCertificate::try_from(certificate), ServerName::try_from(own))
    else {
        return false;
    };
    rustls::client::verify_server_name(&parsed, &name).is_ok()
}

/// The transport.
pub struct TlsTransport {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    address: String,
    security: Security,
    inward: Inward,
    runtime: tokio::runtime::Handle,
    peers: Mutex<HashMap<u64, Peer>>,
    /// Where members say that they are.
    told: Mutex<HashMap<u64, String>>,
    gone: Mutex<HashSet<u64>>,
    listening: Mutex<Option<AbortHandle>>,
    /// For connections of whom nobody knows yet who they are.
    handshakes: Arc<Semaphore>,
    /// For names of files.
    unique: AtomicU64,
}

struct Peer {
    place: Arc<Mutex<Place>>,
    queue: mpsc::Sender<Message>,
    bytes: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// Where a member is.
#[derive(Clone)]
struct Place {
    /// As the cluster knows it.
    recorded: String,
    /// Where it was last reached.
    reached: Option<String>,
}

impl TlsTransport {
    /// Listens, and reaches members as they become known. `address` is where the others reach this one.
    pub fn start(
        identity: Identity,
        address: String,
        listener: TcpListener,
        security: Security,
        inward: Inward,
    ) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        let shared = Arc::new(Shared {
            identity,
            address,
            security,
            inward,
            runtime,
            peers: Mutex::default(),
            told: Mutex::default(),
            gone: Mutex::default(),
            listening: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            unique: AtomicU64::new(0),
        });
        let task = shared.runtime.spawn(listen(shared.clone(), listener));
        *shared.listening.lock() = Some(task.abort_handle());
        Arc::new(Self { shared })
    }
}

impl Transport for TlsTransport {
    fn send(&self, message: Message) {
        let to = message.to;
        let lost = {
            let peers = self.shared.peers.lock();
            let Some(peer) = peers.get(&to) else { return };
            let size = size(&message);
            // Counted before it is sent: whoever takes it out counts it off at once.
            let waiting = peer.bytes.fetch_add(size, Ordering::Relaxed);
            let sent = waiting + size <= WAITING_BYTES && peer.queue.try_send(message).is_ok();
            if !sent {
                peer.bytes.fetch_sub(size, Ordering::Relaxed);
            }
            !sent
        };
        if lost {
            self.shared.inward.unreachable(to);
        }
    }

    fn send_snapshot(&self, message: Message, checkpoint: Box<dyn Read + Send>) {
        let shared = self.shared.clone();
        let place = shared.peers.lock().get(&message.to).map(|peer| peer.place.lock().clone());
        let address = place.map(|place| place.reached.unwrap_or(place.recorded));
        self.shared.runtime.spawn(async move {
            let to = message.to;
            let sent = match address {
                Some(address) => shared.snapshot(&address, &message, checkpoint).await,
                None => Err(std::io::ErrorKind::NotConnected.into()),
            };
            if let Err(error) = &sent {
                tracing::debug!(%error, member = %format_args!("{to:016x}"), "a checkpoint did not get through");
            }
            shared.inward.snapshot_sent(to, sent.is_ok());
        });
    }

    fn members(&self, members: &[Member], gone: &[u64]) {
        *self.shared.gone.lock() = gone.iter().copied().collect();
        // A member that has just joined knows only who has called it.
        if members.is_empty() {
            return;
        }
        let mut peers = self.shared.peers.lock();
        peers.retain(|id, peer| {
            let stays = members.iter().any(|member| member.id == *id);
            if !stays {
                peer.task.abort();
            }
            stays
        });
        for member in members.iter().filter(|member| member.id != self.shared.identity.member) {
            if let Some(peer) = peers.get(&member.id) {
                peer.place.lock().recorded.clone_from(&member.address);
                continue;
            }
            let peer = self.shared.peer(member.id, member.address.clone());
            peers.insert(member.id, peer);
        }
    }

    fn close(&self) {
        if let Some(listening) = self.shared.listening.lock().take() {
            listening.abort();
        }
        for (_, peer) in self.shared.peers.lock().drain() {
            peer.task.abort();
        }
    }
}

/// About what a message takes.
fn size(message: &Message) -> usize {
    64 + message.entries.iter().map(|entry| 48 + entry.data.len()).sum::<usize>()
}

impl Shared {
    /// Begins to talk to a member.
    fn peer(self: &Arc<Self>, id: u64, recorded: String) -> Peer {
        let place = Arc::new(Mutex::new(Place { recorded, reached: None }));
        let (queue, messages) = mpsc::channel(WAITING);
        let bytes = Arc::new(AtomicUsize::new(0));
        let talk = talk(self.clone(), id, place.clone(), messages, bytes.clone());
        let task = self.runtime.spawn(talk).abort_handle();
        Peer { place, queue, bytes, task }
    }

    /// Where to call a member: by turns where it says that it is, and where it is recorded, because either may be old.
    fn address(&self, member: u64, place: &Mutex<Place>, attempt: u32) -> String {
        let told = self.told.lock().get(&member).cloned();
        told.filter(|_| attempt.is_multiple_of(2)).unwrap_or_else(|| place.lock().recorded.clone())
    }

    /// Has the others told where a member is that whoever leads may not be able to call.
    fn pass_on(&self, member: u64, address: &str) {
        let peers = self.peers.lock();
        if peers.get(&member).is_some_and(|peer| peer.place.lock().recorded != address) {
            self.inward.moved(member, address.to_owned());
        }
    }

    fn hello(&self, to: u64) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.identity.cluster).u64(self.identity.member).u64(to).bytes(self.address.as_bytes());
        out.u32(LATEST);
        out.0
    }

    async fn dial(&self, to: u64, address: &str, unheard: Duration) -> std::io::Result<Connection> {
        let call = async {
            let [_, own] = names(to);
            let mut stream = connect(&self.security, own, address, unheard).await?;
            write_frame(&mut stream, HELLO, &self.hello(to)).await?;
            stream.flush().await?;
            Ok(stream)
        };
        timeout(DIAL, call).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
    }

    /// Sends a checkpoint and waits until the other has it.
    async fn snapshot(
        &self,
        address: &str,
        message: &Message,
        checkpoint: Box<dyn Read + Send>,
    ) -> std::io::Result<()> {
        let mut stream = self.dial(message.to, address, STALLED).await?;
        let bytes = message.write_to_bytes().map_err(std::io::Error::other)?;
        write_frame(&mut stream, SNAPSHOT, &bytes).await?;
        let mut file = Some(checkpoint);
        loop {
            let mut reading = file.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = Vec::with_capacity(PIECE);
                reading.by_ref().take(PIECE as u64).read_to_end(&mut piece).map(|_| (piece, reading))
            });
            let (piece, rest) = read.await.map_err(std::io::Error::other)??;
            file = Some(rest);
            if piece.is_empty() {
                break;
            }
            in_time(write_frame(&mut stream, CHUNK, &piece)).await?;
        }
        write_frame(&mut stream, END, &[]).await?;
        in_time(stream.flush()).await?;
        match in_time(stream.get_mut().read_u8()).await? {
            RECEIVED => Ok(()),
            _ => Err(std::io::ErrorKind::PermissionDenied.into()),
        }
    }
}

/// A connection that this member has made.
type Connection = BufWriter<tokio_rustls::client::TlsStream<TcpStream>>;

/// Has the kernel end a connection whose other end has vanished. `unheard`: how long what was sent may stay unconfirmed.
fn watch_over(stream: &TcpStream, unheard: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let asking = TcpKeepalive::new().with_time(QUIET).with_interval(VANISHED / 5).with_retries(5);
    socket.set_tcp_keepalive(&asking)?;
    socket.set_tcp_user_timeout(Some(unheard))
}

async fn connect(
    security: &Security,
    name: String,
    address: &str,
    unheard: Duration,
) -> std::io::Result<Connection> {
    let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    watch_over(&stream, unheard)?;
    let connector = TlsConnector::from(security.client.clone());
    let stream = connector.connect(name, stream).await?;
    Ok(BufWriter::with_capacity(64 << 10, stream))
}

/// Asks the member at an address to have its cluster take on a new one, with an id that nobody has and that the
/// certificate is for. Gives the identity to make its directory with ([`crate::RaftStore::join`]).
pub async fn ask_to_join(security: &Security, address: &str, member: &Member) -> std::io::Result<Identity> {
    let ask = async {
        let mut stream = connect(security, MEMBER.to_owned(), address, VANISHED).await?;
        let mut out = Writer::default();
        member.encode(&mut out);
        out.u32(LATEST);
        write_frame(&mut stream, JOIN, &out.0).await?;
        stream.flush().await?;
        read_frame(stream.get_mut()).await
    };
    let timed_out = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let (kind, answer) = timeout(JOINING, ask).await.map_err(timed_out)??;
    match (kind, Reader::new(answer.clone()).u64()) {
        (JOINED, Some(cluster)) => Ok(Identity { cluster, member: member.id }),
        (REFUSED, _) => Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// Has the cluster take on a member, and tells it what came of it.
async fn take_on(
    shared: &Shared,
    stream: &mut (impl AsyncWrite + Unpin),
    certificate: &CertificateDer<'_>,
    asked: Bytes,
) -> std::io::Result<()> {
    let mut asked = Reader::new(asked);
    let member = Member::decode(&mut asked).filter(|member| member.id != 0 && !member.address.is_empty());
    let member = member.ok_or(std::io::ErrorKind::InvalidData)?;
    let level = asked.u32().unwrap_or(FIRST);
    if !vouches_for(certificate, member.id) {
        tracing::warn!(
            name = member.name,
            "somebody asks to join as a member that its certificate is not for"
        );
        write_frame(stream, REFUSED, b"the certificate is not that of the member it asks for").await?;
        return stream.flush().await;
    }
    tracing::info!(name = member.name, address = member.address, "a member asks to join");
    let (kind, answer) = match shared.inward.join(member, level).await {
        Ok(()) => (JOINED, shared.identity.cluster.to_le_bytes().to_vec()),
        Err(error) => (REFUSED, error.to_string().into_bytes()),
    };
    write_frame(stream, kind, &answer).await?;
    stream.flush().await
}

/// Sends one member what is for it, for as long as it is one.
async fn talk(
    shared: Arc<Shared>,
    to: u64,
    place: Arc<Mutex<Place>>,
    mut messages: mpsc::Receiver<Message>,
    bytes: Arc<AtomicUsize>,
) {
    let (mut pause, mut attempt) = (PAUSE.0, 0);
    loop {
        let address = shared.address(to, &place, attempt);
        // Also with nothing to say: that this member is somewhere else now, the others learn by its call.
        let ended = match shared.dial(to, &address, VANISHED).await {
            Ok(stream) => {
                (pause, attempt) = (PAUSE.0, 0);
                place.lock().reached = Some(address.clone());
                pump(&shared, stream, &mut messages, &bytes).await
            }
            Err(error) => {
                attempt += 1;
                Err(error)
            }
        };
        let Err(error) = ended else { return };
        tracing::debug!(%error, member = %format_args!("{to:016x}"), address, "no connection");
        shared.inward.unreachable(to);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
        // What has waited through that is out of date.
        while let Ok(old) = messages.try_recv() {
            bytes.fetch_sub(size(&old), Ordering::Relaxed);
        }
    }
}

/// Sends until the connection breaks.
async fn pump(
    shared: &Shared,
    mut stream: Connection,
    messages: &mut mpsc::Receiver<Message>,
    bytes: &AtomicUsize,
) -> std::io::Result<()> {
    let mut next: Option<Message> = None;
    let mut end = [0; 1];
    loop {
        while let Some(message) = next.take() {
            let content = message.write_to_bytes().map_err(std::io::Error::other)?;
            in_time(write_frame(&mut stream, MESSAGE, &content)).await?;
            next = messages.try_recv().ok().inspect(|next| {
                bytes.fetch_sub(size(next), Ordering::Relaxed);
            });
        }
        in_time(stream.flush()).await?;
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    bytes.fetch_sub(size(&message), Ordering::Relaxed);
                    next = Some(message);
                }
                None => return Ok(()),
            },
            // It says one thing here only; and otherwise, it has gone.
            read = stream.get_mut().read(&mut end) => {
                if read? == 1 && end[0] == REMOVED {
                    shared.inward.removed();
                }
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
        }
    }
}

async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // Those who wait for it are in the kernel's queue, and take no descriptor.
        let Ok(handshake) = shared.handshakes.clone().acquire_owned().await else { return };
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(_) = connections.join_next() => {}
            }
        };
        match accepted {
            Ok((stream, remote)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    if let Err(error) = hear(shared, stream, handshake).await {
                        tracing::debug!(%error, %remote, "a member's connection has ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE.0).await;
            }
        }
    }
}

/// Takes what a member sends.
async fn hear(
    shared: Arc<Shared>,
    stream: TcpStream,
    handshake: OwnedSemaphorePermit,
) -> std::io::Result<()> {
    watch_over(&stream, STALLED)?;
    let accept = TlsAcceptor::from(shared.security.server.clone()).accept(stream);
    let stream = timeout(DIAL, accept).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().cloned().ok_or(std::io::ErrorKind::PermissionDenied)?;
    drop(handshake);
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let (kind, hello) = timeout(DIAL, read_frame(&mut stream)).await.map_err(|_| invalid())??;
    if kind == JOIN {
        return take_on(&shared, stream.get_mut(), &certificate, hello).await;
    }
    let mut hello = Reader::new(hello);
    let mut field = || hello.u64().ok_or_else(invalid);
    let (cluster, from, to) = (field()?, field()?, field()?);
    let address = hello.text().ok_or_else(invalid)?;
    let level = hello.u32().unwrap_or(FIRST);
    if kind != HELLO || cluster != shared.identity.cluster || to != shared.identity.member {
        tracing::warn!(
            cluster = %format_args!("{cluster:016x}"),
            "a member of another cluster, or one that looks for another member, has called"
        );
        return Err(invalid());
    }
    if !vouches_for(&certificate, from) {
        tracing::warn!(member = %format_args!("{from:016x}"), "a certificate that is not for it was shown by a member");
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    let is_gone = || shared.gone.lock().contains(&from);
    if is_gone() {
        return tell_removed(stream.get_mut()).await;
    }
    shared.inward.level(from, level);
    shared.told.lock().insert(from, address.clone());
    if let Entry::Vacant(unknown) = shared.peers.lock().entry(from) {
        // Somebody that this member is yet to hear of, from the log.
        unknown.insert(shared.peer(from, address.clone()));
    }
    shared.pass_on(from, &address);
    loop {
        let (kind, content) = read_frame(&mut stream).await?;
        if is_gone() {
            return tell_removed(stream.get_mut()).await;
        }
        let message = || {
            let message = Message::parse_from_carllerche_bytes(&content).map_err(|_| invalid())?;
            if message.to == to { Ok(message) } else { Err(invalid()) }
        };
        match kind {
            // A proposal that was passed on keeps the name of the member that made it.
            MESSAGE => {
                let message = message()?;
                if message.get_msg_type() == MessageType::MsgRequestPreVote {
                    // Nobody who leads reaches it.
                    shared.pass_on(from, &address);
                }
                shared.inward.message(message);
            }
            SNAPSHOT => {
                let message = message()?;
                let index = message.get_snapshot().get_metadata().index;
                let unique = shared.unique.fetch_add(1, Ordering::Relaxed);
                let path = received_path(shared.inward.directory(), index, unique);
                if let Err(error) = receive(&mut stream, &path).await {
                    // A part of a checkpoint is of no use.
                    let _ = tokio::fs::remove_file(&path).await;
                    return Err(error);
                }
                shared.inward.snapshot(message, path);
                stream.get_mut().write_all(&[RECEIVED]).await?;
                stream.get_mut().flush().await?;
            }
            _ => return Err(invalid()),
        }
    }
}

async fn tell_removed(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(&[REMOVED]).await?;
    stream.shutdown().await?;
    // A connection that is dropped with something unread takes the word with it.
    let rest = timeout(DIAL, tokio::io::copy(stream, &mut tokio::io::sink())).await;
    rest.map_or(Ok(()), |read| read.map(|_| ()))
}

#[cfg(test)]
mod tests;
