//! VolumeAttachment: the wish to attach a volume to a node.
//! Upstream: pkg/registry/storage/volumeattachment, pkg/apis/storage.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{dns_subdomain, driver_name, json as value_of};
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::names::range_message;
use crate::types::storage::v1::VolumeAttachment;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        resets: &[("status", &["metadata"])],
        returns_deleted: true,
        subresources: Subresources { status: true, ..Subresources::default() },
        columns: vec![
            Column::object_name(),
            Column { format: "name".into(), ..Column::new("Attacher", "string", "Who attaches.") },
            Column::new("PV", "string", "The volume."),
            Column::new("Node", "string", "The node."),
            Column::new("Attached", "boolean", "Whether it is attached."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<VolumeAttachment>::new()
                .status(|| Some(json!({"attached": false})))
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(|new, _| validate_status(new))
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", Scope::Cluster)
    }
}

fn validate(attachment: &VolumeAttachment) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &attachment.spec;
    driver_name(&mut errors, &path.child("attacher"), &spec.attacher);
    dns_subdomain(&mut errors, &path.child("nodeName"), &spec.node_name);
    let path = path.child("source");
    match (&spec.source.persistent_volume_name, &spec.source.inline_volume_spec) {
        (None, None) => {
            let message = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(field::required(&path, message));
        }
        (Some(_), Some(_)) => {
            let message = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(field::forbidden(&path, message));
        }
        (Some(name), None) => {
            let path = path.child("persistentVolumeName");
            if name.is_empty() {
                errors.push(field::required(&path, "must specify non empty persistentVolumeName"));
            }
            dns_subdomain(&mut errors, &path, name);
        }
        (None, Some(_)) => {}
    }
    errors.extend(validate_status(attachment));
    errors
}

fn validate_status(attachment: &VolumeAttachment) -> ErrorList {
    const METADATA_MAX: usize = 256 * 1024;
    const MESSAGE_MAX: usize = 1024;
    let mut errors = ErrorList::new();
    let Some(status) = &attachment.status else { return errors };
    let path = Path::new("status");
    let metadata = status.attachment_metadata.iter().flatten();
    if metadata.map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA_MAX {
        errors.push(field::too_long(&path.child("attachmentMetadata"), METADATA_MAX));
    }
    for (name, error) in [("attachError", &status.attach_error), ("detachError", &status.detach_error)] {
        let Some(error) = error else { continue };
        let path = path.child(name);
        if text(&error.message).len() > MESSAGE_MAX {
            errors.push(field::too_long(&path.child("message"), MESSAGE_MAX));
        }
        if let Some(code) = error.error_code.filter(|code| *code < 0) {
            let message = range_message(0, i32::MAX.into());
            errors.push(field::invalid(&path.child("errorCode"), code, message));
        }
    }
    errors
}

fn validate_update(new: &VolumeAttachment, old: &VolumeAttachment) -> ErrorList {
    let mut errors = validate(new);
    if new.spec != old.spec {
        errors.push(field::invalid(&Path::new("spec"), value_of(&new.spec), "field is immutable"));
    }
    errors
}

fn cells(attachment: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
    vec![
        row::name(&attachment.metadata),
        attachment.spec.attacher.clone().into(),
        text(&attachment.spec.source.persistent_volume_name).into(),
        attachment.spec.node_name.clone().into(),
        attachment.status.as_ref().is_some_and(|status| status.attached).into(),
        row::age(&attachment.metadata, now),
    ]
}
