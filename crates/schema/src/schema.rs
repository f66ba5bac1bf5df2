//! The shape of one kind, whichever way it became known.
//! Reads the generated table or a CustomResourceDefinition's structural schema; writes nothing.
//! Not here: what is done with a shape (`decode`, `patch`, `openapi`).

use std::sync::Arc;

use api::GroupVersionKind;

use crate::structural::Structural;
use crate::table::{self, Definition};

/// The shape of one kind. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Schema {
    /// A kind of the generated table.
    BuiltIn(&'static Definition),
    /// A kind of a CustomResourceDefinition.
    Structural(Arc<Structural>),
}

impl Schema {
    /// The schema of a built-in definition, such as `io.k8s.api.core.v1.Pod`.
    pub fn built_in(name: &str) -> Option<Self> {
        table::table().definition(name).map(Self::BuiltIn)
    }

    /// The kind it describes. Options that every group has (`DeleteOptions`) have the kind of their first group.
    pub fn kind(&self) -> GroupVersionKind {
        match self {
            Self::BuiltIn(definition) => match definition.kinds.first() {
                Some(kind) => GroupVersionKind::new(kind.group, kind.version, kind.kind),
                None => GroupVersionKind::new("", "", definition.short_name()),
            },
            Self::Structural(structural) => structural.kind.clone(),
        }
    }
}

impl From<Structural> for Schema {
    fn from(structural: Structural) -> Self {
        Self::Structural(Arc::new(structural))
    }
}
