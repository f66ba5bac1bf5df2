//! Fills ClusterRoles with an `aggregationRule` with the rules of the ClusterRoles that it selects.
//!
//! Reads and updates ClusterRoles.
//! Not here: deciding requests by them (the API server's authorizer).
//! Upstream: `pkg/controller/clusterroleaggregation`.

use api::selector::labels::Selector;
use api::types::rbac::v1::{ClusterRole, PolicyRule};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::object;

/// The controller; its keys are ClusterRoles with a rule.
pub struct ClusterRoleAggregation;

impl Controller for ClusterRoleAggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        // Any ClusterRole may be part of any other; there are few of those that gather.
        watches.index::<ClusterRole>("aggregates", |role| {
            if role.aggregation_rule.is_some() { vec![String::new()] } else { Vec::new() }
        });
        watches.map::<ClusterRole>(|caches, _, wake| {
            for role in caches.by_index::<ClusterRole>("aggregates", "") {
                wake(Key::of(&*role));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(role) = view.get_key::<ClusterRole>(key) else { return plan };
        let Some(rule) = &role.aggregation_rule else { return plan };
        let selectors: Vec<Selector> = rule
            .cluster_role_selectors
            .iter()
            .flatten()
            .filter_map(|selector| Selector::from_label_selector(Some(selector)).ok())
            .collect();
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in selectors {
            // In the order of their names, so that the result does not depend on who came first.
            for other in view.list::<ClusterRole>() {
                if object::name(&*other) == key.name() || !selector.matches(object::labels(&*other)) {
                    continue;
                }
                for rule in other.rules.iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        if role.rules.as_deref().unwrap_or_default() != rules {
            let mut updated = ClusterRole::clone(&role);
            updated.rules = Some(rules);
            plan.act(Action::update(&updated));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn role(name: &str, labels: Value, aggregates: bool, verbs: &[&str]) -> ClusterRole {
        let rule = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "admin"}}]});
        let rules: Vec<_> = verbs.iter().map(|verb| json!({"verbs": [verb]})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "aggregationRule": if aggregates { rule } else { Value::Null },
            "rules": rules,
        }))
        .unwrap()
    }

    #[test]
    fn rules_are_gathered_once_each() {
        let roles = |have: &[&str]| {
            vec![
                role("admin", json!({"to": "admin"}), true, have),
                role("one", json!({"to": "admin"}), false, &["get", "list"]),
                role("other", json!({"to": "nobody"}), false, &["delete"]),
                role("two", json!({"to": "admin"}), false, &["list", "watch"]),
            ]
        };
        let fixture = Fixture::new(ClusterRoleAggregation).with(roles(&[]));
        assert_eq!(fixture.woken(), ["admin"]);
        let plan = fixture.plan("", "admin", Timestamp::UNIX_EPOCH);
        let written: ClusterRole = plan.actions().next().unwrap().object().unwrap();
        let verbs: Vec<_> = written.rules.unwrap().into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list", "watch"]);
        let fixture = fixture.with(roles(&["get", "list", "watch"]));
        assert!(fixture.lines("", "admin", Timestamp::UNIX_EPOCH).is_empty());
    }
}
