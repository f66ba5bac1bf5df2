//! Lets one of several servers run the loops that must run once in a cluster.
//!
//! With a store of its own a server is alone and leads at once. Servers that share a store elect a leader by a Lease of
//! `kube-system`, as upstream's components do, with their durations: another one takes over once it has seen no sign of the
//! leader for 15 s, which it looks for every two to four, and at once when the leader stops in order.
//!
//! Each term has caches and tasks of its own, which end with it: a server that loses the lead is a candidate again.

use std::time::Duration;

use client::{LeaderElector, LeaderElectorOptions};
use foundation::Tasks;

use super::{Api, Context};

/// How long the loops have to stop when the lead is lost: less than what is left of the Lease by then.
const STOP: Duration = Duration::from_secs(3);

/// Starts the loops of a component.
pub type Start = fn(&Context, &Api, &Tasks);

/// Runs `start` whenever this server leads `component`, whose identity is `user`.
pub fn run(context: &Context, api: &Api, tasks: &Tasks, component: &'static str, user: &str, start: Start) {
    let (context, api, tasks_of) = (context.clone(), api.clone(), tasks.clone());
    let client = api.client(user, &[]);
    // As upstream: the host's name, and what tells two processes on it apart.
    let identity = format!("{}_{:016x}", context.node.name, context.randomness.u64());
    tasks.spawn("election", async move {
        let stop = tasks_of.token();
        while !stop.is_cancelled() {
            let options = LeaderElectorOptions::new("kube-system", component, &identity);
            let (clock, randomness) = (context.clock.clone(), context.randomness.clone());
            let elector = LeaderElector::new(client.clone(), clock, randomness, options);
            let (context, api, tasks) = (&context, &api, &tasks_of);
            let work = |lost: foundation::CancellationToken| async move {
                let term = tasks.child("term");
                let api = Api::new(api.server.clone(), &term, context.clock.clone());
                start(context, &api, &term);
                lost.cancelled().await;
                let late = term.shutdown(STOP).await;
                if !late.is_empty() {
                    tracing::warn!(?late, "did not stop in time");
                }
            };
            let ended = elector.run(stop.clone(), work).await;
            tracing::info!(component, ?ended, "no longer the leader");
        }
    });
}
