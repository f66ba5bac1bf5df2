//! Signs approved requests for the cluster's own signers, or says why not.
//!
//! Reads CertificateSigningRequests; writes their certificate, or the condition `Failed`. The authority is handed in by the
//! program. A certificate lives as long as was asked, but no longer than the program says, and so long where nothing was
//! asked; it begins five minutes ago, for machines whose clocks differ.
//! Not here: approving.
//! Upstream: `pkg/controller/certificates/signer`, `pkg/controller/certificates/authority`.

use std::sync::Arc;

use api::types::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use jiff::{SignedDuration, Timestamp};
use pki::csr::Terms;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use super::{has, is_issued, rules, subject};

/// Signs a request (PEM) on these terms.
pub type Sign = Arc<dyn Fn(&str, &Terms<'_>) -> Result<pki::Certificate, pki::Error> + Send + Sync>;

/// How long a certificate lives at most, unless the program is told otherwise: upstream's `--cluster-signing-duration`.
pub const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
const LIFE_MIN: SignedDuration = SignedDuration::from_mins(10);
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// A life that is shorter than this is not cut by the time before now.
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// The controller.
pub struct Signing {
    sign: Sign,
    /// The longest life of a certificate.
    life: SignedDuration,
}

impl Signing {
    /// Signs with `sign` for `life` at most.
    pub fn new(sign: Sign, life: SignedDuration) -> Signing {
        Signing { sign, life }
    }

    fn answer(
        &self,
        request: &CertificateSigningRequest,
        now: Timestamp,
    ) -> Option<CertificateSigningRequest> {
        let spec = &request.spec;
        let usages = spec.usages.as_deref().unwrap_or_default();
        let name = request.metadata.name.as_deref().unwrap_or_default();
        let unreadable =
            |error: String| tracing::warn!(name, error, "a request for a certificate cannot be signed");
        let subject = subject(request).map_err(unreadable).ok()?;
        let mut answered = request.clone();
        let status = answered.status.get_or_insert_default();
        match rules::check(&spec.signer_name, &subject, usages)? {
            Err(message) => {
                status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(message),
                    last_update_time: Some(api::meta::Time(now)),
                    last_transition_time: Some(api::meta::Time(now)),
                });
            }
            Ok(()) => {
                let (not_before, not_after) = validity(spec.expiration_seconds, self.life, now);
                let usages: Vec<&str> = usages.iter().map(String::as_str).collect();
                let terms = Terms { usages: &usages, not_before, not_after };
                let text = std::str::from_utf8(&spec.request.0).ok()?;
                let signed = (self.sign)(text, &terms).map_err(|error| unreadable(error.to_string())).ok()?;
                status.certificate = Some(api::k8s_openapi::ByteString(signed.pem().into_bytes()));
            }
        }
        Some(answered)
    }
}

fn validity(seconds: Option<i32>, longest: SignedDuration, now: Timestamp) -> (Timestamp, Timestamp) {
    let life = match seconds.map(|seconds| SignedDuration::from_secs(seconds.into())) {
        Some(asked) if asked < longest => asked.max(LIFE_MIN),
        _ => longest,
    };
    let end = if life < SHORT { now + life } else { now + life - BACKDATE };
    (now - BACKDATE, end)
}

impl Controller for Signing {
    const NAME: &'static str = "csrsigning";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<CertificateSigningRequest>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(request) = view.get_key::<CertificateSigningRequest>(key) else { return plan };
        let wanted = has(&request, "Approved") && !has(&request, "Denied") && !has(&request, "Failed");
        if wanted
            && !is_issued(&request)
            && let Some(answered) = self.answer(&request, now)
        {
            plan.act(Action::update_status(&answered));
        }
        plan
    }
}

#[cfg(test)]
pub(super) mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    /// `O=system:nodes, CN=system:node:n1`, P-256, without other names.
    pub(in super::super) const NODE_REQUEST: &str = include_str!("testdata/node.csr");

    pub(in super::super) fn request(
        pem: &str,
        user: &str,
        signer: &str,
        usages: &[&str],
        conditions: Value,
    ) -> CertificateSigningRequest {
        let bytes = api::k8s_openapi::ByteString(pem.as_bytes().to_vec());
        serde_json::from_value(json!({
            "metadata": {"name": "r", "uid": "r"},
            "spec": {"request": bytes, "signerName": signer, "usages": usages, "username": user},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn plans() {
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let failed = json!([{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]);
        let good = ["digital signature", "client auth"];
        for (what, signer, usages, conditions, want) in [
            ("approved", rules::NODE_CLIENT, &good[..], approved.clone(), Some(Ok(()))),
            ("not approved", rules::NODE_CLIENT, &good, json!([]), None),
            ("failed before", rules::NODE_CLIENT, &good, failed, None),
            ("not ours", "example.com/signer", &good, approved.clone(), None),
            (
                "not as it must be",
                rules::NODE_SERVER,
                &good,
                approved,
                Some(Err("DNS or IP subjectAltName is required")),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let now = Timestamp::from_second(1_800_000_000).unwrap();
            let settings = pki::Settings { dir: dir.path().to_owned(), ..pki::Settings::default() };
            let pki = pki::Pki::open(settings, now).unwrap();
            let sign: Sign = Arc::new(move |request: &str, terms: &Terms<'_>| {
                pki::csr::sign(pki.cluster_authority(), request, terms)
            });
            let one = request(NODE_REQUEST, "system:node:n1", signer, usages, conditions);
            let plan = Fixture::new(Signing::new(sign, LIFE)).with(vec![one]).plan("", "r", now);
            let answered: Option<CertificateSigningRequest> =
                plan.actions().next().and_then(|action| action.object());
            let said = answered.and_then(|answered| answered.status).map(|status| match status.certificate {
                Some(bytes) => {
                    assert!(bytes.0.starts_with(b"-----BEGIN CERTIFICATE-----\n"), "{what}");
                    Ok(())
                }
                None => Err(status.conditions.unwrap().pop().unwrap().message.unwrap()),
            });
            let want = want.map(|answer: Result<(), &str>| answer.map_err(str::to_owned));
            assert_eq!(said, want, "{what}");
        }
    }

    #[test]
    fn a_certificate_lives_as_long_as_was_asked() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (year, minute) = (LIFE, SignedDuration::from_mins(1));
        for (asked, longest, minutes) in [
            (None, year, 365 * 24 * 60 - 5),
            (Some(3600), year, 60),
            (Some(1), year, 10),
            (Some(i32::MAX), year, 365 * 24 * 60 - 5),
            (None, minute, 1),
            (Some(3600), minute, 1),
            (Some(1), minute, 10),
        ] {
            let (start, end) = validity(asked, longest, now);
            let lives = (now.duration_since(start), end.duration_since(now));
            assert_eq!(
                lives,
                (SignedDuration::from_mins(5), SignedDuration::from_mins(minutes)),
                "{asked:?}"
            );
        }
    }
}
