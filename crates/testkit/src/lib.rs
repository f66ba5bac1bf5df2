//! Clusters for tests: the real program, in namespaces of its own, driven by the real `kubectl` and other clients.
//!
//! Read first: [`Cluster`] (a running server and everything a test does with it), [`Options`] (what kind of cluster),
//! [`Space`] (the namespaces: a test's cluster has a network, a process table and mounts of its own, which vanish with
//! the test, even with one that is killed).
//!
//! Whatever goes wrong here is a failed test, so functions panic with a sentence instead of returning errors.
//!
//! Not here: in-process fakes (each crate has its own), test cases (`crates/ironclad/tests`).
//!
//! Several machines on one network, each with a server or an agent of one cluster: [`Machines`].
//!
//! To add another runtime to run clusters on: a module like [`containerd`] and a constructor of [`Options`].

pub mod authority;
mod cluster;
pub mod containerd;
pub mod etcd;
pub mod image;
mod kubectl;
pub mod load;
mod machines;
mod space;
pub mod tools;
pub mod wait;

pub use cluster::{Answer, Cluster, Options};
pub use kubectl::{Kubectl, Output, run};
pub use machines::{Machine, Machines};
pub use space::Space;
