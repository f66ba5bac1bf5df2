//! Which time of a schedule is due, how many were missed, and when to look again.
//!
//! Pure.
//! Not here: what is done about it.
//! Upstream: `mostRecentScheduleTime` of `pkg/controller/cronjob/utils.go`, with its estimate for schedules that were missed
//! more than once: counting each missed minute of a year would take as long as it sounds.

use api::cron::Schedule;
use api::types::batch::v1::{CronJobSpec, CronJobStatus};
use jiff::{SignedDuration, Timestamp};

use crate::object;

/// More than so many missed times are worth a warning.
const MANY: i64 = 100;

/// How many times went by unused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Missed {
    None,
    Few,
    Many,
}

/// What decides: the CronJob's times.
pub(super) struct Times<'a> {
    pub(super) created: Timestamp,
    pub(super) spec: &'a CronJobSpec,
    pub(super) status: &'a CronJobStatus,
    pub(super) now: Timestamp,
}

struct Recent {
    earliest: Timestamp,
    time: Option<Timestamp>,
    missed: Missed,
}

impl Times<'_> {
    /// The latest time that is due and was not used, with how many were missed before it.
    pub(super) fn due(&self, schedule: &Schedule) -> Result<Option<(Timestamp, Missed)>, &'static str> {
        let recent = self.recent(schedule, true)?;
        Ok(recent.time.filter(|time| *time <= self.now).map(|time| (time, recent.missed)))
    }

    /// When the next Job is due.
    pub(super) fn next(&self, schedule: &Schedule) -> Option<Timestamp> {
        let from = match self.recent(schedule, false) {
            Err(_) => self.now,
            Ok(Recent { time: Some(time), .. }) => time,
            Ok(Recent { earliest, missed: Missed::None, .. }) => earliest,
            Ok(_) => self.now,
        };
        schedule.next(from)
    }

    fn recent(&self, schedule: &Schedule, until_deadline: bool) -> Result<Recent, &'static str> {
        let now = self.now;
        let mut earliest = self.status.last_schedule_time.as_ref().map_or(self.created, |time| time.0);
        if until_deadline && let Some(seconds) = self.spec.starting_deadline_seconds {
            // Nothing older would be started anyway.
            earliest = earliest.max(object::after(now, seconds.saturating_neg()));
        }
        let nothing = |missed| Ok(Recent { earliest, time: None, missed });
        let Some(first) = schedule.next(earliest) else { return nothing(Missed::None) };
        if now < first {
            return nothing(Missed::None);
        }
        let Some(second) = schedule.next(first) else {
            return Ok(Recent { earliest, time: Some(first), missed: Missed::None });
        };
        if now < second {
            return Ok(Recent { earliest, time: Some(first), missed: Missed::None });
        }
        let interval = second.as_second() - first.as_second();
        if interval < 1 {
            return Err("time difference between two schedules is less than 1 second");
        }
        let elapsed = now.as_second() - first.as_second();
        let number = elapsed / interval + 1;
        // One interval earlier than a regular schedule needs: the first interval of others may be longer than the rest.
        let jump = SignedDuration::from_secs((number - 2).max(0) * interval);
        let mut time = None;
        let mut candidate = first.checked_add(jump).ok().and_then(|start| schedule.next(start));
        while let Some(found) = candidate.filter(|found| *found <= now) {
            time = Some(found);
            candidate = schedule.next(found);
        }
        let missed = match number {
            ..=0 => Missed::None,
            1..=MANY => Missed::Few,
            _ => Missed::Many,
        };
        Ok(Recent { earliest, time, missed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times() {
        for (what, schedule, last, deadline, now, due, next) in [
            ("not yet", "0 * * * *", None, None, "T10:30:00Z", None, "T11:00:00Z"),
            ("now", "0 * * * *", None, None, "T11:00:00Z", Some(("T11:00:00Z", Missed::None)), "T12:00:00Z"),
            ("used", "0 * * * *", Some("T11:00:00Z"), None, "T11:10:00Z", None, "T12:00:00Z"),
            (
                "only the latest of those missed",
                "0 * * * *",
                None,
                None,
                "T14:10:00Z",
                Some(("T14:00:00Z", Missed::Few)),
                "T15:00:00Z",
            ),
            (
                "too many missed",
                "* * * * *",
                None,
                None,
                "T14:10:30Z",
                Some(("T14:10:00Z", Missed::Many)),
                "T14:11:00Z",
            ),
            (
                "the deadline bounds how far back is looked",
                "* * * * *",
                None,
                Some(90),
                "T14:10:30Z",
                Some(("T14:10:00Z", Missed::None)),
                "T14:11:00Z",
            ),
            (
                "of an irregular schedule too",
                "0 11,13,16,23 * * *",
                None,
                None,
                "T18:30:00Z",
                Some(("T16:00:00Z", Missed::Few)),
                "T23:00:00Z",
            ),
            ("nothing within the deadline", "0 * * * *", None, Some(60), "T14:10:00Z", None, "T15:00:00Z"),
        ] {
            let day = |time: &str| at(&format!("2024-05-01{time}"));
            let spec = CronJobSpec { starting_deadline_seconds: deadline, ..CronJobSpec::default() };
            let last_schedule_time = last.map(|last| api::meta::Time(day(last)));
            let status = CronJobStatus { last_schedule_time, ..CronJobStatus::default() };
            let times = Times { created: day("T10:15:00Z"), spec: &spec, status: &status, now: day(now) };
            let schedule = Schedule::parse(schedule).unwrap();
            let expected = due.map(|(time, missed)| (day(time), missed));
            assert_eq!(times.due(&schedule), Ok(expected), "{what}");
            assert_eq!(times.next(&schedule), Some(day(next)), "{what}");
        }
    }
}
