//! The worker of one pod.
//!
//! [`decide::decide`] is pure: from the pod, what runs, what is under way and the time, it says what to do next. The
//! [`actor`] owns the pod's state, carries the commands out and writes the status; it makes no choices.

pub mod actor;
pub mod backoff;
pub mod decide;
pub mod execute;
pub mod lifecycle;
pub mod state;
