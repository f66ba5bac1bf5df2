//! downwardAPI: a pod's own fields and resources as files, following the pod.
//! Upstream: `pkg/volume/downwardapi`.

use api::types::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource};

use crate::{Content, Context, Error, File, Kind, Medium, Payload, Plan, fields};

pub(super) struct DownwardApiKind(pub(super) DownwardAPIVolumeSource);

impl Kind for DownwardApiKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/downward-api"
    }

    fn plan(&self, context: &Context<'_>, _content: &Content) -> Result<Plan, Error> {
        let mode = self.0.default_mode.unwrap_or(0o644) as u32;
        let payload = files(context, self.0.items.as_deref().unwrap_or_default(), mode)?;
        Ok(Plan::Files { payload, medium: Medium::Memory { size: None } })
    }
}

/// The files that `items` describe.
pub(super) fn files(
    context: &Context<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
) -> Result<Payload, Error> {
    let mut payload = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(context.pod, &field.field_path),
            (None, Some(resource)) => fields::resource(context.pod, "", resource, context.allocatable),
            (None, None) => continue,
        };
        let value = value.map_err(|error| Error::Invalid(error.to_string()))?;
        let mode = item.mode.map_or(default_mode, |mode| mode as u32);
        payload.insert(item.path.clone(), File { data: value.into_bytes(), mode, user: None });
    }
    Ok(payload)
}
