//! Deletes CertificateSigningRequests that are done with, or that nobody has decided for a day.
//!
//! Reads and deletes CertificateSigningRequests.
//! Not here: approving and signing them.
//! Upstream: `pkg/controller/certificates/cleaner`.

use api::types::certificates::v1::CertificateSigningRequest;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::object;

/// What was issued, denied or has failed is kept for an hour.
const DECIDED_SECONDS: i64 = 60 * 60;
/// What nobody has decided is kept for a day.
const PENDING_SECONDS: i64 = 24 * 60 * 60;

/// The controller.
pub struct CsrCleaner;

impl Controller for CsrCleaner {
    const NAME: &'static str = "csrcleaner";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<CertificateSigningRequest>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(request) = view.get_key::<CertificateSigningRequest>(key) else { return plan };
        match due(&request) {
            Some(due) if due < now => drop(plan.act(Action::delete(&*request))),
            Some(due) => drop(plan.requeue_at(object::after(due, 1))),
            None => {}
        }
        plan
    }
}

/// When the request is of no more use; `None` while it is approved and not issued.
fn due(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.is_empty() {
        return Some(object::after(object::created(request), PENDING_SECONDS));
    }
    let is_issued = status.is_some_and(|status| status.certificate.is_some());
    let ends = conditions.iter().filter_map(|condition| {
        let ends = matches!(condition.type_.as_str(), "Denied" | "Failed")
            || condition.type_ == "Approved" && is_issued;
        let since =
            condition.last_update_time.as_ref().map_or_else(|| object::created(request), |time| time.0);
        ends.then(|| object::after(since, DECIDED_SECONDS))
    });
    ends.min()
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn plans() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let condition = |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": at(1000)}]);
        for (what, conditions, certificate, now, deletes, again) in [
            ("nobody has decided", json!([]), Value::Null, 5000, false, Some(86_401)),
            ("for a day", json!([]), Value::Null, 86_402, true, None),
            ("denied", condition("Denied"), Value::Null, 2000, false, Some(4601)),
            ("denied long ago", condition("Denied"), Value::Null, 4700, true, None),
            ("approved and not issued", condition("Approved"), Value::Null, 900_000, false, None),
            ("issued long ago", condition("Approved"), json!("eA=="), 4700, true, None),
        ] {
            let request: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"name": "r", "uid": "r", "creationTimestamp": at(0)},
                "spec": {"request": "", "signerName": "s"},
                "status": {"conditions": conditions, "certificate": certificate},
            }))
            .unwrap();
            let plan = Fixture::new(CsrCleaner).with(vec![request]).plan("", "r", at(now));
            assert_eq!(plan.actions().count() == 1, deletes, "{what}");
            assert_eq!(plan.requeue_at, again.map(at), "{what}");
        }
    }
}
