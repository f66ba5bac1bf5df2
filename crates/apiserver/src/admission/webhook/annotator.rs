//! What the audit log is told of a webhook that was called: which one, in which round and place, what it changed.
//! Upstream: apiserver `pkg/admission/plugin/webhook/{mutating,validating}/dispatcher.go`.

use serde_json::{Value, json};

use super::Webhook;
use crate::audit;
use crate::audit::policy::Level;

/// One call.
#[derive(Clone, Copy)]
pub(super) struct Annotator<'a> {
    webhook: &'a Webhook,
    /// `mutating` or `validating`.
    kind: &'static str,
    /// 1 where the webhook runs again.
    round: u8,
    /// Its place: mutating webhooks are counted among all, validating ones among those that were called.
    index: usize,
}

impl<'a> Annotator<'a> {
    pub(super) fn mutating(webhook: &'a Webhook, again: bool, index: usize) -> Self {
        Self { webhook, kind: "mutating", round: u8::from(again), index }
    }

    pub(super) fn validating(webhook: &'a Webhook, index: usize) -> Self {
        Self { webhook, kind: "validating", round: 0, index }
    }

    fn key(&self, what: &str) -> String {
        format!("{what}.webhook.admission.k8s.io/round_{}_index_{}", self.round, self.index)
    }

    /// In the order of upstream's fields, which readers of logs match as text.
    fn value(&self, more: &[(&str, Value)]) -> String {
        let mut out = format!(
            "{{\"configuration\":{},\"webhook\":{}",
            json!(self.webhook.configuration),
            json!(self.webhook.name)
        );
        for (field, value) in more {
            out.push_str(&format!(",\"{field}\":{value}"));
        }
        out + "}"
    }

    /// It was called, and has changed the object or not.
    pub(super) fn called(&self, mutated: bool) {
        let value = || self.value(&[("mutated", mutated.into())]);
        audit::annotate_from(Level::Metadata, &self.key("mutation"), value);
    }

    /// What it has changed.
    pub(super) fn patched(&self, patch: &Value) {
        let value = || self.value(&[("patch", patch.clone()), ("patchType", "JSONPatch".into())]);
        audit::annotate_from(Level::Request, &self.key("patch"), value);
    }

    /// It could not be called, and the request went on without it.
    pub(super) fn failed_open(&self) {
        let key = self.key(&format!("failed-open.{}", self.kind));
        audit::annotate_from(Level::Metadata, &key, || self.webhook.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::Failure;
    use super::super::{failed, testing};
    use super::*;
    use crate::audit::tests::annotated;

    #[tokio::test]
    async fn the_log_says_what_a_webhook_did() {
        let webhook = testing::webhook("w.example.com", "Ignore");
        let patch = json!([{ "op": "add", "path": "/data/a", "value": "b" }]);
        let calls = |level| {
            annotated(level, async {
                Annotator::mutating(&webhook, false, 2).called(false);
                let second = Annotator::mutating(&webhook, true, 3);
                second.patched(&patch);
                second.called(true);
            })
        };
        let (_, notes) = calls("Metadata").await;
        let mutation = |n: &str| format!("mutation.webhook.admission.k8s.io/{n}");
        let before = json!({
            mutation("round_0_index_2"): r#"{"configuration":"c","webhook":"w.example.com","mutated":false}"#,
            mutation("round_1_index_3"): r#"{"configuration":"c","webhook":"w.example.com","mutated":true}"#,
        });
        assert_eq!(notes, before, "patches are not for the level Metadata");
        let (_, notes) = calls("Request").await;
        let shown = r#"{"configuration":"c","webhook":"w.example.com","patch":[{"op":"add","path":"/data/a","value":"b"}],"patchType":"JSONPatch"}"#;
        assert_eq!(notes["patch.webhook.admission.k8s.io/round_1_index_3"], shown);
    }

    #[tokio::test]
    async fn what_was_let_through_in_spite_of_a_failure_is_noted() {
        for (policy, passes) in [("Ignore", true), ("Fail", false)] {
            let webhook = testing::webhook("w.example.com", policy);
            for (annotator, key) in [
                (
                    Annotator::validating(&webhook, 1),
                    "failed-open.validating.webhook.admission.k8s.io/round_0_index_1",
                ),
                (
                    Annotator::mutating(&webhook, true, 0),
                    "failed-open.mutating.webhook.admission.k8s.io/round_1_index_0",
                ),
            ] {
                let call = async { failed(&webhook, Failure::Calling("refused".into(), 503), annotator) };
                let (outcome, notes) = annotated("Metadata", call).await;
                assert_eq!(outcome.is_ok(), passes);
                assert_eq!(notes, if passes { json!({ key: "w.example.com" }) } else { json!({}) });
            }
        }
    }
}
