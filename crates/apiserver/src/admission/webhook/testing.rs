//! Webhooks for tests.

use api::Object;
use api::types::admissionregistration::v1::WebhookClientConfig;
use serde_json::json;

use super::{Parts, Webhook};

/// One of this name, of a configuration `c`, that matches nothing.
pub(in crate::admission) fn webhook(name: &str, failure_policy: &str) -> Webhook {
    let parts = Parts {
        name: name.into(),
        client: WebhookClientConfig::default(),
        rules: Vec::new(),
        match_policy: None,
        namespaces: None,
        objects: None,
        conditions: Vec::new(),
        failure_policy: Some(failure_policy.into()),
        side_effects: "None".into(),
        timeout: None,
        review_versions: Vec::new(),
        reinvoked: false,
    };
    Webhook::new(&Object(json!({ "metadata": { "name": "c" } })), 0, parts)
}
