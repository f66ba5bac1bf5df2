//! How long admission takes: all of it, each plugin, each webhook; and what came of webhooks and policies.
//!
//! The counters of a plugin are kept from its first use: a write passes two dozen of them.
//! Upstream: apiserver/pkg/admission/metrics.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use foundation::metrics::{Counter, Family, Histogram, registry};

use super::Operation;
use super::dynamic::matching::operation as spelled;
use super::webhook::{Failure, Webhook};

const BOUNDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_BOUNDS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

static STEPS: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    registry().histogram(
        "apiserver_admission_step_admission_duration_seconds",
        "How long each half of admission took, in seconds.",
        &["type", "operation", "rejected"],
        BOUNDS,
    )
});
static PLUGINS: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    registry().histogram(
        "apiserver_admission_controller_admission_duration_seconds",
        "How long each admission plugin took, in seconds.",
        &["name", "type", "operation", "rejected"],
        BOUNDS,
    )
});
/// Which half of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Admit,
    Validate,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }
}

/// By operation, and whether it was refused.
#[derive(Default)]
struct Handles([[OnceLock<Histogram>; 2]; 4]);

impl Handles {
    fn at(&self, operation: Operation, rejected: bool) -> &OnceLock<Histogram> {
        &self.0[operation as usize][usize::from(rejected)]
    }
}

/// The counters of one chain of plugins. Clones share them.
#[derive(Clone)]
pub(super) struct Metrics(Arc<[(&'static str, Handles, Handles)]>);

fn flag(rejected: bool) -> &'static str {
    if rejected { "true" } else { "false" }
}

impl Metrics {
    /// For plugins of these names; the last entry is for all together.
    pub(super) fn new(names: impl Iterator<Item = &'static str>) -> Self {
        let names = names.chain(std::iter::once(""));
        Self(names.map(|name| (name, Handles::default(), Handles::default())).collect())
    }

    /// Counts what the plugin at this place did.
    pub(super) fn plugin(&self, at: usize, step: Step, operation: Operation, rejected: bool, took: Duration) {
        let make = |name: &str| PLUGINS.with(&[name, step.as_str(), spelled(operation), flag(rejected)]);
        self.observe(at, step, operation, rejected, took, make);
    }

    /// Counts what all of them did.
    pub(super) fn step(&self, step: Step, operation: Operation, rejected: bool, took: Duration) {
        let make = |_: &str| STEPS.with(&[step.as_str(), spelled(operation), flag(rejected)]);
        self.observe(self.0.len() - 1, step, operation, rejected, took, make);
    }

    fn observe(
        &self,
        at: usize,
        step: Step,
        operation: Operation,
        rejected: bool,
        took: Duration,
        make: impl FnOnce(&str) -> Histogram,
    ) {
        let (name, admit, validate) = &self.0[at];
        let handles = if step == Step::Admit { admit } else { validate };
        handles.at(operation, rejected).get_or_init(|| make(name)).observe_duration(took);
    }
}

struct Webhooks {
    latency: Family<Histogram>,
    requests: Family<Counter>,
    rejections: Family<Counter>,
    open: Family<Counter>,
}

static WEBHOOKS: LazyLock<Webhooks> = LazyLock::new(|| {
    let registry = registry();
    Webhooks {
        latency: registry.histogram(
            "apiserver_admission_webhook_admission_duration_seconds",
            "How long each admission webhook took, in seconds.",
            &["name", "type", "operation", "rejected"],
            WEBHOOK_BOUNDS,
        ),
        requests: registry.counter(
            "apiserver_admission_webhook_request_total",
            "Calls of each admission webhook, by the code that came of it and whether it kept the request from going on.",
            &["name", "type", "operation", "code", "rejected"],
        ),
        rejections: registry.counter(
            "apiserver_admission_webhook_rejection_count",
            "Requests that each admission webhook kept from going on: it refused (no_error, with its code), or failed.",
            &["name", "type", "operation", "error_type", "rejection_code"],
        ),
        open: registry.counter(
            "apiserver_admission_webhook_fail_open_count",
            "Requests that went on though the admission webhook failed.",
            &["name", "type"],
        ),
    }
});

/// Codes above are not told apart.
const LARGEST: u16 = 600;

/// Counts a call of a webhook. Upstream's type of the mutating ones is `admit`, of the others `validating`.
pub(super) fn webhook<T>(
    webhook: &Webhook,
    step: Step,
    operation: Operation,
    outcome: &Result<T, Failure>,
    took: Duration,
) {
    let (name, operation) = (webhook.name.as_str(), spelled(operation));
    let kind = if step == Step::Admit { "admit" } else { "validating" };
    let (code, rejection) = match outcome {
        Ok(_) => (200, None),
        Err(Failure::Calling(_, code)) if webhook.ignores_failure => {
            WEBHOOKS.open.with(&[name, kind]).inc();
            (*code, None)
        }
        Err(Failure::Calling(_, code)) => (*code, Some("calling_webhook_error")),
        Err(Failure::Denied(status)) => (status.code, Some("no_error")),
        Err(Failure::Internal(_)) => (0, Some("apiserver_internal_error")),
    };
    let code = code.min(LARGEST).to_string();
    let rejected = flag(rejection.is_some());
    if let Some(error) = rejection {
        WEBHOOKS.rejections.with(&[name, kind, operation, error, &code]).inc();
    }
    WEBHOOKS.requests.with(&[name, kind, operation, &code, rejected]).inc();
    WEBHOOKS.latency.with(&[name, kind, operation, rejected]).observe_duration(took);
    // The others are asked at once: who asks them tells how long it took.
    if step == Step::Admit {
        crate::metrics::elsewhere(took);
    }
}

struct Policies {
    checks: Family<Counter>,
    latency: Family<Histogram>,
}

static POLICIES: LazyLock<Policies> = LazyLock::new(|| {
    const LABELS: &[&str] = &["policy", "policy_binding", "error_type", "enforcement_action"];
    Policies {
        checks: registry().counter(
            "apiserver_validating_admission_policy_check_total",
            "Validations of policies that did not hold or could not be evaluated, by what was done about them.",
            LABELS,
        ),
        latency: registry().histogram(
            "apiserver_validating_admission_policy_check_duration_seconds",
            "How long those validations took, in seconds.",
            LABELS,
            &[5e-7, 0.001, 0.01, 0.1, 1.0],
        ),
    }
});

/// Counts a validation of a policy under a binding, which had this consequence (`deny`, `warn`, `audit`; `allow` where an
/// error is ignored).
pub(super) fn checked(policy: &str, binding: &str, error: &str, consequence: &str, took: Duration) {
    let labels = [policy, binding, error, consequence];
    POLICIES.checks.with(&labels).inc();
    POLICIES.latency.with(&labels).observe_duration(took);
}

#[cfg(test)]
mod tests {
    use api::Status;

    use super::*;
    use crate::admission::webhook::testing;

    #[test]
    fn webhooks_are_counted_by_what_came_of_them() {
        let denied = || Err(Failure::Denied(Box::new(Status::new(999, api::Reason::Unknown, "no"))));
        let calling = || Err(Failure::Calling("refused".into(), 503));
        let internal = || Err(Failure::internal(Status::internal("no patch")));
        #[rustfmt::skip]
        let table: [(&str, &str, Result<(), Failure>, &[&str]); 5] = [
            ("passes", "Fail", Ok(()), &[
                "webhook_request_total{name=\"passes\",type=\"validating\",operation=\"UPDATE\",code=\"200\",rejected=\"false\"} 1",
            ]),
            ("denies", "Fail", denied(), &[
                "webhook_request_total{name=\"denies\",type=\"validating\",operation=\"UPDATE\",code=\"600\",rejected=\"true\"} 1",
                "webhook_rejection_count{name=\"denies\",type=\"validating\",operation=\"UPDATE\",error_type=\"no_error\",rejection_code=\"600\"} 1",
            ]),
            ("fails", "Fail", calling(), &[
                "webhook_request_total{name=\"fails\",type=\"validating\",operation=\"UPDATE\",code=\"503\",rejected=\"true\"} 1",
                "webhook_rejection_count{name=\"fails\",type=\"validating\",operation=\"UPDATE\",error_type=\"calling_webhook_error\",rejection_code=\"503\"} 1",
            ]),
            ("opens", "Ignore", calling(), &[
                "webhook_request_total{name=\"opens\",type=\"validating\",operation=\"UPDATE\",code=\"503\",rejected=\"false\"} 1",
                "webhook_fail_open_count{name=\"opens\",type=\"validating\"} 1",
            ]),
            ("breaks", "Ignore", internal(), &[
                "webhook_request_total{name=\"breaks\",type=\"validating\",operation=\"UPDATE\",code=\"0\",rejected=\"true\"} 1",
                "webhook_rejection_count{name=\"breaks\",type=\"validating\",operation=\"UPDATE\",error_type=\"apiserver_internal_error\",rejection_code=\"0\"} 1",
            ]),
        ];
        for (name, policy, outcome, lines) in table {
            let one = testing::webhook(name, policy);
            webhook(&one, Step::Validate, Operation::Update, &outcome, Duration::ZERO);
            let page = registry().render();
            for line in lines {
                let line = format!("apiserver_admission_{line}");
                assert!(page.lines().any(|known| known == line), "{line}");
            }
            for absent in ["rejection_count", "fail_open_count"] {
                let told = page.contains(&format!("webhook_{absent}{{name=\"{name}\""));
                assert_eq!(told, lines.iter().any(|line| line.contains(absent)), "{name}: {absent}");
            }
        }
    }
}
