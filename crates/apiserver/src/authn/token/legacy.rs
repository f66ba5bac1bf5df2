//! Tokens that stand in a Secret: no end, no audience, good as long as the Secret holds them and the account is there.
//!
//! Reads Secrets and ServiceAccounts; notes the day of a token's last use in a label of its Secret. Not here: making them
//! (the tokens controller), the signature (`keys`).
//! Upstream: pkg/serviceaccount/legacy.go.

use std::sync::LazyLock;

use api::{GroupResource, Object};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foundation::metrics::{Counter, Family, registry};
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{bound, user_name};
use crate::audit;
use crate::cluster::ClusterState;

/// Who such tokens say they are from.
pub const ISSUER: &str = "kubernetes/serviceaccount";
/// The day on which a token was used last, a label of its Secret.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Since when a token is not good any more because nobody used it: a label of its Secret.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// What the client is told whose token was made without anybody asking for it, as old clusters did.
const AUTOMATIC: &str = "Use tokens from the TokenRequest API or manually created secret-based tokens instead of \
    auto-generated secret-based tokens.";

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// [`ISSUER`].
    pub iss: String,
    /// The account's namespace.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// The Secret that holds the token.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// The account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// Its UID.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
    /// `system:serviceaccount:<namespace>:<name>`.
    pub sub: String,
}

impl Claims {
    /// The claims of the token in a Secret of an account.
    pub fn new(namespace: &str, secret: &str, account: &str, uid: &str) -> Self {
        Self {
            iss: ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
            sub: user_name(namespace, account),
        }
    }

    /// Whether all is there that must be.
    pub(super) fn check(&self) -> Result<(), String> {
        for (claim, value) in [
            ("sub", &self.sub),
            ("namespace", &self.namespace),
            ("secretName", &self.secret),
            ("serviceAccountName", &self.account),
            ("serviceAccountUID", &self.uid),
        ] {
            if value.is_empty() {
                return Err(format!("{claim} claim is missing"));
            }
        }
        if self.sub != user_name(&self.namespace, &self.account) {
            return Err("sub claim is invalid".to_owned());
        }
        Ok(())
    }
}

struct Uses {
    all: Family<Counter>,
    automatic: Family<Counter>,
    manual: Family<Counter>,
    invalid: Family<Counter>,
}

static USES: LazyLock<Uses> = LazyLock::new(|| {
    let counter = |name, help| registry().counter(name, help, &[]);
    Uses {
        all: counter("serviceaccount_legacy_tokens_total", "Uses of ServiceAccount tokens without an end."),
        automatic: counter(
            "serviceaccount_legacy_auto_token_uses_total",
            "Uses of tokens in Secrets that were made without anybody asking for them.",
        ),
        manual: counter(
            "serviceaccount_legacy_manual_token_uses_total",
            "Uses of tokens in Secrets that somebody made.",
        ),
        invalid: counter(
            "serviceaccount_invalid_legacy_auto_token_uses_total",
            "Uses of tokens in Secrets after they were marked as invalid.",
        ),
    }
});

/// Says that a token without an audience was shown.
pub(super) fn seen(claims: &Claims) {
    audit::annotate("authentication.k8s.io/legacy-token", &claims.sub);
    USES.all.only().inc();
}

/// Judges a token by what the cluster knows; what the client is to be warned of.
pub(super) async fn judge(
    cluster: &dyn ClusterState,
    token: &str,
    claims: &Claims,
    now: Timestamp,
) -> Result<Vec<String>, String> {
    claims.check()?;
    let Claims { namespace, secret: name, account, uid, .. } = claims;
    let found = bound::find(cluster, "secrets", namespace, name).await.map_err(|status| status.message)?;
    let secret = found.filter(|secret| secret.deletion_timestamp().is_none());
    let secret = secret.ok_or("Token has been invalidated")?;
    if held(&secret).as_deref() != Some(token.as_bytes()) {
        return Err("Token does not match server's copy".to_owned());
    }
    let found = bound::find(cluster, "serviceaccounts", namespace, account).await;
    let found = found.map_err(|status| status.message)?;
    let owner = found.ok_or_else(|| format!("serviceaccounts \"{account}\" not found"))?;
    if owner.deletion_timestamp().is_some() {
        return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
    }
    if owner.uid() != uid {
        return Err(format!("ServiceAccount UID ({}) does not match claim ({uid})", owner.uid()));
    }
    let listed = owner.0["secrets"].as_array().into_iter().flatten();
    let automatic = listed.filter_map(|entry| entry["name"].as_str()).any(|entry| entry == name);
    let mut warnings = Vec::new();
    if automatic {
        warnings.push(AUTOMATIC.to_owned());
        audit::annotate("authentication.k8s.io/legacy-token-autogenerated-secret", name);
        USES.automatic.only().inc();
    } else {
        audit::annotate("authentication.k8s.io/legacy-token-manual-secret", name);
        USES.manual.only().inc();
    }
    let invalid =
        secret.labels().into_iter().any(|(label, since)| label == INVALID_SINCE && !since.is_empty());
    note_use(cluster, secret, now).await;
    if invalid {
        let place = format!("{namespace}/{name}");
        audit::annotate("authentication.k8s.io/legacy-token-invalidated", &place);
        USES.invalid.only().inc();
        return Err(format!(
            "the token in secret {place} for service account {namespace}/{account} has been marked invalid. Use tokens \
             from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label \
             from the secret to temporarily allow use of this token"
        ));
    }
    Ok(warnings)
}

fn held(secret: &Object) -> Option<Vec<u8>> {
    STANDARD.decode(secret.0["data"]["token"].as_str()?).ok()
}

/// Notes today as the day of the last use. That this fails is no reason to refuse: the next use notes it.
async fn note_use(cluster: &dyn ClusterState, mut secret: Object, now: Timestamp) {
    let day = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
    let today = day(now);
    let noted = secret.0["metadata"]["labels"][LAST_USED].as_str().map(str::to_owned);
    // Another server's clock may be a day ahead.
    if noted == Some(today.clone()) || noted == now.checked_add(24.hours()).ok().map(day) {
        return;
    }
    if !secret.0["metadata"]["labels"].is_object() {
        secret.0["metadata"]["labels"] = Value::Object(serde_json::Map::new());
    }
    secret.0["metadata"]["labels"][LAST_USED] = today.into();
    let name = secret.name().to_owned();
    if let Err(error) = cluster.replace(&GroupResource::new("", "secrets"), secret).await {
        tracing::debug!(%error, name, "the last use of a token is not noted");
    }
}
