//! Event: what happened to an object, in the core form. The same stored objects as `events.k8s.io/v1`.
//! Upstream: pkg/registry/core/event.

use crate::kind::{Descriptor, Scope, SelectableField};

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
        ..Descriptor::new("", "v1", "Event", "events", Scope::Namespaced)
    }
}
