//! OpenAPI v2 and v3, made from the registry's table at first use and again when it changes. Version 2 is one document,
//! which tells of aggregated servers too.
//!
//! Not here: the documents themselves (`schema::openapi`).

use std::collections::HashMap;
use std::sync::Arc;

use api::kind::Descriptor;
use api::{GroupVersion, Status};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, header};
use parking_lot::Mutex;
use schema::Schema;
use schema::openapi::Published;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::discovery::cacheable;
use crate::aggregation;
use crate::registry::{Resource, Table};
use crate::request::{Query, User};
use crate::response::Response;
use crate::server::Server;

/// What is answered, however it was asked for: clients that read the type by the rules refuse the `@`, as kubectl does
/// where it validates a List (kube-openapi's `subTypeProtobuf`).
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The documents of one table.
#[derive(Default)]
pub struct Documents(Mutex<Cached>);

#[derive(Default)]
struct Cached {
    table: Option<Arc<Table>>,
    /// Each with the generation of what it is made from beside the table.
    documents: HashMap<String, (u64, Made)>,
}

/// A document that is made once, while whoever else wants it waits.
type Made = Arc<OnceCell<Bytes>>;

impl Documents {
    /// The document `name`, made by `make` unless it is there for this table and this generation of what else it says.
    async fn get(
        &self,
        table: &Arc<Table>,
        generation: u64,
        name: &str,
        make: impl FnOnce() -> Bytes + Send + 'static,
    ) -> Result<Bytes, Status> {
        let made = {
            let mut cached = self.0.lock();
            if !cached.table.as_ref().is_some_and(|known| Arc::ptr_eq(known, table)) {
                *cached = Cached { table: Some(table.clone()), documents: HashMap::new() };
            }
            let (of, made) = cached.documents.entry(name.to_owned()).or_default();
            if *of != generation {
                (*of, *made) = (generation, Made::default());
            }
            made.clone()
        };
        // Large ones take some hundred milliseconds: not those of other requests.
        let make = || async {
            let made = tokio::task::spawn_blocking(make).await;
            made.map_err(|error| Status::internal(format!("the document could not be made: {error}")))
        };
        made.get_or_try_init(make).await.cloned()
    }
}

fn all(table: &Table) -> Vec<Arc<Descriptor>> {
    table
        .groups()
        .iter()
        .flat_map(|group| &group.versions)
        .flat_map(|(_, resources)| resources.iter().map(|r| r.descriptor.clone()))
        .collect()
}

/// The schemas of the custom resources among them.
fn custom(table: &Table) -> Published {
    let structural = |resource: &Arc<Resource>| match &*resource.schema {
        Schema::Structural(structural) => Some((resource.descriptor.schema.to_string(), structural.clone())),
        Schema::BuiltIn(_) => None,
    };
    table.all().filter_map(structural).collect()
}

/// `/openapi/v2`: what this server serves, and what it knows of others.
pub(super) async fn v2(server: &Server, head: &Parts) -> Result<Response, Status> {
    let table = server.registry.table().clone();
    let (generation, parts) = server.aggregator.parts();
    let of = table.clone();
    let whole = move || {
        let table = of;
        let mut document = schema::openapi::v2(&all(&table), &custom(&table));
        for part in parts {
            // Written by this server, so it is JSON.
            schema::openapi::merge(&mut document, serde_json::from_slice(&part).unwrap_or_default());
        }
        document
    };
    let accept = head.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    // kubectl and client-go send the media type with an `@` or a dot before the version.
    if accept.contains("com.github.proto-openapi.spec.v2") {
        let make = move || schema::openapi::v2_protobuf(&whole()).into();
        let document = server.documents.get(&table, generation, "v2.pb", make).await?;
        return Ok(cacheable(head, V2_PROTOBUF, document));
    }
    let make = move || crate::encoding::to_json(&whole());
    let document = server.documents.get(&table, generation, "v2", make).await?;
    Ok(cacheable(head, crate::response::JSON, document))
}

/// `/openapi/v3`.
pub(super) async fn v3_index(server: &Server, head: &Parts) -> Result<Response, Status> {
    let table = server.registry.table().clone();
    let of = table.clone();
    let make = move || crate::encoding::to_json(&schema::openapi::v3_index(&all(&of), &custom(&of)));
    let document = server.documents.get(&table, 0, "v3", make).await?;
    let remote = server.aggregator.documents();
    if remote.is_empty() {
        return Ok(cacheable(head, crate::response::JSON, document));
    }
    let mut index: Value = serde_json::from_slice(&document).unwrap_or_default();
    for (path, url) in remote {
        index["paths"][path] = json!({"serverRelativeURL": url});
    }
    Ok(cacheable(head, crate::response::JSON, crate::encoding::to_json(&index)))
}

/// `/openapi/v3/apis/<group>/<version>` of a group that another server serves.
pub(super) async fn remote(
    server: &Arc<Server>,
    head: &Parts,
    user: &User,
    group: &str,
    version: &str,
) -> Result<Response, Status> {
    let remote = server.aggregator.get(group, version).ok_or_else(Status::page_not_found)?;
    let url = remote.openapi.clone().ok_or_else(Status::page_not_found)?;
    let (mut own, ()) = http::Request::new(()).into_parts();
    own.headers = head.headers.clone();
    Ok(aggregation::proxy::serve(server, &remote, user, own, client::empty_body(), &url).await)
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`, and the documents of what stands beside these.
pub(super) async fn v3(
    server: &Server,
    head: &Parts,
    query: &Query,
    at: &[&str],
) -> Result<Response, Status> {
    let group_version = match at {
        ["api", version] => GroupVersion::new("", *version),
        ["apis", group, version] => GroupVersion::new(*group, *version),
        _ => return root(server, head, query, &at.join("/")),
    };
    let table = server.registry.table().clone();
    if !table.serves(&group_version.group, &group_version.version) {
        return Err(Status::page_not_found());
    }
    let of = table.clone();
    let make = move || {
        let descriptors = of.descriptors(&group_version);
        crate::encoding::to_json(&schema::openapi::v3(&group_version, &descriptors, &custom(&of)))
    };
    let document = server.documents.get(&table, 0, &at.join("/"), make).await?;
    Ok(named_by_hash(head, query, document))
}

/// The document of something that is no group version.
fn root(server: &Server, head: &Parts, query: &Query, name: &str) -> Result<Response, Status> {
    let table = server.registry.table().clone();
    let document = schema::openapi::v3_root(name, &all(&table), &custom(&table));
    let document = document.ok_or_else(Status::page_not_found)?;
    Ok(named_by_hash(head, query, crate::encoding::to_json(&document)))
}

fn named_by_hash(head: &Parts, query: &Query, document: Bytes) -> Response {
    let mut response = cacheable(head, crate::response::JSON, document);
    if query.get("hash").is_some() {
        // The index names documents by their hash, so that a client may keep them for good.
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    response
}
