//! Typed calls for every kind of `k8s-openapi`, and the same calls over an [`Endpoint`] for kinds known at run time.
//!
//! Sends one request per call and retries nothing: whoever decides when to try again (the reconcile runner, the
//! reflector, the user) does it there. Upstream: the semantics of `client-go/kubernetes` and `client-go/dynamic`.

mod options;
mod subresources;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use options::{Accept, DeleteOptions, ListOptions, Patch, Preconditions, Propagation};
pub use subresources::TokenReview;

use crate::watch::WatchStream;
use crate::{Body, Cached, Endpoint, Error, Resource, Transport, TransportError};

/// The API, as one identity sees it. Cloning is a reference count.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: HeaderValue,
}

/// A page of objects, or all of them.
#[derive(Clone, Debug)]
pub struct List<K> {
    /// The objects, in the order of their keys.
    pub items: Vec<K>,
    /// The revision of the whole list: where a watch continues from.
    pub resource_version: String,
    /// The token of the next page, if there is one.
    pub continue_token: Option<String>,
    /// How many objects follow this page, where the server knows it.
    pub remaining: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawList<K> {
    #[serde(default)]
    metadata: RawListMeta,
    items: Option<Vec<K>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: Option<String>,
    remaining_item_count: Option<i64>,
}

impl Client {
    /// A client over `transport`; `user_agent` is what audit logs and `managedFields` say (`ironclad/kubelet`).
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Client {
        let user_agent = HeaderValue::from_str(user_agent).unwrap_or(HeaderValue::from_static("ironclad"));
        Client { transport, user_agent }
    }

    /// The transport underneath, for protocols of their own (exec, port-forward, proxy).
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// One object.
    pub async fn get<K: Resource>(&self, namespace: Option<&str>, name: &str) -> Result<K, Error> {
        let path = Endpoint::of::<K>().path(namespace, Some(name), None);
        self.read(Method::GET, path, Accept::Object).await
    }

    /// One page of a list, or all of it when `options` sets no limit. `namespace: None` lists all namespaces.
    pub async fn list<K: Resource>(
        &self,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List<K>, Error> {
        self.list_as(&Endpoint::of::<K>(), namespace, options, Accept::Object).await
    }

    /// [`Client::list`] over an endpoint, in the form that `accept` asks for.
    pub async fn list_as<K: Cached>(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        options: &ListOptions,
        accept: Accept,
    ) -> Result<List<K>, Error> {
        self.list_values(endpoint, namespace, options, accept).await
    }

    /// A list of untyped objects.
    pub async fn list_dynamic(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<List<Value>, Error> {
        self.list_values(endpoint, namespace, options, Accept::Object).await
    }

    async fn list_values<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        options: &ListOptions,
        accept: Accept,
    ) -> Result<List<T>, Error> {
        let path = options.query().append_to(endpoint.path(namespace, None, None));
        let raw: RawList<T> = self.read(Method::GET, path, accept).await?;
        Ok(List {
            items: raw.items.unwrap_or_default(),
            resource_version: raw.metadata.resource_version,
            continue_token: raw.metadata.continue_token.filter(|token| !token.is_empty()),
            remaining: raw.metadata.remaining_item_count,
        })
    }

    /// Creates `object` in `namespace` (or its own, or none) and returns it as stored.
    pub async fn create<K: Resource>(&self, namespace: Option<&str>, object: &K) -> Result<K, Error> {
        let namespace = namespace.or(object.metadata().namespace.as_deref());
        let path = Endpoint::of::<K>().path(namespace, None, None);
        self.write(Method::POST, path, JSON, object).await
    }

    /// Replaces an object; its resourceVersion, where set, must be the stored one.
    pub async fn update<K: Resource>(&self, namespace: Option<&str>, object: &K) -> Result<K, Error> {
        self.update_at(namespace, object, None).await
    }

    /// Replaces the status of an object and nothing else of it.
    pub async fn update_status<K: Resource>(&self, namespace: Option<&str>, object: &K) -> Result<K, Error> {
        self.update_at(namespace, object, Some("status")).await
    }

    async fn update_at<K: Resource>(
        &self,
        namespace: Option<&str>,
        object: &K,
        subresource: Option<&str>,
    ) -> Result<K, Error> {
        let meta = object.metadata();
        let name = meta.name.as_deref().ok_or_else(|| Error::Request("the object has no name".to_owned()))?;
        let path = Endpoint::of::<K>().path(namespace.or(meta.namespace.as_deref()), Some(name), subresource);
        self.write(Method::PUT, path, JSON, object).await
    }

    /// Changes a part of an object.
    pub async fn patch<K: Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &Patch,
    ) -> Result<K, Error> {
        decode(self.patch_dynamic(&Endpoint::of::<K>(), namespace, name, None, patch).await?, K::KIND)
    }

    /// Changes a part of an object's status.
    pub async fn patch_status<K: Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &Patch,
    ) -> Result<K, Error> {
        decode(
            self.patch_dynamic(&Endpoint::of::<K>(), namespace, name, Some("status"), patch).await?,
            K::KIND,
        )
    }

    /// Changes a part of any object (or of a subresource of it); returns the answer undecoded.
    pub async fn patch_dynamic(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
        patch: &Patch,
    ) -> Result<Bytes, Error> {
        let path = patch.query().append_to(endpoint.path(namespace, Some(name), subresource));
        let body = encode(patch.body())?;
        self.call(Method::PATCH, path, Some((patch.content_type(), body)), Accept::Object).await
    }

    /// Deletes an object. An object with finalizers or a grace period is still there afterwards, marked.
    pub async fn delete<K: Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        self.delete_dynamic(&Endpoint::of::<K>(), namespace, name, options).await
    }

    /// [`Client::delete`] over an endpoint.
    pub async fn delete_dynamic(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let body = encode(options)?;
        let path = endpoint.path(namespace, Some(name), None);
        self.call(Method::DELETE, path, Some((JSON, body)), Accept::Object).await.map(drop)
    }

    /// Deletes every object of a collection that `list` selects.
    pub async fn delete_collection(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        options: &DeleteOptions,
        list: &ListOptions,
    ) -> Result<(), Error> {
        let path = list.query().append_to(endpoint.path(namespace, None, None));
        self.call(Method::DELETE, path, Some((JSON, encode(options)?)), Accept::Object).await.map(drop)
    }

    /// The changes after `resource_version`, until the server ends the stream.
    pub async fn watch<K: Resource>(
        &self,
        namespace: Option<&str>,
        options: &ListOptions,
        resource_version: &str,
    ) -> Result<WatchStream<K>, Error> {
        self.watch_as(&Endpoint::of::<K>(), namespace, options, resource_version, Accept::Object).await
    }

    /// [`Client::watch`] over an endpoint, in the form that `accept` asks for.
    pub async fn watch_as<K: Cached>(
        &self,
        endpoint: &Endpoint,
        namespace: Option<&str>,
        options: &ListOptions,
        resource_version: &str,
        accept: Accept,
    ) -> Result<WatchStream<K>, Error> {
        let mut query = options.query();
        query.push("watch", "true");
        query.push("allowWatchBookmarks", "true");
        query.push("resourceVersion", resource_version);
        let path = query.append_to(endpoint.path(namespace, None, None));
        let response = self.open(Method::GET, path, None, accept).await?;
        Ok(WatchStream::new(response.into_body()))
    }

    /// Any request: `path` with its query, an optional JSON body; the answer as JSON.
    pub async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let body = body.map(|body| encode(body).map(|body| (JSON, body))).transpose()?;
        let bytes = self.call(method, path.to_owned(), body, Accept::Object).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        decode(bytes, path)
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        accept: Accept,
    ) -> Result<T, Error> {
        let bytes = self.call(method, path.clone(), None, accept).await?;
        decode(bytes, &path)
    }

    async fn write<S: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        content_type: &'static str,
        body: &S,
    ) -> Result<T, Error> {
        let body = encode(body)?;
        let bytes = self.call(method, path.clone(), Some((content_type, body)), Accept::Object).await?;
        decode(bytes, &path)
    }

    /// One request and its whole answer; a failure answer becomes [`Error::Status`].
    pub async fn call(
        &self,
        method: Method,
        path: String,
        body: Option<(&'static str, Bytes)>,
        accept: Accept,
    ) -> Result<Bytes, Error> {
        let response = self.open(method, path, body, accept).await?;
        collect(response.into_body()).await
    }

    /// One request and the head of its answer; a failure answer becomes [`Error::Status`].
    pub async fn open(
        &self,
        method: Method,
        path: String,
        body: Option<(&'static str, Bytes)>,
        accept: Accept,
    ) -> Result<http::Response<Body>, Error> {
        let mut builder = http::Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept.header())
            .header(header::USER_AGENT, self.user_agent.clone());
        let body = match body {
            Some((content_type, bytes)) => {
                builder = builder.header(header::CONTENT_TYPE, content_type);
                bytes
            }
            None => Bytes::new(),
        };
        let request = builder.body(body).map_err(|error| Error::Request(error.to_string()))?;
        let response = crate::metrics::counted(&*self.transport, request).await?;
        let status = response.status();
        if status.is_success() || status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let bytes = collect(response.into_body()).await?;
        Err(failure(status.as_u16(), &bytes).into())
    }
}

const JSON: &str = "application/json";

/// The `Status` in a failure answer, or one made of what there is (a proxy between us may answer in HTML).
fn failure(code: u16, body: &[u8]) -> api::Status {
    serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| api::Status::from_json(&value))
        .unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&body[..body.len().min(1024)]);
            // A path that no API has is answered in plain words, also by the server itself. Only in these: another 404
            // may come from anybody on the way, and to take it for an object that is gone would delete its dependents.
            if code == 404 && text.trim() == "404 page not found" {
                return api::Status::page_not_found();
            }
            let mut status = api::Status::internal("");
            status.code = code;
            status.message = format!("the server answered {code}: {}", text.trim());
            status
        })
}

async fn collect(body: Body) -> Result<Bytes, Error> {
    Ok(body.collect().await.map_err(TransportError::Exchange)?.to_bytes())
}

fn encode<S: Serialize + ?Sized>(body: &S) -> Result<Bytes, Error> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| Error::Request(error.to_string()))
}

fn decode<T: DeserializeOwned>(bytes: Bytes, what: &str) -> Result<T, Error> {
    api::json::read(&bytes).map_err(|source| Error::Decode { what: what.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_in_whatever_form_they_come() {
        let gone = api::Status::gone("old").to_json().to_string();
        for (code, body, not_found, message) in [
            (410, gone.as_str(), false, "old"),
            (404, "404 page not found\n", true, "the server could not find the requested resource"),
            (404, "<html>\n", false, "the server answered 404: <html>"),
            (502, "<html>\n", false, "the server answered 502: <html>"),
        ] {
            let status = failure(code, body.as_bytes());
            assert_eq!((status.code, status.is_not_found()), (code, not_found));
            assert_eq!(status.message, message);
        }
    }
}
