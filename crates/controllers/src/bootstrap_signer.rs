//! Signs the ConfigMap `cluster-info` with every bootstrap token, so that who has a token can trust what it says before it
//! trusts the server.
//!
//! Reads bootstrap tokens (Secrets in `kube-system`) and the ConfigMap in `kube-public`; writes a detached JWS per token
//! into the latter.
//! Not here: making the ConfigMap, deleting expired tokens (`token_cleaner`).
//! Upstream: `pkg/controller/bootstrap/bootstrapsigner.go`, `cluster-bootstrap/token/jws`.

use std::collections::BTreeMap;

use api::types::core::v1::{ConfigMap, Secret};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::ListOptions;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};
use ring::hmac;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const KUBECONFIG: &str = "kubeconfig";
const PREFIX: &str = "jws-kubeconfig-";
const TOKENS: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// The controller. It has one key.
pub struct BootstrapSigner;

impl Controller for BootstrapSigner {
    const NAME: &'static str = "bootstrap-signer";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.select::<ConfigMap>(ListOptions::fields(format!("metadata.name={NAME}")));
        watches.map::<ConfigMap>(|_, _, wake| wake(Key::new(NAMESPACE, NAME)));
        watches.select::<Secret>(ListOptions::fields(format!("type={TYPE}")));
        watches.map::<Secret>(|_, _, wake| wake(Key::new(NAMESPACE, NAME)));
    }

    fn plan(&self, view: &View<'_>, _: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(map) = view.get::<ConfigMap>(NAMESPACE, NAME) else { return plan };
        let data = map.data.clone().unwrap_or_default();
        let Some(content) = data.get(KUBECONFIG) else { return plan };
        let mut signed = data.clone();
        signed.retain(|key, _| !key.starts_with(PREFIX));
        for secret in view.list_namespace::<Secret>(TOKENS) {
            if let Some((id, token)) = usable(&secret, now) {
                signed.insert(format!("{PREFIX}{id}"), signature(content, &id, &token));
            }
        }
        if signed != data {
            let mut updated = ConfigMap::clone(&map);
            updated.data = Some(signed);
            plan.act(Action::update(&updated));
        }
        plan
    }
}

/// The id and the secret part of a token that is good for signing now.
fn usable(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let text = |key: &str| {
        let data: &BTreeMap<_, _> = secret.data.as_ref()?;
        String::from_utf8(data.get(key)?.0.clone()).ok().filter(|text| !text.is_empty())
    };
    let (id, token) = (text("token-id")?, text("token-secret")?);
    let named = secret.metadata.name.as_deref() == Some(&*format!("bootstrap-token-{id}"));
    // What cannot be read has ended.
    let ended = text("expiration").is_some_and(|end| !end.parse::<Timestamp>().is_ok_and(|end| end > now));
    let signs = text("usage-bootstrap-signing").as_deref() == Some("true");
    (secret.type_.as_deref() == Some(TYPE) && named && signs && !ended).then_some((id, token))
}

/// A JWS (HS256) of the content without the content itself.
fn signature(content: &str, id: &str, token: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_signature_is_the_one_that_joining_tools_expect() {
        // cluster-bootstrap/token/jws/jws_test.go has the same three and this result.
        let signature = signature(
            "Hello from the other side. I must have called a thousand times.",
            "joshua",
            "my voice is my passcode",
        );
        assert_eq!(
            signature,
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }

    #[test]
    fn plans() {
        let secret = |id: &str, change: serde_json::Value| -> Secret {
            let mut data = json!({"token-id": id, "token-secret": "s", "usage-bootstrap-signing": "true"});
            for (key, value) in change.as_object().unwrap() {
                data[key] = value.clone();
            }
            let data: BTreeMap<String, api::k8s_openapi::ByteString> = data
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| {
                    (key.clone(), api::k8s_openapi::ByteString(value.as_str().unwrap().as_bytes().to_vec()))
                })
                .collect();
            let mut secret = Secret { data: Some(data), type_: Some(TYPE.to_owned()), ..Secret::default() };
            secret.metadata.name = Some(format!("bootstrap-token-{id}"));
            secret.metadata.namespace = Some(TOKENS.to_owned());
            secret
        };
        let map = |keys: &[&str]| -> ConfigMap {
            let mut data = BTreeMap::from([(KUBECONFIG.to_owned(), "k".to_owned())]);
            for id in keys {
                data.insert(format!("{PREFIX}{id}"), signature("k", id, "s"));
            }
            serde_json::from_value(json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data}))
                .unwrap()
        };
        let (past, future) = ("1970-01-01T00:00:01Z", "2970-01-01T00:00:01Z");
        for (what, map, secrets, changes) in [
            ("a new token", map(&[]), vec![secret("a", json!({}))], true),
            ("signed", map(&["a"]), vec![secret("a", json!({"expiration": future}))], false),
            ("gone", map(&["a"]), vec![], true),
            ("expired", map(&["a"]), vec![secret("a", json!({"expiration": past}))], true),
            (
                "not for signing",
                map(&[]),
                vec![secret("a", json!({"usage-bootstrap-signing": "false"}))],
                false,
            ),
        ] {
            let now = Timestamp::from_second(1000).unwrap();
            let plan = Fixture::new(BootstrapSigner).with(vec![map]).with(secrets).plan(NAMESPACE, NAME, now);
            assert_eq!(plan.actions().count() == 1, changes, "{what}");
        }
    }
}
