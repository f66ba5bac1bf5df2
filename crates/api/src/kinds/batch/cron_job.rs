//! CronJob: Jobs on a schedule.
//! Not here: when a schedule is due ([`crate::cron`], the controller).
//! Upstream: pkg/registry/batch/cronjob, pkg/apis/batch.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::job::{spec_warnings, validate_job_spec};
use crate::cron::{self, Schedule};
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{json as value_of, not_negative_if_set, one_of};
use crate::kinds::core::pod::defaults;
use crate::kinds::optional::{default_text, items, text};
use crate::kinds::row;
use crate::kinds::warn;
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
                .warnings(warnings)
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
    let mut errors = check_spec(&object.spec, None);
    if text(&object.metadata.name).len() > NAME_MAX {
        let path = Path::new("metadata").child("name");
        let message = format!("must be no more than {NAME_MAX} characters");
        errors.push(field::invalid(&path, text(&object.metadata.name), message));
    }
    errors
}

fn validate_update(new: &CronJob, old: &CronJob) -> ErrorList {
    check_spec(&new.spec, Some(&old.spec))
}

/// What the old spec had is let be, where it was allowed once.
fn check_spec(spec: &CronJobSpec, old: Option<&CronJobSpec>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let schedule_path = path.child("schedule");
    if spec.schedule.is_empty() {
        errors.push(field::required(&schedule_path, ""));
    } else {
        if let Err(message) = Schedule::parse(&spec.schedule) {
            errors.push(field::invalid(&schedule_path, &*spec.schedule, message));
        }
        let had_zone = old.is_some_and(|old| old.schedule.contains("TZ"));
        let message = match (spec.schedule.contains("TZ"), had_zone) {
            (true, false) => Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
            (true, true) if spec.time_zone.is_some() => {
                Some("cannot use both timeZone field and TZ or CRON_TZ in schedule")
            }
            _ => None,
        };
        errors.extend(message.map(|message| field::invalid(&schedule_path, &*spec.schedule, message)));
    }
    let is_new_zone = old.is_none_or(|old| old.time_zone != spec.time_zone);
    if let Some(zone) = spec.time_zone.as_ref().filter(|_| is_new_zone) {
        let path = path.child("timeZone");
        if zone.is_empty() {
            errors.push(field::invalid(&path, "", "timeZone must be nil or non-empty string"));
        } else if !zone.split('/').all(is_zone_part) {
            errors.push(field::invalid(&path, &**zone, format!("unknown time zone {zone}")));
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

/// Whether a text is an element of the name of a time zone, as the time zone database has them.
fn is_zone_part(part: &str) -> bool {
    const MAX: usize = 14;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+');
    (1..=MAX).contains(&part.len())
        && !matches!(part, "." | "..")
        && !part.starts_with('-')
        && part.bytes().all(allowed)
}

fn warnings(job: &CronJob, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        warn::name_of_pods(&mut warnings, &job.metadata);
    }
    let spec = &job.spec;
    if let Some(job_spec) = &spec.job_template.spec
        && warn::is_new_generation(&job.metadata, old)
    {
        let path = Path::new("spec").child("jobTemplate").child("spec");
        spec_warnings(&mut warnings, &path, job_spec);
    }
    if spec.schedule.contains("TZ") {
        // The doubled step is upstream's.
        warnings.push(
            "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .to_owned(),
        );
    }
    warnings
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

#[cfg(test)]
mod tests {
    use super::*;

    fn job(schedule: &str, zone: Option<&str>) -> CronJob {
        let mut job = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {
            "schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}}))
        .unwrap();
        default(&mut job);
        job
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schedules_and_zones() {
        for (schedule, zone, expected) in [
            ("0 3 * * *", None, vec![]),
            ("@daily", Some("Europe/Paris"), vec![]),
            ("", None, vec!["spec.schedule: Required value"]),
            (
                "CRON_TZ=UTC * * * * *",
                None,
                vec![
                    r#"spec.schedule: Invalid value: "CRON_TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"#,
                ],
            ),
            (
                "0 3 * * *",
                Some(""),
                vec![r#"spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string"#],
            ),
            (
                "0 3 * * *",
                Some("Europe/Pariss"),
                vec![r#"spec.timeZone: Invalid value: "Europe/Pariss": unknown time zone Europe/Pariss"#],
            ),
            (
                "0 3 * * *",
                Some("../UTC"),
                vec![r#"spec.timeZone: Invalid value: "../UTC": unknown time zone ../UTC"#],
            ),
            (
                "0 3 * * *",
                Some("local"),
                vec![
                    r#"spec.timeZone: Invalid value: "local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"#,
                ],
            ),
        ] {
            assert_eq!(texts(&validate(&job(schedule, zone))), expected);
        }
    }

    #[test]
    fn what_was_allowed_once_may_stay() {
        let old = job("TZ=UTC 0 3 * * *", None);
        assert!(texts(&validate_update(&old, &old)).is_empty());
        assert_eq!(
            texts(&validate_update(&job("TZ=UTC 0 3 * * *", Some("UTC")), &old)),
            [
                r#"spec.schedule: Invalid value: "TZ=UTC 0 3 * * *": cannot use both timeZone field and TZ or CRON_TZ in schedule"#
            ]
        );
        assert_eq!(texts(&validate_update(&old, &job("0 3 * * *", None))).len(), 1);
        let odd = job("0 3 * * *", Some("Nowhere"));
        assert!(texts(&validate_update(&odd, &odd)).is_empty());
    }

    #[test]
    fn warnings_tell_of_the_name_and_of_zones_in_schedules() {
        let mut old_style = job("TZ=UTC 0 3 * * *", None);
        assert_eq!(
            warnings(&old_style, None),
            [
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            ]
        );
        old_style.metadata.name = Some("a.b".to_owned());
        old_style.metadata.generation = Some(1);
        let old = json!({"metadata": {"generation": 1}});
        assert_eq!(warnings(&old_style, None).len(), 2);
        assert_eq!(warnings(&old_style, Some(&old)).len(), 1);
    }
}
