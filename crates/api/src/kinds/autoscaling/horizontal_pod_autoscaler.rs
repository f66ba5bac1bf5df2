//! HorizontalPodAutoscaler: replicas by metrics.
//! Upstream: pkg/registry/autoscaling/horizontalpodautoscaler, pkg/apis/autoscaling.

mod metrics;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{not_negative_if_set, one_of_if_set, quantity};
use crate::kinds::optional::{default_text, items};
use crate::kinds::row;
use crate::types::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricSource,
};

const CPU_TARGET: i32 = 80;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["hpa".into()],
        generation: true,
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: columns(),
        hooks: Arc::new(
            Typed::<HorizontalPodAutoscaler>::new()
                .status(|| Some(json!({"currentMetrics": null, "desiredReplicas": 0})))
                .default_with(default)
                .validate(validate)
                .validate_status_update(|new, _| {
                    let counts = new.status.as_ref();
                    let counts = counts.map(|status| (status.current_replicas, status.desired_replicas));
                    validate_status(counts.and_then(|counts| counts.0), counts.map(|counts| counts.1))
                })
                .cells(cells),
        ),
        ..Descriptor::new(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            Scope::Namespaced,
        )
    }
}

/// The columns of both versions.
pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::object_name(),
        Column::new("Reference", "string", "What is scaled."),
        Column::new("Targets", "string", "The metrics: current and wanted."),
        Column::new("MinPods", "string", "The least replicas."),
        Column::new("MaxPods", "string", "The most replicas."),
        Column::new("Replicas", "string", "The replicas there are."),
        Column::age(),
    ]
}

fn default(object: &mut HorizontalPodAutoscaler) {
    let spec = &mut object.spec;
    spec.min_replicas.get_or_insert(1);
    if items(&spec.metrics).is_empty() {
        spec.metrics = Some(vec![MetricSpec {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricSource {
                name: "cpu".to_owned(),
                target: MetricTarget {
                    type_: "Utilization".to_owned(),
                    average_utilization: Some(CPU_TARGET),
                    ..MetricTarget::default()
                },
            }),
            ..MetricSpec::default()
        }]);
    }
    if let Some(behavior) = &mut spec.behavior {
        let policy =
            |kind: &str, value| HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: 15 };
        let up = behavior.scale_up.get_or_insert_default();
        up.stabilization_window_seconds.get_or_insert(0);
        rules(up, || vec![policy("Pods", 4), policy("Percent", 100)]);
        rules(behavior.scale_down.get_or_insert_default(), || vec![policy("Percent", 100)]);
    }
}

fn rules(rules: &mut HPAScalingRules, policies: impl FnOnce() -> Vec<HPAScalingPolicy>) {
    rules.policies.get_or_insert_with(policies);
    default_text(&mut rules.select_policy, "Max");
}

fn validate(object: &HorizontalPodAutoscaler) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &object.spec;
    let path = Path::new("spec");
    let least = spec.min_replicas.unwrap_or(1);
    if least < 0 {
        let message = "must be greater than or equal to 0";
        errors.push(field::invalid(&path.child("minReplicas"), least, message));
    }
    if spec.max_replicas < 1 {
        errors.push(field::invalid(&path.child("maxReplicas"), spec.max_replicas, "must be greater than 0"));
    }
    if spec.max_replicas < least {
        let message = "must be greater than or equal to `minReplicas`";
        errors.push(field::invalid(&path.child("maxReplicas"), spec.max_replicas, message));
    }
    let target = path.child("scaleTargetRef");
    metrics::reference(&mut errors, &target, &spec.scale_target_ref.kind, &spec.scale_target_ref.name);
    for (index, metric) in items(&spec.metrics).iter().enumerate() {
        metrics::validate(&mut errors, &path.child("metrics").index(index), metric);
    }
    // The other metrics are those of pods, of which there are none then.
    let wakes = |metric: &MetricSpec| matches!(&*metric.type_, "Object" | "External");
    if spec.min_replicas == Some(0) && !items(&spec.metrics).iter().any(wakes) {
        let message =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(field::forbidden(&path.child("metrics"), message));
    }
    let behavior = spec.behavior.iter();
    for (name, rules) in behavior.flat_map(|b| [("scaleUp", &b.scale_up), ("scaleDown", &b.scale_down)]) {
        if let Some(rules) = rules {
            scaling_rules(&mut errors, rules, &path.child("behavior").child(name));
        }
    }
    errors
}

/// Refuses negative counts in the status of either version.
pub(super) fn validate_status(current: Option<i32>, desired: Option<i32>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    not_negative_if_set(&mut errors, &path.child("currentReplicas"), current);
    not_negative_if_set(&mut errors, &path.child("desiredReplicas"), desired);
    errors
}

fn scaling_rules(errors: &mut ErrorList, rules: &HPAScalingRules, path: &Path) {
    const WINDOW_MAX: i32 = 3600;
    const PERIOD_MAX: i32 = 1800;
    if let Some(seconds) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.push(field::invalid(&path, seconds, "must be greater than or equal to zero"));
        }
        if seconds > WINDOW_MAX {
            let message = format!("must be less than or equal to {WINDOW_MAX}");
            errors.push(field::invalid(&path, seconds, message));
        }
    }
    let selections = ["Disabled", "Max", "Min"];
    one_of_if_set(errors, &path.child("selectPolicy"), &rules.select_policy, &selections);
    if let Some(tolerance) = &rules.tolerance
        && quantity(tolerance).is_negative()
    {
        let message = "must be greater or equal to zero";
        errors.push(field::invalid(&path.child("tolerance"), tolerance.0.as_str(), message));
    }
    let path = path.child("policies");
    if items(&rules.policies).is_empty() {
        errors.push(field::required(&path, "must specify at least one Policy"));
    }
    for (index, policy) in items(&rules.policies).iter().enumerate() {
        let path = path.index(index);
        if !["Percent", "Pods"].contains(&&*policy.type_) {
            errors.push(field::not_supported(&path.child("type"), &*policy.type_, &["Percent", "Pods"]));
        }
        if policy.value <= 0 {
            errors.push(field::invalid(&path.child("value"), policy.value, "must be greater than zero"));
        }
        let seconds = policy.period_seconds;
        if seconds <= 0 {
            errors.push(field::invalid(&path.child("periodSeconds"), seconds, "must be greater than zero"));
        }
        if seconds > PERIOD_MAX {
            let message = format!("must be less than or equal to {PERIOD_MAX}");
            errors.push(field::invalid(&path.child("periodSeconds"), seconds, message));
        }
    }
}

/// One metric as `current/wanted`.
fn metric(spec: &MetricSpec, status: Option<&MetricStatus>) -> String {
    let (name, target, current) = match &*spec.type_ {
        "External" => (
            "",
            spec.external.as_ref().map(|source| &source.target),
            status.and_then(|status| status.external.as_ref().map(|source| &source.current)),
        ),
        "Pods" => (
            "",
            spec.pods.as_ref().map(|source| &source.target),
            status.and_then(|status| status.pods.as_ref().map(|source| &source.current)),
        ),
        "Object" => (
            "",
            spec.object.as_ref().map(|source| &source.target),
            status.and_then(|status| status.object.as_ref().map(|source| &source.current)),
        ),
        "Resource" => (
            spec.resource.as_ref().map_or("", |source| &source.name),
            spec.resource.as_ref().map(|source| &source.target),
            status.and_then(|status| status.resource.as_ref().map(|source| &source.current)),
        ),
        "ContainerResource" => (
            spec.container_resource.as_ref().map_or("", |source| &source.name),
            spec.container_resource.as_ref().map(|source| &source.target),
            status.and_then(|status| status.container_resource.as_ref().map(|source| &source.current)),
        ),
        _ => return "<unknown type>".to_owned(),
    };
    let (no_target, no_current) = (MetricTarget::default(), MetricValueStatus::default());
    let (target, current) = (target.unwrap_or(&no_target), current.unwrap_or(&no_current));
    let unknown = || "<unknown>".to_owned();
    let of_resource = !name.is_empty();
    let shown = if let Some(wanted) = &target.average_value {
        let now = current.average_value.as_ref().map_or_else(unknown, |wire| quantity(wire).to_string());
        let suffix = if matches!(&*spec.type_, "External" | "Object") { " (avg)" } else { "" };
        format!("{now}/{}{suffix}", quantity(wanted))
    } else if of_resource {
        let now = current.average_utilization.map_or_else(unknown, |percent| format!("{percent}%"));
        let wanted =
            target.average_utilization.map_or_else(|| "<auto>".to_owned(), |percent| format!("{percent}%"));
        format!("{now}/{wanted}")
    } else {
        let now = current.value.as_ref().map_or_else(unknown, |wire| quantity(wire).to_string());
        format!("{now}/{}", target.value.as_ref().map(quantity).unwrap_or_default())
    };
    if of_resource { format!("{name}: {shown}") } else { shown }
}

pub(super) fn cells(object: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 2;
    let spec = &object.spec;
    let status = object.status.clone().unwrap_or_default();
    let current = items(&status.current_metrics);
    let list: Vec<String> = items(&spec.metrics)
        .iter()
        .enumerate()
        .map(|(index, spec)| metric(spec, current.get(index)))
        .collect();
    let targets = match list.len() {
        0 => row::NONE.to_owned(),
        1..=SHOWN => list.join(", "),
        more => format!("{} + {} more...", list[..SHOWN].join(", "), more - SHOWN),
    };
    vec![
        row::name(&object.metadata),
        format!("{}/{}", spec.scale_target_ref.kind, spec.scale_target_ref.name).into(),
        targets.into(),
        spec.min_replicas.map_or_else(|| "<unset>".to_owned(), |least| least.to_string()).into(),
        spec.max_replicas.into(),
        row::count(status.current_replicas),
        row::age(&object.metadata, now),
    ]
}

/// Whether a metric is the one that the old version has a field for.
pub(super) fn is_cpu_utilization(metric: &Value) -> bool {
    let field = |pointer| metric.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    field("/type") == "Resource"
        && field("/resource/name") == "cpu"
        && metric.pointer("/resource/target/averageUtilization").is_some_and(|percent| !percent.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(spec: Value) -> HorizontalPodAutoscaler {
        let mut object = serde_json::from_value(json!({"metadata": {"name": "h"}, "spec": spec})).unwrap();
        default(&mut object);
        object
    }

    #[test]
    fn defaults_checks_and_rows() {
        let target = json!({"kind": "Deployment", "name": "web"});
        let right = object(json!({"scaleTargetRef": target, "maxReplicas": 3}));
        assert_eq!(validate(&right), []);
        let row = cells(&right, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..6],
            [json!("Deployment/web"), json!("cpu: <unknown>/80%"), json!("1"), json!(3), json!(0)]
        );
        for (spec, errors) in [
            (json!({"scaleTargetRef": target, "maxReplicas": 0}), 2),
            (json!({"scaleTargetRef": target, "maxReplicas": 1, "minReplicas": 2}), 1),
            (json!({"scaleTargetRef": {}, "maxReplicas": 1}), 2),
            (json!({"scaleTargetRef": target, "maxReplicas": 1, "metrics": [{"type": "Pods"}]}), 1),
            (json!({"scaleTargetRef": target, "maxReplicas": 1, "minReplicas": -1}), 1),
            (json!({"scaleTargetRef": target, "maxReplicas": 1, "minReplicas": 0}), 1),
            (
                json!({"scaleTargetRef": target, "maxReplicas": 1, "minReplicas": 0, "metrics": [{"type": "External",
                    "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "1"}}}]}),
                0,
            ),
        ] {
            assert_eq!(validate(&object(spec.clone())).len(), errors, "{spec}");
        }
    }
}
