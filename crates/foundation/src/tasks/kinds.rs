//! The one table of task kinds: what a panic in each of them means for the process.
//!
//! A kind that is not in the table is treated as [`Policy::Degrade`]: the process goes on, and its
//! health says that a part of it does not.

/// What the supervisor does after a task has panicked (it is always logged and counted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Only this one request, connection or stream is lost.
    Contain,
    /// A part of the process is gone: its health check fails from now on.
    Degrade,
    /// Nothing useful can go on: the root scope is cancelled, so that the process ends in order.
    Stop,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The name that `spawn` is called with.
    pub name: &'static str,
    /// What a panic means.
    pub on_panic: Policy,
}

const fn row(name: &'static str, on_panic: Policy) -> Kind {
    Kind { name, on_panic }
}

/// Every kind of task with a policy of its own.
pub const KINDS: &[Kind] = &[
    // Work for one peer: the peer sees an error and asks again.
    row("connection", Policy::Contain),
    row("request", Policy::Contain),
    row("stream", Policy::Contain),
    row("watch", Policy::Contain),
    row("probe", Policy::Contain),
    row("exec", Policy::Contain),
    row("query", Policy::Contain),
    // Nobody waits for a collector.
    row("trace-exporter", Policy::Contain),
    // Of one kind of custom resources, whose cache is closed with it and made anew.
    row("conversion", Policy::Contain),
    // One of many alike, which its owner starts again.
    row("pod-worker", Policy::Contain),
    row("reconcile", Policy::Contain),
    // A whole part.
    row("listener", Policy::Degrade),
    row("informer", Policy::Degrade),
    row("controller", Policy::Degrade),
    row("scheduler", Policy::Degrade),
    row("kubelet", Policy::Degrade),
    row("proxy", Policy::Degrade),
    row("dns", Policy::Degrade),
    row("events", Policy::Degrade),
    row("heartbeat", Policy::Degrade),
    // The ground: without it no write is safe.
    row("store-writer", Policy::Stop),
    row("watch-cache", Policy::Stop),
];

/// What a panic in a task of kind `name` means.
pub(super) fn policy(name: &str) -> Policy {
    KINDS.iter().find(|kind| kind.name == name).map_or(Policy::Degrade, |kind| kind.on_panic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_is_listed_twice() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..index].iter().all(|other| other.name != kind.name), "{}", kind.name);
        }
    }
}
