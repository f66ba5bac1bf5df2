//! Ways to the pods of other nodes: a route through the other node's address where both are on one link, else through a
//! VXLAN tunnel.
//!
//! Read first: [`members`] (what is read from Node objects), [`plan`] (the decision, pure: a cluster and what the kernel
//! has, to commands), `kernel` (the one who reads the kernel and runs commands). This page joins them: it plans again
//! whenever a Node or something in the kernel changes, and never otherwise.
//!
//! Nothing has to be told from node to node: a tunnel end's hardware address is derived from its node's address, and who
//! is where stands in the Node objects. Routes stay when this program ends: pods outlive it.
//!
//! Not here: addresses of pods on this node (the CNI plugins), Services (the `proxy` crate), which node has which
//! addresses (node IPAM).
//!
//! Upstream: none; flannel's `vxlan` backend with `DirectRouting` does the same.

mod kernel;
pub mod members;
pub mod plan;

use std::{collections::BTreeSet, time::Duration};

use api::types::core::v1::Node;
use client::{Informer, Subscription};
use foundation::{SharedClock, Tasks};
use sys::netlink::changes::{Change, Changes};
use tokio::{io::unix::AsyncFd, sync::watch};

pub use kernel::{Kernel, uninstall};
pub use members::{Members, Network};

/// First and longest wait before commands that the kernel refused are tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// What goes wrong with pod routes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's netlink.
    #[error(transparent)]
    Netlink(#[from] sys::netlink::Error),
    /// A setting below `/proc/sys/net`.
    #[error("cannot set {name} to {value}: {source}")]
    Setting {
        /// Its path below `/proc/sys/net`.
        name: String,
        /// What it was to be.
        value: &'static str,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// The event loop cannot wait for the kernel.
    #[error("cannot wait for changes of routes: {0}")]
    Wait(#[source] std::io::Error),
    /// The tunnel was there a moment ago.
    #[error("the tunnel {} has vanished", plan::TUNNEL)]
    TunnelVanished,
}

/// What is to be known beforehand.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node.
    pub node_name: String,
    /// Network of all pods; routes to others are refused.
    pub cluster_cidr: Network,
}

/// Keeps ways to the pods of all other nodes, in the network namespace of the process.
///
/// The returned value is the largest packet that reaches every other pod whole, in bytes: none until this node has a
/// network of pods, 0 when no interface of its own tells.
///
/// # Errors
/// When the kernel's netlink is closed to this process.
pub fn start(
    options: Options,
    nodes: Informer<Node>,
    tasks: &Tasks,
    clock: SharedClock,
) -> Result<watch::Receiver<Option<u32>>, Error> {
    let (sender, mtu) = watch::channel(None);
    // Opened first: what changes while the first plan is made must be told.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a Changes keeps one descriptor open for as long as it lives"
    )]
    let changes = AsyncFd::new(Changes::open()?).map_err(Error::Wait)?;
    let follower = Follower {
        members: Members::new(options.node_name, options.cluster_cidr),
        kernel: Kernel::open()?,
        changes,
        interest: Interest::default(),
        refused: BTreeSet::new(),
        mtu: sender,
    };
    tasks.spawn_until_cancelled("pod-routes", follower.run(nodes, clock));
    Ok(mtu)
}

/// The links whose changes matter.
#[derive(Debug, Default)]
struct Interest {
    tunnel: Option<u32>,
    links: BTreeSet<u32>,
}

impl Interest {
    /// Whether a plan may come out otherwise after this. Pods that start and stop change links and neighbours all the
    /// time: those are passed over.
    fn includes(&self, change: &Change) -> bool {
        match change {
            Change::Link(link) => link.name == plan::TUNNEL || self.links.contains(&link.index),
            Change::Neighbour { link } => Some(*link) == self.tunnel,
            Change::Route(route) => route.destination.is_ipv4(),
            Change::Address { .. } | Change::Lost => true,
        }
    }
}

struct Follower {
    members: Members,
    kernel: Kernel,
    changes: AsyncFd<Changes>,
    interest: Interest,
    /// What was last said to be impossible, so that it is said once.
    refused: BTreeSet<plan::Refusal>,
    mtu: watch::Sender<Option<u32>>,
}

impl Follower {
    async fn run(mut self, nodes: Informer<Node>, clock: SharedClock) {
        let mut node_changes = nodes.subscribe();
        // Before all Nodes are known a plan would take good routes away.
        nodes.synced().await;
        self.see(&mut node_changes);
        let mut wait = RETRY.0;
        loop {
            let settled;
            (self, settled) = match tokio::task::spawn_blocking(move || self.settle()).await {
                Ok(settled) => settled,
                // It took the kernel's socket with it: without it nothing can be done.
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return, // the process ends
                },
            };
            match settled {
                Ok(()) => {
                    wait = RETRY.0;
                    if let Err(error) = self.change(&mut node_changes).await {
                        tracing::error!(%error, "routes to other nodes' pods are no longer kept");
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot keep the routes to other nodes' pods, trying again");
                    clock.sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                    self.see(&mut node_changes);
                }
            }
        }
    }

    /// Waits until a plan may come out otherwise.
    async fn change(&mut self, nodes: &mut Subscription<Node>) -> Result<(), Error> {
        loop {
            let relevant = tokio::select! {
                change = nodes.recv() => {
                    let first = self.members.see(&change);
                    // Many Nodes may change at once, above all at the start: one plan for all of them.
                    self.see(nodes) | first
                }
                ready = self.changes.readable_mut() => {
                    let mut ready = ready.map_err(Error::Wait)?;
                    let changes = ready.get_inner_mut().take()?;
                    ready.clear_ready();
                    changes.iter().any(|change| self.interest.includes(change))
                }
            };
            if relevant {
                return Ok(());
            }
        }
    }

    fn see(&mut self, nodes: &mut Subscription<Node>) -> bool {
        let mut changed = false;
        while let Some(change) = nodes.try_recv() {
            changed |= self.members.see(&change);
        }
        changed
    }

    /// Makes the kernel's routes what they are to be.
    fn settle(mut self) -> (Self, Result<(), Error>) {
        let outcome = self.try_settle();
        (self, outcome)
    }

    fn try_settle(&mut self) -> Result<(), Error> {
        let Some(cluster) = self.members.cluster() else {
            if self.members.is_alone() {
                self.tell(0);
            }
            return Ok(());
        };
        let observed = self.kernel.observe()?;
        let plan = plan::plan(&cluster, &observed);
        if plan.refused != self.refused {
            for refusal in plan.refused.difference(&self.refused) {
                tracing::warn!(node = refusal.node, "pods there are not reached: {}", refusal.reason);
            }
            self.refused = plan.refused;
        }
        let known = self.mtu.borrow().unwrap_or_default();
        self.tell(plan.mtu.unwrap_or(known));
        let applied = self.kernel.apply(&plan.commands);
        let tunnel = match plan.commands.is_empty() {
            true => observed.tunnel().map(|link| link.index),
            false => self.kernel.tunnel()?,
        };
        self.interest = Interest { tunnel, links: plan.links };
        if !plan.commands.is_empty() {
            tracing::info!(
                nodes = cluster.others.len(),
                commands = plan.commands.len(),
                "routes to other nodes' pods changed"
            );
        }
        applied
    }

    fn tell(&self, mtu: u32) {
        self.mtu.send_if_modified(|now| now.replace(mtu) != Some(mtu));
    }
}
