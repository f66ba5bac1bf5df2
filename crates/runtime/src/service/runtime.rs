//! CRI's RuntimeService.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use cri::v1::{self, runtime_service_server::RuntimeService};
use futures::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::Service;
use crate::engine::{Error, blocking};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn ok<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

/// Items of one message of a streamed list.
const BATCH: usize = 500;

fn batches<I: Send + 'static, T: Send + 'static>(
    items: Vec<I>,
    wrap: fn(Vec<I>) -> T,
) -> Response<Answers<T>> {
    let mut batches = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        batches.push(Ok(wrap(items.by_ref().take(BATCH).collect())));
    }
    Response::new(Box::pin(tokio_stream::iter(batches)))
}

impl Service {
    async fn all_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, Error> {
        let filter = filter.unwrap_or_default();
        let mut running = v1::ContainerStateValue::default();
        running.set_state(v1::ContainerState::ContainerRunning);
        let containers = self.engine.list_containers(Some(v1::ContainerFilter {
            id: filter.id,
            state: Some(running),
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        }));
        let engine = self.engine.clone();
        blocking(move || Ok(containers.iter().filter_map(|c| engine.container_stats(&c.id)).collect())).await
    }

    async fn all_sandbox_stats(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>, Error> {
        let filter = filter.unwrap_or_default();
        let sandboxes = self.engine.list_sandboxes(Some(v1::PodSandboxFilter {
            id: filter.id,
            state: Some(v1::PodSandboxStateValue::default()),
            label_selector: filter.label_selector,
        }));
        let engine = self.engine.clone();
        blocking(move || Ok(sandboxes.iter().filter_map(|s| engine.sandbox_stats(&s.id)).collect())).await
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        ok(v1::VersionResponse {
            version: "0.1.0".into(), // of the kubelet's runtime API, which has never changed
            runtime_name: "ironclad".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no sandbox config"))?;
        let engine = self.engine.clone();
        // A caller that hangs up must not leave half a sandbox.
        let work = async move { engine.run_sandbox(config, request.runtime_handler).await };
        let pod_sandbox_id = self.engine.to_the_end(work).await?;
        ok(v1::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().pod_sandbox_id);
        self.engine.to_the_end(async move { engine.stop_sandbox(&id).await }).await?;
        ok(v1::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().pod_sandbox_id);
        self.engine.to_the_end(async move { engine.remove_sandbox(&id).await }).await?;
        ok(v1::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let (status, containers_statuses) = self.engine.sandbox_status(&request.pod_sandbox_id)?;
        let info =
            if request.verbose { self.engine.sandbox_info(&request.pod_sandbox_id)? } else { HashMap::new() };
        ok(v1::PodSandboxStatusResponse {
            status: Some(status),
            info,
            containers_statuses,
            timestamp: crate::engine::now(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        ok(v1::ListPodSandboxResponse { items: self.engine.list_sandboxes(request.into_inner().filter) })
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Answers<v1::StreamPodSandboxesResponse>> {
        let items = self.engine.list_sandboxes(request.into_inner().filter);
        Ok(batches(items, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no container config"))?;
        let engine = self.engine.clone();
        let work = async move { engine.create_container(&request.pod_sandbox_id, config).await };
        let container_id = self.engine.to_the_end(work).await?;
        ok(v1::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().container_id);
        self.engine.to_the_end(async move { engine.start_container(&id).await }).await?;
        ok(v1::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        self.engine.stop_container(&request.container_id, request.timeout).await?;
        ok(v1::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().container_id);
        self.engine.to_the_end(async move { engine.remove_container(&id).await }).await?;
        ok(v1::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        ok(v1::ListContainersResponse {
            containers: self.engine.list_containers(request.into_inner().filter),
        })
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Answers<v1::StreamContainersResponse>> {
        let items = self.engine.list_containers(request.into_inner().filter);
        Ok(batches(items, |containers| v1::StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let status = self.engine.container_status(&request.container_id)?;
        let info =
            if request.verbose { self.engine.container_info(&request.container_id)? } else { HashMap::new() };
        ok(v1::ContainerStatusResponse { status: Some(status), info })
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        if let Some(linux) = request.linux {
            self.engine.update_resources(&request.container_id, linux).await?;
        }
        ok(v1::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        self.engine.reopen_log(&request.into_inner().container_id).await?;
        ok(v1::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = Duration::from_secs(request.timeout.max(0).unsigned_abs());
        let done = self.engine.exec_sync(&request.container_id, request.cmd, timeout).await?;
        ok(v1::ExecSyncResponse { stdout: done.stdout, stderr: done.stderr, exit_code: done.code })
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let request = request.into_inner();
        ok(v1::ExecResponse { url: self.streaming.exec(request)? })
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        let request = request.into_inner();
        ok(v1::AttachResponse { url: self.streaming.attach(request)? })
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        let request = request.into_inner();
        ok(v1::PortForwardResponse { url: self.streaming.port_forward(request)? })
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        let id = self.engine.container_id(&request.into_inner().container_id)?;
        let engine = self.engine.clone();
        let stats = blocking(move || Ok(engine.container_stats(&id))).await?;
        ok(v1::ContainerStatsResponse { stats })
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let stats = self.all_container_stats(request.into_inner().filter).await?;
        ok(v1::ListContainerStatsResponse { stats })
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Answers<v1::StreamContainerStatsResponse>> {
        let items = self.all_container_stats(request.into_inner().filter).await?;
        Ok(batches(items, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let id = self.engine.sandbox_id(&request.into_inner().pod_sandbox_id)?;
        let engine = self.engine.clone();
        let stats = blocking(move || Ok(engine.sandbox_stats(&id))).await?;
        ok(v1::PodSandboxStatsResponse { stats })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let stats = self.all_sandbox_stats(request.into_inner().filter).await?;
        ok(v1::ListPodSandboxStatsResponse { stats })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Answers<v1::StreamPodSandboxStatsResponse>> {
        let items = self.all_sandbox_stats(request.into_inner().filter).await?;
        Ok(batches(items, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        // The pod CIDR it carries is written into the CNI configuration by who chose it.
        ok(v1::UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let condition = |kind: &str, result: Result<(), String>, reason: &str| match result {
            Ok(()) => v1::RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() },
            Err(message) => v1::RuntimeCondition {
                r#type: kind.into(),
                status: false,
                reason: reason.into(),
                message: format!("Network plugin returns error: {message}"),
            },
        };
        let engine = self.engine.clone();
        let network = blocking(move || Ok(engine.network.check())).await?;
        let conditions = vec![
            condition("RuntimeReady", Ok(()), ""),
            condition("NetworkReady", network, "NetworkPluginNotReady"),
        ];
        let mut info = HashMap::new();
        if request.into_inner().verbose {
            let options = &self.engine.options;
            let facts = serde_json::json!({"root": options.root, "state": options.state});
            info.insert("config".to_owned(), facts.to_string());
        }
        let features =
            v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            info,
            runtime_handlers: vec![v1::RuntimeHandler { name: String::new(), features: Some(features) }],
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        })
    }

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Answers<v1::ContainerEventResponse>> {
        let events = BroadcastStream::new(self.engine.events.subscribe());
        // Who lags loses the stream, opens it again and lists: better than a gap nobody notices.
        Ok(Response::new(Box::pin(events.map(|event| event.map_err(|e| Status::data_loss(e.to_string()))))))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        let mut linux = v1::LinuxRuntimeConfiguration::default();
        linux.set_cgroup_driver(v1::CgroupDriver::Cgroupfs);
        ok(v1::RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        // The pod's control group is the kubelet's; there is no sandbox process with limits of its own.
        self.engine.sandbox_id(&request.into_inner().pod_sandbox_id)?;
        ok(v1::UpdatePodSandboxResourcesResponse {})
    }
}
