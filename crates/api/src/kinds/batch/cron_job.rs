//! CronJob: Jobs on a schedule.
//! Upstream: pkg/registry/batch/cronjob.

use std::sync::Arc;

use serde_json::json;

use crate::kind::{Descriptor, Scope, Subresources, Typed};
use crate::types::batch::v1::CronJob;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["cj".into()],
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        hooks: Arc::new(Typed::<CronJob>::new().status(|| Some(json!({})))),
        ..Descriptor::new("batch", "v1", "CronJob", "cronjobs", Scope::Namespaced)
    }
}
