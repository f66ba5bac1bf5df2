//! What is counted of pods that are held to standards.
//! Upstream: staging/src/k8s.io/pod-security-admission/metrics.

use std::sync::LazyLock;

use foundation::metrics::{Counter, Family, registry};

use super::LevelVersion;
use crate::admission::Operation;

/// The minor version of Kubernetes whose standards are the newest known.
const NEWEST: u32 = 37;

struct Families {
    evaluations: Family<Counter>,
    exemptions: Family<Counter>,
    errors: Family<Counter>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let registry = registry();
    Families {
        evaluations: registry.counter(
            "pod_security_evaluations_total",
            "How often a standard was looked at, but for requests that are exempt.",
            &[
                "decision",
                "policy_level",
                "policy_version",
                "mode",
                "request_operation",
                "resource",
                "subresource",
            ],
        ),
        exemptions: registry.counter(
            "pod_security_exemptions_total",
            "Requests that are exempt from the standards.",
            &["request_operation", "resource", "subresource"],
        ),
        errors: registry.counter(
            "pod_security_errors_total",
            "What kept requests from being held to the right standard.",
            &["fatal", "request_operation", "resource", "subresource"],
        ),
    }
});

/// What a request does, as the series say it.
#[derive(Clone, Copy)]
pub(super) struct Counted<'a> {
    operation: &'static str,
    resource: &'static str,
    subresource: &'a str,
}

impl<'a> Counted<'a> {
    /// Those of a request about a pod, or about what makes pods.
    pub(super) fn of(operation: Operation, pod: bool, subresource: &'a str) -> Self {
        Self {
            operation: if operation == Operation::Create { "create" } else { "update" },
            resource: if pod { "pod" } else { "controller" },
            subresource,
        }
    }

    /// A standard was looked at. `mode`: what it is for.
    pub(super) fn evaluated(self, mode: &str, allowed: bool, standard: LevelVersion) {
        let decision = if allowed { "allow" } else { "deny" };
        let shown = standard.to_string();
        let (level, version) = shown.split_once(':').unwrap_or((&shown, "latest"));
        let version = if standard.version.is_some_and(|minor| minor > NEWEST) { "future" } else { version };
        let labels = [decision, level, version, mode, self.operation, self.resource, self.subresource];
        FAMILIES.evaluations.with(&labels).inc();
    }

    /// The request is exempt.
    pub(super) fn exempt(self) {
        FAMILIES.exemptions.with(&[self.operation, self.resource, self.subresource]).inc();
    }

    /// The labels of the namespace could not be read; `fatal`: so that there is no standard.
    pub(super) fn failed(self, fatal: bool) {
        let fatal = if fatal { "true" } else { "false" };
        FAMILIES.errors.with(&[fatal, self.operation, self.resource, self.subresource]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_standards_are_those_of_this_version() {
        assert!(crate::handlers::VERSION.starts_with(&format!("v1.{NEWEST}.")));
    }
}
