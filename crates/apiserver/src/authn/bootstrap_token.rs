//! Bootstrap tokens: `<id>.<secret>`, kept in Secrets of `kube-system`, by which a new node introduces itself.
//! Reads the Secret `bootstrap-token-<id>`.
//! Not here: making and cleaning them (the token-cleaner controller and the command line).
//! Upstream: plugin/pkg/auth/authenticator/token/bootstrap.

use std::sync::Arc;

use api::types::core::v1::Secret;
use api::{GroupResource, Status};
use async_trait::async_trait;
use foundation::SharedClock;
use jiff::Timestamp;

use super::{Authenticated, Authenticator, Credentials, bearer};
use crate::cluster::ClusterState;
use crate::request::User;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

pub(super) struct BootstrapTokens {
    cluster: Arc<dyn ClusterState>,
    clock: SharedClock,
}

impl BootstrapTokens {
    pub(super) fn new(cluster: Arc<dyn ClusterState>, clock: SharedClock) -> Self {
        Self { cluster, clock }
    }
}

/// The id and the secret of a well-formed token.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn judge(secret: &Secret, id: &str, given: &str, now: Timestamp) -> Option<User> {
    let field = |name: &str| {
        let bytes = secret.data.as_ref()?.get(name)?;
        std::str::from_utf8(&bytes.0).ok()
    };
    if secret.type_.as_deref() != Some(TYPE)
        || secret.metadata.deletion_timestamp.is_some()
        || field("token-id") != Some(id)
        || field("usage-bootstrap-authentication") != Some("true")
    {
        return None;
    }
    let held = field("token-secret")?;
    if held.len() != given.len() || held.bytes().zip(given.bytes()).fold(0, |d, (a, b)| d | (a ^ b)) != 0 {
        return None;
    }
    if let Some(end) = field("expiration") {
        let end: Timestamp = end.parse().ok()?;
        if now >= end {
            return None;
        }
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in field("auth-extra-groups").unwrap_or_default().split(',').map(str::trim) {
        if group.is_empty() {
            continue;
        }
        if !group.starts_with("system:bootstrappers:") {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let token = bearer::token(credentials.headers).unwrap_or_default();
        let Some((id, given)) = split(&token) else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let found = self.cluster.cached(&GroupResource::new("", "secrets"), "kube-system", &name).await?;
        let secret: Option<Secret> = found.and_then(|bytes| api::json::read(&bytes).ok());
        let user = secret.and_then(|secret| judge(&secret, id, given, self.clock.now()));
        Ok(user.map(Authenticated::plain))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_good_while_their_secret_says_so() {
        let base64 = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let secret = |change: &[(&str, &str)]| -> Secret {
            let mut data = json!({
                "token-id": base64("abcdef"), "token-secret": base64("0123456789abcdef"),
                "usage-bootstrap-authentication": base64("true"),
                "auth-extra-groups": base64("system:bootstrappers:worker"),
                "expiration": base64("2026-12-01T00:00:00Z"),
            });
            for (key, value) in change {
                data[*key] = base64(value).into();
            }
            serde_json::from_value(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {},
                "type": TYPE, "data": data }))
            .unwrap()
        };
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let (id, given) = split("abcdef.0123456789abcdef").unwrap();
        let user = judge(&secret(&[]), id, given, now).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:worker"]);
        assert!(judge(&secret(&[]), id, "0123456789abcdeX", now).is_none());
        for change in [
            ("expiration", "2026-11-20T00:00:00Z"),
            ("usage-bootstrap-authentication", "false"),
            ("token-id", "fedcba"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert!(judge(&secret(&[change]), id, given, now).is_none(), "{change:?}");
        }
        for bad in ["abcdef", "abcdef.short", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0"] {
            assert!(split(bad).is_none(), "{bad}");
        }
    }
}
