//! Documents of OpenAPI v2 put together: what another server says of its part of the API, among what this one says.
//!
//! [`select`] keeps the paths below a prefix with what they refer to; [`merge`] adds such a part. A path that is there
//! already stays as it is. A definition (or shared parameter) of the same name and with the same content is one; with
//! another content the added one takes the first free name `<name>_v2`, `<name>_v3`, … and is referred to by it.
//! Not here: where documents come from (apiserver).
//! Upstream: kube-openapi `pkg/aggregator`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const KINDS: &str = "x-kubernetes-group-version-kind";
/// What is shared by reference: the member of the document, and how references to it begin.
const SHARED: [(&str, &str); 2] = [("definitions", "#/definitions/"), ("parameters", "#/parameters/")];

/// The part of a document that is about the paths below `prefix`: these paths, and the definitions and parameters that
/// they need.
pub fn select(document: Value, prefix: &str) -> Value {
    narrow(document, |path| path.starts_with(prefix))
}

/// Adds a part (as [`select`] makes it) to a document.
pub fn merge(into: &mut Value, part: Value) {
    let there: BTreeSet<&String> =
        members(into, "paths").map(|paths| paths.keys().collect()).unwrap_or_default();
    let Some(paths) = members(&part, "paths") else { return };
    if paths.keys().all(|path| there.contains(path)) {
        return;
    }
    let mut part = match paths.keys().any(|path| there.contains(path)) {
        true => narrow(part, |path| !there.contains(&path.to_owned())),
        false => part,
    };
    let mut renamed = BTreeMap::new();
    for (member, prefix) in SHARED {
        let (old, new) = (members(into, member), members(&part, member));
        for (name, to) in renames(old, new) {
            renamed.insert(format!("{prefix}{name}"), format!("{prefix}{to}"));
        }
    }
    if !renamed.is_empty() {
        refer(&mut part, false, &mut |reference| {
            if let Some(to) = renamed.get(reference) {
                reference.clone_from(to);
            }
        });
    }
    for (member, prefix) in SHARED {
        for (name, value) in taken(&mut part, member) {
            let name = match renamed.get(&format!("{prefix}{name}")) {
                Some(to) => to.trim_start_matches(prefix).to_owned(),
                None => name,
            };
            match insertable(into, member).entry(name) {
                serde_json::map::Entry::Vacant(free) => {
                    free.insert(value);
                }
                serde_json::map::Entry::Occupied(mut known) => add_kinds(known.get_mut(), value),
            }
        }
    }
    let added = taken(&mut part, "paths");
    insertable(into, "paths").extend(added);
}

/// The names that definitions of `new` get because `old` has others under theirs.
fn renames(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>) -> BTreeMap<String, String> {
    let (Some(old), Some(new)) = (old, new) else { return BTreeMap::new() };
    let mut out = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (name, value) in new {
        if old.get(name).is_none_or(|known| is_same(known, value)) {
            continue;
        }
        let mut candidates = (2_u32..).map(|number| format!("{name}_v{number}"));
        // One that was renamed before, for another server, and is the same will do.
        let found = candidates.find(|candidate| match old.get(candidate) {
            Some(known) => is_same(known, value),
            None => !used.contains(candidate) && !new.contains_key(candidate),
        });
        if let Some(found) = found {
            used.insert(found.clone());
            out.insert(name.clone(), found);
        }
    }
    out
}

/// Whether two definitions say the same, whichever kinds they are of.
fn is_same(one: &Value, other: &Value) -> bool {
    let rest = |value: &Value| {
        let mut value = value.as_object().cloned().unwrap_or_default();
        value.remove(KINDS);
        value
    };
    one == other || rest(one) == rest(other)
}

/// Adds the kinds that a definition is of over there to those that it is of here.
fn add_kinds(known: &mut Value, mut added: Value) {
    let Some(Value::Array(more)) = added.get_mut(KINDS).map(Value::take) else { return };
    let Some(known) = known.as_object_mut() else { return };
    let Value::Array(kinds) = known.entry(KINDS).or_insert_with(|| Value::Array(Vec::new())) else { return };
    let before = kinds.len();
    for kind in more {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.len() > before {
        kinds.sort_by_cached_key(|kind| {
            ["group", "version", "kind"].map(|field| kind[field].as_str().unwrap_or_default().to_owned())
        });
    }
}

/// The document with these paths only.
fn narrow(mut document: Value, keep: impl Fn(&str) -> bool) -> Value {
    let mut paths = Value::Object(taken(&mut document, "paths"));
    if let Some(paths) = paths.as_object_mut() {
        paths.retain(|path, _| keep(path));
    }
    let mut needed = BTreeSet::new();
    let mut pending = Vec::new();
    let mut seen = |reference: &mut String, pending: &mut Vec<String>| {
        if needed.insert(reference.clone()) {
            pending.push(reference.clone());
        }
    };
    refer(&mut paths, true, &mut |reference| seen(reference, &mut pending));
    let mut shared = SHARED.map(|(member, _)| taken(&mut document, member));
    while let Some(reference) = pending.pop() {
        for ((_, prefix), members) in SHARED.iter().zip(&mut shared) {
            if let Some(value) = reference.strip_prefix(prefix).and_then(|name| members.get_mut(name)) {
                refer(value, false, &mut |reference| seen(reference, &mut pending));
            }
        }
    }
    let mut out = Map::from_iter([("paths".to_owned(), paths)]);
    for ((member, prefix), mut members) in SHARED.into_iter().zip(shared) {
        members.retain(|name, _| needed.contains(&format!("{prefix}{name}")));
        out.insert(member.to_owned(), Value::Object(members));
    }
    Value::Object(out)
}

/// Calls `visit` with every reference. `named`: the members of `value` are named by people, and not by the format: a
/// property may be called `$ref` or `default`. What somebody's values say is no reference.
fn refer(value: &mut Value, named: bool, visit: &mut impl FnMut(&mut String)) {
    match value {
        Value::Object(object) => {
            for (name, member) in object.iter_mut() {
                match (name.as_str(), member) {
                    ("$ref", Value::String(reference)) if !named => visit(reference),
                    ("default" | "enum" | "example" | "examples", _) if !named => {}
                    (name, _) if !named && name.starts_with("x-") => {}
                    (name, member) => {
                        let names = [
                            "properties",
                            "patternProperties",
                            "definitions",
                            "parameters",
                            "paths",
                            "responses",
                        ];
                        refer(member, !named && names.contains(&name), visit);
                    }
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| refer(element, false, visit)),
        _ => {}
    }
}

fn members<'a>(document: &'a Value, member: &str) -> Option<&'a Map<String, Value>> {
    document.get(member).and_then(Value::as_object)
}

fn taken(document: &mut Value, member: &str) -> Map<String, Value> {
    match document.get_mut(member).map(Value::take) {
        Some(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// The member of a document, made where it is missing.
fn insertable<'a>(document: &'a mut Value, member: &str) -> &'a mut Map<String, Value> {
    if !document[member].is_object() {
        document[member] = Value::Object(Map::new());
    }
    match &mut document[member] {
        Value::Object(members) => members,
        // Made an object just above.
        _ => unreachable!("the member is an object"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(reference: &str) -> Value {
        json!({"get": {"parameters": [{"$ref": "#/parameters/pretty"}], "responses": {"200": {"schema": {"$ref": reference}}}}})
    }

    fn document() -> Value {
        json!({
            "swagger": "2.0",
            "paths": {"/apis/own/v1/": path("#/definitions/Own")},
            "definitions": {
                "Own": {"type": "object", "properties": {"metadata": {"$ref": "#/definitions/Meta"}}},
                "Meta": {"type": "object", "properties": {"name": {"type": "string"}}, KINDS: [{"group": "own", "version": "v1", "kind": "Meta"}]},
            },
            "parameters": {"pretty": {"name": "pretty", "in": "query"}},
        })
    }

    fn theirs(meta: Value) -> Value {
        json!({
            "swagger": "2.0", "info": {"title": "theirs"},
            "paths": {
                "/apis/": path("#/definitions/Groups"),
                "/apis/theirs/v1/": path("#/definitions/Theirs"),
                "/apis/theirs/v1beta1/": path("#/definitions/Old"),
            },
            "definitions": {
                "Groups": {"type": "object"}, "Old": {"type": "object"},
                "Theirs": {"type": "object", "properties": {
                    "$ref": {"type": "string"}, "default": {"$ref": "#/definitions/Meta"},
                    "again": {"type": "array", "items": {"$ref": "#/definitions/Theirs"}},
                    "value": {"type": "object", "default": {"$ref": "#/definitions/Old"}},
                }},
                "Meta": meta,
            },
            "parameters": {"pretty": {"name": "pretty", "in": "query"}, "unused": {}},
        })
    }

    fn names(document: &Value, member: &str) -> Vec<String> {
        let mut names: Vec<String> = document[member].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    #[test]
    fn a_part_is_the_paths_below_a_prefix_and_what_they_need() {
        let part = select(theirs(json!({})), "/apis/theirs/v1/");
        assert_eq!(names(&part, "paths"), ["/apis/theirs/v1/"]);
        assert_eq!(names(&part, "definitions"), ["Meta", "Theirs"]);
        assert_eq!(names(&part, "parameters"), ["pretty"]);
        assert_eq!(names(&select(json!({"swagger": "2.0"}), "/"), "paths"), Vec::<String>::new());
        assert_eq!(names(&select(json!("no document"), "/"), "paths"), Vec::<String>::new());
    }

    #[test]
    fn what_is_the_same_is_one_and_what_is_not_gets_another_name() {
        let same = json!({"type": "object", "properties": {"name": {"type": "string"}}, KINDS: [{"group": "a", "version": "v1", "kind": "Meta"}]});
        let mut merged = document();
        merge(&mut merged, select(theirs(same), "/apis/theirs/v1/"));
        assert_eq!(names(&merged, "definitions"), ["Meta", "Own", "Theirs"]);
        assert_eq!(merged["definitions"]["Meta"][KINDS][0]["group"], "a", "the kinds of both, in order");
        assert_eq!(merged["definitions"]["Meta"][KINDS][1]["group"], "own");

        let other = json!({"type": "object", "description": "another"});
        let mut merged = document();
        merge(&mut merged, select(theirs(other.clone()), "/apis/theirs/v1/"));
        assert_eq!(names(&merged, "definitions"), ["Meta", "Meta_v2", "Own", "Theirs"]);
        let (own, theirs_) = (&merged["definitions"]["Own"], &merged["definitions"]["Theirs"]["properties"]);
        assert_eq!(own["properties"]["metadata"]["$ref"], "#/definitions/Meta");
        assert_eq!(theirs_["default"]["$ref"], "#/definitions/Meta_v2", "a property of that name");
        assert_eq!(theirs_["$ref"], json!({"type": "string"}));
        assert_eq!(theirs_["value"]["default"]["$ref"], "#/definitions/Old", "a value, and no reference");
        assert_eq!(names(&merged, "paths"), ["/apis/own/v1/", "/apis/theirs/v1/"]);
        assert_eq!(merged["swagger"], "2.0");

        // A second server with the same definition shares the renamed one; a third one with yet another does not.
        let second = |meta: Value| {
            let mut part = select(theirs(meta), "/apis/theirs/v1/");
            part["paths"] = json!({"/apis/second/v1/": path("#/definitions/Meta")});
            part["definitions"].as_object_mut().unwrap().remove("Theirs");
            part
        };
        merge(&mut merged, second(other));
        assert_eq!(names(&merged, "definitions"), ["Meta", "Meta_v2", "Own", "Theirs"]);
        let answer = &merged["paths"]["/apis/second/v1/"]["get"]["responses"]["200"]["schema"]["$ref"];
        assert_eq!(answer, "#/definitions/Meta_v2");
        let mut third = second(json!({"type": "string"}));
        third["paths"] = json!({"/apis/third/v1/": path("#/definitions/Meta")});
        merge(&mut merged, third);
        assert_eq!(names(&merged, "definitions"), ["Meta", "Meta_v2", "Meta_v3", "Own", "Theirs"]);
    }

    #[test]
    fn paths_that_are_there_stay_as_they_are() {
        let mut part = theirs(json!({"type": "string"}));
        part["paths"] = json!({"/apis/own/v1/": path("#/definitions/Meta")});
        let mut merged = document();
        merge(&mut merged, part.clone());
        assert_eq!(merged, document(), "nothing of it is needed");
        part["paths"]["/apis/new/v1/"] = path("#/definitions/Old");
        merge(&mut merged, part);
        assert_eq!(names(&merged, "paths"), ["/apis/new/v1/", "/apis/own/v1/"]);
        assert_eq!(names(&merged, "definitions"), ["Meta", "Old", "Own"]);
        let kept = &merged["paths"]["/apis/own/v1/"]["get"]["responses"]["200"]["schema"]["$ref"];
        assert_eq!(kept, "#/definitions/Own");
    }

    #[test]
    fn parameters_are_renamed_likewise() {
        let mut part = select(theirs(json!({})), "/apis/theirs/v1/");
        part["parameters"]["pretty"]["type"] = "boolean".into();
        let mut merged = document();
        merge(&mut merged, part);
        assert_eq!(names(&merged, "parameters"), ["pretty", "pretty_v2"]);
        let used = |path: &str| merged["paths"][path]["get"]["parameters"][0]["$ref"].clone();
        assert_eq!(used("/apis/theirs/v1/"), "#/parameters/pretty_v2");
        assert_eq!(used("/apis/own/v1/"), "#/parameters/pretty");
    }
}
