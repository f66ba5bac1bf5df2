//! Deletes PodCertificateRequests a quarter of an hour after they were made, whatever came of them.
//!
//! Reads and deletes PodCertificateRequests (with a UID precondition). A node has taken its certificate long before; one
//! that still waits asks anew.
//! Not here: issuing (signers of others), taking the certificate (the kubelet).
//! Upstream: `pkg/controller/certificates/cleaner/pcrcleaner.go`.

use api::types::certificates::v1::PodCertificateRequest;
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::object;

/// How long a request is kept.
const KEPT_SECONDS: i64 = 15 * 60;

/// The controller.
pub struct PodCertificateCleaner;

impl Controller for PodCertificateCleaner {
    const NAME: &'static str = "podcertificaterequestcleaner";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<PodCertificateRequest>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(request) = view.get_key::<PodCertificateRequest>(key) else { return plan };
        let due = object::after(object::created(&*request), KEPT_SECONDS);
        if due <= now {
            plan.act(Action::delete(&*request))
        } else {
            plan.requeue_at(due)
        };
        plan
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::json;

    use super::*;

    #[test]
    fn plans() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (what, now, deletes, again) in
            [("new", 10, false, Some(900)), ("nearly", 899, false, Some(900)), ("old", 900, true, None)]
        {
            let request: PodCertificateRequest = serde_json::from_value(json!({
                "metadata": {"name": "r", "namespace": "a", "uid": "r", "creationTimestamp": at(0)},
                "spec": {"signerName": "s", "podName": "p", "podUID": "1", "serviceAccountName": "default",
                         "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3", "stubPKCS10Request": ""},
            }))
            .unwrap();
            let plan = Fixture::new(PodCertificateCleaner).with(vec![request]).plan("a", "r", at(now));
            assert_eq!(plan.actions().count() == 1, deletes, "{what}");
            assert_eq!(plan.requeue_at, again.map(at), "{what}");
        }
    }
}
