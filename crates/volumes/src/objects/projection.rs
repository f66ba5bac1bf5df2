//! What is to be done next for one certificate of a pod: the pure part.
//!
//! From what is held, what was asked for and what the API says about it to the next step: ask (again), wait, or give up.
//! Upstream: the states of `projectionRecord` in pkg/kubelet/podcertificate.
//! Not here: keys, requests, time ([`super::certificates`]).

use std::sync::Arc;

use api::types::certificates::v1::PodCertificateRequest;
use jiff::{SignedDuration, Timestamp};

use crate::Credential;

/// A request that nobody has ever seen is asked anew after this long.
const ABANDON_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// A certificate that is this much past the time to renew it is overdue.
const OVERDUE_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// One certificate of a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Projection {
    held: Option<Held>,
    asked: Option<Asked>,
    /// The signer said no, for good: what those hear who want the certificate.
    refused: Option<String>,
}

#[derive(Clone, Debug)]
struct Held {
    credential: Arc<Credential>,
    renew_at: Timestamp,
    not_after: Timestamp,
    told_overdue: bool,
    told_expired: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    name: String,
    key: String,
    seen: bool,
    abandon_at: Timestamp,
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Reasons and messages of warnings about the pod.
    pub(super) warnings: Vec<(&'static str, String)>,
    /// Whether there is another certificate, or none for good.
    pub(super) changed: bool,
    /// What to do.
    pub(super) step: Step,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make a key and ask for a certificate.
    Ask,
    /// Look again when the request changes, and then.
    Wait(Option<Timestamp>),
    /// The signer has refused.
    End,
}

impl Projection {
    /// What those get who want the certificate.
    pub(super) fn credential(&self) -> Result<Arc<Credential>, String> {
        match (&self.refused, &self.held) {
            (Some(refusal), _) => Err(refusal.clone()),
            (None, Some(held)) => Ok(held.credential.clone()),
            (None, None) => Err("credential bundle is not issued yet".to_owned()),
        }
    }

    /// Whether an answer of the signer, good or bad, is there.
    pub(super) fn is_settled(&self) -> bool {
        self.held.is_some() || self.refused.is_some()
    }

    /// The request that is waited for.
    pub(super) fn request(&self) -> Option<&str> {
        self.asked.as_ref().map(|asked| asked.name.as_str())
    }

    /// A certificate for `key` was asked for at `now`. `jitter` keeps pods from asking at the same moment.
    pub(super) fn asked(&mut self, name: &str, key: String, now: Timestamp, jitter: SignedDuration) {
        let abandon_at = now + ABANDON_AFTER + jitter;
        self.asked = Some(Asked { name: name.to_owned(), key, seen: false, abandon_at });
    }

    /// Takes in what the API says about the request (`None`: it is not known there).
    pub(super) fn look(
        &mut self,
        request: Option<&PodCertificateRequest>,
        now: Timestamp,
        jitter: SignedDuration,
    ) -> Look {
        let mut look = Look { warnings: Vec::new(), changed: false, step: Step::End };
        if let Some(asked) = &mut self.asked {
            match request {
                Some(request) => {
                    asked.seen = true;
                    self.answered(request, &mut look, jitter);
                }
                // Deleted, or so it must be assumed.
                None if asked.seen || now > asked.abandon_at => self.asked = None,
                None => {}
            }
        }
        if self.refused.is_some() {
            return look;
        }
        if let Some(held) = &mut self.held {
            held.warn(now, &mut look.warnings);
        }
        look.step = match (&self.asked, &self.held) {
            (Some(asked), held) => {
                let unseen = (!asked.seen).then_some(asked.abandon_at);
                let warning = held.as_ref().and_then(Held::next_warning);
                Step::Wait([unseen, warning].into_iter().flatten().min())
            }
            (None, Some(held)) if now < held.renew_at => Step::Wait(Some(held.renew_at)),
            (None, _) => Step::Ask,
        };
        look
    }

    fn answered(&mut self, request: &PodCertificateRequest, look: &mut Look, jitter: SignedDuration) {
        let Some(status) = &request.status else { return };
        let name = format!(
            "{}/{}",
            request.metadata.namespace.as_deref().unwrap_or_default(),
            request.metadata.name.as_deref().unwrap_or_default()
        );
        for condition in status.conditions.iter().flatten() {
            let said = format!("reason={:?}, message={:?}", condition.reason, condition.message);
            let (reason, text, how) = match condition.type_.as_str() {
                "Denied" => ("Denied", "was denied", "denied"),
                "Failed" => ("Failed", "failed", "failed"),
                "Issued" => {
                    let Some(asked) = self.asked.take() else { return };
                    let (Some(renew_at), Some(not_after)) = (&status.begin_refresh_at, &status.not_after)
                    else {
                        return;
                    };
                    let chain = clean(status.certificate_chain.as_deref().unwrap_or_default());
                    self.held = Some(Held {
                        credential: Arc::new(Credential { key: asked.key, chain }),
                        renew_at: renew_at.0 + jitter,
                        not_after: not_after.0,
                        told_overdue: false,
                        told_expired: false,
                    });
                    look.changed = true;
                    return;
                }
                _ => continue,
            };
            look.warnings.push((reason, format!("PodCertificateRequest {name} {text}, {said}")));
            self.refused = Some(format!(
                "PodCertificateRequest was permanently {how}: reason={:?} message={:?}",
                condition.reason, condition.message
            ));
            self.asked = None;
            look.changed = true;
            return;
        }
    }
}

impl Held {
    fn warn(&mut self, now: Timestamp, warnings: &mut Vec<(&'static str, String)>) {
        if !self.told_overdue && now > self.renew_at + OVERDUE_AFTER {
            self.told_overdue = true;
            warnings.push(("CertificateOverdueForRefresh", "PodCertificate refresh overdue".to_owned()));
        }
        if !self.told_expired && now > self.not_after {
            self.told_expired = true;
            warnings.push(("CertificateExpired", "PodCertificate expired".to_owned()));
        }
    }

    fn next_warning(&self) -> Option<Timestamp> {
        // Just after: a warning is for what lies in the past.
        let after = |at: Timestamp| at + SignedDuration::from_secs(1);
        let overdue = (!self.told_overdue).then(|| after(self.renew_at + OVERDUE_AFTER));
        let expired = (!self.told_expired).then(|| after(self.not_after));
        [overdue, expired].into_iter().flatten().min()
    }
}

/// The certificates of a chain without what stands between them.
fn clean(chain: &str) -> String {
    let blocks = pki::pem::decode("CERTIFICATE", chain).unwrap_or_default();
    blocks.iter().map(|block| pki::pem::encode("CERTIFICATE", block)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minutes * 60).unwrap()
    }

    fn request(condition: Option<&str>) -> PodCertificateRequest {
        let conditions: Vec<Value> = condition
            .into_iter()
            .map(|kind| {
                json!({"type": kind, "status": "True", "reason": "Why", "message": "so",
                       "lastTransitionTime": at(0)})
            })
            .collect();
        let mut status = json!({"conditions": conditions});
        if condition == Some("Issued") {
            let chain = pki::pem::encode("CERTIFICATE", b"leaf");
            status["certificateChain"] = format!("a note\n{chain}").into();
            status["beginRefreshAt"] = json!(at(30));
            status["notAfter"] = json!(at(60));
        }
        serde_json::from_value(json!({
            "metadata": {"name": "req-a", "namespace": "shop"},
            "spec": {"signerName": "s", "podName": "p", "podUID": "u", "serviceAccountName": "default",
                     "serviceAccountUID": "a", "nodeName": "n", "nodeUID": "m", "stubPKCS10Request": ""},
            "status": status,
        }))
        .unwrap()
    }

    const JITTER: SignedDuration = SignedDuration::from_mins(2);

    fn asked() -> Projection {
        let mut projection = Projection::default();
        assert_eq!(projection.look(None, at(0), JITTER).step, Step::Ask);
        projection.asked("req-a", "key ".to_owned(), at(0), JITTER);
        projection
    }

    #[test]
    fn a_certificate_is_asked_for_taken_and_renewed() {
        let mut projection = asked();
        assert_eq!(
            projection.look(None, at(0), JITTER).step,
            Step::Wait(Some(at(12))),
            "nobody has seen it yet"
        );
        assert_eq!(projection.look(Some(&request(None)), at(1), JITTER).step, Step::Wait(None));
        assert_eq!(projection.credential().unwrap_err(), "credential bundle is not issued yet");

        let look = projection.look(Some(&request(Some("Issued"))), at(1), JITTER);
        assert_eq!(look, Look { warnings: vec![], changed: true, step: Step::Wait(Some(at(32))) });
        let held = projection.credential().unwrap();
        assert_eq!((held.key.as_str(), held.chain.contains("note")), ("key ", false));

        assert_eq!(projection.look(None, at(32), JITTER).step, Step::Ask);
        projection.asked("req-b", "next ".to_owned(), at(32), JITTER);
        assert_eq!(projection.credential().unwrap().key, "key ", "the old one serves meanwhile");
        assert!(projection.look(Some(&request(Some("Issued"))), at(33), JITTER).changed);
        assert_eq!(projection.credential().unwrap().key, "next ");
    }

    #[test]
    fn who_is_late_is_warned_of_once() {
        let mut projection = asked();
        projection.look(Some(&request(Some("Issued"))), at(1), JITTER);
        projection.look(None, at(32), JITTER);
        projection.asked("req-b", "next ".to_owned(), at(32), JITTER);
        let mut told = Vec::new();
        for minute in [40, 43, 44, 61, 62] {
            let look = projection.look(Some(&request(None)), at(minute), JITTER);
            told.extend(look.warnings.into_iter().map(|(reason, _)| (minute, reason)));
        }
        assert_eq!(told, [(43, "CertificateOverdueForRefresh"), (61, "CertificateExpired")]);
    }

    #[test]
    fn a_request_that_is_gone_is_made_anew() {
        let mut projection = asked();
        projection.look(Some(&request(None)), at(1), JITTER);
        assert_eq!(projection.look(None, at(2), JITTER).step, Step::Ask, "it was seen, so it was deleted");
        let mut projection = asked();
        assert!(matches!(projection.look(None, at(11), JITTER).step, Step::Wait(_)));
        assert_eq!(projection.look(None, at(13), JITTER).step, Step::Ask);
    }

    #[test]
    fn a_refusal_is_for_good() {
        for (kind, text, how) in [("Denied", "was denied", "denied"), ("Failed", "failed", "failed")] {
            let mut projection = asked();
            let look = projection.look(Some(&request(Some(kind))), at(1), JITTER);
            let message = format!("PodCertificateRequest shop/req-a {text}, reason=\"Why\", message=\"so\"");
            assert_eq!(look, Look { warnings: vec![(kind, message)], changed: true, step: Step::End });
            assert_eq!(
                projection.credential().unwrap_err(),
                format!("PodCertificateRequest was permanently {how}: reason=\"Why\" message=\"so\"")
            );
            assert_eq!(projection.look(None, at(100), JITTER).step, Step::End);
        }
    }
}
