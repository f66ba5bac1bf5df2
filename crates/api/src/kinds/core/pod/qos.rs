//! The quality of service class of a pod.
//! Upstream: pkg/apis/core/v1/helper/qos.

use crate::kinds::check::quantity;
use crate::kinds::optional::items;
use crate::types::core::v1::{Pod, PodSpec, ResourceRequirements};

/// How well a pod is treated when its node runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    /// Every container's requests equal its limits, for CPU and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// The value of `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod: what its status says, else what its spec amounts to.
pub fn of_pod(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => pod.spec.as_ref().map_or(QosClass::BestEffort, of_spec),
    }
}

/// The class a spec amounts to. Resources of the pod as a whole decide alone where they name an amount.
pub fn of_spec(spec: &PodSpec) -> QosClass {
    let of_pod = spec.resources.as_ref().filter(|own| {
        [&own.requests, &own.limits]
            .into_iter()
            .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    });
    if of_pod.is_some() {
        return class([of_pod].into_iter());
    }
    class(
        spec.containers
            .iter()
            .chain(items(&spec.init_containers))
            .map(|container| container.resources.as_ref()),
    )
}

fn class<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>) -> QosClass {
    let (mut guaranteed, mut anything) = (true, false);
    for resources in all {
        let amount = |list: Option<&_>, name| {
            let list: Option<&std::collections::BTreeMap<String, _>> = list;
            list.and_then(|list| list.get(name)).map(quantity).filter(|amount| !amount.is_zero())
        };
        for name in ["cpu", "memory"] {
            let limit = amount(resources.and_then(|own| own.limits.as_ref()), name);
            let request = amount(resources.and_then(|own| own.requests.as_ref()), name);
            anything |= limit.is_some() || request.is_some();
            // A limit without a request counts as a request of the same amount.
            guaranteed &= limit.is_some()
                && request.unwrap_or_else(|| limit.unwrap_or_default()) == limit.unwrap_or_default();
        }
    }
    match (anything, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pod_as_a_whole_decides_where_it_names_an_amount() {
        for (own, expected) in [
            (json!({}), QosClass::Burstable),
            (json!({"requests": {}, "limits": {}}), QosClass::Burstable),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), QosClass::Guaranteed),
            (json!({"requests": {"cpu": "0"}}), QosClass::BestEffort),
        ] {
            let spec: PodSpec = serde_json::from_value(json!({"resources": own,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}))
            .unwrap();
            assert_eq!(of_spec(&spec), expected, "{own}");
        }
    }

    #[test]
    fn classes() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, class) in [
            (json!([{}]), QosClass::BestEffort),
            (json!([{"requests": {"cpu": "0"}}]), QosClass::BestEffort),
            (json!([{"requests": {"cpu": "1"}}]), QosClass::Burstable),
            (json!([{"requests": full, "limits": full}]), QosClass::Guaranteed),
            (json!([{"limits": full}]), QosClass::Guaranteed),
            (json!([{"requests": full, "limits": full}, {}]), QosClass::Burstable),
            (json!([{"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}]), QosClass::Burstable),
        ] {
            let containers: Vec<_> =
                resources.as_array().unwrap().iter().map(|r| json!({"name": "c", "resources": r})).collect();
            let spec: PodSpec = serde_json::from_value(json!({ "containers": containers })).unwrap();
            assert_eq!(of_spec(&spec), class, "{resources}");
        }
    }
}
