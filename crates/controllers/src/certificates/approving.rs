//! Approves the requests of nodes for their client certificates, if who asks may have them.
//!
//! Reads CertificateSigningRequests; asks by SubjectAccessReview whether the requester may create
//! `certificatesigningrequests/selfnodeclient` (a node for itself) or `.../nodeclient` (a node for its first time, with a
//! bootstrap token); writes the approval.
//! Not here: serving certificates (`serving`); signing.
//! Upstream: `pkg/controller/certificates/approver`.

use api::types::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};
use serde_json::{Value, json};

use super::{has, is_issued, rules, subject};

/// The controller.
pub struct Approving;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

impl Controller for Approving {
    const NAME: &'static str = "csrapproving";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<CertificateSigningRequest>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(request) = view.get_key::<CertificateSigningRequest>(key) else { return plan };
        let recognized = recognize(&request);
        for (right, message) in &recognized {
            match view.answers().get(right) {
                None => {
                    plan.review(right, REVIEWS, review(&request, right));
                    return plan;
                }
                Some(Ok(answer)) if answer["status"]["allowed"] == true => {
                    plan.act(Action::update_subresource(&approved(&request, message, now), "approval"));
                    return plan;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) => break,
            }
        }
        // Who may not have it now may be given the right later.
        plan.retry = !recognized.is_empty();
        plan
    }
}

/// The rights of which one is needed, and what an approval by it says; none for a request that is not for this.
fn recognize(request: &CertificateSigningRequest) -> Vec<(&'static str, &'static str)> {
    if is_issued(request) || has(request, "Approved") || has(request, "Denied") {
        return Vec::new();
    }
    let spec = &request.spec;
    let Some(subject) =
        Some(spec).filter(|spec| spec.signer_name == rules::NODE_CLIENT).and_then(|_| subject(request).ok())
    else {
        return Vec::new();
    };
    if rules::node_client(&subject, spec.usages.as_deref().unwrap_or_default()).is_err() {
        return Vec::new();
    }
    let mut rights =
        vec![("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")];
    if spec.username.as_deref() == Some(&*subject.common_name) {
        let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
        rights.insert(0, ("selfnodeclient", message));
    }
    rights
}

fn review(request: &CertificateSigningRequest, right: &str) -> Value {
    let spec = &request.spec;
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
                "subresource": right,
            },
        },
    })
}

/// The request with the condition that says so.
pub(super) fn approved(
    request: &CertificateSigningRequest,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    let status = request.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(api::meta::Time(now)),
        last_transition_time: Some(api::meta::Time(now)),
    });
    request
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;

    use super::super::signing::tests::{NODE_REQUEST, request};
    use super::*;

    #[test]
    fn plans() {
        let usages = ["digital signature", "client auth"];
        let allowed = |yes: bool| Ok(json!({"status": {"allowed": yes}}));
        let own = "selfnodeclient";
        let first = "nodeclient";
        let approval = vec!["update certificatesigningrequests/approval r".to_owned()];
        for (what, user, signer, answers, asks, does, retries) in [
            ("for itself", "system:node:n1", rules::NODE_CLIENT, vec![], Some(own), vec![], false),
            (
                "may",
                "system:node:n1",
                rules::NODE_CLIENT,
                vec![(own, allowed(true))],
                None,
                approval.clone(),
                false,
            ),
            (
                "may not",
                "system:node:n1",
                rules::NODE_CLIENT,
                vec![(own, allowed(false))],
                Some(first),
                vec![],
                false,
            ),
            ("with a token", "system:bootstrap:abc", rules::NODE_CLIENT, vec![], Some(first), vec![], false),
            (
                "token may",
                "system:bootstrap:abc",
                rules::NODE_CLIENT,
                vec![(first, allowed(true))],
                None,
                approval,
                false,
            ),
            ("nobody may", "jane", rules::NODE_CLIENT, vec![(first, allowed(false))], None, vec![], true),
            ("not for this", "jane", rules::API_CLIENT, vec![], None, vec![], false),
        ] {
            let mut fixture =
                Fixture::new(Approving).with(vec![request(NODE_REQUEST, user, signer, &usages, json!([]))]);
            for (name, answer) in answers {
                fixture = fixture.with_answer(name, answer);
            }
            let plan = fixture.plan("", "r", Timestamp::UNIX_EPOCH);
            let asked = plan.reviews.first().map(|review| review.name.as_str());
            let done: Vec<String> = plan.actions().map(ToString::to_string).collect();
            assert_eq!((asked, done, plan.retry), (asks, does, retries), "{what}");
        }
    }
}
