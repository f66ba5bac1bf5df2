//! The one runner: takes keys off the queue, plans them, carries the plans out, and decides when to look again.
//!
//! One task per controller; keys run concurrently inside it, each alone. Not here: what to do (the controller), how a
//! write goes (`runner/execute.rs`), what is counted (`runner/metrics.rs`). Upstream: what each controller's `processNextWorkItem` does for itself.

mod execute;
mod metrics;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, EventRecorder, Informers};
use foundation::{SharedClock, Tasks};
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use self::execute::Executor;
use self::metrics::Metrics;
use crate::expectations::Expectations;
use crate::queue::{Outcome, Queue};
use crate::{Answers, Caches, Controller, Failure, Key, View, Watches};

/// A key that waits for the caches is looked at again after this, in case the change came by a relist, of which nobody is
/// told when nothing in it is new.
const RECHECK: Duration = Duration::from_secs(5);
/// How often a plan may ask before it must decide.
const QUESTIONS: usize = 8;

/// What all controllers of a process share.
#[derive(Clone)]
pub struct RunnerOptions {
    /// The caches.
    pub informers: Informers,
    /// Who runs the tasks.
    pub tasks: Tasks,
    /// The time.
    pub clock: SharedClock,
    /// Where events go.
    pub recorder: EventRecorder,
}

/// Runs controllers.
#[derive(Clone)]
pub struct Runner {
    options: RunnerOptions,
}

impl Runner {
    /// A runner without controllers.
    pub fn new(options: RunnerOptions) -> Runner {
        Runner { options }
    }

    /// Runs `controller` until the tasks end; `client` is the identity that its writes carry.
    pub fn start<C: Controller>(&self, controller: C, client: Client) {
        let queue = Arc::new(Queue::default());
        let mut watches = Watches::new(&self.options.informers, queue.clone());
        controller.watch(&mut watches);
        let caches = watches.finish();
        let loop_ = Loop {
            executor: Executor { client, recorder: self.options.recorder.for_component(C::NAME) },
            metrics: Metrics::of(C::NAME, &self.options.clock),
            controller,
            caches,
            queue,
            expectations: Arc::default(),
            failures: Mutex::default(),
            clock: self.options.clock.clone(),
        };
        self.options.tasks.child(C::NAME).spawn_until_cancelled("controller", loop_.run());
    }
}

struct Loop<C> {
    controller: C,
    caches: Arc<Caches>,
    queue: Arc<Queue>,
    expectations: Arc<Expectations>,
    /// Why the last run of a key failed, for the keys whose last run failed.
    failures: Mutex<std::collections::HashMap<Key, Failure>>,
    executor: Executor,
    clock: SharedClock,
    metrics: Metrics,
}

impl<C: Controller> Loop<C> {
    async fn run(self) {
        self.caches.synced().await;
        let (queue, expectations) = (self.queue.clone(), self.expectations.clone());
        let caches = Arc::downgrade(&self.caches);
        self.caches.listen(move || {
            if let Some(caches) = caches.upgrade() {
                for key in expectations.released(&caches) {
                    queue.add(key);
                }
            }
        });
        let mut running = FuturesUnordered::new();
        let mut seen = 0;
        loop {
            while running.len() < C::WORKERS
                && let Some((key, since)) = self.queue.take(self.clock.monotonic())
            {
                self.metrics.waited.observe_duration(self.clock.monotonic().saturating_sub(since));
                running.push(self.work(key));
            }
            self.queue.note(self.clock.monotonic());
            self.metrics.depth.set(self.queue.depth() as f64);
            let added = self.queue.added();
            self.metrics.adds.add(added - seen);
            seen = added;
            let timer = match self.queue.next_due() {
                // All workers are busy: the timer's key could not run anyway.
                Some(due) if running.len() < C::WORKERS => {
                    self.clock.sleep(due.saturating_sub(self.clock.monotonic()))
                }
                _ => futures::future::pending().boxed(),
            };
            tokio::select! {
                () = self.queue.changed() => {}
                Some(()) = running.next() => {}
                () = timer => {}
            }
        }
    }

    /// One run of one key.
    async fn work(&self, key: Key) {
        let started = self.clock.monotonic();
        let _processing = self.metrics.processing(started);
        let outcome = if self.expectations.is_met(&key, &self.caches, started) {
            match AssertUnwindSafe(self.reconcile(&key)).catch_unwind().await {
                Ok(outcome) => outcome,
                // One bad object must not stop the controller for all others; the panic hook has said where it was.
                Err(_) => {
                    tracing::error!(controller = C::NAME, %key, "the plan panicked");
                    Outcome::Failed
                }
            }
        } else {
            Outcome::Parked(started + RECHECK)
        };
        let now = self.clock.monotonic();
        if outcome == Outcome::Failed {
            self.metrics.retries.inc();
        }
        self.metrics.work.observe_duration(now.saturating_sub(started));
        self.queue.finish(&key, outcome, now);
    }

    async fn reconcile(&self, key: &Key) -> Outcome {
        let mut answers = Answers::default();
        for _ in 0..QUESTIONS {
            let now = self.clock.now();
            let plan = {
                let failure = self.failures.lock().get(key).cloned();
                let view = View { caches: &self.caches, failure: failure.as_ref(), answers: &answers };
                self.controller.plan(&view, key, now)
            };
            let report = self.executor.carry_out(plan.steps).await;
            self.expectations.expect(key, report.expected, &self.caches, self.clock.monotonic());
            if let Some(failure) = report.failure {
                tracing::debug!(controller = C::NAME, %key, action = %failure.action, error = %failure.message, "failed");
                self.failures.lock().insert(key.clone(), failure);
                return Outcome::Failed;
            }
            self.failures.lock().remove(key);
            for event in plan.events {
                self.executor.say(event);
            }
            match self.executor.attempt(&plan.attempts).await {
                Ok(refused) => answers.refused.extend(refused),
                Err(error) => {
                    tracing::debug!(controller = C::NAME, %key, %error, "an attempt failed");
                    return Outcome::Failed;
                }
            }
            if plan.questions.is_empty() && plan.reviews.is_empty() {
                if plan.retry {
                    return Outcome::Failed;
                }
                return Outcome::Done(plan.requeue_at.map(|at| self.monotonic_of(at, now)));
            }
            let questions = plan.questions.into_iter().map(|path| (path.clone(), path, None));
            let reviews =
                plan.reviews.into_iter().map(|review| (review.name, review.path, Some(review.body)));
            for (name, path, body) in questions.chain(reviews) {
                match self.executor.ask(&path, body).await {
                    Ok(answer) => drop(answers.said.insert(name, answer)),
                    Err(error) => {
                        tracing::debug!(controller = C::NAME, %key, path, %error, "no answer");
                        return Outcome::Failed;
                    }
                }
            }
        }
        tracing::warn!(controller = C::NAME, %key, "the plan asks without end");
        Outcome::Failed
    }

    /// The monotonic time of a wall-clock time, never in the past. Half a millisecond is added so that a wake-up is not
    /// a rounding error early.
    fn monotonic_of(&self, at: Timestamp, now: Timestamp) -> Duration {
        let wait = at.duration_since(now).max(SignedDuration::ZERO);
        self.clock.monotonic() + wait.unsigned_abs() + Duration::from_micros(500)
    }
}
