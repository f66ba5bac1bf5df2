//! The API server in memory, with the part of strategic merge patches that the kubelet's status patches rely on: lists of
//! conditions merge by type, and `$patch: replace` replaces a list.

use std::sync::Arc;

use bytes::Bytes;
use client::fake::FakeApi;
use client::{Body, Client, Transport, TransportError};
use serde_json::Value;

struct Strategic(Arc<dyn Transport>);

/// A client of `api` whose strategic patches are applied as the real server does.
pub fn client(api: &FakeApi) -> Client {
    Client::new(Arc::new(Strategic(api.client().transport().clone())), "kubelet")
}

#[async_trait::async_trait]
impl Transport for Strategic {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let strategic = request
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind == "application/strategic-merge-patch+json");
        if !strategic {
            return self.0.send(request).await;
        }
        let (mut parts, body) = request.into_parts();
        let mut patch: Value = serde_json::from_slice(&body).expect("a patch is JSON");
        let path = parts.uri.path().trim_end_matches("/status").to_owned();
        let client = Client::new(self.0.clone(), "test");
        if let Ok(current) = client.request(http::Method::GET, &path, None).await {
            for (key, value) in patch["status"].as_object_mut().into_iter().flatten() {
                let old = &current["status"][key.as_str()];
                let Some(list) = value.as_array_mut() else { continue };
                if list.first().is_some_and(|first| first["$patch"] == "replace") {
                    list.remove(0);
                } else if key == "conditions" {
                    *list = merge(old.as_array().cloned().unwrap_or_default(), list);
                }
            }
        }
        parts.headers.insert("content-type", http::HeaderValue::from_static("application/merge-patch+json"));
        let body = serde_json::to_vec(&patch).expect("JSON serializes");
        self.0.send(http::Request::from_parts(parts, body.into())).await
    }
}

fn merge(mut old: Vec<Value>, new: &[Value]) -> Vec<Value> {
    for condition in new {
        match old.iter_mut().find(|other| other["type"] == condition["type"]) {
            None => old.push(condition.clone()),
            Some(other) => {
                for (key, value) in condition.as_object().into_iter().flatten() {
                    other[key.as_str()] = value.clone();
                }
            }
        }
        for other in &mut old {
            if let Some(fields) = other.as_object_mut() {
                fields.retain(|_, value| !value.is_null());
            }
        }
    }
    old
}
