//! Who is next, and who waits for what.
//!
//! A pod is active (to be scheduled), backing off after a failed try, or unschedulable until something happens that a
//! plugin which refused it says could help. What happens while a pod is being scheduled counts too. Pure: time is a
//! parameter. Not here: the decision itself.
//!
//! Upstream: pkg/scheduler/backend/queue.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::types::core::v1::Pod;

use crate::{
    cluster::PodInfo,
    framework::{Event, Hint, Rejection, Weighted},
};

/// First and longest wait after failed tries; upstream's podInitialBackoffSeconds and podMaxBackoffSeconds.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A pod that nothing has helped is tried again all the same after this long, in case a hint was wrong.
const FLUSH: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Waiting {
    pod: PodInfo,
    rank: i64,
    /// When it was first queued: earlier ones go first among equals.
    since: Duration,
    tries: u32,
    state: State,
}

impl Waiting {
    fn turn(&self, uid: &str) -> Turn {
        (self.rank, self.since, uid.to_owned())
    }
}

#[derive(Debug)]
enum State {
    /// To be scheduled.
    Active,
    /// Held back by PreEnqueue.
    Gated,
    /// To be scheduled once its back-off is over.
    BackingOff { until: Duration },
    /// Waits for an event.
    Unschedulable { plugins: BTreeSet<&'static str>, until: Duration, back_off_until: Duration },
    /// Being scheduled; `helped` tells that an event came meanwhile.
    InFlight { helped: bool },
}

impl State {
    /// Its place in the counts; what is being scheduled waits no more.
    fn place(&self) -> Option<usize> {
        match self {
            State::Active => Some(0),
            State::BackingOff { .. } => Some(1),
            State::Unschedulable { .. } => Some(2),
            State::Gated => Some(3),
            State::InFlight { .. } => None,
        }
    }
}

/// The order of active pods: rank by the QueueSort plugin, then who came first.
type Turn = (i64, Duration, String);

/// The queue. Each operation costs what the pods it concerns cost, however many wait.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, Waiting>,
    active: BTreeSet<Turn>,
    /// Pods that wait for time, alone or besides events.
    deadlines: BTreeSet<(Duration, String)>,
    unschedulable: HashSet<String>,
    /// Those of them that a plugin has refused, by the plugin.
    refused: HashMap<&'static str, HashSet<String>>,
    in_flight: HashSet<String>,
    /// Active, backing off, unschedulable, gated.
    counts: [usize; 4],
}

/// What a gated pod is told.
pub type Gated = (Arc<Pod>, Rejection);

impl Queue {
    /// A pod without a node is there. Returns why it must wait, if it is held back.
    pub fn add(&mut self, pod: Arc<Pod>, profile: &[Weighted], now: Duration) -> Option<Gated> {
        let info = PodInfo::new(pod);
        let uid = info.uid().to_owned();
        self.remove(&uid);
        let gate = gate(&info.pod, profile);
        let state = if gate.is_some() { State::Gated } else { State::Active };
        let told = gate.map(|rejection| (info.pod.clone(), rejection));
        let rank = rank(&info.pod, profile);
        self.pods.insert(uid.clone(), Waiting { pod: info, rank, since: now, tries: 0, state: State::Gated });
        self.enter(&uid, state);
        told
    }

    /// A waiting pod has changed.
    pub fn update(
        &mut self,
        old: &Arc<Pod>,
        new: Arc<Pod>,
        profile: &[Weighted],
        now: Duration,
    ) -> Option<Gated> {
        let uid = new.metadata.uid.clone().unwrap_or_default();
        let Some(waiting) = self.pods.get(&uid) else { return self.add(new, profile, now) };
        let info = PodInfo::new(new.clone());
        let event = Event::PodUpdated(&waiting.pod, &info);
        let next = match &waiting.state {
            State::Gated if gate(&new, profile).is_none() => Some(State::Active),
            State::Unschedulable { plugins, back_off_until, .. }
                if helps(plugins, &info, &event, profile) =>
            {
                Some(after(*back_off_until, now))
            }
            // The decision under way saw the old pod: only a changed spec can change it.
            State::InFlight { helped } => Some(State::InFlight { helped: *helped || old.spec != new.spec }),
            State::Active => Some(State::Active),
            _ => None,
        };
        // Out of the order it was in before its rank can change.
        let next = next.map(|state| (self.leave(&uid), state).1);
        if let Some(waiting) = self.pods.get_mut(&uid) {
            waiting.rank = rank(&new, profile);
            waiting.pod = info;
        }
        if let Some(state) = next {
            self.enter(&uid, state);
        }
        None
    }

    /// A pod is gone or has a node.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.pods.remove(uid);
    }

    /// Something happened that may help those who wait.
    pub fn happened(&mut self, event: &Event<'_>, profile: &[Weighted], now: Duration) {
        for uid in &self.in_flight {
            if let Some(Waiting { state: State::InFlight { helped }, .. }) = self.pods.get_mut(uid) {
                *helped = true;
            }
        }
        let asked: HashSet<&String> = match event {
            Event::AssignedPodAdded(_) => {
                let plugins = profile.iter().filter(|weighted| weighted.plugin.looks_at_new_pods());
                plugins.filter_map(|weighted| self.refused.get(weighted.plugin.name())).flatten().collect()
            }
            _ => self.unschedulable.iter().collect(),
        };
        let helped: Vec<(String, State)> = asked
            .into_iter()
            .filter_map(|uid| match self.pods.get(uid)? {
                Waiting { pod, state: State::Unschedulable { plugins, back_off_until, .. }, .. }
                    if helps(plugins, pod, event, profile) =>
                {
                    Some((uid.clone(), after(*back_off_until, now)))
                }
                _ => None,
            })
            .collect();
        for (uid, state) in helped {
            self.leave(&uid);
            self.enter(&uid, state);
        }
    }

    /// The next pod to schedule, which is then in flight.
    pub fn pop(&mut self, now: Duration) -> Option<PodInfo> {
        while let Some((until, uid)) = self.deadlines.first().cloned() {
            if until > now {
                break;
            }
            self.leave(&uid);
            self.enter(&uid, State::Active);
        }
        let (_, _, uid) = self.active.first().cloned()?;
        self.leave(&uid);
        self.enter(&uid, State::InFlight { helped: false });
        let waiting = self.pods.get_mut(&uid)?;
        waiting.tries += 1;
        Some(waiting.pod.clone())
    }

    /// A pod in flight fits nowhere (or could not be bound, then with no plugins).
    pub fn failed(&mut self, uid: &str, plugins: BTreeSet<&'static str>, now: Duration) {
        let Some(waiting) = self.pods.get(uid) else { return };
        let doublings = waiting.tries.saturating_sub(1).min(16);
        let back_off_until = now + (BACKOFF.0 * 2_u32.pow(doublings)).min(BACKOFF.1);
        let helped = matches!(waiting.state, State::InFlight { helped: true });
        let state = if helped || plugins.is_empty() {
            State::BackingOff { until: back_off_until }
        } else {
            State::Unschedulable { plugins, until: now + FLUSH, back_off_until }
        };
        self.leave(uid);
        self.enter(uid, state);
    }

    /// When a pod that waits for time only is next due.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    fn leave(&mut self, uid: &str) {
        let Some(waiting) = self.pods.get(uid) else { return };
        if let Some(place) = waiting.state.place() {
            self.counts[place] -= 1;
        }
        match &waiting.state {
            State::Active => drop(self.active.remove(&waiting.turn(uid))),
            State::Gated => {}
            State::BackingOff { until } => drop(self.deadlines.remove(&(*until, uid.to_owned()))),
            State::Unschedulable { plugins, until, .. } => {
                self.deadlines.remove(&(*until, uid.to_owned()));
                self.unschedulable.remove(uid);
                for plugin in plugins {
                    if let Some(refused) = self.refused.get_mut(plugin) {
                        refused.remove(uid);
                    }
                }
            }
            State::InFlight { .. } => drop(self.in_flight.remove(uid)),
        }
    }

    fn enter(&mut self, uid: &str, state: State) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.state = state;
        if let Some(place) = waiting.state.place() {
            self.counts[place] += 1;
        }
        match &waiting.state {
            State::Active => drop(self.active.insert(waiting.turn(uid))),
            State::Gated => {}
            State::BackingOff { until } => drop(self.deadlines.insert((*until, uid.to_owned()))),
            State::Unschedulable { plugins, until, .. } => {
                self.deadlines.insert((*until, uid.to_owned()));
                self.unschedulable.insert(uid.to_owned());
                for plugin in plugins {
                    self.refused.entry(plugin).or_default().insert(uid.to_owned());
                }
            }
            State::InFlight { .. } => drop(self.in_flight.insert(uid.to_owned())),
        }
    }

    /// Numbers of pods: active, backing off, unschedulable, gated; for `scheduler_pending_pods`.
    pub fn counts(&self) -> [usize; 4] {
        self.counts
    }

    /// How often a pod has been tried, and when it was first queued.
    pub fn history(&self, uid: &str) -> Option<(u32, Duration)> {
        self.pods.get(uid).map(|waiting| (waiting.tries, waiting.since))
    }
}

fn rank(pod: &Pod, profile: &[Weighted]) -> i64 {
    profile.iter().find_map(|weighted| weighted.plugin.rank(pod)).unwrap_or_default()
}

fn gate(pod: &Pod, profile: &[Weighted]) -> Option<Rejection> {
    profile.iter().find_map(|weighted| weighted.plugin.pre_enqueue(pod).err())
}

fn helps(plugins: &BTreeSet<&'static str>, pod: &PodInfo, event: &Event<'_>, profile: &[Weighted]) -> bool {
    let refused = profile.iter().filter(|weighted| plugins.contains(weighted.plugin.name()));
    refused.into_iter().any(|weighted| weighted.plugin.hint(pod, event) == Hint::Queue)
}

fn after(until: Duration, now: Duration) -> State {
    if until <= now { State::Active } else { State::BackingOff { until } }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        framework::testing::{node, pod_with},
        plugins,
    };

    const FIT: &str = "NodeResourcesFit";

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn named(uid: &str, spec: serde_json::Value) -> Arc<Pod> {
        let mut pod = (*pod_with(spec).pod).clone();
        pod.metadata.uid = Some(uid.into());
        Arc::new(pod)
    }

    fn next(queue: &mut Queue, now: u64) -> Option<String> {
        queue.pop(seconds(now)).map(|pod| pod.uid().to_owned())
    }

    #[test]
    fn priority_goes_first_then_who_came_first() {
        let (mut queue, profile) = (Queue::default(), plugins::default_profile());
        queue.add(named("late", json!({})), &profile, seconds(2));
        queue.add(named("early", json!({})), &profile, seconds(1));
        queue.add(named("high", json!({"priority": 5})), &profile, seconds(3));
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue, 3)).collect();
        assert_eq!(order, ["high", "early", "late"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_what_helps_it_and_for_its_back_off() {
        let (mut queue, profile) = (Queue::default(), plugins::default_profile());
        let pod = named("p", json!({}));
        queue.add(pod.clone(), &profile, seconds(0));
        assert_eq!(next(&mut queue, 0).as_deref(), Some("p"));
        queue.failed("p", BTreeSet::from([FIT]), seconds(0));
        assert_eq!(next(&mut queue, 60), None, "time alone does not help");
        let old = node("n", "1", "1Gi");
        queue.happened(&Event::NodeUpdated(&old, &old), &profile, seconds(60));
        assert_eq!(next(&mut queue, 60), None, "nothing that matters has changed");
        queue.happened(&Event::NodeAdded(&old), &profile, seconds(60));
        assert_eq!(next(&mut queue, 60).as_deref(), Some("p"));
        queue.failed("p", BTreeSet::from([FIT]), seconds(60));
        queue.happened(&Event::NodeAdded(&old), &profile, seconds(60));
        assert_eq!(next(&mut queue, 61), None, "the second back-off is two seconds");
        assert_eq!(queue.next_deadline(), Some(seconds(62)));
        assert_eq!(next(&mut queue, 62).as_deref(), Some("p"));
        queue.failed("p", BTreeSet::from([FIT]), seconds(62));
        assert_eq!(next(&mut queue, 62 + 300).as_deref(), Some("p"), "a wrong hint does not lose a pod");
    }

    #[test]
    fn what_happens_during_the_decision_counts() {
        let (mut queue, profile) = (Queue::default(), plugins::default_profile());
        queue.add(named("p", json!({})), &profile, seconds(0));
        next(&mut queue, 0);
        queue.happened(&Event::NodeAdded(&node("n", "1", "1Gi")), &profile, seconds(0));
        queue.failed("p", BTreeSet::from([FIT]), seconds(0));
        assert_eq!(next(&mut queue, 1).as_deref(), Some("p"));
    }

    #[test]
    fn a_gated_pod_waits_until_its_gates_are_lifted() {
        let (mut queue, profile) = (Queue::default(), plugins::default_profile());
        let gated = named("p", json!({"schedulingGates": [{"name": "a"}]}));
        let (_, why) = queue.add(gated.clone(), &profile, seconds(0)).unwrap();
        assert_eq!(why.reasons, ["waiting for scheduling gates: [a]"]);
        assert_eq!(next(&mut queue, 0), None);
        queue.update(&gated, named("p", json!({})), &profile, seconds(1));
        assert_eq!(next(&mut queue, 1).as_deref(), Some("p"));
    }

    #[test]
    fn a_removed_pod_is_forgotten_in_every_state() {
        let (mut queue, profile) = (Queue::default(), plugins::default_profile());
        for step in 0..4 {
            queue.add(named("p", json!({})), &profile, seconds(0));
            if step > 0 {
                next(&mut queue, 0);
            }
            match step {
                2 => queue.failed("p", BTreeSet::new(), seconds(0)),
                3 => queue.failed("p", BTreeSet::from([FIT]), seconds(0)),
                _ => {}
            }
            queue.remove("p");
            assert_eq!(next(&mut queue, 1000), None, "{step}");
            assert_eq!(queue.next_deadline(), None, "{step}");
        }
    }
}
