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

/// What is kept: the buffers of objects that have changed since are let go when there are so many.
const MOST: usize = 1024;

/// Values made of buffers, by where the buffer is. Holding the buffer keeps another one from being there.
#[derive(Debug)]
pub(super) struct Parsed<T>(Mutex<HashMap<usize, (Bytes, Arc<T>)>>);

impl<T> Default for Parsed<T> {
    fn default() -> Self {
        Self(Mutex::default())
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
        if let Some((known, made)) = self.0.lock().get(&place)
            && known.len() == buffer.len()
        {
            return Ok(made.clone());
        }
        let made = Arc::new(read(buffer)?);
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(place, (buffer.clone(), made.clone()));
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
        for _ in 0..3 * MOST {
            parsed.get(&Bytes::from(vec![0; 8]), |_| Ok(())).unwrap();
        }
        assert!(parsed.0.lock().len() <= MOST);
    }
}
