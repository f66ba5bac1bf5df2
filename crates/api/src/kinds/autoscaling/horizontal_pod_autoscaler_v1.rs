//! HorizontalPodAutoscaler in the old form, which knows only CPU. Stored as `autoscaling/v2`.
//! What the old form has no field for travels in annotations, so that an update through it loses nothing: metrics in
//! the old form's own shape ([`metrics`]), conditions and behaviour as the new form has them.
//! Upstream: pkg/apis/autoscaling/v1/conversion.go. An annotation that does not parse is a fault of the object here
//! (422), upstream one of its encoding (400).

mod metrics;

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::horizontal_pod_autoscaler::{cells, columns, is_cpu_utilization, validate_status};
use crate::field::{self, ErrorList, Path};
use crate::gvk::GroupVersionResource;
use crate::kind::{Descriptor, Hooks, Scope, Subresources};
use crate::types::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerCondition,
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["hpa".into()],
        generation: true,
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

/// Takes an annotation out, unless it is none that `read` understands: those stay, for validation to complain about.
fn take_annotation<T>(
    object: &mut Value,
    key: &str,
    read: impl FnOnce(&str) -> Result<T, serde_json::Error>,
) -> Option<T> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let value = read(annotations.get(key)?.as_str()?).ok()?;
    annotations.remove(key);
    if annotations.is_empty() {
        fields(object, "metadata")?.remove("annotations");
    }
    Some(value)
}

fn put_annotation(object: &mut Value, key: &str, value: String) {
    let metadata = crate::object::metadata_mut(object);
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(key.to_owned(), value.into());
    }
}

/// A behaviour: upstream writes the names of its fields with a capital, and reads both.
fn behavior(text: &str) -> Result<Value, serde_json::Error> {
    fn uncapitalized(value: Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| {
                    let mut rest = name.chars();
                    let first = rest.next().map(|first| first.to_ascii_lowercase());
                    (first.into_iter().chain(rest).collect::<String>(), uncapitalized(value))
                })
                .collect(),
            Value::Array(items) => items.into_iter().map(uncapitalized).collect(),
            other => other,
        }
    }
    let read = uncapitalized(serde_json::from_str(text)?);
    HorizontalPodAutoscalerBehavior::deserialize(&read)?;
    Ok(read)
}

fn conditions(text: &str) -> Result<Value, serde_json::Error> {
    let read = serde_json::from_str(text)?;
    Vec::<HorizontalPodAutoscalerCondition>::deserialize(&read)?;
    Ok(read)
}

/// What is wrong with the annotations.
fn unreadable(object: &Value) -> ErrorList {
    type Read = fn(&str) -> Result<(), serde_json::Error>;
    let table: [(&str, Read); 4] = [
        (METRICS, |text| metrics::wanted_from(text).map(drop)),
        (BEHAVIOR, |text| behavior(text).map(drop)),
        (CURRENT_METRICS, |text| metrics::measured_from(text).map(drop)),
        (CONDITIONS, |text| conditions(text).map(drop)),
    ];
    let annotations = object.pointer("/metadata/annotations");
    let mut errors = ErrorList::new();
    for (key, read) in table {
        let Some(text) = annotations.and_then(|all| all.get(key)?.as_str()) else { continue };
        if let Err(error) = read(text) {
            let path = Path::new("metadata").child("annotations").key(key);
            errors.push(field::invalid(&path, text, error.to_string()));
        }
    }
    errors
}

fn list(metrics: Option<Value>) -> Vec<Value> {
    match metrics {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// What no annotation can say stays where it is, for whoever reads it: it is not to vanish.
fn leave(fields: &mut Map<String, Value>, name: &str, unsaid: Vec<Value>) {
    if !unsaid.is_empty() {
        fields.insert(name.to_owned(), unsaid.into());
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
        let mut errors = unreadable(object);
        errors.extend(new_form().validate(&stored));
        if let Some(percent) = percent.filter(|&percent| percent < 1) {
            let path = Path::new("spec").child("targetCPUUtilizationPercentage");
            errors.push(field::invalid(&path, percent, "must be greater than 0"));
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
        let metrics = take_annotation(object, METRICS, metrics::wanted_from);
        let behavior = take_annotation(object, BEHAVIOR, behavior);
        let current = take_annotation(object, CURRENT_METRICS, metrics::measured_from);
        let conditions = take_annotation(object, CONDITIONS, conditions);
        if let Some(spec) = fields(object, "spec") {
            let mut all = list(spec.remove("metrics"));
            all.extend(metrics.unwrap_or_default());
            if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
                all.push(json!({"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": percent}}}));
            }
            if !all.is_empty() {
                spec.insert("metrics".to_owned(), all.into());
            }
            if let Some(behavior) = behavior {
                spec.insert("behavior".to_owned(), behavior);
            }
        }
        if let Some(status) = fields(object, "status") {
            let percent = status.remove("currentCPUUtilizationPercentage");
            // The annotation has that of CPU too, and more of it.
            let current = current.unwrap_or_else(|| {
                let cpu = |percent| {
                    json!({"type": "Resource",
                        "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})
                };
                percent.into_iter().map(cpu).collect()
            });
            let mut all = list(status.remove("currentMetrics"));
            all.extend(current);
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
            let (cpu, rest): (Vec<Value>, Vec<Value>) =
                list(spec.remove("metrics")).into_iter().partition(is_cpu_utilization);
            let percent = cpu.first().and_then(|cpu| cpu.pointer("/resource/target/averageUtilization"));
            if let Some(percent) = percent {
                spec.insert("targetCPUUtilizationPercentage".to_owned(), percent.clone());
            }
            let (text, unsaid) = metrics::wanted_annotation(rest);
            annotations.extend(text.map(|text| (METRICS, text)));
            leave(spec, "metrics", unsaid);
            annotations.extend(spec.remove("behavior").map(|behavior| (BEHAVIOR, behavior.to_string())));
        }
        if let Some(status) = fields(object, "status") {
            let measured = list(status.remove("currentMetrics"));
            let cpu = measured.iter().find_map(|metric| {
                let resource = metric.get("resource").filter(|resource| resource["name"] == "cpu")?;
                resource.pointer("/current/averageUtilization").cloned()
            });
            if let Some(percent) = cpu {
                status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
            }
            let (text, unsaid) = metrics::measured_annotation(measured);
            annotations.extend(text.map(|text| (CURRENT_METRICS, text)));
            leave(status, "currentMetrics", unsaid);
            annotations.extend(status.remove("conditions").map(|list| (CONDITIONS, list.to_string())));
        }
        for (key, value) in annotations {
            put_annotation(object, key, value);
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
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
                "behavior": {"scaleUp": {"selectPolicy": "Max"}}},
            "status": {"desiredReplicas": 1, "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [{"type": "Resource",
                    "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "400m"}}}]}});
        let mut object = stored.clone();
        OldForm.from_storage(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(object["spec"].get("metrics"), None);
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 40);
        assert_eq!(
            object["metadata"]["annotations"][METRICS],
            r#"[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}}]"#
        );
        OldForm.to_storage(&mut object);
        assert_eq!(object, stored);
    }

    #[test]
    fn what_cannot_be_said_in_the_old_form_does_not_vanish() {
        let pods =
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "current": {"averageValue": "1"}}});
        let odd =
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "current": {"averageValue": ["1"]}}});
        let wanted = json!({"type": "Pods", "pods": "all"});
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {},
            "spec": {"maxReplicas": 3, "metrics": [wanted]}, "status": {"currentMetrics": [odd, pods]}});
        let mut object = stored.clone();
        OldForm.from_storage(&mut object);
        assert_eq!(object["spec"]["metrics"], json!([wanted]));
        assert_eq!(object["status"]["currentMetrics"], json!([odd]), "the other one is in the annotation");
        assert_eq!(
            object["metadata"]["annotations"][CURRENT_METRICS],
            r#"[{"type":"Pods","pods":{"metricName":"m","currentAverageValue":"1"}}]"#
        );
        OldForm.to_storage(&mut object);
        assert_eq!(object, stored);
    }

    #[test]
    fn a_manifest_with_annotations() {
        let manifest = |metrics: &str| {
            json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "h", "annotations": {METRICS: metrics,
                    BEHAVIOR: r#"{"ScaleUp": {"SelectPolicy": "Max", "Policies": [{"Type": "Pods", "Value": 1, "PeriodSeconds": 15}]}}"#}},
                "spec": {"maxReplicas": 3, "minReplicas": 1, "targetCPUUtilizationPercentage": 60,
                    "scaleTargetRef": {"kind": "Deployment", "name": "d"}}})
        };
        let right = r#"[{"type":"Resource","resource":{"name":"memory","targetAverageUtilization":70}}]"#;
        assert_eq!(OldForm.validate(&manifest(right)), []);
        let stored = stored(&manifest(right));
        assert_eq!(
            stored["spec"]["metrics"],
            json!([
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
            ])
        );
        assert_eq!(stored["spec"]["behavior"]["scaleUp"]["policies"][0]["periodSeconds"], 15);
        assert_eq!(stored["metadata"].get("annotations"), None);
        let errors = OldForm.validate(&manifest("{"));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].field, format!("metadata.annotations[{METRICS}]"));
    }

    #[test]
    fn nothing_may_be_left_where_something_wakes_it() {
        let with = |metrics: &str| {
            json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "h", "annotations": {METRICS: metrics}},
                "spec": {"maxReplicas": 3, "minReplicas": 0, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}})
        };
        let external = r#"[{"type":"External","external":{"metricName":"q","targetValue":"5"}}]"#;
        assert_eq!(OldForm.validate(&with(external)), []);
        let pods = r#"[{"type":"Pods","pods":{"metricName":"q","targetAverageValue":"5"}}]"#;
        assert_eq!(OldForm.validate(&with(pods)).len(), 1);
    }
}
