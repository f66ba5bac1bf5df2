//! ServiceAccount: the identity of what runs in pods.
//! Upstream: pkg/registry/core/serviceaccount.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::kind::{Column, Descriptor, Scope, Subresource, Subresources, Typed, Verbs};
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::kinds::warn;
use crate::types::core::v1::ServiceAccount;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        short_names: vec!["sa".into()],
        subresources: Subresources {
            other: vec![Subresource::new(
                "token",
                "authentication.k8s.io",
                "v1",
                "TokenRequest",
                Verbs::CREATE,
            )],
            ..Subresources::default()
        },
        columns: vec![
            Column::object_name(),
            Column::new("Secrets", "string", "Number of secrets that pods of the account may use."),
            Column::age(),
        ],
        hooks: Arc::new(Typed::<ServiceAccount>::new().warnings(warnings).cells(cells)),
        ..Descriptor::new("", "v1", "ServiceAccount", "serviceaccounts", Scope::Namespaced)
    }
}

/// An account that already has the annotation is not warned of again.
fn warnings(account: &ServiceAccount, old: Option<&Value>) -> Vec<String> {
    const ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";
    let mut warnings = Vec::new();
    if old.and_then(|old| old["metadata"]["annotations"].get(ANNOTATION)).is_none() {
        let message = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
        warn::annotation(&mut warnings, &account.metadata, ANNOTATION, message);
    }
    warnings
}

fn cells(account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
    vec![row::name(&account.metadata), items(&account.secrets).len().into(), row::age(&account.metadata, now)]
}
