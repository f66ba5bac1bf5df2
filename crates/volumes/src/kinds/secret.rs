//! secret: the keys of a Secret as files in memory, following the object.
//! Upstream: `pkg/volume/secret`.

use std::collections::BTreeSet;

use api::types::core::v1::SecretVolumeSource;

use super::content::secret_files;
use crate::{Content, Context, Error, Kind, Medium, ObjectKey, Plan, References};

pub(super) struct SecretKind(pub(super) SecretVolumeSource);

impl SecretKind {
    fn name(&self) -> &str {
        self.0.secret_name.as_deref().unwrap_or_default()
    }
}

impl Kind for SecretKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/secret"
    }

    fn references(&self) -> References {
        let objects = BTreeSet::from([ObjectKey::Secret(self.name().to_owned())]);
        References { objects, ..References::default() }
    }

    fn plan(&self, _context: &Context<'_>, content: &Content) -> Result<Plan, Error> {
        let mode = self.0.default_mode.unwrap_or(0o644) as u32;
        let optional = self.0.optional == Some(true);
        let payload = secret_files(content, self.name(), self.0.items.as_deref(), mode, optional)?;
        Ok(Plan::Files { payload, medium: Medium::Memory { size: None } })
    }
}
