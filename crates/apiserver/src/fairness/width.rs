//! How wide a request is: how many seats it takes, and for how long after it has been served.
//!
//! A list is as wide as what it holds in memory at once. A write takes one seat; where many watch what it changes, it
//! takes some for a while longer, because each of them is still to be sent the change. [`Watches`] counts them.
//! Not here: what becomes of the seats (`seats`), and how many a level allows at most (`levels::widest`).
//! Upstream: apiserver/pkg/util/flowcontrol/request, apiserver/pkg/util/flowcontrol/watch_tracker.go.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use api::selector::fields;
use parking_lot::Mutex;

use crate::request::{Query, RequestInfo};
use crate::server::Server;

/// The most seats of a list and of a write.
const LIST_AT_MOST: u32 = 100;
const WRITE_AT_MOST: u32 = 10;
/// Bytes in memory that make a seat.
const BYTES_PER_SEAT: usize = 100_000;
/// A list out of the caches is sent piece by piece, so that it is taken to hold no more than this.
const STREAMED: usize = 1_000_000;
/// Watches that make a seat, and for how long.
const WATCHES_PER_SEAT: u32 = 10;
const PER_EVENT: Duration = Duration::from_millis(5);

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    /// Seats while it is served.
    pub initial: u32,
    /// Seats for the time `after` it.
    pub last: u32,
    /// How long these are kept after it has been served.
    pub after: Duration,
}

impl Width {
    /// What most requests take.
    pub const ONE: Self = Self::of(1);

    const fn of(seats: u32) -> Self {
        Self { initial: seats, last: 0, after: Duration::ZERO }
    }

    /// The seats that are set aside, from the beginning to the end of both.
    pub fn seats(&self) -> u32 {
        self.initial.max(self.last)
    }

    /// How long, in seconds, all its seats were used if it took `served` to serve it.
    pub fn seconds(&self, served: Duration) -> f64 {
        let seats = f64::from(self.seats().max(1));
        (f64::from(self.initial) * served.as_secs_f64() + f64::from(self.last) * self.after.as_secs_f64())
            / seats
    }
}

/// The objects of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    /// How many there are.
    pub objects: usize,
    /// How many bytes they are together.
    pub bytes: usize,
}

/// A list as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// At most so many objects; 0: all.
    pub limit: usize,
    /// One object by its name.
    pub single: bool,
    /// Out of the caches, not the store.
    pub cached: bool,
    /// Objects are chosen by a selector.
    pub selects: bool,
}

impl Listing {
    /// Reads the query of a list or of a watch that begins with one; `None` where it means nothing and will be refused.
    fn of(info: &RequestInfo, query: &Query) -> Option<Self> {
        let text = |name| query.get(name).unwrap_or_default();
        let limit = match text("limit") {
            "" => 0,
            // Below nothing is no limit, as upstream has it.
            limit => usize::try_from(limit.parse::<i64>().ok()?).unwrap_or(0),
        };
        let version = text("resourceVersion");
        let cached = info.verb == "watch"
            || match text("resourceVersionMatch") {
                "NotOlderThan" => true,
                "" => text("continue").is_empty() && (limit == 0 || matches!(version, "" | "0")),
                _ => false,
            };
        let selects = !text("labelSelector").is_empty() || !text("fieldSelector").is_empty();
        Some(Self { limit, single: !info.name.is_empty(), cached, selects })
    }

    /// The seats that it takes out of `stock`, `widest` being the most its level gives.
    fn seats(&self, stock: Stock, widest: u32) -> u32 {
        let limited = if self.limit > 0 { stock.objects.min(self.limit) } else { stock.objects };
        let held = match self {
            Self { single: true, .. } => 1,
            Self { cached: false, selects: true, .. } => limited.max(stock.objects / 2),
            _ => limited,
        };
        // Divided last: small objects are less than a byte each of nothing.
        let bytes = (held as u128 * stock.bytes as u128).div_ceil(stock.objects.max(1) as u128);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let bytes = if self.cached { bytes.min(STREAMED) } else { bytes };
        u32::try_from(bytes.div_ceil(BYTES_PER_SEAT))
            .unwrap_or(u32::MAX)
            .clamp(1, widest.clamp(1, LIST_AT_MOST))
    }
}

/// What a write takes that `watches` are told of.
fn of_write(watches: u32, widest: u32) -> Width {
    if watches < WATCHES_PER_SEAT {
        return Width::ONE;
    }
    let seats = watches.div_ceil(WATCHES_PER_SEAT);
    let work = PER_EVENT.saturating_mul(seats);
    // The same work on fewer seats takes longer: wide requests keep others waiting.
    let last = seats.min(widest.clamp(1, WRITE_AT_MOST));
    Width { initial: 1, last, after: work / last }
}

/// What a request takes of a level that gives `widest` seats at most.
pub(crate) fn of(server: &Server, info: &RequestInfo, query: &Query, widest: u32) -> Width {
    match info.verb.as_str() {
        "watch" if !query.flag("sendInitialEvents") => Width::ONE,
        "list" | "watch" => {
            let table = server.registry.table();
            let resource = table.get(&info.group, &info.version, &info.resource);
            // What is not served here, or not read yet, costs this server little or is not known.
            let Some(cache) = resource.and_then(|resource| server.hub.filled(&resource.view)) else {
                return Width::ONE;
            };
            match Listing::of(info, query) {
                Some(listing) => Width::of(listing.seats(cache.stock(), widest)),
                None => Width::of(widest.clamp(1, LIST_AT_MOST)),
            }
        }
        // A token is made without a change that anybody could see.
        "create" if info.resource == "serviceaccounts" && info.subresource == "token" => Width::ONE,
        "create" | "update" | "patch" | "delete" => {
            of_write(server.fairness.watches.interested(info), widest)
        }
        _ => Width::ONE,
    }
}

/// How many watches there are of what. A write looks three numbers up, by hashes: nothing is allocated for it, and two
/// places that share a hash are counted as one.
#[derive(Default)]
pub struct Watches {
    hasher: RandomState,
    counts: Arc<Mutex<HashMap<u64, u32>>>,
}

/// A watch that is counted until this is dropped.
pub struct Counted {
    key: u64,
    counts: Arc<Mutex<HashMap<u64, u32>>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

impl Watches {
    fn key(&self, info: &RequestInfo, namespace: &str, name: &str) -> u64 {
        self.hasher.hash_one((info.group.as_str(), info.resource.as_str(), namespace, name))
    }

    /// Counts a watch; `None` for one that hears of few changes only: of the pods of one node.
    pub(crate) fn count(&self, info: &RequestInfo, query: &Query) -> Option<Counted> {
        if info.resource == "pods"
            && let Some(selector) = query.get("fieldSelector")
            && let Ok(selector) = fields::Selector::parse(selector)
            && selector.exact("spec.nodeName").is_some_and(|node| !node.is_empty())
        {
            return None;
        }
        let key = self.key(info, &info.namespace, &info.name);
        *self.counts.lock().entry(key).or_default() += 1;
        Some(Counted { key, counts: self.counts.clone() })
    }

    /// How many watches a write is told to, as far as one knows from its path.
    pub(crate) fn interested(&self, info: &RequestInfo) -> u32 {
        let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
        let counts = self.counts.lock();
        if counts.is_empty() {
            return 0;
        }
        let count = |namespace, name| counts.get(&self.key(info, namespace, name)).copied().unwrap_or(0);
        let mut watches = count("", "");
        if !namespace.is_empty() {
            watches += count(namespace, "");
        }
        if !name.is_empty() {
            watches += count(namespace, name);
        }
        watches
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn info(method: &str, uri: &str) -> (RequestInfo, Query) {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        (RequestInfo::parse(&method.parse::<Method>().unwrap(), path, query), Query::parse(query))
    }

    #[test]
    fn lists_take_seats_for_what_they_hold() {
        let small = Stock { objects: 1_000, bytes: 1_000_000 };
        let large = Stock { objects: 10_000, bytes: 1_000_000_000 };
        #[rustfmt::skip]
        let table = [
            ("", Stock { objects: 0, bytes: 0 }, 37, 1),
            ("", Stock { objects: 99, bytes: 100_000 }, 37, 1),
            ("", Stock { objects: 99, bytes: 100_001 }, 37, 2),
            ("", small, 37, 10),
            // Out of the cache it is sent piece by piece.
            ("", large, 37, 10),
            ("resourceVersion=0&limit=500", large, 37, 10),
            ("limit=3", large, 37, 3),
            ("limit=-3", large, 37, 10),
            ("resourceVersion=7&resourceVersionMatch=NotOlderThan", large, 37, 10),
            // Out of the store it is held as a whole.
            ("continue=x&limit=30", large, 37, 30),
            ("resourceVersion=7&resourceVersionMatch=Exact", large, 37, 37),
            ("resourceVersion=7&resourceVersionMatch=Exact", large, 200, 100),
            ("resourceVersion=7&limit=5", large, 37, 5),
            // Half of all is read for what a selector leaves.
            ("continue=x&limit=30&labelSelector=a", Stock { objects: 100, bytes: 10_000_000 }, 90, 50),
            ("continue=x&limit=70&labelSelector=a", Stock { objects: 100, bytes: 10_000_000 }, 90, 70),
            // One object by its name.
            ("fieldSelector=metadata.name%3Dx", large, 37, 1),
            ("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", large, 37, 10),
            ("watch=1&sendInitialEvents=true", small, 4, 4),
        ];
        for (query, stock, widest, seats) in table {
            let (info, query) = info("GET", &format!("/api/v1/pods?{query}"));
            assert_eq!(
                Listing::of(&info, &query).unwrap().seats(stock, widest),
                seats,
                "{query:?} {stock:?}"
            );
        }
        let (info, query) = info("GET", "/api/v1/pods?limit=many");
        assert_eq!(Listing::of(&info, &query), None);
    }

    #[test]
    fn writes_take_seats_for_those_who_are_told() {
        for (watches, widest, last, after) in [
            (0, 37, 0, 0),
            (9, 37, 0, 0),
            (10, 37, 1, 5_000),
            (11, 37, 2, 5_000),
            (100, 37, 10, 5_000),
            // More of them take longer, not more seats.
            (1_000, 37, 10, 50_000),
            (100, 4, 4, 12_500),
            (100, 0, 1, 50_000),
        ] {
            let width = of_write(watches, widest);
            assert_eq!(
                (width.initial, width.last, width.after),
                (1, last, Duration::from_micros(after)),
                "{watches} {widest}"
            );
        }
        let width = Width { initial: 1, last: 4, after: Duration::from_millis(10) };
        assert_eq!((width.seats(), width.seconds(Duration::from_millis(20))), (4, 0.015));
    }

    #[test]
    fn watches_are_counted_by_what_they_hear_of() {
        let watches = Watches::default();
        let mut open = Vec::new();
        for uri in [
            "/api/v1/pods?watch=1",
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1",
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D",
            "/api/v1/pods?watch=1&labelSelector=a",
            "/api/v1/namespaces/a/pods?watch=1",
            "/api/v1/namespaces/a/pods?watch=1&fieldSelector=metadata.name%3Dx",
            "/api/v1/nodes?watch=1",
            "/apis/other/v1/pods?watch=1",
        ] {
            let (info, query) = info("GET", uri);
            open.extend(watches.count(&info, &query));
        }
        for (method, path, count) in [
            ("POST", "/api/v1/namespaces/a/pods", 4),
            ("PUT", "/api/v1/namespaces/a/pods/x", 5),
            ("PATCH", "/api/v1/namespaces/a/pods/y/status", 4),
            ("DELETE", "/api/v1/namespaces/b/pods/x", 3),
            ("PUT", "/api/v1/nodes/x", 1),
            ("PUT", "/api/v1/namespaces/a/secrets/x", 0),
        ] {
            assert_eq!(watches.interested(&info(method, path).0), count, "{method} {path}");
        }
        drop(open);
        assert!(watches.counts.lock().is_empty());
    }
}
