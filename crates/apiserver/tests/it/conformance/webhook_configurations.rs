//! test/e2e/apimachinery/webhook.go: what becomes of configurations that are listed, changed, or have conditions.

use serde_json::{Value, json};

use super::webhook::{
    CONFIG_MAPS, MUTATING, VALIDATING, configuration, image, mutating, rule, webhook, with_data,
};
use super::webhook_server::{WebhookServer, seen};
use crate::world::World;

async fn patching_and_updating(
    path: &str,
    kind: &str,
    client: &str,
    works: fn(&crate::world::Answer) -> bool,
) {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let one = webhook(
        "test.webhook.k8s.io",
        server.client(client),
        json!([rule("", &["configmaps"], &["CREATE"])]),
    );
    let made = world.admin.post(path, &configuration(kind, "changing", vec![one])).await.is(201);
    seen(&world, path, &made).await;
    let object = |name: &str| {
        with_data(name, json!({"mutation-start": "yes", "webhook-e2e-test": "webhook-disallow"}))
    };
    assert!(works(&world.admin.post(CONFIG_MAPS, &object("a")).await));
    let named = format!("{path}/changing");
    let mut updated = world.admin.get(&named).await.is(200).body.clone();
    updated["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    let written = world.admin.put(&named, &updated).await.is(200);
    seen(&world, path, &written).await;
    assert!(!works(&world.admin.post(CONFIG_MAPS, &object("b")).await), "no longer asked for");
    let back = json!({"webhooks": [{"name": "test.webhook.k8s.io", "rules": [rule("", &["configmaps"], &["CREATE"])]}]});
    let written = world.admin.patch(&named, "strategic-merge-patch+json", &back).await.is(200);
    seen(&world, path, &written).await;
    assert!(works(&world.admin.post(CONFIG_MAPS, &object("c")).await), "asked for again");
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] patching/updating a validating webhook should work [Conformance]
#[tokio::test]
async fn patching_updating_a_validating_webhook_should_work() {
    patching_and_updating(VALIDATING, "ValidatingWebhookConfiguration", "/configmaps", |answer| {
        answer.code == 400
    })
    .await;
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] patching/updating a mutating webhook should work [Conformance]
#[tokio::test]
async fn patching_updating_a_mutating_webhook_should_work() {
    let works = |answer: &crate::world::Answer| answer.at("/data/mutation-stage-1") == "yes";
    patching_and_updating(MUTATING, "MutatingWebhookConfiguration", "/mutating-configmaps", works).await;
}

async fn listing(path: &str, kind: &str, client: &str, works: fn(&crate::world::Answer) -> bool) {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    for index in 0..10 {
        let name = format!("listed-{index}");
        let one = webhook(
            &format!("{name}.webhook.k8s.io"),
            server.client(client),
            json!([rule("", &["configmaps"], &["CREATE"])]),
        );
        let made = world.admin.post(path, &configuration(kind, &name, vec![one])).await.is(201);
        seen(&world, path, &made).await;
    }
    let selected = format!("{path}?labelSelector=e2e%3Dwebhooks");
    assert_eq!(world.admin.get(&selected).await.is(200).names().len(), 10);
    let object = |name: &str| {
        with_data(name, json!({"mutation-start": "yes", "webhook-e2e-test": "webhook-disallow"}))
    };
    assert!(works(&world.admin.post(CONFIG_MAPS, &object("a")).await));
    world.admin.delete(&selected, None).await.is(200);
    let empty = world.admin.get(path).await.is(200);
    assert!(empty.names().is_empty());
    assert!(!works(&world.admin.post(CONFIG_MAPS, &object("b")).await), "all are gone");
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] listing validating webhooks should work [Conformance]
#[tokio::test]
async fn listing_validating_webhooks_should_work() {
    listing(VALIDATING, "ValidatingWebhookConfiguration", "/configmaps", |answer| answer.code == 400).await;
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] listing mutating webhooks should work [Conformance]
#[tokio::test]
async fn listing_mutating_webhooks_should_work() {
    let works = |answer: &crate::world::Answer| answer.at("/data/mutation-stage-1") == "yes";
    listing(MUTATING, "MutatingWebhookConfiguration", "/mutating-configmaps", works).await;
}

async fn with_conditions(path: &str, kind: &str, expressions: &[&str]) -> crate::world::Answer {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let conditions: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(index, expression)| json!({"name": format!("condition-{index}"), "expression": expression}))
        .collect();
    let mut one = webhook(
        "conditions.webhook.k8s.io",
        server.client("/x"),
        json!([rule("", &["configmaps"], &["CREATE"])]),
    );
    one["matchConditions"] = json!(conditions);
    let made = world.admin.post(path, &configuration(kind, "conditions", vec![one])).await;
    if made.code == 201 {
        let named = format!("{path}/conditions");
        let mut updated = world.admin.get(&named).await.is(200).body.clone();
        assert_eq!(updated["webhooks"][0]["matchConditions"], json!(conditions));
        updated["webhooks"][0]["matchConditions"] = json!([{"name": "updated", "expression": "true"}]);
        let updated = world.admin.put(&named, &updated).await.is(200);
        assert_eq!(updated.at("/webhooks/0/matchConditions/0/name"), "updated");
    }
    made
}

const GOOD: [&str; 2] = [
    "object.metadata.namespace == 'production'",
    "authorizer.group('').resource('pods').check('get').allowed()",
];
const BAD: [&str; 2] = ["... [] bad expression", "... [] bad expression"];

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to create and update validating webhook configurations with match conditions [Conformance]
#[tokio::test]
async fn should_be_able_to_create_and_update_validating_webhook_configurations_with_match_conditions() {
    with_conditions(VALIDATING, "ValidatingWebhookConfiguration", &GOOD).await.is(201);
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to create and update mutating webhook configurations with match conditions [Conformance]
#[tokio::test]
async fn should_be_able_to_create_and_update_mutating_webhook_configurations_with_match_conditions() {
    with_conditions(MUTATING, "MutatingWebhookConfiguration", &GOOD).await.is(201);
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should reject validating webhook configurations with invalid match conditions [Conformance]
#[tokio::test]
async fn should_reject_validating_webhook_configurations_with_invalid_match_conditions() {
    let refused = with_conditions(VALIDATING, "ValidatingWebhookConfiguration", &BAD).await.is(422);
    assert!(refused.message().contains("compilation failed"), "{}", refused.message());
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should reject mutating webhook configurations with invalid match conditions [Conformance]
#[tokio::test]
async fn should_reject_mutating_webhook_configurations_with_invalid_match_conditions() {
    let refused = with_conditions(MUTATING, "MutatingWebhookConfiguration", &BAD).await.is(422);
    assert!(refused.message().contains("compilation failed"), "{}", refused.message());
}

/// Conformance: [sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate everything except 'skip-me' configmaps [Conformance]
#[tokio::test]
async fn should_mutate_everything_except_skip_me_configmaps() {
    let world = World::new().await;
    let server = WebhookServer::start(&world, image).await;
    let mut one = webhook(
        "skip.webhook.k8s.io",
        server.client("/mutating-configmaps"),
        json!([rule("", &["configmaps"], &["CREATE"])]),
    );
    one["matchConditions"] = json!([{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]);
    mutating(&world, "skip", vec![one]).await;
    for (name, mutated) in [("skip-me", false), ("mutate-me", true)] {
        let made =
            world.admin.post(CONFIG_MAPS, &with_data(name, json!({"mutation-start": "yes"}))).await.is(201);
        assert_eq!(made.at("/data/mutation-stage-1") == "yes", mutated, "{name}");
    }
}
