//! Numbers and bytes as they stand in entries of the log, in checkpoints and on the wire: little-endian, with lengths.
//!
//! Pure. Reading shares the bytes that are read. Not here: what the fields mean.

use bytes::Bytes;

/// Appends fields to a buffer.
#[derive(Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.u64(value as u64)
    }

    /// A count of what follows.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(count as u32)
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Takes fields from the front of a buffer; `None`: they are not there.
pub(crate) struct Reader(Bytes);

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub fn take(&mut self, count: usize) -> Option<Bytes> {
        (self.0.len() >= count).then(|| self.0.split_to(count))
    }

    pub fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes((*self.take(4)?).try_into().ok()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes((*self.take(8)?).try_into().ok()?))
    }

    pub fn i64(&mut self) -> Option<i64> {
        Some(self.u64()? as i64)
    }

    pub fn count(&mut self) -> Option<usize> {
        Some(self.u32()? as usize)
    }

    pub fn bytes(&mut self) -> Option<Bytes> {
        let count = self.count()?;
        self.take(count)
    }

    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    /// As many as [`Reader::count`] says; a wrong count reserves no memory.
    pub fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.count()?;
        let mut list = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            list.push(one(self)?);
        }
        Some(list)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
