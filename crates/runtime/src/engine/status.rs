//! What is known of pods and containers in CRI's words, and the events about them.
//!
//! Upstream: containerd internal/cri/server/{sandbox,container}_{status,list}.go, events.

use std::collections::HashMap;

use cri::v1;

use super::{Container, Engine, Error, Sandbox, State, now};
use crate::signals;
use crate::wire::RunStatus;

fn container_state(run: &RunStatus) -> v1::ContainerState {
    if run.exited() {
        v1::ContainerState::ContainerExited
    } else if run.started_at != 0 {
        v1::ContainerState::ContainerRunning
    } else {
        v1::ContainerState::ContainerCreated
    }
}

fn sandbox_state(sandbox: &Sandbox) -> v1::PodSandboxState {
    if sandbox.record.ready {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    }
}

fn container_status(container: &Container) -> v1::ContainerStatus {
    let (record, config) = (&container.record, &container.config);
    let run = container.run.borrow().clone();
    let mut status = v1::ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        created_at: record.created_at,
        started_at: run.started_at,
        finished_at: run.finished_at,
        exit_code: run.exit_code,
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        reason: run.reason.clone(),
        message: run.message.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: record.log.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        resources: container
            .resources
            .clone()
            .map(|linux| v1::ContainerResources { linux: Some(linux), windows: None }),
        image_id: record.image_id.clone(),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record.user.groups.iter().map(|g| i64::from(*g)).collect(),
            }),
        }),
        ..Default::default()
    };
    status.set_state(container_state(&run));
    status.set_stop_signal(signals::to_cri(signals::of_container(config, &record.stop_signal)));
    status
}

fn sandbox_status(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let (record, config) = (&sandbox.record, &sandbox.config);
    let mut addresses = record.addresses.iter().cloned();
    let options = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let mut status = v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        created_at: record.created_at,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: options.and_then(|s| s.namespace_options.clone()) }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.handler.clone(),
        ..Default::default()
    };
    status.set_state(sandbox_state(sandbox));
    status
}

fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn statuses_of(state: &State, sandbox: &str) -> Vec<v1::ContainerStatus> {
    state.containers.values().filter(|c| c.record.sandbox == sandbox).map(container_status).collect()
}

impl Engine {
    /// Tells who watches what happened to a container, or to a sandbox under its own ID.
    pub(super) fn publish(&self, sandbox: &str, subject: &str, kind: v1::ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let (pod_sandbox_status, containers_statuses) = {
            let state = self.state.lock();
            (state.sandboxes.get(sandbox).map(sandbox_status), statuses_of(&state, sandbox))
        };
        let mut event = v1::ContainerEventResponse {
            container_id: subject.to_owned(),
            created_at: now(),
            pod_sandbox_status,
            containers_statuses,
            ..Default::default()
        };
        event.set_container_event_type(kind);
        let _ = self.events.send(event);
    }

    /// A sandbox with its containers.
    pub(crate) fn sandbox_status(
        &self,
        id: &str,
    ) -> Result<(v1::PodSandboxStatus, Vec<v1::ContainerStatus>), Error> {
        let id = self.sandbox_id(id)?;
        let state = self.state.lock();
        let sandbox = state.sandboxes.get(&id).ok_or(Error::NotFound { kind: "sandbox", id: id.clone() })?;
        let mut status = sandbox_status(sandbox);
        // A namespace that someone took away is no network: the kubelet makes the pod anew.
        if let (true, Some(netns)) = (sandbox.record.ready, &sandbox.record.netns)
            && !sys::namespace::is_pinned(netns)
        {
            status.set_state(v1::PodSandboxState::SandboxNotready);
        }
        Ok((status, statuses_of(&state, &id)))
    }

    /// Sandboxes that pass a filter.
    pub(crate) fn list_sandboxes(&self, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let wanted_state = filter.state.map(|s| s.state());
        let state = self.state.lock();
        let fits = |s: &&Sandbox| {
            s.record.id.starts_with(&filter.id)
                && wanted_state.is_none_or(|w| sandbox_state(s) == w)
                && selected(&s.config.labels, &filter.label_selector)
        };
        let convert = |s: &Sandbox| {
            let mut item = v1::PodSandbox {
                id: s.record.id.clone(),
                metadata: s.config.metadata.clone(),
                created_at: s.record.created_at,
                labels: s.config.labels.clone(),
                annotations: s.config.annotations.clone(),
                runtime_handler: s.record.handler.clone(),
                ..Default::default()
            };
            item.set_state(sandbox_state(s));
            item
        };
        state.sandboxes.values().filter(fits).map(convert).collect()
    }

    /// A container.
    pub(crate) fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let id = self.container_id(id)?;
        let state = self.state.lock();
        let container =
            state.containers.get(&id).ok_or(Error::NotFound { kind: "container", id: id.clone() })?;
        Ok(container_status(container))
    }

    /// Containers that pass a filter.
    pub(crate) fn list_containers(&self, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
        let filter = filter.unwrap_or_default();
        let wanted_state = filter.state.map(|s| s.state());
        let state = self.state.lock();
        let fits = |c: &&Container| {
            c.record.id.starts_with(&filter.id)
                && c.record.sandbox.starts_with(&filter.pod_sandbox_id)
                && wanted_state.is_none_or(|w| container_state(&c.run.borrow()) == w)
                && selected(&c.config.labels, &filter.label_selector)
        };
        let convert = |c: &Container| {
            let mut item = v1::Container {
                id: c.record.id.clone(),
                pod_sandbox_id: c.record.sandbox.clone(),
                metadata: c.config.metadata.clone(),
                image: c.config.image.clone(),
                image_ref: c.record.image_ref.clone(),
                created_at: c.record.created_at,
                labels: c.config.labels.clone(),
                annotations: c.config.annotations.clone(),
                image_id: c.record.image_id.clone(),
                ..Default::default()
            };
            item.set_state(container_state(&c.run.borrow()));
            item
        };
        state.containers.values().filter(fits).map(convert).collect()
    }

    /// Debug facts of a container, as JSON.
    pub(crate) fn container_info(&self, id: &str) -> Result<HashMap<String, String>, Error> {
        let id = self.container_id(id)?;
        let state = self.state.lock();
        let container =
            state.containers.get(&id).ok_or(Error::NotFound { kind: "container", id: id.clone() })?;
        let info = serde_json::json!({
            "sandboxID": container.record.sandbox,
            "pid": container.run.borrow().pid,
            "cgroup": container.record.cgroup,
            "layers": container.record.layers,
        });
        Ok(HashMap::from([("info".to_owned(), info.to_string())]))
    }

    /// Debug facts of a sandbox, as JSON.
    pub(crate) fn sandbox_info(&self, id: &str) -> Result<HashMap<String, String>, Error> {
        let id = self.sandbox_id(id)?;
        let state = self.state.lock();
        let sandbox = state.sandboxes.get(&id).ok_or(Error::NotFound { kind: "sandbox", id: id.clone() })?;
        let info = serde_json::json!({
            "netns": sandbox.record.netns,
            "addresses": sandbox.record.addresses,
            "supervisor": self.options.socket_of(&id),
        });
        Ok(HashMap::from([("info".to_owned(), info.to_string())]))
    }

    /// IDs, network namespace and so on for the figures of a pod: its config and where its control group is.
    pub(crate) fn sandbox_facts(&self, id: &str) -> Option<SandboxFacts> {
        let state = self.state.lock();
        let sandbox = state.sandboxes.get(id)?;
        let linux = sandbox.config.linux.clone().unwrap_or_default();
        Some(SandboxFacts {
            attributes: v1::PodSandboxAttributes {
                id: id.to_owned(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            },
            cgroup: linux.cgroup_parent,
            netns: sandbox.record.netns.clone(),
            containers: state
                .containers
                .values()
                .filter(|c| c.record.sandbox == id && c.run.borrow().running())
                .map(|c| c.record.id.clone())
                .collect(),
            first_pid: state
                .containers
                .values()
                .filter(|c| c.record.sandbox == id && c.run.borrow().running())
                .map(|c| c.run.borrow().pid)
                .next(),
        })
    }

    /// What the figures of a container need.
    pub(crate) fn container_facts(&self, id: &str) -> Option<ContainerFacts> {
        let state = self.state.lock();
        let container = state.containers.get(id)?;
        Some(ContainerFacts {
            attributes: v1::ContainerAttributes {
                id: id.to_owned(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            },
            cgroup: container.record.cgroup.clone(),
            upper: self.options.container_root(id).join("upper"),
        })
    }
}

/// See [`Engine::sandbox_facts`].
pub(crate) struct SandboxFacts {
    pub attributes: v1::PodSandboxAttributes,
    pub cgroup: String,
    pub netns: Option<std::path::PathBuf>,
    pub containers: Vec<String>,
    pub first_pid: Option<i32>,
}

/// See [`Engine::container_facts`].
pub(crate) struct ContainerFacts {
    pub attributes: v1::ContainerAttributes,
    pub cgroup: String,
    pub upper: std::path::PathBuf,
}
