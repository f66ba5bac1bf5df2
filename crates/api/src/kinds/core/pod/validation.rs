//! What can be wrong with a pod's spec, alone or in the template of a workload: the one place for both.
//! Not here: what an update may change ([`super::update`]), admission.
//! Upstream: pkg/apis/core/validation/validation.go; the messages are wire behaviour.

mod containers;
mod env;
mod operating_system;
mod probes;
pub(crate) mod scheduling;
mod security;
pub(crate) mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, dns_subdomain, ip, json, one_of, one_of_if_set, qualified_name};
use crate::kinds::core::pod::{label_keys, resources};
use crate::kinds::optional::{items, text};
use crate::meta::ObjectMeta;
use crate::meta_validation::{annotations_errors, labels_errors, push_invalid};
use crate::names;
use crate::types::core::v1::{Pod, PodDNSConfig, PodResourceClaim, PodSpec, PodTemplateSpec, Volume};

pub(crate) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The longest name of a host: Linux takes no longer one.
const HOST_NAME_MAX: usize = 64;

/// What the checks of a spec need to know of its surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The volumes by name.
    pub(crate) volumes: &'a BTreeMap<&'a str, &'a Volume>,
    /// The names of the resource claims.
    pub(crate) claims: &'a BTreeSet<&'a str>,
    /// How long the pod may take to end.
    pub(crate) grace: Option<i64>,
    /// `restartPolicy` of the pod.
    pub(crate) restart_policy: &'a str,
    /// Whether the pod shares the host's user namespace.
    pub(crate) host_users: bool,
}

/// All that is wrong with a new pod.
pub(crate) fn create(pod: &Pod) -> ErrorList {
    let mut errors = metadata_and_spec(pod);
    let path = Path::new("spec");
    let Some(spec) = &pod.spec else { return errors };
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.push(field::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
        errors.push(field::forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
    errors
}

/// What must hold for a pod that is changed.
pub(crate) fn updated(pod: &Pod) -> ErrorList {
    let mut errors = metadata_and_spec(pod);
    errors.retain(|error| !security::is_of_new_pods(error));
    errors
}

/// What must hold for a pod at any time.
fn metadata_and_spec(pod: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    pod_annotations(&mut errors, &pod.metadata, spec, &Path::new("metadata").child("annotations"));
    pod_spec(&mut errors, spec, Some(&pod.metadata), &path);
    if text(&spec.service_account_name).is_empty() {
        for (index, volume) in items(&spec.volumes).iter().enumerate() {
            let sources = volume.projected.iter().flat_map(|projected| items(&projected.sources));
            for (source, _) in
                sources.enumerate().filter(|(_, source)| source.service_account_token.is_some())
            {
                let path =
                    path.child("volumes").index(index).child("projected").child("sources").index(source);
                errors.push(field::forbidden(
                    &path.child("serviceAccountToken"),
                    "must not be specified when serviceAccountName is not set",
                ));
            }
        }
    }
    for (name, list) in [("containers", &*spec.containers), ("initContainers", items(&spec.init_containers))]
    {
        for (index, container) in list.iter().enumerate() {
            containers::image_is_trimmed(&mut errors, &container.image, &path.child(name).index(index));
        }
    }
    errors
}

/// All that is wrong with the template of a workload.
pub(crate) fn template(errors: &mut ErrorList, template: &PodTemplateSpec, path: &Path) {
    let (no_meta, no_spec) = (ObjectMeta::default(), PodSpec::default());
    let meta = template.metadata.as_ref().unwrap_or(&no_meta);
    let spec = template.spec.as_ref().unwrap_or(&no_spec);
    if let Some(labels) = &meta.labels {
        errors.extend(labels_errors(labels, &path.child("labels")));
    }
    if let Some(annotations) = &meta.annotations {
        errors.extend(annotations_errors(annotations, &path.child("annotations")));
    }
    pod_annotations(errors, meta, spec, &path.child("annotations"));
    pod_spec(errors, spec, None, &path.child("spec"));
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.push(field::forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

fn pod_annotations(errors: &mut ErrorList, meta: &ObjectMeta, spec: &PodSpec, path: &Path) {
    for (key, value) in meta.annotations.iter().flatten() {
        match key.as_str() {
            MIRROR_ANNOTATION if text(&spec.node_name).is_empty() => errors.push(field::invalid(
                &path.key(key),
                &**value,
                "must set spec.nodeName if mirror pod annotation is set",
            )),
            "controller.kubernetes.io/pod-deletion-cost" if !is_deletion_cost(value) => {
                errors.push(field::invalid(&path.key(key), &**value, "must be a 32bit integer"));
            }
            _ => {}
        }
    }
}

/// A sign is allowed, leading zeros and `+` are not (they would make two spellings of one cost).
fn is_deletion_cost(value: &str) -> bool {
    let leading = value.strip_prefix('-').unwrap_or(value);
    let canonical = leading == "0" || !leading.starts_with(['0', '+']);
    value.is_empty() || (canonical && value.parse::<i32>().is_ok())
}

fn pod_spec(errors: &mut ErrorList, spec: &PodSpec, pod: Option<&ObjectMeta>, path: &Path) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.push(field::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::all(errors, items(&spec.volumes), pod, &path.child("volumes"));
    let claims: BTreeSet<_> = items(&spec.resource_claims)
        .iter()
        .map(|claim| &*claim.name)
        .filter(|name| !name.is_empty())
        .collect();
    resource_claims(errors, items(&spec.resource_claims), &path.child("resourceClaims"));
    let context = Context {
        volumes: &volumes,
        claims: &claims,
        grace: spec.termination_grace_period_seconds,
        restart_policy: text(&spec.restart_policy),
        host_users: spec.host_users.unwrap_or(true),
    };
    containers::regular(errors, &spec.containers, &context, &path.child("containers"));
    containers::init(
        errors,
        items(&spec.init_containers),
        &spec.containers,
        &context,
        &path.child("initContainers"),
    );
    containers::ephemeral(errors, spec, &context, &path.child("ephemeralContainers"));
    if let Some(pod_level) = &spec.resources {
        resources::validate_pod_level(errors, spec, pod_level, &path.child("resources"));
    }
    if spec.host_network == Some(true) {
        host_ports(errors, spec, pod.is_some(), &path.child("containers"));
    }
    one_of(
        errors,
        &path.child("restartPolicy"),
        text(&spec.restart_policy),
        &["Always", "OnFailure", "Never"],
    );
    one_of(
        errors,
        &path.child("dnsPolicy"),
        text(&spec.dns_policy),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    if let Some(selector) = &spec.node_selector {
        errors.extend(labels_errors(selector, &path.child("nodeSelector")));
    }
    if let Some(security) = &spec.security_context {
        security::pod(errors, security, spec, &path.child("securityContext"));
    }
    let keys = label_keys::count(spec);
    if keys > label_keys::MOST {
        errors.push(field::too_many(&path.child("matchLabelKeys"), keys, label_keys::MOST));
    }
    if let Some(affinity) = &spec.affinity {
        scheduling::affinity(errors, affinity, &path.child("affinity"));
    }
    dns_config(errors, spec.dns_config.as_ref(), text(&spec.dns_policy), &path.child("dnsConfig"));
    for (index, gate) in items(&spec.readiness_gates).iter().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        qualified_name(errors, &path, &gate.condition_type);
    }
    let mut gates = BTreeSet::new();
    for (index, gate) in items(&spec.scheduling_gates).iter().enumerate() {
        let path = path.child("schedulingGates").index(index);
        qualified_name(errors, &path, &gate.name);
        if !gates.insert(&gate.name) {
            errors.push(field::duplicate(&path, &*gate.name));
        }
    }
    let spread = items(&spec.topology_spread_constraints);
    scheduling::topology_spread(errors, spread, &path.child("topologySpreadConstraints"));
    if spec.host_users == Some(false) {
        for (name, shared) in
            [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)]
        {
            if shared == Some(true) {
                errors.push(field::forbidden(&path.child(name), "when `pod.Spec.HostUsers` is false"));
            }
        }
    }
    identity_and_placement(errors, spec, path);
}

fn identity_and_placement(errors: &mut ErrorList, spec: &PodSpec, path: &Path) {
    for (name, value) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty() || name == "runtimeClassName")
        {
            dns_subdomain(errors, &path.child(name), value);
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let range = names::range_message(1, i32::MAX.into());
        errors.push(field::invalid(&path.child("activeDeadlineSeconds"), seconds, range));
    }
    for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !text(value).is_empty() {
            dns_label(errors, &path.child(name), text(value));
        }
    }
    scheduling::tolerations(errors, items(&spec.tolerations), &path.child("tolerations"));
    for (index, alias) in items(&spec.host_aliases).iter().enumerate() {
        let path = path.child("hostAliases").index(index);
        ip(errors, &path.child("ip"), &alias.ip);
        for (index, hostname) in items(&alias.hostnames).iter().enumerate() {
            dns_subdomain(errors, &path.child("hostnames").index(index), hostname);
        }
    }
    let policies = ["PreemptLowerPriority", "Never"];
    one_of_if_set(errors, &path.child("preemptionPolicy"), &spec.preemption_policy, &policies);
    if let Some(overhead) = &spec.overhead {
        resources::validate_list(errors, overhead, &path.child("overhead").child("limits"));
    }
    if let Some(name) = &spec.hostname_override {
        let path = path.child("hostnameOverride");
        dns_subdomain(errors, &path, name);
        if name.len() > HOST_NAME_MAX {
            errors.push(field::too_long(&path, HOST_NAME_MAX));
        }
        if spec.set_hostname_as_fqdn == Some(true) {
            errors.push(field::forbidden(&path, "may not be specified when setHostnameAsFQDN is true"));
        }
        if spec.host_network == Some(true) {
            errors.push(field::forbidden(&path, "may not be specified when hostNetwork is true"));
        }
    }
    if let Some(os) = &spec.os {
        operating_system::validate(errors, spec, &os.name, path);
        if os.name.is_empty() {
            errors.push(field::required(&path.child("os").child("name"), "cannot be empty"));
        } else if !["linux", "windows"].contains(&&*os.name) {
            errors.push(field::not_supported(&path.child("os"), &*os.name, &["linux", "windows"]));
        }
    }
}

fn resource_claims(errors: &mut ErrorList, claims: &[PodResourceClaim], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        if claim.name.is_empty() {
            errors.push(field::required(&path.child("name"), ""));
        } else if !seen.insert(&claim.name) {
            errors.push(field::duplicate(&path.child("name"), &*claim.name));
        } else {
            dns_label(errors, &path.child("name"), &claim.name);
        }
        let sources = [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ];
        match sources.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.push(field::invalid(
                &path,
                json(claim),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            1 => {}
            _ => errors.push(field::invalid(
                &path,
                json(claim),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
        }
        for (field, name) in sources {
            if let Some(name) = name {
                dns_subdomain(errors, &path.child(field), name);
            }
        }
    }
}

/// On the host's network a host port is the container's port. Templates may leave it out: the pod's default sets it.
fn host_ports(errors: &mut ErrorList, spec: &PodSpec, in_pod: bool, path: &Path) {
    for (index, container) in spec.containers.iter().enumerate() {
        for (port_index, port) in items(&container.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if (in_pod || host_port != 0) && host_port != port.container_port {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                let message = "must match `containerPort` when `hostNetwork` is true";
                errors.push(field::invalid(&path, host_port, message));
            }
        }
    }
}

fn dns_config(errors: &mut ErrorList, config: Option<&PodDNSConfig>, policy: &str, path: &Path) {
    // The limits of the resolver in libc.
    const NAMESERVERS: usize = 3;
    const SEARCHES: usize = 32;
    const SEARCH_CHARACTERS: usize = 2048;
    let Some(config) = config else {
        if policy == "None" {
            errors.push(field::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        return;
    };
    let (nameservers, searches) = (items(&config.nameservers), items(&config.searches));
    if policy == "None" && nameservers.is_empty() {
        errors.push(field::required(
            &path.child("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        ));
        return;
    }
    if nameservers.len() > NAMESERVERS {
        errors.push(field::invalid(
            &path.child("nameservers"),
            nameservers.to_vec(),
            format!("must not have more than {NAMESERVERS} nameservers"),
        ));
    }
    for (index, nameserver) in nameservers.iter().enumerate() {
        ip(errors, &path.child("nameservers").index(index), nameserver);
    }
    if searches.len() > SEARCHES {
        let message = format!("must not have more than {SEARCHES} search paths");
        errors.push(field::invalid(&path.child("searches"), searches.to_vec(), message));
    }
    if searches.join(" ").len() > SEARCH_CHARACTERS {
        errors.push(field::invalid(
            &path.child("searches"),
            searches.to_vec(),
            format!(
                "must not have more than {SEARCH_CHARACTERS} characters (including spaces) in the search list"
            ),
        ));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        let messages = names::is_dns1123_subdomain_with_underscore(name);
        push_invalid(errors, &path.child("searches").index(index), name, messages);
    }
    for (index, option) in items(&config.options).iter().enumerate() {
        if text(&option.name).is_empty() {
            errors.push(field::required(&path.child("options").index(index), "must not be empty"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::core::pod::defaults;

    fn check(pod: Value) -> Vec<String> {
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        defaults::pod(&mut pod);
        create(&pod).iter().map(ToString::to_string).collect()
    }

    fn with_spec(extra: Value) -> Vec<String> {
        let mut spec = json!({"containers": [{"name": "a", "image": "b"}]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        check(json!({"metadata": {"name": "p"}, "spec": spec}))
    }

    #[test]
    fn a_plain_pod_is_right() {
        assert_eq!(with_spec(json!({})), Vec::<String>::new());
    }

    #[test]
    fn wrong_specs() {
        for (spec, message) in [
            (json!({"containers": []}), "spec.containers: Required value"),
            (
                json!({"restartPolicy": "x"}),
                r#"spec.restartPolicy: Unsupported value: "x": supported values: "Always", "OnFailure", "Never""#,
            ),
            (json!({"hostname": "a.b"}), r#"spec.hostname: Invalid value: "a.b": must not contain dots"#),
            (
                json!({"activeDeadlineSeconds": 0}),
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ),
            (
                json!({"dnsPolicy": "None"}),
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ),
            (
                json!({"volumes": [{"name": "v"}, {"name": "v"}]}),
                r#"spec.volumes[1].name: Duplicate value: "v""#,
            ),
            (
                json!({"containers": [{"name": "a", "image": "b", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}),
                r#"spec.containers[0].volumeMounts[0].name: Not found: "x""#,
            ),
            (
                json!({"containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 80, "protocol": "tcp"}]}]}),
                r#"spec.containers[0].ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP""#,
            ),
            (
                json!({"containers": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
                r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
            ),
            (
                json!({"containers": [{"name": "a", "image": "b", "livenessProbe": {}}]}),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"initContainers": [{"name": "i", "image": "b", "readinessProbe": {"exec": {"command": ["x"]}}}]}),
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ),
            (
                json!({"tolerations": [{"operator": "Equal"}]}),
                r#"spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys""#,
            ),
        ] {
            assert_eq!(with_spec(spec.clone()), [message], "{spec}");
        }
    }

    #[test]
    fn deletion_costs() {
        for (value, right) in
            [("0", true), ("-5", true), ("7", true), ("07", false), ("+7", false), ("x", false)]
        {
            assert_eq!(is_deletion_cost(value), right, "{value}");
        }
    }
}
