//! Bounds how many events are written: by all, by namespace, by user, by what they are about.
//! Not here: how clients themselves hold events back.
//! Upstream: plugin/pkg/admission/eventratelimit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use foundation::SharedClock;
use parking_lot::Mutex;
use serde_json::Value;

use super::json::text;
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

/// What events are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// All together.
    Server,
    /// The namespace that they are in.
    Namespace,
    /// Who writes them.
    User,
    /// Who tells of what.
    SourceAndObject,
}

impl By {
    /// Reads the name that configurations have.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Server, Self::Namespace, Self::User, Self::SourceAndObject]
            .into_iter()
            .find(|by| format!("{by:?}") == name)
    }
}

/// One bound.
#[derive(Clone, Debug)]
pub struct Limit {
    /// What is counted.
    pub by: By,
    /// Events a second in the long run.
    pub per_second: u32,
    /// Events at once.
    pub burst: u32,
    /// Of how many namespaces, users or objects the count is kept.
    pub kept: usize,
}

/// A bucket of tokens.
struct Bucket {
    tokens: f64,
    at: Duration,
    /// When it was last asked, in the order of questions.
    turn: u64,
}

/// The buckets of one bound, those that were not asked for longest forgotten.
struct Buckets {
    limit: Limit,
    known: HashMap<String, Bucket>,
    turns: BTreeMap<u64, String>,
    turn: u64,
}

impl Buckets {
    fn take(&mut self, key: &str, now: Duration) -> bool {
        self.turn += 1;
        let (burst, turn) = (f64::from(self.limit.burst), self.turn);
        if !self.known.contains_key(key) {
            if self.known.len() >= self.limit.kept
                && let Some((_, oldest)) = self.turns.pop_first()
            {
                self.known.remove(&oldest);
            }
            self.known.insert(key.to_owned(), Bucket { tokens: burst, at: now, turn });
        }
        let Some(bucket) = self.known.get_mut(key) else { return true };
        self.turns.remove(&bucket.turn);
        self.turns.insert(turn, key.to_owned());
        let gained = now.saturating_sub(bucket.at).as_secs_f64() * f64::from(self.limit.per_second);
        let tokens = (bucket.tokens + gained).min(burst);
        let taken = tokens >= 1.0;
        *bucket = Bucket { tokens: if taken { tokens - 1.0 } else { tokens }, at: now, turn };
        taken
    }
}

pub(super) struct EventRateLimit {
    clock: SharedClock,
    bounds: Vec<Mutex<Buckets>>,
}

impl EventRateLimit {
    pub(super) fn new(limits: &[Limit], clock: SharedClock) -> Self {
        let buckets = |limit: &Limit| {
            let limit = Limit { kept: limit.kept.max(1), ..limit.clone() };
            Mutex::new(Buckets { limit, known: HashMap::new(), turns: BTreeMap::new(), turn: 0 })
        };
        Self { clock, bounds: limits.iter().map(buckets).collect() }
    }
}

fn key(by: By, request: &Request<'_>, event: &Value) -> String {
    match by {
        By::Server => String::new(),
        By::Namespace => request.namespace.to_owned(),
        By::User => request.user.name.clone(),
        By::SourceAndObject => [
            "/source/component",
            "/source/host",
            "/involvedObject/kind",
            "/involvedObject/namespace",
            "/involvedObject/name",
            "/involvedObject/uid",
            "/involvedObject/apiVersion",
        ]
        .map(|pointer| text(event, pointer))
        .concat(),
    }
}

/// The key, or what stands for one that is too long to be kept: what it is made of is the client's to choose.
fn short(key: String) -> String {
    const LONGEST: usize = 1024;
    if key.len() <= LONGEST {
        return key;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>, _: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "events", "") || request.dry_run {
            return Ok(());
        }
        let Some(event) = request.object.as_deref() else { return Ok(()) };
        let now = self.clock.monotonic();
        let mut reached = Vec::new();
        for buckets in &self.bounds {
            let mut buckets = buckets.lock();
            let by = buckets.limit.by;
            let key = short(key(by, request, &event.0));
            if !buckets.take(&key, now) {
                reached.push(format!("limit reached on type {by:?} for key {key}"));
            }
        }
        match reached.as_slice() {
            [] => Ok(()),
            [one] => Err(Status::too_many_requests(one.clone(), 0)),
            more => Err(Status::too_many_requests(format!("[{}]", more.join(", ")), 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use foundation::ManualClock;
    use serde_json::json;

    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn events_beyond_the_bounds_are_refused() {
        let clock = Arc::new(ManualClock::default());
        let limit = |by, burst| Limit { by, per_second: 1, burst, kept: 2 };
        let plugin = EventRateLimit::new(&[limit(By::Namespace, 1), limit(By::Server, 3)], clock.clone());
        let cluster = FakeCluster::new();
        let event = |namespace: &str| {
            let event = json!({ "metadata": { "name": "e", "namespace": namespace } });
            Write::create("events", "Event", event)
        };
        let write = async |namespace: &str| run(&plugin, &cluster, event(namespace)).await.err();
        assert!(write("a").await.is_none());
        let refused = write("a").await.unwrap();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (429, "limit reached on type Namespace for key a")
        );
        assert!(write("b").await.is_none());
        let refused = write("c").await.unwrap();
        assert_eq!(refused.message, "limit reached on type Server for key ");
        let dry = Write { dry_run: true, ..event("c") };
        assert!(run(&plugin, &cluster, dry).await.is_ok());
        clock.advance(Duration::from_secs(1));
        assert!(write("a").await.is_none(), "of two kept, the oldest is forgotten");
        assert_eq!(By::parse("SourceAndObject"), Some(By::SourceAndObject));
        assert_eq!(By::parse("Nobody"), None);
    }

    #[test]
    fn what_is_kept_of_a_key_is_bounded() {
        let long = |last: char| short(format!("{}{last}", "x".repeat(1 << 20)));
        assert_eq!((long('a').len(), long('a') == long('b')), (64, false));
        assert_eq!(short("host".into()), "host");
    }
}
