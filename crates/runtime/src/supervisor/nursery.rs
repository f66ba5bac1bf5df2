//! The nursery: the process that supervisors are forked from.
//!
//! A fork shares the memory of the program's relocated data among all pods and costs a third of an exec:
//! a pod's supervisor has about a quarter of a megabyte of its own. The nursery ends with the runtime
//! (its socket closes); the supervisors do not.
//!
//! Reads requests on standard input (a `SOCK_SEQPACKET` socket): the path of a sandbox's spec, with the
//! descriptor to answer on.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use sys::cgroup::{Cgroup, Layout};
use sys::namespace::Flags;
use sys::process::{self, Fork};

/// Serves until the runtime is gone; the exit code. `group` is the control group of all supervisors.
pub(super) fn run(group: &str) -> i32 {
    match serve(group) {
        Ok(()) => 0,
        Err(_) => 1, // the runtime sees the socket close, and says so
    }
}

fn serve(group: &str) -> io::Result<()> {
    // Not a member of the starter's session: Ctrl-C in its terminal is not for us.
    nix::unistd::setsid()?;
    process::set_name("pod-nursery");
    process::forget_children();
    // Once for all: what is forked is in the group already.
    let group = Cgroup::new(Layout::detect()?, group);
    group.create().and_then(|()| group.enter()).map_err(io::Error::other)?;
    let socket = process::inherited(0);
    let mut buffer = vec![0; 4096];
    loop {
        let (length, mut descriptors) = match process::receive(socket.as_fd(), &mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if length == 0 {
            return Ok(());
        }
        let path = PathBuf::from(String::from_utf8_lossy(&buffer[..length]).into_owned());
        let Some(answer) = descriptors.pop() else { continue };
        if process::fork(Flags::empty())? == Fork::Child {
            // Standard input was the nursery's socket.
            let null = std::fs::File::open("/dev/null")?;
            nix::unistd::dup2_stdin(&null)?;
            nix::unistd::dup2_stdout(&answer)?;
            drop((null, answer));
            process::reset_signals();
            super::supervise(&path);
        }
    }
}
