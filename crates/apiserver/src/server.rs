//! What every request shares: registry, storage, caches, the three gates, clock and randomness.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use api::Status;
use foundation::health::Checks;
use foundation::{CancellationToken, SharedClock, SharedRandomness, Tasks};
use store::Store;

use crate::admission;
use crate::aggregation::Aggregator;
use crate::audit::Auditor;
use crate::authn::{self, Authentication};
use crate::authz::{self, Authorization};
use crate::cache::Hub;
use crate::cluster::{ClusterState, Local};
use crate::fairness::Fairness;
use crate::filters::impersonation::Impersonation;
use crate::handlers::openapi::Documents;
use crate::metrics::Metrics;
use crate::metrics::storage::Measured;
use crate::options::Options;
use crate::registry::{Asking, Registry, apiextensions};
use crate::storage::expiry::Expiry;
use crate::storage::{self, Storage};
use crate::traces::Tracer;
use crate::unread::Readers;

/// The shared state of a running server.
pub struct Server {
    /// What is served.
    pub registry: Arc<Registry>,
    /// Objects in the store.
    pub storage: Storage,
    /// The watch caches.
    pub hub: Arc<Hub>,
    /// Cluster state as the gates see it.
    pub cluster: Arc<dyn ClusterState>,
    /// Who asks.
    pub authentication: Authentication,
    /// May they.
    pub authorization: Authorization,
    /// May they as somebody else.
    pub(crate) impersonation: Impersonation,
    /// What other servers serve.
    pub aggregator: Aggregator,
    /// What is written down.
    pub audit: Auditor,
    /// What is told of single requests; nothing unless it is configured.
    pub tracer: Option<Arc<Tracer>>,
    /// Who waits.
    pub fairness: Fairness,
    /// What is served of the custom resource definitions.
    pub(crate) definitions: apiextensions::Serving,
    /// Calls webhooks.
    pub(crate) webhooks: Arc<admission::webhook::Caller>,
    /// What is changed or refused.
    pub admission: admission::Chain,
    /// The present.
    pub clock: SharedClock,
    /// When it was started.
    pub started: jiff::Timestamp,
    /// UIDs, suffixes, timeouts.
    pub randomness: SharedRandomness,
    /// Who reads what is streamed.
    pub readers: Readers,
    /// The settings.
    pub options: Options,
    /// Where the server's own tasks run.
    pub tasks: Tasks,
    /// What `/healthz` and its kin report.
    pub checks: Checks,
    /// Cancelled when the server stops taking requests: watches end.
    pub draining: CancellationToken,
    /// Whether the server is about to stop: it serves as before, and says that it is not ready, so that balancers send
    /// new requests elsewhere.
    pub stopping: AtomicBool,
    /// Counters.
    pub metrics: Metrics,
    /// OpenAPI documents, made at first use.
    pub documents: Documents,
}

impl Server {
    /// What custom resources need to ask their conversion webhooks.
    pub(crate) fn asking(&self) -> Asking {
        Asking { caller: Arc::downgrade(&self.webhooks), randomness: self.randomness.clone() }
    }

    /// Puts the parts together and starts the watch on the store. Nothing is served yet.
    pub async fn new(
        store: Arc<dyn Store>,
        options: Options,
        tasks: &Tasks,
        clock: SharedClock,
        randomness: SharedRandomness,
    ) -> Result<Arc<Self>, Status> {
        let tasks = tasks.child("apiserver");
        let registry = Arc::new(Registry::builtin()?);
        let hub = Hub::start(store.clone(), &tasks, clock.clone()).await.map_err(storage::status)?;
        let storage = Storage::new(
            Arc::new(Measured::new(store, clock.clone())),
            Expiry::new(options.event_ttl, clock.clone()),
        );
        let cluster: Arc<dyn ClusterState> =
            Arc::new(Local { registry: registry.clone(), storage: storage.clone(), hub: hub.clone() });
        let authentication = authn::build(&options.authn, &cluster, &clock, &randomness)?;
        let authorization = authz::build(&options.authz, &cluster, &clock)?;
        let caller =
            Arc::new(admission::webhook::Caller::new(cluster.clone(), clock.clone(), randomness.clone()));
        let surroundings = admission::Surroundings {
            cluster: cluster.clone(),
            clock: clock.clone(),
            randomness: randomness.clone(),
            authorization: authorization.clone(),
            registry: registry.clone(),
            caller: caller.clone(),
        };
        let admission = admission::build(&options.admission, &surroundings)?;
        let checks = Checks::new();
        checks.register("ping", || Ok(()));
        let supervisor = tasks.clone();
        checks.register("tasks", move || supervisor.check());
        let caches = hub.clone();
        checks.register("log", || Ok(()));
        // The caches' watch is what is always open to the store: when it is broken, so is the way there.
        let store = hub.clone();
        checks.register("etcd", move || store.check());
        checks.register("watch-cache", move || caches.check());
        let fairness = Fairness::new(options.fairness.clone(), clock.clone());
        let readers = Readers::new(&tasks, clock.clone(), options.reader_patience);
        let audit = Auditor::new(&options.audit, &tasks, clock.clone()).map_err(Status::internal)?;
        let tracer = options.traces.as_ref().map(|configuration| {
            // One of its own for each start, as no two servers of a cluster may have the same.
            let instance = format!("apiserver-{:016x}", randomness.u64());
            Tracer::start(configuration, &instance, &tasks, clock.clone(), randomness.clone())
        });
        let tracer = tracer.transpose().map_err(Status::internal)?;
        Ok(Arc::new(Self {
            definitions: apiextensions::Serving::default(),
            aggregator: Aggregator::new(options.aggregation.clone()),
            audit,
            tracer,
            fairness,
            registry,
            storage,
            hub,
            cluster,
            authentication,
            authorization,
            impersonation: Impersonation::default(),
            webhooks: caller,
            admission,
            started: clock.now(),
            clock,
            randomness,
            readers,
            options,
            draining: tasks.token().child_token(),
            stopping: AtomicBool::new(false),
            tasks,
            checks,
            metrics: Metrics::new(),
            documents: Documents::default(),
        }))
    }
}
