//! Controllers.
mod claim;
pub mod deployment;
mod numbers;
mod object;
mod pods;
mod replicas;
pub mod replicaset;
