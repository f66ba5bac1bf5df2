//! What an update may change about a pod: through the pod itself, its status, `ephemeralcontainers` and `resize`.
//! Upstream: pkg/apis/core/validation (ValidatePodUpdate and its kin), pkg/registry/core/pod/strategy.go.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::qos;
use super::validation::{self, MIRROR_ANNOTATION, scheduling};
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{self, difference, dns_subdomain, ip, quantity};
use crate::kinds::optional::{items, items_mut, text};
use crate::meta::Quantity;
use crate::names::range_message;
use crate::types::core::v1::{
    Container, ContainerStatus, Pod, PodSpec, PodStatus, ResourceRequirements, Toleration,
};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
     set to 1 if it was previously negative)";

/// A new pod is pending, and blocked while it has scheduling gates.
pub(super) fn initial_status(pod: &Pod) -> Value {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let mut status = json!({"phase": "Pending", "qosClass": qos::of_spec(spec).as_str()});
    if !items(&spec.scheduling_gates).is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    status
}

/// A status update leaves the owners alone and cannot lose the class.
pub(super) fn prepare_for_status_update(new: &mut Pod, old: &Pod) {
    new.metadata.owner_references.clone_from(&old.metadata.owner_references);
    new.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
    if let (Some(new), Some(old)) = (&mut new.status, &old.status)
        && text(&new.qos_class).is_empty()
    {
        new.qos_class.clone_from(&old.qos_class);
    }
    // Clients older than these fields leave them out; without them the claims of the pod would never be released.
    if let (Some(new), Some(old)) = (&mut new.status, &old.status) {
        keep(&mut new.resource_claim_statuses, &old.resource_claim_statuses);
        keep(&mut new.extended_resource_claim_status, &old.extended_resource_claim_status);
        keep(
            &mut new.node_allocatable_resource_claim_statuses,
            &old.node_allocatable_resource_claim_statuses,
        );
    }
}

fn keep<T: Clone>(new: &mut Option<T>, old: &Option<T>) {
    if new.is_none() {
        new.clone_from(old);
    }
}

/// Through the two subresources of the spec, only their own part changes.
pub(super) fn prepare_for_subresource_update(subresource: &str, new: &mut Pod, old: &Pod) {
    let mut pod = old.clone();
    pod.metadata.managed_fields = new.metadata.managed_fields.take();
    pod.metadata.resource_version = new.metadata.resource_version.take();
    if let (Some(kept), Some(asked)) = (&mut pod.spec, &mut new.spec) {
        match subresource {
            "ephemeralcontainers" => kept.ephemeral_containers = asked.ephemeral_containers.take(),
            "resize" => {
                resize(&mut kept.containers, &asked.containers);
                resize(items_mut(&mut kept.init_containers), items(&asked.init_containers));
            }
            _ => {}
        }
    }
    *new = pod;
}

fn resize(kept: &mut [Container], asked: &[Container]) {
    for (kept, asked) in kept.iter_mut().zip(asked) {
        if kept.name == asked.name {
            kept.resources.clone_from(&asked.resources);
            kept.resize_policy.clone_from(&asked.resize_policy);
        }
    }
}

/// All that is wrong with an update through one of the two subresources of the spec.
pub(super) fn validate_subresource_update(subresource: &str, new: &Pod, old: &Pod) -> ErrorList {
    match subresource {
        "ephemeralcontainers" => ephemeral_containers(new, old),
        "resize" => resized(new, old),
        _ => validate(new, old),
    }
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.iter().flatten().any(|(key, _)| key == MIRROR_ANNOTATION)
}

fn mirror_annotation(errors: &mut ErrorList, new: &Pod, old: &Pod) {
    let value =
        |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|all| all.get(MIRROR_ANNOTATION)).cloned();
    let path = Path::new("metadata").child("annotations").key(MIRROR_ANNOTATION);
    match (value(new), value(old)) {
        (new, Some(old)) if new.as_ref() != Some(&old) => {
            errors.push(field::forbidden(&path, "may not remove or update mirror pod annotation"));
        }
        (Some(_), None) => errors.push(field::forbidden(&path, "may not add mirror pod annotation")),
        _ => {}
    }
}

/// All that is wrong with an update of a pod.
pub(super) fn validate(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = validation::updated(new);
    mirror_annotation(&mut errors, new, old);
    let path = Path::new("spec");
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return errors };
    for (name, new, old) in [
        ("containers", &*new.containers, &*old.containers),
        ("initContainers", items(&new.init_containers), items(&old.init_containers)),
    ] {
        if new.len() != old.len() {
            let path = path.child(name);
            errors.push(field::forbidden(&path, "pod updates may not add or remove containers"));
            return errors;
        }
    }
    if !active_deadline(&mut errors, new, old, &path.child("activeDeadlineSeconds")) {
        return errors;
    }
    only_added_tolerations(&mut errors, new, old, &path.child("tolerations"));
    let old_gates = items(&old.scheduling_gates);
    for (index, gate) in items(&new.scheduling_gates).iter().enumerate() {
        if !old_gates.contains(gate) {
            let message = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.push(field::forbidden(&path.child("schedulingGates").index(index).child("name"), message));
        }
    }
    if new == old {
        return errors;
    }
    // What may change is set back; what then still differs may not.
    let mut rest = new.clone();
    for (rest, old) in rest.containers.iter_mut().zip(&old.containers) {
        rest.image.clone_from(&old.image);
    }
    for (rest, old) in items_mut(&mut rest.init_containers).iter_mut().zip(items(&old.init_containers)) {
        rest.image.clone_from(&old.image);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    rest.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && rest.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !old_gates.is_empty() {
        gated(&mut errors, &mut rest, old, &path);
    }
    if rest != *old {
        let message =
            format!("pod updates may not change fields other than {UPDATABLE}\n{}", difference(old, &rest));
        errors.push(field::forbidden(&path, message));
    }
    errors
}

/// While a pod is gated, the choice of its node may be narrowed.
fn gated(errors: &mut ErrorList, rest: &mut PodSpec, old: &PodSpec, path: &Path) {
    let empty = BTreeMap::new();
    let selector = rest.node_selector.as_ref().unwrap_or(&empty);
    for (key, value) in old.node_selector.iter().flatten() {
        if selector.get(key) != Some(value) {
            let path = path.child("nodeSelector");
            errors.push(field::invalid(
                &path,
                check::json(selector),
                "only additions are allowed (no mutations or deletions)",
            ));
            break;
        }
    }
    rest.node_selector.clone_from(&old.node_selector);
    let node = |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let (new_node, old_node) = (node(rest), node(old));
    if new_node != old_node {
        let terms = |affinity: &Option<crate::types::core::v1::NodeAffinity>| {
            affinity
                .as_ref()
                .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref())
                .map(|selector| selector.node_selector_terms.clone())
        };
        if let Some(old_terms) = terms(&old_node) {
            let path = path.child("affinity").child("nodeAffinity");
            let path =
                path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
            let new_terms = terms(&new_node).unwrap_or_default();
            if new_terms.len() != old_terms.len() {
                let message = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
                errors.push(field::invalid(&path, check::json(&new_terms), message));
            } else {
                for (index, (new, old)) in new_terms.iter().zip(&old_terms).enumerate() {
                    let keeps = items(&old.match_expressions)
                        .iter()
                        .all(|e| items(&new.match_expressions).contains(e))
                        && items(&old.match_fields).iter().all(|f| items(&new.match_fields).contains(f));
                    if !keeps {
                        let message = "only additions are allowed (no mutations or deletions)";
                        errors.push(field::invalid(&path.index(index), check::json(new), message));
                    }
                }
            }
        }
        match (&mut rest.affinity, &old.affinity) {
            (Some(affinity), Some(_)) => affinity.node_affinity = old_node,
            (Some(affinity), None) => {
                affinity.node_affinity = None;
                if *affinity == Default::default() {
                    rest.affinity = None;
                }
            }
            (None, _) => {
                rest.affinity = old_node.map(|node| crate::types::core::v1::Affinity {
                    node_affinity: Some(node),
                    ..Default::default()
                })
            }
        }
    }
}

/// From nothing to a positive number, or to a smaller one. `false` when nothing else need be looked at.
fn active_deadline(errors: &mut ErrorList, new: &PodSpec, old: &PodSpec, path: &Path) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.push(field::invalid(path, new, range_message(0, i32::MAX.into())));
            false
        }
        (Some(new), Some(old)) if new > old => {
            errors.push(field::invalid(path, new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let message = "must not update from a positive integer to nil value";
            errors.push(field::invalid(path, serde_json::Value::Null, message));
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(errors: &mut ErrorList, new: &PodSpec, old: &PodSpec, path: &Path) {
    let (new, old) = (items(&new.tolerations), items(&old.tolerations));
    let same = |a: &Toleration, b: &Toleration| {
        Toleration { toleration_seconds: None, ..a.clone() }
            == Toleration { toleration_seconds: None, ..b.clone() }
    };
    if old.iter().any(|old| !new.iter().any(|new| same(new, old))) {
        let message = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(field::forbidden(path, message));
    } else {
        scheduling::tolerations(errors, new, path);
    }
}

/// All that is wrong with an update of the status.
pub(super) fn validate_status(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    mirror_annotation(&mut errors, new, old);
    let path = Path::new("status");
    let (empty_spec, empty) = (PodSpec::default(), PodStatus::default());
    let spec = old.spec.as_ref().unwrap_or(&empty_spec);
    let (new, old) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let nominated = text(&new.nominated_node_name);
    if nominated != text(&old.nominated_node_name) && !nominated.is_empty() {
        dns_subdomain(&mut errors, &path.child("nominatedNodeName"), nominated);
    }
    if text(&new.qos_class) != text(&old.qos_class) && !text(&old.qos_class).is_empty() {
        let at = path.child("qosClass");
        errors.push(field::invalid(&at, text(&new.qos_class), crate::meta_validation::IMMUTABLE));
    }
    let restart_policy = text(&spec.restart_policy);
    for (name, new, old, policy) in [
        ("containerStatuses", &new.container_statuses, &old.container_statuses, restart_policy),
        ("initContainerStatuses", &new.init_container_statuses, &old.init_container_statuses, restart_policy),
        (
            "ephemeralContainerStatuses",
            &new.ephemeral_container_statuses,
            &old.ephemeral_container_statuses,
            "Never",
        ),
    ] {
        transitions(&mut errors, items(new), items(old), policy, spec, &path.child(name));
    }
    addresses(&mut errors, new, &path);
    errors
}

/// What ended for good does not run again.
fn transitions(
    errors: &mut ErrorList,
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    restart_policy: &str,
    spec: &PodSpec,
    path: &Path,
) {
    if restart_policy == "Always" {
        return;
    }
    for (index, old) in old.iter().enumerate() {
        let Some(ended) = old.state.as_ref().and_then(|state| state.terminated.as_ref()) else { continue };
        if ended.exit_code != 0 && restart_policy == "OnFailure" {
            continue;
        }
        // A container with a policy or rules of its own may start again where the pod would not.
        let own_policy = spec
            .containers
            .iter()
            .chain(items(&spec.init_containers))
            .any(|container| container.name == old.name && container.restart_policy.is_some());
        let runs_again = new.iter().any(|new| {
            new.name == old.name && new.state.as_ref().is_none_or(|state| state.terminated.is_none())
        });
        if runs_again && !own_policy {
            let path = path.index(index).child("state");
            errors.push(field::forbidden(&path, "may not be transitioned to non-terminated state"));
        }
    }
}

fn addresses(errors: &mut ErrorList, status: &PodStatus, path: &Path) {
    let pod: Vec<&str> = items(&status.pod_ips).iter().map(|address| &*address.ip).collect();
    let host: Vec<&str> = items(&status.host_ips).iter().map(|address| &*address.ip).collect();
    if let Some(first) = host.first().filter(|first| **first != text(&status.host_ip)) {
        let path = path.child("hostIPs").index(0).child("ip");
        errors.push(field::invalid(&path, *first, "must be equal to `hostIP`"));
    }
    for (name, addresses) in [("podIPs", pod), ("hostIPs", host)] {
        let path = path.child(name);
        let mut seen = HashSet::new();
        for (index, address) in addresses.iter().enumerate() {
            ip(errors, &path.index(index), address);
            if !seen.insert(address) {
                errors.push(field::duplicate(&path.index(index), *address));
            }
        }
        let v6 = addresses.iter().filter(|address| address.contains(':')).count();
        if v6 > 1 || addresses.len() - v6 > 1 {
            let message = "may specify no more than one IP for each IP family";
            errors.push(field::invalid(&path, check::json(&addresses), message));
        }
    }
}

fn ephemeral_containers(new: &Pod, old: &Pod) -> ErrorList {
    if is_mirror(old) {
        return vec![field::forbidden(&Path::root(), "static pods do not support ephemeral containers")];
    }
    let mut errors = validation::updated(new);
    let list =
        |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone()).unwrap_or_default();
    let (new, old) = (list(new), list(old));
    let path = Path::new("spec").child("ephemeralContainers");
    for old in old {
        let name = &old.name;
        match new.iter().find(|new| new.name == *name) {
            None => errors.push(field::forbidden(
                &path,
                format!("existing ephemeral containers \"{name}\" may not be removed\n"),
            )),
            Some(new) if *new != old => errors.push(field::forbidden(
                &path,
                format!("existing ephemeral containers \"{name}\" may not be changed\n"),
            )),
            Some(_) => {}
        }
    }
    errors
}

fn resized(new: &Pod, old: &Pod) -> ErrorList {
    if is_mirror(old) {
        return vec![field::forbidden(&Path::root(), "static pods cannot be resized")];
    }
    let mut errors = validation::updated(new);
    let path = Path::new("spec");
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return errors };
    if qos::of_pod(old) != qos::of_spec(new_spec) {
        let class = qos::of_pod(old).as_str();
        errors.push(field::invalid(&path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    for (name, new, old) in [
        ("containers", &*new_spec.containers, &*old_spec.containers),
        ("initContainers", items(&new_spec.init_containers), items(&old_spec.init_containers)),
    ] {
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            let is_plain_init = name == "initContainers" && text(&old.restart_policy) != "Always";
            if is_plain_init {
                if new.resources != old.resources {
                    let message = "resources for non-sidecar init containers are immutable";
                    errors.push(field::forbidden(&path, message));
                }
                continue;
            }
            resized_container(&mut errors, new, old, &path.child(name).index(index).child("resources"));
            if beyond_cpu_and_memory(new.resources.as_ref()) != beyond_cpu_and_memory(old.resources.as_ref())
            {
                errors.push(field::forbidden(&path, "only cpu and memory resources are mutable"));
            }
        }
    }
    errors
}

fn resized_container(errors: &mut ErrorList, new: &Container, old: &Container, path: &Path) {
    type ListOf = fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>;
    let lists: [(&str, &str, ListOf); 2] = [
        ("requests", "resource requests cannot be removed", |own| own.requests.as_ref()),
        ("limits", "resource limits cannot be removed", |own| own.limits.as_ref()),
    ];
    for (name, message, list) in lists {
        let new = new.resources.as_ref().and_then(list);
        let removed = old
            .resources
            .as_ref()
            .and_then(list)
            .into_iter()
            .flatten()
            .any(|(resource, _)| new.is_none_or(|new| !new.contains_key(resource)));
        if removed {
            errors.push(field::forbidden(&path.child(name), message));
        }
    }
}

fn beyond_cpu_and_memory(resources: Option<&ResourceRequirements>) -> Vec<(String, Quantity)> {
    let lists = |own: &ResourceRequirements| {
        own.limits
            .iter()
            .chain(own.requests.iter())
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Vec<_>>()
    };
    let mut rest = resources.map(lists).unwrap_or_default();
    rest.retain(|(name, _)| !matches!(&**name, "cpu" | "memory"));
    rest.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| quantity(&a.1).cmp(&quantity(&b.1))));
    rest
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::core::pod::defaults;

    type Change = fn(&mut Value);

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut value = json!({
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "a", "image": "a:1", "resources":
                {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}]}
        });
        change(&mut value);
        let mut pod = serde_json::from_value(value).unwrap();
        defaults::pod(&mut pod);
        pod
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(|error| error.to_string().lines().next().unwrap().to_owned()).collect()
    }

    #[test]
    fn capabilities_that_escalate_stand_in_the_way_of_new_pods_only() {
        let with = |pod: &mut Value| {
            pod["spec"]["containers"][0]["securityContext"] =
                json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}});
        };
        let old = pod(with);
        let new = pod(|pod| {
            with(pod);
            pod["metadata"]["labels"] = json!({"a": "b"});
        });
        assert_eq!(validation::create(&new).len(), 1);
        for subresource in ["", "ephemeralcontainers", "resize"] {
            assert_eq!(validate_subresource_update(subresource, &new, &old), [], "{subresource}");
        }
    }

    #[test]
    fn what_a_pod_update_may_change() {
        let old = pod(|_| {});
        let none: Vec<String> = Vec::new();
        let immutable = format!("spec: Forbidden: pod updates may not change fields other than {UPDATABLE}");
        let table: [(Change, Vec<String>); 6] = [
            (|pod| pod["spec"]["containers"][0]["image"] = json!("a:2"), none.clone()),
            (|pod| pod["spec"]["activeDeadlineSeconds"] = json!(5), none.clone()),
            (|pod| pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]), none),
            (|pod| pod["spec"]["nodeName"] = json!("n"), vec![immutable.clone()]),
            (|pod| pod["spec"]["hostname"] = json!("h"), vec![immutable]),
            (
                |pod| pod["spec"]["schedulingGates"] = json!([{"name": "a/b"}]),
                vec![
                    "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate \
                     'a/b'"
                        .to_owned(),
                ],
            ),
        ];
        for (change, errors) in table {
            assert_eq!(texts(validate(&pod(change), &old)), errors);
        }
    }

    #[test]
    fn resize_changes_only_cpu_and_memory() {
        let old = pod(|_| {});
        let asked = pod(|pod| {
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("1500m");
            pod["spec"]["hostname"] = json!("ignored");
        });
        let mut new = asked.clone();
        prepare_for_subresource_update("resize", &mut new, &old);
        assert_eq!(new.spec.as_ref().unwrap().hostname, None);
        assert_eq!(texts(validate_subresource_update("resize", &new, &old)), Vec::<String>::new());
        let removed = pod(|pod| pod["spec"]["containers"][0]["resources"]["limits"] = json!({}));
        let errors = texts(validate_subresource_update("resize", &removed, &old));
        assert_eq!(
            errors,
            ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]
        );
    }

    #[test]
    fn what_older_clients_leave_out_of_the_status_stays() {
        let old = pod(|pod| {
            pod["status"] = json!({"phase": "Running", "qosClass": "Burstable",
                "resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "p-gpu"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "e", "requestMappings": []}});
        });
        let kept = |new: Value| {
            let mut new = pod(|pod| pod["status"] = new);
            prepare_for_status_update(&mut new, &old);
            let status = new.status.unwrap();
            (
                status.resource_claim_statuses.map(|all| all.len()),
                status.extended_resource_claim_status.is_some(),
            )
        };
        assert_eq!(kept(json!({"phase": "Failed"})), (Some(1), true));
        assert_eq!(kept(json!({"phase": "Failed", "resourceClaimStatuses": []})), (Some(0), true));
    }

    #[test]
    fn what_ended_for_good_stays_ended() {
        let status = |state: Value| {
            pod(|pod| {
                pod["spec"]["restartPolicy"] = json!("Never");
                pod["status"] = json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": false,
                    "restartCount": 0, "state": state}]});
            })
        };
        let (ended, running) =
            (status(json!({"terminated": {"exitCode": 0}})), status(json!({"running": {}})));
        assert_eq!(
            texts(validate_status(&running, &ended)),
            ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
        );
        assert_eq!(validate_status(&ended, &running), []);
    }
}
