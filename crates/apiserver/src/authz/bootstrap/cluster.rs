//! The ClusterRoles for people and components, and who holds them.
//! Upstream: bootstrappolicy/policy.go.

use api::Object;
use serde_json::json;

use super::{AGGREGATE, EVENTS, READ, READ_WRITE, Rule, WRITE, binding, named, paths, role, rule};

const CERTIFICATES: &str = "certificates.k8s.io";
const LEASES: &str = "coordination.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const TOKEN_REVIEWS: Rule = rule("create", "authentication.k8s.io", "tokenreviews");
const ACCESS_REVIEWS: Rule = rule("create", "authorization.k8s.io", "subjectaccessreviews");

const TO_ADMIN: &[Rule] = &[
    rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    rule(READ_WRITE, "rbac.authorization.k8s.io", "rolebindings roles"),
];

const TO_EDIT: &[Rule] = &[
    rule(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    rule("impersonate", "core", "serviceaccounts"),
    rule(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    rule("create", "core", "pods/eviction"),
    rule(
        WRITE,
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
    ),
    rule("create", "core", "serviceaccounts/token"),
    rule(
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale \
         statefulsets statefulsets/scale",
    ),
    rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
    rule(WRITE, "batch", "cronjobs jobs"),
    rule(
        WRITE,
        "extensions",
        "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets \
         replicasets/scale replicationcontrollers/scale",
    ),
    rule(WRITE, "policy", "poddisruptionbudgets"),
    rule(WRITE, NETWORKING, "ingresses networkpolicies"),
    rule(READ_WRITE, LEASES, "leases"),
    rule(WRITE, DEVICES, "resourceclaims resourceclaimtemplates"),
];

const TO_VIEW: &[Rule] = &[
    rule(
        READ,
        "core",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
         replicationcontrollers/scale serviceaccounts services services/status",
    ),
    rule(
        READ,
        "core",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
         resourcequotas resourcequotas/status",
    ),
    rule(READ, "core", "namespaces"),
    rule(READ, "discovery.k8s.io", "endpointslices"),
    rule(
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status \
         replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    rule(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    rule(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    rule(
        READ,
        "extensions",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses \
         ingresses/status networkpolicies replicasets replicasets/scale replicasets/status \
         replicationcontrollers/scale",
    ),
    rule(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    rule(READ, NETWORKING, "ingresses ingresses/status networkpolicies"),
    rule(READ, DEVICES, "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

/// What every node needs, whichever pods it runs. The Node authorizer applies these, narrowed by relation.
pub(super) const NODE: &[Rule] = &[
    TOKEN_REVIEWS,
    rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    rule(READ, "core", "services"),
    rule("create get list watch", "core", "nodes"),
    rule("patch update", "core", "nodes/status"),
    rule("patch update", "core", "nodes"),
    rule("create patch update", "core", "events"),
    rule(READ, "core", "pods"),
    rule("create delete", "core", "pods"),
    rule("patch update", "core", "pods/status"),
    rule("create", "core", "pods/eviction"),
    rule(READ, "core", "configmaps secrets"),
    rule("get", "core", "persistentvolumeclaims persistentvolumes"),
    rule("get", "core", "endpoints"),
    rule("create get list watch", CERTIFICATES, "certificatesigningrequests"),
    rule("create delete get patch update", LEASES, "leases"),
    rule("get", STORAGE, "volumeattachments"),
    rule("create", "core", "serviceaccounts/token"),
    rule("get patch update", "core", "persistentvolumeclaims/status"),
    rule(READ, STORAGE, "csidrivers"),
    rule("create delete get patch update", STORAGE, "csinodes"),
    rule(READ, "node.k8s.io", "runtimeclasses"),
    rule("get", DEVICES, "resourceclaims"),
    rule("deletecollection", DEVICES, "resourceslices"),
    rule(READ, CERTIFICATES, "clustertrustbundles"),
    rule("create get list watch", CERTIFICATES, "podcertificaterequests"),
    rule("get", "core", "serviceaccounts"),
];

const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    rule("create", LEASES, "leases"),
    named("get update", LEASES, "leases", "kube-controller-manager"),
    rule("create", "core", "secrets serviceaccounts"),
    rule("delete", "core", "secrets"),
    rule("get", "core", "configmaps namespaces secrets serviceaccounts"),
    rule("update", "core", "secrets serviceaccounts"),
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
    rule("list watch", "*", "*"),
    rule("create", "core", "serviceaccounts/token"),
];

const SCHEDULER: &[Rule] = &[
    EVENTS,
    rule("create", LEASES, "leases"),
    named("get list update watch", LEASES, "leases", "kube-scheduler"),
    rule(READ_WRITE, LEASES, "leasecandidates"),
    rule(READ, "core", "nodes"),
    rule("delete get list watch", "core", "pods"),
    rule("create", "core", "bindings pods/binding"),
    rule("patch update", "core", "pods/status"),
    rule(READ, "core", "replicationcontrollers services"),
    rule(READ, "apps extensions", "replicasets"),
    rule(READ, "apps", "statefulsets"),
    rule(READ, "policy", "poddisruptionbudgets"),
    rule(READ, "core", "persistentvolumeclaims persistentvolumes"),
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
    rule(READ, STORAGE, "csinodes"),
    rule(READ, STORAGE, "volumeattachments"),
    rule(READ, "core", "namespaces"),
    rule(READ, STORAGE, "csidrivers"),
    rule(READ, STORAGE, "csistoragecapacities"),
    rule(READ, DEVICES, "deviceclasses"),
    rule("get list patch update watch", DEVICES, "resourceclaims"),
    rule("get list patch update watch", DEVICES, "resourceclaims/status"),
    rule("get list patch update watch", "core", "pods/finalizers"),
    rule(READ, DEVICES, "resourceslices"),
    // Claims for extended resources that drivers serve are the scheduler's to make.
    rule("create delete", DEVICES, "resourceclaims"),
    rule(READ, DEVICES, "devicetaintrules"),
    rule("patch update", DEVICES, "resourceclaims/binding"),
];

const SIGNERS: [(&str, &str); 4] = [
    ("system:certificates.k8s.io:kube-apiserver-client-approver", "kubernetes.io/kube-apiserver-client"),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        "kubernetes.io/kube-apiserver-client-kubelet",
    ),
    ("system:certificates.k8s.io:kubelet-serving-approver", "kubernetes.io/kubelet-serving"),
    ("system:certificates.k8s.io:legacy-unknown-approver", "kubernetes.io/legacy-unknown"),
];

/// (name, rules) of the roles without labels of their own.
const PLAIN: &[(&str, &[Rule])] = &[
    ("cluster-admin", &[rule("*", "*", "*"), paths("*", "*")]),
    (
        "system:discovery",
        &[paths(
            "get",
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
        )],
    ),
    (
        "system:monitoring",
        &[
            paths("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*"),
            paths("get", "/flagz"),
            paths("get", "/statusz"),
        ],
    ),
    (
        "system:basic-user",
        &[
            rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            rule("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    ("system:public-info-viewer", &[paths("get", "/healthz /livez /readyz /version /version/")]),
    (
        "system:heapster",
        &[rule(READ, "core", "events namespaces nodes pods"), rule(READ, "extensions", "deployments")],
    ),
    ("system:node", NODE),
    (
        "system:node-problem-detector",
        &[rule("get", "core", "nodes"), rule("patch", "core", "nodes/status"), EVENTS],
    ),
    (
        "system:kubelet-api-admin",
        &[
            rule(READ, "core", "nodes"),
            rule("proxy", "core", "nodes"),
            rule("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
            rule("*", "core", "nodes/configz nodes/healthz nodes/pods"),
        ],
    ),
    (
        "system:node-bootstrapper",
        &[rule("create get list watch", CERTIFICATES, "certificatesigningrequests")],
    ),
    ("system:auth-delegator", &[TOKEN_REVIEWS, ACCESS_REVIEWS]),
    ("system:kube-aggregator", &[rule(READ, "core", "endpoints services")]),
    ("system:kube-controller-manager", CONTROLLER_MANAGER),
    ("system:kube-dns", &[rule("list watch", "core", "endpoints services")]),
    (
        "system:persistent-volume-provisioner",
        &[
            rule("create delete get list watch", "core", "persistentvolumes"),
            rule("get list update watch", "core", "persistentvolumeclaims"),
            rule(READ, STORAGE, "storageclasses"),
            rule("watch", "core", "events"),
            EVENTS,
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[rule("create", CERTIFICATES, "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[rule("create", CERTIFICATES, "certificatesigningrequests/selfnodeclient")],
    ),
    (
        "system:volume-scheduler",
        &[
            rule("get list patch update watch", "core", "persistentvolumes"),
            rule(READ, STORAGE, "storageclasses"),
            rule("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
    ),
    (
        "system:node-proxier",
        &[
            rule("list watch", "core", "endpoints services"),
            rule(READ, "core", "nodes"),
            EVENTS,
            rule("list watch", NETWORKING, "servicecidrs"),
            rule("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    ("system:kube-scheduler", SCHEDULER),
    (
        "system:service-account-issuer-discovery",
        &[paths(
            "get",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        )],
    ),
    ("system:cluster-trust-bundle-discovery", &[rule(READ, CERTIFICATES, "clustertrustbundles")]),
    // Upstream's distributions bring this one with the DNS add-on; our DNS is a part of the server.
    (
        "system:coredns",
        &[
            rule("list watch", "core", "endpoints namespaces pods services"),
            rule("list watch", "discovery.k8s.io", "endpointslices"),
            rule(READ, "core", "nodes"),
        ],
    ),
];

fn labelled(mut object: Object, aggregate_to: &str) -> Object {
    object.0["metadata"]["labels"][format!("{AGGREGATE}{aggregate_to}")] = "true".into();
    object
}

/// A role made of those that are labelled for it. The rules are filled in here as the aggregation controller
/// would do, so that they can be seen from the start; decisions follow the selectors.
fn aggregated(name: &str, rules: &[&[Rule]]) -> Object {
    let mut object = role("", name, &rules.concat());
    object.0["aggregationRule"] = json!({
        "clusterRoleSelectors": [{ "matchLabels": { format!("{AGGREGATE}{name}"): "true" } }]
    });
    object
}

pub(super) fn roles() -> Vec<Object> {
    let mut roles: Vec<Object> = PLAIN.iter().map(|(name, rules)| role("", name, rules)).collect();
    roles.extend(SIGNERS.map(|(name, signer)| {
        let approve = rule("approve", CERTIFICATES, "signers");
        role("", name, &[Rule { names: signer, ..approve }])
    }));
    roles.extend([
        aggregated("admin", &[TO_EDIT, TO_VIEW, TO_ADMIN]),
        labelled(aggregated("edit", &[TO_EDIT, TO_VIEW]), "admin"),
        labelled(aggregated("view", &[TO_VIEW]), "edit"),
        labelled(role("", "system:aggregate-to-admin", TO_ADMIN), "admin"),
        labelled(role("", "system:aggregate-to-edit", TO_EDIT), "edit"),
        labelled(role("", "system:aggregate-to-view", TO_VIEW), "view"),
    ]);
    roles
}

pub(super) fn bindings() -> Vec<Object> {
    const AUTHENTICATED: &str = "group:system:authenticated";
    let rows: &[(&str, &[&str])] = &[
        ("cluster-admin", &["group:system:masters"]),
        ("system:monitoring", &["group:system:monitoring"]),
        ("system:discovery", &[AUTHENTICATED]),
        ("system:basic-user", &[AUTHENTICATED]),
        ("system:public-info-viewer", &[AUTHENTICATED, "group:system:unauthenticated"]),
        ("system:node-proxier", &["user:system:kube-proxy"]),
        ("system:kube-controller-manager", &["user:system:kube-controller-manager"]),
        ("system:kube-dns", &["sa:kube-system:kube-dns"]),
        ("system:kube-scheduler", &["user:system:kube-scheduler"]),
        ("system:volume-scheduler", &["user:system:kube-scheduler"]),
        // Bound to nobody: the Node authorizer grants it.
        ("system:node", &[]),
        ("system:service-account-issuer-discovery", &["group:system:serviceaccounts"]),
        ("system:cluster-trust-bundle-discovery", &["group:system:serviceaccounts"]),
        ("system:coredns", &["sa:kube-system:coredns"]),
    ];
    rows.iter().map(|(name, subjects)| binding("", name, name, subjects)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The ClusterRoles that upstream's policy has beside those of controllers, with the gates that are open by default in
    /// v1.37, and how many rules each has.
    #[rustfmt::skip]
    const ROLES: &[(&str, usize)] = &[
        ("admin", 0), ("cluster-admin", 2), ("edit", 0), ("system:aggregate-to-admin", 2),
        ("system:aggregate-to-edit", 14), ("system:aggregate-to-view", 11), ("system:auth-delegator", 2),
        ("system:basic-user", 2), ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", 1),
        ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", 1),
        ("system:certificates.k8s.io:kube-apiserver-client-approver", 1),
        ("system:certificates.k8s.io:kube-apiserver-client-kubelet-approver", 1),
        ("system:certificates.k8s.io:kubelet-serving-approver", 1),
        ("system:certificates.k8s.io:legacy-unknown-approver", 1), ("system:cluster-trust-bundle-discovery", 1),
        ("system:discovery", 1), ("system:heapster", 2), ("system:kube-aggregator", 1),
        ("system:kube-controller-manager", 11), ("system:kube-dns", 1), ("system:kube-scheduler", 28),
        ("system:kubelet-api-admin", 4), ("system:monitoring", 3), ("system:node", 27), ("system:node-bootstrapper", 1),
        ("system:node-problem-detector", 3), ("system:node-proxier", 5), ("system:persistent-volume-provisioner", 5),
        ("system:public-info-viewer", 1), ("system:service-account-issuer-discovery", 1), ("system:volume-scheduler", 3),
        ("view", 0),
    ];

    /// Who holds each, as upstream has it.
    const HOLDERS: &[(&str, &[&str])] = &[
        ("cluster-admin", &["system:masters"]),
        ("system:basic-user", &["system:authenticated"]),
        ("system:cluster-trust-bundle-discovery", &["system:serviceaccounts"]),
        ("system:discovery", &["system:authenticated"]),
        ("system:kube-controller-manager", &["system:kube-controller-manager"]),
        ("system:kube-dns", &["kube-dns"]),
        ("system:kube-scheduler", &["system:kube-scheduler"]),
        ("system:monitoring", &["system:monitoring"]),
        ("system:node", &[]),
        ("system:node-proxier", &["system:kube-proxy"]),
        ("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
        ("system:service-account-issuer-discovery", &["system:serviceaccounts"]),
        ("system:volume-scheduler", &["system:kube-scheduler"]),
    ];

    /// Of this product.
    const OWN: &str = "system:coredns";

    #[test]
    fn the_roles_are_upstreams() {
        let roles = super::roles();
        let own = |role: &&api::Object| role.name() != OWN;
        let rules = |role: &api::Object| match role.0.get("aggregationRule") {
            // Filled in here, by the controller there.
            Some(_) => 0,
            None => role.0["rules"].as_array().map_or(0, Vec::len),
        };
        let ours: BTreeSet<(&str, usize)> =
            roles.iter().filter(own).map(|role| (role.name(), rules(role))).collect();
        let upstreams: BTreeSet<(&str, usize)> = ROLES.iter().copied().collect();
        assert_eq!(ours.difference(&upstreams).collect::<Vec<_>>(), Vec::<&(&str, usize)>::new());
        assert_eq!(upstreams.difference(&ours).collect::<Vec<_>>(), Vec::<&(&str, usize)>::new());
    }

    #[test]
    fn their_holders_are_upstreams() {
        let bindings = super::bindings();
        let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
        for binding in bindings.iter().filter(|binding| binding.name() != OWN) {
            assert_eq!(binding.0["roleRef"]["name"], binding.name());
            let subjects = binding.0["subjects"].as_array().into_iter().flatten();
            found.push((binding.name(), subjects.filter_map(|subject| subject["name"].as_str()).collect()));
        }
        found.sort_unstable();
        let wanted: Vec<(&str, Vec<&str>)> =
            HOLDERS.iter().map(|(name, holders)| (*name, holders.to_vec())).collect();
        assert_eq!(found, wanted);
    }
}
