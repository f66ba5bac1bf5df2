//! projected: ConfigMaps, Secrets, the downward API, ServiceAccount tokens, roots of trust and the pod's own certificates
//! in one directory, in memory.
//!
//! Not here: which roots a source chooses ([`crate::TrustBundles`]), how a certificate is got (`objects`).
//! Upstream: `pkg/volume/projected`.

use api::types::core::v1::{Pod, ProjectedVolumeSource, ServiceAccountTokenProjection};

use super::content::{config_map_files, secret_files};
use super::downward_api;
use crate::{
    Content, Context, Credential, Error, File, Kind, Medium, ObjectKey, Payload, Plan, References, TokenSpec,
};

pub(super) struct ProjectedKind(pub(super) ProjectedVolumeSource);

fn token_spec(source: &ServiceAccountTokenProjection) -> TokenSpec {
    TokenSpec {
        audience: source.audience.clone().unwrap_or_default(),
        expiration_seconds: source.expiration_seconds.unwrap_or(3600),
    }
}

impl Kind for ProjectedKind {
    fn plugin(&self) -> &'static str {
        "kubernetes.io/projected"
    }

    fn references(&self) -> References {
        let mut references = References::default();
        for (index, source) in self.0.sources.iter().flatten().enumerate() {
            if source.cluster_trust_bundle.is_some() {
                references.objects.insert(ObjectKey::ClusterTrustBundles);
            }
            if source.pod_certificate.is_some() {
                references.certificates.insert(index);
            }
            if let Some(source) = &source.config_map {
                references.objects.insert(ObjectKey::ConfigMap(source.name.clone()));
            }
            if let Some(source) = &source.secret {
                references.objects.insert(ObjectKey::Secret(source.name.clone()));
            }
            if let Some(source) = &source.service_account_token {
                references.tokens.insert(token_spec(source));
            }
        }
        references
    }

    fn plan(&self, context: &Context<'_>, content: &Content) -> Result<Plan, Error> {
        let mode = self.0.default_mode.unwrap_or(0o644) as u32;
        let mut payload = Payload::new();
        for (index, source) in self.0.sources.iter().flatten().enumerate() {
            if let Some(s) = &source.config_map {
                let optional = s.optional == Some(true);
                payload.extend(config_map_files(content, &s.name, s.items.as_deref(), mode, optional)?);
            } else if let Some(s) = &source.secret {
                let optional = s.optional == Some(true);
                payload.extend(secret_files(content, &s.name, s.items.as_deref(), mode, optional)?);
            } else if let Some(s) = &source.downward_api {
                payload.extend(downward_api::files(context, s.items.as_deref().unwrap_or_default(), mode)?);
            } else if let Some(s) = &source.service_account_token {
                let token = content.tokens.get(&token_spec(s)).ok_or_else(|| {
                    Error::Invalid("failed to fetch token: the API server issued none".to_owned())
                })?;
                payload.insert(s.path.clone(), private_file(context.pod, token, mode));
            } else if let Some(s) = &source.cluster_trust_bundle {
                let anchors = content.trust_bundles.anchors(s)?;
                payload.insert(s.path.clone(), private_file(context.pod, &anchors, mode));
            } else if let Some(s) = &source.pod_certificate {
                let credential = content
                    .certificates
                    .get(&index)
                    .ok_or_else(|| Error::Invalid("credential bundle is not issued yet".to_owned()))?;
                let Credential { key, chain } = credential;
                for (path, data) in [
                    (&s.credential_bundle_path, &format!("{key}{chain}")),
                    (&s.key_path, key),
                    (&s.certificate_chain_path, chain),
                ] {
                    if let Some(path) = path.as_ref().filter(|path| !path.is_empty()) {
                        payload.insert(path.clone(), private_file(context.pod, data, mode));
                    }
                }
            }
        }
        Ok(Plan::Files { payload, medium: Medium::Memory { size: None } })
    }
}

/// What identifies the pod is readable by its user only, once it is known which user that is.
fn private_file(pod: &Pod, data: &str, mode: u32) -> File {
    let user = common_user(pod);
    let fs_group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
    let mode = if user.is_some() || fs_group.is_some() { 0o600 } else { mode };
    File { data: data.as_bytes().to_vec(), mode, user }
}

/// The user that every container of the pod runs as, if it is one and the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first as u32)
}
