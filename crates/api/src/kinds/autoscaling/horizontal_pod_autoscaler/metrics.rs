//! The metrics of a HorizontalPodAutoscaler: where each comes from, and what it should be.
//! Upstream: pkg/apis/autoscaling/validation.

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, quantity};
use crate::meta::Quantity;
use crate::meta_validation::push_invalid;
use crate::names::is_path_segment;
use crate::types::autoscaling::v2::{MetricSpec, MetricTarget};

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const RAW_OR_UTILIZATION: &str = "must set either a target raw value or a target utilization";
const NOT_BOTH: &str = "may not set both a target raw value and a target utilization";

/// Refuses a reference that no path could name.
pub(super) fn reference(errors: &mut ErrorList, path: &Path, kind: &str, name: &str) {
    for (path, value) in [(path.child("kind"), kind), (path.child("name"), name)] {
        if value.is_empty() {
            errors.push(field::required(&path, ""));
        } else {
            push_invalid(errors, &path, value, is_path_segment(value));
        }
    }
}

/// What is wrong with a metric. Of several sources only the first is looked at; the others may not be there.
pub(super) fn validate(errors: &mut ErrorList, path: &Path, metric: &MetricSpec) {
    let type_path = path.child("type");
    let kind = metric.type_.as_str();
    if kind.is_empty() {
        errors.push(field::required(&type_path, "must specify a metric source type"));
    }
    if !TYPES.contains(&kind) {
        errors.push(field::not_supported(&type_path, kind, TYPES));
    }
    let sources = [
        ("object", "Object", metric.object.is_some()),
        ("external", "External", metric.external.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
        ("containerResource", "ContainerResource", metric.container_resource.is_some()),
    ];
    let set: Vec<_> = sources.iter().filter(|(_, _, set)| *set).collect();
    if let Some((first, _, _)) = set.first() {
        source(errors, &path.child(*first), metric);
    }
    match sources.iter().find(|(_, of, _)| *of == kind) {
        Some((_, _, true)) => {}
        Some((name, _, false)) => {
            let message = "must populate information for the given metric source";
            errors.push(field::required(&path.child(*name), message));
        }
        None => errors.push(field::not_supported(&type_path, kind, TYPES)),
    }
    if set.len() != 1 {
        for (name, _, _) in set.into_iter().filter(|(_, of, _)| *of != kind) {
            let message = "must populate the given metric source only";
            errors.push(field::forbidden(&path.child(*name), message));
        }
    }
}

/// Checks the first source that is there.
fn source(errors: &mut ErrorList, path: &Path, metric: &MetricSpec) {
    let target_path = path.child("target");
    let average = target_path.child("averageValue");
    if let Some(source) = &metric.object {
        let object = &source.described_object;
        reference(errors, &path.child("describedObject"), &object.kind, &object.name);
        name(errors, path, &source.metric.name);
        target(errors, &target_path, &source.target);
        if source.target.value.is_none() && source.target.average_value.is_none() {
            errors.push(field::required(&average, "must set either a target value or averageValue"));
        }
    } else if let Some(source) = &metric.external {
        name(errors, path, &source.metric.name);
        target(errors, &target_path, &source.target);
        match (&source.target.value, &source.target.average_value) {
            (None, None) => {
                let message = "must set either a target value for metric or a per-pod target";
                errors.push(field::required(&average, message));
            }
            (Some(_), Some(_)) => {
                let message = "may not set both a target value for metric and a per-pod target";
                errors.push(field::forbidden(&target_path.child("value"), message));
            }
            _ => {}
        }
    } else if let Some(source) = &metric.pods {
        name(errors, path, &source.metric.name);
        target(errors, &target_path, &source.target);
        if source.target.average_value.is_none() {
            errors.push(field::required(&average, "must specify a positive target averageValue"));
        }
    } else if let Some(source) = &metric.resource {
        resource(errors, path, &source.name);
        of_resource(errors, &target_path, &source.target);
    } else if let Some(source) = &metric.container_resource {
        resource(errors, path, &source.name);
        if source.container.is_empty() {
            errors.push(field::required(&path.child("container"), "must specify a container"));
        } else {
            dns_label(errors, &path.child("container"), &source.container);
        }
        of_resource(errors, &target_path, &source.target);
    }
}

fn name(errors: &mut ErrorList, path: &Path, name: &str) {
    let path = path.child("metric").child("name");
    if name.is_empty() {
        errors.push(field::required(&path, "must specify a metric name"));
    } else {
        push_invalid(errors, &path, name, is_path_segment(name));
    }
}

fn resource(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.push(field::required(&path.child("name"), "must specify a resource name"));
    }
}

fn of_resource(errors: &mut ErrorList, path: &Path, wanted: &MetricTarget) {
    target(errors, path, wanted);
    match (wanted.average_utilization, &wanted.average_value) {
        (None, None) => errors.push(field::required(&path.child("averageUtilization"), RAW_OR_UTILIZATION)),
        (Some(_), Some(_)) => errors.push(field::forbidden(&path.child("averageValue"), NOT_BOTH)),
        _ => {}
    }
}

fn target(errors: &mut ErrorList, path: &Path, target: &MetricTarget) {
    let kind = target.type_.as_str();
    if kind.is_empty() {
        errors.push(field::required(&path.child("type"), "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let message = "must be either Utilization, Value, or AverageValue";
        errors.push(field::invalid(&path.child("type"), kind, message));
    }
    let is_positive = |amount: &Quantity| !quantity(amount).is_negative() && !quantity(amount).is_zero();
    for (name, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(amount) = amount.as_ref().filter(|amount| !is_positive(amount)) {
            errors.push(field::invalid(&path.child(name), amount.0.as_str(), "must be positive"));
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.push(field::invalid(&path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metrics_are_checked() {
        let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}});
        for (metric, expected) in [
            (json!({"type": "Resource", "resource": cpu}), vec![]),
            (
                json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "1"}}}),
                vec![],
            ),
            (
                json!({"type": ""}),
                vec![
                    "m.type: Required value: must specify a metric source type",
                    r#"m.type: Unsupported value: "": supported values: "ContainerResource", "External", "Object", "Pods", "Resource""#,
                    r#"m.type: Unsupported value: "": supported values: "ContainerResource", "External", "Object", "Pods", "Resource""#,
                ],
            ),
            (
                json!({"type": "Resource", "resource": {"name": "", "target": {"type": ""}}}),
                vec![
                    "m.resource.name: Required value: must specify a resource name",
                    "m.resource.target.type: Required value: must specify a metric target type",
                    r#"m.resource.target.type: Invalid value: "": must be either Utilization, Value, or AverageValue"#,
                    "m.resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                ],
            ),
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0, "averageValue": "0"}}}),
                vec![
                    r#"m.resource.target.averageValue: Invalid value: "0": must be positive"#,
                    "m.resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                    "m.resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization",
                ],
            ),
            (
                json!({"type": "Pods", "resource": cpu}),
                vec!["m.pods: Required value: must populate information for the given metric source"],
            ),
            (
                json!({"type": "Pods", "resource": cpu, "pods": {"metric": {"name": "a/b"}, "target": {"type": "AverageValue"}}}),
                vec![
                    r#"m.pods.metric.name: Invalid value: "a/b": may not contain '/'"#,
                    "m.pods.target.averageValue: Required value: must specify a positive target averageValue",
                    "m.resource: Forbidden: must populate the given metric source only",
                ],
            ),
            (
                json!({"type": "Object", "object": {"describedObject": {"kind": "", "name": "a"}, "metric": {"name": ""}, "target": {"type": "Value"}}}),
                vec![
                    "m.object.describedObject.kind: Required value",
                    "m.object.metric.name: Required value: must specify a metric name",
                    "m.object.target.averageValue: Required value: must set either a target value or averageValue",
                ],
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "", "target": {"type": "Utilization", "averageUtilization": 5}}}),
                vec!["m.containerResource.container: Required value: must specify a container"],
            ),
        ] {
            let mut errors = ErrorList::new();
            validate(&mut errors, &Path::new("m"), &serde_json::from_value(metric).unwrap());
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
    }
}
