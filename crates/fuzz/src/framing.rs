//! The frames of streaming connections: SPDY and WebSocket. The input is what a client sends.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::streaming;

/// SPDY/3.1.
pub fn spdy(data: &[u8]) {
    let frames = streaming::frames(data);
    // The smallest frame has eight bytes.
    assert!(frames <= data.len() / 8);
}

/// WebSocket, and the messages of Kubernetes' channels in it.
pub fn websocket(data: &[u8]) {
    let mut socket = WebSocket::from_raw_socket(Cursor::new(data.to_vec()), Role::Server, None);
    for _ in 0..=data.len() {
        match socket.read() {
            Ok(Message::Binary(bytes)) => drop(streaming::channels::size(&bytes)),
            Ok(_) | Err(Error::Capacity(_)) => {}
            Err(_) => return,
        }
    }
}
