//! Warnings of pods and of the templates of pods: what is deprecated, does nothing, or will surprise.
//! Upstream: pkg/api/pod/warnings.go, pkg/registry/core/pod/strategy.go; the texts are wire behaviour. An update of a
//! pod warns of nothing, as upstream: people change templates.

mod paths;

use std::collections::{BTreeMap, BTreeSet};

use crate::field::{Path, quote};
use crate::kinds::core::persistent_volume_claim;
use crate::kinds::optional::{items, text};
use crate::kinds::warn;
use crate::meta::{ObjectMeta, Quantity};
use crate::types::core::v1::{
    Affinity, Container, ContainerPort, EnvVar, EphemeralContainer, Pod, PodSpec, PodTemplateSpec,
    ResourceRequirements, SecurityContext, Volume,
};

const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const SECCOMP_FIELD: &str = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
const DEPRECATED_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];

/// Of a new pod.
pub(super) fn pod(pod: &Pod) -> Vec<String> {
    let mut warnings = Vec::new();
    warn::host_name(&mut warnings, &pod.metadata, "the Pod's hostname");
    if let Some(spec) = &pod.spec {
        check(&mut warnings, &Path::root(), spec, &pod.metadata);
    }
    warnings
}

/// Of a template at `path`.
pub(crate) fn template(warnings: &mut Vec<String>, path: &Path, template: &PodTemplateSpec) {
    if let Some(spec) = &template.spec {
        check(warnings, path, spec, template.metadata.as_ref().unwrap_or(&ObjectMeta::default()));
    }
}

/// What containers of every kind have.
struct Part<'a> {
    path: Path,
    name: &'a str,
    env: &'a [EnvVar],
    ports: &'a [ContainerPort],
    resources: Option<&'a ResourceRequirements>,
    security: Option<&'a SecurityContext>,
}

impl<'a> Part<'a> {
    fn of(path: Path, container: &'a Container) -> Self {
        Self {
            path,
            name: &container.name,
            env: items(&container.env),
            ports: items(&container.ports),
            resources: container.resources.as_ref(),
            security: container.security_context.as_ref(),
        }
    }

    fn of_ephemeral(path: Path, container: &'a EphemeralContainer) -> Self {
        Self {
            path,
            name: &container.name,
            env: items(&container.env),
            ports: items(&container.ports),
            resources: container.resources.as_ref(),
            security: container.security_context.as_ref(),
        }
    }
}

/// The containers of every kind.
fn parts<'a>(spec: &'a PodSpec, path: &Path) -> Vec<Part<'a>> {
    let (init, main) = (path.child("initContainers"), path.child("containers"));
    let ephemeral = path.child("ephemeralContainers");
    let init = items(&spec.init_containers).iter().enumerate().map(|(i, c)| Part::of(init.index(i), c));
    let main = spec.containers.iter().enumerate().map(|(i, c)| Part::of(main.index(i), c));
    let more = items(&spec.ephemeral_containers).iter().enumerate();
    init.chain(main).chain(more.map(|(i, c)| Part::of_ephemeral(ephemeral.index(i), c))).collect()
}

fn check(warnings: &mut Vec<String>, root: &Path, spec: &PodSpec, meta: &ObjectMeta) {
    let path = root.child("spec");
    scheduling(warnings, &path, spec);
    let annotations_path = root.child("metadata").child("annotations");
    let none = BTreeMap::new();
    let annotations = meta.annotations.as_ref().unwrap_or(&none);
    for (key, message) in DEPRECATED_ANNOTATIONS {
        if annotations.contains_key(key) {
            warnings.push(format!("{}: {message}", annotations_path.key(key)));
        }
    }
    volumes(warnings, &path.child("volumes"), items(&spec.volumes));
    lists(warnings, &path, spec);
    fractions(warnings, &path.child("overhead"), spec.overhead.as_ref());

    let security = spec.security_context.as_ref();
    let annotated = |key: String, message: &str, warnings: &mut Vec<String>| {
        if annotations.contains_key(&key) {
            warnings.push(format!("{}: {message}", annotations_path.key(key)));
        }
    };
    if security.is_none_or(|security| security.seccomp_profile.is_none()) {
        annotated("seccomp.security.alpha.kubernetes.io/pod".to_owned(), SECCOMP_FIELD, warnings);
    }
    let app_armor = security.is_some_and(|security| security.app_armor_profile.is_some());
    let parts = parts(spec, &path);
    for part in &parts {
        let security = part.security;
        let has_annotations = !annotations.is_empty();
        if has_annotations && security.is_none_or(|security| security.seccomp_profile.is_none()) {
            let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", part.name);
            annotated(key, SECCOMP_FIELD, warnings);
        }
        let app_armor = app_armor || security.is_some_and(|security| security.app_armor_profile.is_some());
        if has_annotations && !app_armor {
            let key = format!("container.apparmor.security.beta.kubernetes.io/{}", part.name);
            annotated(key, r#"deprecated since v1.30; use the "appArmorProfile" field instead"#, warnings);
        }
        if let Some(resources) = part.resources {
            let path = part.path.child("resources");
            for name in ["memory", "ephemeral-storage"] {
                for (of, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
                    let amount = amounts.as_ref().and_then(|amounts| amounts.get(name));
                    warn::whole_bytes(warnings, &path.child(of).key(name), amount);
                }
            }
        }
        environment(warnings, &part.path.child("env"), part.env);
    }
    ports(warnings, &parts);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.child("terminationGracePeriodSeconds")
        ));
    }
    if let Some(affinity) = &spec.affinity {
        pod_affinity(warnings, &path.child("affinity"), affinity);
    }
}

/// Labels of nodes that are deprecated, and spreading that counts no pod.
fn scheduling(warnings: &mut Vec<String>, path: &Path, spec: &PodSpec) {
    for key in spec.node_selector.iter().flat_map(BTreeMap::keys) {
        if let Some(message) = warn::node_label(key) {
            warnings.push(format!("{}: {message}", path.child("nodeSelector").key(key)));
        }
    }
    if let Some(affinity) = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()) {
        let path = path.child("affinity").child("nodeAffinity");
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
        let terms_path =
            path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        for (index, term) in
            required.map(|required| &required.node_selector_terms).into_iter().flatten().enumerate()
        {
            warn::node_selector_term(warnings, term, false, &terms_path.index(index));
        }
        let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        let preferred = items(&affinity.preferred_during_scheduling_ignored_during_execution);
        for (index, term) in preferred.iter().enumerate() {
            let path = path.index(index).child("preference");
            warn::node_selector_term(warnings, &term.preference, true, &path);
        }
    }
    for (index, spread) in items(&spec.topology_spread_constraints).iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        if let Some(message) = warn::node_label(&spread.topology_key) {
            warnings.push(format!("{}: {} is {message}", path.child("topologyKey"), spread.topology_key));
        }
        if spread.label_selector.is_none() {
            warnings.push(format!("{}: {NO_SELECTOR}", path.child("labelSelector")));
        }
    }
}

fn pod_affinity(warnings: &mut Vec<String>, path: &Path, affinity: &Affinity) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let near = affinity.pod_affinity.as_ref().map(|near| {
        (
            "podAffinity",
            items(&near.required_during_scheduling_ignored_during_execution),
            items(&near.preferred_during_scheduling_ignored_during_execution),
        )
    });
    let apart = affinity.pod_anti_affinity.as_ref().map(|apart| {
        (
            "podAntiAffinity",
            items(&apart.required_during_scheduling_ignored_during_execution),
            items(&apart.preferred_during_scheduling_ignored_during_execution),
        )
    });
    for (name, required, preferred) in [near, apart].into_iter().flatten() {
        let path = path.child(name);
        for (index, term) in required.iter().enumerate() {
            if term.label_selector.is_none() {
                let path = path.child(REQUIRED).index(index).child("labelSelector");
                warnings.push(format!("{path}: {NO_SELECTOR}"));
            }
        }
        for (index, term) in preferred.iter().enumerate() {
            if term.pod_affinity_term.label_selector.is_none() {
                let path = path.child(PREFERRED).index(index).child("podAffinityTerm").child("labelSelector");
                warnings.push(format!("{path}: {NO_SELECTOR}"));
            }
        }
    }
}

fn volumes(warnings: &mut Vec<String>, path: &Path, volumes: &[Volume]) {
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let mut warn = |is: bool, name: &'static str, message: &str| {
            if is {
                warnings.push(format!("{}: {message}", path.child(name)));
            }
        };
        warn(
            volume.photon_persistent_disk.is_some(),
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        );
        warn(volume.git_repo.is_some(), "gitRepo", "deprecated in v1.11");
        warn(volume.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+");
        warn(volume.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+");
        warn(volume.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+");
        warn(volume.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+");
        warn(volume.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+");
        warn(volume.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+");
        warn(volume.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+");
        let claim = volume.ephemeral.as_ref().and_then(|volume| volume.volume_claim_template.as_ref());
        if let Some(claim) = claim {
            let path = path.child("ephemeral").child("volumeClaimTemplate").child("spec");
            persistent_volume_claim::spec_warnings(warnings, &path, &claim.spec);
        }
    }
    for volume in volumes {
        paths::overlapping(warnings, volume);
    }
}

/// Lists whose elements should differ but need not.
fn lists(warnings: &mut Vec<String>, path: &Path, spec: &PodSpec) {
    let mut seen = BTreeSet::new();
    for (index, alias) in items(&spec.host_aliases).iter().enumerate() {
        if !seen.insert(&alias.ip) {
            let path = path.child("hostAliases").index(index).child("ip");
            warnings.push(format!("{path}: duplicate ip {}", quote(&alias.ip)));
        }
    }
    let secrets = items(&spec.image_pull_secrets);
    let path = |index| path.child("imagePullSecrets").index(index).child("name");
    let mut seen = BTreeSet::new();
    for (index, secret) in secrets.iter().enumerate() {
        if !seen.insert(&secret.name) {
            warnings.push(format!("{}: duplicate name {}", path(index), quote(&secret.name)));
        }
    }
    for (index, secret) in secrets.iter().enumerate() {
        if secret.name.is_empty() {
            warnings.push(format!("{}: invalid empty name \"\"", path(index)));
        }
    }
}

fn fractions(warnings: &mut Vec<String>, path: &Path, amounts: Option<&BTreeMap<String, Quantity>>) {
    for name in ["memory", "ephemeral-storage"] {
        warn::whole_bytes(warnings, &path.key(name), amounts.and_then(|amounts| amounts.get(name)));
    }
}

/// A variable given twice is fine when the later value extends the earlier; else apply, which keys the list by name,
/// would keep one of them.
fn environment(warnings: &mut Vec<String>, path: &Path, variables: &[EnvVar]) {
    let mut seen = BTreeSet::new();
    for (index, variable) in variables.iter().enumerate() {
        if seen.insert(&variable.name) {
            continue;
        }
        let reference = format!("$({})", variable.name);
        let value = text(&variable.value);
        if variable.value_from.is_some() || value == reference || !value.contains(&reference) {
            warnings.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.index(index),
                quote(&variable.name)
            ));
        }
    }
}

/// Ports of one number that are compared with another one, and warnings after which no more ports are looked at: clients
/// send as many as they like, and an answer carries some forty of them.
const MOST_COMPARED: usize = 100;
const MOST_WARNINGS: usize = 1000;

fn ports(warnings: &mut Vec<String>, parts: &[Part<'_>]) {
    let mut seen: BTreeMap<(i32, &str), Vec<(Path, &ContainerPort)>> = BTreeMap::new();
    for part in parts {
        for (index, port) in part.ports.iter().enumerate() {
            let path = part.path.child("ports").index(index);
            let (host_ip, host_port) = (text(&port.host_ip), port.host_port.unwrap_or(0));
            let protocol = text(&port.protocol);
            if !host_ip.is_empty() && host_port == 0 {
                warnings.push(format!(
                    "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{protocol} \
                     HostIP:{host_ip}}}",
                    text(&port.name),
                    port.container_port,
                ));
            }
            let others = seen.entry((port.container_port, protocol)).or_default();
            for (other_path, other) in others.iter().take(MOST_COMPARED) {
                let (other_ip, other_port) = (text(&other.host_ip), other.host_port.unwrap_or(0));
                let how = if (host_ip, host_port) == (other_ip, other_port) {
                    "duplicate"
                } else if host_port == 0 || other_port == 0 {
                    "overlapping"
                } else if host_port == other_port && host_ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{path}: {how} port definition with {other_path}"));
                if warnings.len() >= MOST_WARNINGS {
                    return;
                }
            }
            others.push((path, port));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn warnings_of(spec: Value, annotations: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "a", "annotations": annotations}, "spec": spec});
        object["spec"]["containers"].as_array_mut().into_iter().flatten().for_each(|container| {
            container["image"] = "i".into();
        });
        if object["spec"]["containers"].is_null() {
            object["spec"]["containers"] = json!([]);
        }
        pod(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn each_says_what_and_where() {
        for (spec, expected) in [
            (json!({}), vec![]),
            (
                json!({"nodeSelector": {"beta.kubernetes.io/arch": "arm64"}}),
                vec![
                    r#"spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use "kubernetes.io/arch" instead"#,
                ],
            ),
            (
                json!({"affinity": {"nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "In", "values": ["x y"]}]}]},
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference":
                        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]}}],
                }}}),
                vec![
                    r#"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead"#,
                    "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values[0]: - is invalid, a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "failure-domain.beta.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
                vec![
                    r#"spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
                    "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                ],
            ),
            (
                json!({"volumes": [{"name": "g", "gitRepo": {"repository": "r"}}, {"name": "r", "rbd": {"monitors": [], "image": "i"}}]}),
                vec![
                    "spec.volumes[0].gitRepo: deprecated in v1.11",
                    "spec.volumes[1].rbd: deprecated in v1.28, non-functional in v1.31+",
                ],
            ),
            (
                json!({"hostAliases": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}],
                       "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {"name": ""}]}),
                vec![
                    r#"spec.hostAliases[1].ip: duplicate ip "1.1.1.1""#,
                    r#"spec.imagePullSecrets[1].name: duplicate name "a""#,
                    r#"spec.imagePullSecrets[2].name: invalid empty name """#,
                ],
            ),
            (
                json!({"containers": [{"name": "c",
                    "resources": {"limits": {"memory": "1500m"}, "requests": {"ephemeral-storage": "0.1"}},
                    "env": [{"name": "X", "value": "a"}, {"name": "X", "value": "$(X)b"}, {"name": "X", "value": "c"}]}]}),
                vec![
                    r#"spec.containers[0].resources.limits[memory]: fractional byte value "1500m" is invalid, must be an integer"#,
                    r#"spec.containers[0].resources.requests[ephemeral-storage]: fractional byte value "100m" is invalid, must be an integer"#,
                    r#"spec.containers[0].env[2]: hides previous definition of "X", which may be dropped when using apply"#,
                ],
            ),
            (
                json!({"containers": [
                    {"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"},
                                            {"containerPort": 80, "protocol": "TCP", "hostPort": 80},
                                            {"containerPort": 80, "protocol": "TCP", "hostPort": 80, "hostIP": "1.1.1.1"}]},
                    {"name": "d", "ports": [{"containerPort": 90, "protocol": "TCP", "hostIP": "1.1.1.1", "name": "n"}]}]}),
                vec![
                    "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: dangerously ambiguous port definition with spec.containers[0].ports[1]",
                    "spec.containers[1].ports[0]: hostIP set without hostPort: {Name:n HostPort:0 ContainerPort:90 Protocol:TCP HostIP:1.1.1.1}",
                ],
            ),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                vec![
                    "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                ],
            ),
            (
                json!({"affinity": {"podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k"}],
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {"topologyKey": "k"}}]}}}),
                vec![
                    "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod",
                    "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
                ],
            ),
        ] {
            assert_eq!(warnings_of(spec, json!({})), expected);
        }
    }

    #[test]
    fn annotations_that_fields_replaced() {
        let annotations = json!({
            "scheduler.alpha.kubernetes.io/critical-pod": "",
            "seccomp.security.alpha.kubernetes.io/pod": "runtime/default",
            "container.seccomp.security.alpha.kubernetes.io/c": "runtime/default",
            "container.apparmor.security.beta.kubernetes.io/c": "unconfined",
        });
        let containers = json!([{"name": "c"}]);
        assert_eq!(
            warnings_of(json!({"containers": containers}), annotations.clone()),
            [
                r#"metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead"#,
                r#"metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead"#,
                r#"metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: non-functional in v1.27+; use the "seccompProfile" field instead"#,
                r#"metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead"#,
            ]
        );
        let context =
            json!({"seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"}});
        let containers = json!([{"name": "c", "securityContext": context}]);
        assert_eq!(
            warnings_of(json!({"securityContext": context, "containers": containers}), annotations).len(),
            1
        );
    }

    #[test]
    fn names_that_are_no_host_names() {
        let object = json!({"metadata": {"name": "a.b"}, "spec": {"containers": [], "terminationGracePeriodSeconds": -1}});
        let object: Pod = serde_json::from_value(object).unwrap();
        let warnings = pod(&object);
        assert_eq!(warnings.len(), 2);
        assert_eq!(
            warnings[0],
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]"
        );
    }
}
