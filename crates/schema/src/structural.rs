//! Structural schemas of CustomResourceDefinitions.

use api::GroupVersionKind;
use serde_json::Value;

use crate::decode::Findings;

/// The shape of a custom resource.
#[derive(Clone, Debug)]
pub struct Structural {
    /// The kind.
    pub kind: GroupVersionKind,
}

impl Structural {
    pub(crate) fn prune(&self, value: &mut Value, findings: &mut Findings) {
        let _ = (value, findings);
    }
}
