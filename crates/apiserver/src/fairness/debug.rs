//! The state of the levels, queues and waiting requests, as tables for people: `/debug/api_priority_and_fairness/…`.
//!
//! Reads a copy of the state ([`Digest`]); holds nothing up. Not here: who may see it.
//! Upstream: apiserver/pkg/util/flowcontrol/apf_controller_debug.go.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Fairness;
use super::seats::{Digest, LevelId};
use super::width::Width;
use crate::request::{RequestInfo, User};

/// The least width of a column, and the space between two.
const COLUMN: usize = 8;

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) schema: String,
    pub(super) flow: String,
    pub(super) arrived: Timestamp,
    pub(super) user: User,
    pub(super) info: RequestInfo,
    pub(super) width: Width,
}

/// Requests that wait, by level and number.
pub(super) type AllWaiting = BTreeMap<(LevelId, u64), Waiting>;

impl Fairness {
    /// One row for each level.
    pub fn dump_levels(&self) -> String {
        let (names, digest) = (self.names.load(), self.seats.lock().digest());
        levels(&names, &digest)
    }

    /// One row for each queue.
    pub fn dump_queues(&self) -> String {
        let (names, digest) = (self.names.load(), self.seats.lock().digest());
        queues(&names, &digest)
    }

    /// One row for each request that waits, with who asks for what if `details` are wanted.
    pub fn dump_requests(&self, details: bool) -> String {
        let (names, digest) = (self.names.load(), self.seats.lock().digest());
        requests(&names, &digest, &self.waiting.lock().clone(), details)
    }
}

fn name(names: &BTreeMap<LevelId, String>, level: LevelId) -> String {
    names.get(&level).cloned().unwrap_or_default()
}

fn levels(names: &BTreeMap<LevelId, String>, digest: &Digest) -> String {
    let mut rows = vec![strings(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for (id, level) in &digest.levels {
        let active = level.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty()).count();
        let counts = &level.counts;
        rows.push(vec![
            name(names, *id),
            active.to_string(),
            (level.waiting == 0 && level.executing == 0).to_string(),
            level.quiescing.to_string(),
            level.waiting.to_string(),
            level.executing.to_string(),
            counts.dispatched.to_string(),
            counts.rejected.to_string(),
            counts.timed_out.to_string(),
            counts.cancelled.to_string(),
        ]);
    }
    table(&rows)
}

fn queues(names: &BTreeMap<LevelId, String>, digest: &Digest) -> String {
    let mut rows = vec![strings(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for (id, level) in &digest.levels {
        for (index, queue) in &level.queues {
            let seats: u64 = queue.waiting.iter().map(|(_, width)| u64::from(*width)).sum();
            rows.push(vec![
                name(names, *id),
                index.to_string(),
                queue.waiting.len().to_string(),
                queue.executing.to_string(),
                queue.seats.to_string(),
                format!("{:.8}ss", queue.start),
                seats.to_string(),
                seats.to_string(),
                format!("{:.8}ss", queue.work),
            ]);
        }
    }
    table(&rows)
}

fn requests(
    names: &BTreeMap<LevelId, String>,
    digest: &Digest,
    waiting: &AllWaiting,
    details: bool,
) -> String {
    let mut head = strings(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
    ]);
    if details {
        head.extend(strings(&[
            "UserName",
            "Verb",
            "APIPath",
            "Namespace",
            "Name",
            "APIVersion",
            "Resource",
            "SubResource",
        ]));
    }
    let mut rows = vec![head];
    for (id, level) in &digest.levels {
        for (index, queue) in &level.queues {
            for (place, (number, _)) in queue.waiting.iter().enumerate() {
                // One that has just come or gone.
                let Some(request) = waiting.get(&(*id, *number)) else { continue };
                let mut row = vec![
                    name(names, *id),
                    request.schema.clone(),
                    index.to_string(),
                    place.to_string(),
                    request.flow.clone(),
                    request.arrived.to_string(),
                    request.width.initial.to_string(),
                    request.width.last.to_string(),
                    milliseconds(request.width.after),
                ];
                if details {
                    let info = &request.info;
                    let version = match info.group.as_str() {
                        "" => info.version.clone(),
                        group => format!("{group}/{}", info.version),
                    };
                    row.extend([
                        request.user.name.clone(),
                        info.verb.clone(),
                        info.path.clone(),
                        info.namespace.clone(),
                        info.name.clone(),
                        version,
                        info.resource.clone(),
                        info.subresource.clone(),
                    ]);
                }
                rows.push(row);
            }
        }
    }
    table(&rows)
}

/// As Go writes such a duration.
fn milliseconds(time: Duration) -> String {
    if time.is_zero() { "0s".to_owned() } else { format!("{}ms", time.as_secs_f64() * 1000.0) }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// Cells with commas, in columns.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count() + 1).max().unwrap_or(0);
        (longest + 1).max(COLUMN)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == columns {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{:width$}", format!("{cell},"), width = widths[column]));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::seats::{Arrival, Limits, Queuing, Seats};
    use super::*;

    #[test]
    fn what_waits_is_shown() {
        let mut seats = Seats::new();
        let queuing = Some(Queuing { queues: 4, hand: 1, length: 3 });
        let limits = Limits { nominal: 1, lower: 1, upper: 1, exempt: false, queuing };
        seats.configure(vec![(1, limits), (2, Limits { exempt: true, ..Limits::default() })]);
        seats.arrive(1, 1, || 2, ());
        let Arrival::Wait(ticket, _) = seats.arrive(1, 3, || 2, ()) else { panic!("there is no room") };
        seats.arrive(1, 1, || 2, ());
        for _ in 0..2 {
            seats.arrive(1, 1, || 2, ());
        }
        let names = BTreeMap::from([(1, "workload-low".to_owned()), (2, "exempt".to_owned())]);
        let digest = seats.digest();
        assert_eq!(
            levels(&names, &digest),
            "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, \
             DispatchedRequests, RejectedRequests, TimedoutRequests, CancelledRequests\n\
             workload-low,      1,            false,  false,       3,               1,                 1,                  \
             1,                0,                0\n\
             exempt,            0,            true,   false,       0,               0,                 0,                  \
             0,                0,                0\n"
        );
        let shown = queues(&names, &digest);
        let row: Vec<&str> = shown.lines().nth(1).unwrap().split(',').map(str::trim).collect();
        assert_eq!(row[..5], ["workload-low", "2", "3", "0", "0"]);
        assert_eq!(row[6..], ["5", "5", "0.01500000ss"]);

        let request = Waiting {
            schema: "service-accounts".to_owned(),
            flow: "bob".to_owned(),
            arrived: "2026-01-01T00:00:00Z".parse().unwrap(),
            user: User::new("bob", &[]),
            info: RequestInfo::parse(&http::Method::GET, "/api/v1/namespaces/a/pods/p/status", None),
            width: Width { initial: 1, last: 3, after: Duration::from_micros(7_500) },
        };
        let waiting = AllWaiting::from([((1, ticket.number()), request)]);
        let shown = requests(&names, &digest, &waiting, true);
        let row: Vec<&str> = shown.lines().nth(1).unwrap().split(',').map(str::trim).collect();
        assert_eq!(row[..6], ["workload-low", "service-accounts", "2", "0", "bob", "2026-01-01T00:00:00Z"]);
        assert_eq!(row[6..9], ["1", "3", "7.5ms"]);
        assert_eq!(
            row[9..],
            ["bob", "get", "/api/v1/namespaces/a/pods/p/status", "a", "p", "v1", "pods", "status"]
        );
        assert!(!requests(&names, &digest, &waiting, false).contains("UserName"));

        // Whoever gives up is one more that was rejected, for whatever reason.
        let Arrival::Wait(other, _) = seats.arrive(1, 1, || 3, ()) else { panic!("its queue has room") };
        seats.end(1, ticket, 3, 0.0);
        seats.end(1, other, 1, 0.0);
        seats.timed_out(1);
        let shown = levels(&names, &seats.digest());
        let row: Vec<&str> = shown.lines().nth(1).unwrap().split(',').map(str::trim).collect();
        assert_eq!(row[7..], ["3", "1", "1"]);
    }
}
