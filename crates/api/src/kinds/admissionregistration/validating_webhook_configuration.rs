//! ValidatingWebhookConfiguration: webhooks that judge requests.
//! Upstream: pkg/registry/admissionregistration/validatingwebhookconfiguration.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::matching::{Webhook, default_client, default_rules};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::optional::{default_text, items, items_mut};
use crate::kinds::row;
use crate::types::admissionregistration::v1::ValidatingWebhookConfiguration;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["api-extensions".into()],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new(
                "Webhooks",
                "integer",
                "Webhooks indicates the number of webhooks registered in this configuration",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<ValidatingWebhookConfiguration>::new()
                .default_with(default)
                .validate(validate)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            Scope::Cluster,
        )
    }
}

fn default(configuration: &mut ValidatingWebhookConfiguration) {
    for webhook in items_mut(&mut configuration.webhooks) {
        default_text(&mut webhook.failure_policy, "Fail");
        default_text(&mut webhook.match_policy, "Equivalent");
        webhook.namespace_selector.get_or_insert_default();
        webhook.object_selector.get_or_insert_default();
        webhook.timeout_seconds.get_or_insert(10);

        default_rules(&mut webhook.rules);
        default_client(&mut webhook.client_config);
    }
}

fn validate(configuration: &ValidatingWebhookConfiguration) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (index, webhook) in items(&configuration.webhooks).iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        Webhook {
            name: &webhook.name,
            review_versions: &webhook.admission_review_versions,
            rules: items(&webhook.rules),
            client: &webhook.client_config,
            failure_policy: &webhook.failure_policy,
            match_policy: &webhook.match_policy,
            side_effects: &webhook.side_effects,
            timeout: webhook.timeout_seconds,
            conditions: items(&webhook.match_conditions),
            namespaces: &webhook.namespace_selector,
            objects: &webhook.object_selector,
        }
        .validate(&mut errors, &path);
        if !seen.insert(&webhook.name) {
            errors.push(field::duplicate(&path.child("name"), &*webhook.name));
        }
    }
    errors
}

fn cells(configuration: &ValidatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
    vec![
        row::name(&configuration.metadata),
        items(&configuration.webhooks).len().into(),
        row::age(&configuration.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks() {
        let right = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
        let with = |field: &str, value: Value| {
            let mut webhook = right.clone();
            webhook[field] = value;
            webhook
        };
        for (webhook, errors) in [
            (right.clone(), 0),
            (with("name", json!("a.b")), 1),
            (with("sideEffects", json!("Some")), 1),
            (with("timeoutSeconds", json!(31)), 1),
            (with("clientConfig", json!({})), 1),
            (with("clientConfig", json!({"url": "http://x"})), 1),
            (with("rules", json!([{}])), 4),
        ] {
            let mut object: ValidatingWebhookConfiguration =
                serde_json::from_value(json!({"webhooks": [webhook]})).unwrap();
            default(&mut object);
            assert_eq!(validate(&object).len(), errors, "{webhook}");
        }
    }
}
