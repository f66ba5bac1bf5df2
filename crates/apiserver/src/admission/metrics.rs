//! How long admission takes: all of it, each plugin, each webhook.
//!
//! The counters of a plugin are kept from its first use: a write passes two dozen of them.
//! Upstream: apiserver/pkg/admission/metrics.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use foundation::metrics::{Family, Histogram, registry};

use super::Operation;
use super::dynamic::matching::operation as spelled;

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
static WEBHOOKS: LazyLock<Family<Histogram>> = LazyLock::new(|| {
    registry().histogram(
        "apiserver_admission_webhook_admission_duration_seconds",
        "How long each admission webhook took, in seconds.",
        &["name", "type", "operation", "rejected"],
        WEBHOOK_BOUNDS,
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

/// Counts a call of a webhook. Upstream's type of the mutating ones is `admit`, of the others `validating`.
pub(super) fn webhook(name: &str, step: Step, operation: Operation, rejected: bool, took: Duration) {
    let kind = if step == Step::Admit { "admit" } else { "validating" };
    WEBHOOKS.with(&[name, kind, spelled(operation), flag(rejected)]).observe_duration(took);
    // The others are asked at once: who asks them tells how long it took.
    if step == Step::Admit {
        crate::metrics::elsewhere(took);
    }
}
