//! Names, volumes and pods by ordinal.
//!
//! Upstream: `pkg/controller/statefulset/stateful_set_utils.go`, `stateful_pod_control.go`.

use api::meta::OwnerReference;
use api::types::apps::v1::{ControllerRevision, StatefulSet};
use api::types::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use reconcile::{Action, Plan};

use super::Run;
use crate::{claim, history, object, pods};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The name of the pod of an ordinal.
pub(super) fn name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", object::name(set))
}

/// The ordinal in a pod's name, if it is one of this set's.
pub(super) fn of(set: &StatefulSet, pod: &str) -> Option<i32> {
    let ordinal = pod.strip_prefix(object::name(set))?.strip_prefix('-')?;
    // `+1` and `01` are numbers to the parser and no names of ours.
    ordinal.parse().ok().filter(|number: &i32| number.to_string() == ordinal)
}

fn claim_name(template: &PersistentVolumeClaim, set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{}", object::name(template), name(set, ordinal))
}

/// The claims of an ordinal: created where missing, and owned as the retention policy says.
pub(super) fn claims(run: &Run<'_>, plan: &mut Plan, ordinal: i32) {
    let set = run.set;
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let with_set = policy.and_then(|policy| policy.when_deleted.as_deref()) == Some("Delete");
    for template in set.spec.volume_claim_templates.iter().flatten() {
        let claim_name = claim_name(template, set, ordinal);
        let owner = with_set.then(|| OwnerReference { block_owner_deletion: None, ..claim::reference(set) });
        match run.view.get::<PersistentVolumeClaim>(object::namespace(set), &claim_name) {
            None => {
                let mut new = template.clone();
                new.metadata.name = Some(claim_name);
                new.metadata.namespace = set.metadata.namespace.clone();
                let labels = new.metadata.labels.get_or_insert_default();
                labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
                new.metadata.owner_references = owner.map(|owner| vec![owner]);
                new.status = None;
                plan.act(Action::create(&new));
            }
            Some(found) => {
                let have = found.metadata.owner_references.clone().unwrap_or_default();
                let mut wanted = have.clone();
                wanted.retain(|reference| reference.uid != object::uid(set));
                let owned = wanted.len() < have.len();
                if owned == owner.is_some() {
                    continue;
                }
                wanted.extend(owner);
                let mut updated = PersistentVolumeClaim::clone(&found);
                updated.metadata.owner_references = (!wanted.is_empty()).then_some(wanted);
                plan.act(Action::update(&updated));
            }
        }
    }
}

/// The pod of an ordinal at a revision.
pub(super) fn pod(set: &StatefulSet, revision: &ControllerRevision, ordinal: i32) -> Pod {
    // The template as it was then; one that no longer decodes is as good as the present one.
    let template = revision.data.0.pointer("/spec/template");
    let template: Option<PodTemplateSpec> = template.and_then(|template| api::json::typed(template).ok());
    let template = template.unwrap_or_else(|| set.spec.template.clone());
    let mut pod =
        pods::from_template(&template, object::namespace(set), object::name(set), claim::reference(set));
    let name = name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(history::HASH.to_owned(), object::name(revision).to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone();
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    if !templates.is_empty() {
        let volumes = spec.volumes.get_or_insert_default();
        // A claim takes the place of a volume of its name.
        volumes.retain(|volume| !templates.iter().any(|template| object::name(template) == volume.name));
        volumes.extend(templates.iter().map(|template| Volume {
            name: object::name(template).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, set, ordinal),
                read_only: Some(false),
            }),
            ..Volume::default()
        }));
    }
    pod
}
