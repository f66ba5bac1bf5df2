//! An object of one version of a resource in another of its versions.
//!
//! Built-in kinds and custom resources without a webhook are converted here and at once; the others by their webhook,
//! in the one place that calls it ([`Webhook`]).
//! Upstream: apimachinery `runtime.ObjectConvertor`, apiextensions-apiserver `pkg/apiserver/conversion`.

mod metrics;
mod review;
mod webhook;

use api::{Object, Status};
use serde_json::Value;

use super::Resource;
use crate::encoding::Encoded;

pub(super) use review::go_type;
pub(crate) use webhook::Asking;
pub(super) use webhook::{Version, Webhook};

impl Resource {
    /// Whether its objects are converted by asking somebody, which may fail.
    pub fn is_converted_by_webhook(&self) -> bool {
        self.webhook.is_some()
    }

    /// An object of `source`, which is the same resource in another group or version, as one of this.
    ///
    /// # Errors
    /// A webhook that failed.
    pub async fn converted_from(&self, source: &Self, object: &Value) -> Result<Value, Status> {
        if let Some(webhook) = &self.webhook {
            let version = self.descriptor.group_version().to_string();
            return webhook.convert_one(object.clone(), &version).await;
        }
        Ok(self.convert(source, object))
    }

    /// The same, where nobody has to be asked for it.
    pub fn converted_here(&self, source: &Self, object: &Value) -> Option<Value> {
        (!self.is_converted_by_webhook()).then(|| self.convert(source, object))
    }

    fn convert(&self, source: &Self, object: &Value) -> Value {
        let descriptor = &self.descriptor;
        let mut converted = object.clone();
        source.descriptor.hooks.to_storage(&mut converted);
        converted["apiVersion"] = descriptor.group_version().to_string().into();
        converted["kind"] = descriptor.kind.to_string().into();
        descriptor.hooks.from_storage(&mut converted);
        converted
    }

    /// The form in which an object is stored.
    ///
    /// # Errors
    /// A webhook that failed.
    pub async fn to_storage(&self, object: &Object) -> Result<Encoded, Status> {
        match &self.webhook {
            Some(webhook) if self.stored_version != object.api_version() => {
                let stored = webhook.convert_one(object.0.clone(), &self.stored_version).await?;
                Ok(Encoded::new(&stored))
            }
            Some(_) => Ok(Encoded::new(&object.0)),
            None => Ok(self.encode(object)),
        }
    }
}
