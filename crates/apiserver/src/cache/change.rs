//! One change of one object, with its wire forms made at most once.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::Cached;
use crate::encoding;
use crate::negotiation::Encoding;

/// About what a change takes beside its object, in bytes.
pub(super) const OVERHEAD: usize = 256;

/// The `type` of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// The object is new, or new to the selector.
    Added,
    /// The object changed and was selected before.
    Modified,
    /// The object is gone, or gone from the selector.
    Deleted,
}

impl EventType {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// The revision that made it.
    pub revision: u64,
    /// The object after it; `None` if it was deleted.
    pub current: Option<Arc<Cached>>,
    /// The object before it; `None` if it was created.
    pub previous: Option<Arc<Cached>>,
    frames: [OnceLock<Bytes>; 3],
    /// In the encodings that few ask for.
    others: OnceLock<Box<[[OnceLock<Bytes>; 3]; 2]>>,
    last: OnceLock<Bytes>,
}

impl Change {
    pub(super) fn new(revision: u64, current: Option<Arc<Cached>>, previous: Option<Arc<Cached>>) -> Self {
        Self {
            revision,
            current,
            previous,
            frames: Default::default(),
            others: OnceLock::new(),
            last: OnceLock::new(),
        }
    }

    /// About how many bytes are kept alive by it: the object and its copy in the frame that most watchers get.
    /// The object before it is that of an earlier change.
    pub(super) fn weight(&self) -> usize {
        let object = self.current.as_ref().or(self.previous.as_ref());
        OVERHEAD + 2 * object.map_or(0, |object| object.value.len())
    }

    /// What the change means to someone who sees only objects that `matches` accepts; `None`: nothing.
    pub fn seen_by(&self, matches: impl Fn(&Cached) -> bool) -> Option<EventType> {
        let accepts = |object: &Option<Arc<Cached>>| object.as_ref().is_some_and(|o| matches(o));
        match (accepts(&self.previous), accepts(&self.current)) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }

    /// The object that an event of this type carries: for deletions the last state, with the revision of
    /// the change as its resourceVersion.
    pub fn object(&self, event: EventType) -> Bytes {
        match (event, &self.current, &self.previous) {
            (EventType::Added | EventType::Modified, Some(current), _) => current.value.clone(),
            (_, _, Some(previous)) => {
                self.last.get_or_init(|| encoding::with_revision(&previous.value, self.revision)).clone()
            }
            (_, Some(current), None) => current.value.clone(),
            (_, None, None) => Bytes::new(),
        }
    }

    /// The whole watch event as one line of JSON.
    pub fn frame(&self, event: EventType) -> Bytes {
        self.frames[event as usize].get_or_init(|| frame(event.as_str(), &self.object(event))).clone()
    }

    /// The whole watch event in an encoding other than JSON, as `make` makes it of the object at first.
    pub fn frame_in(
        &self,
        encoding: Encoding,
        event: EventType,
        make: impl FnOnce(&Bytes) -> Bytes,
    ) -> Bytes {
        let others = self.others.get_or_init(Default::default);
        let frames = &others[usize::from(encoding == Encoding::Cbor)];
        frames[event as usize].get_or_init(|| make(&self.object(event))).clone()
    }
}

/// A watch event of type `event` around the JSON of `object`, as one line.
pub fn frame(event: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + event.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}
