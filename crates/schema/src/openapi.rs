//! The OpenAPI documents that clients read: v2 as a whole, v3 by group version with an index.
//! Reads the descriptors of the kinds that are served, the generated table, and the schemas of custom resources. Pure; callers build a document when it
//! is first asked for and keep it.
//! Not here: serving and caching them (apiserver).
//! Upstream: kube-openapi, and the API server's `api/openapi-spec`.

mod custom;
mod defaults;
mod definition;
mod descriptions;
mod merge;
mod paths;
mod protobuf;
mod roots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::GroupVersion;
use api::kind::Descriptor;
use serde_json::{Map, Value, json};

pub use self::custom::Published;
use self::definition::Dialect;
pub use self::merge::{merge, select};
pub use self::protobuf::v2_protobuf;

/// The version of Kubernetes whose API this is.
const VERSION: &str = "v1.37.0";

/// The whole API as OpenAPI v2 (`/openapi/v2`, JSON).
pub fn v2(descriptors: &[Arc<Descriptor>], custom: &Published) -> Value {
    let mut roots = BTreeSet::new();
    let mut paths = Map::new();
    for descriptor in descriptors {
        paths::add(&mut paths, descriptor, Dialect::V2, &mut roots);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": definition::closure(&roots, descriptors, custom, Dialect::V2),
        "parameters": paths::shared_parameters(),
    })
}

/// The index of the OpenAPI v3 documents (`/openapi/v3`). Each address carries a hash of what the document says.
pub fn v3_index(descriptors: &[Arc<Descriptor>], custom: &Published) -> Value {
    let mut groups: BTreeMap<String, Vec<&Descriptor>> = BTreeMap::new();
    for descriptor in descriptors {
        groups.entry(paths::root(descriptor)).or_default().push(descriptor);
    }
    let mut paths: Map<String, Value> = groups
        .into_iter()
        .map(|(root, descriptors)| {
            let address = format!("/openapi/v3/{root}?hash={:016X}", fingerprint(&descriptors, custom));
            (root, json!({"serverRelativeURL": address}))
        })
        .collect();
    for name in roots::names(descriptors) {
        // Only the name, and what is said of all such documents, are in them.
        let address = format!("/openapi/v3/{name}?hash={:016X}", fingerprint(&[], custom));
        paths.insert(name, json!({"serverRelativeURL": address}));
    }
    json!({"paths": paths})
}

/// The OpenAPI v3 document of one group version (`/openapi/v3/apis/apps/v1`).
pub fn v3(group_version: &GroupVersion, descriptors: &[Arc<Descriptor>], custom: &Published) -> Value {
    let mut roots = BTreeSet::new();
    let mut paths = Map::new();
    let served = descriptors.iter().filter(|descriptor| descriptor.group_version() == *group_version);
    for descriptor in served {
        paths::add(&mut paths, descriptor, Dialect::V3, &mut roots);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {"schemas": definition::closure(&roots, descriptors, custom, Dialect::V3)},
    })
}

/// The OpenAPI v3 document of something beside the group versions, by its name in the index: `apis`, `apis/apps`,
/// `version`. `None`: there is no such.
pub fn v3_root(name: &str, descriptors: &[Arc<Descriptor>], custom: &Published) -> Option<Value> {
    roots::document(name, descriptors, custom)
}

/// A hash (64-bit FNV-1a) over all that a document is made from, which is cheaper than making it: the table's version
/// and the descriptors.
fn fingerprint(descriptors: &[&Descriptor], custom: &Published) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |text: &str| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(VERSION);
    add(env!("CARGO_PKG_VERSION"));
    for descriptor in descriptors {
        add(&descriptor.schema);
        add(&descriptor.plural);
        add(&descriptor.list_kind);
        add(if descriptor.is_namespaced() { "namespaced" } else { "cluster" });
        add(&format!("{:?} {:?}", descriptor.verbs, descriptor.subresources));
        if let Some(structural) = custom.get(&*descriptor.schema) {
            add(&structural.document().to_string());
        }
    }
    hash
}

#[cfg(test)]
mod tests;
