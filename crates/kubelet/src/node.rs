//! The node: what all its workers share ([`Node`]), and its own object and Lease in the API ([`run`]).
//!
//! Upstream: `pkg/kubelet/kubelet_node_status.go`, `pkg/kubelet/nodestatus`, `component-helpers/.../lease`.

pub mod info;
pub(crate) mod object;
mod register;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::meta::Quantity;
use api::types::core::v1::{Container, ObjectReference, Pod, Service};
use client::{
    Client, EventRecorder, EventType, Informer, Informers, ListOptions, ObjectReferenceOf, RecorderOptions,
};
use foundation::{SharedClock, SharedRandomness, Tasks};
use volumes::Objects;
use volumes::objects::{ApiObjects, NodeIdentity};

use crate::images::pulls::Pulls;
use crate::pod::network::Resolver;
use crate::runtime::handlers::Handlers;
use crate::runtime::{Runtime, Version};
use crate::{Error, Options, pod};

pub use register::run;

/// What every worker of the node shares.
pub struct Node {
    /// How the node is set up.
    pub options: Options,
    /// The API.
    pub client: Client,
    /// Events.
    pub recorder: EventRecorder,
    /// Containers.
    pub runtime: Runtime,
    /// What the runtime is.
    pub version: Version,
    /// What its handlers can do.
    pub handlers: Handlers,
    /// ConfigMaps, Secrets, claims, tokens.
    pub objects: Arc<dyn Objects>,
    /// Whose images those are that were pulled.
    pub pulls: Pulls,
    /// Mounts.
    pub host: Arc<dyn volumes::Host>,
    /// Time.
    pub clock: SharedClock,
    /// Randomness.
    pub randomness: SharedRandomness,
    /// The pods bound to this node.
    pub pods: Informer<Pod>,
    /// The Services of the cluster.
    pub services: Informer<Service>,
    /// Names.
    pub resolver: Resolver,
    /// The machine.
    pub machine: info::Machine,
    /// What pods can have of it.
    pub allocatable: BTreeMap<String, Quantity>,
    /// The node's addresses as text.
    pub ips: Vec<String>,
    /// Where workers and their commands run.
    pub tasks: Tasks,
}

impl Node {
    /// Connects to the runtime and looks at the machine.
    pub(crate) async fn connect(
        options: Options,
        client: Client,
        tasks: &Tasks,
        clock: SharedClock,
        randomness: SharedRandomness,
    ) -> Result<Arc<Node>, Error> {
        let failed =
            |source| Error::Runtime { endpoint: options.runtime_endpoint.display().to_string(), source };
        let runtime = Runtime::connect(&options.runtime_endpoint, clock.clone()).await.map_err(failed)?;
        let version = runtime.version().await.map_err(failed)?;
        let pulls = Pulls::open(&options.root_dir)
            .map_err(|source| Error::Host { what: "read the records of pulled images".to_owned(), source })?;
        let machine = info::Machine::inspect(&options.root_dir);
        let allocatable = machine.capacity(options.max_pods);
        let text = std::fs::read_to_string(&options.resolv_conf).unwrap_or_default();
        let resolver = Resolver::parse(&text, options.cluster_dns.clone(), options.cluster_domain.clone());
        let recorder = EventRecorder::new(
            client.clone(),
            tasks,
            clock.clone(),
            RecorderOptions::on_host("kubelet", &options.node_name),
        );
        let informers = Informers::new(client.clone(), tasks, clock.clone());
        let pods = informers
            .informer_with::<Pod>(ListOptions::fields(format!("spec.nodeName={}", options.node_name)));
        let services = informers.informer::<Service>();
        let identity = NodeIdentity {
            name: options.node_name.clone(),
            recorder: recorder.clone(),
            randomness: randomness.clone(),
        };
        Ok(Arc::new(Node {
            objects: ApiObjects::new(client.clone(), identity, tasks, clock.clone()),
            host: Arc::new(volumes::SystemHost),
            pulls,
            ips: options.node_ips.iter().map(ToString::to_string).collect(),
            tasks: tasks.child("pods"),
            options,
            client,
            recorder,
            runtime,
            version,
            handlers: Handlers::default(),
            clock,
            randomness,
            pods,
            services,
            resolver,
            machine,
            allocatable,
        }))
    }

    /// An event about one container of a pod.
    pub fn container_event(
        &self,
        pod: &Pod,
        container: &Container,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.recorder.event_about(container_reference(pod, &container.name), kind, reason, message);
    }

    /// Where the files of the pod `uid` are.
    pub fn pod_dir(&self, uid: &str) -> std::path::PathBuf {
        self.options.root_dir.join("pods").join(uid)
    }

    /// What the node adds to sandboxes.
    pub fn sandbox_node<'a>(&'a self, root: &'a str) -> pod::sandbox::Node<'a> {
        pod::sandbox::Node {
            name: &self.options.node_name,
            logs: &self.options.pod_logs_dir,
            cgroup_root: &self.options.cgroup_root,
            root,
            resolver: &self.resolver,
        }
    }
}

/// A reference to one container of a pod.
pub fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let kind = pod.spec.as_ref().map_or("containers", |spec| {
        if spec.init_containers.iter().flatten().any(|c| c.name == container) {
            "initContainers"
        } else if spec.ephemeral_containers.iter().flatten().any(|c| c.name == container) {
            "ephemeralContainers"
        } else {
            "containers"
        }
    });
    ObjectReference { field_path: Some(format!("spec.{kind}{{{container}}}")), ..pod.object_reference() }
}
