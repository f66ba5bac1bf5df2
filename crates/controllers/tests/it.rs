//! Controllers together, over the fake API and a kubelet that makes every pod ready at once.

#[path = "it/rollout.rs"]
mod rollout;
