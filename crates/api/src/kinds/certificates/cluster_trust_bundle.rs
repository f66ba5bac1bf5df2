//! ClusterTrustBundle: roots of trust for a signer.
//! Not here: what the bundle is made of (the API server's, which can read certificates).
//! Upstream: pkg/registry/certificates/clustertrustbundle, pkg/apis/certificates.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::certificate_signing_request::signer_name;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, SelectableField, Typed};
use crate::kinds::optional::text;
use crate::kinds::row;
use crate::meta_validation::{immutable, push_invalid};
use crate::names::{NameRule, is_dns1123_subdomain};
use crate::types::certificates::v1::ClusterTrustBundle;

const SIZE_MAX: usize = 1024 * 1024;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        selectable_fields: vec![SelectableField::new("spec.signerName", "/spec/signerName")],
        // The rule depends on the signer.
        name_rule: NameRule::PathSegment,
        columns: vec![
            Column::object_name(),
            Column::new("SignerName", "string", "The signer that is trusted."),
        ],
        hooks: Arc::new(
            Typed::<ClusterTrustBundle>::new()
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new(
            "certificates.k8s.io",
            "v1",
            "ClusterTrustBundle",
            "clustertrustbundles",
            Scope::Cluster,
        )
    }
}

fn validate(bundle: &ClusterTrustBundle) -> ErrorList {
    let mut errors = ErrorList::new();
    let (name, signer) = (text(&bundle.metadata.name), text(&bundle.spec.signer_name));
    let name_path = Path::new("metadata").child("name");
    if signer.is_empty() {
        if name.contains(':') {
            let message = "ClusterTrustBundle without signer name must not have \":\" in its name";
            errors.push(field::invalid(&name_path, name, message));
        }
        push_invalid(&mut errors, &name_path, name, is_dns1123_subdomain(name));
    } else {
        let prefix = format!("{}:", signer.replace('/', ":"));
        match name.strip_prefix(&prefix) {
            None => {
                let message =
                    format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
                errors.push(field::invalid(&name_path, name, message));
            }
            Some(rest) => push_invalid(&mut errors, &name_path, name, is_dns1123_subdomain(rest)),
        }
        signer_name(&mut errors, signer, &Path::new("spec").child("signerName"));
    }
    let path = Path::new("spec").child("trustBundle");
    if bundle.spec.trust_bundle.len() > SIZE_MAX {
        errors.push(field::too_long(&path, SIZE_MAX));
    }
    errors
}

fn validate_update(new: &ClusterTrustBundle, old: &ClusterTrustBundle) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec").child("signerName");
    immutable(&mut errors, &path, &new.spec.signer_name, &old.spec.signer_name);
    errors
}

fn cells(bundle: &ClusterTrustBundle, _: Timestamp) -> Vec<Value> {
    vec![row::name(&bundle.metadata), row::or_none(text(&bundle.spec.signer_name))]
}
