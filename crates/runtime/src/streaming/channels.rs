//! The channels of Kubernetes' WebSocket protocols, and the status that ends a command. Pure.
//!
//! Upstream: k8s.io/apimachinery/pkg/util/remotecommand/constants.go.

use serde_json::json;

/// For exec and attach, best first.
pub(crate) const REMOTE_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// For port-forward.
pub(crate) const FORWARD_PROTOCOLS: [&str; 1] = ["v4.channel.k8s.io"];
/// For exec and attach over SPDY.
pub(crate) const REMOTE_SPDY: &str = "v4.channel.k8s.io";
/// For port-forward over SPDY.
pub(crate) const FORWARD_SPDY: &str = "portforward.k8s.io";

/// Standard input.
pub(crate) const STDIN: u8 = 0;
/// Standard output.
pub(crate) const STDOUT: u8 = 1;
/// Standard error.
pub(crate) const STDERR: u8 = 2;
/// The final status.
pub(crate) const ERROR: u8 = 3;
/// Terminal sizes.
pub(crate) const RESIZE: u8 = 4;
/// Version 5: the other side closes the channel that the next byte names.
pub(crate) const CLOSE: u8 = 255;

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With this exit code.
    Exited(i32),
    /// It could not be run or followed.
    Failed(String),
}

/// The `Status` object on the error channel.
pub(crate) fn status(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited(0) => json!({"metadata": {}, "status": "Success"}),
        Outcome::Exited(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failed(reason) => {
            let reason = format!("error executing command in container: {reason}");
            json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {reason}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": reason}]},
                "code": 500,
            })
        }
    }
    .to_string()
}

/// Columns and rows of a resize message, `{"Width":80,"Height":24}`.
pub(crate) fn size(message: &[u8]) -> Option<(u16, u16)> {
    let value: serde_json::Value = serde_json::from_slice(message).ok()?;
    let number = |key: &str| value[key].as_u64().and_then(|n| u16::try_from(n).ok());
    Some((number("Width")?, number("Height")?))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use foundation::{Randomness, SeededRandomness};

    use super::*;

    #[test]
    fn the_exit_code_is_a_cause() {
        let status: serde_json::Value = serde_json::from_str(&status(&Outcome::Exited(3))).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        assert_eq!(size(b"{}"), None);
    }

    /// As fuzzing does at greater length: a server's reader of WebSocket frames, and what it makes of their messages.
    #[test]
    fn any_frames_are_read_or_refused() {
        use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};
        use tokio_tungstenite::tungstenite::{Error, Message};

        let random = SeededRandomness::new(13);
        // Masked by zeros: a resize on channel 4, text, a ping, a close.
        let sound = [
            &[0x82, 0x80 | 25, 0, 0, 0, 0, 4][..],
            br#"{"Width":80,"Height":24}"#,
            &[0x81, 0x81, 0, 0, 0, 0, b'a', 0x89, 0x80, 0, 0, 0, 0, 0x88, 0x80, 0, 0, 0, 0],
        ]
        .concat();
        let mut read = 0;
        for round in 0..2_000 {
            let mut bytes = sound.clone();
            // The first round is sound.
            for _ in 0..random.below(4) * u64::from(round > 0) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.u64() as u8;
            }
            let length = bytes.len();
            let mut socket = WebSocket::from_raw_socket(Cursor::new(bytes), Role::Server, None);
            // Every message takes two bytes at least.
            for _ in 0..=length {
                match socket.read() {
                    Ok(Message::Binary(bytes)) => {
                        read += usize::from(size(&bytes[1.min(bytes.len())..]).is_some())
                    }
                    Ok(_) | Err(Error::Capacity(_)) => {}
                    Err(_) => break,
                }
            }
        }
        assert!(read > 0, "no resize was read");
    }
}
