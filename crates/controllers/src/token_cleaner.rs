//! Deletes bootstrap tokens once they have expired.
//!
//! Reads and deletes Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`.
//! Not here: refusing expired tokens (the API server does at once).
//! Upstream: `pkg/controller/bootstrap/tokencleaner.go`.

use api::types::core::v1::Secret;
use client::ListOptions;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

/// The controller.
pub struct TokenCleaner;

impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.select::<Secret>(ListOptions::fields(format!("type={TYPE}")));
        watches.primary::<Secret>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(secret) = view.get_key::<Secret>(key) else { return plan };
        if key.namespace() != NAMESPACE || secret.type_.as_deref() != Some(TYPE) {
            return plan;
        }
        match expires(&secret) {
            Some(at) if at <= now => drop(plan.act(Action::delete(&*secret))),
            Some(at) => drop(plan.requeue_at(at)),
            None => {}
        }
        plan
    }
}

/// When a token ends; `None` for never. What cannot be read has ended, as the API server holds it too.
fn expires(secret: &Secret) -> Option<Timestamp> {
    let bytes = &secret.data.as_ref()?.get("expiration")?.0;
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    Some(text.parse().unwrap_or(Timestamp::MIN))
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::json;

    use super::*;

    #[test]
    fn plans() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        // 1970-01-01T00:01:40Z and "x", in Base64.
        let (hundred, nonsense) = ("MTk3MC0wMS0wMVQwMDowMTo0MFo=", "eA==");
        for (what, data, now, deletes, again) in [
            ("not yet", json!({"expiration": hundred}), 50, 0, Some(at(100))),
            ("due", json!({"expiration": hundred}), 100, 1, None),
            ("never", json!({}), 500, 0, None),
            ("unreadable", json!({"expiration": nonsense}), 50, 1, None),
        ] {
            let secret: Secret = serde_json::from_value(json!({
                "metadata": {"name": "t", "namespace": NAMESPACE, "uid": "t"}, "type": TYPE, "data": data,
            }))
            .unwrap();
            let plan = Fixture::new(TokenCleaner).with(vec![secret]).plan(NAMESPACE, "t", at(now));
            assert_eq!((plan.actions().count(), plan.requeue_at), (deletes, again), "{what}");
        }
    }
}
