//! kube-scheduler's duty: every pod without a node gets the best one that fits.
//!
//! Read first: [`framework`] (what a plugin is), [`cluster`] (the nodes and what runs on them),
//! [`index`] (how many pods of which sort are where), [`cycle`] (one pod's
//! decision: a pure function), [`queue`] (who is next, who waits for what), `executor` (the one place with I/O).
//!
//! To add a plugin: one file in `plugins/` with a [`framework::Plugin`], and its line in [`plugins::default_profile`].
//!
//! **Invariants.** A decision reads a snapshot and returns a value. Nothing polls: a pod that fits nowhere is tried
//! again when something happened that a plugin which refused it said could help.
//!
//! Upstream: pkg/scheduler.

pub mod cluster;
pub mod cycle;
mod executor;
pub mod framework;
pub mod index;
pub mod plugins;
pub mod queue;
pub mod terms;
pub mod volumes;

pub use executor::{Options, start};
