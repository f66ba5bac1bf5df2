//! HorizontalPodAutoscaler in the old form, which knows only CPU. Stored as `autoscaling/v2`.
//! What the old form has no field for travels in annotations, so that an update through it loses nothing.
//! Upstream: pkg/apis/autoscaling/v1/conversion.go (there the annotations hold yet another form of the metrics).

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::horizontal_pod_autoscaler::{cells, columns, is_cpu_utilization, validate_status};
use crate::field::{ErrorList, Path};
use crate::gvk::GroupVersionResource;
use crate::kind::{Descriptor, Hooks, Scope, Subresources};
use crate::types::autoscaling::v2::HorizontalPodAutoscaler;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["hpa".into()],
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        stored_as: Some(GroupVersionResource::new("autoscaling", "v2", "horizontalpodautoscalers")),
        columns: columns(),
        hooks: Arc::new(OldForm),
        ..Descriptor::new(
            "autoscaling",
            "v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            Scope::Namespaced,
        )
    }
}

/// On the untyped form, because the rules are those of the stored form.
struct OldForm;

fn fields<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name)?.as_object_mut()
}

fn take_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let value = serde_json::from_str(annotations.remove(key)?.as_str()?).ok();
    if annotations.is_empty() {
        fields(object, "metadata")?.remove("annotations");
    }
    value
}

fn put_annotation(object: &mut Value, key: &str, value: &Value) {
    let metadata = crate::object::metadata_mut(object);
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(key.to_owned(), value.to_string().into());
    }
}

fn stored(object: &Value) -> Value {
    let mut stored = object.clone();
    OldForm.to_storage(&mut stored);
    stored
}

fn new_form() -> Arc<dyn Hooks> {
    super::horizontal_pod_autoscaler::descriptor().hooks
}

impl Hooks for OldForm {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = fields(object, "spec") {
            spec.entry("minReplicas").or_insert_with(|| 1.into());
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("status".to_owned(), json!({"currentReplicas": 0, "desiredReplicas": 0}));
        }
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        if let (Some(fields), Some(status)) = (new.as_object_mut(), old.get("status")) {
            fields.insert("status".to_owned(), status.clone());
        }
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        if let (Some(fields), Some(spec)) = (new.as_object_mut(), old.get("spec")) {
            fields.insert("spec".to_owned(), spec.clone());
        }
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let mut stored = stored(object);
        new_form().default(&mut stored);
        let percent = object.pointer("/spec/targetCPUUtilizationPercentage").and_then(Value::as_i64);
        let mut errors = new_form().validate(&stored);
        if let Some(percent) = percent.filter(|&percent| percent < 1) {
            let path = Path::new("spec").child("targetCPUUtilizationPercentage");
            errors.push(crate::field::invalid(&path, percent, "must be greater than 0"));
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let count =
            |pointer| new.pointer(pointer).and_then(Value::as_i64).and_then(|count| count.try_into().ok());
        validate_status(count("/status/currentReplicas"), count("/status/desiredReplicas"))
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells(&HorizontalPodAutoscaler::deserialize(&stored(object)).unwrap_or_default(), now)
    }

    fn to_storage(&self, object: &mut Value) {
        let metrics = take_annotation(object, METRICS);
        let behavior = take_annotation(object, BEHAVIOR);
        let current = take_annotation(object, CURRENT_METRICS);
        let conditions = take_annotation(object, CONDITIONS);
        let mut all = Vec::new();
        if let Some(spec) = fields(object, "spec") {
            if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
                all.push(json!({"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": percent}}}));
            }
            all.extend(metrics.as_ref().and_then(Value::as_array).cloned().unwrap_or_default());
            if !all.is_empty() {
                spec.insert("metrics".to_owned(), all.into());
            }
            if let Some(behavior) = behavior {
                spec.insert("behavior".to_owned(), behavior);
            }
        }
        if let Some(status) = fields(object, "status") {
            let mut all = Vec::new();
            if let Some(percent) = status.remove("currentCPUUtilizationPercentage") {
                all.push(json!({"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": percent}}}));
            }
            all.extend(current.as_ref().and_then(Value::as_array).cloned().unwrap_or_default());
            if !all.is_empty() {
                status.insert("currentMetrics".to_owned(), all.into());
            }
            if let Some(conditions) = conditions {
                status.insert("conditions".to_owned(), conditions);
            }
        }
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), "autoscaling/v2".into());
        }
    }

    fn from_storage(&self, object: &mut Value) {
        let mut annotations = Vec::new();
        if let Some(spec) = fields(object, "spec") {
            let metrics = spec.remove("metrics");
            let mut rest = metrics.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(position) = rest.iter().position(is_cpu_utilization) {
                let cpu = rest.remove(position);
                if let Some(percent) = cpu.pointer("/resource/target/averageUtilization") {
                    spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.clone());
                }
            }
            annotations.push((METRICS, (!rest.is_empty()).then(|| Value::from(rest))));
            annotations.push((BEHAVIOR, spec.remove("behavior")));
        }
        if let Some(status) = fields(object, "status") {
            let metrics = status.remove("currentMetrics");
            let mut rest = metrics.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
            let is_cpu = |metric: &Value| {
                metric.pointer("/resource/name").and_then(Value::as_str) == Some("cpu")
                    && metric.pointer("/resource/current/averageUtilization").is_some()
            };
            if let Some(position) = rest.iter().position(is_cpu) {
                let cpu = rest.remove(position);
                let percent = cpu.pointer("/resource/current/averageUtilization").cloned();
                status.insert("currentCPUUtilizationPercentage".to_owned(), percent.unwrap_or_default());
            }
            annotations.push((CURRENT_METRICS, (!rest.is_empty()).then(|| Value::from(rest))));
            annotations.push((CONDITIONS, status.remove("conditions")));
        }
        for (key, value) in annotations {
            if let Some(value) = value {
                put_annotation(object, key, &value);
            }
        }
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), "autoscaling/v1".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storing_and_reading_lose_nothing() {
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}],
                "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"desiredReplicas": 1, "conditions": [{"type": "AbleToScale"}]}});
        let mut object = stored.clone();
        OldForm.from_storage(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(object["spec"].get("metrics"), None);
        OldForm.to_storage(&mut object);
        assert_eq!(object, stored);
    }
}
