//! Takes tokens in Secrets away that an old cluster made by itself and that nobody has used for a year.
//!
//! Reads Secrets of type `kubernetes.io/service-account-token`, ServiceAccounts, Pods, and since when uses are noted; labels
//! a Secret as invalid first (the API server refuses its token from then on), and deletes it a year later.
//! Not here: noting uses, refusing (the API server does both); tokens that somebody asked for, which stay.
//! Upstream: `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`.

use api::types::core::v1::{ConfigMap, Pod, Secret, SecretEnvSource, ServiceAccount, Volume};
use client::{DeleteOptions, Endpoint, ListOptions, Patch, Preconditions};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use reconcile::{Action, Controller, Key, Plan, View, Watches};
use serde_json::json;

use crate::object;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// The day of the last use.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The day from which on it is refused.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where it stands since when uses are noted.
const TRACKING: (&str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
/// How long a token may go unused (upstream's default).
const KEPT: SignedDuration = SignedDuration::from_hours(365 * 24);
/// When to look again at what something else keeps: a pod, an account, a label.
const AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// The controller; its keys are Secrets.
pub struct LegacyTokenCleaner;

impl Controller for LegacyTokenCleaner {
    const NAME: &'static str = "legacy-serviceaccount-token-cleaner-controller";
    const WORKERS: usize = 1;

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.select::<Secret>(ListOptions::fields(format!("type={TYPE}")));
        watches.primary::<Secret>();
        watches.read::<ServiceAccount>().read::<Pod>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(secret) = view.get_key::<Secret>(key) else { return plan };
        if object::deleting(&*secret) || secret.type_.as_deref() != Some(TYPE) {
            return plan;
        }
        match next(view, &secret, now) {
            Next::Never => {}
            Next::At(at) => drop(plan.requeue_at(at)),
            Next::Ask(path) => drop(plan.ask(path)),
            Next::Mark => {
                let label = json!({INVALID_SINCE: today(now).to_string()});
                let patch = json!({"metadata": {"uid": object::uid(&*secret), "labels": label}});
                plan.act(Action::patch(&*secret, Patch::Merge(patch)));
            }
            Next::Delete => {
                // A use that was noted meanwhile keeps it.
                let unchanged =
                    Preconditions { uid: None, resource_version: secret.metadata.resource_version.clone() };
                let options = DeleteOptions { preconditions: Some(unchanged), ..DeleteOptions::default() };
                plan.act(Action::delete_with(&*secret, options));
            }
        }
        plan
    }
}

/// What is to be done about a Secret.
enum Next {
    /// Nothing, unless it changes.
    Never,
    /// Look again.
    At(Timestamp),
    /// This is to be known first.
    Ask(String),
    /// It is to be refused from now on.
    Mark,
    /// It goes.
    Delete,
}

fn next(view: &View<'_>, secret: &Secret, now: Timestamp) -> Next {
    let again = || Next::At(now.saturating_add(AGAIN).unwrap_or(Timestamp::MAX));
    // The order is that of what costs least.
    let created = object::created(secret).saturating_add(KEPT).unwrap_or(Timestamp::MAX);
    if created >= now {
        return Next::At(object::after(created, 1));
    }
    let day = |label: &str| object::labels(secret).get(label).map(|day| day.parse::<Date>());
    match day(LAST_USED) {
        None => {}
        // What cannot be read says nothing about uses.
        Some(Err(_)) => return Next::Never,
        Some(Ok(used)) if is_recent(used, now) => return Next::At(outlived(used)),
        Some(Ok(_)) => {}
    }
    let (namespace, name) = (object::namespace(secret), object::name(secret));
    // Only what an old cluster made by itself is listed by the account.
    let owner = object::annotation(secret, ACCOUNT).unwrap_or_default();
    let uid = object::annotation(secret, UID).unwrap_or_default();
    let account = view.get::<ServiceAccount>(namespace, owner);
    let listed = account.is_some_and(|account| {
        let is_it = uid.is_empty() || object::uid(&*account) == uid;
        is_it && account.secrets.iter().flatten().any(|listed| listed.name.as_deref() == Some(name))
    });
    if !listed || view.list_namespace::<Pod>(namespace).iter().any(|pod| uses(pod, name)) {
        return again();
    }
    let path = Endpoint::of::<ConfigMap>().path(Some(TRACKING.0), Some(TRACKING.1), None);
    let since = match view.answers().get(&path) {
        None => return Next::Ask(path),
        Some(Ok(found)) => found["data"]["since"].as_str().and_then(|since| since.parse::<Date>().ok()),
        Some(Err(_)) => None,
    };
    let Some(since) = since else {
        tracing::warn!("it is not known since when uses of tokens in Secrets are noted: none is cleaned up");
        return again();
    };
    // The day on which noting began is not a whole one.
    let known = midnight(since.saturating_add(1.day())).saturating_add(KEPT).unwrap_or(Timestamp::MAX);
    if now < known {
        return Next::At(known);
    }
    match day(INVALID_SINCE) {
        Some(Ok(invalid)) if is_recent(invalid, now) => Next::At(outlived(invalid)),
        Some(Ok(_)) => Next::Delete,
        _ => Next::Mark,
    }
}

fn today(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

fn midnight(day: Date) -> Timestamp {
    day.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |at| at.timestamp())
}

/// Whether a day is less than the time that tokens are kept ago.
fn is_recent(day: Date, now: Timestamp) -> bool {
    day >= today(now.saturating_sub(KEPT).unwrap_or(Timestamp::MIN))
}

/// When a day is no longer recent.
fn outlived(day: Date) -> Timestamp {
    midnight(day.saturating_add(1.day())).saturating_add(KEPT).unwrap_or(Timestamp::MAX)
}

/// Whether a pod names the Secret anywhere.
fn uses(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let is = |found: &str| found == name;
    let pulls = spec.image_pull_secrets.iter().flatten().any(|pull| is(&pull.name));
    let from = |source: &Option<SecretEnvSource>| source.as_ref().is_some_and(|source| is(&source.name));
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut in_containers = containers.map(|container| (&container.env, &container.env_from)).chain(
        spec.ephemeral_containers.iter().flatten().map(|container| (&container.env, &container.env_from)),
    );
    pulls
        || in_containers.any(|(env, env_from)| {
            let by_key = env.iter().flatten().any(|variable| {
                let key = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
                key.is_some_and(|key| is(&key.name))
            });
            by_key || env_from.iter().flatten().any(|source| from(&source.secret_ref))
        })
        || spec.volumes.iter().flatten().any(|volume| of_volume(volume).into_iter().any(is))
}

/// The Secrets that a volume names.
fn of_volume(volume: &Volume) -> Vec<&str> {
    let mut names: Vec<Option<&str>> = vec![
        volume.secret.as_ref().and_then(|source| source.secret_name.as_deref()),
        volume.azure_file.as_ref().map(|source| source.secret_name.as_str()),
    ];
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    names.extend(projected.map(|source| source.secret.as_ref().map(|secret| secret.name.as_str())));
    let references = [
        volume.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|source| source.node_publish_secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|source| source.secret_ref.as_ref()),
        volume.scale_io.as_ref().map(|source| &source.secret_ref),
        volume.storageos.as_ref().and_then(|source| source.secret_ref.as_ref()),
    ];
    names.extend(references.map(|reference| reference.map(|reference| reference.name.as_str())));
    names.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::Value;

    use super::*;

    const NOW: &str = "2026-11-22T10:00:00Z";
    const PATH: &str =
        "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking";

    fn secret(created: &str, labels: &Value) -> Secret {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "a", "uid": "us", "resourceVersion": "7", "creationTimestamp": created,
                "labels": labels, "annotations": {ACCOUNT: "robot", UID: "ur"}},
            "type": TYPE,
        }))
        .unwrap()
    }

    fn account(uid: &str, listed: &str) -> ServiceAccount {
        serde_json::from_value(json!({
            "metadata": {"name": "robot", "namespace": "a", "uid": uid}, "secrets": [{"name": listed}],
        }))
        .unwrap()
    }

    fn pod(spec: &Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec});
        if pod["spec"]["containers"].is_null() {
            pod["spec"]["containers"] = json!([]);
        }
        serde_json::from_value(pod).unwrap()
    }

    fn plan(secret: Secret, account: ServiceAccount, pods: Vec<Pod>, since: Option<&str>) -> Plan {
        let mut fixture = Fixture::new(LegacyTokenCleaner).with(vec![secret]).with(vec![account]).with(pods);
        if let Some(since) = since {
            fixture = fixture.with_answer(PATH, Ok(json!({"data": {"since": since}})));
        }
        fixture.plan("a", "s", NOW.parse().unwrap())
    }

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn unused_tokens_are_marked_and_a_year_later_deleted() {
        let old = "2024-01-01T00:00:00Z";
        let (since, tomorrow) = (Some("2025-01-01"), at("2026-11-23T10:00:00Z"));
        let own = || account("ur", "s");
        #[rustfmt::skip]
        let table = [
            ("young", "2026-01-01T00:00:00Z", json!({}), own(), since, vec![], at("2027-01-01T00:00:01Z")),
            ("never used", old, json!({}), own(), since, vec!["patch secrets a/s"], None),
            ("used today", old, json!({LAST_USED: "2026-11-22"}), own(), since, vec![], at("2027-11-23T00:00:00Z")),
            ("used a year ago", old, json!({LAST_USED: "2025-11-22"}), own(), since, vec![], at("2026-11-23T00:00:00Z")),
            ("used before", old, json!({LAST_USED: "2025-11-21"}), own(), since, vec!["patch secrets a/s"], None),
            ("used nobody knows when", old, json!({LAST_USED: "lately"}), own(), since, vec![], None),
            ("somebody's own", old, json!({}), account("ur", "another"), since, vec![], tomorrow),
            ("of an account that is gone", old, json!({}), account("later", "s"), since, vec![], tomorrow),
            ("not noted for long", old, json!({}), own(), Some("2026-01-01"), vec![], at("2027-01-02T00:00:00Z")),
            ("noted nobody knows since when", old, json!({}), own(), Some("x"), vec![], tomorrow),
            ("marked", old, json!({INVALID_SINCE: "2026-01-01"}), own(), since, vec![], at("2027-01-02T00:00:00Z")),
            ("marked badly", old, json!({INVALID_SINCE: "x"}), own(), since, vec!["patch secrets a/s"], None),
            ("marked long ago", old, json!({INVALID_SINCE: "2025-11-21"}), own(), since, vec!["delete secrets a/s"], None),
        ];
        for (what, created, labels, account, since, want, again) in table {
            let plan = plan(secret(created, &labels), account, Vec::new(), since);
            let lines: Vec<String> = plan.actions().map(ToString::to_string).collect();
            assert_eq!(
                (lines, plan.requeue_at),
                (want.iter().map(ToString::to_string).collect(), again),
                "{what}"
            );
        }
        let asked = plan(secret(old, &json!({})), own(), Vec::new(), None);
        assert_eq!(asked.questions, [PATH]);
        let marked = plan(secret(old, &json!({})), own(), Vec::new(), since);
        let sent = marked.actions().next().unwrap().patch_body().unwrap().clone();
        assert_eq!(sent["metadata"], json!({"uid": "us", "labels": {INVALID_SINCE: "2026-11-22"}}));
    }

    #[test]
    fn what_a_pod_names_is_used() {
        let old = || secret("2024-01-01T00:00:00Z", &json!({}));
        for spec in [
            json!({"imagePullSecrets": [{"name": "s"}]}),
            json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            json!({"containers": [{"name": "c", "env": [{"name": "e", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}),
            json!({"initContainers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]}),
            json!({"volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}]}),
        ] {
            let plan = plan(old(), account("ur", "s"), vec![pod(&spec)], Some("2025-01-01"));
            assert_eq!(plan.actions().count(), 0, "{spec}");
            assert_eq!(plan.requeue_at, at("2026-11-23T10:00:00Z"), "{spec}");
        }
        let other = pod(&json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]}));
        assert_eq!(plan(old(), account("ur", "s"), vec![other], Some("2025-01-01")).actions().count(), 1);
    }
}
