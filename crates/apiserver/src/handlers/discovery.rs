//! Discovery: which groups, versions and resources there are, in the old form and the aggregated one.
//! Upstream: apiserver/pkg/endpoints/discovery.

use api::Status;
use api::kind::{Scope, Verbs};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, header, request::Parts};
use schema::cbor;
use serde_json::{Value, json};

use super::object;
use crate::aggregation;
use crate::negotiation::{self, Encoding};
use crate::registry::{Group, Resource};
use crate::request::Query;
use crate::response::{self, Response};
use crate::server::Server;

/// `/api` and `/apis`.
pub(super) fn root(server: &Server, head: &Parts, query: &Query, prefix: &str) -> Result<Response, Status> {
    let table = server.registry.table();
    let core = prefix == "api";
    let groups = table.groups().iter().filter(|group| group.name.is_empty() == core);
    if let Some(form) = negotiation::aggregated_discovery(&head.headers) {
        return Ok(aggregated(server, head, form, groups, core));
    }
    if core {
        let address =
            server.options.advertise.map(|(ip, port)| std::net::SocketAddr::new(ip, port).to_string());
        let value = json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [
                {"clientCIDR": "0.0.0.0/0", "serverAddress": address.unwrap_or_default()},
            ],
        });
        return object(head, query, &value);
    }
    let groups = aggregation::discovery::groups(server, groups.map(api_group).collect());
    object(head, query, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/<group>`.
pub(super) fn group(server: &Server, head: &Parts, query: &Query, name: &str) -> Result<Response, Status> {
    let table = server.registry.table();
    let own = table.groups().iter().find(|group| group.name == name).map(api_group);
    let mut value = aggregation::discovery::group(server, name, own).ok_or_else(Status::page_not_found)?;
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    object(head, query, &value)
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub(super) fn version(
    server: &Server,
    head: &Parts,
    query: &Query,
    group: &str,
    version: &str,
) -> Result<Response, Status> {
    let table = server.registry.table();
    let found = table.groups().iter().find(|g| g.name == group);
    let resources = found
        .and_then(|group| group.versions.iter().find(|(name, _)| name == version))
        .ok_or_else(Status::page_not_found)?;
    let resources: Vec<Value> = resources.1.iter().flat_map(|resource| api_resources(resource)).collect();
    let group_version = api::GroupVersion::new(group, version).to_string();
    let mut value = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if !group.is_empty() {
        value["apiVersion"] = "v1".into();
    }
    object(head, query, &value)
}

fn api_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|(version, _)| json!({"groupVersion": format!("{}/{version}", group.name), "version": version}))
        .collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// A subresource as discovery sees it.
struct Sub {
    name: String,
    group: String,
    version: String,
    kind: String,
    verbs: Verbs,
}

fn subresources(resource: &Resource) -> Vec<Sub> {
    let d = &resource.descriptor;
    let mut list = Vec::new();
    if d.subresources.status {
        list.push(Sub {
            name: "status".into(),
            group: d.group.to_string(),
            version: d.version.to_string(),
            kind: d.kind.to_string(),
            verbs: Verbs::SUBRESOURCE,
        });
    }
    if d.subresources.scale.is_some() {
        list.push(Sub {
            name: "scale".into(),
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            verbs: Verbs::SUBRESOURCE,
        });
    }
    list.extend(d.subresources.other.iter().map(|sub| Sub {
        name: sub.name.to_string(),
        group: sub.kind.group.clone(),
        version: sub.kind.version.clone(),
        kind: sub.kind.kind.clone(),
        verbs: sub.verbs,
    }));
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

fn verbs(verbs: Verbs) -> Vec<&'static str> {
    verbs.names().collect()
}

fn api_resources(resource: &Resource) -> Vec<Value> {
    let d = &resource.descriptor;
    let mut main = json!({
        "name": d.plural,
        "singularName": d.singular,
        "namespaced": d.is_namespaced(),
        "kind": d.kind,
        "verbs": verbs(d.verbs),
    });
    if !d.short_names.is_empty() {
        main["shortNames"] = json!(d.short_names);
    }
    if !d.categories.is_empty() {
        main["categories"] = json!(d.categories);
    }
    // What is not stored (reviews, bindings, ComponentStatus) has no version to be stored in.
    if d.verbs.contains(Verbs::GET.and(Verbs::CREATE)) {
        main["storageVersionHash"] = storage_version_hash(resource.stored_version(), &d.kind).into();
    }
    let subs = subresources(resource).into_iter().map(|sub| {
        let mut value = json!({
            "name": format!("{}/{}", d.plural, sub.name),
            "singularName": "",
            "namespaced": d.is_namespaced(),
            "kind": sub.kind,
            "verbs": verbs(sub.verbs),
        });
        if sub.group != d.group || sub.version != d.version {
            value["group"] = sub.group.into();
            value["version"] = sub.version.into();
        }
        value
    });
    std::iter::once(main).chain(subs).collect()
}

/// What changes when objects begin to be stored in another version; clients only compare it.
fn storage_version_hash(group_version: &str, kind: &str) -> String {
    // The core group is hashed with its slash.
    let group_version =
        if group_version.contains('/') { group_version.to_owned() } else { format!("/{group_version}") };
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{group_version}/{kind}").as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
}

fn aggregated<'a>(
    server: &Server,
    head: &Parts,
    (version, encoding): (&str, Encoding),
    groups: impl Iterator<Item = &'a Group>,
    core: bool,
) -> Response {
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|(version, resources)| {
                    let resources: Vec<Value> = resources.iter().map(|r| aggregated_resource(r)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": {"name": group.name}, "versions": versions})
        })
        .collect();
    let items = if core { items } else { aggregation::discovery::items(server, items) };
    let value = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let (media_type, body) = match (version, encoding) {
        ("v2", Encoding::Cbor) => {
            let media_type = "application/cbor;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            (media_type, cbor::encode(&value, None).into())
        }
        (_, Encoding::Cbor) => {
            let media_type = "application/cbor;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
            (media_type, cbor::encode(&value, None).into())
        }
        ("v2", _) => {
            let media_type = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            (media_type, crate::encoding::to_json(&value))
        }
        _ => {
            let media_type = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
            (media_type, crate::encoding::to_json(&value))
        }
    };
    cacheable(head, media_type, body)
}

fn aggregated_resource(resource: &Resource) -> Value {
    let d = &resource.descriptor;
    let mut value = json!({
        "resource": d.plural,
        "responseKind": {"group": d.group, "version": d.version, "kind": d.kind},
        "scope": if d.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": d.singular,
        "verbs": verbs(d.verbs),
    });
    if !d.short_names.is_empty() {
        value["shortNames"] = json!(d.short_names);
    }
    if !d.categories.is_empty() {
        value["categories"] = json!(d.categories);
    }
    let subs: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": verbs(sub.verbs),
            })
        })
        .collect();
    if !subs.is_empty() {
        value["subresources"] = subs.into();
    }
    value
}

/// A response with an ETag; 304 where the client has it already.
pub(super) fn cacheable(head: &Parts, media_type: &'static str, body: bytes::Bytes) -> Response {
    let digest = ring::digest::digest(&ring::digest::SHA256, &body);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{hex}\"");
    let known = head.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = if known.is_some_and(|known| known.split(',').any(|t| t.trim() == tag)) {
        let mut response = response::bytes(304, media_type, bytes::Bytes::new());
        response.headers_mut().remove(header::CONTENT_TYPE);
        response
    } else {
        response::bytes(200, media_type, body)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_versions_hash_as_upstreams() {
        // What a real server answers.
        for (version, kind, hash) in [
            ("v1", "Pod", "xPOwRZ+Yhw8="),
            ("v1", "Service", "0/CO1lhkEBI="),
            ("apps/v1", "Deployment", "8aSe+NMegvE="),
        ] {
            assert_eq!(storage_version_hash(version, kind), hash, "{version} {kind}");
        }
    }
}
