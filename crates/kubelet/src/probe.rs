//! Probes: asking a container whether it has started, lives and is ready.
//!
//! [`Threshold`] is pure: it turns single results into verdicts. [`run`] asks in the probe's rhythm and tells the worker
//! only when a verdict changes. Not here: what follows from a verdict.
//! Upstream: `pkg/kubelet/prober`, `pkg/probe`.

mod grpc;
pub mod network;

use std::sync::Arc;
use std::time::Duration;

use api::types::core::v1::{Container, Pod, Probe};
use client::EventType;
use futures::future::join;
use jiff::Timestamp;

use crate::node::Node;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Until it has succeeded, the others wait.
    Startup,
    /// Its failure gets the container killed.
    Liveness,
    /// While it fails, the pod serves nobody.
    Readiness,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// Whether the container has any probe.
pub fn any(container: &Container) -> bool {
    container.startup_probe.is_some()
        || container.liveness_probe.is_some()
        || container.readiness_probe.is_some()
}

/// Counts results until enough of one kind have come in a row.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    success: u32,
    failure: u32,
    last: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Threshold {
    /// For a probe.
    pub fn new(probe: &Probe) -> Threshold {
        let least = |value: Option<i32>, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Threshold {
            success: least(probe.success_threshold, 1),
            failure: least(probe.failure_threshold, 3),
            last: None,
            run: 0,
            verdict: None,
        }
    }

    /// Counts a result. Returns the verdict if it is new.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run + 1 } else { 1 };
        self.last = Some(success);
        let enough = if success { self.success } else { self.failure };
        if self.run < enough || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

/// What is probed.
pub struct Target {
    /// The node.
    pub node: Arc<Node>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// The runtime's id of it.
    pub id: String,
    /// The pod's address.
    pub ip: String,
    /// When it was started.
    pub started_at: Timestamp,
}

/// Probes a container until it is dropped: the startup probe first, then the others together. `tell` hears of every
/// new verdict.
pub async fn run(target: Target, started: bool, tell: impl Fn(&str, Kind, bool) + Send + Sync) {
    if let Some(probe) = target.container.startup_probe.as_ref().filter(|_| !started)
        && !repeat(&target, Kind::Startup, probe, &tell).await
    {
        return;
    }
    let liveness = async {
        if let Some(probe) = &target.container.liveness_probe {
            repeat(&target, Kind::Liveness, probe, &tell).await;
        }
    };
    let readiness = async {
        if let Some(probe) = &target.container.readiness_probe {
            repeat(&target, Kind::Readiness, probe, &tell).await;
        }
    };
    join(liveness, readiness).await;
}

/// Asks in the probe's rhythm. Returns at the first verdict that ends it: whether the container has started.
async fn repeat(
    target: &Target,
    kind: Kind,
    probe: &Probe,
    tell: &(impl Fn(&str, Kind, bool) + Sync),
) -> bool {
    let clock = &target.node.clock;
    let seconds = |value: Option<i32>, default: i32| {
        Duration::from_secs(value.filter(|v| *v > 0).unwrap_or(default) as u64)
    };
    let period = seconds(probe.period_seconds, 10);
    let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
    let age = Duration::try_from(clock.now().duration_since(target.started_at)).unwrap_or_default();
    clock.sleep(delay.saturating_sub(age)).await;
    let mut threshold = Threshold::new(probe);
    let mut ever = false;
    loop {
        let result = once(target, probe, seconds(probe.timeout_seconds, 1)).await;
        if let Err(message) = &result {
            let text = format!("{} probe failed: {message}", kind.title());
            target.node.container_event(
                &target.pod,
                &target.container,
                EventType::Warning,
                "Unhealthy",
                text,
            );
        }
        let success = result.is_ok();
        if let Some(verdict) = threshold.count(success) {
            tell(&target.id, kind, verdict);
            ever |= verdict;
            match (kind, verdict) {
                (Kind::Startup, verdict) => return verdict,
                // The container is killed; a new one is probed afresh.
                (Kind::Liveness, false) => return false,
                _ => {}
            }
        }
        // A container that has never been ready is asked soon again, so that a quick start is seen quickly: 50 ms
        // after its start, then at doubled distances up to the period.
        let wait = if kind == Kind::Liveness || ever {
            period
        } else {
            let age = Duration::try_from(clock.now().duration_since(target.started_at)).unwrap_or_default();
            if age < delay + period { period.min((age / 2).max(Duration::from_millis(50))) } else { period }
        };
        let counted = success || kind == Kind::Liveness || wait == period;
        if !counted {
            // Early failures beyond upstream's rhythm do not count toward the failure threshold.
            threshold.run = 0;
        }
        clock.sleep(wait).await;
    }
}

/// One question. The error is what the event says.
async fn once(target: &Target, probe: &Probe, timeout: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let run = target.node.runtime.exec(&target.id, &command, timeout);
        let answer = tokio::select! {
            answer = run => answer,
            () = target.node.clock.sleep(timeout + Duration::from_secs(1)) => {
                return Err(format!("command timed out: \"{}\" timed out after {timeout:?}", command.join(" ")));
            }
        };
        return match answer {
            Ok((0, _)) => Ok(()),
            Ok((_, output)) => {
                Err(String::from_utf8_lossy(&output[..output.len().min(10 * 1024)]).into_owned())
            }
            Err(error)
                if error.message().contains("DeadlineExceeded") || error.message().contains("timed out") =>
            {
                Err(format!("command timed out: \"{}\" timed out after {timeout:?}", command.join(" ")))
            }
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(http) = &probe.http_get {
        let to = network::http_target(http, &target.container, &target.ip)?;
        let (code, _) = network::http(&to, timeout).await?;
        return match code {
            200..400 => Ok(()),
            code => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = network::port(&tcp.port, &target.container)?;
        let host = tcp.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.ip);
        return network::tcp(host, port, timeout).await;
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).map_err(|_| format!("invalid port number: {}", grpc.port))?;
        return grpc::check(&target.ip, port, grpc.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_a_run_of_results() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut threshold = Threshold::new(&probe);
        let results = [true, true, true, false, false, true, false, false, false, false, true, true];
        let verdicts: Vec<_> = results.into_iter().map(|result| threshold.count(result)).collect();
        let none = None;
        assert_eq!(
            verdicts,
            [none, Some(true), none, none, none, none, none, none, Some(false), none, none, Some(true)]
        );
    }
}
