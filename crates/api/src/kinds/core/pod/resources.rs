//! Resources that containers and pods ask for: their checks, their sums, and what a pod leaves out.
//! Upstream: pkg/apis/core/validation, component-helpers/resource.

use std::collections::{BTreeMap, BTreeSet};

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, quantity};
use crate::kinds::optional::{items, text};
use crate::meta;
use crate::meta_validation::{NOT_NEGATIVE, push_invalid};
use crate::names::is_qualified_name;
use crate::quantity::Quantity;
use crate::types::core::v1::{Container, PodSpec, ResourceRequirements};

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;
type WireList = BTreeMap<String, meta::Quantity>;

const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What `spec.resources` of a pod may name.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether the resource is Kubernetes' own, not a device or another extension.
pub(crate) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split('/').next().is_some_and(|domain| domain.ends_with("kubernetes.io"))
}

pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether less may be requested than limited.
pub(crate) fn allows_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

const QUOTA_RESOURCES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether a quota can bound it.
pub(crate) fn is_quota_resource(name: &str) -> bool {
    QUOTA_RESOURCES.contains(&name) || is_huge_pages(name) || name.starts_with("requests.hugepages-")
}

/// Refuses a name no resource can have.
pub(crate) fn validate_name(errors: &mut ErrorList, name: &str, path: &Path) {
    let messages = is_qualified_name(name);
    if !messages.is_empty() {
        push_invalid(errors, path, name, messages);
    } else if !name.contains('/') && !is_standard(name) {
        errors.push(field::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
}

fn is_standard(name: &str) -> bool {
    QUOTA_RESOURCES.contains(&name)
        || name == "storage"
        || is_huge_pages(name)
        || name.starts_with("requests.hugepages-")
}

/// Refuses a name a container cannot ask for.
pub(crate) fn validate_container_name(errors: &mut ErrorList, name: &str, path: &Path) {
    let before = errors.len();
    validate_name(errors, name, path);
    if !name.contains('/') {
        if !CONTAINER_RESOURCES.contains(&name) && !is_huge_pages(name) {
            errors.push(field::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) && errors.len() == before {
        errors.push(field::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// Refuses a negative amount, and a fraction of what is counted.
pub(crate) fn validate_amount(errors: &mut ErrorList, name: &str, wire: &meta::Quantity, path: &Path) {
    let amount = quantity(wire);
    if amount.is_negative() {
        errors.push(field::invalid(path, amount.to_string(), NOT_NEGATIVE));
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !amount.is_whole() {
        errors.push(field::invalid(path, amount.to_string(), "must be an integer"));
    }
}

/// Checks names and amounts of one list.
pub(crate) fn validate_list(errors: &mut ErrorList, list: &WireList, path: &Path) {
    for (name, amount) in list {
        let path = path.key(name);
        validate_container_name(errors, name, &path);
        validate_amount(errors, name, amount, &path);
    }
}

/// Checks what a container asks for. `claims` are the names of the pod's resource claims.
pub(super) fn validate(
    errors: &mut ErrorList,
    requirements: &ResourceRequirements,
    claims: &BTreeSet<&str>,
    path: &Path,
) {
    requirements_of(errors, requirements, validate_container_name, path);
    let path = path.child("claims");
    let mut seen = BTreeSet::new();
    for (index, claim) in items(&requirements.claims).iter().enumerate() {
        let path = path.index(index);
        if claim.name.is_empty() {
            errors.push(field::required(&path, ""));
            continue;
        }
        let request = text(&claim.request);
        let mut key = claim.name.clone();
        if !request.is_empty() {
            dns_label(errors, &path.child("request"), request);
            key = format!("{key}/{request}");
        }
        let overlaps = seen.contains(&claim.name)
            || seen.contains(&key)
            || (request.is_empty()
                && seen.iter().any(|other: &String| other.starts_with(&format!("{key}/"))));
        if overlaps {
            errors.push(field::duplicate(&path, &*claim.name));
        }
        seen.insert(key);
        if !claims.contains(&*claim.name) {
            let mut error = field::not_found(&path, &*claim.name);
            error.detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            error.detail += &if claims.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", claims.iter().copied().collect::<Vec<_>>().join(", "))
            };
            errors.push(error);
        }
    }
}

fn requirements_of(
    errors: &mut ErrorList,
    requirements: &ResourceRequirements,
    check_name: fn(&mut ErrorList, &str, &Path),
    path: &Path,
) {
    let empty = WireList::new();
    let limits = requirements.limits.as_ref().unwrap_or(&empty);
    let requests = requirements.requests.as_ref().unwrap_or(&empty);
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    for (name, amount) in limits {
        let path = limits_path.key(name);
        check_name(errors, name, &path);
        validate_amount(errors, name, amount, &path);
        huge_page_multiple(errors, name, amount, &path);
    }
    for (name, amount) in requests {
        let path = requests_path.key(name);
        check_name(errors, name, &path);
        validate_amount(errors, name, amount, &path);
        let request = quantity(amount);
        match limits.get(name).map(quantity) {
            Some(limit) if request != limit && !allows_overcommit(name) => errors.push(field::invalid(
                &requests_path,
                request.to_string(),
                format!("must be equal to {name} limit of {limit}"),
            )),
            Some(limit) if request > limit => errors.push(field::invalid(
                &requests_path,
                request.to_string(),
                format!("must be less than or equal to {name} limit of {limit}"),
            )),
            Some(_) => {}
            None if !allows_overcommit(name) => {
                errors.push(field::required(
                    &limits_path,
                    "Limit must be set for non overcommitable resources",
                ));
            }
            None => {}
        }
        huge_page_multiple(errors, name, amount, &path);
    }
    let mut named = limits.keys().chain(requests.keys());
    if named.clone().any(|name| is_huge_pages(name)) && !named.any(|name| matches!(&**name, "cpu" | "memory"))
    {
        errors.push(field::forbidden(path, "HugePages require cpu or memory"));
    }
}

fn huge_page_multiple(errors: &mut ErrorList, name: &str, wire: &meta::Quantity, path: &Path) {
    let Some(size) = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok()) else {
        return;
    };
    let amount = quantity(wire);
    if size.value() <= 0 || !amount.is_whole() || amount.value() % size.value() != 0 {
        let message = format!("{amount} is not positive integer multiple of {name}");
        errors.push(field::invalid(path, amount.to_string(), message));
    }
}

/// Checks what a pod asks for as a whole (GA in 1.37).
pub(super) fn validate_pod_level(
    errors: &mut ErrorList,
    spec: &PodSpec,
    resources: &ResourceRequirements,
    path: &Path,
) {
    if resources.claims.is_some() {
        errors
            .push(field::forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level"));
    }
    let check_name = |errors: &mut ErrorList, name: &str, path: &Path| {
        if !is_pod_level(name) {
            errors.push(field::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
        }
    };
    requirements_of(errors, resources, check_name, path);
    let requests = resources.requests.as_ref();
    for (name, needed) in container_requests(spec).into_iter().filter(|(name, _)| is_pod_level(name)) {
        let requested = requests.and_then(|list| list.get(&name)).map(quantity).unwrap_or_default();
        if needed > requested {
            errors.push(field::invalid(
                &path.child("requests").key(name),
                requested.to_string(),
                format!("must be greater than or equal to aggregate container requests of {needed}"),
            ));
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        for (name, limit) in container.resources.iter().flat_map(|own| own.limits.iter().flatten()) {
            let Some(bound) = resources.limits.as_ref().and_then(|limits| limits.get(name)).map(quantity)
            else {
                continue;
            };
            if quantity(limit) > bound {
                errors.push(field::invalid(
                    &path.child("containers").index(index).key(name).child("limits"),
                    quantity(limit).to_string(),
                    format!("must be less than or equal to pod limits of {bound}"),
                ));
            }
        }
    }
}

/// What a pod that bounds itself as a whole leaves out: requests from its containers, else from its limits.
pub(super) fn default_pod_level(spec: &mut PodSpec) {
    let has_limits =
        spec.resources.as_ref().is_some_and(|own| own.limits.as_ref().is_some_and(|l| !l.is_empty()));
    if !has_limits {
        return;
    }
    let needed = container_requests(spec);
    let Some(resources) = &mut spec.resources else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, amount) in needed.into_iter().filter(|(name, _)| is_pod_level(name) && allows_overcommit(name))
    {
        requests.entry(name).or_insert_with(|| amount.to_wire());
    }
    for (name, limit) in resources.limits.iter().flatten().filter(|(name, _)| is_pod_level(name)) {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

fn amounts(list: Option<&WireList>) -> Amounts {
    list.into_iter().flatten().map(|(name, wire)| (name.clone(), quantity(wire))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(peak: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let slot = peak.entry(name.clone()).or_insert(*amount);
        *slot = (*slot).max(*amount);
    }
}

fn aggregate(spec: &PodSpec, list_of: fn(&ResourceRequirements) -> Option<&WireList>) -> Amounts {
    let of = |container: &Container| amounts(container.resources.as_ref().and_then(list_of));
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    // Sidecars run beside all that follow them; other init containers run beside the sidecars before them.
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in items(&spec.init_containers) {
        let own = of(container);
        if text(&container.restart_policy) == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            raise(&mut peak, &together);
        }
    }
    raise(&mut sum, &peak);
    sum
}

/// What the containers of a pod request at most at any time, without what the pod requests as a whole.
pub fn container_requests(spec: &PodSpec) -> Amounts {
    aggregate(spec, |resources| resources.requests.as_ref())
}

/// What the scheduler and the kubelet must set aside for a pod: its requests and its overhead.
pub fn pod_requests(spec: &PodSpec) -> Amounts {
    let mut sum = container_requests(spec);
    if let Some(own) = &spec.resources {
        sum.extend(amounts(own.requests.as_ref()).into_iter().filter(|(name, _)| is_pod_level(name)));
    }
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

/// What a pod may use at most, where it is bounded: its limits and its overhead.
pub fn pod_limits(spec: &PodSpec) -> Amounts {
    let mut sum = aggregate(spec, |resources| resources.limits.as_ref());
    if let Some(own) = &spec.resources {
        sum.extend(amounts(own.limits.as_ref()).into_iter().filter(|(name, _)| is_pod_level(name)));
    }
    for (name, overhead) in amounts(spec.overhead.as_ref()) {
        if let Some(limit) = sum.get_mut(&name) {
            *limit += overhead;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn cpu(amounts: &Amounts) -> String {
        amounts["cpu"].to_string()
    }

    #[test]
    fn requests_add_up_as_containers_run() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let sidecar =
            json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        for (containers, init, total) in [
            (json!([container("1"), container("2")]), json!([]), "3"),
            (json!([container("1")]), json!([container("5"), container("2")]), "5"),
            (json!([container("1")]), json!([sidecar.clone()]), "2"),
            (json!([container("1")]), json!([sidecar, container("3")]), "4"),
        ] {
            let spec = spec(json!({"containers": containers, "initContainers": init}));
            assert_eq!(cpu(&container_requests(&spec)), total, "{spec:?}");
        }
    }

    #[test]
    fn the_pod_as_a_whole_wins_and_overhead_adds() {
        let spec = spec(json!({
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "500m"}
        }));
        assert_eq!(cpu(&pod_requests(&spec)), "3500m");
    }

    #[test]
    fn which_names_are_whose() {
        assert!(is_native("cpu") && is_native("kubernetes.io/x") && !is_native("nvidia.com/gpu"));
        assert!(is_extended("nvidia.com/gpu") && !is_extended("requests.nvidia.com/gpu"));
        assert!(!allows_overcommit("hugepages-2Mi") && !allows_overcommit("nvidia.com/gpu"));
    }
}
