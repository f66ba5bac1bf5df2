//! projected: ConfigMaps, Secrets, the downward API and ServiceAccount tokens in one directory, in memory.
//!
//! A clusterTrustBundle or podCertificate source answers with an error that says that it is not served here yet.
//! Upstream: `pkg/volume/projected`.

use api::types::core::v1::{Pod, ProjectedVolumeSource, ServiceAccountTokenProjection};

use super::content::{config_map_files, secret_files};
use super::downward_api;
use crate::{Content, Context, Error, File, Kind, Medium, ObjectKey, Payload, Plan, References, TokenSpec};

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
        for source in self.0.sources.iter().flatten() {
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
        for source in self.0.sources.iter().flatten() {
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
                payload.insert(s.path.clone(), token_file(context.pod, token, mode));
            } else if source.cluster_trust_bundle.is_some() {
                return Err(Error::Invalid(
                    "clusterTrustBundle sources are not supported by this node".to_owned(),
                ));
            } else if source.pod_certificate.is_some() {
                return Err(Error::Invalid(
                    "podCertificate sources are not supported by this node".to_owned(),
                ));
            }
        }
        Ok(Plan::Files { payload, medium: Medium::Memory { size: None } })
    }
}

/// A token is readable by its user only, once it is known which user that is.
fn token_file(pod: &Pod, token: &str, mode: u32) -> File {
    let user = common_user(pod);
    let fs_group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
    let mode = if user.is_some() || fs_group.is_some() { 0o600 } else { mode };
    File { data: token.as_bytes().to_vec(), mode, user }
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
