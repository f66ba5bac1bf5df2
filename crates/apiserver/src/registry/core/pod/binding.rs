//! `pods/binding`: puts a pod on a node, once.
//!
//! Every scheduled pod passes here: one read, one compare-and-swap, no decode of the pod by its schema.
//! Upstream: pkg/registry/core/pod/storage/storage.go (BindingREST).

use api::field::{self, Path};
use api::meta_validation::push_invalid;
use api::names::is_dns1123_subdomain;
use api::{GroupKind, GroupResource, GroupVersionKind, Object, Status};
use async_trait::async_trait;
use schema::Schema;
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::engine::{Call, WriteOptions, decode_as, timestamp};
use crate::registry::{Resource, Subresource};
use crate::response::Response;
use crate::storage;

pub(super) struct Binding;

#[async_trait]
impl Subresource for Binding {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        if call.info.verb != "create" {
            return Err(call.method_not_allowed());
        }
        let options = WriteOptions::parse(&call.query, "CreateOptions")?;
        let kind = GroupVersionKind::new("", "v1", "Binding");
        let schema = Schema::built_in("io.k8s.api.core.v1.Binding")
            .ok_or_else(|| Status::internal("no definition of Binding"))?;
        let binding = decode_as(&call, &kind, &schema, options.field_validation)?;
        let named = binding.name();
        if !named.is_empty() && named != call.info.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let status = bind(&call, &call.info.name, &binding).await?;
        Ok(call.respond_value(201, &status.0))
    }
}

/// Binds the pod `name` of the call's namespace as `binding` says.
pub(in crate::registry::core) async fn bind(
    call: &Call,
    name: &str,
    binding: &Object,
) -> Result<Object, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    validate(name, binding)?;
    let mut binding = binding.clone();
    {
        let mut request = call.admission(Operation::Create, &options, Some(&mut binding), None);
        request.kind = GroupVersionKind::new("", "v1", "Binding");
        request.name = name;
        call.server.admission.admit(&mut request).await?;
        call.server.admission.validate(&mut request).await?;
        call.warn(request.warnings);
    }
    let pods = pods(call)?;
    let namespace = &call.info.namespace;
    loop {
        let Some(kv) = call.server.storage.read(&pods, namespace, name).await? else {
            return Err(Status::not_found(&pods.group_resource, name));
        };
        let old = storage::stored(&pods, &kv).await?;
        let mut pod = old.object.clone();
        assign(&mut pod, &binding, &timestamp(call.server.clock.now()))
            .map_err(|why| Status::conflict(&GroupResource::new("", "pods/binding"), name, why))?;
        if options.dry_run
            || call.server.storage.replace(&pods, namespace, name, old.revision, pod).await?.is_some()
        {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            return Ok(Object(status));
        }
    }
}

fn pods(call: &Call) -> Result<std::sync::Arc<Resource>, Status> {
    call.server.registry.table().get("", "v1", "pods").cloned().ok_or_else(Status::page_not_found)
}

fn validate(name: &str, binding: &Object) -> Result<(), Status> {
    let mut errors = Vec::new();
    let target = Path::new("target");
    let text = |pointer: &str| binding.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("/target/kind"), "" | "Node") {
        errors.push(field::not_supported(&target.child("kind"), text("/target/kind"), &["Node", "<empty>"]));
    }
    match text("/target/name") {
        "" => errors.push(field::required(&target.child("name"), "")),
        node => push_invalid(&mut errors, &target.child("name"), node, is_dns1123_subdomain(node)),
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(&GroupKind::new("", "Binding"), name, errors))
    }
}

/// Puts the pod on the node, or says why it cannot go there.
fn assign(pod: &mut Object, binding: &Object, now: &str) -> Result<(), String> {
    let name = pod.name().to_owned();
    if !binding.uid().is_empty() && binding.uid() != pod.uid() {
        return Err(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            binding.uid(),
            pod.uid()
        ));
    }
    if !binding.resource_version().is_empty() && binding.resource_version() != pod.resource_version() {
        return Err(format!(
            "Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {}",
            binding.resource_version(),
            pod.resource_version()
        ));
    }
    if pod.deletion_timestamp().is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) =
        pod.0.pointer("/spec/nodeName").and_then(Value::as_str).filter(|node| !node.is_empty())
    {
        return Err(format!("pod {name} is already assigned to node \"{node}\""));
    }
    let gates = pod.0.pointer("/spec/schedulingGates").and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod.0["spec"]["nodeName"] = binding.0["target"]["name"].clone();
    for member in ["annotations", "labels"] {
        let more = binding.0["metadata"].get(member).and_then(Value::as_object).cloned().unwrap_or_default();
        if more.is_empty() {
            continue;
        }
        let present = pod.metadata_mut().entry(member).or_insert_with(|| json!({}));
        for (key, value) in more {
            present[key] = value;
        }
    }
    let scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if !pod.0["status"].is_object() {
        pod.0["status"] = json!({});
    }
    match pod.0["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(scheduled);
        }
        None => pod.0["status"]["conditions"] = json!([scheduled]),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_checked() {
        for (target, field) in [
            (json!({"name": "n1", "kind": "Node"}), None),
            (json!({"name": "n1.example.com"}), None),
            (json!({"name": ""}), Some("target.name")),
            (json!({"name": "n1/x"}), Some("target.name")),
            (json!({"name": "n1", "kind": "Pod"}), Some("target.kind")),
        ] {
            let refused = validate("p", &Object(json!({"target": target}))).err();
            let found = refused.map(|status| status.details.unwrap().causes[0].field.clone());
            assert_eq!(found.as_deref(), field, "{target}");
        }
    }

    #[test]
    fn a_pod_is_bound_once_and_only_when_it_may_be() {
        let binding = Object(json!({"metadata": {"annotations": {"a": "b"}}, "target": {"name": "n1"}}));
        let pod = |spec: Value, metadata: Value| Object(json!({"metadata": metadata, "spec": spec}));
        let mut free = pod(json!({}), json!({"name": "p"}));
        assign(&mut free, &binding, "2024-01-02T03:04:05Z").unwrap();
        assert_eq!(free.0["spec"]["nodeName"], "n1");
        assert_eq!(free.annotation("a"), Some("b"));
        assert_eq!(free.0["status"]["conditions"][0]["type"], "PodScheduled");
        for (mut pod, why) in [
            (free, "pod p is already assigned to node \"n1\""),
            (
                pod(json!({}), json!({"name": "p", "deletionTimestamp": "2024-01-02T03:04:05Z"})),
                "pod p is being deleted, cannot be assigned to a host",
            ),
            (
                pod(json!({"schedulingGates": [{"name": "g"}]}), json!({"name": "p"})),
                "pod p has non-empty .spec.schedulingGates",
            ),
        ] {
            assert_eq!(assign(&mut pod, &binding, "now").unwrap_err(), why);
        }
    }
}
