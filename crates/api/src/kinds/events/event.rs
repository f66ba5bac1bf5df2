//! Event: what happened to an object, in the new form. The same stored objects as core `v1`, in which they are stored.
//! Upstream: pkg/apis/events/v1/conversion.go.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::field::{self, ErrorList, Path};
use crate::gvk::GroupVersionResource;
use crate::kind::{Descriptor, Hooks, Scope, SelectableField};
use crate::kinds::core::event;
use crate::meta_validation::immutable;
use crate::types::core::v1::Event;

/// The fields whose names differ: here, and in the stored form.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["ev".into()],
        selectable_fields: vec![
            SelectableField::new("regarding.kind", "/regarding/kind"),
            SelectableField::new("regarding.namespace", "/regarding/namespace"),
            SelectableField::new("regarding.name", "/regarding/name"),
            SelectableField::new("regarding.uid", "/regarding/uid"),
            SelectableField::new("regarding.apiVersion", "/regarding/apiVersion"),
            SelectableField::new("regarding.resourceVersion", "/regarding/resourceVersion"),
            SelectableField::new("regarding.fieldPath", "/regarding/fieldPath"),
            SelectableField::new("reason", "/reason"),
            SelectableField::new("reportingController", "/reportingController"),
            SelectableField::new("type", "/type"),
        ],
        create_on_update: true,
        expires: true,
        stored_as: Some(GroupVersionResource::new("", "v1", "events")),
        columns: event::columns(),
        hooks: Arc::new(EventHooks),
        ..Descriptor::new("events.k8s.io", "v1", "Event", "events", Scope::Namespaced)
    }
}

/// On the untyped form, because the rules are those of the stored form.
struct EventHooks;

fn rename(object: &mut Value, api_version: &str, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(fields) = object.as_object_mut() else { return };
    let renames: Vec<_> = pairs.collect();
    let old = std::mem::take(fields);
    let renamed = |name: String| match renames.iter().find(|(from, _)| *from == name) {
        Some((_, to)) => (*to).to_owned(),
        None => name,
    };
    *fields = old.into_iter().map(|(name, value)| (renamed(name), value)).collect::<Map<_, _>>();
    fields.insert("apiVersion".to_owned(), api_version.into());
}

fn stored(object: &Value) -> Option<Event> {
    let mut stored = object.clone();
    EventHooks.to_storage(&mut stored);
    crate::json::typed(&stored).ok()
}

/// What happened once is no series.
fn series(errors: &mut ErrorList, event: &Event) {
    let Some(series) = &event.series else { return };
    let path = Path::new("series");
    if series.count.unwrap_or(0) < 2 {
        errors.push(field::invalid(&path.child("count"), "", "should be at least 2"));
    }
    if series.last_observed_time.is_none() {
        errors.push(field::required(&path.child("lastObservedTime"), ""));
    }
}

impl Hooks for EventHooks {
    fn to_storage(&self, object: &mut Value) {
        rename(object, "v1", NAMES.into_iter());
    }

    fn from_storage(&self, object: &mut Value) {
        rename(object, "events.k8s.io/v1", NAMES.into_iter().map(|(here, stored)| (stored, here)));
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let Some(event) = stored(object) else {
            return vec![field::internal(&Path::root(), "not an event")];
        };
        let mut errors = event::validate(&event);
        if event.event_time.is_none() {
            errors.push(field::required(&Path::new("eventTime"), ""));
        }
        if !matches!(event.type_.as_deref(), Some("Normal" | "Warning")) {
            let kind = event.type_.as_deref().unwrap_or_default();
            errors.push(field::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
        }
        series(&mut errors, &event);
        // The fields of the old form are for reading events that were written in it.
        for (name, set) in [
            ("firstTimestamp", event.first_timestamp.is_some()),
            ("lastTimestamp", event.last_timestamp.is_some()),
            ("count", event.count.is_some_and(|count| count != 0)),
            ("source", event.source.as_ref().is_some_and(|source| source != &Default::default())),
        ] {
            if set {
                errors.push(field::invalid(&Path::new(name), "", "needs to be unset"));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(event) = stored(new) {
            series(&mut errors, &event);
        }
        for (name, shown) in [
            ("regarding", "involvedObject"),
            ("reason", "reason"),
            ("note", "message"),
            ("type", "type"),
            ("eventTime", "eventTime"),
            ("action", "action"),
            ("related", "related"),
            ("reportingController", "reportingController"),
            ("reportingInstance", "reportingInstance"),
        ] {
            let value = |object: &Value| object.get(name).cloned().unwrap_or_default();
            immutable(&mut errors, &Path::new(shown), &value(new), &value(old));
        }
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        event::cells(&stored(object).unwrap_or_default(), now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn storing_and_reading_are_inverse() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod"}, "note": "n", "reportingController": "c", "deprecatedCount": 2});
        let mut object = new.clone();
        EventHooks.to_storage(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"},
                "message": "n", "reportingComponent": "c", "count": 2})
        );
        EventHooks.from_storage(&mut object);
        assert_eq!(object, new);
    }

    #[test]
    fn the_new_form_has_rules_of_its_own() {
        let right = json!({"apiVersion": "events.k8s.io/v1", "metadata": {"name": "e", "namespace": "default"},
            "eventTime": "2024-01-01T00:00:00.000000Z", "regarding": {"namespace": "default"}, "type": "Normal",
            "reportingController": "c", "reportingInstance": "i", "action": "A", "reason": "R"});
        assert_eq!(EventHooks.validate(&right), []);
        let mut wrong = right.clone();
        wrong["deprecatedCount"] = json!(1);
        wrong["type"] = json!("x");
        assert_eq!(EventHooks.validate(&wrong).len(), 2);
        assert_eq!(EventHooks.validate_update(&wrong, &right).len(), 1);
        let text = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(
            text(EventHooks.validate(&wrong))
                .contains(&"type: Invalid value: \"\": has invalid value: x".to_owned())
        );
        let mut once = right.clone();
        once["series"] = json!({"count": 1});
        let expected = [
            "series.count: Invalid value: \"\": should be at least 2",
            "series.lastObservedTime: Required value",
        ];
        assert_eq!(text(EventHooks.validate(&once)), expected);
        assert_eq!(text(EventHooks.validate_update(&once, &right)), expected);
        once["series"] = json!({"count": 2, "lastObservedTime": "2024-01-01T00:00:00.000000Z"});
        assert_eq!(EventHooks.validate(&once), []);
    }
}
