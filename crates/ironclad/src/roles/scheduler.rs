//! The scheduler.

use foundation::Tasks;

use super::{Api, Context};

/// Starts the scheduler.
pub fn start(context: &Context, api: &Api, tasks: &Tasks) {
    let client = api.client("system:kube-scheduler", &[]);
    let options = ::scheduler::Options::default();
    let (clock, randomness) = (context.clock.clone(), context.randomness.clone());
    ::scheduler::start(options, client, &api.informers, tasks, clock, randomness);
}
