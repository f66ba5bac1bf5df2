//! What is counted of the API, under etcd's names, and what is shown beside it.
//!
//! Only what is so here: what etcd counts of parts that this store does not have (its backend's commits, its peers' bytes) is
//! not there. Each server has a registry of its own; what is shown with it of the process is the store's and the process's own.
//! Upstream: etcd's `server/etcdserver/metrics.go`, `server/storage/mvcc/metrics.go`, go-grpc-prometheus.

use std::sync::Arc;

use foundation::metrics::{Counter, Family, Gauge, Registry, registry};
use store::Status as StoreStatus;
use tonic::Code;

use crate::cluster::Standing;
use crate::{Server, VERSION};

/// The calls that are counted: service, method, and what kind of call it is.
const CALLS: [(&str, &str, &str); 27] = [
    ("etcdserverpb.KV", "Put", "unary"),
    ("etcdserverpb.KV", "DeleteRange", "unary"),
    ("etcdserverpb.KV", "Txn", "unary"),
    ("etcdserverpb.KV", "Range", "unary"),
    ("etcdserverpb.KV", "Compact", "unary"),
    ("etcdserverpb.Watch", "Watch", "bidi_stream"),
    ("etcdserverpb.Lease", "LeaseGrant", "unary"),
    ("etcdserverpb.Lease", "LeaseRevoke", "unary"),
    ("etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream"),
    ("etcdserverpb.Lease", "LeaseTimeToLive", "unary"),
    ("etcdserverpb.Lease", "LeaseLeases", "unary"),
    ("etcdserverpb.Cluster", "MemberAdd", "unary"),
    ("etcdserverpb.Cluster", "MemberRemove", "unary"),
    ("etcdserverpb.Cluster", "MemberUpdate", "unary"),
    ("etcdserverpb.Cluster", "MemberList", "unary"),
    ("etcdserverpb.Cluster", "MemberPromote", "unary"),
    ("etcdserverpb.Maintenance", "Alarm", "unary"),
    ("etcdserverpb.Maintenance", "Status", "unary"),
    ("etcdserverpb.Maintenance", "Defragment", "unary"),
    ("etcdserverpb.Maintenance", "Hash", "unary"),
    ("etcdserverpb.Maintenance", "HashKV", "unary"),
    ("etcdserverpb.Maintenance", "Snapshot", "server_stream"),
    ("etcdserverpb.Maintenance", "MoveLeader", "unary"),
    ("etcdserverpb.Maintenance", "Downgrade", "unary"),
    ("etcdserverpb.Auth", "Authenticate", "unary"),
    ("etcdserverpb.Auth", "AuthStatus", "unary"),
    ("etcdserverpb.Auth", "AuthEnable", "unary"),
];

/// The store's own name of how long syncs take, and etcd's.
const SYNCS: (&str, &str) = ("store_commit_seconds", "etcd_disk_wal_fsync_duration_seconds");

/// How a page of health is counted.
const CHECKED: &[&str] = &["type", "name", "status"];

/// What a server counts.
pub(crate) struct Metrics {
    registry: Registry,
    /// By the places in [`CALLS`]: how many were begun, and how many went well.
    calls: Vec<(Counter, Counter)>,
    handled: Family<Counter>,
    /// Bytes of the messages of calls that came, and of those that were answered.
    pub received: Counter,
    pub sent: Counter,
    /// Writes under way, and those that the store could not carry out.
    pub pending: Gauge,
    failed: Counter,
    healthy: Counter,
    unhealthy: Counter,
    check: Family<Gauge>,
    checks: Family<Counter>,
    figures: Figures,
}

/// What is asked of the store whenever somebody looks.
struct Figures {
    has_leader: Gauge,
    is_leader: Gauge,
    is_learner: Gauge,
    leader_changes: Gauge,
    committed: Gauge,
    applied: Gauge,
    size: Gauge,
    in_use: Gauge,
    keys: Gauge,
    revision: Gauge,
    compacted: Gauge,
}

impl Metrics {
    pub(crate) fn new(id: u64) -> Self {
        let registry = Registry::new();
        let gauge = |name, help| registry.gauge(name, help, &[]).only();
        let counter = |name, help| registry.counter(name, help, &[]).only();
        let kinds = &["grpc_type", "grpc_service", "grpc_method"];
        let codes = &["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let started = registry.counter(
            "grpc_server_started_total",
            "Total number of RPCs started on the server.",
            kinds,
        );
        let handled = registry.counter(
            "grpc_server_handled_total",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            codes,
        );
        let call = |(service, method, kind): &(&str, &str, &str)| {
            (started.with(&[kind, service, method]), handled.with(&[kind, service, method, "OK"]))
        };
        let calls = CALLS.iter().map(call).collect();
        let version = registry.gauge(
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.",
            &["server_version"],
        );
        version.with(&[VERSION]).set(1.0);
        let own = registry.gauge(
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            &["server_id"],
        );
        own.with(&[&format!("{id:x}")]).set(1.0);
        let figures = Figures {
            has_leader: gauge(
                "etcd_server_has_leader",
                "Whether or not a leader exists. 1 is existence, 0 is not.",
            ),
            is_leader: gauge(
                "etcd_server_is_leader",
                "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            ),
            is_learner: gauge(
                "etcd_server_is_learner",
                "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            ),
            leader_changes: gauge(
                "etcd_server_leader_changes_seen_total",
                "The number of leader changes seen.",
            ),
            committed: gauge(
                "etcd_server_proposals_committed_total",
                "The total number of consensus proposals committed.",
            ),
            applied: gauge(
                "etcd_server_proposals_applied_total",
                "The total number of consensus proposals applied.",
            ),
            size: gauge(
                "etcd_mvcc_db_total_size_in_bytes",
                "Total size of the underlying database physically allocated in bytes.",
            ),
            in_use: gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Total size of the underlying database logically in use in bytes.",
            ),
            keys: gauge("etcd_debugging_mvcc_keys_total", "Total number of keys."),
            revision: gauge("etcd_debugging_mvcc_current_revision", "The current revision of store."),
            compacted: gauge(
                "etcd_debugging_mvcc_compact_revision",
                "The revision of the last compaction in store.",
            ),
        };
        Self {
            calls,
            handled,
            received: counter(
                "etcd_network_client_grpc_received_bytes_total",
                "The total number of bytes received from grpc clients.",
            ),
            sent: counter(
                "etcd_network_client_grpc_sent_bytes_total",
                "The total number of bytes sent to grpc clients.",
            ),
            pending: gauge(
                "etcd_server_proposals_pending",
                "The current number of pending proposals to commit.",
            ),
            failed: counter(
                "etcd_server_proposals_failed_total",
                "The total number of failed proposals seen.",
            ),
            healthy: counter("etcd_server_health_success", "The total number of successful health checks"),
            unhealthy: counter("etcd_server_health_failures", "The total number of failed health checks"),
            check: registry.gauge(
                "etcd_server_healthcheck",
                "The result of each kind of healthcheck.",
                &CHECKED[..2],
            ),
            checks: registry.counter(
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                CHECKED,
            ),
            figures,
            registry,
        }
    }

    /// A call begins. `None` for one that nobody has heard of.
    pub(crate) fn begin(self: &Arc<Self>, path: &str) -> Option<Call> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let index = CALLS.iter().position(|call| (call.0, call.1) == (service, method))?;
        self.calls[index].0.inc();
        Some(Call { metrics: self.clone(), index, code: Code::Cancelled })
    }

    /// A page of health was answered.
    pub(crate) fn health(&self, is_well: bool) {
        if is_well { self.healthy.inc() } else { self.unhealthy.inc() }
    }

    /// A check of a page was made.
    pub(crate) fn checked(&self, page: &str, check: &str, is_well: bool) {
        self.check.with(&[page, check]).set(f64::from(u8::from(is_well)));
        self.checks.with(&[page, check, if is_well { "success" } else { "error" }]).inc();
    }

    /// A write was refused.
    pub(crate) fn write_refused(&self, code: Code) {
        // What lies in the request itself never was a proposal.
        if matches!(code, Code::Unavailable | Code::Unknown | Code::DataLoss) {
            self.failed.inc();
        }
    }

    fn show(&self, status: &StoreStatus, standing: Option<&Standing>, changes: u64) {
        let figures = &self.figures;
        let yes = |so: bool| f64::from(u8::from(so));
        // Whoever is alone has led since it was started.
        figures.has_leader.set(yes(standing.is_none_or(|standing| standing.leader != 0)));
        figures.is_leader.set(yes(standing.is_none_or(|standing| standing.leader == standing.id)));
        figures.is_learner.set(yes(standing.is_some_and(Standing::is_learner)));
        figures.leader_changes.set(changes as f64);
        let indexes = standing.map_or((status.revision, status.revision), |standing| standing.indexes);
        figures.committed.set(indexes.0 as f64);
        figures.applied.set(indexes.1 as f64);
        figures.size.set(status.db_size as f64);
        figures.in_use.set((status.live_bytes + status.history_bytes) as f64);
        figures.keys.set(status.keys as f64);
        figures.revision.set(status.revision as f64);
        figures.compacted.set(status.compact_revision as f64);
    }
}

/// A call under way: it counts as cancelled unless something else is said before it goes.
pub(crate) struct Call {
    metrics: Arc<Metrics>,
    index: usize,
    code: Code,
}

impl Call {
    /// How it ended.
    pub(crate) fn ended(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.code == Code::Ok {
            return self.metrics.calls[self.index].1.inc();
        }
        let (service, method, kind) = CALLS[self.index];
        self.metrics.handled.with(&[kind, service, method, name(self.code)]).inc();
    }
}

/// A code as Go's gRPC writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

impl Server {
    /// Everything that is counted, as Prometheus' text.
    pub(crate) async fn metrics_page(&self) -> String {
        let standing = self.options.members.as_ref().map(|members| members.standing());
        let changes = self.options.members.as_ref().map_or(1, |members| members.leader_changes());
        match self.store.status().await {
            Ok(status) => self.metrics.show(&status, standing.as_ref(), changes),
            Err(error) => tracing::warn!(%error, "the figures of the store are out of date"),
        }
        // It is the same: how long a batch took until it was on the disk.
        let syncs = registry().render_where(|name| name == SYNCS.0).replace(SYNCS.0, SYNCS.1);
        let process = registry()
            .render_where(|name| ["process_", "store_"].iter().any(|prefix| name.starts_with(prefix)));
        self.metrics.registry.render() + &syncs + &process
    }
}
