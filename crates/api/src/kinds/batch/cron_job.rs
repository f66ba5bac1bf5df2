//! CronJob: Jobs on a schedule.
//! Not here: when a schedule is due ([`crate::cron`], the controller).
//! Upstream: pkg/registry/batch/cronjob, pkg/apis/batch.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::job::validate_job_spec;
use crate::cron::{self, Schedule};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{json as value_of, not_negative_if_set, one_of};
use crate::kinds::core::pod::defaults;
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::types::batch::v1::{CronJob, CronJobSpec, JobSpec};

/// The longest name: the controller appends 11 characters to make the names of Jobs.
const NAME_MAX: usize = 52;

/// How it is served.
pub fn descriptor() -> Descriptor {
    let [containers, images] = row::container_columns();
    Descriptor {
        short_names: vec!["cj".into()],
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Schedule", "string", "When jobs are made, in Cron format."),
            Column::new("Timezone", "string", "The time zone of the schedule."),
            Column::new("Suspend", "boolean", "Whether making jobs is suspended."),
            Column::new("Active", "integer", "Number of jobs that run."),
            Column::new("Last Schedule", "string", "When a job was made last."),
            Column::age(),
            containers,
            images,
            Column::wide("Selector", "string", "Which pods belong to the jobs."),
        ],
        hooks: Arc::new(
            Typed::<CronJob>::new()
                .status(|| Some(json!({})))
                .default_with(default)
                .validate(validate)
                .validate_update(validate_update)
                .cells(cells),
        ),
        ..Descriptor::new("batch", "v1", "CronJob", "cronjobs", Scope::Namespaced)
    }
}

fn default(object: &mut CronJob) {
    let spec = &mut object.spec;
    spec.concurrency_policy.get_or_insert_with(|| "Allow".to_owned());
    default_text(&mut spec.concurrency_policy, "Allow");
    spec.suspend.get_or_insert(false);
    spec.successful_jobs_history_limit.get_or_insert(3);
    spec.failed_jobs_history_limit.get_or_insert(1);
    spec.job_template.metadata.get_or_insert_default();
    defaults::template(&mut spec.job_template.spec.get_or_insert_default().template);
    object.status.get_or_insert_default();
}

fn validate(object: &CronJob) -> ErrorList {
    let mut errors = check_spec(&object.spec);
    if text(&object.metadata.name).len() > NAME_MAX {
        let path = Path::new("metadata").child("name");
        let message = format!("must be no more than {NAME_MAX} characters");
        errors.push(field::invalid(&path, text(&object.metadata.name), message));
    }
    errors
}

fn validate_update(new: &CronJob, _: &CronJob) -> ErrorList {
    check_spec(&new.spec)
}

fn check_spec(spec: &CronJobSpec) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let schedule_path = path.child("schedule");
    if spec.schedule.is_empty() {
        errors.push(field::required(&schedule_path, ""));
    } else if let Err(message) = Schedule::parse(&spec.schedule) {
        errors.push(field::invalid(&schedule_path, &*spec.schedule, message));
    }
    if spec.time_zone.is_some() && spec.schedule.contains("TZ") {
        let message = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.push(field::invalid(&schedule_path, &*spec.schedule, message));
    }
    if let Some(zone) = &spec.time_zone {
        let path = path.child("timeZone");
        if zone.is_empty() {
            errors.push(field::invalid(&path, "", "timeZone must be nil or non-empty string"));
        } else if zone.eq_ignore_ascii_case("Local") {
            errors.push(field::invalid(
                &path,
                &**zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ));
        } else if cron::zone(zone).is_none() {
            errors.push(field::invalid(&path, &**zone, format!("unknown time zone {zone}")));
        }
    }
    not_negative_if_set(&mut errors, &path.child("startingDeadlineSeconds"), spec.starting_deadline_seconds);
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(&mut errors, &path.child("concurrencyPolicy"), text(&spec.concurrency_policy), &policies);
    let template_path = path.child("jobTemplate").child("spec");
    let empty = JobSpec::default();
    let template = spec.job_template.spec.as_ref().unwrap_or(&empty);
    validate_job_spec(&mut errors, template, &template_path);
    if let Some(selector) = &template.selector {
        let message = "`selector` will be auto-generated";
        errors.push(field::invalid(&template_path.child("selector"), value_of(selector), message));
    }
    if template.manual_selector == Some(true) {
        let path = template_path.child("manualSelector");
        errors.push(field::not_supported(&path, true, &["nil", "false"]));
    }
    not_negative_if_set(
        &mut errors,
        &path.child("successfulJobsHistoryLimit"),
        spec.successful_jobs_history_limit,
    );
    not_negative_if_set(&mut errors, &path.child("failedJobsHistoryLimit"), spec.failed_jobs_history_limit);
    errors
}

fn cells(object: &CronJob, now: Timestamp) -> Vec<Value> {
    let spec = &object.spec;
    let status = object.status.clone().unwrap_or_default();
    let job = spec.job_template.spec.as_ref();
    let [containers, images] = row::containers(job.map(|job| &job.template));
    let last = match &status.last_schedule_time {
        None => row::NONE.to_owned(),
        Some(time) => row::since(Some(time), now),
    };
    let selector = job.and_then(|job| job.selector.clone()).unwrap_or_default();
    vec![
        row::name(&object.metadata),
        spec.schedule.clone().into(),
        row::or_none(text(&spec.time_zone)),
        if spec.suspend == Some(true) { "True" } else { "False" }.into(),
        items(&status.active).len().into(),
        last.into(),
        row::age(&object.metadata, now),
        containers,
        images,
        row::selector(Some(&selector)),
    ]
}
