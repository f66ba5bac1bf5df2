//! Counts what each authorizer has decided. One that has no opinion decides nothing.
//! Upstream: apiserver/pkg/authorization/metrics.

use foundation::metrics::{Counter, registry};

use super::Decision;

/// The decisions of one authorizer.
pub(super) struct Decisions {
    allowed: Counter,
    denied: Counter,
}

impl Decisions {
    /// Those of one of this kind and name.
    pub(super) fn of(kind: &str, name: &str) -> Self {
        let decisions = registry().counter(
            "apiserver_authorization_decisions_total",
            "Decisions by the authorizer that made them.",
            &["type", "name", "decision"],
        );
        let of = |decision| decisions.with(&[kind, name, decision]);
        Self { allowed: of("allowed"), denied: of("denied") }
    }

    /// It has said this.
    pub(super) fn count(&self, decision: Decision) {
        match decision {
            Decision::Allow => self.allowed.inc(),
            Decision::Deny => self.denied.inc(),
            Decision::NoOpinion => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_counted_under_the_name_of_who_made_them() {
        let decisions = Decisions::of("RBAC", "counted-rbac");
        for decision in [Decision::Allow, Decision::Allow, Decision::Deny, Decision::NoOpinion] {
            decisions.count(decision);
        }
        let page = registry().render();
        for (decision, times) in [("allowed", 2), ("denied", 1)] {
            let line = format!(
                "apiserver_authorization_decisions_total{{type=\"RBAC\",name=\"counted-rbac\",decision=\"{decision}\"}} {times}"
            );
            assert!(page.lines().any(|known| known == line), "{line}");
        }
    }
}
