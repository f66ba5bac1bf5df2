//! Values that carry the revision of their own transaction, in a database that cannot write them.
//!
//! Pure. How `store-etcd` keeps them in an etcd, and so how they are found in the files that etcd's tools save. A stamped value is kept as its head and tail, one after the other, and a trailer that says where between them
//! the revision belongs; whoever reads it puts in the `mod_revision` that came with the key. A plain value is kept as it
//! is; only one that happens to end like a trailer gets a trailer that says: nothing belongs anywhere. See
//! `docs/decisions/0008-stamps-in-etcd.md`.

use bytes::{BufMut, Bytes, BytesMut};
use store::{KeyValue, PutValue, Revision};

/// Ends a value that has a trailer; before it stand four bytes, the place.
const MARK: [u8; 4] = [0, b's', b't', 0];
const TRAILER: usize = 8;
/// The place of a plain value.
const NOWHERE: u32 = u32::MAX;

/// The value as etcd keeps it.
pub fn encode(value: PutValue) -> Bytes {
    let (parts, place): ([Bytes; 2], u32) = match value {
        PutValue::Plain(value) if value.ends_with(&MARK) => ([value, Bytes::new()], NOWHERE),
        PutValue::Plain(value) => return value,
        PutValue::Stamped { head, tail } => {
            let place = head.len() as u32;
            ([head, tail], place)
        }
    };
    let mut stored = BytesMut::with_capacity(parts[0].len() + parts[1].len() + TRAILER);
    parts.iter().for_each(|part| stored.extend_from_slice(part));
    stored.put_u32_le(place);
    stored.extend_from_slice(&MARK);
    stored.freeze()
}

/// The value as it was meant, of what etcd kept.
pub fn decode(stored: Bytes, revision: Revision) -> Bytes {
    let Some(body) = stored.len().checked_sub(TRAILER).filter(|_| stored.ends_with(&MARK)) else {
        return stored;
    };
    let place = u32::from_le_bytes([0, 1, 2, 3].map(|at| stored[body + at]));
    if place == NOWHERE {
        return stored.slice(..body);
    }
    let place = place as usize;
    if place > body {
        // Not written by this code: what it is, is for its reader to find out.
        return stored;
    }
    let digits = revision.to_string();
    let mut value = BytesMut::with_capacity(body + digits.len());
    value.extend_from_slice(&stored[..place]);
    value.extend_from_slice(digits.as_bytes());
    value.extend_from_slice(&stored[place..body]);
    value.freeze()
}

/// A key with its value as it was meant.
pub fn opened(kv: KeyValue) -> KeyValue {
    KeyValue { value: decode(kv.value, kv.mod_revision), ..kv }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_meant() {
        for value in ["", "{}", "\0st\0", "x\0\0\0\0\0st\0", "abcdefgh"] {
            let stored = encode(PutValue::Plain(value.into()));
            assert_eq!(decode(stored, 7), value, "{value:?}");
        }
        for (head, tail) in [("{\"v\":\"", "\"}"), ("", ""), ("a", ""), ("", "b"), ("x", "\0st\0")] {
            let value = PutValue::Stamped { head: head.into(), tail: tail.into() };
            assert_eq!(decode(encode(value), 123), format!("{head}123{tail}"));
        }
        // Most values are not copied.
        let value = Bytes::from("plain");
        assert_eq!(encode(PutValue::Plain(value.clone())).as_ptr(), value.as_ptr());
        // What others wrote is left alone, whatever it ends with.
        let foreign = Bytes::from(&b"\xff\xff\0\0\0st\0"[..]);
        assert_eq!(decode(foreign.clone(), 1), foreign);
    }
}
