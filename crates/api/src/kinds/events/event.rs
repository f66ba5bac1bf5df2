//! Event: what happened to an object, in the new form. The same stored objects as core `v1`.
//! Upstream: pkg/registry/events/event.

use crate::kind::{Descriptor, Scope, SelectableField};

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
        ..Descriptor::new("events.k8s.io", "v1", "Event", "events", Scope::Namespaced)
    }
}
