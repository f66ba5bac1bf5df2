//! Plans, not loops: the contract of a controller, and the one runner that carries plans out.
//!
//! A [`Controller`] says what it watches and, for one key, what should happen next: a pure function from the caches to a
//! [`Plan`]. The [`Runner`] owns everything else: the queue, one worker per key, back-off, waiting for the caches to show
//! what was written, slow-start batches, timers, metrics, events and all I/O. So a controller's test is a table, and the
//! same code runs under simulation.
//!
//! Read first: [`Controller`], [`Watches`] (what wakes a key), [`View`] (what a plan may read), [`Plan`] and [`Action`] (what
//! it may want), [`Runner`].
//!
//! Guarantees, each the name of a test in `tests/it.rs`: one worker per key; a change during a run is followed by another
//! run; a failed key comes back after 5 ms, doubling to 1000 s; a key whose last writes the caches do not show yet is
//! not planned; a batch of creations stops growing when one fails; `requeue_at` fires once at its time; a plan that panics
//! costs its key a back-off and nobody else anything.
//!
//! **Invariants.** No controller holds a client, a clock, a queue or a task. No kind is named here.
//!
//! To add a controller: implement [`Controller`] in one file of the `controllers` crate and add it to the list there.

mod caches;
mod controller;
mod expectations;
mod key;
mod plan;
mod queue;
mod runner;
mod testing;

pub use caches::{CONTROLLER_UID, Caches};
pub use controller::{Controller, Trigger, View, Watches};
pub use key::Key;
pub use plan::{Action, Answers, EventSpec, Failure, Plan, Step, Verb};
pub use runner::{Runner, RunnerOptions};
pub use testing::Fixture;
