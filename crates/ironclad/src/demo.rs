//! `ironclad demo`: a cluster and a first workload in one command, to be watched.
//!
//! Starts `ironclad server` in the background unless one runs on the data directory; imports an image made of this very
//! program; applies a Deployment, a Service and a Job; waits for them; calls the Service by its address from here and
//! by its name from inside a pod. Leaves everything running. Not here: the program in the image (`demo_app`).

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use api::types::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{Namespace, Pod, Service},
};
use client::{Accept, Client, DeleteOptions, HttpsTransport, ListOptions, Patch, Propagation, Resource};
use serde_json::{Value, json};

use runtime::images::build::{Build, build};

use crate::{cli, config::DataDir, demo_app, images, progress::Progress};

/// Name of the image, in a registry that does not exist: it is never pulled.
const IMAGE: &str = "ironclad.local/demo:latest";
const NAMESPACE: &str = "demo";
/// How long the demo waits for anything; a slow machine may need it, a working one never does.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often progress is looked at, which only the person who watches notices.
const LOOK: Duration = Duration::from_millis(20);

/// Settings of the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub dirs: DataDir,
    /// Port of the API server
    #[arg(long, env = "IRONCLAD_HTTPS_LISTEN_PORT", default_value_t = 6443, value_name = "PORT")]
    pub https_listen_port: u16,
    /// Pods of the Deployment
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub replicas: u32,
}

/// Runs the demo.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut progress = Progress::default();
    let kubeconfig = options.dirs.kubeconfig();
    progress.say(&format!("{}\n", progress.bold("A Kubernetes cluster, and a first workload in it")));
    let client = match connect(&kubeconfig).await {
        Some(client) => {
            progress.done("cluster", "runs already", Duration::ZERO);
            client
        }
        None => start_server(&options, &mut progress).await?,
    };
    let demo = Demo { client, options: &options };
    demo.run(&mut progress).await?;
    progress.say(&format!(
        "\n{} in {}.\n\nGo on:\n  export KUBECONFIG={}\n  kubectl get pods -n {NAMESPACE} -o wide\n  kubectl scale deployment hello -n {NAMESPACE} --replicas 10\n\nEnd:\n  {} uninstall{}",
        progress.bold("Success"),
        crate::progress::duration(progress.elapsed()),
        kubeconfig.display(),
        cli::own_path()?.display(),
        data_dir_flag(&options.dirs),
    ));
    Ok(())
}

fn data_dir_flag(dirs: &DataDir) -> String {
    if dirs.data_dir == Path::new("/var/lib/ironclad") {
        String::new()
    } else {
        format!(" --data-dir {}", dirs.data_dir.display())
    }
}

/// A client, if a server answers for this kubeconfig.
async fn connect(kubeconfig: &Path) -> Option<Client> {
    let config = client::kubeconfig::load(kubeconfig).ok()?;
    let client = Client::new(Arc::new(HttpsTransport::new(&config).ok()?), "ironclad-demo");
    client.call(http::Method::GET, "/readyz".into(), None, Accept::Object).await.ok()?;
    Some(client)
}

async fn start_server(options: &Options, progress: &mut Progress) -> anyhow::Result<Client> {
    let started = Instant::now();
    let directory = &options.dirs.data_dir;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let log_path: PathBuf = directory.join("server.log");
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut server = Command::new(cli::own_path()?)
        .arg("server")
        .arg("--data-dir")
        .arg(directory)
        .arg(format!("--https-listen-port={}", options.https_listen_port))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log")?)
        .stderr(log)
        .spawn()
        .context("cannot start the server")?;
    let deadline = started + PATIENCE;
    let mut interval = tokio::time::interval(LOOK);
    loop {
        interval.tick().await;
        if let Some(status) = server.try_wait().context("cannot watch the server")? {
            let mut text = String::new();
            // Best effort: without the log the exit status must do.
            let _ = File::open(&log_path).and_then(|mut file| file.read_to_string(&mut text));
            let last = text.lines().last().unwrap_or_default();
            bail!("the server ended ({status}): {last}");
        }
        if let Some(client) = connect(&options.dirs.kubeconfig()).await
            && node_is_ready(&client).await
        {
            progress.done("cluster", "control plane and node are ready", started.elapsed());
            return Ok(client);
        }
        progress.running("cluster", "is starting");
        if Instant::now() > deadline {
            bail!("the cluster was not ready within {} s; see {}", PATIENCE.as_secs(), log_path.display());
        }
    }
}

async fn node_is_ready(client: &Client) -> bool {
    let Ok(nodes) = client.list::<api::types::core::v1::Node>(None, &ListOptions::all()).await else {
        return false;
    };
    let conditions =
        nodes.items.iter().flat_map(|node| node.status.iter().flat_map(|s| s.conditions.iter().flatten()));
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

struct Demo<'a> {
    client: Client,
    options: &'a Options,
}

impl Demo<'_> {
    async fn run(&self, progress: &mut Progress) -> anyhow::Result<()> {
        let started = Instant::now();
        let size = self.import_image()?;
        progress.done("image", &format!("{IMAGE} from this program, {:.1} MiB", size), started.elapsed());

        let started = Instant::now();
        self.apply::<Namespace>(None, "Namespace", json!({"metadata": {"name": NAMESPACE}})).await?;
        self.apply::<Deployment>(Some(NAMESPACE), "Deployment", self.deployment()).await?;
        self.apply::<Service>(Some(NAMESPACE), "Service", service()).await?;
        progress.done("applied", "Deployment hello, Service hello", started.elapsed());

        let started = Instant::now();
        self.wait(progress, "deployment", started, || self.deployment_progress()).await?;
        let nodes = self.nodes().await?;
        let where_ = format!("{} of {0} pods ready on {nodes}", self.options.replicas);
        progress.done("deployment", &where_, started.elapsed());

        let started = Instant::now();
        let (address, pods) = self.call_service().await?;
        let told = format!("http://{address} answered by {pods} pods");
        progress.done("service", &told, started.elapsed());

        let started = Instant::now();
        // A Job's template cannot change: a second run of the demo needs a fresh one.
        self.delete_job().await?;
        self.apply::<Job>(Some(NAMESPACE), "Job", job()).await?;
        self.wait(progress, "job", started, || self.job_progress()).await?;
        let log = self.job_log().await?;
        progress.done(
            "job",
            &format!("http://hello.{NAMESPACE} by name, from inside a pod"),
            started.elapsed(),
        );
        for line in log.lines() {
            progress.say(&format!("      {line}"));
        }
        Ok(())
    }

    fn import_image(&self) -> anyhow::Result<f64> {
        let program = cli::own_path()?;
        let mut image = Build { name: IMAGE.into(), pinned: true, ..Build::default() };
        image.config.entrypoint = ["/ironclad", "demo-app"].map(str::to_owned).into();
        image.add_program(&program, Path::new("/ironclad")).context("cannot read this program")?;
        build(&images::images_of(&self.options.dirs)?, &image).context("cannot make the image")?;
        let size = std::fs::metadata(&program).map_or(0, |meta| meta.len());
        Ok(size as f64 / f64::from(1 << 20))
    }

    async fn apply<K: Resource>(
        &self,
        namespace: Option<&str>,
        kind: &str,
        mut object: Value,
    ) -> anyhow::Result<()> {
        object["apiVersion"] = K::API_VERSION.into();
        object["kind"] = K::KIND.into();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let typed: K = api::json::typed(&object).context("the demo's own manifest")?;
        let outcome = match self.client.create(namespace, &typed).await {
            Err(error) if error.is_already_exists() => {
                self.client.patch::<K>(namespace, &name, &Patch::Merge(object)).await
            }
            other => other,
        };
        outcome.map(drop).with_context(|| format!("cannot apply {kind} {name}"))
    }

    fn deployment(&self) -> Value {
        let from_field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        json!({
            "metadata": {"name": "hello", "namespace": NAMESPACE},
            "spec": {
                "replicas": self.options.replicas,
                "selector": {"matchLabels": {"app": "hello"}},
                "template": {
                    "metadata": {"labels": {"app": "hello"}},
                    "spec": {"containers": [{
                        "name": "hello", "image": IMAGE, "imagePullPolicy": "Never", "args": ["serve"],
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                        "env": [
                            {"name": "POD_NAME", "valueFrom": from_field("metadata.name")},
                            {"name": "POD_NAMESPACE", "valueFrom": from_field("metadata.namespace")},
                            {"name": "NODE_NAME", "valueFrom": from_field("spec.nodeName")},
                        ],
                    }]},
                },
            },
        })
    }

    async fn wait<F: Future<Output = anyhow::Result<Result<(), String>>>>(
        &self,
        progress: &mut Progress,
        step: &str,
        started: Instant,
        look: impl Fn() -> F,
    ) -> anyhow::Result<()> {
        let mut interval = tokio::time::interval(LOOK);
        loop {
            interval.tick().await;
            let missing = match look().await? {
                Ok(()) => return Ok(()),
                Err(missing) => missing,
            };
            if started.elapsed() > PATIENCE {
                progress.failed(step, &missing);
                bail!("{step}: {missing} after {} s; {}", PATIENCE.as_secs(), self.why().await);
            }
            progress.running(step, &missing);
        }
    }

    /// What the pods' events say, for when something does not come up.
    async fn why(&self) -> String {
        let events =
            self.client.list::<api::types::core::v1::Event>(Some(NAMESPACE), &ListOptions::all()).await;
        let warnings: BTreeSet<String> = events
            .map(|events| events.items)
            .unwrap_or_default()
            .into_iter()
            .filter(|event| event.type_.as_deref() == Some("Warning"))
            .filter_map(|event| event.message)
            .collect();
        match warnings.is_empty() {
            true => format!("see kubectl describe pods -n {NAMESPACE}"),
            false => warnings.into_iter().collect::<Vec<_>>().join("; "),
        }
    }

    async fn deployment_progress(&self) -> anyhow::Result<Result<(), String>> {
        let deployment: Deployment = self.client.get(Some(NAMESPACE), "hello").await?;
        let status = deployment.status.unwrap_or_default();
        let wanted = i64::from(self.options.replicas);
        let ready = i64::from(status.ready_replicas.unwrap_or_default());
        let settled = status.observed_generation == deployment.metadata.generation
            && i64::from(status.updated_replicas.unwrap_or_default()) == wanted
            && i64::from(status.replicas.unwrap_or_default()) == wanted;
        Ok(if ready == wanted && settled { Ok(()) } else { Err(format!("{ready} of {wanted} pods ready")) })
    }

    async fn nodes(&self) -> anyhow::Result<String> {
        let pods = self.client.list::<Pod>(Some(NAMESPACE), &ListOptions::labels("app=hello")).await?;
        let nodes: BTreeSet<String> =
            pods.items.into_iter().filter_map(|pod| pod.spec.and_then(|spec| spec.node_name)).collect();
        Ok(nodes.into_iter().collect::<Vec<_>>().join(", "))
    }

    /// Calls the Service by its address until every pod has answered once, or the share of luck is used up.
    async fn call_service(&self) -> anyhow::Result<(String, usize)> {
        let service: Service = self.client.get(Some(NAMESPACE), "hello").await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        let url = format!("http://{address}/");
        let deadline = Instant::now() + PATIENCE;
        let mut pods = BTreeSet::new();
        // Enough calls that a random choice among the pods leaves one out less than once in a thousand demos.
        for _ in 0..self.options.replicas * 10 {
            let url = url.clone();
            let answer = tokio::task::spawn_blocking(move || demo_app::get(&url)).await?;
            match answer {
                Ok(answer) => drop(pods.insert(answer)),
                // The rules follow the endpoints by some milliseconds.
                Err(_) if pods.is_empty() && Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                Err(error) => return Err(error),
            }
        }
        Ok((address, pods.len()))
    }

    async fn delete_job(&self) -> anyhow::Result<()> {
        let options = DeleteOptions::default().with_propagation(Propagation::Background);
        match self.client.delete::<Job>(Some(NAMESPACE), "call", &options).await {
            Err(error) if !error.is_not_found() => {
                return Err(error).context("cannot delete the last run's Job");
            }
            _ => {}
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.client.get::<Job>(Some(NAMESPACE), "call").await {
                Err(error) if error.is_not_found() => return Ok(()),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
        bail!("the last run's Job does not go away")
    }

    async fn job_progress(&self) -> anyhow::Result<Result<(), String>> {
        let job: Job = self.client.get(Some(NAMESPACE), "call").await?;
        let status = job.status.unwrap_or_default();
        let condition = |kind: &str| {
            status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == kind && condition.status == "True")
        };
        if condition("Failed") {
            bail!("the Job failed: {}", self.why().await);
        }
        Ok(if condition("Complete") { Ok(()) } else { Err("is running".to_owned()) })
    }

    async fn job_log(&self) -> anyhow::Result<String> {
        let pods = self.client.list::<Pod>(Some(NAMESPACE), &ListOptions::labels("job-name=call")).await?;
        let done = pods
            .items
            .into_iter()
            .find(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded"));
        let name = done.and_then(|pod| pod.metadata.name).context("the Job has no finished pod")?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/log");
        let log = self.client.call(http::Method::GET, path, None, Accept::Object).await;
        Ok(String::from_utf8_lossy(&log.context("cannot read the Job's log")?).into_owned())
    }
}

fn service() -> Value {
    json!({
        "metadata": {"name": "hello", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "hello"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

fn job() -> Value {
    json!({
        "metadata": {"name": "call", "namespace": NAMESPACE},
        "spec": {"backoffLimit": 2, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "call", "image": IMAGE, "imagePullPolicy": "Never",
                "args": ["fetch", format!("http://hello.{NAMESPACE}/"), "--count=3"],
            }],
        }}},
    })
}
