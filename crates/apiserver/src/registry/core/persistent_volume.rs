//! `persistentvolumes`: when a volume came into its phase.
//! Not here: the phase of a new volume (its kind), which phase it is in (the binder).
//! Upstream: pkg/registry/core/persistentvolume/strategy.go.

use api::Object;

use super::super::Rest;

pub(in crate::registry) struct PersistentVolumes;

impl Rest for PersistentVolumes {
    /// The time goes with the phase, unless whoever changes the phase says another.
    fn before_status(&self, new: &mut Object, old: &Object, now: &str) {
        const TIME: &str = "lastPhaseTransitionTime";
        let (status, before) = (&new.0["status"], &old.0["status"]);
        let said = !status[TIME].is_null() && status[TIME] != before[TIME];
        if status["phase"] != before["phase"] && !said {
            new.0["status"][TIME] = now.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_time_goes_with_the_phase() {
        let (then, now, said) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-01-15T00:00:00Z");
        let status = |phase: &str, time: Value| {
            Object(json!({"status": {"phase": phase, "lastPhaseTransitionTime": time}}))
        };
        for (phase, time, wanted) in [
            ("Bound", json!(then), now),
            ("Bound", Value::Null, now),
            ("Bound", json!(said), said),
            ("Available", json!(then), then),
        ] {
            let old = status("Available", json!(then));
            let mut new = status(phase, time.clone());
            PersistentVolumes.before_status(&mut new, &old, now);
            assert_eq!(new.0["status"]["lastPhaseTransitionTime"], wanted, "{phase} {time}");
        }
    }
}
