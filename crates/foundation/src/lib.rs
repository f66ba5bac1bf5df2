//! The ground under every crate: time, randomness, tasks, logs, metrics and health.
//!
//! Nothing here knows what a component does. Read first:
//!
//! * [`Clock`] and [`Randomness`]: what a component asks instead of the operating system, so that a
//!   whole cluster can run on virtual time from a seed ([`ManualClock`], [`SeededRandomness`]);
//! * [`Tasks`]: the supervisor that owns every spawned future; [`tasks::KINDS`] is the one table that
//!   says what a panic in each kind of task means;
//! * [`metrics::registry`]: counters, gauges and histograms, rendered as Prometheus text;
//! * [`health::Checks`]: named checks that a server answers `/healthz` from;
//! * [`tls`]: which versions of TLS are spoken, and with whom.
//!
//! **Invariants.** No business of any component. No global state but the metrics registry and the
//! tracing subscriber. Nothing here owns a timer or a thread until somebody asks for one.
//!
//! To add a task kind, add one row to [`tasks::KINDS`]. To add a metric, call the registry where the
//! thing is counted: there is no central list.

pub mod clock;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod randomness;
pub mod tasks;
pub mod tls;

pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use randomness::{Randomness, SeededRandomness, SharedRandomness, SystemRandomness};
pub use tasks::Tasks;
pub use tokio_util::sync::CancellationToken;
