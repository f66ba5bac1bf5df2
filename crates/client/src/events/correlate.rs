//! Which event is new, which is one more of the same, which is one too many. Pure; the caller gives the time.
//!
//! Three steps, upstream's in their order: events that differ only in their message are combined after ten within ten
//! minutes; a source that says too much about one object is not heard (25 at once, then one in five minutes); what is the
//! same as before raises the count of the event that exists. Upstream: `client-go/tools/record/events_cache.go`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use api::types::core::v1::Event;
use jiff::Timestamp;

use super::{Raw, new_event};

/// How many things each step remembers.
const REMEMBERED: usize = 4096;
/// So many similar events in [`SIMILAR_SECONDS`] are told one by one; the next are combined.
const SIMILAR: usize = 10;
const SIMILAR_SECONDS: i64 = 600;
/// Events of one source about one object: this many at once …
const BURST: f64 = 25.0;
/// … and then one in so many seconds.
const REFILL_SECONDS: f64 = 300.0;
const COMBINED: &str = "(combined from similar events): ";

/// What to do with an event.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is new.
    Create(Box<Event>),
    /// It is one more of an event that exists.
    Patch {
        namespace: String,
        name: String,
        count: i32,
        message: String,
        /// What to create if the event is gone from the server.
        event: Box<Event>,
    },
    /// Too many.
    Drop,
}

#[derive(Default)]
pub(super) struct Correlator {
    similar: Recent<String, Similar>,
    buckets: Recent<String, Bucket>,
    known: Recent<String, Known>,
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

struct Known {
    namespace: String,
    name: String,
    count: i32,
    first: Timestamp,
}

impl Correlator {
    pub(super) fn correlate(&mut self, raw: &Raw, now: Timestamp) -> Verdict {
        let message = self.aggregate(raw, now);
        let key = key(raw, &message);
        if !self.admit(raw, now) {
            return Verdict::Drop;
        }
        let (count, first, place) = match self.known.get(&key) {
            Some(known) => {
                known.count += 1;
                (known.count, known.first, Some((known.namespace.clone(), known.name.clone())))
            }
            None => (1, now, None),
        };
        let event = Box::new(new_event(raw, now, count, message.clone(), first));
        match place {
            Some((namespace, name)) => Verdict::Patch { namespace, name, count, message, event },
            None => Verdict::Create(event),
        }
    }

    /// Notes where the server keeps an event, so that the next of its kind raises its count.
    pub(super) fn stored(&mut self, raw: &Raw, event: &Event) {
        let message = event.message.clone().unwrap_or_default();
        let key = if message.starts_with(COMBINED) { key(raw, COMBINED) } else { key(raw, &message) };
        let known = Known {
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            name: event.metadata.name.clone().unwrap_or_default(),
            count: event.count.unwrap_or(1),
            first: event.first_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        };
        self.known.insert(key, known);
    }

    /// The message, marked if it stands for many.
    fn aggregate(&mut self, raw: &Raw, now: Timestamp) -> String {
        let group = group(raw);
        let similar = match self.similar.get(&group) {
            Some(similar) => similar,
            None => {
                self.similar.insert(group.clone(), Similar { messages: HashSet::new(), last: now });
                self.similar.get(&group).expect("inserted above")
            }
        };
        if now.as_second() - similar.last.as_second() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        similar.messages.insert(raw.message.clone());
        if similar.messages.len() < SIMILAR {
            return raw.message.clone();
        }
        // Keep the set at its bound: any one can go, only their number counts.
        if let Some(any) = similar.messages.iter().next().cloned() {
            similar.messages.remove(&any);
        }
        format!("{COMBINED}{}", raw.message)
    }

    fn admit(&mut self, raw: &Raw, now: Timestamp) -> bool {
        let key = format!("{}\u{1f}{}", raw.source.component, object(raw));
        if self.buckets.get(&key).is_none() {
            self.buckets.insert(key.clone(), Bucket { tokens: BURST, filled: now });
        }
        let bucket = self.buckets.get(&key).expect("inserted above");
        let elapsed = (now.as_millisecond() - bucket.filled.as_millisecond()).max(0) as f64 / 1000.0;
        bucket.tokens = (bucket.tokens + elapsed / REFILL_SECONDS).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

fn object(raw: &Raw) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let object = &raw.object;
    [
        raw.source.host.clone().unwrap_or_default(),
        part(&object.kind),
        part(&object.namespace),
        part(&object.name),
        part(&object.uid),
        part(&object.api_version),
    ]
    .join("\u{1f}")
}

fn group(raw: &Raw) -> String {
    format!("{}\u{1f}{}\u{1f}{}\u{1f}{}", raw.source.component, object(raw), raw.kind.as_str(), raw.reason)
}

fn key(raw: &Raw, message: &str) -> String {
    let message = if message.starts_with(COMBINED) { COMBINED } else { message };
    let path = raw.object.field_path.as_deref().unwrap_or_default();
    format!("{}\u{1f}{path}\u{1f}{message}", group(raw))
}

/// A map that forgets what was touched longest ago.
struct Recent<Q, V> {
    values: HashMap<Q, (V, u64)>,
    order: VecDeque<(Q, u64)>,
    tick: u64,
}

impl<Q, V> Default for Recent<Q, V> {
    fn default() -> Self {
        Recent { values: HashMap::new(), order: VecDeque::new(), tick: 0 }
    }
}

impl<Q: Clone + Eq + Hash, V> Recent<Q, V> {
    fn get(&mut self, key: &Q) -> Option<&mut V> {
        let (_, touched) = self.values.get_mut(key)?;
        self.tick += 1;
        *touched = self.tick;
        self.order.push_back((key.clone(), self.tick));
        self.trim();
        self.values.get_mut(key).map(|(value, _)| value)
    }

    fn insert(&mut self, key: Q, value: V) {
        self.tick += 1;
        self.values.insert(key.clone(), (value, self.tick));
        self.order.push_back((key, self.tick));
        self.trim();
    }

    /// Drops the oldest until the bound holds; entries of `order` that a later touch has outdated are skipped.
    fn trim(&mut self) {
        let values = &mut self.values;
        if self.order.len() > 2 * values.len() + 16 {
            self.order.retain(|(key, tick)| values.get(key).is_some_and(|(_, touched)| touched == tick));
        }
        while values.len() > REMEMBERED {
            let Some((key, tick)) = self.order.pop_front() else { return };
            if values.get(&key).is_some_and(|(_, touched)| *touched == tick) {
                values.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::types::core::v1::ObjectReference;

    use super::*;
    use crate::{EventType, RecorderOptions};

    fn raw(message: &str) -> Raw {
        Raw {
            object: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("ns".into()),
                name: Some("p".into()),
                ..Default::default()
            },
            annotations: None,
            kind: EventType::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            source: Arc::new(RecorderOptions::component("kubelet")),
        }
    }

    fn say(correlator: &mut Correlator, message: &str, at: i64) -> Verdict {
        let raw = raw(message);
        let verdict = correlator.correlate(&raw, Timestamp::from_second(at).unwrap());
        match &verdict {
            Verdict::Create(event) | Verdict::Patch { event, .. } => correlator.stored(&raw, event),
            Verdict::Drop => {}
        }
        verdict
    }

    #[test]
    fn the_same_again_raises_the_count() {
        let mut correlator = Correlator::default();
        assert!(matches!(say(&mut correlator, "a", 0), Verdict::Create(_)));
        for expected in 2..5 {
            match say(&mut correlator, "a", expected) {
                Verdict::Patch { count, .. } => assert_eq!(i64::from(count), expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn similar_ones_are_combined_from_the_tenth_on() {
        let mut correlator = Correlator::default();
        for index in 0..9 {
            assert!(matches!(say(&mut correlator, &format!("m{index}"), 0), Verdict::Create(_)), "{index}");
        }
        match say(&mut correlator, "m9", 0) {
            Verdict::Create(event) => {
                assert_eq!(event.message.as_deref(), Some("(combined from similar events): m9"));
            }
            other => panic!("{other:?}"),
        }
        match say(&mut correlator, "m10", 0) {
            Verdict::Patch { count: 2, message, .. } => {
                assert_eq!(message, "(combined from similar events): m10")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flood_is_dropped_and_the_bucket_refills() {
        let mut correlator = Correlator::default();
        for _ in 0..25 {
            assert!(!matches!(say(&mut correlator, "a", 0), Verdict::Drop));
        }
        assert!(matches!(say(&mut correlator, "a", 1), Verdict::Drop));
        assert!(!matches!(say(&mut correlator, "a", 301), Verdict::Drop));
        assert!(matches!(say(&mut correlator, "a", 302), Verdict::Drop));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        for key in 0..3 * REMEMBERED {
            recent.insert(key, ());
            recent.get(&0);
        }
        assert_eq!(recent.values.len(), REMEMBERED);
        assert!(recent.values.contains_key(&0), "what is touched stays");
        assert!(recent.order.len() <= 2 * REMEMBERED + 16);
    }
}
