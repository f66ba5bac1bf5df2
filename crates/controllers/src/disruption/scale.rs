//! How many pods the controllers of some pods want, together.
//!
//! Reads the workload kinds from the caches; asks the server for the scale of any other controller.
//! Not here: what follows for a budget.
//! Upstream: `getExpectedScale` and the finders of `pkg/controller/disruption`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::meta::OwnerReference;
use api::types::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use api::types::core::v1::{Pod, ReplicationController};
use client::Endpoint;
use reconcile::{View, Watches};
use serde_json::Value;

use crate::object;

/// The sum over the controllers.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scale {
    pub(super) replicas: i32,
    /// Some of the pods have no controller.
    pub(super) has_unmanaged: bool,
}

/// Why there is no sum.
#[derive(Debug)]
pub(super) enum Unknown {
    /// These paths tell.
    Ask(Vec<String>),
    /// There cannot be one, for this reason.
    Never(String),
    /// The server does not say now, for this reason.
    Failed(String),
}

impl From<&api::Status> for Unknown {
    fn from(status: &api::Status) -> Unknown {
        let message = status.message.clone();
        if status.code >= 500 || status.code == 429 {
            Unknown::Failed(message)
        } else {
            Unknown::Never(message)
        }
    }
}

pub(super) fn watch(watches: &mut Watches<'_>) {
    watches.read::<ReplicationController>().read::<ReplicaSet>().read::<Deployment>().read::<StatefulSet>();
}

/// The sum over the controllers of these pods.
pub(super) fn of(view: &View<'_>, pods: &[Arc<Pod>]) -> Result<Scale, Unknown> {
    let mut scale = Scale::default();
    // By the UID of whoever controls the pod; the value is whose scale that is, for a Deployment counts once.
    let mut found: BTreeMap<&str, (String, i32)> = BTreeMap::new();
    let mut questions = Vec::new();
    for pod in pods {
        let Some(owner) = object::controller(&**pod) else {
            scale.has_unmanaged = true;
            continue;
        };
        if found.contains_key(owner.uid.as_str()) {
            continue;
        }
        let namespace = object::namespace(&**pod);
        let one = match cached(view, namespace, owner) {
            Some(one) => Some(one),
            None => match asked(view, namespace, owner) {
                Ok(one) => one,
                Err(Unknown::Ask(paths)) => {
                    questions.extend(paths);
                    continue;
                }
                Err(never) => return Err(never),
            },
        };
        let Some(one) = one else {
            let name = object::name(&**pod);
            return Err(Unknown::Never(format!("found no controllers for pod {name:?}")));
        };
        found.insert(&owner.uid, one);
    }
    if !questions.is_empty() {
        questions.sort();
        questions.dedup();
        return Err(Unknown::Ask(questions));
    }
    let by_scaled: BTreeMap<String, i32> = found.into_values().collect();
    // Their users choose the numbers: the sum may be more than there can be.
    scale.replicas = by_scaled.into_values().fold(0, i32::saturating_add);
    Ok(scale)
}

/// UID and replicas of a controller of a kind that is cached.
fn cached(view: &View<'_>, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let (uid, replicas) = match (group, owner.kind.as_str()) {
        ("", "ReplicationController") => {
            let found = view.get::<ReplicationController>(namespace, &owner.name)?;
            let replicas = found.spec.as_ref().and_then(|spec| spec.replicas);
            (object::uid(&*found).to_owned(), replicas)
        }
        ("apps" | "extensions", "ReplicaSet") => {
            let found = view.get::<ReplicaSet>(namespace, &owner.name)?;
            if object::uid(&*found) == owner.uid
                && let Some(above) = object::controller(&*found).filter(|above| above.kind == "Deployment")
                && let Some(deployment) = view.get::<Deployment>(namespace, &above.name)
                && object::uid(&*deployment) == above.uid
            {
                let replicas = deployment.spec.replicas;
                return Some((above.uid.clone(), replicas.unwrap_or(1)));
            }
            (object::uid(&*found).to_owned(), found.spec.replicas)
        }
        ("apps", "StatefulSet") => {
            let found = view.get::<StatefulSet>(namespace, &owner.name)?;
            let replicas = found.spec.replicas;
            (object::uid(&*found).to_owned(), replicas)
        }
        _ => return None,
    };
    (uid == owner.uid).then_some((uid, replicas.unwrap_or(1)))
}

/// UID and replicas of any other controller, from its subresource `scale`; `None` if it is not there.
fn asked(view: &View<'_>, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>, Unknown> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let list = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let served = match view.answers().get(&list) {
        None => return Err(Unknown::Ask(vec![list])),
        Some(Err(status)) => return Err(status.into()),
        Some(Ok(served)) => served["resources"].as_array().cloned().unwrap_or_default(),
    };
    let name_of = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
    let plural = served
        .iter()
        .find(|resource| resource["kind"] == *owner.kind && !name_of(resource).contains('/'))
        .map(name_of);
    let Some(plural) = plural else {
        let version = &owner.api_version;
        return Err(Unknown::Never(format!("no matches for kind {:?} in version {version:?}", owner.kind)));
    };
    if !served.iter().any(|resource| name_of(resource) == format!("{plural}/scale")) {
        let resource = api::GroupResource::new(group, &plural);
        return Err(Unknown::Never(format!("{resource} does not implement the scale subresource")));
    }
    let endpoint = Endpoint::new(group.to_owned(), version.to_owned(), plural);
    let path = endpoint.path(Some(namespace), Some(&owner.name), Some("scale"));
    match view.answers().get(&path) {
        None => Err(Unknown::Ask(vec![path])),
        Some(Err(status)) if status.is_not_found() => Ok(None),
        Some(Err(status)) => Err(status.into()),
        Some(Ok(scale)) => {
            let uid = scale["metadata"]["uid"].as_str().unwrap_or_default();
            let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            let replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
            Ok((uid == owner.uid).then(|| (uid.to_owned(), replicas)))
        }
    }
}
