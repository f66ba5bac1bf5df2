//! DefaultBinder: a pod is bound by its `binding` subresource.
//!
//! Upstream: pkg/scheduler/framework/plugins/defaultbinder.

use crate::{
    cluster::{NodeInfo, PodInfo},
    framework::{Binding, Plugin},
};

/// The plugin.
pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn bind(&self, _: &PodInfo, _: &NodeInfo) -> Option<Binding> {
        Some(Binding::ByApi)
    }
}
