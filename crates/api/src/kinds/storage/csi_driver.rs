//! CSIDriver: what a CSI driver needs from the cluster.
//! Upstream: pkg/registry/storage/csidriver, pkg/apis/storage.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::json;
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::one_of_if_set;
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::storage::v1::CSIDriver;

const NAME_MAX: usize = 63;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        columns: vec![
            Column::object_name(),
            Column::new("AttachRequired", "boolean", "Whether its volumes must be attached."),
            Column::new("PodInfoOnMount", "boolean", "Whether it is told about the pod."),
            Column::new("StorageCapacity", "boolean", "Whether it says how much it can still provide."),
            Column::new("TokenRequests", "string", "For whom it needs tokens of the pod."),
            Column::new("RequiresRepublish", "boolean", "Whether volumes are published again and again."),
            Column::new("Modes", "string", "Which lives its volumes can have."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<CSIDriver>::new()
                .default_with(default)
                .prepare_for_update(prepare_for_update)
                .validate(validate)
                .validate_update(validate_update)
                .warnings(warnings)
                .cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new("storage.k8s.io", "v1", "CSIDriver", "csidrivers", Scope::Cluster)
    }
}

fn default(driver: &mut CSIDriver) {
    let spec = &mut driver.spec;
    spec.attach_required.get_or_insert(true);
    spec.pod_info_on_mount.get_or_insert(false);
    spec.storage_capacity.get_or_insert(false);
    default_text(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType");
    if items(&spec.volume_lifecycle_modes).is_empty() {
        spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
    }
    spec.requires_republish.get_or_insert(false);
    spec.se_linux_mount.get_or_insert(false);
}

/// Changes of the spec are counted from the first one on: unlike of other kinds, a new driver has no generation.
fn prepare_for_update(new: &mut CSIDriver, old: &CSIDriver) {
    if new.spec != old.spec {
        new.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
    }
}

fn validate(driver: &CSIDriver) -> ErrorList {
    let mut errors = ErrorList::new();
    if text(&driver.metadata.name).len() > NAME_MAX {
        errors.push(field::too_long(&Path::new("name"), NAME_MAX));
    }
    let path = Path::new("spec");
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    one_of_if_set(&mut errors, &path.child("fsGroupPolicy"), &driver.spec.fs_group_policy, &policies);
    for mode in items(&driver.spec.volume_lifecycle_modes) {
        let modes = ["Ephemeral", "Persistent"];
        if !modes.contains(&&**mode) {
            errors.push(field::not_supported(&path.child("volumeLifecycleModes"), &**mode, &modes));
        }
    }
    if let Some(seconds) = driver.spec.node_allocatable_update_period_seconds.filter(|seconds| *seconds < 10)
    {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.push(field::invalid(&path, seconds, "must be greater than or equal to 10 seconds"));
    }
    let tokens = items(&driver.spec.token_requests);
    let mut seen = HashSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let path = path.child("tokenRequests").index(index);
        if !seen.insert(&token.audience) {
            errors.push(field::duplicate(&path.child("audience"), &*token.audience));
        }
        if let Some(seconds) = token.expiration_seconds {
            let path = path.child("expirationSeconds");
            if seconds < 600 {
                errors.push(field::invalid(
                    &path,
                    seconds,
                    "may not specify a duration less than 10 minutes",
                ));
            } else if seconds > 1 << 32 {
                let message = "may not specify a duration larger than 2^32 seconds";
                errors.push(field::invalid(&path, seconds, message));
            }
        }
    }
    if let Some(in_secrets) = driver.spec.service_account_token_in_secrets.filter(|_| tokens.is_empty()) {
        let message = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(field::invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets, message));
    }
    errors
}

/// Warns of tokens that go where logs may show them, when they are asked for anew.
fn warnings(new: &CSIDriver, old: Option<&Value>) -> Vec<String> {
    let tokens = items(&new.spec.token_requests);
    let before = old.and_then(|old| json::typed::<CSIDriver>(old).ok());
    let same = before.is_some_and(|before| items(&before.spec.token_requests) == tokens);
    if tokens.is_empty() || same || new.spec.service_account_token_in_secrets.is_some() {
        return Vec::new();
    }
    let message = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                   possible logging of tokens in volume attributes";
    vec![message.to_owned()]
}

fn validate_update(new: &CSIDriver, old: &CSIDriver) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec");
    let (new, old) = (&new.spec, &old.spec);
    immutable(&mut errors, &path.child("attachRequired"), &new.attach_required, &old.attach_required);
    let modes = path.child("volumeLifecycleModes");
    immutable(&mut errors, &modes, &new.volume_lifecycle_modes, &old.volume_lifecycle_modes);
    errors
}

fn cells(driver: &CSIDriver, now: Timestamp) -> Vec<Value> {
    let spec = &driver.spec;
    let tokens = match &spec.token_requests {
        None => "<unset>".to_owned(),
        Some(tokens) => tokens.iter().map(|token| &*token.audience).collect::<Vec<_>>().join(","),
    };
    vec![
        row::name(&driver.metadata),
        spec.attach_required.unwrap_or(true).into(),
        spec.pod_info_on_mount.unwrap_or(false).into(),
        spec.storage_capacity.unwrap_or(false).into(),
        tokens.into(),
        spec.requires_republish.unwrap_or(false).into(),
        row::or_none(&items(&spec.volume_lifecycle_modes).join(",")),
        row::age(&driver.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One that asks for tokens of these audiences and says where to put them, each unless empty.
    fn with_tokens(audiences: &[&str], in_secrets: Option<bool>) -> Value {
        let requests: Vec<Value> = audiences.iter().map(|one| json!({"audience": one})).collect();
        let mut driver = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": requests}});
        if let Some(in_secrets) = in_secrets {
            driver["spec"]["serviceAccountTokenInSecrets"] = in_secrets.into();
        }
        driver
    }

    #[test]
    fn tokens_in_secrets_need_tokens() {
        for (audiences, in_secrets, wrong) in [
            (&["a"][..], Some(true), false),
            (&["a"], None, false),
            (&[], None, false),
            (&[], Some(true), true),
            (&[], Some(false), true),
        ] {
            let driver = serde_json::from_value(with_tokens(audiences, in_secrets)).unwrap();
            let errors = validate(&driver);
            let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
            let expected: &[&str] = if wrong { &["spec.serviceAccountTokenInSecrets"] } else { &[] };
            assert_eq!(fields, expected, "{audiences:?} {in_secrets:?}");
        }
    }

    #[test]
    fn tokens_that_are_not_said_to_be_secrets_are_warned_of() {
        type Driver<'a> = (&'a [&'a str], Option<bool>);
        let table: [(Option<Driver<'_>>, Driver<'_>, usize); 8] = [
            (None, (&["a"], None), 1),
            (None, (&["a"], Some(false)), 0),
            (None, (&[], None), 0),
            (Some((&["a"], None)), (&["a"], None), 0),
            (Some((&[], None)), (&["a"], None), 1),
            (Some((&["a"], None)), (&["b"], None), 1),
            (Some((&["a"], None)), (&["b"], Some(true)), 0),
            (Some((&["a"], None)), (&[], None), 0),
        ];
        let hooks = descriptor().hooks;
        for (old, new, expected) in table {
            let before = old.map(|(audiences, in_secrets)| with_tokens(audiences, in_secrets));
            let told = hooks.warnings(&with_tokens(new.0, new.1), before.as_ref());
            assert_eq!(told.len(), expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn generations_begin_with_the_first_change() {
        let hooks = descriptor().hooks;
        let driver =
            |republish: bool| json!({"metadata": {"name": "d"}, "spec": {"requiresRepublish": republish}});
        let mut same = driver(false);
        hooks.prepare_for_update(&mut same, &driver(false));
        assert_eq!(same["metadata"].get("generation"), None);
        let mut changed = driver(true);
        hooks.prepare_for_update(&mut changed, &driver(false));
        assert_eq!(changed["metadata"]["generation"], 1);
        let mut back = driver(false);
        hooks.prepare_for_update(&mut back, &changed);
        assert_eq!(back["metadata"]["generation"], 2);
    }
}
