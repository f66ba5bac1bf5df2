//! The four patches. The input is a document, a zero byte, a patch.

use schema::patch::apply::{Single, Writer};
use schema::{FieldValidation, Schema, decode_value, patch};
use serde_json::Value;

fn read(data: &[u8]) -> Option<(Value, Value)> {
    let [document, change] = crate::parts(data)?;
    let (document, _) = patch::parse(document, FieldValidation::Ignore).ok()?;
    let (change, _) = patch::parse(change, FieldValidation::Warn).ok()?;
    Some((document, change))
}

fn deployment() -> Schema {
    Schema::built_in("io.k8s.api.apps.v1.Deployment").expect("the table has deployments")
}

/// JSON patch.
pub fn json(data: &[u8]) {
    let Some((document, change)) = read(data) else { return };
    let size = document.to_string().len();
    if let Ok(patched) = patch::json_patch(document, &change) {
        // Copies are bounded in what they add.
        let most = size + change.to_string().len() + patch::MAX_COPIED_BYTES;
        assert!(patched.to_string().len() <= most);
    }
}

/// JSON merge patch.
pub fn merge(data: &[u8]) {
    let Some((document, change)) = read(data) else { return };
    if let Ok(once) = patch::merge_patch(document, &change) {
        assert_eq!(patch::merge_patch(once.clone(), &change), Ok(once));
    }
}

/// Strategic merge patch of a deployment.
pub fn strategic(data: &[u8]) {
    let Some((document, change)) = read(data) else { return };
    if let Ok(patched) = patch::strategic::apply(document, &change, &deployment()) {
        let _ = patch::decode(&patched, &deployment(), FieldValidation::Strict);
    }
}

/// Server-side apply by two managers, the second by force.
pub fn apply(data: &[u8]) {
    let Some((live, config)) = read(data) else { return };
    let schema = deployment();
    let decoded = |value: &Value| decode_value(value, &schema, FieldValidation::Ignore);
    let (Ok(live), Ok(config)) = (decoded(&live), decoded(&config)) else { return };
    let writer = |manager| Writer {
        manager,
        subresource: "",
        ignored: &[&["status"]],
        now: "2024-01-01T00:00:00Z",
        versions: &Single,
    };
    let _ = patch::apply::apply(&live.value, &config.value, &schema, &writer("one"), false);
    let Ok(once) = patch::apply::apply(&live.value, &config.value, &schema, &writer("two"), true) else {
        return;
    };
    let again = patch::apply::apply(&once, &config.value, &schema, &writer("two"), false);
    assert_eq!(again, Ok(once.clone()));
    // Any other write keeps account of who set what.
    let mut other = live.value.clone();
    let _ = patch::apply::track(Some(&once), &mut other, &schema, &writer("three"));
}
