//! Job: pods that run to completion.
//! Upstream: pkg/registry/batch/job, pkg/apis/batch.

mod failure_policy;
mod status;
mod success_policy;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::duration;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Dependents, Descriptor, Scope, SelectableField, Subresources, Typed};
use crate::kinds::check::{json as value_of, labels_match, not_negative_if_set, one_of_if_set};
use crate::kinds::core::pod::{self, defaults, validation};
use crate::kinds::optional::{items, items_mut, text};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta::LabelSelector;
use crate::meta_validation::{immutable, label_selector_errors, push_invalid, selector_is_empty};
use crate::names::{is_dns1123_label, is_domain_prefixed_path};
use crate::selector::labels::Selector;
use crate::types::batch::v1::{Job, JobSpec, JobStatus};
use crate::types::core::v1::PodTemplateSpec;

/// What a client is told that deletes a Job and does not say what is to become of its pods.
const PODS_STAY: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                         remove them or set propagationPolicy=Orphan to suppress this warning";
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The labels of before they had a prefix; still set.
const OLD_CONTROLLER_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";

/// How it is served.
pub fn descriptor() -> Descriptor {
    let [containers, images] = row::container_columns();
    Descriptor {
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        selectable_fields: vec![SelectableField {
            absent: "0",
            ..SelectableField::new("status.successful", "/status/succeeded")
        }],
        generation: true,
        dependents: Dependents::Kept(PODS_STAY),
        columns: vec![
            Column::object_name(),
            Column::new("Status", "string", "Status of the job."),
            Column::new("Completions", "string", "The number of pods which reached phase Succeeded."),
            Column::new("Duration", "string", "Time required to complete the job."),
            Column::age(),
            containers,
            images,
            Column::wide("Selector", "string", "Which pods belong to the job."),
        ],
        hooks: Arc::new(
            Typed::<Job>::new()
                .status(|| Some(json!({})))
                .default_with(default)
                .prepare_for_create(generate_selector)
                .validate(validate_create)
                .validate_update(validate_update)
                .validate_status_update(status::validate_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("batch", "v1", "Job", "jobs", Scope::Namespaced)
    }
}

fn default(job: &mut Job) {
    let spec = job.spec.get_or_insert_default();
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let limit = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
    spec.backoff_limit.get_or_insert(limit);
    spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
    spec.suspend.get_or_insert(false);
    spec.manual_selector.get_or_insert(false);
    let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
    for rule in spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules) {
        for pattern in items_mut(&mut rule.on_pod_conditions) {
            pattern.status.get_or_insert_with(|| "True".to_owned());
        }
    }
    defaults::template(&mut spec.template);
    job.status.get_or_insert_default();
}

/// Unless the user manages the selector, it selects by the job's uid.
fn generate_selector(job: &mut Job) {
    let (uid, name) = (text(&job.metadata.uid).to_owned(), text(&job.metadata.name).to_owned());
    let Some(spec) = &mut job.spec else { return };
    if spec.manual_selector == Some(true) {
        return;
    }
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in
        [(CONTROLLER_UID, &uid), (OLD_CONTROLLER_UID, &uid), (JOB_NAME, &name), (OLD_JOB_NAME, &name)]
    {
        labels.insert(key.to_owned(), value.clone());
    }
    let labels = labels.clone();
    let selector = spec.selector.get_or_insert_default();
    let selected = selector.match_labels.get_or_insert_default();
    if !selected.contains_key(OLD_CONTROLLER_UID) {
        selected.insert(CONTROLLER_UID.to_owned(), uid);
    }
    // A job without labels of its own has those of its pods, the generated ones included.
    if job.metadata.labels.as_ref().is_none_or(BTreeMap::is_empty) {
        job.metadata.labels = Some(labels);
    }
}

fn validate_create(job: &Job) -> ErrorList {
    let mut errors = validate(job);
    let indexed = job.spec.as_ref().filter(|spec| text(&spec.completion_mode) == "Indexed");
    if let Some(completions) = indexed.and_then(|spec| spec.completions).filter(|&count| count > 0) {
        // The pods of an indexed job are named by their index: the longest name must do as a host name.
        let name = text(&job.metadata.name);
        let host = format!("{name}-{}", completions - 1);
        if !is_dns1123_label(&host).is_empty() {
            let message = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(field::invalid(&Path::new("metadata").child("name"), name, message));
        }
    }
    errors
}

fn validate(job: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    generated_selector(&mut errors, job, spec, &path);
    validate_job_spec(&mut errors, spec, &path);
    let selector_path = path.child("selector");
    match &spec.selector {
        None => errors.push(field::required(&selector_path, "")),
        Some(selector) => {
            errors.extend(label_selector_errors(selector, &selector_path));
            let labels = template_labels(&spec.template);
            if Selector::from_label_selector(Some(selector)).is_ok_and(|selector| !selector.matches(&labels))
            {
                errors.push(field::invalid(
                    &path.child("template").child("metadata").child("labels"),
                    value_of(&labels),
                    "`selector` does not match template `labels`",
                ));
            }
        }
    }
    errors
}

fn template_labels(template: &PodTemplateSpec) -> BTreeMap<String, String> {
    template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default()
}

/// The labels and selector that [`generate_selector`] made are still there.
fn generated_selector(errors: &mut ErrorList, job: &Job, spec: &JobSpec, path: &Path) {
    let Some(selector) = &spec.selector else { return };
    if spec.manual_selector == Some(true) {
        return;
    }
    let (uid, name) = (text(&job.metadata.uid), text(&job.metadata.name));
    if uid.is_empty() {
        errors.push(field::required(&Path::new("metadata").child("uid"), ""));
    }
    let labels = template_labels(&spec.template);
    let labels_path = path.child("template").child("metadata").child("labels");
    for (key, value) in
        [(OLD_CONTROLLER_UID, uid), (OLD_JOB_NAME, name), (CONTROLLER_UID, uid), (JOB_NAME, name)]
    {
        match labels.get(key) {
            None => errors.push(field::required(&labels_path.key(key), format!("must be '{value}'"))),
            Some(found) if found != value => {
                let message = format!("must be '{value}'");
                errors.push(field::invalid(&labels_path.key(key), value_of(&labels), message));
            }
            Some(_) => {}
        }
    }
    let made: BTreeMap<_, _> =
        [(CONTROLLER_UID, uid), (OLD_CONTROLLER_UID, uid), (JOB_NAME, name), (OLD_JOB_NAME, name)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let selected = selector.match_labels.clone().unwrap_or_default();
    if selector_is_empty(selector) || !labels_match(&selected, &made) {
        errors.push(field::invalid(
            &path.child("selector"),
            value_of(selector),
            "`selector` not auto-generated",
        ));
    }
}

/// Checks the spec of a job, alone or in the template of a CronJob.
pub(super) fn validate_job_spec(errors: &mut ErrorList, spec: &JobSpec, path: &Path) {
    not_negative_if_set(errors, &path.child("parallelism"), spec.parallelism);
    not_negative_if_set(errors, &path.child("completions"), spec.completions);
    not_negative_if_set(errors, &path.child("activeDeadlineSeconds"), spec.active_deadline_seconds);
    not_negative_if_set(errors, &path.child("backoffLimit"), spec.backoff_limit);
    not_negative_if_set(errors, &path.child("ttlSecondsAfterFinished"), spec.ttl_seconds_after_finished);
    not_negative_if_set(errors, &path.child("backoffLimitPerIndex"), spec.backoff_limit_per_index);
    not_negative_if_set(errors, &path.child("maxFailedIndexes"), spec.max_failed_indexes);
    if let Some(manager) = &spec.managed_by {
        let path = path.child("managedBy");
        push_invalid(errors, &path, manager, is_domain_prefixed_path(manager));
        if manager.len() > 63 {
            errors.push(field::too_long(&path, 63));
        }
    }
    one_of_if_set(errors, &path.child("completionMode"), &spec.completion_mode, &["Indexed", "NonIndexed"]);
    if text(&spec.completion_mode) == "Indexed" {
        indexed(errors, spec, path);
    } else {
        for (name, value) in [
            ("backoffLimitPerIndex", value_of(&spec.backoff_limit_per_index)),
            ("maxFailedIndexes", value_of(&spec.max_failed_indexes)),
            ("successPolicy", value_of(&spec.success_policy)),
        ] {
            if !value.is_null() {
                errors.push(field::invalid(&path.child(name), value, "requires indexed completion mode"));
            }
        }
    }
    if let Some(policy) = &spec.pod_failure_policy {
        failure_policy::validate(errors, policy, spec, &path.child("podFailurePolicy"));
    }
    let replacements =
        if spec.pod_failure_policy.is_some() { &["Failed"][..] } else { &["Failed", "TerminatingOrFailed"] };
    one_of_if_set(errors, &path.child("podReplacementPolicy"), &spec.pod_replacement_policy, replacements);
    validation::template(errors, &spec.template, &path.child("template"));
    restart_policy(errors, spec, &path.child("template").child("spec").child("restartPolicy"));
}

fn indexed(errors: &mut ErrorList, spec: &JobSpec, path: &Path) {
    const MAX_PARALLEL: i32 = 100_000;
    const MAX_FAILED: i32 = 100_000;
    /// From so many completions on, fewer indexes may run and fail: their lists must fit into the status.
    const MANY: i32 = 100_000;
    const FEW: i32 = 10_000;
    let path = path.clone();
    if spec.completions.is_none() {
        errors.push(field::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if let Some(parallelism) = spec.parallelism.filter(|&parallelism| parallelism > MAX_PARALLEL) {
        let message = format!("must be less than or equal to {MAX_PARALLEL} when completion mode is Indexed");
        errors.push(field::invalid(&path.child("parallelism"), parallelism, message));
    }
    if let (Some(failed), Some(completions)) = (spec.max_failed_indexes, spec.completions)
        && failed > completions
    {
        let message = "must be less than or equal to completions";
        errors.push(field::invalid(&path.child("maxFailedIndexes"), failed, message));
    }
    if let Some(failed) = spec.max_failed_indexes.filter(|&failed| failed > MAX_FAILED) {
        let message = format!("must be less than or equal to {MAX_FAILED}");
        errors.push(field::invalid(&path.child("maxFailedIndexes"), failed, message));
    }
    let many = spec.completions.is_some_and(|completions| completions > MANY);
    if many && spec.backoff_limit_per_index.is_some() {
        let failed_path = path.child("maxFailedIndexes");
        if spec.max_failed_indexes.is_none() {
            let message = format!("must be specified when completions is above {MANY}");
            errors.push(field::required(&failed_path, message));
        }
        for (path, count) in
            [(path.child("parallelism"), spec.parallelism), (failed_path, spec.max_failed_indexes)]
        {
            if let Some(count) = count.filter(|&count| count > FEW) {
                let message = format!(
                    "must be less than or equal to {FEW} when completions are above {MANY} and used with backoff \
                     limit per index"
                );
                errors.push(field::invalid(&path, count, message));
            }
        }
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let message = "when maxFailedIndexes is specified";
        errors.push(field::required(&path.child("backoffLimitPerIndex"), message));
    }
    if let Some(policy) = &spec.success_policy {
        success_policy::validate(errors, policy, spec.completions, &path.child("successPolicy"));
    }
}

/// `Always` is what a pod's default fills in, so it means that the user said nothing.
fn restart_policy(errors: &mut ErrorList, spec: &JobSpec, path: &Path) {
    let policy = spec.template.spec.as_ref().map_or("", |pod| text(&pod.restart_policy));
    match policy {
        "OnFailure" if spec.pod_failure_policy.is_some() => errors.push(field::invalid(
            path,
            policy,
            "only \"Never\" is supported when podFailurePolicy is specified",
        )),
        "OnFailure" | "Never" => {}
        "" | "Always" => errors.push(field::required(path, "valid values: \"OnFailure\", \"Never\"")),
        other => errors.push(field::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

fn validate_update(new: &Job, old: &Job) -> ErrorList {
    let mut errors = validate(new);
    let empty = JobSpec::default();
    let no_status = JobStatus::default();
    let (spec, old_spec) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let path = Path::new("spec");
    // An indexed job may grow and shrink when both counts change together.
    let elastic = text(&old_spec.completion_mode) == "Indexed" && spec.completions == spec.parallelism;
    if !elastic {
        immutable(&mut errors, &path.child("completions"), &spec.completions, &old_spec.completions);
    }
    immutable(&mut errors, &path.child("selector"), &spec.selector, &old_spec.selector);
    // A job that waits may still be told where to run.
    let waits =
        old_spec.suspend == Some(true) && old.status.as_ref().unwrap_or(&no_status).start_time.is_none();
    let mut template = spec.template.clone();
    if waits {
        take_scheduling(&mut template, &old_spec.template);
    }
    if template != old_spec.template {
        let path = path.child("template");
        errors.push(field::invalid(&path, value_of(&spec.template), crate::meta_validation::IMMUTABLE));
    }
    for (name, new, old) in [
        ("completionMode", value_of(&spec.completion_mode), value_of(&old_spec.completion_mode)),
        ("podFailurePolicy", value_of(&spec.pod_failure_policy), value_of(&old_spec.pod_failure_policy)),
        (
            "backoffLimitPerIndex",
            value_of(&spec.backoff_limit_per_index),
            value_of(&old_spec.backoff_limit_per_index),
        ),
        ("managedBy", value_of(&spec.managed_by), value_of(&old_spec.managed_by)),
        ("successPolicy", value_of(&spec.success_policy), value_of(&old_spec.success_policy)),
    ] {
        immutable(&mut errors, &path.child(name), &new, &old);
    }
    errors
}

fn take_scheduling(template: &mut PodTemplateSpec, old: &PodTemplateSpec) {
    if let (Some(meta), Some(old)) = (&mut template.metadata, &old.metadata) {
        meta.labels.clone_from(&old.labels);
        meta.annotations.clone_from(&old.annotations);
    }
    if let (Some(spec), Some(old)) = (&mut template.spec, &old.spec) {
        spec.node_selector.clone_from(&old.node_selector);
        spec.tolerations.clone_from(&old.tolerations);
        spec.scheduling_gates.clone_from(&old.scheduling_gates);
        spec.affinity.clone_from(&old.affinity);
        // Resources of a waiting job may be set since v1.36.
        for (container, old) in spec.containers.iter_mut().zip(&old.containers) {
            container.resources.clone_from(&old.resources);
        }
        for (container, old) in
            items_mut(&mut spec.init_containers).iter_mut().zip(items(&old.init_containers))
        {
            container.resources.clone_from(&old.resources);
        }
    }
}

fn warnings(job: &Job, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        warn::name_of_pods(&mut warnings, &job.metadata);
    }
    if let Some(spec) = &job.spec
        && warn::is_new_generation(&job.metadata, old)
    {
        spec_warnings(&mut warnings, &Path::new("spec"), spec);
    }
    warnings
}

/// Warnings of a job, alone or in the template of a CronJob.
pub(super) fn spec_warnings(warnings: &mut Vec<String>, path: &Path, spec: &JobSpec) {
    const MANY_INDEXES: i32 = 100_000;
    const MANY_PODS: i32 = 10_000;
    if text(&spec.completion_mode) == "Indexed"
        && spec.completions.unwrap_or(0) > MANY_INDEXES
        && spec.parallelism.unwrap_or(0) > MANY_PODS
    {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than \
             10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    pod::warnings::template(warnings, &path.child("template"), &spec.template);
}

fn cells(job: &Job, now: Timestamp) -> Vec<Value> {
    let (empty, no_status) = (JobSpec::default(), JobStatus::default());
    let spec = job.spec.as_ref().unwrap_or(&empty);
    let status = job.status.as_ref().unwrap_or(&no_status);
    let succeeded = status.succeeded.unwrap_or(0);
    let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let took = status.start_time.as_ref().map(|start| {
        let end = status.completion_time.as_ref().map_or(now, |end| end.0);
        duration::human(end.as_second() - start.0.as_second())
    });
    let [containers, images] = row::containers(Some(&spec.template));
    vec![
        row::name(&job.metadata),
        state(job, status).into(),
        completions.into(),
        took.unwrap_or_default().into(),
        row::age(&job.metadata, now),
        containers,
        images,
        row::selector(spec.selector.as_ref().or(Some(&LabelSelector::default()))),
    ]
}

fn state(job: &Job, status: &JobStatus) -> &'static str {
    let has = |kind: &str| {
        items(&status.conditions)
            .iter()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Value);

    fn job(change: fn(&mut Value)) -> Job {
        let mut value = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        change(&mut value);
        let mut job = serde_json::from_value(value).unwrap();
        default(&mut job);
        generate_selector(&mut job);
        job
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn checks() {
        let table: [(Change, &[&str]); 4] = [
            (|_| {}, &[]),
            (
                |job| job["spec"]["template"]["spec"]["restartPolicy"] = json!(null),
                &[r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#],
            ),
            (
                |job| {
                    job["spec"]["completionMode"] = json!("Indexed");
                    job["spec"]["parallelism"] = json!(2);
                },
                &["spec.completions: Required value: when completion mode is Indexed"],
            ),
            (
                |job| job["spec"]["backoffLimitPerIndex"] = json!(1),
                &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
            ),
        ];
        for (change, errors) in table {
            assert_eq!(texts(validate(&job(change))), errors);
        }
    }

    #[test]
    fn what_an_update_may_change() {
        let old = job(|_| {});
        assert_eq!(validate_update(&job(|job| job["spec"]["parallelism"] = json!(3)), &old).len(), 1);
        let mut paused = old.clone();
        paused.spec.as_mut().unwrap().suspend = Some(true);
        assert_eq!(validate_update(&paused, &old), []);
        let mut moved = paused.clone();
        moved.spec.as_mut().unwrap().template.spec.as_mut().unwrap().node_selector =
            Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(validate_update(&moved, &paused), []);
        assert_eq!(validate_update(&moved, &old).len(), 1);
    }

    #[test]
    fn the_row_tells_how_far_it_is() {
        let mut job = job(|_| {});
        job.status = serde_json::from_value(json!({"succeeded": 1, "startTime": "1970-01-01T00:00:00Z",
            "completionTime": "1970-01-01T00:00:05Z", "conditions": [{"type": "Complete", "status": "True"}]}))
        .unwrap();
        let cells = cells(&job, Timestamp::from_second(60).unwrap());
        assert_eq!(cells[1..4], [json!("Complete"), json!("1/1"), json!("5s")]);
    }
}
