//! Frames on a stream, and checkpoints that come in pieces of them.
//!
//! Not here: what the kinds of frames are for, but for those of a checkpoint.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{CHUNK, END};

/// The largest frame: the largest transaction and what is around it.
const FRAME: usize = 32 << 20;
/// How long a checkpoint's next piece may take to go or come.
pub const STALLED: Duration = Duration::from_secs(20);

/// As long as a step may take.
pub async fn in_time<T>(step: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    timeout(STALLED, step).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

pub async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    content: &[u8],
) -> std::io::Result<()> {
    let mut head = [0; 5];
    head[..4].copy_from_slice(&(content.len() as u32).to_le_bytes());
    head[4] = kind;
    stream.write_all(&head).await?;
    stream.write_all(content).await
}

pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Bytes)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length > FRAME {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut content = Vec::new();
    // Not reserved ahead.
    stream.take(length as u64).read_to_end(&mut content).await?;
    if content.len() < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok((head[4], content.into()))
}

/// Writes the pieces of a checkpoint to a file, durably.
pub async fn receive(stream: &mut (impl AsyncRead + Unpin), path: &Path) -> std::io::Result<()> {
    let mut options = tokio::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).await?;
    loop {
        let (kind, piece) = in_time(read_frame(stream)).await?;
        match kind {
            CHUNK => file.write_all(&piece).await?,
            END => break,
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
    file.flush().await?;
    file.sync_all().await
}
