//! PrioritySort: the pod with the higher priority goes first.
//!
//! Upstream: pkg/scheduler/framework/plugins/queuesort.

use api::types::core::v1::Pod;

use crate::framework::Plugin;

/// The plugin.
pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn rank(&self, pod: &Pod) -> Option<i64> {
        Some(-i64::from(pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::framework::testing::pod_with;

    #[test]
    fn higher_goes_first() {
        let (low, high) = (pod_with(json!({"priority": 1})), pod_with(json!({"priority": 2})));
        assert!(PrioritySort.rank(&high.pod) < PrioritySort.rank(&low.pod));
    }
}
