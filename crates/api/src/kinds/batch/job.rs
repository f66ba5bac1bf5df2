//! Job: pods that run to completion.
//! Upstream: pkg/registry/batch/job.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, SelectableField, Subresources, Typed};
use crate::types::batch::v1::Job;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        selectable_fields: vec![SelectableField {
            absent: "0",
            ..SelectableField::new("status.successful", "/status/succeeded")
        }],
        generation: true,
        hooks: Arc::new(Typed::<Job>::new().status(|| Some(json!({})))),
        ..Descriptor::new("batch", "v1", "Job", "jobs", Scope::Namespaced)
    }
}
