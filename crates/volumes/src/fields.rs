//! The downward API: a pod's own fields and resources as text.
//!
//! Reads a Pod and the node's allocatable resources. Used by downwardAPI volumes and by container environments.
//! Not here: deciding when to read again.
//! Upstream: `pkg/fieldpath`, `pkg/api/v1/resource`.

use std::collections::BTreeMap;

use api::meta::Quantity as WireQuantity;
use api::quantity::Quantity;
use api::types::core::v1::{Container, EphemeralContainer, Pod, ResourceFieldSelector, ResourceRequirements};

/// Why a field has no value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No such field, or one that the downward API does not offer.
    #[error("unsupported fieldPath: {0}")]
    UnsupportedField(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    UnsupportedResource(String),
    /// The named container is not in the pod.
    #[error("container {0} not found")]
    NoContainer(String),
    /// A quantity does not parse.
    #[error("quantity {0:?} does not parse")]
    Quantity(String),
}

/// The value of `spec.*`, `status.*` or `metadata.*` of a pod.
pub fn field(pod: &Pod, path: &str) -> Result<String, Error> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(Error::UnsupportedField(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Some(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "spec.restartPolicy" => spec.and_then(|spec| spec.restart_policy.clone()),
        "spec.schedulerName" => spec.and_then(|spec| spec.scheduler_name.clone()),
        "status.phase" => status.and_then(|status| status.phase.clone()),
        "status.hostIP" => status.and_then(|status| status.host_ip.clone()),
        "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
        "status.hostIPs" => status
            .and_then(|status| status.host_ips.as_ref())
            .map(|ips| ips.iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>().join(",")),
        "status.podIPs" => status
            .and_then(|status| status.pod_ips.as_ref())
            .map(|ips| ips.iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>().join(",")),
        _ => return Err(Error::UnsupportedField(path.to_owned())),
    };
    Ok(value.unwrap_or_default())
}

/// The fields whose value is known only once the pod's sandbox has an address.
pub fn needs_pod_address(path: &str) -> bool {
    matches!(path, "status.podIP" | "status.podIPs")
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_suffix("']")?;
    rest.split_once("['")
}

/// Labels or annotations as lines of `key="value"`, sorted by key.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<_> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

/// Go's `%q` for text: what a shell or a Go program reads back.
fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The part of a container that its resources come from.
fn resources_of<'a>(pod: &'a Pod, name: &str) -> Option<Option<&'a ResourceRequirements>> {
    let spec = pod.spec.as_ref()?;
    let plain = |list: &'a [Container]| list.iter().find(|c| c.name == name).map(|c| c.resources.as_ref());
    plain(&spec.containers).or_else(|| plain(spec.init_containers.as_deref().unwrap_or_default())).or_else(
        || {
            let list: &[EphemeralContainer] = spec.ephemeral_containers.as_deref().unwrap_or_default();
            list.iter().find(|c| c.name == name).map(|c| c.resources.as_ref())
        },
    )
}

/// The value of `limits.*` or `requests.*` of a container, divided by the selector's divisor and rounded up.
///
/// `own` is the container that asks when the selector names none. A container without a limit sees what the node
/// can give.
pub fn resource(
    pod: &Pod,
    own: &str,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, WireQuantity>,
) -> Result<String, Error> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(own);
    let resources = resources_of(pod, name).ok_or_else(|| Error::NoContainer(name.to_owned()))?;
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let unsupported = || Error::UnsupportedResource(selector.resource.clone());
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let known =
        matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
    if !known {
        return Err(unsupported());
    }
    let get =
        |list: Option<&BTreeMap<String, WireQuantity>>| list.and_then(|list| list.get(resource)).cloned();
    let wire = match side {
        "limits" => get(limits).or_else(|| get(Some(allocatable))),
        "requests" => get(requests).or_else(|| get(limits)),
        _ => return Err(unsupported()),
    };
    let value = match wire {
        None => return Ok("0".to_owned()),
        Some(wire) => parse(&wire.0)?,
    };
    let divisor = match selector.divisor.as_ref().map(|divisor| divisor.0.as_str()) {
        None | Some("" | "0") => parse("1")?,
        Some(divisor) => parse(divisor)?,
    };
    let ceil = |value: i64, divisor: i64| -> i64 {
        let divisor = i128::from(divisor.max(1));
        let value = i128::from(value);
        ((value + divisor - 1).div_euclid(divisor)) as i64
    };
    let result = if resource == "cpu" {
        ceil(value.milli_value(), divisor.milli_value())
    } else {
        ceil(value.value(), divisor.value())
    };
    Ok(result.to_string())
}

fn parse(text: &str) -> Result<Quantity, Error> {
    text.parse().map_err(|_| Error::Quantity(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1",
                "labels": {"b": "2", "a": "x \"y\"\n"}, "annotations": {"example.com/z": "q"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "free"}]},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "192.0.2.1"}
        }))
        .unwrap()
    }

    #[test]
    fn fields_of_a_pod() {
        for (path, want) in [
            ("metadata.name", Ok("web")),
            ("metadata.labels", Ok("a=\"x \\\"y\\\"\\n\"\nb=\"2\"")),
            ("metadata.labels['b']", Ok("2")),
            ("metadata.labels['none']", Ok("")),
            ("metadata.annotations['example.com/z']", Ok("q")),
            ("spec.nodeName", Ok("n1")),
            ("status.podIPs", Ok("10.0.0.1,fd00::1")),
            ("spec.containers", Err(Error::UnsupportedField("spec.containers".into()))),
        ] {
            assert_eq!(field(&pod(), path), want.map(str::to_owned), "{path}");
        }
    }

    #[test]
    fn resources_of_a_container() {
        let allocatable = BTreeMap::from([
            ("cpu".to_owned(), WireQuantity("4".into())),
            ("memory".to_owned(), WireQuantity("8Gi".into())),
        ]);
        for (container, resource_name, divisor, want) in [
            (None, "limits.cpu", None, "2"),
            (None, "limits.cpu", Some("1m"), "1500"),
            (None, "requests.cpu", Some("1m"), "250"),
            (None, "limits.memory", Some("1Mi"), "64"),
            (None, "requests.memory", None, "67108864"),
            (Some("free"), "limits.cpu", None, "4"),
            (Some("free"), "limits.memory", Some("1Gi"), "8"),
            (Some("free"), "requests.cpu", None, "0"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: container.map(str::to_owned),
                resource: resource_name.into(),
                divisor: divisor.map(|d| WireQuantity(d.into())),
            };
            assert_eq!(
                resource(&pod(), "c", &selector, &allocatable).unwrap(),
                want,
                "{container:?} {resource_name}"
            );
        }
    }
}
