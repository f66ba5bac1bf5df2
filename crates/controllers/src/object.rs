//! Short ways to the metadata of a typed object, without the `Option`s that an object from the server never leaves empty.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use api::meta::OwnerReference;
use client::Cached;
use jiff::Timestamp;

/// The name.
pub(crate) fn name<K: Cached>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// The namespace; empty for a cluster-scoped object.
pub(crate) fn namespace<K: Cached>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// The UID.
pub(crate) fn uid<K: Cached>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The labels.
pub(crate) fn labels<K: Cached>(object: &K) -> &BTreeMap<String, String> {
    static NONE: LazyLock<BTreeMap<String, String>> = LazyLock::new(BTreeMap::new);
    object.meta().labels.as_ref().unwrap_or(&NONE)
}

/// One annotation.
pub(crate) fn annotation<'a, K: Cached>(object: &'a K, key: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the object is marked for deletion.
pub(crate) fn deleting<K: Cached>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// When the object was created; the epoch if it never was.
pub(crate) fn created<K: Cached>(object: &K) -> Timestamp {
    object.meta().creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// Which change of the spec this is.
pub(crate) fn generation<K: Cached>(object: &K) -> i64 {
    object.meta().generation.unwrap_or(0)
}

/// The finalizers.
pub(crate) fn has_finalizer<K: Cached>(object: &K, finalizer: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|have| have == finalizer)
}

/// The reference to the object's controller.
pub(crate) fn controller<K: Cached>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.as_deref()?.iter().find(|owner| owner.controller == Some(true))
}

/// A wall-clock time some seconds later.
pub(crate) fn after(time: Timestamp, seconds: i64) -> Timestamp {
    // Only a time at the end of the calendar overflows; it then never comes.
    time.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// A time as the wire can carry it: whole seconds. A status computed from a finer one would differ from what the server
/// gives back.
pub(crate) fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
