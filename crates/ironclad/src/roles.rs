//! The parts of a cluster, one file each: what it is started with, and when it is ready.
//!
//! Every part gets what it needs from [`Context`]: above all clients to the API server under identities of their own.
//! Not here: the order in which they start (`server`).

pub mod apiserver;
pub mod backup;
pub mod controllers;
pub mod dns;
pub mod etcd;
pub mod kubelet;
pub mod leader;
pub mod members;
pub mod network;
pub mod proxy;
pub mod runtime;
pub mod scheduler;
pub mod store;
pub mod tokens;

use std::sync::Arc;

use ::apiserver::{ApiServer, User};
use client::{Client, Informers};
use foundation::{SharedClock, SharedRandomness, Tasks};

use crate::{config, node};

/// What every part is given.
#[derive(Clone)]
pub struct Context {
    /// The settings.
    pub config: Arc<config::Server>,
    /// Who this node is.
    pub node: node::Identity,
    /// The cluster's keys and certificates.
    pub pki: Arc<pki::Pki>,
    /// The time.
    pub clock: SharedClock,
    /// Randomness.
    pub randomness: SharedRandomness,
}

impl Context {
    /// What all nodes of the cluster have to agree on.
    pub fn cluster(&self) -> node::Cluster {
        node::Cluster {
            cluster_cidr: self.config.cluster_cidr,
            service_cidr: self.config.service_cidr,
            cluster_dns: self.config.cluster_dns(),
            cluster_domain: self.config.cluster_domain.clone(),
        }
    }

    /// The server as a node of its own cluster: its clients are calls within the process, its certificate is its own.
    pub fn on_node(&self, api: &Api) -> anyhow::Result<node::Context> {
        let user = format!("system:node:{}", self.node.name);
        Ok(node::Context {
            dirs: self.config.dirs.clone(),
            config: self.config.node.clone(),
            cluster: self.cluster(),
            identity: self.node.clone(),
            clock: self.clock.clone(),
            randomness: self.randomness.clone(),
            client: api.client(&user, &["system:nodes"]),
            informers: api.informers.clone(),
            serving: kubelet::serving(self)?,
        })
    }
}

/// The API server and what all parts share of it.
#[derive(Clone)]
pub struct Api {
    /// The server.
    pub server: ApiServer,
    /// The caches of the whole process.
    pub informers: Informers,
}

impl Api {
    /// Opens the shared caches. They read as the controller manager, which may read everything.
    pub fn new(server: ApiServer, tasks: &Tasks, clock: SharedClock) -> Self {
        let client =
            client_of(&server, User::new("system:kube-controller-manager", &[]), "kube-controller-manager");
        Self { informers: Informers::new(client, tasks, clock), server }
    }

    /// A client with an identity of its own.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        client_of(&self.server, User::new(name, groups), name)
    }

    /// A client that may do everything: for the objects that every cluster has, not for any component.
    pub fn administrator(&self) -> Client {
        self.client("system:ironclad", &[User::MASTERS])
    }
}

fn client_of(server: &ApiServer, user: User, agent: &str) -> Client {
    Client::new(server.in_process(user), component(agent))
}

/// The component that has this identity, as `managedFields` are to name it.
fn component(identity: &str) -> &str {
    match identity.strip_prefix("system:") {
        Some(node) if node.starts_with("node:") => "kubelet",
        Some(account) if account.starts_with("serviceaccount:kube-system:") => "kube-controller-manager",
        Some(component) => component,
        None => identity,
    }
}

/// The user name of a ServiceAccount in kube-system.
pub fn service_account(name: &str) -> String {
    format!("system:serviceaccount:kube-system:{name}")
}

/// The groups of such a ServiceAccount.
pub const SERVICE_ACCOUNT_GROUPS: [&str; 2] =
    ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
