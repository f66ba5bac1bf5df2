//! The one door to container runtimes: CRI v1 over a unix socket.
//!
//! A thin layer that turns answers into [`crate::worker::state`] records and gRPC failures into texts that users may
//! read. Not here: what to call when.

pub mod handlers;

use std::path::Path;
use std::time::Duration;

use cri::v1;
use foundation::SharedClock;

use crate::worker::state::{ContainerRecord, RuntimeState, SandboxRecord};

/// Why the runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket does not answer.
    #[error(transparent)]
    Connect(#[from] cri::Error),
    /// The runtime refused; shown as upstream shows gRPC errors.
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Status(#[from] Box<tonic::Status>),
    /// The answer lacks what it must have.
    #[error("the container runtime answered without {0}")]
    Missing(&'static str),
}

impl Error {
    /// What the runtime itself said, without the envelope.
    pub fn message(&self) -> String {
        match self {
            Error::Status(status) => status.message().to_owned(),
            other => other.to_string(),
        }
    }

    /// Whether the thing does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Status(status) if status.code() == tonic::Code::NotFound)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        Error::Status(Box::new(status))
    }
}

/// What the runtime is.
#[derive(Clone, Debug)]
pub struct Version {
    /// As in `containerd`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A container runtime.
#[derive(Clone)]
pub struct Runtime {
    runtime: cri::RuntimeClient,
    image: cri::ImageClient,
}

impl Runtime {
    /// Over the socket at `endpoint`; `clock` measures the calls.
    pub async fn connect(endpoint: &Path, clock: SharedClock) -> Result<Runtime, Error> {
        let observer = crate::metrics::observer(clock);
        let clients = cri::connect_observed(endpoint, Some(observer)).await?;
        Ok(Runtime { runtime: clients.runtime, image: clients.images })
    }

    /// The generated client, for calls that are only passed on.
    pub fn raw(&self) -> cri::RuntimeClient {
        self.runtime.clone()
    }

    /// The generated image client.
    pub fn images(&self) -> cri::ImageClient {
        self.image.clone()
    }

    /// What the runtime is.
    pub async fn version(&self) -> Result<Version, Error> {
        let request = v1::VersionRequest { version: "0.1.0".to_owned() };
        let answer = self.raw().version(request).await?.into_inner();
        Ok(Version { name: answer.runtime_name, version: answer.runtime_version })
    }

    /// Everything that the runtime has of pods: per pod UID its namespace, name and state.
    pub async fn pods(&self) -> Result<Vec<Found>, Error> {
        let sandboxes =
            self.raw().list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.into_inner().items;
        let mut found: Vec<Found> = Vec::new();
        for sandbox in sandboxes {
            let Some(metadata) = sandbox.metadata else { continue };
            if found.iter().any(|other| other.uid == metadata.uid) {
                continue;
            }
            let state = self.pod(&metadata.uid).await?;
            found.push(Found {
                uid: metadata.uid,
                namespace: metadata.namespace,
                name: metadata.name,
                state,
            });
        }
        Ok(found)
    }

    /// What the runtime has of the pod `uid`.
    pub async fn pod(&self, uid: &str) -> Result<RuntimeState, Error> {
        let labels =
            std::collections::HashMap::from([(crate::pod::sandbox::POD_UID.to_owned(), uid.to_owned())]);
        let filter = v1::PodSandboxFilter { label_selector: labels.clone(), ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let mut state = RuntimeState::default();
        for sandbox in self.raw().list_pod_sandbox(request).await?.into_inner().items {
            match self.sandbox(&sandbox.id).await {
                Ok(sandbox) => state.put_sandbox(sandbox),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let filter = v1::ContainerFilter { label_selector: labels, ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        for container in self.raw().list_containers(request).await?.into_inner().containers {
            match self.container(&container.id).await {
                Ok(container) => state.put_container(container),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(state)
    }

    /// A sandbox as it is now.
    pub async fn sandbox(&self, id: &str) -> Result<SandboxRecord, Error> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = self.raw().pod_sandbox_status(request).await?.into_inner().status;
        Ok(SandboxRecord::from_cri(&status.ok_or(Error::Missing("the sandbox's status"))?))
    }

    /// A container as it is now.
    pub async fn container(&self, id: &str) -> Result<ContainerRecord, Error> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let status = self.raw().container_status(request).await?.into_inner().status;
        Ok(ContainerRecord::from_cri(&status.ok_or(Error::Missing("the container's status"))?))
    }

    /// Runs a command in a container and waits for it: exit code and what it wrote.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<(i32, Vec<u8>), Error> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX),
        };
        let answer = self.raw().exec_sync(request).await?.into_inner();
        let mut output = answer.stdout;
        output.extend(answer.stderr);
        Ok((answer.exit_code, output))
    }
}

/// A pod that the runtime has.
pub struct Found {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its sandboxes and containers.
    pub state: RuntimeState,
}
