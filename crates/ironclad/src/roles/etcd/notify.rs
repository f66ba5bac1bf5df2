//! Tells systemd that the store serves, where a unit of etcd waits for that (`Type=notify`).
//!
//! Writes to the socket in `NOTIFY_SOCKET`. Upstream: sd_notify(3), which etcd calls when it serves.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says so, if somebody waits for it.
pub fn ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = tell(&socket, b"READY=1\n") {
        tracing::warn!(%error, "systemd cannot be told that the store serves");
    }
}

fn tell(socket: &OsStr, what: &[u8]) -> std::io::Result<()> {
    let address = match socket.as_bytes() {
        // One that is in no directory.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(what, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_hear_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("ironclad-test-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, heard) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&hidden).unwrap()),
        ] {
            tell(&socket, b"READY=1\n").unwrap();
            let mut said = [0; 16];
            let size = heard.recv(&mut said).unwrap();
            assert_eq!(&said[..size], b"READY=1\n");
        }
        assert!(tell(OsStr::new("/nowhere/notify"), b"").is_err());
    }
}
