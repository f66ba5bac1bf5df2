//! Event: what happened to an object, in the core form. The same stored objects as `events.k8s.io/v1`.
//! Upstream: pkg/registry/core/event, pkg/apis/core/validation/events.go.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::duration;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Typed};
use crate::kinds::check::qualified_name;
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::types::core::v1::Event;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ev".into()],
        selectable_fields: vec![
            SelectableField::new("involvedObject.kind", "/involvedObject/kind"),
            SelectableField::new("involvedObject.namespace", "/involvedObject/namespace"),
            SelectableField::new("involvedObject.name", "/involvedObject/name"),
            SelectableField::new("involvedObject.uid", "/involvedObject/uid"),
            SelectableField::new("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            SelectableField::new("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            SelectableField::new("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            SelectableField::new("reason", "/reason"),
            SelectableField::new("reportingComponent", "/reportingComponent"),
            SelectableField::new("source", "/source/component"),
            SelectableField::new("type", "/type"),
        ],
        create_on_update: true,
        expires: true,
        columns: columns(),
        hooks: Arc::new(Typed::<Event>::new().default_with(default).validate(validate).cells(cells)),
        ..Descriptor::new("", "v1", "Event", "events", Scope::Namespaced)
    }
}

/// The columns of both forms.
pub(crate) fn columns() -> Vec<Column> {
    vec![
        Column::new("Last Seen", "string", "When it was seen last."),
        Column::new("Type", "string", "Normal or Warning."),
        Column::new("Reason", "string", "Why, in one word."),
        Column::new("Object", "string", "The object it is about."),
        Column::wide("Subobject", "string", "The part of the object it is about."),
        Column::wide("Source", "string", "Who reports it."),
        Column::new("Message", "string", "What happened."),
        Column::wide("First Seen", "string", "When it was seen first."),
        Column::wide("Count", "string", "How often it was seen."),
        Column { priority: 1, ..Column::object_name() },
    ]
}

fn default(event: &mut Event) {
    event.source.get_or_insert_default();
    event.reporting_component.get_or_insert_default();
    event.reporting_instance.get_or_insert_default();
}

/// Checks an event in its core form, to which the other form is converted.
pub(crate) fn validate(event: &Event) -> ErrorList {
    const TEXT_MAX: usize = 128;
    const MESSAGE_MAX: usize = 1024;
    let mut errors = ErrorList::new();
    let namespace = text(&event.metadata.namespace);
    let involved = text(&event.involved_object.namespace);
    let agree = match (&event.event_time, involved) {
        (None, "") => matches!(namespace, "" | "default"),
        (None, _) => namespace == involved,
        (Some(_), "") => matches!(namespace, "default" | "kube-system"),
        (Some(_), _) => true,
    };
    if !agree {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(field::invalid(&path, involved, "does not match event.namespace"));
    }
    if event.event_time.is_none() {
        return errors;
    }
    let component = text(&event.reporting_component);
    if component.is_empty() {
        errors.push(field::required(&Path::new("reportingComponent"), ""));
    }
    qualified_name(&mut errors, &Path::new("reportingComponent"), component);
    for (name, value) in [
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ] {
        match text(value) {
            "" => errors.push(field::required(&Path::new(name), "")),
            long if long.len() > TEXT_MAX => errors.push(field::too_long(&Path::new(name), TEXT_MAX)),
            _ => {}
        }
    }
    if text(&event.message).len() > MESSAGE_MAX {
        errors.push(field::too_long(&Path::new("message"), MESSAGE_MAX));
    }
    errors
}

/// The row of an event in its core form.
pub(crate) fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
    let event_time = event.event_time.as_ref().map(|time| time.0);
    let first = duration::age(event.first_timestamp.as_ref().map(|time| time.0).or(event_time), now);
    let mut last = match &event.last_timestamp {
        Some(time) => row::since(Some(time), now),
        None => first.clone(),
    };
    let mut count = event.count.unwrap_or(0).max(1);
    if let Some(series) = &event.series {
        last = duration::age(series.last_observed_time.as_ref().map(|time| time.0), now);
        count = series.count.unwrap_or(0);
    }
    let object = &event.involved_object;
    let kind = text(&object.kind).to_lowercase();
    let target = match text(&object.name) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = event.source.clone().unwrap_or_default();
    let either = |a: &Option<String>, b: &Option<String>| {
        if text(a).is_empty() { text(b).to_owned() } else { text(a).to_owned() }
    };
    let component = either(&source.component, &event.reporting_component);
    let instance = either(&source.host, &event.reporting_instance);
    let reporter = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        last.into(),
        text(&event.type_).into(),
        text(&event.reason).into(),
        target.into(),
        text(&object.field_path).into(),
        reporter.into(),
        text(&event.message).trim().into(),
        first.into(),
        count.into(),
        row::name(&event.metadata),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(value: Value) -> Event {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn namespaces_agree() {
        for (value, errors) in [
            (json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}}), 0),
            (json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}}), 1),
            (json!({"metadata": {"namespace": "default"}, "involvedObject": {}}), 0),
            (json!({"metadata": {"namespace": "a"}, "involvedObject": {}}), 1),
            (
                json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}, "eventTime":
                    "2024-01-01T00:00:00.000000Z", "reportingComponent": "c", "reportingInstance": "i",
                    "action": "A", "reason": "R"}),
                0,
            ),
        ] {
            assert_eq!(validate(&event(value.clone())).len(), errors, "{value}");
        }
    }

    #[test]
    fn rows() {
        let cells = cells(
            &event(
                json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "count": 3,
                "source": {"component": "kubelet", "host": "n"}, "message": " m\n",
                "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:00:50Z"}),
            ),
            Timestamp::from_second(60).unwrap(),
        );
        assert_eq!(
            cells,
            [
                json!("10s"),
                json!(""),
                json!(""),
                json!("pod/p"),
                json!(""),
                json!("kubelet, n"),
                json!("m"),
                json!("60s"),
                json!(3),
                json!("e")
            ]
        );
    }
}
