//! Publishes the API server's authority to every namespace, as ConfigMap `kube-root-ca.crt`.
//!
//! Reads namespaces and the ConfigMaps of that name. Creates and updates them.
//! Not here: mounting it into pods (the ServiceAccount admission plugin adds the projected volume).
//! Upstream: `pkg/controller/certificates/rootcacertpublisher`.

use std::collections::BTreeMap;

use api::meta::ObjectMeta;
use api::types::core::v1::{ConfigMap, Namespace};
use client::ListOptions;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::object;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

/// The controller; its keys are namespaces.
pub struct RootCa {
    pem: String,
}

impl RootCa {
    /// Publishes these certificates, PEM.
    pub fn new(pem: &str) -> RootCa {
        RootCa { pem: pem.to_owned() }
    }
}

impl Controller for RootCa {
    const NAME: &'static str = "root-ca-cert-publisher";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<Namespace>();
        watches.select::<ConfigMap>(ListOptions::fields(format!("metadata.name={NAME}")));
        watches.map::<ConfigMap>(|_, change, wake| {
            wake(Key::cluster(object::namespace(&**change.object())));
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get_key::<Namespace>(key) else { return plan };
        if object::deleting(&*namespace) {
            return plan;
        }
        let data = BTreeMap::from([("ca.crt".to_owned(), self.pem.clone())]);
        let annotation = || ("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
        match view.get::<ConfigMap>(key.name(), NAME) {
            None => {
                plan.act(Action::create(&ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        namespace: Some(key.name().to_owned()),
                        annotations: Some(BTreeMap::from([annotation()])),
                        ..ObjectMeta::default()
                    },
                    data: Some(data),
                    ..ConfigMap::default()
                }));
            }
            Some(map)
                if map.data.as_ref() != Some(&data)
                    || object::annotation(&*map, "kubernetes.io/description") != Some(DESCRIPTION) =>
            {
                let mut updated = ConfigMap::clone(&map);
                updated.data = Some(data);
                updated.metadata.annotations.get_or_insert_default().extend([annotation()]);
                plan.act(Action::update(&updated));
            }
            Some(_) => {}
        }
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
        let namespace = || -> Vec<Namespace> {
            vec![serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap()]
        };
        let map = |pem: &str| -> ConfigMap {
            serde_json::from_value(json!({
                "metadata": {"name": NAME, "namespace": "a", "annotations": {"kubernetes.io/description": DESCRIPTION}},
                "data": {"ca.crt": pem},
            }))
            .unwrap()
        };
        for (what, maps, expected) in [
            ("missing", vec![], vec!["create configmaps a/kube-root-ca.crt"]),
            ("as it should be", vec![map("new")], vec![]),
            ("of another authority", vec![map("old")], vec!["update configmaps a/kube-root-ca.crt"]),
        ] {
            let fixture = Fixture::new(RootCa::new("new")).with(namespace()).with(maps);
            assert_eq!(fixture.lines("", "a", Timestamp::UNIX_EPOCH), expected, "{what}");
        }
    }
}
