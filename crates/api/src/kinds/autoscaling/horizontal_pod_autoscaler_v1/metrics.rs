//! Metrics in the form that `autoscaling/v1` has them in its annotations: `targetAverageUtilization` and the like beside
//! the name of the metric, where `autoscaling/v2` has a target of its own. Both ways, for what is wanted and what is.
//! Not here: the annotations themselves, the fields for CPU ([`super`]).
//! Upstream: pkg/apis/autoscaling/v1/conversion.go, staging k8s.io/api/autoscaling/v1.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::meta::{LabelSelector, Quantity};
use crate::quantity;
use crate::types::autoscaling::v2;

/// A quantity that may also be written as a number.
#[derive(Clone, Debug, Serialize)]
struct Amount(Quantity);

impl Default for Amount {
    fn default() -> Self {
        Self(Quantity("0".to_owned()))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            _ => return Err(serde::de::Error::custom("a quantity is a text or a number")),
        };
        let amount = quantity::Quantity::from_wire(&Quantity(text)).map_err(serde::de::Error::custom)?;
        Ok(Self(Quantity(amount.to_string())))
    }
}

impl Amount {
    /// Of a field that is always there: nothing of what is not.
    fn of(amount: &Option<Quantity>) -> Self {
        amount.clone().map_or_else(Self::default, Self)
    }

    fn is_nothing(&self) -> bool {
        self.0.0 == "0"
    }

    /// `0` beside an average says nothing: the field is always there.
    fn beside(self, average: &Option<Amount>) -> Option<Quantity> {
        (average.is_none() || !self.is_nothing()).then_some(self.0)
    }
}

fn wire(amount: Option<Amount>) -> Option<Quantity> {
    amount.map(|amount| amount.0)
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Reference {
    kind: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
}

impl Reference {
    fn to_new(self) -> v2::CrossVersionObjectReference {
        let api_version = Some(self.api_version).filter(|version| !version.is_empty());
        v2::CrossVersionObjectReference { kind: self.kind, name: self.name, api_version }
    }

    fn of_new(new: v2::CrossVersionObjectReference) -> Self {
        Self { kind: new.kind, name: new.name, api_version: new.api_version.unwrap_or_default() }
    }
}

/// A metric of one of five sources. `resource` and `containerResource` differ in the container's name alone.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Metric<O, P, R, E> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<O>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<P>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<R>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_resource: Option<R>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external: Option<E>,
}

type Wanted = Metric<ObjectSource, PodsSource, ResourceSource, ExternalSource>;
type Measured = Metric<ObjectStatus, PodsStatus, ResourceStatus, ExternalStatus>;

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ObjectSource {
    target: Reference,
    metric_name: String,
    target_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_value: Option<Amount>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct PodsSource {
    metric_name: String,
    target_average_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceSource {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_utilization: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_value: Option<Amount>,
    #[serde(skip_serializing_if = "String::is_empty")]
    container: String,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ExternalSource {
    metric_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_value: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_average_value: Option<Amount>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ObjectStatus {
    target: Reference,
    metric_name: String,
    current_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average_value: Option<Amount>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct PodsStatus {
    metric_name: String,
    current_average_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<LabelSelector>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceStatus {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_average_utilization: Option<i32>,
    current_average_value: Amount,
    #[serde(skip_serializing_if = "String::is_empty")]
    container: String,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct ExternalStatus {
    metric_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric_selector: Option<LabelSelector>,
    current_value: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_average_value: Option<Amount>,
}

fn identifier(name: String, selector: Option<LabelSelector>) -> v2::MetricIdentifier {
    v2::MetricIdentifier { name, selector }
}

fn target(kind: &str, value: Option<Quantity>, average: Option<Quantity>) -> v2::MetricTarget {
    v2::MetricTarget { type_: kind.to_owned(), value, average_value: average, ..v2::MetricTarget::default() }
}

fn resource_target(source: &ResourceSource) -> v2::MetricTarget {
    let kind = if source.target_average_utilization.is_some() { "Utilization" } else { "AverageValue" };
    v2::MetricTarget {
        average_utilization: source.target_average_utilization,
        ..target(kind, None, wire(source.target_average_value.clone()))
    }
}

fn wanted_to_new(old: Wanted) -> v2::MetricSpec {
    v2::MetricSpec {
        type_: old.kind,
        object: old.object.map(|source| {
            let kind = if source.average_value.is_some() { "AverageValue" } else { "Value" };
            v2::ObjectMetricSource {
                described_object: source.target.to_new(),
                metric: identifier(source.metric_name, source.selector),
                target: target(
                    kind,
                    source.target_value.beside(&source.average_value),
                    wire(source.average_value),
                ),
            }
        }),
        pods: old.pods.map(|source| v2::PodsMetricSource {
            metric: identifier(source.metric_name, source.selector),
            target: target("AverageValue", None, Some(source.target_average_value.0)),
        }),
        resource: old
            .resource
            .map(|source| v2::ResourceMetricSource { target: resource_target(&source), name: source.name }),
        container_resource: old.container_resource.map(|source| v2::ContainerResourceMetricSource {
            target: resource_target(&source),
            container: source.container,
            name: source.name,
        }),
        external: old.external.map(|source| v2::ExternalMetricSource {
            metric: identifier(source.metric_name, source.metric_selector),
            target: target(
                if source.target_value.is_some() { "Value" } else { "AverageValue" },
                wire(source.target_value),
                wire(source.target_average_value),
            ),
        }),
    }
}

fn wanted_of_new(new: v2::MetricSpec) -> Wanted {
    let resource = |name: String, container: String, target: v2::MetricTarget| ResourceSource {
        name,
        target_average_utilization: target.average_utilization,
        target_average_value: target.average_value.map(Amount),
        container,
    };
    Metric {
        kind: new.type_,
        object: new.object.map(|source| ObjectSource {
            target: Reference::of_new(source.described_object),
            metric_name: source.metric.name,
            target_value: Amount::of(&source.target.value),
            selector: source.metric.selector,
            average_value: source.target.average_value.map(Amount),
        }),
        pods: new.pods.map(|source| PodsSource {
            metric_name: source.metric.name,
            target_average_value: Amount::of(&source.target.average_value),
            selector: source.metric.selector,
        }),
        resource: new.resource.map(|source| resource(source.name, String::new(), source.target)),
        container_resource: new
            .container_resource
            .map(|source| resource(source.name, source.container, source.target)),
        external: new.external.map(|source| ExternalSource {
            metric_name: source.metric.name,
            metric_selector: source.metric.selector,
            target_value: source.target.value.map(Amount),
            target_average_value: source.target.average_value.map(Amount),
        }),
    }
}

fn measured_to_new(old: Measured) -> v2::MetricStatus {
    let current = |value: Option<Quantity>, average: Option<Quantity>, percent: Option<i32>| {
        v2::MetricValueStatus { value, average_value: average, average_utilization: percent }
    };
    let resource = |source: &ResourceStatus| {
        let percent = source.current_average_utilization;
        current(None, Some(source.current_average_value.0.clone()), percent)
    };
    v2::MetricStatus {
        type_: old.kind,
        object: old.object.map(|source| v2::ObjectMetricStatus {
            described_object: source.target.to_new(),
            metric: identifier(source.metric_name, source.selector),
            current: current(
                source.current_value.beside(&source.average_value),
                wire(source.average_value),
                None,
            ),
        }),
        pods: old.pods.map(|source| v2::PodsMetricStatus {
            metric: identifier(source.metric_name, source.selector),
            current: current(None, Some(source.current_average_value.0), None),
        }),
        resource: old
            .resource
            .map(|source| v2::ResourceMetricStatus { current: resource(&source), name: source.name }),
        container_resource: old.container_resource.map(|source| v2::ContainerResourceMetricStatus {
            current: resource(&source),
            container: source.container,
            name: source.name,
        }),
        external: old.external.map(|source| v2::ExternalMetricStatus {
            metric: identifier(source.metric_name, source.metric_selector),
            current: current(
                source.current_value.beside(&source.current_average_value),
                wire(source.current_average_value),
                None,
            ),
        }),
    }
}

fn measured_of_new(new: v2::MetricStatus) -> Measured {
    let resource = |name: String, container: String, current: v2::MetricValueStatus| ResourceStatus {
        name,
        current_average_utilization: current.average_utilization,
        current_average_value: Amount::of(&current.average_value),
        container,
    };
    Metric {
        kind: new.type_,
        object: new.object.map(|source| ObjectStatus {
            target: Reference::of_new(source.described_object),
            metric_name: source.metric.name,
            current_value: Amount::of(&source.current.value),
            selector: source.metric.selector,
            average_value: source.current.average_value.map(Amount),
        }),
        pods: new.pods.map(|source| PodsStatus {
            metric_name: source.metric.name,
            current_average_value: Amount::of(&source.current.average_value),
            selector: source.metric.selector,
        }),
        resource: new.resource.map(|source| resource(source.name, String::new(), source.current)),
        container_resource: new
            .container_resource
            .map(|source| resource(source.name, source.container, source.current)),
        external: new.external.map(|source| ExternalStatus {
            metric_name: source.metric.name,
            metric_selector: source.metric.selector,
            current_value: Amount::of(&source.current.value),
            current_average_value: source.current.average_value.map(Amount),
        }),
    }
}

/// What an annotation says of the metrics that are wanted, as `autoscaling/v2` has them.
///
/// # Errors
/// A text that is no list of such metrics.
pub(super) fn wanted_from(annotation: &str) -> Result<Vec<Value>, serde_json::Error> {
    let old: Vec<Wanted> = serde_json::from_str(annotation)?;
    old.into_iter().map(|metric| serde_json::to_value(wanted_to_new(metric))).collect()
}

/// As [`wanted_from`], of the values that were measured.
///
/// # Errors
/// A text that is no list of such values.
pub(super) fn measured_from(annotation: &str) -> Result<Vec<Value>, serde_json::Error> {
    let old: Vec<Measured> = serde_json::from_str(annotation)?;
    old.into_iter().map(|metric| serde_json::to_value(measured_to_new(metric))).collect()
}

/// The annotation that says what metrics are wanted.
///
/// # Errors
/// What is no metric of `autoscaling/v2`.
pub(super) fn wanted_annotation(metrics: &[Value]) -> Result<String, serde_json::Error> {
    let old: Result<Vec<Wanted>, _> =
        metrics.iter().map(|metric| v2::MetricSpec::deserialize(metric).map(wanted_of_new)).collect();
    serde_json::to_string(&old?)
}

/// The annotation that says what was measured.
///
/// # Errors
/// What is no value of `autoscaling/v2`.
pub(super) fn measured_annotation(metrics: &[Value]) -> Result<String, serde_json::Error> {
    let old: Result<Vec<Measured>, _> =
        metrics.iter().map(|metric| v2::MetricStatus::deserialize(metric).map(measured_of_new)).collect();
    serde_json::to_string(&old?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_source_goes_both_ways() {
        let reference = json!({"kind": "Ingress", "name": "i", "apiVersion": "networking.k8s.io/v1"});
        let selector = json!({"matchLabels": {"a": "b"}});
        for (old, new) in [
            (
                json!({"type": "Resource", "resource": {"name": "memory", "targetAverageUtilization": 70}}),
                json!({"type": "Resource", "resource": {"name": "memory",
                    "target": {"type": "Utilization", "averageUtilization": 70}}}),
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                    "targetAverageValue": "500m"}}),
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                    "target": {"type": "AverageValue", "averageValue": "500m"}}}),
            ),
            (
                json!({"type": "Pods", "pods": {"metricName": "m", "targetAverageValue": "10", "selector": selector}}),
                json!({"type": "Pods", "pods": {"metric": {"name": "m", "selector": selector},
                    "target": {"type": "AverageValue", "averageValue": "10"}}}),
            ),
            (
                json!({"type": "Object", "object": {"target": reference, "metricName": "m", "targetValue": "5"}}),
                json!({"type": "Object", "object": {"describedObject": reference, "metric": {"name": "m"},
                    "target": {"type": "Value", "value": "5"}}}),
            ),
            (
                json!({"type": "Object", "object": {"target": reference, "metricName": "m", "targetValue": "0",
                    "averageValue": "3"}}),
                json!({"type": "Object", "object": {"describedObject": reference, "metric": {"name": "m"},
                    "target": {"type": "AverageValue", "averageValue": "3"}}}),
            ),
            (
                json!({"type": "External", "external": {"metricName": "q", "metricSelector": selector, "targetValue": "30"}}),
                json!({"type": "External", "external": {"metric": {"name": "q", "selector": selector},
                    "target": {"type": "Value", "value": "30"}}}),
            ),
        ] {
            assert_eq!(wanted_from(&json!([old]).to_string()).unwrap(), [new.clone()]);
            let text = wanted_annotation(&[new]).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!([old]));
        }
    }

    #[test]
    fn every_measured_value_goes_both_ways() {
        let reference = json!({"kind": "Ingress", "name": "i"});
        for (old, new) in [
            (
                json!({"type": "Resource", "resource": {"name": "cpu", "currentAverageUtilization": 7, "currentAverageValue": "70m"}}),
                json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "70m"}}}),
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "currentAverageValue": "1"}}),
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c", "current": {"averageValue": "1"}}}),
            ),
            (
                json!({"type": "Pods", "pods": {"metricName": "m", "currentAverageValue": "1"}}),
                json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "current": {"averageValue": "1"}}}),
            ),
            (
                json!({"type": "Object", "object": {"target": reference, "metricName": "m", "currentValue": "2"}}),
                json!({"type": "Object", "object": {"describedObject": reference, "metric": {"name": "m"}, "current": {"value": "2"}}}),
            ),
            (
                json!({"type": "External", "external": {"metricName": "m", "currentValue": "0", "currentAverageValue": "2"}}),
                json!({"type": "External", "external": {"metric": {"name": "m"}, "current": {"averageValue": "2"}}}),
            ),
        ] {
            assert_eq!(measured_from(&json!([old]).to_string()).unwrap(), [new.clone()]);
            let text = measured_annotation(&[new]).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!([old]));
        }
    }

    #[test]
    fn what_is_no_list_of_metrics_is_said() {
        for wrong in ["", "{", "{}", r#"[{"type": 1}]"#, r#"[{"pods": {"targetAverageValue": "x"}}]"#] {
            assert!(wanted_from(wrong).is_err(), "{wrong}");
        }
        let number = r#"[{"type": "Pods", "pods": {"metricName": "m", "targetAverageValue": 10}}]"#;
        assert_eq!(wanted_from(number).unwrap()[0]["pods"]["target"]["averageValue"], "10");
    }
}
