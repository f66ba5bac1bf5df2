//! The way over from client-side apply: what `kubectl apply` noted in an annotation is kubectl's own, so that its first
//! server-side apply is not in conflict with it; and the annotation is kept up so that there is a way back.
//! Upstream: apimachinery `pkg/util/managedfields/internal/{lastappliedmanager,lastappliedupdater}.go`.

use serde_json::{Map, Value};

use super::set::Set;
use super::shape::{self, Difference, Shape};
use super::{Writer, without_managed_fields};
use crate::Schema;

/// The only manager for which this is done.
const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations together may have this many bytes; a configuration that does not fit is noted as empty.
const MAX_ANNOTATIONS: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}

/// The conflicts that client-side apply does not explain.
pub(super) fn unexpected(
    conflicts: Vec<(String, Set)>,
    live: &Value,
    schema: &Schema,
    writer: &Writer<'_>,
) -> Vec<(String, Set)> {
    let allowed = if writer.manager == MANAGER { own(live, schema) } else { None };
    let Some(allowed) = allowed else { return conflicts };
    let rest = conflicts.into_iter().map(|(manager, set)| (manager, set.difference(&allowed)));
    rest.filter(|(_, set)| !set.is_empty()).collect()
}

/// What client-side apply set and nobody changed since.
fn own(live: &Value, schema: &Schema) -> Option<Set> {
    let (noted, _) = crate::decode::read(annotation(live)?.as_bytes(), schema, false).ok()?;
    let noted = without_managed_fields(&noted);
    let shape = Shape::of(schema);
    let fields = shape::fields(&noted, shape).ok()?;
    let changed = Difference::between(&noted, live, shape);
    Some(fields.difference(&changed.added_or_modified()).difference(&changed.removed))
}

/// Notes the applied configuration where client-side apply noted one.
pub(super) fn renew(merged: &mut Value, live: &Value, config: &Value, writer: &Writer<'_>) {
    if writer.manager != MANAGER || annotation(merged).is_none() || merged == live {
        return;
    }
    let mut noted = without_managed_fields(config);
    if let Some(annotations) = noted.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let mut text = format!("{noted}\n");
    let Some(annotations) = merged.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    let size = |annotations: &Map<String, Value>| -> usize {
        annotations.iter().map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len()).sum()
    };
    let others = size(annotations) - annotations[ANNOTATION].as_str().unwrap_or_default().len();
    if others + text.len() > MAX_ANNOTATIONS {
        text = String::new();
    }
    annotations.insert(ANNOTATION.to_owned(), text.into());
}
