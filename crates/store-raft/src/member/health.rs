//! What people and metrics are told of a member: whether somebody leads, how its disk does, whom it does not hear of.
//!
//! Only tells; nobody is refused for it. Not here: who decides that a leader is lost (`core`).

use std::time::Duration;

use foundation::metrics::{self, Counter, Gauge};
use parking_lot::Mutex;
use store::Error;
use store::embedded::metrics::CommitMetrics;
use store::embedded::slowness::Slowness;

use crate::core::Standing;

/// How long nobody may lead before that is more than a change of leaders. etcd, too, ends watches of those who require a
/// leader after three times the least time that an election takes.
const LEADERLESS: Duration = Duration::from_secs(3);

/// What is known of a member.
pub(super) struct Health {
    slowness: Slowness,
    commits: CommitMetrics,
    /// Why the disk refuses.
    failing: Mutex<Option<Error>>,
    known: Mutex<Known>,
    gauges: Gauges,
    /// Checkpoints that were sent to other members, and that came from them.
    pub snapshots_sent: Counter,
    pub snapshots_received: Counter,
}

#[derive(Default)]
struct Known {
    /// Who leads, and since when nobody does.
    leader: u64,
    leaderless: Option<Duration>,
}

struct Gauges {
    has_leader: Gauge,
    is_leader: Gauge,
    term: Gauge,
    committed: Gauge,
    applied: Gauge,
    voters: Gauge,
    learners: Gauge,
    silent: Gauge,
    leader_changes: Counter,
}

impl Default for Health {
    fn default() -> Self {
        let registry = metrics::registry();
        let gauge = |name, help| registry.gauge(name, help, &[]).only();
        let counter = |name, help| registry.counter(name, help, &[]).only();
        Self {
            slowness: Slowness::default(),
            commits: CommitMetrics::default(),
            failing: Mutex::default(),
            known: Mutex::default(),
            gauges: Gauges {
                has_leader: gauge("store_raft_has_leader", "Whether a member is known to lead."),
                is_leader: gauge("store_raft_is_leader", "Whether this member leads."),
                term: gauge("store_raft_term", "The term of the consensus."),
                committed: gauge("store_raft_committed_index", "The last entry known to be agreed on."),
                applied: gauge("store_raft_applied_index", "The last entry carried out here."),
                voters: gauge("store_raft_voters", "Members that vote."),
                learners: gauge("store_raft_learners", "Members that do not vote yet."),
                silent: gauge("store_raft_silent_members", "Members that the leader does not hear of."),
                leader_changes: counter("store_raft_leader_changes_total", "How often the leader changed."),
            },
            snapshots_sent: counter("store_raft_snapshots_sent_total", "Checkpoints sent to members."),
            snapshots_received: counter("store_raft_snapshots_received_total", "Checkpoints received."),
        }
    }
}

impl Health {
    /// Something is about to be made durable.
    pub fn begin(&self, now: Duration) {
        self.slowness.begin(now);
    }

    /// It is done, or has failed.
    pub fn end(&self, began: Duration, now: Duration, failed: Option<&Error>) {
        if let Some(took) = self.slowness.end(began, now) {
            self.commits.slow.inc();
            tracing::warn!(?took, "the store's disk is slow: writes wait for it");
        }
        let mut failing = self.failing.lock();
        match failed {
            None => {
                self.commits.sync.observe_duration(now.saturating_sub(began));
                if failing.take().is_some() {
                    tracing::info!("the store writes again");
                }
            }
            Some(error) => {
                self.commits.failures.inc();
                if failing.is_none() {
                    tracing::error!(%error, "the store cannot write here; it tries again");
                }
                *failing = Some(error.clone());
            }
        }
    }

    /// How many entries shared a sync.
    pub fn written(&self, entries: usize) {
        self.commits.batch.observe(entries as f64);
    }

    /// Why the disk refuses, if it does.
    pub fn failing(&self) -> Option<Error> {
        self.failing.lock().clone()
    }

    /// Where the member stands now.
    pub fn observe(&self, standing: &Standing, now: Duration) {
        let gauges = &self.gauges;
        let learners = standing.members.len().saturating_sub(standing.voters.len());
        gauges.has_leader.set(f64::from(u8::from(standing.leader != 0)));
        gauges.is_leader.set(f64::from(u8::from(standing.leader == standing.id)));
        gauges.term.set(standing.term as f64);
        gauges.committed.set(standing.committed as f64);
        gauges.applied.set(standing.applied as f64);
        gauges.voters.set(standing.voters.len() as f64);
        gauges.learners.set(learners as f64);
        gauges.silent.set(standing.silent.len() as f64);
        let mut known = self.known.lock();
        if standing.leader != 0 {
            known.leaderless = None;
            if known.leader != standing.leader {
                known.leader = standing.leader;
                gauges.leader_changes.inc();
            }
        } else if known.leaderless.is_none() {
            known.leaderless = Some(now);
        }
    }

    /// How often somebody else led than before.
    pub fn leader_changes(&self) -> u64 {
        self.gauges.leader_changes.get()
    }

    /// Why writes are refused here, if they are.
    pub fn alarm(&self, now: Duration) -> Option<String> {
        self.failing().map(|error| error.to_string()).or_else(|| self.leaderless(now))
    }

    /// For how long nobody has led, if that is more than a change of leaders.
    pub fn without_leader(&self, now: Duration) -> Option<Duration> {
        let since = self.known.lock().leaderless?;
        Some(now.saturating_sub(since)).filter(|waited| *waited >= LEADERLESS)
    }

    fn leaderless(&self, now: Duration) -> Option<String> {
        let waited = self.without_leader(now)?;
        Some(format!(
            "no member of the store has led for {waited:.0?}: a majority of them has to run and be reached"
        ))
    }

    /// What is not as it should be, for people.
    pub fn warnings(&self, standing: &Standing, now: Duration) -> Vec<String> {
        let mut warnings: Vec<String> = self.slowness.warning(now).into_iter().collect();
        warnings.extend(self.leaderless(now));
        if standing.removed {
            warnings.push("this member has been removed from the store's cluster".to_owned());
        } else if !standing.members.is_empty() && !standing.voters.contains(&standing.id) {
            warnings.push("this member of the store has not caught up yet".to_owned());
        }
        warnings.extend(standing.members.iter().filter(|member| standing.silent.contains(&member.id)).map(
            |member| {
                let (name, address) = (&member.name, &member.address);
                format!("nothing has been heard of the store's member {name} at {address} lately")
            },
        ));
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Member;

    #[test]
    fn what_is_wrong_is_said_and_a_change_of_leaders_is_not() {
        let at = Duration::from_millis;
        let health = Health::default();
        let member = |id: u64| Member { id, name: format!("m{id}"), address: format!("10.0.0.{id}:2380") };
        let leaderless = Standing {
            id: 1,
            members: vec![member(1), member(2)],
            voters: vec![1, 2],
            ..Standing::default()
        };
        let led = Standing { leader: 2, ..leaderless.clone() };
        health.observe(&led, at(0));
        health.observe(&leaderless, at(1_000));
        health.observe(&leaderless, at(3_900));
        assert_eq!((health.alarm(at(3_900)), health.warnings(&leaderless, at(3_900))), (None, vec![]));
        let alarm = health.alarm(at(5_000)).unwrap();
        assert!(alarm.starts_with("no member of the store has led for 4s"), "{alarm}");
        assert_eq!(health.warnings(&leaderless, at(5_000)), [alarm]);
        health.observe(&led, at(6_000));
        assert_eq!(health.alarm(at(60_000)), None);

        health.begin(at(7_000));
        health.end(at(7_000), at(9_000), Some(&Error::NoSpace));
        assert!(health.failing().is_some());
        assert_eq!(health.alarm(at(9_000)).unwrap(), Error::NoSpace.to_string());
        health.begin(at(9_000));
        health.end(at(9_000), at(9_001), None);
        assert_eq!((health.failing().is_none(), health.alarm(at(9_001))), (true, None));
        assert_eq!(health.warnings(&led, at(9_001)), ["the disk is slow: a write took 2.0s"]);

        let leads = Standing { id: 2, silent: vec![1], voters: vec![1], ..led };
        let said = [
            "this member of the store has not caught up yet",
            "nothing has been heard of the store's member m1 at 10.0.0.1:2380 lately",
        ];
        assert_eq!(health.warnings(&leads, at(90_000)), said);
    }
}
