//! Certificates that the cluster signs for this node: asked for by CertificateSigningRequests, renewed before they end.
//!
//! Each request is for a new key, which is made here and never leaves. Reads and writes CertificateSigningRequests.
//! Not here: which names (`serving`), where they are kept (`agent`), approving and signing (`controllers::certificates`).
//! Upstream: client-go `util/certificate` (the manager and its jitter) and `util/certificate/csr` (the wait).

use std::time::Duration;

use anyhow::{Context as _, bail};
use api::types::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus};
use client::{Client, Identity, ListOptions, WatchEvent};
use foundation::{Clock, Randomness};
use jiff::{SignedDuration, Timestamp};
use pki::csr::Subject;
use pki::{Credential, Requested};
use serde_json::json;

use super::Context;

/// Which of a node's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// By which it is a client of the API server.
    Client,
    /// By which the kubelet's server shows who it is.
    Serving,
}

impl Kind {
    fn signer(self) -> &'static str {
        match self {
            Kind::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Kind::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(self) -> [&'static str; 2] {
        match self {
            Kind::Client => ["digital signature", "client auth"],
            Kind::Serving => ["digital signature", "server auth"],
        }
    }
}

/// How long a certificate is waited for before its request is made anew: upstream's.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// First and longest wait after a failure.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));
/// The least time between two certificates: one may be issued that is to be renewed at once.
const PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// The longest sleep: a machine that was suspended looks at its clock this often.
const LOOK: Duration = Duration::from_secs(12 * 60 * 60);
/// First and longest wait before a watch is opened again.
const WATCH: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Asks for a certificate and waits for it.
///
/// # Errors
/// What the API server said to the request; that it was denied, or failed; that nobody decided within `patience`.
pub(super) async fn ask(
    context: &Context,
    client: &Client,
    kind: Kind,
    subject: &Subject,
    patience: Duration,
) -> anyhow::Result<Credential> {
    let requested = Requested::new(subject)?;
    let request = api::k8s_openapi::ByteString(requested.pem().into_bytes());
    let object: CertificateSigningRequest = api::json::typed(&json!({
        "metadata": {"generateName": "csr-"},
        "spec": {"request": request, "signerName": kind.signer(), "usages": kind.usages()},
    }))?;
    let created =
        client.create(None, &object).await.context("the cluster takes no request for a certificate")?;
    let name = created.metadata.name.clone().unwrap_or_default();
    let outcome = tokio::select! {
        outcome = issued(context, client, created) => outcome,
        () = context.clock.sleep(patience) => bail!(
            "nobody has approved the certificate signing request {name} within {patience:?}; `kubectl get csr {name}` \
             shows it, `kubectl certificate approve {name}` approves it"
        ),
    };
    let certificate = outcome.with_context(|| format!("the certificate signing request {name}"))?;
    Ok(requested.complete(&certificate)?)
}

/// Follows a request until its certificate is there.
async fn issued(
    context: &Context,
    client: &Client,
    mut request: CertificateSigningRequest,
) -> anyhow::Result<String> {
    let name = request.metadata.name.clone().unwrap_or_default();
    let select = ListOptions::fields(format!("metadata.name={name}"));
    let mut wait = WATCH.0;
    loop {
        if let Some(certificate) = decided(request.status.as_ref())? {
            return Ok(certificate);
        }
        let from = request.metadata.resource_version.clone().unwrap_or_default();
        if let Ok(mut events) = client.watch::<CertificateSigningRequest>(None, &select, &from).await {
            while let Some(Ok(event)) = events.next().await {
                match event {
                    WatchEvent::Added(changed) | WatchEvent::Modified(changed) => {
                        if let Some(certificate) = decided(changed.status.as_ref())? {
                            return Ok(certificate);
                        }
                    }
                    WatchEvent::Deleted(_) => bail!("was deleted before a certificate was issued"),
                    WatchEvent::Bookmark { .. } => {}
                }
            }
        }
        // The server that was watched is gone, or is behind the one that took the request.
        context.clock.sleep(wait).await;
        wait = (wait * 2).min(WATCH.1);
        match client.get::<CertificateSigningRequest>(None, &name).await {
            Ok(now) => request = now,
            Err(error) => tracing::debug!(%error, name, "a certificate signing request cannot be read"),
        }
    }
}

/// The certificate, if it is there.
///
/// # Errors
/// That there will be none, and who said why.
fn decided(status: Option<&CertificateSigningRequestStatus>) -> anyhow::Result<Option<String>> {
    let Some(status) = status else { return Ok(None) };
    for condition in status.conditions.iter().flatten().filter(|condition| condition.status != "False") {
        let why = || {
            let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
            format!("{}: {}", reason.unwrap_or("no reason"), message.unwrap_or("no message"))
        };
        match condition.type_.as_str() {
            "Denied" => bail!("was denied ({})", why()),
            "Failed" => bail!("was not signed ({})", why()),
            _ => {}
        }
    }
    let certificate = status.certificate.as_ref().filter(|bytes| !bytes.0.is_empty());
    certificate.map(|bytes| String::from_utf8(bytes.0.clone()).context("is answered by no PEM")).transpose()
}

/// A certificate in use, and when it is to be renewed.
pub(super) struct Held {
    /// The certificate.
    pub(super) credential: Credential,
    due: Timestamp,
}

impl Held {
    /// It is to be renewed after 70 to 90 % of its life, so that nodes that joined together do not ask together.
    pub(super) fn new(credential: Credential, randomness: &dyn Randomness) -> Held {
        let life = credential.not_after().duration_since(credential.not_before()).as_secs_f64();
        let share = life * (0.7 + 0.2 * randomness.unit());
        Held { due: credential.not_before() + SignedDuration::from_secs(share as i64), credential }
    }

    /// The same for one that was issued just now.
    pub(super) fn fresh(credential: Credential, randomness: &dyn Randomness, now: Timestamp) -> Held {
        let held = Held::new(credential, randomness);
        Held { due: held.due.max(now + PAUSE), ..held }
    }

    /// Sleeps until it is to be renewed.
    pub(super) async fn due(&self, clock: &dyn Clock) {
        sleep_until(self.due, clock).await;
    }

    /// Sleeps until it is good no more.
    pub(super) async fn ended(&self, clock: &dyn Clock) {
        sleep_until(self.credential.not_after(), clock).await;
    }
}

async fn sleep_until(time: Timestamp, clock: &dyn Clock) {
    loop {
        let left = time.duration_since(clock.now());
        if !left.is_positive() {
            return;
        }
        clock.sleep(left.unsigned_abs().min(LOOK)).await;
    }
}

/// A new certificate, however often it has to be asked for.
pub(super) async fn renewed(context: &Context, client: &Client, kind: Kind, subject: &Subject) -> Credential {
    let mut wait = AGAIN.0;
    loop {
        match ask(context, client, kind, subject, PATIENCE).await {
            Ok(credential) => {
                tracing::info!(?kind, until = %credential.not_after(), "a certificate was issued");
                return credential;
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    ?kind,
                    "no certificate was issued, asking again"
                );
            }
        }
        context.clock.sleep(wait).await;
        wait = (wait * 2).min(AGAIN.1);
    }
}

/// The certificate, as a client shows it.
pub(super) fn identity(credential: &Credential) -> Identity {
    Identity::ClientCertificate {
        certificate_pem: credential.certificate_pem().into_bytes(),
        key_pem: credential.key_pem().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::{ManualClock, SeededRandomness};

    use super::*;

    /// A certificate that is valid for 1000 hours from `now`.
    fn credential(now: Timestamp) -> Credential {
        let directory = tempfile::tempdir().unwrap();
        let settings = pki::Settings { dir: directory.path().to_owned(), ..pki::Settings::default() };
        let authority = pki::Pki::open(settings, now).unwrap();
        let requested =
            Requested::new(&Subject { common_name: "n".to_owned(), ..Subject::default() }).unwrap();
        let terms = pki::csr::Terms {
            usages: &["client auth"],
            not_before: now,
            not_after: now + SignedDuration::from_hours(1000),
        };
        let certificate = pki::csr::sign(authority.cluster_authority(), &requested.pem(), &terms).unwrap();
        requested.complete(&certificate.pem()).unwrap()
    }

    #[tokio::test]
    async fn a_certificate_is_renewed_in_the_last_third_of_its_life() {
        let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..8 {
            let clock = Arc::new(ManualClock::new(start));
            let held = Held::new(credential(start), &SeededRandomness::new(seed));
            let waits = clock.clone();
            let mut wait = tokio::spawn(async move { held.due(&*waits).await });
            let mut hours = 0;
            loop {
                tokio::select! {
                    ended = &mut wait => break ended.unwrap(),
                    () = clock.wait_for_sleepers(1) => clock.advance(Duration::from_secs(60 * 60)),
                }
                hours += 1;
                assert!(hours < 2000, "it never comes");
            }
            let after = clock.now().duration_since(start).as_hours();
            assert!((700..=901).contains(&after), "{after} of 1000 hours");
            seen.insert(after);
        }
        assert!(seen.len() > 4, "all at the same time: {seen:?}");
    }

    #[test]
    fn certificates_that_are_due_at_once_are_not_asked_for_at_once() {
        let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        let random = SeededRandomness::new(1);
        let late = start + SignedDuration::from_hours(2000);
        assert!(Held::new(credential(start), &random).due < late);
        assert_eq!(Held::fresh(credential(start), &random, late).due, late + PAUSE);
        assert!(Held::fresh(credential(start), &random, start).due > start + SignedDuration::from_hours(600));
    }

    #[test]
    fn what_was_decided_is_told() {
        let status = |conditions: serde_json::Value, certificate: &str| -> CertificateSigningRequestStatus {
            let bytes = api::k8s_openapi::ByteString(certificate.as_bytes().to_vec());
            serde_json::from_value(json!({"conditions": conditions, "certificate": bytes})).unwrap()
        };
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let denied =
            json!([{"type": "Denied", "status": "True", "reason": "No", "message": "unknown machine"}]);
        let failed = json!([{"type": "Failed", "status": "True"}]);
        for (what, status, want) in [
            ("nobody", None, Ok(None)),
            ("approved", Some(status(approved.clone(), "")), Ok(None)),
            ("issued", Some(status(approved, "PEM")), Ok(Some("PEM".to_owned()))),
            ("denied", Some(status(denied, "")), Err("was denied (No: unknown machine)")),
            ("failed", Some(status(failed, "")), Err("was not signed (no reason: no message)")),
        ] {
            let found = decided(status.as_ref()).map_err(|error| error.to_string());
            assert_eq!(found, want.map_err(str::to_owned), "{what}");
        }
    }
}
