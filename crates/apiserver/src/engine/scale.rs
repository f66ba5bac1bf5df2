//! The `scale` subresource: replicas of any kind whose descriptor says where they are.
//!
//! Upstream: pkg/registry/apps/deployment/storage (ScaleREST), apiextensions' scale.

use std::sync::{Arc, LazyLock};

use api::field::{self, Path};
use api::kind::{Column, Descriptor, Hooks, ScalePaths, Scope};
use api::meta::LabelSelector;
use api::selector::labels;
use api::{GroupKind, GroupVersionKind, Object, Status};
use jiff::Timestamp;
use schema::Schema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::update::{self, Target};
use super::versions::Versions;
use super::write::WriteOptions;
use super::{Call, body, patch};
use crate::negotiation::Form;
use crate::output::Output;
use crate::response::Response;

/// The shape of `autoscaling/v1 Scale`.
pub(super) fn schema() -> Result<Arc<Schema>, Status> {
    Schema::built_in("io.k8s.api.autoscaling.v1.Scale")
        .map(Arc::new)
        .ok_or_else(|| Status::internal("no definition of autoscaling/v1 Scale"))
}

/// The kind of the body.
pub(super) fn kind() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

pub(super) async fn serve(call: &Call) -> Result<Response, Status> {
    match call.info.verb.as_str() {
        "get" => {
            let stored = call.stored().await?;
            Ok(respond(call, &whole(paths(call)?, &stored.object)?))
        }
        "update" => {
            let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
            let scale = body::decode_as(call, &kind(), &*schema()?, options.field_validation)?;
            if scale.name() != call.info.name {
                return Err(Status::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    scale.name(),
                    call.info.name
                )));
            }
            change(call, &options, |_| {
                let mut scale = scale.0.clone();
                // What is not there is 0 in the wire's types; a patch that leaves it out is another thing.
                let replicas =
                    scale.pointer("/spec/replicas").cloned().filter(|replicas| !replicas.is_null());
                set(&mut scale, "/spec/replicas", replicas.unwrap_or_else(|| 0.into()));
                Ok(scale)
            })
            .await
        }
        "patch" => patch::scale(call).await,
        _ => Err(call.method_not_allowed()),
    }
}

/// What tables of scales show.
fn descriptor() -> &'static Descriptor {
    static DESCRIPTOR: LazyLock<Descriptor> = LazyLock::new(|| Descriptor {
        columns: vec![
            Column::object_name(),
            Column::new(
                "Desired",
                "integer",
                "replicas is the desired number of instances for the scaled object.",
            ),
            Column::new(
                "Available",
                "integer",
                "replicas is the actual number of observed instances of the scaled object.",
            ),
            Column::age(),
        ],
        hooks: Arc::new(Cells),
        ..Descriptor::new("autoscaling", "v1", "Scale", "scales", Scope::Namespaced)
    });
    &DESCRIPTOR
}

struct Cells;

impl Hooks for Cells {
    fn cells(&self, scale: &Value, now: Timestamp) -> Vec<Value> {
        let number = |pointer: &str| scale.pointer(pointer).cloned().unwrap_or_else(|| 0.into());
        let created = scale.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
        let age = api::duration::age(created.and_then(|text| text.parse().ok()), now);
        vec![
            scale["metadata"]["name"].clone(),
            number("/spec/replicas"),
            number("/status/replicas"),
            age.into(),
        ]
    }
}

/// A scale in the form the client wants.
fn respond(call: &Call, scale: &Value) -> Response {
    if call.accepted.form == Form::Whole {
        return call.respond_value(200, scale);
    }
    let output = call.output();
    Output { descriptor: descriptor(), ..output }.object(200, &crate::encoding::to_json(scale))
}

fn paths(call: &Call) -> Result<&ScalePaths, Status> {
    call.resource.descriptor.subresources.scale.as_ref().ok_or_else(Status::page_not_found)
}

/// Sets the replicas to what `mutate` makes of the present scale.
pub(super) async fn change(
    call: &Call,
    options: &WriteOptions,
    mutate: impl Fn(&Value) -> Result<Value, Status> + Send + Sync,
) -> Result<Response, Status> {
    let paths = paths(call)?;
    let stored = update::change(call, Target::Main, options, |current, _| {
        let scale = mutate(&of(paths, current))?;
        let replicas = match scale.pointer("/spec/replicas").and_then(Value::as_i64) {
            Some(replicas) => replicas,
            None if replicas_of(paths, current).is_some() => 0,
            None => {
                let field = field::quote(&dotted(&paths.spec_replicas));
                return Err(Status::bad_request(format!("the spec replicas field {field} cannot be empty")));
            }
        };
        check(call, replicas)?;
        let mut object = current.clone();
        set(&mut object.0, &paths.spec_replicas, replicas.into());
        // The scale's resourceVersion and UID are preconditions on the object.
        for member in ["resourceVersion", "uid"] {
            let value =
                scale.pointer(&format!("/metadata/{member}")).and_then(Value::as_str).unwrap_or_default();
            if !value.is_empty() {
                object.metadata_mut().insert(member.to_owned(), value.into());
            }
        }
        Ok(object)
    })
    .await?;
    Ok(respond(call, &whole(paths, &stored.object)?))
}

/// Applies a number of replicas, or that there is none, to the object: `merge` gets it and the configuration.
pub(super) async fn apply(
    call: &Call,
    options: &WriteOptions,
    replicas: Option<i64>,
    merge: impl Fn(&Value, &Value, &Versions<'_>) -> Result<Object, Status> + Send + Sync,
) -> Result<Response, Status> {
    let paths = paths(call)?;
    check(call, replicas.unwrap_or_default())?;
    let stored = update::change(call, Target::Main, options, |current, versions| {
        let mut config = json!({
            "apiVersion": current.0["apiVersion"], "kind": current.0["kind"], "metadata": {"name": current.name()},
        });
        if let Some(replicas) = replicas {
            set(&mut config, &paths.spec_replicas, replicas.into());
        }
        merge(&current.0, &config, versions)
    })
    .await?;
    Ok(respond(call, &whole(paths, &stored.object)?))
}

/// What admission is shown of a write of `scale`: the scales of the object as it is to be and as it was. `None` for
/// writes of anything else.
pub(super) fn projected(call: &Call, new: &Object, old: &Object) -> Option<(Object, Object)> {
    if call.info.subresource != "scale" {
        return None;
    }
    let paths = call.resource.descriptor.subresources.scale.as_ref()?;
    Some((Object(of(paths, new)), Object(of(paths, old))))
}

/// Takes over what admission made of a scale, which is its replicas.
pub(super) fn adopt(call: &Call, object: &mut Object, scale: &Object) -> Result<(), Status> {
    let paths = paths(call)?;
    let wanted = scale.0.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if wanted != replicas_of(paths, object).unwrap_or(0) {
        check(call, wanted)?;
        set(&mut object.0, &paths.spec_replicas, wanted.into());
    }
    Ok(())
}

fn check(call: &Call, replicas: i64) -> Result<(), Status> {
    if replicas >= 0 {
        return Ok(());
    }
    let path = Path::new("spec").child("replicas");
    let error = field::invalid(&path, replicas, "must be greater than or equal to 0");
    Err(Status::invalid(&GroupKind::new("autoscaling", "Scale"), &call.info.name, vec![error]))
}

/// The number that the object is to have, if it says one: custom resources need not.
fn replicas_of(paths: &ScalePaths, object: &Object) -> Option<i64> {
    object.0.pointer(&paths.spec_replicas).and_then(Value::as_i64)
}

/// A JSON pointer as the definition has it: `.spec.replicas`.
fn dotted(pointer: &str) -> String {
    pointer.replace('/', ".").replace("~1", "/").replace("~0", "~")
}

/// The scale of an object, as it is answered.
///
/// # Errors
/// 500, as upstream's, if the object does not say how many replicas it is to have.
fn whole(paths: &ScalePaths, object: &Object) -> Result<Value, Status> {
    if replicas_of(paths, object).is_none() {
        let field = field::quote(&dotted(&paths.spec_replicas));
        return Err(Status::internal(format!("the spec replicas field {field} does not exist")));
    }
    Ok(of(paths, object))
}

/// The scale of an object; without replicas if it does not say how many it is to have, or none.
fn of(paths: &ScalePaths, object: &Object) -> Value {
    let number = |pointer: &str| object.0.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({"name": object.name()});
    for member in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.0.pointer(&format!("/metadata/{member}")) {
            metadata[member] = value.clone();
        }
    }
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    if let Some(selector) = paths.selector.as_deref().and_then(|pointer| object.0.pointer(pointer)) {
        let selector = selector_text(selector);
        if !selector.is_empty() {
            status["selector"] = selector.into();
        }
    }
    let mut spec = json!({});
    let replicas = number(&paths.spec_replicas);
    if replicas != 0 {
        spec["replicas"] = replicas.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A selector as text, whether it is text already, a LabelSelector, or a map of labels.
fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let parsed = if structured {
        LabelSelector::deserialize(selector).ok().map(|s| labels::Selector::from_label_selector(Some(&s)))
    } else {
        Deserialize::deserialize(selector).ok().map(|map| Ok(labels::Selector::from_map(&map)))
    };
    parsed.and_then(Result::ok).map(|selector| selector.to_string()).unwrap_or_default()
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for segment in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[segment];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_a_cell_for_each_column() {
        let scale = json!({"metadata": {"name": "a", "creationTimestamp": "2026-11-21T10:00:00Z"},
            "spec": {"replicas": 3}, "status": {}});
        let now = "2026-11-21T10:05:00Z".parse().unwrap();
        assert_eq!(Cells.cells(&scale, now), [json!("a"), json!(3), json!(0), json!("5m")]);
        let names: Vec<_> = descriptor().columns.iter().map(|column| &*column.name).collect();
        assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    }

    #[test]
    fn selectors_of_every_shape_become_text() {
        for (selector, text) in [
            (json!("a=b"), "a=b"),
            (json!({"a": "b", "c": "d"}), "a=b,c=d"),
            (json!({"matchLabels": {"a": "b"}}), "a=b"),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]}),
                "a in (x,y)",
            ),
        ] {
            assert_eq!(selector_text(&selector), text);
        }
    }
}
