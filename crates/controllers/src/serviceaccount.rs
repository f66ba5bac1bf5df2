//! Gives every namespace its ServiceAccount `default`.
//!
//! Reads namespaces and ServiceAccounts. Creates ServiceAccounts.
//! Not here: tokens (the API server issues them on request).
//! Upstream: `pkg/controller/serviceaccount`.

use api::meta::ObjectMeta;
use api::types::core::v1::{Namespace, ServiceAccount};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::object;

const DEFAULT: &str = "default";

/// The controller; its keys are namespaces.
pub struct ServiceAccounts;

impl Controller for ServiceAccounts {
    const NAME: &'static str = "serviceaccount-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<Namespace>();
        watches.map::<ServiceAccount>(|_, change, wake| {
            if change.is_deleted() && object::name(&**change.object()) == DEFAULT {
                wake(Key::cluster(object::namespace(&**change.object())));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get_key::<Namespace>(key) else { return plan };
        if object::deleting(&*namespace) || view.get::<ServiceAccount>(key.name(), DEFAULT).is_some() {
            return plan;
        }
        plan.act(Action::create(&ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT.to_owned()),
                namespace: Some(key.name().to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        }));
        plan
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::json;

    use super::*;

    #[test]
    fn plans() {
        let namespace = |meta: serde_json::Value| -> Namespace {
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        let account = |name: &str| -> ServiceAccount {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a"}})).unwrap()
        };
        let new = namespace(json!({"name": "a"}));
        let going = namespace(json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}));
        for (what, namespaces, accounts, expected) in [
            ("a new namespace", vec![new.clone()], vec![], vec!["create serviceaccounts a/default"]),
            ("it is there", vec![new.clone()], vec![account("default")], vec![]),
            (
                "only another is there",
                vec![new],
                vec![account("x")],
                vec!["create serviceaccounts a/default"],
            ),
            ("the namespace is going", vec![going], vec![], vec![]),
            ("no namespace", vec![], vec![], vec![]),
        ] {
            let fixture = Fixture::new(ServiceAccounts).with(namespaces).with(accounts);
            assert_eq!(fixture.lines("", "a", Timestamp::UNIX_EPOCH), expected, "{what}");
        }
    }

    #[test]
    fn a_deleted_default_wakes_its_namespace() {
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "default", "namespace": "a"}})).unwrap();
        let fixture = Fixture::new(ServiceAccounts).with(vec![account]);
        fixture.woken();
        let fixture = fixture.with(Vec::<ServiceAccount>::new());
        assert_eq!(fixture.woken(), ["a"]);
    }
}
