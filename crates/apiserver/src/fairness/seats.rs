//! The seats of every level, and the queues before them: a pure state machine.
//!
//! A request that finds room runs at once. Otherwise it joins the shortest of the few queues that are dealt to
//! its flow (shuffle sharding: a flow that fills its queues leaves most others nearly all of theirs), and the
//! queue that has had the least of the level's work goes next (start-time fair queuing).
//!
//! Levels lend what they do not use. With `lower ≤ nominal ≤ upper` of a level: below `lower` there is always
//! room; above it there is room while nobody else's `lower` is touched; above `nominal`, moreover, only while
//! no other level waits for its nominal seats. So a borrower gives back as its requests end, without a timer.
//! Not here: waiting itself, clocks, how limits come about (`levels`).
//! Upstream: apiserver/pkg/util/flowcontrol/fairqueuing/queueset, .../util/shufflesharding.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// A level. Stays the same for a name as long as the name is configured.
pub type LevelId = u64;

/// How long a request is taken to hold its seats before one knows, in seconds (upstream's value).
const ESTIMATE: f64 = 0.003;

/// One request's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    number: u64,
    /// The queue it waits or waited in.
    queue: Option<u32>,
}

impl Ticket {
    /// The number of the request, no two of which are the same.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// What became of the requests of a level since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// They got their seats.
    pub dispatched: u64,
    /// They never got them: turned away at once, or one of the next two.
    pub rejected: u64,
    /// They waited for too long.
    pub timed_out: u64,
    /// Their clients went away while they waited.
    pub cancelled: u64,
}

/// A copy of the state, for people.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    /// The levels.
    pub levels: BTreeMap<LevelId, LevelDigest>,
}

/// A level of a [`Digest`].
#[derive(Clone, Debug, Default)]
pub struct LevelDigest {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that run.
    pub executing: u32,
    /// No longer configured.
    pub quiescing: bool,
    /// What became of its requests.
    pub counts: Counts,
    /// Its queues; one in which nothing ever waited may be left out.
    pub queues: BTreeMap<u32, QueueDigest>,
}

/// A queue of a [`Digest`].
#[derive(Clone, Debug, Default)]
pub struct QueueDigest {
    /// Number and width of each request that waits, in order.
    pub waiting: Vec<(u64, u32)>,
    /// Requests out of it that run.
    pub executing: u32,
    /// Their seats.
    pub seats: u32,
    /// The virtual time at which the first of it starts, in seconds.
    pub start: f64,
    /// How long what waits is taken to hold its seats, in seconds times seats.
    pub work: f64,
}

/// What a level may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Its share of the server.
    pub nominal: u32,
    /// What of it is never lent.
    pub lower: u32,
    /// How many seats it may have with what it borrows.
    pub upper: u32,
    /// Its requests are never held up.
    pub exempt: bool,
    /// Its queues; `None`: a request without room is turned away.
    pub queuing: Option<Queuing>,
}

/// The queues of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    /// How many there are.
    pub queues: u32,
    /// How many of them a flow may use.
    pub hand: u32,
    /// How many requests wait in one at most.
    pub length: u32,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its queue is full.
    QueueFull,
    /// Its level has no room and no queues.
    ConcurrencyLimit,
    /// It has waited for too long.
    TimeOut,
}

/// What happens to a request that arrives.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has its seats.
    Run(Ticket),
    /// It waits, in a queue of so many.
    Wait(Ticket, usize),
    /// It is turned away.
    Refuse(Reason),
}

/// What follows from a change: those whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended<T> {
    /// They have their seats now.
    pub dispatched: Vec<T>,
}

struct Waiting<T> {
    number: u64,
    width: u32,
    who: T,
}

struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    /// The virtual time at which the first of it starts.
    start: f64,
    /// Requests out of it that run.
    running: u32,
    /// Their seats.
    seats: u32,
}

struct Level<T> {
    limits: Limits,
    in_use: u32,
    executing: u32,
    counts: Counts,
    waiting: usize,
    /// Only queues that something waits in or runs out of.
    queues: HashMap<u32, Queue<T>>,
    /// Virtual time: the start of the latest request that was dispatched from a queue.
    now: f64,
    /// No longer configured: forgotten once it is empty.
    retired: bool,
}

/// All levels.
pub struct Seats<T> {
    levels: BTreeMap<LevelId, Level<T>>,
    tickets: u64,
}

impl<T> Seats<T> {
    /// No levels yet.
    pub fn new() -> Self {
        Self { levels: BTreeMap::new(), tickets: 0 }
    }

    /// Sets the levels. One that is no longer among them serves out what it has.
    pub fn configure(&mut self, levels: Vec<(LevelId, Limits)>) -> Ended<T> {
        for level in self.levels.values_mut() {
            level.retired = true;
        }
        for (id, limits) in levels {
            let level = self.levels.entry(id).or_insert_with(|| Level {
                limits,
                in_use: 0,
                executing: 0,
                counts: Counts::default(),
                waiting: 0,
                queues: HashMap::new(),
                now: 0.0,
                retired: false,
            });
            (level.limits, level.retired) = (limits, false);
        }
        self.levels.retain(|_, level| !level.is_spent());
        self.dispatch()
    }

    /// A request of `width` seats. `flow` is asked for only if it has to wait.
    pub fn arrive(&mut self, id: LevelId, width: u32, flow: impl FnOnce() -> u64, who: T) -> Arrival {
        self.tickets += 1;
        let number = self.tickets;
        let room = self.room(id, width);
        // A level that was removed between the match and now holds nobody up.
        let Some(level) = self.levels.get_mut(&id) else {
            return Arrival::Run(Ticket { number, queue: None });
        };
        if room && level.waiting == 0 {
            level.run(width);
            return Arrival::Run(Ticket { number, queue: None });
        }
        let Some(queuing) = level.limits.queuing else { return level.refuse(Reason::ConcurrencyLimit) };
        let length = |queue: &u32| level.queues.get(queue).map_or(0, |queue| queue.waiting.len());
        let hand = deal(flow(), queuing.queues, queuing.hand);
        let Some(chosen) = hand.into_iter().min_by_key(length) else {
            return level.refuse(Reason::ConcurrencyLimit);
        };
        if length(&chosen) >= queuing.length as usize {
            return level.refuse(Reason::QueueFull);
        }
        let now = level.now;
        let queue = level.queues.entry(chosen).or_insert_with(|| Queue {
            waiting: VecDeque::new(),
            start: now,
            running: 0,
            seats: 0,
        });
        if queue.waiting.is_empty() {
            queue.start = queue.start.max(now);
        }
        queue.waiting.push_back(Waiting { number, width, who });
        level.waiting += 1;
        Arrival::Wait(Ticket { number, queue: Some(chosen) }, queue.waiting.len())
    }

    /// A request gives up its place or its seats, after having had them for `seconds`.
    pub fn end(&mut self, id: LevelId, ticket: Ticket, width: u32, seconds: f64) -> Ended<T> {
        let Some(level) = self.levels.get_mut(&id) else { return Ended { dispatched: Vec::new() } };
        let mut waited = false;
        if let Some(number) = ticket.queue
            && let Some(queue) = level.queues.get_mut(&number)
        {
            match queue.waiting.iter().position(|waiting| waiting.number == ticket.number) {
                Some(at) => {
                    queue.waiting.remove(at);
                    waited = true;
                }
                None => {
                    queue.running = queue.running.saturating_sub(1);
                    queue.seats = queue.seats.saturating_sub(width);
                    queue.start += f64::from(width) * (seconds - ESTIMATE);
                }
            }
            let empty = queue.waiting.is_empty() && queue.running == 0;
            // What it had more than its share is forgotten once it has nothing to do.
            if empty && queue.start <= level.now {
                level.queues.remove(&number);
            }
        }
        if waited {
            level.waiting -= 1;
            level.counts.rejected += 1;
            level.counts.cancelled += 1;
        } else {
            level.in_use = level.in_use.saturating_sub(width);
            level.executing = level.executing.saturating_sub(1);
        }
        if level.waiting == 0 && level.in_use == 0 {
            level.queues.clear();
            level.now = 0.0;
        }
        if level.is_spent() {
            self.levels.remove(&id);
        }
        self.dispatch()
    }

    /// A request that has just given up its place did so because it waited for too long, not because its client went.
    pub fn timed_out(&mut self, id: LevelId) {
        if let Some(level) = self.levels.get_mut(&id) {
            level.counts.cancelled = level.counts.cancelled.saturating_sub(1);
            level.counts.timed_out += 1;
        }
    }

    /// A copy of the state, for people.
    pub fn digest(&self) -> Digest {
        let queue = |queue: &Queue<T>| {
            let waiting: Vec<(u64, u32)> = queue.waiting.iter().map(|one| (one.number, one.width)).collect();
            let seats: f64 = waiting.iter().map(|(_, width)| f64::from(*width)).sum();
            let (executing, seats_in_use) = (queue.running, queue.seats);
            QueueDigest {
                waiting,
                executing,
                seats: seats_in_use,
                start: queue.start,
                work: seats * ESTIMATE,
            }
        };
        let level = |level: &Level<T>| LevelDigest {
            waiting: level.waiting,
            executing: level.executing,
            quiescing: level.retired,
            counts: level.counts,
            queues: level.queues.iter().map(|(number, one)| (*number, queue(one))).collect(),
        };
        Digest { levels: self.levels.iter().map(|(id, one)| (*id, level(one))).collect() }
    }

    /// How many seats the level has in use, and how many requests wait for some.
    pub fn usage(&self, id: LevelId) -> (u32, usize) {
        self.levels.get(&id).map_or((0, 0), |level| (level.in_use, level.waiting))
    }

    /// How many seats the level may have now: its own, and what it may borrow of what others do not use.
    pub fn limit(&self, id: LevelId) -> u32 {
        let Some(Level { limits, .. }) = self.levels.get(&id) else { return 0 };
        let others = self.levels.iter().filter(|(other, level)| **other != id && !level.limits.exempt);
        let (mut total, mut taken, mut most) = (limits.nominal, 0, limits.upper);
        for (_, other) in others {
            if other.waiting > 0 && other.in_use < other.limits.nominal {
                most = most.min(limits.nominal);
            }
            total += other.limits.nominal;
            taken += other.in_use.max(other.limits.lower);
        }
        most.min(total.saturating_sub(taken)).max(limits.lower)
    }

    fn room(&self, id: LevelId, width: u32) -> bool {
        let Some(level) = self.levels.get(&id) else { return true };
        level.limits.exempt || level.in_use + width <= self.limit(id)
    }

    /// Lets those go for whom there is room: first the levels that are owed seats.
    fn dispatch(&mut self) -> Ended<T> {
        let mut dispatched = Vec::new();
        loop {
            let waiting = self.levels.iter().filter(|(_, level)| level.waiting > 0);
            let next = waiting
                .filter_map(|(id, level)| {
                    let (queue, width) = level.next()?;
                    let borrows = level.in_use + width > level.limits.nominal;
                    self.room(*id, width).then_some((borrows, *id, queue))
                })
                .min();
            let Some((_, id, chosen)) = next else { return Ended { dispatched } };
            let Some(level) = self.levels.get_mut(&id) else { return Ended { dispatched } };
            let Some(queue) = level.queues.get_mut(&chosen) else { return Ended { dispatched } };
            let Some(first) = queue.waiting.pop_front() else { return Ended { dispatched } };
            level.now = level.now.max(queue.start);
            queue.start += f64::from(first.width) * ESTIMATE;
            queue.running += 1;
            queue.seats += first.width;
            level.waiting -= 1;
            level.run(first.width);
            dispatched.push(first.who);
        }
    }
}

impl<T> Default for Seats<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Level<T> {
    fn run(&mut self, width: u32) {
        self.in_use += width;
        self.executing += 1;
        self.counts.dispatched += 1;
    }

    fn refuse(&mut self, reason: Reason) -> Arrival {
        self.counts.rejected += 1;
        Arrival::Refuse(reason)
    }

    fn is_spent(&self) -> bool {
        self.retired && self.in_use == 0 && self.waiting == 0
    }

    /// The queue whose first request goes next, and that request's width.
    fn next(&self) -> Option<(u32, u32)> {
        let heads = self.queues.iter().filter_map(|(number, queue)| {
            let first = queue.waiting.front()?;
            Some((queue.start + f64::from(first.width) * ESTIMATE, *number, first.width))
        });
        heads.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, number, width)| (number, width))
    }
}

/// Deals `hand` different cards of a deck to a flow: which ones follows from its number alone.
fn deal(mut flow: u64, deck: u32, hand: u32) -> Vec<u32> {
    let mut cards: Vec<u32> = Vec::with_capacity(hand as usize);
    for left in (deck.saturating_sub(hand) + 1..=deck).rev() {
        let left = u64::from(left);
        // Below `deck`, which is a u32.
        let mut card = (flow % left) as u32;
        flow /= left;
        // The card's number counts only those not yet dealt.
        let mut before: Vec<u32> = cards.clone();
        before.sort_unstable();
        for dealt in before {
            if dealt <= card {
                card += 1;
            }
        }
        cards.push(card);
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(nominal: u32, lower: u32, upper: u32) -> Limits {
        let queuing = Some(Queuing { queues: 8, hand: 2, length: 3 });
        Limits { nominal, lower, upper, exempt: false, queuing }
    }

    fn ticket(arrival: Arrival) -> Ticket {
        match arrival {
            Arrival::Run(ticket) | Arrival::Wait(ticket, _) => ticket,
            Arrival::Refuse(reason) => panic!("refused: {reason:?}"),
        }
    }

    #[test]
    fn hands_hold_different_cards() {
        for flow in [0, 1, 7, 63, u64::MAX, 0x1234_5678_9abc_def0] {
            for (deck, hand) in [(1, 1), (8, 2), (64, 6), (128, 6), (8, 8)] {
                let mut cards = deal(flow, deck, hand);
                assert_eq!(cards.len(), hand as usize);
                assert!(cards.iter().all(|card| *card < deck), "{cards:?} of {deck}");
                cards.sort_unstable();
                cards.dedup();
                assert_eq!(cards.len(), hand as usize, "{flow} {deck} {hand}");
            }
        }
    }

    #[test]
    fn who_finds_no_room_waits_for_who_ends() {
        let mut seats = Seats::new();
        seats.configure(vec![(1, limits(2, 2, 2))]);
        let a = ticket(seats.arrive(1, 1, || 0, "a"));
        ticket(seats.arrive(1, 1, || 0, "b"));
        let c = seats.arrive(1, 1, || 0, "c");
        assert!(matches!(c, Arrival::Wait(..)));
        let d = ticket(seats.arrive(1, 1, || 0, "d"));
        assert_eq!(seats.usage(1), (2, 2));
        assert_eq!(seats.end(1, ticket(c), 1, 0.0).dispatched, Vec::<&str>::new(), "c has gone away");
        assert_eq!(seats.end(1, a, 1, 0.1).dispatched, ["d"]);
        seats.end(1, d, 1, 0.1);
        assert_eq!(seats.usage(1), (1, 0));
    }

    #[test]
    fn queues_are_bounded_and_reject_levels_have_none() {
        let mut seats = Seats::new();
        let reject = Limits { queuing: None, ..limits(1, 1, 1) };
        seats.configure(vec![(1, limits(1, 1, 1)), (2, reject)]);
        for _ in 0..7 {
            ticket(seats.arrive(1, 1, || 5, "x"));
        }
        assert_eq!(seats.arrive(1, 1, || 5, "x"), Arrival::Refuse(Reason::QueueFull), "two queues of three");
        ticket(seats.arrive(2, 1, || 5, "y"));
        assert_eq!(seats.arrive(2, 1, || 5, "y"), Arrival::Refuse(Reason::ConcurrencyLimit));
    }

    #[test]
    fn a_busy_flow_does_not_hold_up_a_quiet_one() {
        let mut seats = Seats::new();
        seats.configure(vec![(1, limits(1, 1, 1))]);
        let mut running = ticket(seats.arrive(1, 1, || 0, "busy"));
        for _ in 0..5 {
            ticket(seats.arrive(1, 1, || 0, "busy"));
        }
        // Its hand is cards 3 and 0 + …: none of the busy flow's.
        let quiet = seats.arrive(1, 1, || 3 + 8 * 2, "quiet");
        let Arrival::Wait(quiet, _) = quiet else { panic!("there is no room") };
        let mut order = Vec::new();
        for _ in 0..3 {
            let next = seats.end(1, running, 1, 1.0).dispatched;
            order.extend(next.iter().copied());
            running = match next[0] {
                "quiet" => quiet,
                // Any ticket of the busy flow's first queue that no longer waits stands for the one that runs.
                _ => Ticket { number: 0, queue: None },
            };
        }
        assert_eq!(order, ["busy", "busy", "quiet"], "one of each queue, whatever else waits in them");
    }

    #[test]
    fn what_is_not_used_is_lent_and_comes_back_first() {
        let mut seats = Seats::new();
        // Each has four of eight seats; the first never lends two of its own.
        seats.configure(vec![(1, limits(4, 2, 8)), (2, limits(4, 4, 8))]);
        let mut borrowed = Vec::new();
        for _ in 0..6 {
            let arrival = seats.arrive(2, 1, || 0, "borrower");
            assert!(matches!(arrival, Arrival::Run(_)));
            borrowed.push(ticket(arrival));
        }
        assert!(matches!(seats.arrive(2, 1, || 0, "borrower"), Arrival::Wait(..)), "two are never lent");
        for _ in 0..2 {
            assert!(
                matches!(seats.arrive(1, 1, || 9, "owner"), Arrival::Run(_)),
                "not lent, so always there"
            );
        }
        assert!(matches!(seats.arrive(1, 1, || 9, "owner"), Arrival::Wait(..)), "lent out");
        let ended = seats.end(2, borrowed.remove(0), 1, 0.1);
        assert_eq!(ended.dispatched, ["owner"], "before the borrower that has waited for longer");
    }

    #[test]
    fn exempt_requests_always_run() {
        let mut seats = Seats::new();
        seats.configure(vec![(1, Limits { exempt: true, ..Limits::default() }), (2, limits(1, 0, 1))]);
        for _ in 0..100 {
            assert!(matches!(seats.arrive(1, 10, || 0, ()), Arrival::Run(_)));
        }
        assert!(matches!(seats.arrive(2, 1, || 0, ()), Arrival::Run(_)), "they take nothing from others");
    }

    #[test]
    fn a_level_that_is_gone_serves_out_what_it_has() {
        let mut seats = Seats::new();
        seats.configure(vec![(1, limits(1, 1, 1))]);
        let first = ticket(seats.arrive(1, 1, || 0, "first"));
        let second = ticket(seats.arrive(1, 1, || 0, "second"));
        seats.configure(vec![]);
        assert_eq!(seats.end(1, first, 1, 0.0).dispatched, ["second"]);
        seats.end(1, second, 1, 0.0);
        assert!(seats.levels.is_empty());
    }
}
