//! How a schedule's store ends and begins again: killed, without power, with a bit turned over; and what is then found.
//!
//! Not here: what the model says may be found (`model`).

use std::sync::Arc;
use std::time::Duration;

use foundation::Clock as _;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::model::{Lease, State, attached};
use super::world::{Running, World, directory};
use crate::embedded::memory::Memory;
use crate::embedded::metrics::CommitMetrics;
use crate::embedded::mvcc::Cursor;
use crate::embedded::policy::Policy;
use crate::embedded::writer::{Queue, Writer};
use crate::embedded::{QUEUED, Shared, maintenance, recovery};
use crate::error::Error;
use crate::types::Range;

impl World {
    pub(super) fn flip(&mut self) {
        // What the damage is laid over must be settled.
        if self.lied || !self.model.maybe.is_empty() {
            return;
        }
        self.running = None;
        self.disk.disarm();
        self.disk.set_room(u64::MAX);
        self.disk.kill();
        let Some((path, at, bit)) = self.disk.flip() else { return self.open() };
        self.count("bit flips");
        self.say(|| format!("bit {bit:#x} of byte {at} of {} turns over", path.display()));
        match self.recover() {
            Ok(recovered) => {
                let found = state_of(&recovered.state);
                let fits = |state: &State| found.same(state) && found.compacted == state.compacted;
                if !fits(&self.model.state) {
                    let before =
                        self.model.states.len().checked_sub(2).map(|at| self.model.states[at].clone());
                    let before = before.filter(fits).expect("damage changed the store");
                    self.count("the last batch lost to a flip");
                    self.model.rewind(before);
                }
                // What was lost with it is what is left of leases.
                for lease in self.model.state.leases.values_mut() {
                    lease.deadline = self.clock.monotonic();
                }
                self.start(recovered);
            }
            Err(Error::Corrupt { path: named, detail, .. }) => {
                self.say(|| format!("{}: {detail}", named.display()));
                assert!(
                    named == path || named == directory() || detail.contains("missing"),
                    "{}",
                    named.display()
                );
                self.count("corruption said");
                self.disk.flip_at(&path, at, bit);
                self.open();
            }
            Err(Error::Format { path: named, .. }) => {
                assert_eq!(named, path);
                self.disk.flip_at(&path, at, bit);
                self.open();
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn reopen(&mut self, power: bool) {
        self.running = None;
        if self.below(4) > 0 || self.disk.is_off() {
            self.disk.disarm();
        }
        if power || self.disk.is_off() {
            self.count("power losses");
            self.say(|| "the power is lost".to_owned());
            self.disk.lose_power();
        } else {
            self.count("kills");
            self.say(|| "killed".to_owned());
            self.disk.kill();
        }
        self.open();
    }

    fn recover(&self) -> Result<recovery::Recovered, Error> {
        recovery::recover(directory(), &self.options, self.clock.monotonic())
    }

    /// Opens the store, and compares what is there with what may be.
    pub(super) fn open(&mut self) {
        let recovered = loop {
            match self.recover() {
                Ok(recovered) => break recovered,
                Err(Error::Corrupt { detail, .. }) if self.lied => {
                    self.say(|| detail);
                    self.count("corruption said");
                    self.said = true;
                    return;
                }
                Err(Error::Io { .. } | Error::NoSpace) => {
                    self.say(|| "opening failed".to_owned());
                    self.disk.disarm();
                    self.disk.set_room(u64::MAX);
                    match self.disk.is_off() {
                        true => self.disk.lose_power(),
                        false => self.disk.kill(),
                    }
                }
                Err(error) => panic!("{error}"),
            }
        };
        let found = state_of(&recovered.state);
        self.say(|| format!("opened at {}", found.revision));
        let maybe = std::mem::take(&mut self.model.maybe);
        let exact = |state: &State| found.same(state) && found.compacted == state.compacted;
        // A batch that failed may have had a compaction with it that nobody asked for.
        let fits = |state: &State| {
            exact(state) || self.forgets && found.same(state) && found.compacted > state.compacted
        };
        if exact(&self.model.state) {
            if !maybe.is_empty() {
                self.count("a failed batch was gone");
            }
        } else if let Some(candidate) = maybe.into_iter().find(|maybe| fits(&maybe.state)) {
            self.count("a failed batch came back");
            let kept = self.model.state.leases.clone();
            self.model.adopt(candidate);
            for (id, lease) in &mut self.model.state.leases {
                lease.deadline = kept.get(id).map_or(lease.deadline, |kept| kept.deadline);
            }
        } else {
            let earlier = self.model.states.iter().rfind(|earlier| exact(earlier)).cloned();
            match earlier.filter(|_| self.lied) {
                Some(earlier) => self.model.rewind(earlier),
                None => panic!("found {found}, expected {}", self.model.state),
            }
        }
        if self.lied {
            self.model.state.compacted = recovered.state.mvcc.compact_revision;
            for lease in self.model.state.leases.values_mut() {
                lease.deadline = Duration::ZERO;
            }
        }
        self.start(recovered);
    }

    /// Goes on with what was recovered, once all of it is as it should be.
    fn start(&mut self, recovered: recovery::Recovered) {
        let mut state = self.model.state.clone();
        self.compacted(&mut state, recovered.state.mvcc.compact_revision);
        for (id, lease) in &mut state.leases {
            let deadline = recovered.state.leases.deadline(*id).expect("the lease was found");
            assert!(deadline >= lease.deadline, "lease {id} was shortened: {deadline:?}, {lease:?}");
            assert!(deadline <= self.clock.monotonic() + Duration::from_secs(lease.ttl as u64));
            lease.deadline = deadline;
            let keys = recovered.state.leases.keys(*id).cloned().collect::<Vec<_>>();
            assert_eq!(keys, attached(&state.keys, *id), "of lease {id}");
        }
        self.model.state = state;
        let clock = Arc::new(self.clock.clone());
        let shared = Arc::new(Shared {
            memory: Arc::new(Memory::new(recovered.state)),
            queue: Queue::default(),
            slots: Arc::new(Semaphore::new(QUEUED)),
            files: recovered.files,
            maintenance: maintenance::Maintenance::by_hand(),
            lease_timer: Mutex::default(),
            lease_changed: Arc::default(),
            slowness: Default::default(),
            alarm: Mutex::default(),
            clock,
            options: self.options.clone(),
        });
        let policy = Policy::new(&self.options, self.clock.monotonic());
        let writer = Writer {
            shared: shared.clone(),
            wal: recovered.wal,
            policy,
            metrics: CommitMetrics::default(),
            synced_in: std::time::Duration::ZERO,
        };
        let State { revision, compacted, .. } = self.model.state;
        let seen = compacted.max(1) - 1;
        self.running = Some(Running { shared: shared.clone(), writer, watch: None, seen });
        for _ in 0..3 {
            let at = compacted.max(1) + self.below(revision + 1 - compacted.max(1));
            let mut cursor = Cursor::new(Range::prefix("").at(at));
            assert!(shared.memory.state.read().mvcc.read(&mut cursor, usize::MAX).expect("not compacted"));
            let expected: Vec<_> = self.model.at(at).values().cloned().collect();
            assert_eq!(cursor.response.kvs, expected, "at {at}");
        }
        self.watch();
    }
}

/// The engine's state as the model puts it.
fn state_of(state: &crate::embedded::State) -> State {
    let keys = state.mvcc.latest(b"", b"").map(|record| (record.key.clone(), record.kv())).collect();
    let lease = |id| {
        let info = state.leases.info(id, Duration::ZERO).expect("the lease is listed");
        (id, Lease { ttl: info.granted_ttl, deadline: Duration::ZERO })
    };
    State {
        revision: state.mvcc.revision,
        compacted: state.mvcc.compact_revision,
        keys: Arc::new(keys),
        leases: state.leases.ids().into_iter().map(lease).collect(),
    }
}
