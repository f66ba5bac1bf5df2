//! The conversion webhook of one definition: the only place that calls it.
//!
//! Objects that have the wanted version already are not sent; the others go together, in reviews of a bounded size.
//! Before an object is sent it gets the defaults of its own version; what comes back is pruned by the schema of the new
//! one. Not here: the review itself (`review`), finding and calling the webhook (`admission::webhook::Caller`).
//! Upstream: apiextensions-apiserver `pkg/apiserver/conversion`, `customresource_handler.go` (schemaCoercingConverter,
//! crdConversionRESTOptionsGetter).

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::types::admissionregistration::v1::WebhookClientConfig;
use api::{Reason, Status};
use async_trait::async_trait;
use bytes::Bytes;
use foundation::SharedRandomness;
use schema::{FieldValidation, Schema};
use serde::Deserialize;
use serde_json::Value;

use super::metrics::{self, Why};
use super::review::{self, Wrong, kind_of};
use crate::admission::webhook::{Caller, Client};
use crate::cache::Ask;
use crate::encoding;

/// How long a webhook may take (upstream's client has this as its own timeout).
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects in one review at most, so that a long list does not become one body of any size.
const MOST: usize = 1_000;
/// Bytes in one review about: what a webhook answers is refused above 16 MiB.
const BYTES: usize = 2 << 20;

/// What is needed to ask webhooks. The caller belongs to the server, which owns the resources.
#[derive(Clone)]
pub(crate) struct Asking {
    /// Calls webhooks.
    pub caller: Weak<Caller>,
    /// UIDs of reviews.
    pub randomness: SharedRandomness,
}

/// The webhook of one definition.
pub(in crate::registry) struct Webhook {
    /// The definition's name.
    definition: String,
    client: Client,
    reviews: Vec<String>,
    /// The schemas by apiVersion, those of versions that are not served included: objects may be stored in them.
    schemas: HashMap<String, Arc<Schema>>,
    asking: Asking,
}

impl Webhook {
    /// The webhook that the `conversion` of the definition of this name asks for; `None` where it names none.
    pub fn new(
        definition: String,
        conversion: &Value,
        schemas: HashMap<String, Arc<Schema>>,
        asking: &Asking,
    ) -> Option<Arc<Self>> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let config = WebhookClientConfig::deserialize(&webhook["clientConfig"]).ok()?;
        let reviews = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let reviews = reviews.filter_map(Value::as_str).map(str::to_owned).collect();
        let (client, asking) = (Client::new(&config), asking.clone());
        Some(Arc::new(Self { definition, client, reviews, schemas, asking }))
    }

    /// One object in `version` (an apiVersion).
    pub async fn convert_one(&self, object: Value, version: &str) -> Result<Value, Status> {
        let converted = self.convert(vec![object], version).await?;
        converted.into_iter().next().ok_or_else(|| Status::internal("a conversion gave nothing"))
    }

    /// Objects in `version`, in their order.
    pub async fn convert(&self, mut objects: Vec<Value>, version: &str) -> Result<Vec<Value>, Status> {
        let mut sent: Vec<usize> = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            if object["apiVersion"] != version {
                sent.push(index);
            }
        }
        let sizes: Vec<usize> = sent.iter().map(|place| size(&objects[*place])).collect();
        let mut start = 0;
        while start < sent.len() {
            let end = start + batch(&sizes[start..]);
            let places = &sent[start..end];
            start = end;
            let batch: Vec<Value> = places.iter().map(|place| objects[*place].take()).collect();
            let converted = self.review(&batch, version).await?;
            for (place, converted) in places.iter().zip(converted) {
                objects[*place] = converted;
            }
        }
        Ok(objects)
    }

    async fn review(&self, objects: &[Value], version: &str) -> Result<Vec<Value>, Status> {
        let caller = self.asking.caller.upgrade();
        let caller = caller.ok_or_else(|| Status::service_unavailable("the server is shutting down"))?;
        let began = caller.now();
        let outcome = self.exchange(&caller, objects, version).await;
        let took = caller.now().saturating_sub(began);
        let from = objects.first().and_then(|object| object["apiVersion"].as_str()).unwrap_or_default();
        let failure = outcome.as_ref().err().map(|(why, _)| *why);
        metrics::converted(&self.definition, (from, version), failure, took);
        outcome.map_err(|(_, status)| status)
    }

    /// Why it failed comes with the failure.
    async fn exchange(
        &self,
        caller: &Caller,
        objects: &[Value],
        version: &str,
    ) -> Result<Vec<Value>, (Why, Status)> {
        let kind = objects.first().map(kind_of).unwrap_or_default();
        let failed = |why: String| failure(format!("conversion webhook for {kind} failed: {why}"));
        let mut random = [0; 16];
        self.asking.randomness.fill(&mut random);
        let uid = uuid::Builder::from_random_bytes(random).into_uuid().to_string();
        let sent = review::request(&self.reviews, objects, version, &uid);
        let sent = sent.map_err(|why| (Why::Call, failure(why)))?;
        let body = caller.ask(&self.client, &sent, TIMEOUT).await.map_err(|why| (Why::Call, failed(why)))?;
        let converted = review::answer(&sent, &body).map_err(|why| (Why::Malformed, failed(why)))?;
        if converted.len() != objects.len() {
            let (given, wanted) = (converted.len(), objects.len());
            let what = format!("conversion webhook for {kind} returned {given} objects, expected {wanted}");
            return Err((Why::Partial, failure(what)));
        }
        let many = objects.len() > 1;
        let checked = objects.iter().zip(converted).enumerate().map(|(index, (original, converted))| {
            review::checked(original, converted, version).map_err(|wrong| {
                let what = match (wrong, many) {
                    (Wrong::Object(why), true) => format!("invalid converted object at index {index}: {why}"),
                    (Wrong::Object(why), false) => format!("invalid object: {why}"),
                    (Wrong::Metadata(why), true) => {
                        format!("invalid metadata in object at index {index}: {why}")
                    }
                    (Wrong::Metadata(why), false) => format!("invalid metadata: {why}"),
                };
                failure(format!("conversion webhook for {kind} returned {what}"))
            })
        });
        let pruned = checked.map(|object| self.pruned(object?, version));
        pruned.collect::<Result<_, _>>().map_err(|status| (Why::Invalid, status))
    }

    /// What the schema of `version` knows of the object.
    fn pruned(&self, object: Value, version: &str) -> Result<Value, Status> {
        match self.schemas.get(version) {
            Some(schema) => Ok(schema::decode_value(&object, schema, FieldValidation::Ignore)?.value),
            None => Ok(object),
        }
    }

    /// Fills in the defaults of the object's own version.
    fn default(&self, object: &mut Value) {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        if let Some(Schema::Structural(structural)) = self.schemas.get(version).map(|schema| &**schema) {
            structural.default(object);
        }
    }
}

fn failure(message: String) -> Status {
    Status::new(500, Reason::Unknown, message)
}

/// One version of a definition with a webhook, as its cache asks for it.
pub(in crate::registry) struct Version {
    /// The webhook.
    pub webhook: Arc<Webhook>,
    /// The apiVersion.
    pub version: String,
}

#[async_trait]
impl Ask for Version {
    async fn served(&self, stored: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        let sizes: Vec<usize> = stored.iter().map(Bytes::len).collect();
        let mut all = Vec::with_capacity(stored.len());
        // Batch by batch, also where there is nothing to ask: only one is there as values at a time, and others get a turn.
        while all.len() < stored.len() {
            let next = &stored[all.len()..];
            let mut objects = Vec::new();
            for bytes in &next[..batch(&sizes[all.len()..])] {
                let mut object = serde_json::from_slice(bytes)
                    .map_err(|error| Status::internal(format!("a stored object is not readable: {error}")))?;
                self.webhook.default(&mut object);
                objects.push(object);
            }
            let served = self.webhook.convert(objects, &self.version).await?;
            if served.is_empty() {
                return Err(Status::internal("a conversion gave nothing"));
            }
            all.extend(served.iter().map(encoding::to_json));
            tokio::task::yield_now().await;
        }
        Ok(all)
    }
}

/// How many of the objects with these sizes go into one review: at least one.
fn batch(sizes: &[usize]) -> usize {
    let mut together = 0;
    let fits = |size: &&usize| {
        together += **size;
        together <= BYTES
    };
    sizes.iter().take(MOST).take_while(fits).count().max(1)
}

/// About how many bytes of JSON a value is.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 3,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 2,
        Value::Object(members) => {
            members.iter().map(|(name, value)| name.len() + 4 + size(value)).sum::<usize>() + 2
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_is_bounded_in_objects_and_bytes() {
        for (sizes, expected) in [
            (vec![10; 3], 3),
            (vec![10; MOST + 5], MOST),
            (vec![BYTES / 2, BYTES / 2, 1], 2),
            (vec![BYTES * 2, 1], 1),
        ] {
            assert_eq!(batch(&sizes), expected);
        }
        let value = serde_json::json!({"a": ["b", 1, null], "c": {"d": "e".repeat(1000)}});
        assert!(size(&value).abs_diff(value.to_string().len()) < 20);
    }
}
