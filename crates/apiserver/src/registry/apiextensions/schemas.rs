//! Whether the schemas of a definition may be served: what `schema::structural` says of them, at the paths that upstream
//! gives.
//!
//! Reads a definition and what it was before; gives every error. Pure. Not here: the rest of a definition
//! (`api::kinds::apiextensions`), which is checked before.
//! Upstream: apiextensions-apiserver/pkg/apis/apiextensions/validation.

use api::field::{self, ErrorList, Path};
use api::{GroupVersionKind, Object};
use schema::Structural;
use schema::structural::{self, Tolerated};
use serde_json::Value;

use crate::registry::custom::{self, Instances};

fn versions(definition: &Object) -> &[Value] {
    definition.0["spec"]["versions"].as_array().map_or(&[], Vec::as_slice)
}

fn schema(version: &Value) -> &Value {
    &version["schema"]["openAPIV3Schema"]
}

fn keeps_unknown(definition: &Object) -> bool {
    definition.0["spec"]["preserveUnknownFields"] == true
}

/// What is wrong with the schemas of all versions.
pub(super) fn check(new: &Object, old: Option<&Object>) -> ErrorList {
    let versions = versions(new);
    let keeps = keeps_unknown(new);
    let tolerated = match old {
        None => Tolerated::default(),
        Some(old) => Tolerated::by(self::versions(old).iter().map(schema), keeps && keeps_unknown(old)),
    };
    let spec = Path::new("spec");
    let mut errors = ErrorList::new();
    if keeps && versions.iter().any(|version| structural::has_default(schema(version))) {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(field::invalid(&spec.child("preserveUnknownFields"), true, detail));
    }
    // Upstream keeps a schema that all versions share in one place, and names that one. There it counts as one with a
    // status apart if any version has that.
    let shared = versions.iter().all(|version| version["schema"] == versions[0]["schema"]);
    let status = |version: &Value| version["subresources"]["status"].is_object();
    let any_status = versions.iter().any(status);
    for (index, version) in versions.iter().enumerate().take(if shared { 1 } else { versions.len() }) {
        let schema = schema(version);
        if !schema.is_object() {
            continue;
        }
        let (path, status) = match shared {
            true => (spec.child("validation"), any_status),
            false => (spec.child("versions").index(index).child("schema"), status(version)),
        };
        let path = path.child("openAPIV3Schema");
        let mut found = structural::check(schema, &path, status, tolerated);
        // Rules are typed by a schema that is good.
        if found.is_empty()
            && let Ok(structural) = Structural::parse(GroupVersionKind::new("", "", ""), schema)
        {
            found = structural.check_rules(&path);
        }
        errors.extend(found);
    }
    if errors.is_empty()
        && !keeps
        && let Err(error) = custom::resources(new, &Instances::shared(), None)
    {
        errors.push(field::invalid(&spec.child("versions"), "", error.to_string()));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(schemas: &[Value]) -> Object {
        let version = |(index, schema): (usize, &Value)| {
            json!({"name": format!("v{}", index + 1), "served": true, "storage": index == 0,
                "schema": {"openAPIV3Schema": schema}})
        };
        let versions: Vec<Value> = schemas.iter().enumerate().map(version).collect();
        Object(json!({"spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"}}}))
    }

    fn said(new: &Object, old: Option<&Object>) -> Vec<String> {
        check(new, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_schema_is_named_where_upstream_keeps_it() {
        let (good, bad) = (json!({"type": "object"}), json!({"type": "object", "properties": {"a": {}}}));
        assert_eq!(said(&definition(&[good.clone(), good.clone()]), None), [""; 0]);
        let wrong = |path: &str| {
            format!(
                "{path}.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields"
            )
        };
        assert_eq!(said(&definition(&[bad.clone()]), None), [wrong("spec.validation")]);
        assert_eq!(said(&definition(&[bad.clone(), bad.clone()]), None), [wrong("spec.validation")]);
        assert_eq!(said(&definition(&[good, bad]), None), [wrong("spec.versions[1].schema")]);
    }

    #[test]
    fn an_old_definition_may_keep_what_it_does() {
        let loose = json!({"type": "object", "properties": {"a": {}}});
        let mut old = definition(std::slice::from_ref(&loose));
        old.0["spec"]["preserveUnknownFields"] = json!(true);
        assert_eq!(said(&old, Some(&old)), [""; 0]);
        // Once it keeps nothing any more, the schema says what there is.
        assert_eq!(said(&definition(&[loose]), Some(&old)).len(), 1);
        old.0["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"] =
            json!({"a": {"type": "string", "default": "x"}});
        assert_eq!(
            said(&old, Some(&old)),
            [
                "spec.preserveUnknownFields: Invalid value: true: must be false in order to use defaults in the schema"
            ]
        );
    }

    #[test]
    fn rules_are_looked_at_once_the_schema_is_good() {
        let with = |kind: &str| {
            definition(&[json!({"type": "object", "properties": {
                "a": {"type": kind, "x-kubernetes-validations": [{"rule": "self.b"}]}}})])
        };
        assert!(said(&with("text"), None)[0].contains("Unsupported value: \"text\""));
        let failed = said(&with("string"), None);
        assert!(
            failed[0].starts_with(
                "spec.validation.openAPIV3Schema.properties[a].x-kubernetes-validations[0].rule"
            ),
            "{failed:?}"
        );
    }
}
