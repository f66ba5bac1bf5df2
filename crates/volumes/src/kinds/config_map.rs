//! configMap: the keys of a ConfigMap as files, on disk, following the object.
//! Upstream: `pkg/volume/configmap`.

use std::collections::BTreeSet;

use api::types::core::v1::ConfigMapVolumeSource;

use super::content::config_map_files;
use crate::{Content, Context, Error, Kind, Medium, ObjectKey, Plan, References};

pub(super) struct ConfigMapKind(pub(super) ConfigMapVolumeSource);

impl Kind for ConfigMapKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/configmap"
    }

    fn references(&self) -> References {
        let objects = BTreeSet::from([ObjectKey::ConfigMap(self.0.name.clone())]);
        References { objects, ..References::default() }
    }

    fn plan(&self, _context: &Context<'_>, content: &Content) -> Result<Plan, Error> {
        let mode = self.0.default_mode.unwrap_or(0o644) as u32;
        let optional = self.0.optional == Some(true);
        let payload = config_map_files(content, &self.0.name, self.0.items.as_deref(), mode, optional)?;
        Ok(Plan::Files { payload, medium: Medium::Disk })
    }
}
