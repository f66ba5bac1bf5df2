//! The OpenAPI v3 documents of what stands beside the group versions: the roots of the API, each group, the version of the
//! server, and what is said of the keys of its tokens. Each is one path that is read.
//! Upstream: api/openapi-spec/v3 (`api_openapi.json`, `apis_openapi.json`, `version_openapi.json`, …).

use std::collections::BTreeSet;
use std::sync::Arc;

use api::kind::Descriptor;
use serde_json::{Value, json};

use super::custom::Published;
use super::definition::{self, Dialect};
use super::paths;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const JSON: &[&str] = &["application/json"];
/// What discovery can be had in.
const OBJECTS: &[&str] = &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];

/// One path.
struct Root {
    /// The definition of what is answered; empty: text.
    answer: String,
    id: String,
    tag: String,
    description: &'static str,
    media: &'static [&'static str],
}

/// The names of these documents in the index, for what the kinds are of.
pub(super) fn names(descriptors: &[Arc<Descriptor>]) -> BTreeSet<String> {
    let groups = descriptors.iter().map(|descriptor| match &*descriptor.group {
        "" => "api".to_owned(),
        group => format!("apis/{group}"),
    });
    let others = ["apis", "version", ".well-known/openid-configuration", "openid/v1/jwks"];
    groups.chain(others.map(str::to_owned)).collect()
}

/// The document of this name; `None`: there is no such.
pub(super) fn document(name: &str, descriptors: &[Arc<Descriptor>], custom: &Published) -> Option<Value> {
    let root = root(name, descriptors)?;
    let mut roots = BTreeSet::new();
    let schema = match root.answer.as_str() {
        "" => json!({"type": "string"}),
        answer => {
            roots.insert(answer.to_owned());
            Dialect::V3.reference(answer)
        }
    };
    let content: serde_json::Map<_, _> =
        root.media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::VERSION},
        "paths": {format!("/{name}/"): {"get": {
            "tags": [root.tag],
            "description": root.description,
            "operationId": root.id,
            "responses": {
                "200": {"description": "OK", "content": content},
                "401": {"description": "Unauthorized"},
            },
        }}},
        "components": {"schemas": definition::closure(&roots, descriptors, custom, Dialect::V3)},
    }))
}

fn root(name: &str, descriptors: &[Arc<Descriptor>]) -> Option<Root> {
    let meta = |kind: &str| format!("{META}.{kind}");
    let root = |answer: String, id: &str, tag: &str, description, media| Root {
        answer,
        id: id.to_owned(),
        tag: tag.to_owned(),
        description,
        media,
    };
    Some(match name {
        "api" => {
            root(meta("APIVersions"), "getCoreAPIVersions", "core", "get available API versions", OBJECTS)
        }
        "apis" => root(meta("APIGroupList"), "getAPIVersions", "apis", "get available API versions", OBJECTS),
        "version" => root(
            "io.k8s.apimachinery.pkg.version.Info".to_owned(),
            "getCodeVersion",
            "version",
            "get the version of this server",
            JSON,
        ),
        ".well-known/openid-configuration" => root(
            String::new(),
            "getServiceAccountIssuerOpenIDConfiguration",
            "WellKnown",
            "get what relying parties need to know of the issuer of ServiceAccount tokens",
            JSON,
        ),
        "openid/v1/jwks" => root(
            String::new(),
            "getServiceAccountIssuerOpenIDKeyset",
            "openid",
            "get the public keys that ServiceAccount tokens are verified with",
            &["application/jwk-set+json"],
        ),
        group => {
            let group = group.strip_prefix("apis/")?;
            let descriptor = descriptors.iter().find(|descriptor| descriptor.group == group)?;
            let (id, tag) = paths::group_names(descriptor);
            root(meta("APIGroup"), &format!("get{id}APIGroup"), &tag, "get information of a group", OBJECTS)
        }
    })
}
