//! The checkpoint: the whole state as of one batch in one file, so that recovery need not read the log
//! from its beginning.
//!
//! Writes `checkpoint.tmp` and renames it to `checkpoint`. Holds, in this order: a head, the leases, the
//! keys as of the compact revision, and the history since. Written while writers go on: it takes a small
//! part of the state at a time, and nothing it needs is dropped, because compaction runs on the same
//! thread. Not here: when to write one (`maintenance`).
//!
//! The file is a sequence of blocks: length u32, CRC-32 u32, payload. The checksum covers the store's id
//! and the block's number too, and the last block says how many there are.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use super::ahead::ahead;
use super::disk::{Disk, File};
use super::entry::{self, Change, Entry};
use super::wal::Batch;
use super::{State, wal};
use crate::error::Error;
use crate::types::Revision;

const MAGIC: &[u8; 8] = b"ICSTCHK\n";
/// A block is written once it is so large.
const BLOCK: usize = 256 << 10;
/// Keys or changes taken under one lock.
const STEPS: usize = 512;

/// What a checkpoint was taken of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub store_id: u64,
    pub revision: Revision,
    pub compact_revision: Revision,
    pub batch: Batch,
}

pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join("checkpoint")
}

struct Writer<'a> {
    file: Box<dyn File>,
    path: &'a Path,
    store_id: u64,
    block: Vec<u8>,
    blocks: u64,
    offset: u64,
}

impl Writer<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        entry.encode(&mut self.block);
        if self.block.len() < BLOCK { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(self.block.len() + 8);
        bytes.extend_from_slice(&(self.block.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&sum(self.store_id, self.blocks, &self.block).to_le_bytes());
        bytes.append(&mut self.block);
        let written = self.file.write_at(&bytes, self.offset);
        written.map_err(|error| Error::io(format!("writing {}", self.path.display()), error))?;
        self.offset += bytes.len() as u64;
        self.blocks += 1;
        Ok(())
    }
}

fn sum(store_id: u64, block: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store_id.to_le_bytes());
    hasher.update(&block.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Writes a checkpoint. Returns the batch that it includes and its size in bytes.
pub(super) fn write(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    store_id: u64,
    state: &RwLock<State>,
) -> Result<(Batch, u64), Error> {
    let temporary = directory.join("checkpoint.tmp");
    let result = write_to(disk, &temporary, store_id, state).and_then(|written| {
        let finish = || {
            disk.rename(&temporary, &path(directory))?;
            disk.sync_directory(directory)
        };
        finish().map_err(|error| Error::io(format!("renaming {}", temporary.display()), error))?;
        Ok(written)
    });
    if result.is_err() {
        // Its room is wanted back; the checkpoint before it still holds.
        let _ = disk.remove(&temporary);
    }
    result
}

fn write_to(
    disk: &Arc<dyn Disk>,
    temporary: &Path,
    store_id: u64,
    state: &RwLock<State>,
) -> Result<(Batch, u64), Error> {
    let context = |error| Error::io(format!("writing {}", temporary.display()), error);
    let file = disk.create(temporary).map_err(context)?;
    let mut writer = Writer { file, path: temporary, store_id, block: Vec::new(), blocks: 0, offset: 0 };
    let (head, leases, replicated, ends) = {
        let state = state.read();
        let head = Head {
            store_id,
            revision: state.mvcc.revision,
            compact_revision: state.mvcc.compact_revision,
            batch: state.batch,
        };
        let ends: Vec<_> = match &state.replicated {
            Some(_) => state.leases.deadlines().collect(),
            None => Vec::new(),
        };
        (head, state.leases.noted(), state.replicated.clone(), ends)
    };
    writer.block.extend_from_slice(MAGIC);
    writer.block.extend_from_slice(&wal::VERSION.to_le_bytes());
    for number in [head.store_id, head.revision, head.compact_revision, head.batch] {
        writer.block.extend_from_slice(&number.to_le_bytes());
    }
    if let Some(replicated) = replicated {
        replicated.encode(&mut writer.block);
    }
    writer.flush()?;
    // What the log says of them, and not what is left: keeping alive is written nowhere.
    let grants = leases.into_iter().map(|(id, ttl, remaining)| Change::Grant { id, ttl, remaining });
    let ends = ends.into_iter().map(|(id, deadline)| Change::Until { id, deadline });
    writer.entry(&Entry { revision: 0, changes: grants.chain(ends).collect() })?;
    writer.flush()?;

    let mut after = None;
    let mut found = Vec::new();
    loop {
        after = state.read().mvcc.base(head.compact_revision, after.as_ref(), STEPS, &mut found);
        for record in found.drain(..) {
            let revision = record.mod_revision;
            // At the compact revision itself the history has it.
            if revision < head.compact_revision {
                writer.entry(&Entry { revision, changes: vec![Change::Key(record)] })?;
            }
        }
        if after.is_none() {
            break;
        }
    }
    // An empty block parts the keys from the history.
    if !writer.block.is_empty() {
        writer.flush()?;
    }
    writer.flush()?;

    let mut from = head.compact_revision;
    while from <= head.revision {
        let mut changes = Vec::new();
        let seen = state.read().mvcc.changes(from, usize::MAX, STEPS, |_| true, &mut changes);
        for revision in changes.chunk_by(|a, b| a.record.mod_revision == b.record.mod_revision) {
            let revision_number = revision[0].record.mod_revision;
            if revision_number > head.revision {
                break;
            }
            let changes = revision.iter().map(|change| Change::Key(change.record.clone())).collect();
            writer.entry(&Entry { revision: revision_number, changes })?;
        }
        from = seen + 1;
    }
    if !writer.block.is_empty() {
        writer.flush()?;
    }
    let blocks = writer.blocks;
    writer.block.extend_from_slice(MAGIC);
    writer.block.extend_from_slice(&blocks.to_le_bytes());
    writer.flush()?;
    writer.file.sync().map_err(context)?;
    Ok((head.batch, writer.offset))
}

/// Reads the checkpoint, if there is one, into an empty state.
pub(super) fn load(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    state: &mut State,
    now: std::time::Duration,
) -> Result<Option<(Head, u64)>, Error> {
    load_from(disk, &path(directory), state, now)
}

/// As [`load`], from a file of any name.
pub(super) fn load_from(
    disk: &Arc<dyn Disk>,
    path: &Path,
    state: &mut State,
    now: std::time::Duration,
) -> Result<Option<(Head, u64)>, Error> {
    let file = match disk.reader(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("opening {}", path.display()), error)),
    };
    let (head, reader) = open(file, path, state)?;
    let now = state.replicated.as_ref().map_or(now, |replicated| replicated.time);
    let bytes = fill(reader, head, state, now)?;
    Ok(Some((head, bytes)))
}

/// Reads a checkpoint, if there is one, and keeps nothing of it: what it says of itself, and its size.
pub(super) fn check(disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<(Head, u64)>, Error> {
    let file = match disk.reader(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("opening {}", path.display()), error)),
    };
    let (head, reader) = open(file, path, &mut State::new())?;
    let mut decoder = Decoder { reader, history: false };
    while decoder.next()?.is_some() {}
    Ok(Some((head, decoder.reader.offset)))
}

/// What a checkpoint says of itself, and all of it to be read from its beginning. Not opened twice: meanwhile another
/// might have taken its place.
pub(super) fn describe(
    mut file: Box<dyn Read + Send>,
    path: &Path,
) -> Result<(Head, Option<super::replica::Replicated>, Box<dyn Read + Send>), Error> {
    let context = |error| Error::io(format!("reading {}", path.display()), error);
    let mut bytes = vec![0; 8];
    file.read_exact(&mut bytes).map_err(context)?;
    let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (&mut file).take(length.into()).read_to_end(&mut bytes).map_err(context)?;
    let mut state = State::new();
    let (head, _) = open(Box::new(std::io::Cursor::new(bytes.clone())), path, &mut state)?;
    Ok((head, state.replicated, Box::new(std::io::Cursor::new(bytes).chain(file))))
}

/// Reads the head.
fn open<'a>(
    file: Box<dyn Read + Send>,
    path: &'a Path,
    state: &mut State,
) -> Result<(Head, Reader<'a>), Error> {
    let mut reader = Reader { file, path, store_id: 0, blocks: 0, offset: 0 };
    let first = reader.block(|payload| {
        // The store's id is inside the block that its checksum covers.
        payload.get(12..20).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    })?;
    let mut bytes = first.get(12..).unwrap_or_default();
    let mut next = || entry::array(&mut bytes).map(u64::from_le_bytes);
    let head = match (first.get(..8), next(), next(), next(), next()) {
        (Some(magic), Some(store_id), Some(revision), Some(compact_revision), Some(batch))
            if magic == MAGIC =>
        {
            Head { store_id, revision, compact_revision, batch }
        }
        _ => return Err(reader.corrupt("not a checkpoint")),
    };
    let version = u32::from_le_bytes([first[8], first[9], first[10], first[11]]);
    if version > wal::VERSION {
        return Err(Error::Format { path: path.to_owned(), found: version, known: wal::VERSION });
    }
    if !bytes.is_empty() {
        let replicated = super::replica::Replicated::decode(bytes);
        state.replicated = Some(replicated.ok_or_else(|| reader.corrupt("the head is damaged"))?);
    }
    Ok((head, reader))
}

/// Blocks that are read before a thread is made for the rest: a small checkpoint is loaded sooner without.
const ALONE: usize = 8;

/// Reads the rest. A long one is read, checked and decoded by a thread, while this one puts into memory what is decoded.
fn fill(reader: Reader<'_>, head: Head, state: &mut State, now: std::time::Duration) -> Result<u64, Error> {
    state.mvcc.compact_revision = head.compact_revision;
    let mut decoder = Decoder { reader, history: false };
    let mut load = |piece: Piece| {
        for mut entry in piece.entries {
            if piece.history {
                entry.share_keys(|key| state.mvcc.interned(key));
                state.apply(entry, now, |_| ());
            } else {
                state.load(entry, now);
            }
        }
    };
    let mut more = true;
    for _ in 0..ALONE {
        match decoder.next()? {
            Some(piece) => load(piece),
            None => {
                more = false;
                break;
            }
        }
    }
    if more {
        let rest = |send: &dyn Fn(Piece)| -> Result<(), Error> {
            while let Some(piece) = decoder.next()? {
                send(piece);
            }
            Ok(())
        };
        ahead(rest, &mut load)??;
    }
    state.mvcc.revision = head.revision;
    state.batch = head.batch;
    Ok(decoder.reader.offset)
}

/// A block of a checkpoint, decoded.
struct Piece {
    entries: Vec<Entry>,
    /// What has changed since the compact revision, in order; else keys as of then, and leases.
    history: bool,
}

struct Decoder<'a> {
    reader: Reader<'a>,
    history: bool,
}

impl Decoder<'_> {
    /// The next block; `None` once everything has been read.
    fn next(&mut self) -> Result<Option<Piece>, Error> {
        let mut block = self.reader.block(|_| None)?;
        if block.is_empty() && !self.history {
            self.history = true;
            block = self.reader.block(|_| None)?;
        }
        if block.len() == 16 && block[..8] == *MAGIC {
            let count = u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|at| block[at]));
            if count + 1 != self.reader.blocks {
                return Err(self.reader.corrupt("blocks are missing"));
            }
            return Ok(None);
        }
        let mut rest = &*block;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            // Whose keys are there already is known only when they are loaded.
            let Some(entry) = Entry::decode(&mut rest, |_| None) else {
                return Err(self.reader.corrupt("the block holds no valid entry"));
            };
            entries.push(entry);
        }
        Ok(Some(Piece { entries, history: self.history }))
    }
}

struct Reader<'a> {
    file: Box<dyn Read + Send>,
    path: &'a Path,
    store_id: u64,
    blocks: u64,
    offset: u64,
}

impl Reader<'_> {
    /// The next block's payload. `store_id` may find the id that the checksums start from in it.
    fn block(&mut self, store_id: impl Fn(&[u8]) -> Option<u64>) -> Result<Vec<u8>, Error> {
        let mut head = [0; 8];
        self.read(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as u64;
        // No more than most blocks have: a damaged length must not ask for 4 GiB.
        let mut payload = Vec::with_capacity((length as usize).min(2 * BLOCK));
        let read = (&mut self.file).take(length).read_to_end(&mut payload);
        read.map_err(|error| Error::io(format!("reading {}", self.path.display()), error))?;
        if let Some(id) = store_id(&payload) {
            self.store_id = id;
        }
        let wanted = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if payload.len() as u64 != length || sum(self.store_id, self.blocks, &payload) != wanted {
            return Err(self.corrupt("the block's checksum is wrong"));
        }
        self.offset += 8 + length;
        self.blocks += 1;
        Ok(payload)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Error> {
        match self.file.read_exact(into) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt("the file ends too early"))
            }
            Err(error) => Err(Error::io(format!("reading {}", self.path.display()), error)),
        }
    }

    fn corrupt(&self, detail: &str) -> Error {
        Error::Corrupt { path: self.path.to_owned(), offset: self.offset, detail: detail.to_owned() }
    }
}
