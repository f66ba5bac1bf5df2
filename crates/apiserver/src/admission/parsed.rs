//! What plugins have read out of objects, kept for the next write that needs the same.
//!
//! The cluster's state hands out the buffers that the watch caches hold: as long as an object does not change it is the
//! same buffer, and what was made of it holds. A write into a namespace asks for its account, its labels and its limits
//! each time.
//! Not here: where the buffers come from (`cluster`).

use std::collections::HashMap;
use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes of buffers that are kept; then all are let go, those of objects that have changed since with them. What is made
/// of a buffer may be some fifty times as large.
const MOST: usize = 512 << 10;
/// What is larger is read each time: accounts, labels and limits are small, but for those that somebody made large.
const LARGEST: usize = 16 << 10;

/// Values made of buffers, by where the buffer is. Holding the buffer keeps another one from being there.
#[derive(Debug)]
pub(super) struct Parsed<T>(Mutex<Known<T>>);

#[derive(Debug)]
struct Known<T> {
    values: HashMap<usize, (Bytes, Arc<T>)>,
    bytes: usize,
}

impl<T> Default for Parsed<T> {
    fn default() -> Self {
        Self(Mutex::new(Known { values: HashMap::new(), bytes: 0 }))
    }
}

impl<T> Parsed<T> {
    /// What `read` makes of a buffer, or made of it before.
    pub(super) fn get(
        &self,
        buffer: &Bytes,
        read: impl FnOnce(&[u8]) -> Result<T, Status>,
    ) -> Result<Arc<T>, Status> {
        let place = buffer.as_ptr().addr();
        if let Some((known, made)) = self.0.lock().values.get(&place)
            && known.len() == buffer.len()
        {
            return Ok(made.clone());
        }
        let made = Arc::new(read(buffer)?);
        if buffer.len() > LARGEST {
            return Ok(made);
        }
        let mut known = self.0.lock();
        if known.bytes + buffer.len() > MOST {
            known.values.clear();
            known.bytes = 0;
        }
        let before = known.values.insert(place, (buffer.clone(), made.clone()));
        known.bytes = known.bytes + buffer.len() - before.map_or(0, |(replaced, _)| replaced.len());
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_read_once() {
        let parsed = Parsed::default();
        let read = |bytes: &[u8]| Ok(bytes.to_vec());
        let never = |_: &[u8]| Err(Status::internal("read again"));
        let buffer = Bytes::from(vec![1, 2, 3]);
        assert_eq!(*parsed.get(&buffer, read).unwrap(), [1, 2, 3]);
        assert_eq!(*parsed.get(&buffer.clone(), never).unwrap(), [1, 2, 3]);
        // The same bytes elsewhere are another object, and a part is not the whole.
        assert!(parsed.get(&Bytes::from(vec![1, 2, 3]), never).is_err());
        assert_eq!(*parsed.get(&buffer.slice(..2), read).unwrap(), [1, 2]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let parsed = Parsed::default();
        let size = 4 << 10;
        for _ in 0..3 * MOST / size {
            parsed.get(&Bytes::from(vec![0; size]), |_| Ok(())).unwrap();
        }
        let known = parsed.0.lock();
        let held: usize = known.values.values().map(|(buffer, _)| buffer.len()).sum();
        assert!(held <= MOST && held == known.bytes, "{held} {}", known.bytes);
        drop(known);
        let large = Bytes::from(vec![0; LARGEST + 1]);
        let times = std::cell::Cell::new(0);
        for _ in 0..2 {
            parsed.get(&large, |_| Ok(times.set(times.get() + 1))).unwrap();
        }
        assert_eq!(times.get(), 2, "a large one is not kept");
    }
}
