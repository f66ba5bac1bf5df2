//! Priority and fairness: who waits, and who is turned away, when the server has more to do than it should.
//!
//! A request is matched with a FlowSchema ([`matching`]), which names its priority level; the level gives it
//! seats, lets it wait in one of its queues, or turns it away ([`seats`]). How many it takes is its [`width`]. [`levels`] shares the server's
//! seats out among the levels; [`configure`] follows the stored FlowSchemas and PriorityLevelConfigurations;
//! [`bootstrap`] is what of them exists from the start, and `debug` shows people how things stand.
//!
//! An unloaded server pays for it with a walk over a dozen schemas and one short critical section per request:
//! no queue and no allocation but for the permit, and a timer only for a write of which ten watches or more are told.
//! Not here: deadlines, authentication, the filter's place in the chain (`filters`).
//! Upstream: apiserver/pkg/util/flowcontrol, apiserver/pkg/server/filters/priority-and-fairness.go.

pub mod bootstrap;
pub(crate) mod configure;
mod debug;
pub mod levels;
pub mod matching;
mod metrics;
pub mod seats;
mod utilization;
pub mod width;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use foundation::SharedClock;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::request::{RequestInfo, User};
use matching::{Plan, Schema};
use metrics::Metrics;
use seats::{Arrival, Ended, LevelId, Reason, Seats, Ticket};
use width::{Watches, Width};

/// A request waits for at most this part of its deadline, so that something is left to serve it.
const WAIT_PART: u32 = 4;

/// The settings of priority and fairness.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether it is on (`--enable-priority-and-fairness`). Off, the two bounds below are kept each for itself.
    pub enabled: bool,
    /// Requests that only read, at once (`--max-requests-inflight`). Without priority and fairness 0 is no bound.
    pub reads: u32,
    /// Requests that write, at once (`--max-mutating-requests-inflight`). As above.
    pub writes: u32,
}

impl Options {
    /// How many seats the whole server has for its levels to share.
    pub fn seats(&self) -> u32 {
        self.reads.saturating_add(self.writes)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { enabled: true, reads: 400, writes: 200 }
    }
}

/// Who waits and who goes.
pub struct Fairness {
    options: Options,
    clock: SharedClock,
    plan: ArcSwap<Plan>,
    seats: Arc<Mutex<Seats<oneshot::Sender<()>>>>,
    /// The levels' names.
    names: ArcSwap<BTreeMap<LevelId, String>>,
    /// Who waits, for people.
    waiting: Arc<Mutex<debug::AllWaiting>>,
    /// Who is told of writes.
    pub(crate) watches: Watches,
    inflight: Inflight,
    metrics: Metrics,
}

/// Shows a request as waiting for as long as it does.
struct Shown {
    waiting: Arc<Mutex<debug::AllWaiting>>,
    key: (LevelId, u64),
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.key);
    }
}

/// The bounds that hold without priority and fairness; `None`: unbounded.
/// Upstream: apiserver/pkg/server/filters/maxinflight.go.
struct Inflight {
    reads: Option<Arc<Semaphore>>,
    writes: Option<Arc<Semaphore>>,
}

impl Inflight {
    fn new(options: &Options) -> Self {
        let bound = |most: u32| (most > 0).then(|| Arc::new(Semaphore::new(most as usize)));
        Self { reads: bound(options.reads), writes: bound(options.writes) }
    }

    fn admit(&self, user: &User, info: &RequestInfo) -> Admission {
        let bound = if info.is_read_only() { &self.reads } else { &self.writes };
        match bound
            .as_ref()
            .filter(|_| !info.is_long_running())
            .map(|bound| bound.clone().try_acquire_owned())
        {
            None => Admission::Run(Permit::free()),
            Some(Ok(place)) => Admission::Run(Permit { _place: Some(place), ..Permit::free() }),
            // Whoever could put things right is not locked out.
            Some(Err(_)) if user.is_in(User::MASTERS) => Admission::Run(Permit::free()),
            Some(Err(_)) => Admission::Refuse(None),
        }
    }
}

/// How a request is to be treated.
pub enum Admission {
    /// It may run; the permit is to be kept until it has.
    Run(Permit),
    /// It is to be refused with 429.
    Refuse(Option<Classified>),
}

/// The schema and level of a request, for the response's headers.
pub struct Classified(Arc<Schema>);

impl Classified {
    /// Marks a response with what the request was matched with.
    pub fn mark(&self, headers: &mut http::HeaderMap) {
        headers.insert("x-kubernetes-pf-flowschema-uid", self.0.uid.clone());
        headers.insert("x-kubernetes-pf-prioritylevel-uid", self.0.level_uid.clone());
    }
}

/// The right to run. Its seats are given back when it is dropped.
pub struct Permit {
    classified: Option<Classified>,
    _occupied: Option<Occupied>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// The permit of a request that is not controlled.
    fn free() -> Self {
        Self { classified: None, _occupied: None, _place: None }
    }

    /// What the request was matched with; `None` where nothing controls it.
    pub fn into_classified(self) -> Option<Classified> {
        self.classified
    }

    /// As [`Classified::mark`].
    pub fn mark(&self, headers: &mut http::HeaderMap) {
        if let Some(classified) = &self.classified {
            classified.mark(headers);
        }
    }
}

/// A place in a queue, then seats; given back however the request ends, also when its client goes away.
struct Occupied {
    seats: Arc<Mutex<Seats<oneshot::Sender<()>>>>,
    clock: SharedClock,
    schema: Arc<Schema>,
    level: LevelId,
    ticket: Ticket,
    width: Width,
    since: Duration,
    running: bool,
}

impl Occupied {
    fn run(&mut self) {
        let now = self.clock.monotonic();
        let seats = self.seats.lock();
        let (used, limit) = (seats.usage(self.level).0, seats.limit(self.level));
        drop(seats);
        self.schema.metrics.used(now, used, limit);
        self.schema.metrics.waited(true, now.saturating_sub(self.since));
        self.schema.metrics.started(self.width.seats());
        (self.since, self.running) = (now, true);
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        let took = self.clock.monotonic().saturating_sub(self.since);
        let held = Held {
            seats: self.seats.clone(),
            clock: self.clock.clone(),
            schema: self.running.then(|| self.schema.clone()),
            level: self.level,
            ticket: self.ticket,
            width: self.width.seats(),
            seconds: self.width.seconds(took),
        };
        if self.running {
            self.schema.metrics.ended(took);
        }
        // Outside of a runtime nobody is served any more.
        if self.running
            && !self.width.after.is_zero()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let told = self.clock.sleep(self.width.after);
            runtime.spawn(async move {
                told.await;
                drop(held);
            });
        }
    }
}

/// Seats that are given back when this is dropped.
struct Held {
    seats: Arc<Mutex<Seats<oneshot::Sender<()>>>>,
    clock: SharedClock,
    /// `None`: it never ran.
    schema: Option<Arc<Schema>>,
    level: LevelId,
    ticket: Ticket,
    width: u32,
    /// How long all of them were used.
    seconds: f64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut seats = self.seats.lock();
        let ended = seats.end(self.level, self.ticket, self.width, self.seconds);
        let (used, limit) = (seats.usage(self.level).0, seats.limit(self.level));
        drop(seats);
        if let Some(schema) = &self.schema {
            schema.metrics.used(self.clock.monotonic(), used, limit);
            schema.metrics.released(self.width);
        }
        wake(ended);
    }
}

/// Lets those go whose turn it is. One whose client has gone meanwhile gives its seats back by itself.
fn wake(ended: Ended<oneshot::Sender<()>>) {
    for next in ended.dispatched {
        let _ = next.send(());
    }
}

impl Fairness {
    /// A server's priority and fairness, which lets everything pass until it is given a configuration.
    pub fn new(options: Options, clock: SharedClock) -> Self {
        let (plan, seats) = (ArcSwap::default(), Arc::new(Mutex::new(Seats::new())));
        let inflight = Inflight::new(&options);
        let (names, waiting, watches) = Default::default();
        Self { options, clock, plan, seats, names, waiting, watches, inflight, metrics: Metrics::new() }
    }

    /// Whether anything is controlled at all.
    pub fn enabled(&self) -> bool {
        self.options.enabled
    }

    /// Waits until the request may run, at most for a part of `deadline`. `width` says what it takes of a level that gives
    /// so many seats at most.
    pub async fn admit(
        &self,
        user: &User,
        info: &RequestInfo,
        width: impl FnOnce(u32) -> Width,
        deadline: Duration,
    ) -> Admission {
        if !self.options.enabled {
            return self.inflight.admit(user, info);
        }
        if info.is_long_running() && info.verb != "watch" {
            return Admission::Run(Permit::free());
        }
        let Some(schema) = self.plan.load().find(user, info).cloned() else {
            return Admission::Run(Permit::free());
        };
        // Where nobody is held up nothing is to be measured.
        let width = schema.widest.map_or(Width::ONE, width);
        schema.metrics.estimated(width.seats());
        let (sender, mut turn) = oneshot::channel();
        let flow = || schema.flow(user, info);
        let arrival = self.seats.lock().arrive(schema.level, width.seats(), flow, sender);
        let since = self.clock.monotonic();
        let occupied = |ticket| Occupied {
            seats: self.seats.clone(),
            clock: self.clock.clone(),
            schema: schema.clone(),
            level: schema.level,
            ticket,
            width,
            since,
            running: false,
        };
        let (mut occupied, queued) = match arrival {
            Arrival::Run(ticket) => (occupied(ticket), None),
            Arrival::Wait(ticket, queue) => (occupied(ticket), Some(queue)),
            Arrival::Refuse(reason) => return self.refuse(schema.clone(), reason),
        };
        if let Some(queue) = queued {
            let _waiting = schema.metrics.waiting(info.is_read_only(), queue);
            let _shown = self.show(&schema, &occupied, user, info);
            tokio::select! {
                // The sender lives in the queue until it is this request's turn.
                _ = &mut turn => {}
                () = self.clock.sleep(deadline / WAIT_PART) => {
                    schema.metrics.waited(false, deadline / WAIT_PART);
                    drop(occupied);
                    self.seats.lock().timed_out(schema.level);
                    return self.refuse(schema.clone(), Reason::TimeOut);
                }
            }
        }
        occupied.run();
        Admission::Run(Permit {
            classified: Some(Classified(schema)),
            _occupied: Some(occupied),
            ..Permit::free()
        })
    }

    fn show(&self, schema: &Schema, place: &Occupied, user: &User, info: &RequestInfo) -> Shown {
        let request = debug::Waiting {
            schema: schema.name.clone(),
            flow: schema.distinguisher(user, info).to_owned(),
            arrived: self.clock.now(),
            user: user.clone(),
            info: info.clone(),
            width: place.width,
        };
        let key = (schema.level, place.ticket.number());
        self.waiting.lock().insert(key, request);
        Shown { waiting: self.waiting.clone(), key }
    }

    fn refuse(&self, schema: Arc<Schema>, reason: Reason) -> Admission {
        schema.metrics.rejected(reason);
        Admission::Refuse(Some(Classified(schema)))
    }

    /// Brings what is counted over time up to now, for whoever is about to read it.
    pub(crate) fn measure(&self) {
        let now = self.clock.monotonic();
        for (id, level) in self.metrics.levels() {
            let seats = self.seats.lock();
            let (used, limit) = (seats.usage(id).0, seats.limit(id));
            drop(seats);
            level.moved(now, used, limit);
        }
    }

    /// Takes a new configuration into use. Requests that wait keep their places where their level remains.
    fn configure(&self, plan: Plan, levels: Vec<(LevelId, seats::Limits)>, names: BTreeMap<LevelId, String>) {
        self.names.store(Arc::new(names));
        let ended = self.seats.lock().configure(levels);
        self.plan.store(Arc::new(plan));
        wake(ended);
    }
}

/// The value of a header that tells a UID.
fn header(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
