//! Pods: the subresources that bind, evict, stream and proxy.
//!
//! Not here: what a pod may look like and how long it gets to end (its hooks in `api`).
//! Upstream: pkg/registry/core/pod/{rest,storage}.

pub(super) mod binding;
mod eviction;
mod log;
pub(super) mod streams;

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;

use crate::engine::{Call, Target, write_subresource};
use crate::registry::{Rest, Subresource};
use crate::response::Response;

/// `pods`.
pub(in crate::registry) struct Pods;

impl Rest for Pods {
    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        Some(match name {
            "attach" => Arc::new(streams::Attach),
            "binding" => Arc::new(binding::Binding),
            "ephemeralcontainers" => Arc::new(Part("ephemeralcontainers")),
            "eviction" => Arc::new(eviction::Eviction),
            "exec" => Arc::new(streams::Exec),
            "log" => Arc::new(log::Log),
            "portforward" => Arc::new(streams::PortForward),
            "proxy" => Arc::new(streams::Proxy),
            "resize" => Arc::new(Part("resize")),
            _ => return None,
        })
    }
}

/// A part of the pod that is written apart from the rest.
struct Part(&'static str);

#[async_trait]
impl Subresource for Part {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        write_subresource(&call, Target::Other(self.0)).await
    }
}
