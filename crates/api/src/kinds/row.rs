//! Cells of the Table form that many kinds share.
//! Upstream: pkg/printers/internalversion/printers.go, which always makes the wide form.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::duration;
use crate::kind::Column;
use crate::meta::{LabelSelector, ObjectMeta, Time};
use crate::selector::labels::Selector;
use crate::types::core::v1::{Container, PodTemplateSpec};

/// What stands for nothing.
pub(crate) const NONE: &str = "<none>";

/// The name.
pub(crate) fn name(meta: &ObjectMeta) -> Value {
    meta.name.as_deref().unwrap_or_default().into()
}

/// How long ago the object was created.
pub(crate) fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    since(meta.creation_timestamp.as_ref(), now).into()
}

/// How long ago; `<unknown>` without a time.
pub(crate) fn since(time: Option<&Time>, now: Timestamp) -> String {
    duration::age(time.map(|time| time.0), now)
}

/// The text, or `<none>`.
pub(crate) fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// A count that is 0 when absent.
pub(crate) fn count(number: Option<i32>) -> Value {
    number.unwrap_or(0).into()
}

/// Labels as `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: Option<&BTreeMap<String, String>>) -> Value {
    let pairs: Vec<_> = labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    or_none(&pairs.join(","))
}

/// A selector in its text form; `<none>` when empty, `<error>` when ill-formed.
pub(crate) fn selector(selector: Option<&LabelSelector>) -> Value {
    match Selector::from_label_selector(selector) {
        Err(_) => "<error>".into(),
        Ok(selector) => or_none(&selector.to_string()),
    }
}

/// Names and images of the containers of a template, two cells.
pub(crate) fn containers(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let containers =
        template.and_then(|template| template.spec.as_ref()).map_or(&[][..], |spec| &spec.containers);
    let join =
        |text: fn(&Container) -> &str| containers.iter().map(text).collect::<Vec<_>>().join(",").into();
    [join(|container| &container.name), join(|container| container.image.as_deref().unwrap_or_default())]
}

/// The columns of [`containers`].
pub(crate) fn container_columns() -> [Column; 2] {
    [
        Column::wide("Containers", "string", "Names of each container in the template."),
        Column::wide("Images", "string", "Images referenced by each container in the template."),
    ]
}

/// The first three of a list, and how many more there are.
pub(crate) fn first_three(list: &[String], empty: &str) -> String {
    match list.len() {
        0 => empty.to_owned(),
        1..=3 => list.join(","),
        more => format!("{} + {} more...", list[..3].join(","), more - 3),
    }
}
