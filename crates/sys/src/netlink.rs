//! Netlink: the socket, message building and reading, and the kernel's errors.
//!
//! Reads and writes netlink sockets; blocking, because every exchange with the kernel is answered within
//! microseconds. The families stand beside: [`route`] for links, addresses and routes, [`neighbour`] for who is
//! behind a link, [`changes`] for being told of what others do; nftables has a module of its own. Not here: what an address or a rule is for.
//!
//! Upstream of the formats: Linux `include/uapi/linux/netlink.h`.

pub mod changes;
pub mod neighbour;
pub mod route;

use std::{
    fs::File,
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// What goes wrong between this process and the kernel's netlink.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused a request.
    #[error("{operation}: {source}{}", extended(.message))]
    Refused {
        /// What was asked for.
        operation: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words, where it has some.
        message: Option<String>,
        /// Sequence number of the refused message, to find it in a batch.
        sequence: u32,
    },
    /// The kernel's answer cannot be read.
    #[error("netlink answer: {0}")]
    Malformed(&'static str),
}

fn extended(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}

impl Error {
    /// The kernel's error number, when it refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
    /// Whether what was to be made is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
    /// Whether what was to be changed or deleted is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}

/// Length of a netlink message's header.
const HEADER: usize = size_of::<libc::nlmsghdr>();
/// Receive buffer: the kernel never builds a part of a dump larger than 32 KiB.
const RECEIVE: usize = 64 * 1024;

/// One message under construction, or several after each other (a batch).
#[derive(Debug, Default, Clone)]
pub struct Message {
    bytes: Vec<u8>,
    start: usize,
}

/// An open nested attribute; closed by [`Message::end`].
#[derive(Debug)]
#[must_use]
pub struct Nested(usize);

impl Message {
    /// Begins a message of this type with `NLM_F_*` flags (`NLM_F_REQUEST` is added).
    pub fn new(kind: u16, flags: i32) -> Self {
        let mut message = Self::default();
        message.begin(kind, flags, 0);
        message
    }

    /// Begins one more message in the same buffer.
    pub fn begin(&mut self, kind: u16, flags: i32, sequence: u32) -> &mut Self {
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        // The flags are sixteen bits on the wire; libc gives them as i32.
        self.bytes.extend_from_slice(&((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.seal()
    }

    fn seal(&mut self) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Appends raw bytes: the family's own header.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.seal()
    }

    /// Appends an attribute.
    pub fn put(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let length = (payload.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.seal()
    }

    /// Appends a zero-terminated text attribute.
    pub fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Appends a 32-bit attribute in host order.
    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit attribute in network order, as nftables wants them.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Opens an attribute that holds attributes.
    pub fn nest(&mut self, kind: u16) -> Nested {
        let at = self.bytes.len();
        self.put(kind | libc::NLA_F_NESTED as u16, &[]);
        Nested(at)
    }

    /// Closes an attribute that holds attributes.
    pub fn end(&mut self, nested: Nested) -> &mut Self {
        let length = (self.bytes.len() - nested.0) as u16;
        self.bytes[nested.0..nested.0 + 2].copy_from_slice(&length.to_ne_bytes());
        self.seal()
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn set_sequence(&mut self, sequence: u32) {
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// Iterates over the attributes in `bytes` as (type without flag bits, payload).
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & libc::NLA_TYPE_MASK as u16;
        let payload = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The payload of the first attribute of a type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

/// A 32-bit number in host order at the start of a payload.
pub fn u32_of(payload: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?))
}

/// A text payload without its terminating zero.
pub fn text_of(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload.strip_suffix(&[0]).unwrap_or(payload)).into_owned()
}

/// A received message.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message's type.
    pub kind: u16,
    /// What follows the netlink header.
    pub payload: Vec<u8>,
}

/// A netlink socket of one family, bound to the network namespace it was opened in.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket of a `NETLINK_*` family in the calling thread's network namespace.
    pub fn open(family: i32) -> Result<Self, Error> {
        // SAFETY: plain system call; the returned descriptor is owned by nobody else.
        let raw = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family) };
        if raw < 0 {
            return Err(Error::Socket(io::Error::last_os_error()));
        }
        // SAFETY: `raw` is a fresh, valid descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = Self { fd, sequence: 0 };
        socket.option(libc::NETLINK_EXT_ACK)?;
        socket.option(libc::NETLINK_CAP_ACK)?;
        Ok(socket)
    }

    /// Asks to be sent what happens to a family's things: a mask of `RTMGRP_*` or the like.
    pub fn subscribe(&self, groups: u32) -> Result<(), Error> {
        // SAFETY: all zeroes is a value of this plain structure.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = groups;
        // SAFETY: the pointer and length describe `address`, which lives across the call.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(Error::Socket(io::Error::last_os_error())) } else { Ok(()) }
    }

    /// Opens a socket in another network namespace, without moving the calling thread.
    pub fn open_in(family: i32, namespace: &File) -> Result<Self, Error> {
        // A thread of its own: setns on a thread that others share would move their work too.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter_network_namespace(namespace.as_fd()).map_err(Error::Socket)?;
                    Self::open(family)
                })
                .join()
                .unwrap_or(Err(Error::Malformed("the thread that entered the namespace panicked")))
        })
    }

    fn option(&self, option: i32) -> Result<(), Error> {
        self.set_option(libc::SOL_NETLINK, option, 1)
    }

    /// Sets an integer socket option.
    pub fn set_option(&self, level: i32, option: i32, value: i32) -> Result<(), Error> {
        // SAFETY: the pointer and length describe `value`, which lives across the call.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(Error::Socket(io::Error::last_os_error())) } else { Ok(()) }
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, operation: &str, mut message: Message) -> Result<(), Error> {
        let flags = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]) | libc::NLM_F_ACK as u16;
        message.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.exchange(operation, message).map(drop)
    }

    /// Sends one request and collects the answers up to the acknowledgement or the end of the dump.
    pub fn exchange(&mut self, operation: &str, mut message: Message) -> Result<Vec<Received>, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        message.set_sequence(self.sequence);
        self.send(message.as_bytes())?;
        let single = u16::from_ne_bytes([message.bytes[6], message.bytes[7]])
            & (libc::NLM_F_ACK | libc::NLM_F_DUMP) as u16
            == 0;
        let mut answers = Vec::new();
        loop {
            let buffer = self.receive()?;
            for (header, payload) in messages(&buffer) {
                if header.nlmsg_seq != self.sequence {
                    continue;
                }
                match i32::from(header.nlmsg_type) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => {
                        return acknowledgement(operation, &header, payload).map(|()| answers);
                    }
                    _ => answers.push(Received { kind: header.nlmsg_type, payload: payload.to_vec() }),
                }
            }
            if single && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    /// Sends bytes as they are: a batch, whose sequence numbers are the caller's.
    pub fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: the pointer and length describe `bytes`, which lives across the call.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(Error::Socket(io::Error::last_os_error())) } else { Ok(()) }
    }

    /// Waits for one datagram, which may hold several messages (see [`messages`]).
    pub fn receive(&self) -> Result<Vec<u8>, Error> {
        self.receive_with(0).map_err(Error::Socket)
    }

    /// Takes one datagram if there is one.
    pub fn receive_now(&self) -> Result<Option<Vec<u8>>, Error> {
        match self.receive_with(libc::MSG_DONTWAIT) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::Socket(error)),
        }
    }

    fn receive_with(&self, flags: i32) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0_u8; RECEIVE];
        loop {
            // SAFETY: the pointer and length describe `buffer`.
            let got =
                unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
            if got >= 0 {
                buffer.truncate(got as usize);
                return Ok(buffer);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Iterates over the messages of one datagram.
pub fn messages(buffer: &[u8]) -> impl Iterator<Item = (libc::nlmsghdr, &[u8])> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let head = rest.get(..HEADER)?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let header = libc::nlmsghdr {
            nlmsg_len: word(0),
            nlmsg_type: half(4),
            nlmsg_flags: half(6),
            nlmsg_seq: word(8),
            nlmsg_pid: word(12),
        };
        let length = header.nlmsg_len as usize;
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, payload))
    })
}

/// Reads an `NLMSG_ERROR`: zero is an acknowledgement, everything else an error with the kernel's words.
pub fn acknowledgement(operation: &str, header: &libc::nlmsghdr, payload: &[u8]) -> Result<(), Error> {
    let code = u32_of(payload).ok_or(Error::Malformed("an error without a number"))? as i32;
    if code == 0 {
        return Ok(());
    }
    // After the error number stands the refused message's header (all of the message unless capped), then,
    // if the kernel has words, attributes; type 1 is the text.
    const NLM_F_CAPPED: u16 = 0x100;
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let message = (header.nlmsg_flags & NLM_F_ACK_TLVS != 0)
        .then(|| {
            let inner = payload.get(4..)?;
            let skip = match header.nlmsg_flags & NLM_F_CAPPED {
                0 => u32_of(inner)? as usize,
                _ => HEADER,
            };
            attribute(inner.get(skip.next_multiple_of(4)..)?, NLMSGERR_ATTR_MSG).map(text_of)
        })
        .flatten();
    Err(Error::Refused {
        operation: operation.to_owned(),
        source: io::Error::from_raw_os_error(-code),
        message,
        sequence: header.nlmsg_seq,
    })
}

/// Moves the calling thread into a network namespace.
pub fn enter_network_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain system call on a valid descriptor.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs a function on a short-lived thread inside a network namespace.
///
/// For what depends on the calling thread's namespace: `/proc/sys/net`, sockets.
pub fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter_network_namespace(namespace.as_fd())?;
                Ok(work())
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut message = Message::new(16, libc::NLM_F_CREATE);
        message.raw(&[0; 16]).put_text(3, "eth0");
        let nest = message.nest(18);
        message.put_u32(1, 7).put(2, &[1, 2, 3]);
        message.end(nest);
        let (header, payload) = messages(message.as_bytes()).next().unwrap();
        assert_eq!(header.nlmsg_len as usize, message.as_bytes().len());
        let body = &payload[16..];
        assert_eq!(text_of(attribute(body, 3).unwrap()), "eth0");
        let inner = attribute(body, 18).unwrap();
        assert_eq!(attribute(inner, 1).and_then(u32_of), Some(7));
        assert_eq!(attribute(inner, 2), Some(&[1, 2, 3][..]));
    }

    #[test]
    fn broken_input_ends_the_iteration() {
        for bytes in [&[][..], &[1], &[0, 0, 1, 0], &[255, 255, 1, 0, 9]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
    }
}
