//! Applies the LimitRanges of a namespace: default requests and limits of containers, and the bounds that
//! containers, pods and claims must keep.
//! Reads LimitRanges.
//! Not here: what a namespace may use in all (`resource_quota`).
//! Upstream: plugin/pkg/admission/limitranger.

use std::sync::Arc;

use api::quantity::Quantity;
use api::types::core::v1 as core;
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::json::{list_parsed, typed};
use super::parsed::Parsed;
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;
use api::pod_resources::{Resources, of_container, of_pod, quantity};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

#[derive(Default)]
pub(super) struct LimitRanger {
    ranges: Parsed<core::LimitRange>,
}

impl LimitRanger {
    async fn ranges(
        &self,
        request: &Request<'_>,
        cluster: &dyn ClusterState,
    ) -> Result<Vec<Arc<core::LimitRange>>, Status> {
        list_parsed(&self.ranges, cluster, "", "limitranges", request.namespace).await
    }
}

fn limits(range: &core::LimitRange) -> impl Iterator<Item = &core::LimitRangeItem> {
    range.spec.iter().flat_map(|spec| &spec.limits)
}

/// Fills in what containers leave open, and notes it in an annotation.
fn default_resources(range: &core::LimitRange, pod: &mut Object) {
    let (mut requests, mut maxima) = (Resources::new(), Resources::new());
    for limit in limits(range).filter(|limit| limit.type_ == "Container") {
        requests.extend(limit.default_request.clone().unwrap_or_default());
        maxima.extend(limit.default.clone().unwrap_or_default());
    }
    let mut notes = Vec::new();
    for (list, noun) in [("containers", "container"), ("initContainers", "init container")] {
        let containers =
            pod.0.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults) in [("requests", &requests), ("limits", &maxima)] {
                let mut set: Vec<&str> = Vec::new();
                for (resource, quantity) in defaults {
                    if container["resources"][field].get(resource).is_none() {
                        container["resources"][field][resource] = json!(quantity);
                        set.push(resource);
                    }
                }
                if !set.is_empty() {
                    let what = field.trim_end_matches('s');
                    notes.push(format!("{} {what} for {noun} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.0["metadata"]["annotations"][ANNOTATION] = note.into();
    }
}

/// What one limit says against requests and limits.
fn violations(limit: &core::LimitRangeItem, requests: &Resources, maxima: &Resources, out: &mut Vec<String>) {
    let kind = &limit.type_;
    let bounds = |field: &Option<Resources>| -> Vec<(String, Quantity)> {
        let parsed = field
            .iter()
            .flatten()
            .filter_map(|(name, wire)| Some((name.clone(), Quantity::from_wire(wire).ok()?)));
        parsed.collect()
    };
    for (name, least) in bounds(&limit.min) {
        let head = format!("minimum {name} usage per {kind} is {least}");
        match quantity(requests, &name) {
            None => out.push(format!("{head}.  No request is specified")),
            Some(request) if request < least => out.push(format!("{head}, but request is {request}")),
            Some(_) => match quantity(maxima, &name) {
                Some(limit) if limit < least => out.push(format!("{head}, but limit is {limit}")),
                _ => {}
            },
        }
    }
    for (name, most) in bounds(&limit.max) {
        let head = format!("maximum {name} usage per {kind} is {most}");
        match (quantity(maxima, &name), quantity(requests, &name)) {
            // A claim has no limits, only requests.
            (None, Some(request)) if kind == "PersistentVolumeClaim" && request > most => {
                out.push(format!("{head}, but request is {request}"));
            }
            (None, Some(_)) if kind == "PersistentVolumeClaim" => {}
            (None, _) => out.push(format!("{head}.  No limit is specified")),
            (Some(limit), _) if limit > most => out.push(format!("{head}, but limit is {limit}")),
            (_, Some(request)) if request > most => out.push(format!("{head}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in bounds(&limit.max_limit_request_ratio) {
        let head = format!("{name} max limit to request ratio per {kind} is {most}");
        let set = |resources: &Resources| quantity(resources, &name).filter(|q| !q.is_zero());
        match (set(requests), set(maxima)) {
            (None, _) => out.push(format!("{head}, but no request is specified or request is 0")),
            (_, None) => out.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.milli_value() as f64 / request.milli_value() as f64;
                if ratio * 1000.0 > most.milli_value() as f64 {
                    out.push(format!("{head}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn check_pod(range: &core::LimitRange, spec: &core::PodSpec, out: &mut Vec<String>) {
    for limit in limits(range) {
        match limit.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    let (requests, maxima) = of_container(container);
                    violations(limit, &requests, &maxima, out);
                }
            }
            "Pod" => {
                let (requests, maxima) = of_pod(spec);
                violations(limit, &requests, &maxima, out);
            }
            _ => {}
        }
    }
}

/// Upstream's aggregate of errors: one as it is, several in brackets, none twice.
fn joined(mut messages: Vec<String>) -> String {
    let mut seen = std::collections::HashSet::new();
    messages.retain(|message| seen.insert(message.clone()));
    match messages.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("", "pods", "") || request.operation != Operation::Create {
            return Ok(());
        }
        let ranges = self.ranges(request, &**cluster).await?;
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        for range in &ranges {
            default_resources(range, pod);
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        let pod = request.is("", "pods", "") && request.operation == Operation::Create
            || request.is("", "pods", "resize");
        if !pod && !request.is("", "persistentvolumeclaims", "") {
            return Ok(());
        }
        let ranges = self.ranges(request, &**cluster).await?;
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        // What is being deleted may still have its finalizers removed, whatever its size.
        if ranges.is_empty() || object.deletion_timestamp().is_some() {
            return Ok(());
        }
        let pod: Option<core::Pod> = pod.then(|| typed(object)).transpose()?;
        let requests: Resources =
            api::json::typed(&object.0["spec"]["resources"]["requests"]).unwrap_or_default();
        let mut found = Vec::new();
        // All that one range has against it is told; of what the next ones have nobody hears.
        for range in &ranges {
            match &pod {
                Some(pod) => {
                    check_pod(range, pod.spec.as_ref().unwrap_or(&core::PodSpec::default()), &mut found)
                }
                None => {
                    for limit in limits(range).filter(|limit| limit.type_ == "PersistentVolumeClaim") {
                        violations(limit, &requests, &Resources::new(), &mut found);
                    }
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        if found.is_empty() { Ok(()) } else { Err(request.forbidden(joined(found))) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    fn range(limits: Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": "l", "namespace": "a" },
            "spec": { "limits": limits } })
    }

    #[tokio::test]
    async fn containers_get_defaults_and_a_note() {
        let cluster = FakeCluster::new();
        cluster.put(
            "limitranges",
            range(json!([{ "type": "Container",
            "default": { "cpu": "500m", "memory": "1Gi" }, "defaultRequest": { "cpu": "250m" } }])),
        );
        let spec = json!({
            "containers": [{ "name": "bare" }, { "name": "own", "resources": { "limits": { "cpu": "1", "memory": "2Gi" }, "requests": { "cpu": "1" } } }],
            "initContainers": [{ "name": "i" }],
        });
        let (pod, _) =
            run(&LimitRanger::default(), &cluster, Write::create("pods", "Pod", pod(spec))).await.unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({ "requests": { "cpu": "250m" }, "limits": { "cpu": "500m", "memory": "1Gi" } })
        );
        assert_eq!(pod["spec"]["containers"][1]["resources"]["limits"]["cpu"], "1");
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container bare; cpu, memory limit for container bare; cpu \
             request for init container i; cpu, memory limit for init container i"
        );
    }

    #[tokio::test]
    async fn bounds_are_kept() {
        let container = |requests: Value, limits: Value| json!({ "containers": [{ "name": "c", "resources": { "requests": requests, "limits": limits } }] });
        #[rustfmt::skip]
        let table = [
            (json!({ "type": "Container", "min": { "cpu": "100m" } }), container(json!({}), json!({})),
             "minimum cpu usage per Container is 100m.  No request is specified"),
            (json!({ "type": "Container", "min": { "cpu": "100m" } }), container(json!({ "cpu": "50m" }), json!({})),
             "minimum cpu usage per Container is 100m, but request is 50m"),
            (json!({ "type": "Container", "min": { "cpu": "100m" } }), container(json!({ "cpu": "0.1" }), json!({})), ""),
            (json!({ "type": "Container", "max": { "memory": "1Gi" } }), container(json!({}), json!({})),
             "maximum memory usage per Container is 1Gi.  No limit is specified"),
            (json!({ "type": "Container", "max": { "memory": "1Gi" } }), container(json!({}), json!({ "memory": "2Gi" })),
             "maximum memory usage per Container is 1Gi, but limit is 2Gi"),
            (json!({ "type": "Container", "maxLimitRequestRatio": { "cpu": "2" } }), container(json!({ "cpu": "1" }), json!({ "cpu": "3" })),
             "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
            (json!({ "type": "Pod", "max": { "cpu": "1" } }),
             json!({ "containers": [{ "name": "a", "resources": { "limits": { "cpu": "600m" } } }, { "name": "b", "resources": { "limits": { "cpu": "600m" } } }] }),
             "maximum cpu usage per Pod is 1, but limit is 1200m"),
        ];
        for (limit, spec, want) in table {
            let cluster = FakeCluster::new();
            cluster.put("limitranges", range(json!([limit])));
            match run(&LimitRanger::default(), &cluster, Write::create("pods", "Pod", pod(spec))).await {
                Ok(_) => assert_eq!(want, ""),
                Err(status) => assert_eq!(status.message, format!("pods \"p\" is forbidden: {want}")),
            }
        }
    }

    #[tokio::test]
    async fn claims_have_bounds_too() {
        let cluster = FakeCluster::new();
        let limit = json!([{ "type": "PersistentVolumeClaim", "min": { "storage": "1Gi" }, "max": { "storage": "2Gi" } }]);
        cluster.put("limitranges", range(limit));
        for (size, want) in [
            ("1Gi", ""),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
            ("1Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"),
        ] {
            let claim = json!({ "kind": "PersistentVolumeClaim", "metadata": { "name": "c", "namespace": "a" },
                "spec": { "resources": { "requests": { "storage": size } } } });
            let write = Write::create("persistentvolumeclaims", "PersistentVolumeClaim", claim);
            match run(&LimitRanger::default(), &cluster, write).await {
                Ok(_) => assert_eq!(want, ""),
                Err(status) => assert!(status.message.ends_with(want), "{}", status.message),
            }
        }
    }

    #[tokio::test]
    async fn one_range_that_refuses_is_enough() {
        let cluster = FakeCluster::new();
        for (name, most) in [("first", "1"), ("second", "2")] {
            let mut range = range(json!([{ "type": "Container", "max": { "cpu": most } }]));
            range["metadata"]["name"] = name.into();
            cluster.put("limitranges", range);
        }
        let spec = json!({ "containers": [{ "name": "c", "resources": { "limits": { "cpu": "3" } } }] });
        let error = run(&LimitRanger::default(), &cluster, Write::create("pods", "Pod", pod(spec)))
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 3"
        );
    }
}
