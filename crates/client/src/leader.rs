//! Leader election on a Lease: of several processes with one lock name, one leads at a time.
//!
//! Reads and writes one `coordination.k8s.io/v1` Lease. Not here: what the leader does, and fencing (as upstream's, this
//! election bounds the overlap by clocks that run at about the same rate; it does not exclude it).
//! Upstream: `client-go/tools/leaderelection`. Time that decides is monotonic and local: when this process last saw the
//! record change, never the time that another process wrote into it.

use std::future::Future;
use std::time::Duration;

use api::meta::{MicroTime, ObjectMeta};
use api::types::coordination::v1::{Lease, LeaseSpec};
use foundation::{CancellationToken, SharedClock, SharedRandomness};

use crate::{Client, Error};

/// What to elect for, and how patiently. The durations are upstream's defaults.
#[derive(Clone, Debug)]
pub struct LeaderElectorOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease: the lock.
    pub name: String,
    /// Who we are; unique among the candidates.
    pub identity: String,
    /// Others may take over when they have seen no renewal for this long.
    pub lease_duration: Duration,
    /// The leader gives up when it could not renew for this long. Less than `lease_duration`.
    pub renew_deadline: Duration,
    /// How often to try.
    pub retry_period: Duration,
}

impl LeaderElectorOptions {
    /// Upstream's durations: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> LeaderElectorOptions {
        LeaderElectorOptions {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// How [`LeaderElector::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// The work ended, or we were told to stop; the Lease is free for the next.
    Released,
    /// The Lease could not be renewed in time; the work was cancelled.
    Lost,
}

/// One candidate.
pub struct LeaderElector {
    client: Client,
    clock: SharedClock,
    randomness: SharedRandomness,
    options: LeaderElectorOptions,
    /// The record as last seen, and when it was first seen so.
    observed: Option<(LeaseSpec, Duration)>,
}

impl LeaderElector {
    /// A candidate that has not tried yet.
    pub fn new(
        client: Client,
        clock: SharedClock,
        randomness: SharedRandomness,
        options: LeaderElectorOptions,
    ) -> LeaderElector {
        LeaderElector { client, clock, randomness, options, observed: None }
    }

    /// Waits to lead, runs `work` while leading, and frees the Lease when `work` or `stop` ends it. `work` is given a
    /// token that is cancelled when the lead is lost, and must return soon after.
    pub async fn run<F, W>(mut self, stop: CancellationToken, work: F) -> Leadership
    where
        F: FnOnce(CancellationToken) -> W,
        W: Future<Output = ()>,
    {
        let leads = crate::metrics::leads(&self.options.name);
        leads.set(0.0);
        loop {
            match self.try_acquire().await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => tracing::debug!(lease = %self.options.name, %error, "leader election"),
            }
            // Upstream's jitter factor is 1.2.
            let wait = self.options.retry_period.mul_f64(1.0 + 1.2 * self.randomness.unit());
            if stop.run_until_cancelled(self.clock.sleep(wait)).await.is_none() {
                return Leadership::Released;
            }
        }
        tracing::info!(lease = %self.options.name, identity = %self.options.identity, "became the leader");
        leads.set(1.0);
        let lost = stop.child_token();
        let outcome = {
            let mut work = std::pin::pin!(work(lost.clone()));
            tokio::select! {
                () = &mut work => Leadership::Released,
                () = stop.cancelled() => {
                    work.await;
                    Leadership::Released
                }
                () = self.renew() => {
                    lost.cancel();
                    work.await;
                    Leadership::Lost
                }
            }
        };
        leads.set(0.0);
        if outcome == Leadership::Released
            && let Err(error) = self.release().await
        {
            tracing::debug!(lease = %self.options.name, %error, "the lease was not released");
        }
        outcome
    }

    /// Renews until that has failed, or not come to an end, for too long.
    async fn renew(&mut self) {
        let mut deadline = self.clock.sleep(self.options.renew_deadline);
        loop {
            let pause = self.clock.sleep(self.options.retry_period);
            tokio::select! {
                () = &mut deadline => return,
                () = pause => {}
            }
            // From before the attempt: others count from the time that it writes.
            let next = self.clock.sleep(self.options.renew_deadline);
            tokio::select! {
                () = &mut deadline => {
                    tracing::warn!(lease = %self.options.name, "the lease was not renewed in time");
                    return;
                }
                outcome = self.try_acquire() => match outcome {
                    Ok(true) => deadline = next,
                    Ok(false) => return,
                    Err(error) => tracing::warn!(lease = %self.options.name, %error, "the lease was not renewed"),
                },
            }
        }
    }

    /// One look and, if the Lease is ours or free, one write.
    async fn try_acquire(&mut self) -> Result<bool, Error> {
        let namespace = self.options.namespace.clone();
        let namespace = Some(namespace.as_str());
        let now = MicroTime(self.clock.now());
        let ours = LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: Some(self.options.lease_duration.as_secs() as i32),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let mut lease = match self.client.get::<Lease>(namespace, &self.options.name).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => {
                let metadata = ObjectMeta { name: Some(self.options.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(ours) };
                return match self.client.create(namespace, &lease).await {
                    Ok(created) => {
                        self.observe(created.spec.unwrap_or_default());
                        Ok(true)
                    }
                    Err(error) if error.is_already_exists() => Ok(false),
                    Err(error) => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let held = lease.spec.clone().unwrap_or_default();
        let since = self.observe(held.clone());
        let holder = held.holder_identity.as_deref().unwrap_or_default();
        let mine = holder == self.options.identity;
        let expired = self.clock.monotonic().saturating_sub(since) >= self.options.lease_duration;
        if !holder.is_empty() && !mine && !expired {
            return Ok(false);
        }
        let transitions = held.lease_transitions.unwrap_or(0);
        lease.spec = Some(LeaseSpec {
            acquire_time: if mine { held.acquire_time } else { ours.acquire_time.clone() },
            lease_transitions: Some(if mine { transitions } else { transitions + 1 }),
            ..ours
        });
        match self.client.update(namespace, &lease).await {
            Ok(updated) => {
                self.observe(updated.spec.unwrap_or_default());
                Ok(true)
            }
            // Somebody was faster. If we led, the next look says whether we still do.
            Err(error) if error.is_conflict() && !mine => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Notes the record; returns when it was first seen as it is.
    fn observe(&mut self, spec: LeaseSpec) -> Duration {
        match &self.observed {
            Some((seen, since)) if *seen == spec => *since,
            _ => {
                let now = self.clock.monotonic();
                self.observed = Some((spec, now));
                now
            }
        }
    }

    /// Frees the Lease if it is ours: the next candidate need not wait for it to expire.
    async fn release(&mut self) -> Result<(), Error> {
        let namespace = Some(self.options.namespace.as_str());
        let mut lease = self.client.get::<Lease>(namespace, &self.options.name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.options.identity.as_str()) {
            return Ok(());
        }
        let now = MicroTime(self.clock.now());
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.acquire_time = Some(now.clone());
        spec.renew_time = Some(now);
        self.client.update(namespace, &lease).await.map(drop)
    }
}
