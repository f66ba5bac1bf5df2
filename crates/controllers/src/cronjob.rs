//! Makes a Job of each CronJob whenever its schedule is due.
//!
//! Reads CronJobs and Jobs. Creates Jobs; deletes those that are too many or that are replaced; writes the status of CronJobs.
//! Not here: running the Jobs ([`crate::job`]), reading schedules ([`api::cron`]).
//! Upstream: `pkg/controller/cronjob` (the second version).
//!
//! A Job's name follows from the time it is for, so that no time gets two; the time itself is an annotation, from which the
//! status is written once the Job is seen.

mod due;

use std::sync::Arc;

use api::cron::{self, Schedule};
use api::meta::{ObjectMeta, Time};
use api::types::batch::v1::{CronJob, CronJobStatus, Job};
use api::types::core::v1::ObjectReference;
use client::{DeleteOptions, Endpoint, EventType, Propagation};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use reconcile::{Action, Controller, EventSpec, Key, Plan, View, Watches};

use self::due::Missed;
use crate::{claim, job, object};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The controller.
pub struct CronJobs {
    /// In which zone schedules are that name none.
    local: TimeZone,
}

impl CronJobs {
    /// Schedules that name no time zone are in `local`, the zone of this process.
    pub fn new(local: TimeZone) -> CronJobs {
        CronJobs { local }
    }
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<CronJob>();
        watches.owned::<Job, CronJob>();
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let Some(cron) = view.get_key::<CronJob>(key) else { return Plan::nothing() };
        let jobs = view.controlled_by::<Job>(object::uid(&*cron));
        let status = cron.status.clone().unwrap_or_default();
        let mut run = Run { view, cron: &cron, jobs, status, now, plan: Plan::nothing() };
        run.count();
        if !run.plan.questions.is_empty() {
            run.plan.events.clear();
            return run.plan;
        }
        if !object::deleting(&*cron) {
            run.schedule(&self.local);
        }
        run.tidy();
        if run.status != cron.status.clone().unwrap_or_default() {
            let status = Some(run.status);
            run.plan.always(Action::update_status(&CronJob { status, ..(*cron).clone() }));
        }
        run.plan
    }
}

/// One run of one CronJob.
struct Run<'a> {
    view: &'a View<'a>,
    cron: &'a CronJob,
    jobs: Vec<Arc<Job>>,
    status: CronJobStatus,
    now: Timestamp,
    plan: Plan,
}

impl Run<'_> {
    fn is_active(&self, uid: &str) -> bool {
        self.status.active.iter().flatten().any(|active| active.uid.as_deref() == Some(uid))
    }

    fn forget(&mut self, uid: &str) {
        if let Some(active) = &mut self.status.active {
            active.retain(|active| active.uid.as_deref() != Some(uid));
        }
        if self.status.active.as_ref().is_some_and(Vec::is_empty) {
            self.status.active = None;
        }
    }

    fn say(&mut self, kind: EventType, reason: &str, message: impl Into<String>) {
        self.plan.event(self.cron, kind, reason, message);
    }

    /// Brings the status up to date with the Jobs.
    fn count(&mut self) {
        let last = self.status.last_schedule_time.as_ref().map(|time| time.0);
        for job in self.jobs.clone() {
            let (name, uid) = (object::name(&*job).to_owned(), object::uid(&*job).to_owned());
            let scheduled = scheduled(self.cron, &job);
            let is_new = scheduled.is_some_and(|time| last.is_none_or(|last| last < time));
            let was_active = self.is_active(&uid);
            if let Some(time) = scheduled
                && self.status.last_schedule_time.as_ref().is_none_or(|last| last.0 < time)
            {
                self.status.last_schedule_time = Some(Time(time));
            }
            let Some(condition) = finished_as(&job) else {
                if was_active {
                    continue;
                }
                if scheduled.is_none() {
                    let message = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.say(EventType::Warning, "UnexpectedJob", message);
                } else {
                    self.status.active.get_or_insert_default().push(reference(&job));
                }
                continue;
            };
            if was_active || is_new {
                self.forget(&uid);
                let message = format!("Saw completed job: {name}, condition: {condition}");
                self.say(EventType::Normal, "SawCompletedJob", message);
            }
            let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
            if condition == "Complete"
                && let Some(completed) = completed
                && self.status.last_successful_time.as_ref().is_none_or(|last| last.0 < completed.0)
            {
                self.status.last_successful_time = Some(completed);
            }
        }
        for active in self.status.active.clone().into_iter().flatten() {
            let uid = active.uid.clone().unwrap_or_default();
            if self.jobs.iter().any(|job| object::uid(&**job) == uid) {
                continue;
            }
            // The cache may be behind: the server knows.
            let name = active.name.unwrap_or_default();
            let path = Endpoint::of::<Job>().path(Some(object::namespace(self.cron)), Some(&name), None);
            match self.view.answers().get(&path) {
                None => drop(self.plan.ask(path)),
                Some(Err(status)) if status.is_not_found() => {
                    self.say(EventType::Normal, "MissingJob", format!("Active job went missing: {name}"));
                    self.forget(&uid);
                }
                Some(Err(_)) => self.plan.retry = true,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Makes the Job that is due, if one is.
    fn schedule(&mut self, local: &TimeZone) {
        let spec = &self.cron.spec;
        let text = spec.schedule.as_str();
        let zone = match spec.time_zone.as_deref() {
            None => local.clone(),
            Some(name) => match cron::zone(name) {
                Some(zone) => zone,
                None => {
                    let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                    return self.say(EventType::Warning, "UnknownTimeZone", message);
                }
            },
        };
        if spec.suspend == Some(true) {
            return;
        }
        if text.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            self.say(EventType::Warning, "UnsupportedSchedule", message);
        }
        let schedule = match Schedule::parse(text) {
            Ok(schedule) => schedule.in_zone(zone),
            Err(why) => {
                let message = format!("unparseable schedule: {text:?} : {why}");
                return self.say(EventType::Warning, "UnparseableSchedule", message);
            }
        };
        let times =
            due::Times { created: object::created(self.cron), spec, status: &self.status, now: self.now };
        if let Some(next) = times.next(&schedule) {
            self.plan.requeue_at(next);
        }
        let (time, missed) = match times.due(&schedule) {
            Ok(Some(due)) => due,
            Ok(None) => return,
            Err(why) => {
                let message = format!("invalid schedule: {text} : {why}");
                return self.say(EventType::Warning, "InvalidSchedule", message);
            }
        };
        if missed == Missed::Many {
            self.say(
                EventType::Warning,
                "TooManyMissedTimes",
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
            );
        }
        self.start(time);
    }

    fn start(&mut self, time: Timestamp) {
        let spec = &self.cron.spec;
        if let Some(deadline) = spec.starting_deadline_seconds
            && object::after(time, deadline) < self.now
        {
            let text = time.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {text}");
            return self.say(EventType::Warning, "MissSchedule", message);
        }
        let name = job_name(self.cron, time);
        let is_done = self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == time)
            || self.status.active.iter().flatten().any(|active| active.name.as_deref() == Some(&name));
        // A Job of that name which is not ours is in the way, and whoever made it looks after it.
        if is_done || self.view.get::<Job>(object::namespace(self.cron), &name).is_some() {
            return;
        }
        let active = self.status.active.clone().unwrap_or_default();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                return self.say(
                    EventType::Normal,
                    "JobAlreadyActive",
                    "Not starting job because prior execution is running and concurrency policy is Forbid",
                );
            }
            Some("Replace") => {
                for job in self.jobs.clone() {
                    if self.is_active(object::uid(&*job)) {
                        self.delete(&job);
                    }
                }
            }
            _ => {}
        }
        let zone = spec.time_zone.as_deref().and_then(cron::zone).unwrap_or(TimeZone::UTC);
        let action = Action::create(&new_job(self.cron, name.clone(), time, &zone))
            .with_success(EventSpec::new(
                self.cron,
                EventType::Normal,
                "SuccessfulCreate",
                format!("Created job {name}"),
            ))
            .with_failure(EventSpec::new(
                self.cron,
                EventType::Warning,
                "FailedCreate",
                "Error creating job: {error}",
            ));
        self.plan.act(action);
    }

    /// Deletes the oldest of the finished Jobs that are too many.
    fn tidy(&mut self) {
        let spec = &self.cron.spec;
        let limits =
            [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
        for (condition, limit) in limits {
            let Some(limit) = limit else { continue };
            let mut finished: Vec<_> =
                self.jobs.iter().filter(|job| finished_as(job) == Some(condition)).cloned().collect();
            finished.sort_by_key(|job| {
                let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
                let started = started.map_or(Timestamp::MAX, |time| time.0);
                (started, object::name(&**job).to_owned())
            });
            let surplus = finished.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &finished[..surplus] {
                if !object::deleting(&**job) {
                    self.delete(job);
                }
            }
        }
    }

    fn delete(&mut self, job: &Job) {
        let options = DeleteOptions::uid(object::uid(job)).with_propagation(Propagation::Background);
        let done = format!("Deleted job {}", object::name(job));
        let action = Action::delete_with(job, options)
            .with_success(EventSpec::new(self.cron, EventType::Normal, "SuccessfulDelete", done))
            .with_failure(EventSpec::new(
                self.cron,
                EventType::Warning,
                "FailedDelete",
                "Deleted job: {error}",
            ));
        self.plan.act(action);
        self.forget(object::uid(job));
    }
}

/// `Complete` or `Failed`, for a Job that has ended.
fn finished_as(job: &Job) -> Option<&'static str> {
    let status = job.status.as_ref()?;
    ["Complete", "Failed"].into_iter().find(|kind| job::condition(status, kind).is_some())
}

fn reference(job: &Job) -> ObjectReference {
    client::object_reference(job)
}

fn job_name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", object::name(cron), time.as_second() / 60)
}

/// The time a Job of ours is for.
fn scheduled(cron: &CronJob, job: &Job) -> Option<Timestamp> {
    let time: Timestamp = object::annotation(job, SCHEDULED)?.parse().ok()?;
    (object::name(job) == job_name(cron, time)).then_some(time)
}

fn new_job(cron: &CronJob, name: String, time: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let format = if *zone == TimeZone::UTC { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    let written = time.to_zoned(zone.clone()).strftime(format).to_string();
    annotations.insert(SCHEDULED.to_owned(), written);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![claim::reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests;
