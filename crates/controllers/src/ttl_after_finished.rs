//! Deletes finished Jobs once `.spec.ttlSecondsAfterFinished` has elapsed.
//!
//! Reads Jobs. Deletes Jobs (foreground, UID precondition).
//! Not here: deleting the Job's pods (the garbage collector).
//! Upstream: `pkg/controller/ttlafterfinished`.

use api::types::batch::v1::Job;
use client::{DeleteOptions, Propagation};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::{job, object};

/// The controller.
pub struct TtlAfterFinished;

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.map::<Job>(|_, change, wake| {
            if !change.is_deleted() && job::finished_at(change.object()).is_some() {
                wake(Key::of(&**change.object()));
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(job) = view.get_key::<Job>(key) else { return plan };
        let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let (Some(ttl), Some(finished)) = (ttl, job::finished_at(&job)) else { return plan };
        if object::deleting(&*job) {
            return plan;
        }
        let due = object::after(finished, i64::from(ttl));
        if now < due {
            plan.requeue_at(due);
            return plan;
        }
        let options = DeleteOptions::uid(object::uid(&*job)).with_propagation(Propagation::Foreground);
        plan.act(Action::delete_with(&*job, options));
        plan
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn plans() {
        let done = json!([{"type": "Complete", "status": "True", "lastTransitionTime": at(100)}]);
        let failed = json!([{"type": "Failed", "status": "True", "lastTransitionTime": at(100)}]);
        for (what, ttl, conditions, now, deletes, again) in [
            ("not finished", json!(10), json!([]), 500, false, None),
            ("no limit", Value::Null, done.clone(), 500, false, None),
            ("not yet", json!(10), done.clone(), 105, false, Some(at(110))),
            ("due", json!(10), done.clone(), 110, true, None),
            ("failed counts as finished", json!(10), failed, 110, true, None),
            ("at once", json!(0), done, 100, true, None),
        ] {
            let job: Job = serde_json::from_value(json!({
                "metadata": {"name": "j", "namespace": "a", "uid": "j"},
                "spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
                "status": {"conditions": conditions},
            }))
            .unwrap();
            let plan = Fixture::new(TtlAfterFinished).with(vec![job]).plan("a", "j", at(now));
            assert_eq!(plan.actions().count(), usize::from(deletes), "{what}");
            assert_eq!(plan.requeue_at, again, "{what}");
        }
    }
}
