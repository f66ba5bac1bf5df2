//! Metrics in the form that `autoscaling/v1` has them in its annotations: `targetAverageUtilization` and the like beside
//! the name of the metric, where `autoscaling/v2` has a target of its own. Both ways, for what is wanted and what is.
//! Not here: the annotations themselves, the fields for CPU ([`super`]).
//! Upstream: pkg/apis/autoscaling/v1/conversion.go, staging k8s.io/api/autoscaling/v1.

use serde::de::DeserializeOwned;
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

/// A form of `autoscaling/v1` and the one of `autoscaling/v2` that says the same.
trait Form<New> {
    /// As the new version has it.
    fn to_new(self) -> New;
    /// As the old version has it.
    fn of_new(new: New) -> Self;
}

/// The five sources of a metric, each by its own form.
macro_rules! five_sources {
    ($old:ty, $new:ident) => {
        impl Form<v2::$new> for $old {
            fn to_new(self) -> v2::$new {
                v2::$new {
                    type_: self.kind,
                    object: self.object.map(Form::to_new),
                    pods: self.pods.map(Form::to_new),
                    resource: self.resource.map(Form::to_new),
                    container_resource: self.container_resource.map(Form::to_new),
                    external: self.external.map(Form::to_new),
                }
            }

            fn of_new(new: v2::$new) -> Self {
                Self {
                    kind: new.type_,
                    object: new.object.map(Form::of_new),
                    pods: new.pods.map(Form::of_new),
                    resource: new.resource.map(Form::of_new),
                    container_resource: new.container_resource.map(Form::of_new),
                    external: new.external.map(Form::of_new),
                }
            }
        }
    };
}

five_sources!(Wanted, MetricSpec);
five_sources!(Measured, MetricStatus);

fn identifier(name: String, selector: Option<LabelSelector>) -> v2::MetricIdentifier {
    v2::MetricIdentifier { name, selector }
}

fn target(kind: &str, value: Option<Quantity>, average: Option<Quantity>) -> v2::MetricTarget {
    v2::MetricTarget { type_: kind.to_owned(), value, average_value: average, ..v2::MetricTarget::default() }
}

fn current(value: Option<Quantity>, average: Option<Quantity>) -> v2::MetricValueStatus {
    v2::MetricValueStatus { value, average_value: average, average_utilization: None }
}

impl Form<v2::ObjectMetricSource> for ObjectSource {
    fn to_new(self) -> v2::ObjectMetricSource {
        let kind = if self.average_value.is_some() { "AverageValue" } else { "Value" };
        let value = self.target_value.beside(&self.average_value);
        v2::ObjectMetricSource {
            described_object: self.target.to_new(),
            metric: identifier(self.metric_name, self.selector),
            target: target(kind, value, wire(self.average_value)),
        }
    }

    fn of_new(new: v2::ObjectMetricSource) -> Self {
        Self {
            target: Reference::of_new(new.described_object),
            metric_name: new.metric.name,
            target_value: Amount::of(&new.target.value),
            selector: new.metric.selector,
            average_value: new.target.average_value.map(Amount),
        }
    }
}

impl Form<v2::ObjectMetricStatus> for ObjectStatus {
    fn to_new(self) -> v2::ObjectMetricStatus {
        let value = self.current_value.beside(&self.average_value);
        v2::ObjectMetricStatus {
            described_object: self.target.to_new(),
            metric: identifier(self.metric_name, self.selector),
            current: current(value, wire(self.average_value)),
        }
    }

    fn of_new(new: v2::ObjectMetricStatus) -> Self {
        Self {
            target: Reference::of_new(new.described_object),
            metric_name: new.metric.name,
            current_value: Amount::of(&new.current.value),
            selector: new.metric.selector,
            average_value: new.current.average_value.map(Amount),
        }
    }
}

impl Form<v2::PodsMetricSource> for PodsSource {
    fn to_new(self) -> v2::PodsMetricSource {
        v2::PodsMetricSource {
            metric: identifier(self.metric_name, self.selector),
            target: target("AverageValue", None, Some(self.target_average_value.0)),
        }
    }

    fn of_new(new: v2::PodsMetricSource) -> Self {
        Self {
            metric_name: new.metric.name,
            target_average_value: Amount::of(&new.target.average_value),
            selector: new.metric.selector,
        }
    }
}

impl Form<v2::PodsMetricStatus> for PodsStatus {
    fn to_new(self) -> v2::PodsMetricStatus {
        v2::PodsMetricStatus {
            metric: identifier(self.metric_name, self.selector),
            current: current(None, Some(self.current_average_value.0)),
        }
    }

    fn of_new(new: v2::PodsMetricStatus) -> Self {
        Self {
            metric_name: new.metric.name,
            current_average_value: Amount::of(&new.current.average_value),
            selector: new.metric.selector,
        }
    }
}

impl ResourceSource {
    fn target(&self) -> v2::MetricTarget {
        let kind = if self.target_average_utilization.is_some() { "Utilization" } else { "AverageValue" };
        v2::MetricTarget {
            average_utilization: self.target_average_utilization,
            ..target(kind, None, wire(self.target_average_value.clone()))
        }
    }

    fn of(name: String, container: String, target: v2::MetricTarget) -> Self {
        Self {
            name,
            target_average_utilization: target.average_utilization,
            target_average_value: target.average_value.map(Amount),
            container,
        }
    }
}

impl ResourceStatus {
    fn current(&self) -> v2::MetricValueStatus {
        v2::MetricValueStatus {
            average_utilization: self.current_average_utilization,
            ..current(None, Some(self.current_average_value.0.clone()))
        }
    }

    fn of(name: String, container: String, current: v2::MetricValueStatus) -> Self {
        Self {
            name,
            current_average_utilization: current.average_utilization,
            current_average_value: Amount::of(&current.average_value),
            container,
        }
    }
}

/// What is said of a resource, of all containers or of one: the same, but for the name of the container.
macro_rules! of_all_or_one {
    ($old:ty, $said:ident, $all:ident, $one:ident) => {
        impl Form<v2::$all> for $old {
            fn to_new(self) -> v2::$all {
                v2::$all { $said: self.$said(), name: self.name }
            }

            fn of_new(new: v2::$all) -> Self {
                Self::of(new.name, String::new(), new.$said)
            }
        }

        impl Form<v2::$one> for $old {
            fn to_new(self) -> v2::$one {
                v2::$one { $said: self.$said(), container: self.container, name: self.name }
            }

            fn of_new(new: v2::$one) -> Self {
                Self::of(new.name, new.container, new.$said)
            }
        }
    };
}

of_all_or_one!(ResourceSource, target, ResourceMetricSource, ContainerResourceMetricSource);
of_all_or_one!(ResourceStatus, current, ResourceMetricStatus, ContainerResourceMetricStatus);

impl Form<v2::ExternalMetricSource> for ExternalSource {
    fn to_new(self) -> v2::ExternalMetricSource {
        let kind = if self.target_value.is_some() { "Value" } else { "AverageValue" };
        v2::ExternalMetricSource {
            metric: identifier(self.metric_name, self.metric_selector),
            target: target(kind, wire(self.target_value), wire(self.target_average_value)),
        }
    }

    fn of_new(new: v2::ExternalMetricSource) -> Self {
        Self {
            metric_name: new.metric.name,
            metric_selector: new.metric.selector,
            target_value: new.target.value.map(Amount),
            target_average_value: new.target.average_value.map(Amount),
        }
    }
}

impl Form<v2::ExternalMetricStatus> for ExternalStatus {
    fn to_new(self) -> v2::ExternalMetricStatus {
        let value = self.current_value.beside(&self.current_average_value);
        v2::ExternalMetricStatus {
            metric: identifier(self.metric_name, self.metric_selector),
            current: current(value, wire(self.current_average_value)),
        }
    }

    fn of_new(new: v2::ExternalMetricStatus) -> Self {
        Self {
            metric_name: new.metric.name,
            metric_selector: new.metric.selector,
            current_value: Amount::of(&new.current.value),
            current_average_value: new.current.average_value.map(Amount),
        }
    }
}

/// What an annotation says, as `autoscaling/v2` has it.
fn from<Old: DeserializeOwned + Form<New>, New: Serialize>(
    annotation: &str,
) -> Result<Vec<Value>, serde_json::Error> {
    let old: Vec<Old> = serde_json::from_str(annotation)?;
    old.into_iter().map(|metric| serde_json::to_value(metric.to_new())).collect()
}

/// The annotation that says the same as these, and those that it cannot say.
fn annotation<Old: Serialize + Form<New>, New: for<'a> Deserialize<'a>>(
    metrics: Vec<Value>,
) -> (Option<String>, Vec<Value>) {
    let (mut said, mut unsaid) = (Vec::new(), Vec::new());
    for metric in metrics {
        let old = New::deserialize(&metric).and_then(|new| serde_json::to_string(&Old::of_new(new)));
        match old {
            Ok(old) => said.push(old),
            Err(_) => unsaid.push(metric),
        }
    }
    ((!said.is_empty()).then(|| format!("[{}]", said.join(","))), unsaid)
}

/// What an annotation says of the metrics that are wanted, as `autoscaling/v2` has them.
///
/// # Errors
/// A text that is no list of such metrics.
pub(super) fn wanted_from(annotation: &str) -> Result<Vec<Value>, serde_json::Error> {
    from::<Wanted, v2::MetricSpec>(annotation)
}

/// As [`wanted_from`], of the values that were measured.
///
/// # Errors
/// A text that is no list of such values.
pub(super) fn measured_from(annotation: &str) -> Result<Vec<Value>, serde_json::Error> {
    from::<Measured, v2::MetricStatus>(annotation)
}

/// The annotation that says what metrics are wanted, and what is no metric of `autoscaling/v2`.
pub(super) fn wanted_annotation(metrics: Vec<Value>) -> (Option<String>, Vec<Value>) {
    annotation::<Wanted, v2::MetricSpec>(metrics)
}

/// The annotation that says what was measured, and what is no value of `autoscaling/v2`.
pub(super) fn measured_annotation(metrics: Vec<Value>) -> (Option<String>, Vec<Value>) {
    annotation::<Measured, v2::MetricStatus>(metrics)
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
            let (text, unsaid) = wanted_annotation(vec![new]);
            assert_eq!(serde_json::from_str::<Value>(&text.unwrap()).unwrap(), json!([old]));
            assert!(unsaid.is_empty());
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
            let (text, unsaid) = measured_annotation(vec![new]);
            assert_eq!(serde_json::from_str::<Value>(&text.unwrap()).unwrap(), json!([old]));
            assert!(unsaid.is_empty());
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
