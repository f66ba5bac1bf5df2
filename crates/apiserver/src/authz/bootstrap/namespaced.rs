//! The Roles in `kube-system` and `kube-public`, and who holds them.
//! Upstream: bootstrappolicy/namespace_policy.go.

use api::Object;

use super::{EVENTS, READ, Rule, binding, named, role, rule};

const LOCKING: &[Rule] = &[
    rule("create get list update watch", "coordination.k8s.io", "leases"),
    rule("create get list update watch", "coordination.k8s.io", "leasecandidates"),
];

pub(super) fn objects() -> Vec<Object> {
    const SYSTEM: &str = "kube-system";
    const READER: &str = "extension-apiserver-authentication-reader";
    const MANAGER_LOCK: &str = "system::leader-locking-kube-controller-manager";
    const SCHEDULER_LOCK: &str = "system::leader-locking-kube-scheduler";
    const SIGNER: &str = "system:controller:bootstrap-signer";
    const PROVIDER: &str = "system:controller:cloud-provider";
    const CLEANER: &str = "system:controller:token-cleaner";
    const DNS: &str = "ironclad:cluster-dns";
    let (manager, scheduler) = ("user:system:kube-controller-manager", "user:system:kube-scheduler");
    vec![
        role(SYSTEM, READER, &[named(READ, "core", "configmaps", "extension-apiserver-authentication")]),
        role(SYSTEM, SIGNER, &[rule(READ, "core", "secrets")]),
        role(SYSTEM, PROVIDER, &[rule("create get list watch", "core", "configmaps")]),
        role(SYSTEM, CLEANER, &[rule("delete get list watch", "core", "secrets"), EVENTS]),
        role(SYSTEM, MANAGER_LOCK, LOCKING),
        role(SYSTEM, SCHEDULER_LOCK, LOCKING),
        role(
            "kube-public",
            SIGNER,
            &[
                rule(READ, "core", "configmaps"),
                named("update", "core", "configmaps", "cluster-info"),
                EVENTS,
            ],
        ),
        // Of this product: the DNS publishes itself as a Service.
        role(
            SYSTEM,
            DNS,
            &[
                rule("create get", "core", "services"),
                rule("create get patch", "discovery.k8s.io", "endpointslices"),
            ],
        ),
        binding(SYSTEM, DNS, DNS, &["sa:kube-system:coredns"]),
        binding(SYSTEM, &format!("system::{READER}"), READER, &[manager, scheduler]),
        binding(SYSTEM, MANAGER_LOCK, MANAGER_LOCK, &[manager, "sa:kube-system:kube-controller-manager"]),
        binding(SYSTEM, SCHEDULER_LOCK, SCHEDULER_LOCK, &[scheduler, "sa:kube-system:kube-scheduler"]),
        binding(SYSTEM, SIGNER, SIGNER, &["sa:kube-system:bootstrap-signer"]),
        binding(SYSTEM, PROVIDER, PROVIDER, &["sa:kube-system:cloud-provider"]),
        binding(SYSTEM, CLEANER, CLEANER, &["sa:kube-system:token-cleaner"]),
        binding("kube-public", SIGNER, SIGNER, &["sa:kube-system:bootstrap-signer"]),
    ]
}
