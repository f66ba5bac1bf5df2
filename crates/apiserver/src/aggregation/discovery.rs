//! Remote groups among the own in discovery, old form and aggregated.
//!
//! Upstream: kube-aggregator/pkg/apiserver/handler_{apis,discovery}.go, apiserver/pkg/endpoints/discovery/aggregated.

use serde_json::{Value, json};

use super::local::{group_priority, version_priority};
use super::{Remote, Routes};
use crate::server::Server;

/// A group with versions, in the form in which it is told.
struct Form {
    /// The version of an entry.
    version: fn(&Value) -> &str,
    /// A remote version.
    entry: fn(&Remote) -> Value,
    /// A group that has only remote versions.
    group: fn(&str) -> Value,
}

const OLD: Form = Form {
    version: |entry| entry["version"].as_str().unwrap_or_default(),
    entry: |remote| json!({"groupVersion": format!("{}/{}", remote.group, remote.version), "version": remote.version}),
    group: |name| json!({"name": name}),
};

const AGGREGATED: Form = Form {
    version: |entry| entry["version"].as_str().unwrap_or_default(),
    entry: |remote| {
        let list = remote.resources.as_ref().map_or(&Value::Null, |list| list);
        let resources = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
        let freshness = if remote.available { "Current" } else { "Stale" };
        json!({"version": remote.version, "resources": aggregated(remote, resources), "freshness": freshness})
    },
    group: |name| json!({"metadata": {"name": name}}),
};

/// `APIGroup`s with the remote ones among them.
pub(crate) fn groups(server: &Server, own: Vec<Value>) -> Vec<Value> {
    let routes = server.aggregator.routes.load();
    if routes.0.is_empty() {
        return own;
    }
    let mut merged = merge(&routes, own, "/name", &OLD);
    for group in &mut merged {
        group["preferredVersion"] = group["versions"][0].clone();
    }
    merged
}

/// One `APIGroup` with its remote versions; `None` where there is none.
pub(crate) fn group(server: &Server, name: &str, own: Option<Value>) -> Option<Value> {
    let routes = server.aggregator.routes.load();
    if routes.of_group(name).is_empty() {
        return own;
    }
    let mut group = own.unwrap_or_else(|| (OLD.group)(name));
    add_versions(&routes, name, &mut group, &OLD);
    group["preferredVersion"] = group["versions"][0].clone();
    Some(group)
}

/// `APIGroupDiscovery` items with the remote ones among them.
pub(crate) fn items(server: &Server, own: Vec<Value>) -> Vec<Value> {
    let routes = server.aggregator.routes.load();
    if routes.0.is_empty() {
        return own;
    }
    merge(&routes, own, "/metadata/name", &AGGREGATED)
}

fn merge(routes: &Routes, own: Vec<Value>, name: &str, form: &Form) -> Vec<Value> {
    let name_of = |group: &Value| group.pointer(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut groups: Vec<(i64, String, Value)> = own
        .into_iter()
        .map(|group| {
            let name = name_of(&group);
            (group_priority(&name), name, group)
        })
        .collect();
    let mut remote: Vec<&str> = routes.all().map(|remote| remote.group.as_str()).collect();
    remote.sort_unstable();
    remote.dedup();
    for name in remote {
        let highest = routes.of_group(name).iter().map(|remote| remote.group_priority).max().unwrap_or(0);
        let at = match groups.iter().position(|(_, known, _)| known == name) {
            Some(at) => at,
            None => {
                groups.push((highest, name.to_owned(), (form.group)(name)));
                groups.len() - 1
            }
        };
        groups[at].0 = groups[at].0.max(highest);
        add_versions(routes, name, &mut groups[at].2, form);
    }
    // Stable: the own groups of one priority keep their order.
    groups.sort_by_key(|(priority, ..)| -priority);
    groups.into_iter().map(|(_, _, group)| group).collect()
}

fn add_versions(routes: &Routes, name: &str, group: &mut Value, form: &Form) {
    let remote = routes.of_group(name);
    let own = group["versions"].as_array().cloned().unwrap_or_default();
    let own = own.into_iter().filter(|entry| !remote.iter().any(|r| r.version == (form.version)(entry)));
    let mut versions: Vec<(i64, Value)> =
        own.map(|entry| (version_priority(name, (form.version)(&entry)), entry)).collect();
    versions.extend(remote.iter().map(|remote| (remote.version_priority, (form.entry)(remote))));
    versions.sort_by_key(|(priority, _)| -priority);
    group["versions"] = versions.into_iter().map(|(_, entry)| entry).collect();
}

/// An APIResourceList's resources in the aggregated form, subresources below their resource.
fn aggregated(remote: &Remote, resources: &[Value]) -> Vec<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = |resource: &Value| {
        let or = |field: &str, default: &str| match resource[field].as_str() {
            None | Some("") => default.to_owned(),
            Some(value) => value.to_owned(),
        };
        json!({
            "group": or("group", &remote.group), "version": or("version", &remote.version),
            "kind": resource["kind"],
        })
    };
    let mut out: Vec<Value> = Vec::new();
    for resource in resources {
        let name = text(&resource["name"]);
        match name.split_once('/') {
            None => {
                let scope = if resource["namespaced"] == true { "Namespaced" } else { "Cluster" };
                let mut entry = json!({
                    "resource": name, "responseKind": kind(resource), "scope": scope,
                    "singularResource": resource["singularName"], "verbs": resource["verbs"],
                });
                for field in ["shortNames", "categories"] {
                    if resource[field].is_array() {
                        entry[field] = resource[field].clone();
                    }
                }
                out.push(entry);
            }
            Some((parent, subresource)) => {
                let entry = json!({"subresource": subresource, "responseKind": kind(resource), "verbs": resource["verbs"]});
                if let Some(parent) = out.iter_mut().find(|known| known["resource"] == parent) {
                    match parent["subresources"].as_array_mut() {
                        Some(list) => list.push(entry),
                        None => parent["subresources"] = json!([entry]),
                    }
                }
            }
        }
    }
    out
}
