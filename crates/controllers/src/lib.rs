//! The controllers of the control plane: one file each, all alike, each a pure `plan` over caches.
//!
//! Every file opens with what its controller is for, what it reads and writes, and what it leaves to others; then come the
//! controller (a `watch` and a `plan`), its decisions, and a table of tests. What carries plans out is the `reconcile`
//! crate; no controller here holds a client, a task or a queue.
//!
//! Read first: [`all`], the one list, and [`replicaset`], a typical file. Shared by several: `claim.rs` (whose objects are
//! whose), `pods.rs` (what a pod's state means), `object.rs` (short ways to metadata).
//!
//! **Invariants.** No I/O inside a decision. No timer but a deadline that means something. No controller knows another:
//! they meet in the API only.
//!
//! To add a controller: one file with its [`reconcile::Controller`], one line in [`all`].

pub mod bootstrap_signer;
pub mod certificates;
mod claim;
pub mod clusterrole_aggregation;
mod condition;
pub mod cronjob;
pub mod csr_cleaner;
pub mod daemonset;
pub mod deployment;
mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod garbagecollector;
mod history;
pub mod job;
pub mod legacy_token_cleaner;
pub mod namespace;
mod networking;
mod node_fit;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod node_ttl;
mod numbers;
mod object;
pub mod pod_certificate_cleaner;
pub mod pod_gc;
mod pods;
pub mod policy_status;
pub mod protection;
mod replicas;
pub mod replicaset;
pub mod replicationcontroller;
pub mod resourcequota;
pub mod root_ca;
pub mod service_account_tokens;
pub mod serviceaccount;
pub mod statefulset;
pub mod storage_version_migrator;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod ttl_after_finished;
pub mod volume_binder;

use std::collections::BTreeSet;
use std::sync::Arc;

use client::{Client, EventRecorder, Informers};
use foundation::{SharedClock, Tasks};
use reconcile::{Runner, RunnerOptions};

/// What the controllers of one process are given.
#[derive(Clone)]
pub struct Options {
    /// The shared caches; their client is `system:kube-controller-manager`, which may read everything.
    pub informers: Informers,
    /// Who runs the tasks.
    pub tasks: Tasks,
    /// The time.
    pub clock: SharedClock,
    /// Where events go.
    pub recorder: EventRecorder,
    /// A client with the identity of this user name (`system:serviceaccount:kube-system:job-controller`), so that RBAC
    /// holds each controller to its own rights.
    pub client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// The authority that pods may trust for the API server, PEM.
    pub root_ca_pem: String,
    /// Signs what was approved, with the cluster's authority.
    pub sign: certificates::signing::Sign,
    /// How long what it signs is good at most.
    pub signing_duration: jiff::SignedDuration,
    /// Makes the tokens of Secrets, with the key of ServiceAccounts' tokens.
    pub sign_token: service_account_tokens::Sign,
    /// The ranges that pods' addresses come from, one per IP family.
    pub cluster_cidrs: Vec<String>,
    /// How large each node's part of an IPv4 range is.
    pub node_cidr_mask_v4: u8,
    /// How large each node's part of an IPv6 range is.
    pub node_cidr_mask_v6: u8,
    /// Names and addresses of the API server in this process: no node gets a certificate for one of them.
    pub api_server_names: Vec<String>,
    /// Controllers not to start, by name.
    pub disabled: BTreeSet<String>,
}

/// One row of the list.
pub struct Entry {
    /// Its name, as `--disable` knows it.
    pub name: &'static str,
    /// The ServiceAccount in `kube-system` whose rights it has; empty: it has those of the controller manager itself.
    pub service_account: &'static str,
    start: fn(&Runner, &Options, Client),
}

const fn row(
    name: &'static str,
    service_account: &'static str,
    start: fn(&Runner, &Options, Client),
) -> Entry {
    Entry { name, service_account, start }
}

/// Every controller, with upstream's names and ServiceAccounts where there is one of upstream's.
pub fn all() -> Vec<Entry> {
    vec![
        row("namespace", "namespace-controller", |runner, _, client| {
            runner.start(namespace::Namespaces, client)
        }),
        row("serviceaccount", "service-account-controller", |runner, _, client| {
            runner.start(serviceaccount::ServiceAccounts, client)
        }),
        row("serviceaccount-token", "", |runner, options, client| {
            let (sign, authority) = (options.sign_token.clone(), &options.root_ca_pem);
            runner.start(service_account_tokens::ServiceAccountTokens::new(sign, authority), client)
        }),
        row("root-ca-certificate-publisher", "root-ca-cert-publisher", |runner, options, client| {
            runner.start(root_ca::RootCa::new(&options.root_ca_pem), client)
        }),
        row("deployment", "deployment-controller", |runner, _, client| {
            runner.start(deployment::Deployments, client)
        }),
        row("replicaset", "replicaset-controller", |runner, _, client| {
            runner.start(replicaset::ReplicaSets, client)
        }),
        row("replicationcontroller", "replication-controller", |runner, _, client| {
            runner.start(replicationcontroller::ReplicationControllers, client)
        }),
        row("daemonset", "daemon-set-controller", |runner, _, client| {
            runner.start(daemonset::DaemonSets, client)
        }),
        row("statefulset", "statefulset-controller", |runner, _, client| {
            runner.start(statefulset::StatefulSets, client)
        }),
        row("ttl-after-finished", "ttl-after-finished-controller", |runner, _, client| {
            runner.start(ttl_after_finished::TtlAfterFinished, client)
        }),
        row("clusterrole-aggregation", "clusterrole-aggregation-controller", |runner, _, client| {
            runner.start(clusterrole_aggregation::ClusterRoleAggregation, client)
        }),
        row("resourcequota", "resourcequota-controller", |runner, _, client| {
            runner.start(resourcequota::ResourceQuotas::default(), client)
        }),
        row("disruption", "disruption-controller", |runner, _, client| {
            runner.start(disruption::Disruption, client.clone());
            runner.start(disruption::StaleDisruptions, client)
        }),
        row("cronjob", "cronjob-controller", |runner, _, client| {
            runner.start(cronjob::CronJobs::new(jiff::tz::TimeZone::system()), client)
        }),
        row("job", "job-controller", |runner, _, client| runner.start(job::Jobs, client)),
        row("endpoints", "endpoint-controller", |runner, _, client| {
            runner.start(endpoints::EndpointsController, client)
        }),
        row("endpointslice", "endpointslice-controller", |runner, _, client| {
            runner.start(endpointslice::EndpointSlices, client)
        }),
        row("endpointslice-mirroring", "endpointslicemirroring-controller", |runner, _, client| {
            runner.start(endpointslice_mirroring::EndpointSliceMirroring, client)
        }),
        row("persistentvolume-binder", "persistent-volume-binder", |runner, _, client| {
            runner.start(volume_binder::VolumeBinder, client)
        }),
        row("persistentvolumeclaim-protection", "pvc-protection-controller", |runner, _, client| {
            runner.start(protection::ClaimProtection, client)
        }),
        row("persistentvolume-protection", "pv-protection-controller", |runner, _, client| {
            runner.start(protection::VolumeProtection, client)
        }),
        row("certificatesigningrequest-cleaner", "certificate-controller", |runner, _, client| {
            runner.start(csr_cleaner::CsrCleaner, client)
        }),
        row("certificatesigningrequest-approving", "certificate-controller", |runner, _, client| {
            runner.start(certificates::approving::Approving, client)
        }),
        row("certificatesigningrequest-signing", "certificate-controller", |runner, options, client| {
            let signing = certificates::signing::Signing::new(options.sign.clone(), options.signing_duration);
            runner.start(signing, client)
        }),
        // Ours: upstream leaves these requests to others.
        row("kubelet-serving-approver", "kubelet-serving-approver", |runner, options, client| {
            let names = &options.api_server_names;
            runner.start(certificates::serving::ServingApproval::new(names), client)
        }),
        row(
            "kube-apiserver-serving-clustertrustbundle-publisher",
            "kube-apiserver-serving-clustertrustbundle-publisher",
            |runner, options, client| {
                runner.start(certificates::publishing::Publishing::new(&options.root_ca_pem), client)
            },
        ),
        row("bootstrap-signer", "bootstrap-signer", |runner, _, client| {
            runner.start(bootstrap_signer::BootstrapSigner, client)
        }),
        row("podcertificaterequest-cleaner", "podcertificaterequestcleaner", |runner, _, client| {
            runner.start(pod_certificate_cleaner::PodCertificateCleaner, client)
        }),
        row("token-cleaner", "token-cleaner", |runner, _, client| {
            runner.start(token_cleaner::TokenCleaner, client)
        }),
        row(
            "legacy-serviceaccount-token-cleaner",
            "legacy-service-account-token-cleaner",
            |runner, _, client| runner.start(legacy_token_cleaner::LegacyTokenCleaner, client),
        ),
        row("storage-version-migrator", "storage-version-migrator-controller", |runner, _, client| {
            runner.start(storage_version_migrator::StorageVersionMigrator, client)
        }),
        row("garbage-collector", "generic-garbage-collector", |runner, _, client| {
            runner.start(garbagecollector::GarbageCollector::default(), client)
        }),
        row("pod-garbage-collector", "pod-garbage-collector", |runner, _, client| {
            runner.start(pod_gc::PodGc::default(), client)
        }),
        row("node-ipam", "node-controller", |runner, options, client| {
            let ipam = node_ipam::NodeIpam::new(
                &options.cluster_cidrs,
                options.node_cidr_mask_v4,
                options.node_cidr_mask_v6,
            );
            match ipam {
                Ok(ipam) => runner.start(ipam, client),
                Err(error) => tracing::error!(%error, "nodes get no pod ranges"),
            }
        }),
        row("node-lifecycle", "node-controller", |runner, _, client| {
            runner.start(node_lifecycle::NodeLifecycle::default(), client)
        }),
        row("ttl", "ttl-controller", |runner, _, client| runner.start(node_ttl::NodeTtl, client)),
        row(
            "validatingadmissionpolicy-status",
            "validatingadmissionpolicy-status-controller",
            |runner, _, client| runner.start(policy_status::PolicyStatus, client),
        ),
        row("taint-eviction", "node-controller", |runner, _, client| {
            runner.start(taint_eviction::TaintEviction::default(), client)
        }),
    ]
}

/// Starts every controller that is not disabled. They run until the tasks end, and act once their caches are filled.
pub fn start(options: &Options) {
    let runner = Runner::new(RunnerOptions {
        informers: options.informers.clone(),
        tasks: options.tasks.clone(),
        clock: options.clock.clone(),
        recorder: options.recorder.clone(),
    });
    for entry in all() {
        if options.disabled.contains(entry.name) {
            continue;
        }
        let user = match entry.service_account {
            "" => "system:kube-controller-manager".to_owned(),
            account => format!("system:serviceaccount:kube-system:{account}"),
        };
        (entry.start)(&runner, options, (options.client_for)(&user));
    }
}
