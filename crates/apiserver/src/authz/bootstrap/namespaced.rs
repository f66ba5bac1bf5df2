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
        binding(
            SYSTEM,
            MANAGER_LOCK,
            MANAGER_LOCK,
            &[manager, "sa:kube-system:kube-controller-manager", "sa:kube-system:leader-election-controller"],
        ),
        binding(SYSTEM, SCHEDULER_LOCK, SCHEDULER_LOCK, &[scheduler, "sa:kube-system:kube-scheduler"]),
        binding(SYSTEM, SIGNER, SIGNER, &["sa:kube-system:bootstrap-signer"]),
        binding(SYSTEM, PROVIDER, PROVIDER, &["sa:kube-system:cloud-provider"]),
        binding(SYSTEM, CLEANER, CLEANER, &["sa:kube-system:token-cleaner"]),
        binding("kube-public", SIGNER, SIGNER, &["sa:kube-system:bootstrap-signer"]),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    /// Each right and each holder of one, as upstream's policy has them.
    #[rustfmt::skip]
    const UPSTREAM: &[&str] = &[
        "kube-public system:controller:bootstrap-signer: get list watch configmaps",
        "kube-public system:controller:bootstrap-signer: update configmaps/cluster-info",
        "kube-public system:controller:bootstrap-signer: create patch update events events.k8s.io/events",
        "kube-public system:controller:bootstrap-signer = system:controller:bootstrap-signer: kube-system/bootstrap-signer",
        "kube-system extension-apiserver-authentication-reader: get list watch configmaps/extension-apiserver-authentication",
        "kube-system system::extension-apiserver-authentication-reader = extension-apiserver-authentication-reader: \
            system:kube-controller-manager system:kube-scheduler",
        "kube-system system::leader-locking-kube-controller-manager: create get list update watch coordination.k8s.io/leases",
        "kube-system system::leader-locking-kube-controller-manager: create get list update watch coordination.k8s.io/leasecandidates",
        "kube-system system::leader-locking-kube-controller-manager = system::leader-locking-kube-controller-manager: \
            system:kube-controller-manager kube-system/kube-controller-manager kube-system/leader-election-controller",
        "kube-system system::leader-locking-kube-scheduler: create get list update watch coordination.k8s.io/leases",
        "kube-system system::leader-locking-kube-scheduler: create get list update watch coordination.k8s.io/leasecandidates",
        "kube-system system::leader-locking-kube-scheduler = system::leader-locking-kube-scheduler: \
            system:kube-scheduler kube-system/kube-scheduler",
        "kube-system system:controller:bootstrap-signer: get list watch secrets",
        "kube-system system:controller:bootstrap-signer = system:controller:bootstrap-signer: kube-system/bootstrap-signer",
        "kube-system system:controller:cloud-provider: create get list watch configmaps",
        "kube-system system:controller:cloud-provider = system:controller:cloud-provider: kube-system/cloud-provider",
        "kube-system system:controller:token-cleaner: delete get list watch secrets",
        "kube-system system:controller:token-cleaner: create patch update events events.k8s.io/events",
        "kube-system system:controller:token-cleaner = system:controller:token-cleaner: kube-system/token-cleaner",
    ];

    fn texts(list: &Value) -> Vec<&str> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn lines(object: &api::Object) -> Vec<String> {
        let whose = format!("{} {}", object.namespace().unwrap_or_default(), object.name());
        if let Some(rules) = object.0["rules"].as_array() {
            let line = |rule: &Value| {
                let names = texts(&rule["resourceNames"]);
                let mut of = Vec::new();
                for group in texts(&rule["apiGroups"]) {
                    for resource in texts(&rule["resources"]) {
                        let resource = if group.is_empty() {
                            resource.to_owned()
                        } else {
                            format!("{group}/{resource}")
                        };
                        match names.as_slice() {
                            [] => of.push(resource),
                            names => of.extend(names.iter().map(|name| format!("{resource}/{name}"))),
                        }
                    }
                }
                format!("{whose}: {} {}", texts(&rule["verbs"]).join(" "), of.join(" "))
            };
            return rules.iter().map(line).collect();
        }
        let subjects = object.0["subjects"].as_array().into_iter().flatten();
        let subjects = subjects.map(|subject| {
            let name = subject["name"].as_str().unwrap_or_default();
            match subject["namespace"].as_str() {
                Some(namespace) => format!("{namespace}/{name}"),
                None => name.to_owned(),
            }
        });
        let role = object.0["roleRef"]["name"].as_str().unwrap_or_default();
        vec![format!("{whose} = {role}: {}", subjects.collect::<Vec<_>>().join(" "))]
    }

    #[test]
    fn roles_in_namespaces_are_upstreams() {
        let objects = super::objects();
        let own = |object: &&api::Object| !object.name().starts_with("ironclad:");
        let found: BTreeSet<String> = objects.iter().filter(own).flat_map(lines).collect();
        let wanted: BTreeSet<String> = UPSTREAM.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(found.difference(&wanted).collect::<Vec<_>>(), [""; 0], "not upstream's");
        assert_eq!(wanted.difference(&found).collect::<Vec<_>>(), [""; 0], "upstream's only");
    }
}
