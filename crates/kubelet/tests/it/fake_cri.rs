//! A container runtime without containers: it keeps the books of CRI, tells events, and ends containers when a test
//! says so. Served over a real unix socket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use cri::v1::image_service_server::{ImageService, ImageServiceServer};
use cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cri::v1::*;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone)]
pub struct FakeCri(Arc<Shared>);

struct Shared {
    books: Mutex<Books>,
    events: broadcast::Sender<ContainerEventResponse>,
    evented: bool,
}

#[derive(Default)]
pub struct Books {
    pub sandboxes: HashMap<String, (PodSandboxConfig, bool)>,
    pub containers: HashMap<String, (ContainerConfig, ContainerStatus, String)>,
    pub calls: Vec<String>,
    pub images: Vec<String>,
    /// Handlers that sandboxes were asked for, in order.
    pub handlers: Vec<String>,
    /// Exit codes that containers end with as soon as they have started, by name; used up one by one.
    pub exits: HashMap<String, Vec<i32>>,
    /// Exit codes of commands, by the first word; 0 if none.
    pub commands: HashMap<String, i32>,
    /// What stopping a container waits for, if anything.
    pub stops: Option<Arc<tokio::sync::Semaphore>>,
    /// Where streams are served.
    pub streaming: String,
    /// Where logs are said to be.
    pub log_path: String,
    next: i64,
}

impl FakeCri {
    /// Serves at a fresh socket in `directory`.
    pub fn serve(directory: &std::path::Path, evented: bool) -> (FakeCri, PathBuf) {
        let books = Books { images: vec!["img".into()], ..Books::default() };
        let fake = FakeCri(Arc::new(Shared {
            books: Mutex::new(books),
            events: broadcast::channel(1000).0,
            evented,
        }));
        let socket = directory.join("cri.sock");
        let incoming = cri::listen(&socket).expect("a fresh socket");
        let server = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(fake.clone()))
            .add_service(ImageServiceServer::new(fake.clone()));
        tokio::spawn(async move { server.serve_with_incoming(incoming).await });
        (fake, socket)
    }

    pub fn books<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.0.books.lock())
    }

    /// Ends a running container.
    pub fn exit(&self, name: &str, code: i32) {
        let id = self.books(|books| {
            let mut all = books.containers.iter_mut();
            let running = ContainerState::ContainerRunning as i32;
            let (id, (_, status, _)) = all
                .find(|(_, (config, status, _))| {
                    config.metadata.as_ref().unwrap().name == name && status.state == running
                })
                .expect("a running container of that name");
            end(status, code);
            id.clone()
        });
        self.tell(&id, ContainerEventType::ContainerStoppedEvent);
    }

    pub fn running(&self) -> Vec<String> {
        let running = ContainerState::ContainerRunning as i32;
        self.books(|books| {
            let all = books.containers.values().filter(|(_, status, _)| status.state == running);
            let mut names: Vec<String> =
                all.map(|(config, _, _)| config.metadata.clone().unwrap().name).collect();
            names.sort();
            names
        })
    }

    fn tell(&self, id: &str, kind: ContainerEventType) {
        let event = self.books(|books| {
            let (_, _, sandbox) = books.containers.get(id)?;
            let statuses = books
                .containers
                .values()
                .filter(|(_, _, s)| s == sandbox)
                .map(|(_, status, _)| status.clone());
            Some(ContainerEventResponse {
                container_id: id.to_owned(),
                container_event_type: kind as i32,
                created_at: 0,
                pod_sandbox_status: books
                    .sandboxes
                    .get(sandbox)
                    .map(|(config, ready)| sandbox_status(sandbox, config, *ready)),
                containers_statuses: statuses.collect(),
            })
        });
        if let Some(event) = event {
            let _ = self.0.events.send(event);
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

fn end(status: &mut ContainerStatus, code: i32) {
    status.state = ContainerState::ContainerExited as i32;
    status.exit_code = code;
    status.finished_at = now();
    status.reason = if code == 0 { "Completed".into() } else { "Error".into() };
}

fn sandbox_status(id: &str, config: &PodSandboxConfig, ready: bool) -> PodSandboxStatus {
    PodSandboxStatus {
        id: id.to_owned(),
        metadata: config.metadata.clone(),
        state: if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready } as i32,
        created_at: 1,
        network: Some(PodSandboxNetworkStatus { ip: "10.42.0.7".into(), ..Default::default() }),
        labels: config.labels.clone(),
        ..Default::default()
    }
}

fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[tonic::async_trait]
impl RuntimeService for FakeCri {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        Ok(Response::new(StatusResponse::default()))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = config.unwrap();
        Ok(Response::new(self.books(|books| {
            books.next += 1;
            let id = format!("sandbox{}", books.next);
            books.calls.push("RunPodSandbox".into());
            books.handlers.push(runtime_handler);
            books.sandboxes.insert(id.clone(), (config, true));
            RunPodSandboxResponse { pod_sandbox_id: id }
        })))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.books(|books| {
            books.calls.push("StopPodSandbox".into());
            if let Some(sandbox) = books.sandboxes.get_mut(&id) {
                sandbox.1 = false;
            }
        });
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        self.books(|books| books.sandboxes.remove(&request.into_inner().pod_sandbox_id));
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let status = self.books(|books| {
            books.sandboxes.get(&id).map(|(config, ready)| sandbox_status(&id, config, *ready))
        });
        let status = Some(status.ok_or_else(|| Status::not_found("no such sandbox"))?);
        Ok(Response::new(PodSandboxStatusResponse { status, ..Default::default() }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let selector = request.into_inner().filter.map(|filter| filter.label_selector).unwrap_or_default();
        let items = self.books(|books| {
            let all = books.sandboxes.iter().filter(|(_, (config, _))| selected(&config.labels, &selector));
            all.map(|(id, (config, ready))| PodSandbox {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: if *ready { 0 } else { 1 },
                labels: config.labels.clone(),
                ..Default::default()
            })
            .collect()
        });
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        Ok(Response::new(self.books(|books| {
            books.next += 1;
            let metadata = config.metadata.clone().unwrap();
            let id = format!("{}-{}-{}", metadata.name, metadata.attempt, books.next);
            books.calls.push(format!("Create {}", metadata.name));
            let status = ContainerStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: ContainerState::ContainerCreated as i32,
                created_at: now(),
                image: config.image.clone(),
                image_ref: "img@sha256:1".into(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                mounts: config.mounts.clone(),
                log_path: books.log_path.clone(),
                ..Default::default()
            };
            books.containers.insert(id.clone(), (config, status, request.pod_sandbox_id));
            CreateContainerResponse { container_id: id }
        })))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let ended = self.books(|books| {
            let (config, status, _) = books.containers.get_mut(&id).unwrap();
            let name = config.metadata.clone().unwrap().name;
            status.state = ContainerState::ContainerRunning as i32;
            status.started_at = now();
            books.calls.push(format!("Start {name}"));
            let exits = books.exits.entry(name).or_default();
            if exits.is_empty() {
                return false;
            }
            end(status, exits.remove(0));
            true
        });
        self.tell(&id, ContainerEventType::ContainerStartedEvent);
        if ended {
            self.tell(&id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let id = request.into_inner().container_id;
        if let Some(stops) = self.books(|books| books.stops.clone()) {
            let _permit = stops.acquire().await;
        }
        self.books(|books| {
            let (config, status, _) = books.containers.get_mut(&id).unwrap();
            books.calls.push(format!("Stop {}", config.metadata.clone().unwrap().name));
            if status.state == ContainerState::ContainerRunning as i32 {
                end(status, 143);
            }
        });
        self.tell(&id, ContainerEventType::ContainerStoppedEvent);
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        self.books(|books| books.containers.remove(&request.into_inner().container_id));
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let selector = request.into_inner().filter.map(|filter| filter.label_selector).unwrap_or_default();
        let containers = self.books(|books| {
            let all = books.containers.values().filter(|(config, _, _)| selected(&config.labels, &selector));
            all.map(|(_, status, sandbox)| Container {
                id: status.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                state: status.state,
                labels: status.labels.clone(),
                ..Default::default()
            })
            .collect()
        });
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let status = self.books(|books| books.containers.get(&id).map(|(_, status, _)| status.clone()));
        let status = Some(status.ok_or_else(|| Status::not_found("no such container"))?);
        Ok(Response::new(ContainerStatusResponse { status, ..Default::default() }))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let word = request.cmd.first().cloned().unwrap_or_default();
        let exit_code = self.books(|books| {
            books.calls.push(format!("Exec {word}"));
            books.commands.get(&word).copied().unwrap_or(0)
        });
        Ok(Response::new(ExecSyncResponse { exit_code, stdout: b"said so".to_vec(), stderr: Vec::new() }))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        let url = self.books(|books| {
            books.calls.push(format!(
                "Exec {} tty={} stdin={}",
                request.cmd.join(" "),
                request.tty,
                request.stdin
            ));
            books.streaming.clone()
        });
        Ok(Response::new(ExecResponse { url }))
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<tonic::codegen::BoxStream<ContainerEventResponse>> {
        if !self.0.evented {
            return Err(Status::unimplemented("no events here"));
        }
        let mut events = self.0.events.subscribe();
        let (sender, receiver) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if sender.send(Ok(event)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl ImageService for FakeCri {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        Ok(Response::new(ListImagesResponse::default()))
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let image = self
            .books(|books| books.images.contains(&name))
            .then(|| Image { id: name, ..Default::default() });
        Ok(Response::new(ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        // One registry, with one user.
        let is_let_in =
            name.starts_with("private.example/") && request.auth.is_some_and(|auth| auth.username == "alice");
        if !is_let_in {
            return Err(Status::not_found(format!("failed to pull {name}")));
        }
        self.books(|books| {
            books.calls.push(format!("pull {name}"));
            books.images.push(name.clone());
        });
        Ok(Response::new(PullImageResponse { image_ref: name }))
    }
}
