//! What a controller works on: the namespace and name of one object.

use std::fmt;
use std::sync::Arc;

use client::Cached;

/// `namespace/name`, or `name` for a cluster-scoped object. Cloning is a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of an object in a namespace.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key(client::cache_key(Some(namespace), name).into())
    }

    /// The key of a cluster-scoped object, or of whatever else a controller numbers its work by.
    pub fn cluster(name: &str) -> Key {
        Key(name.into())
    }

    /// The key of an object.
    pub fn of<K: Cached>(object: &K) -> Key {
        Key(client::key_of(object))
    }

    /// The namespace; empty for a cluster-scoped object.
    pub fn namespace(&self) -> &str {
        client::split_key(&self.0).0
    }

    /// The name.
    pub fn name(&self) -> &str {
        client::split_key(&self.0).1
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", &*self.0)
    }
}
