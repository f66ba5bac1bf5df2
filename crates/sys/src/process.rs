//! Processes: fork, signals, reaping, and messages with file descriptors between processes.
//!
//! [`fork`] is only for processes with one thread (the pod supervisor): the child goes on with a copy of
//! everything and may allocate, open and mount.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Which side of [`fork`] one is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The caller; with the child's PID.
    Parent(i32),
    /// The new process.
    Child,
}

/// Forks, the child in new namespaces (`flags` of `CLONE_NEW*`). The parent is told of its end by SIGCHLD.
///
/// Fails with `EINVAL` if the process has more than one thread: a lock held by another thread would
/// stay locked in the child for ever.
pub fn fork(flags: crate::namespace::Flags) -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: without CLONE_VM and without a stack this is fork(2) with flags: the child owns copies.
    // One thread was checked above.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, (flags.bits() | libc::SIGCHLD) as libc::c_long, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// Ends the process at once: no destructors, no exit handlers, no flushing of inherited buffers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A descriptor inherited by number (through exec, or from a parent).
///
/// # Panics
/// If the number is not open: then nothing may own it.
pub fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: fcntl on any number is sound; it tells whether the number is open.
    assert!(unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0, "descriptor {fd} is not open");
    // SAFETY: it is open, and by this function's contract the caller makes it the owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A child that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Which.
    pub pid: i32,
    /// Exit code, or 128 + the signal's number.
    pub code: i32,
}

/// One ended child, if there is one; its PID is free again afterwards.
pub fn reap() -> Option<Exit> {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some(Exit { pid: pid.as_raw(), code }),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                return Some(Exit { pid: pid.as_raw(), code: 128 + signal as i32 });
            }
            // Stopped, continued: not an end.
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return None,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// The number of the signal that cannot be refused.
pub const KILL: i32 = libc::SIGKILL;

/// Sends a signal by number (also the real-time ones). A process that is gone is no error.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill has no memory preconditions.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            e => Err(e),
        },
    }
}

/// Blocks every signal but those a fault raises, so that a signal descriptor sees them.
pub fn block_signals() -> io::Result<()> {
    let mut set = SigSet::all();
    for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP] {
        set.remove(fault.try_into().expect("a signal of this platform"));
    }
    Ok(nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?)
}

/// Gives a process about to exec the state a program expects: nothing blocked, nothing ignored
/// (Rust ignores SIGPIPE, and that would be inherited).
pub fn reset_signals() {
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition. KILL, STOP and libc's own answer EINVAL, as they should.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Dies (SIGKILL) when the parent does. Cleared by the kernel when credentials change, so set it last.
pub fn die_with_parent() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)
}

/// Hides the calling process from others without privilege: they cannot trace it, nor open its files, its memory or its
/// program through `/proc`. The kernel undoes this at exec.
pub fn forbid_inspection() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Lets the kernel forget children as they end: none becomes a zombie, none can be reaped.
pub fn forget_children() {
    // SAFETY: SIG_IGN is a valid disposition for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Names the calling process as `ps` shows it (15 bytes).
pub fn set_name(name: &str) {
    let name: Vec<u8> = name.bytes().filter(|b| *b != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(name) {
        // A name is for people: without it nothing is lost.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Becomes the parent of orphaned descendants.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Marks every descriptor from `first` on as closed at exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range with CLOEXEC only sets flags.
    let result = unsafe { libc::close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the calling process a session leader whose controlling terminal is `terminal`.
pub fn take_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens the other end of a pseudo terminal, without a path (so it works whatever is mounted at /dev/pts).
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor; TIOCSPTLCK reads an int.
    unsafe {
        let unlocked: libc::c_int = 0;
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, std::ptr::from_ref(&unlocked)) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Sets a terminal's size, in characters.
pub fn resize_terminal(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(&size)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The most bytes of one message.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 8;

/// Sends a message with descriptors over a `SOCK_SEQPACKET` socket.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(message)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message into `buffer` ([`MAX_MESSAGE`] bytes): its length and its descriptors. Length 0
/// means that the other side is gone.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for this process.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message longer than the buffer"));
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn a_message_carries_descriptors() {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(a.as_fd(), b"take this", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = vec![0; MAX_MESSAGE];
        let (length, mut descriptors) = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"take this");
        std::fs::File::from(descriptors.pop().unwrap()).write_all(b"through it").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through it");
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut buffer).unwrap().0, 0, "the end");
    }

    #[test]
    fn forking_with_threads_is_refused() {
        // The test harness runs this on a thread of its own beside main.
        let error = fork(crate::namespace::Flags::empty()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
