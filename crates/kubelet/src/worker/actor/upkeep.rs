//! What the worker keeps going beside the pod's steps: probes, and volumes that follow their sources.

use foundation::CancellationToken;
use jiff::SignedDuration;

use super::{Actor, Done, Message};
use crate::pod::{self, Role};
use crate::probe;
use crate::worker::state::{Failure, Phase, Volumes};

impl Actor {
    /// Brings the files of volumes up to date when their sources have changed or a token is due.
    pub(super) fn follow(&mut self) {
        let now = self.node.clock.now();
        let due = self.node.objects.next_renewal(pod::uid(&self.pod)).is_some_and(|at| at <= now);
        let waiting = self.follow_at.is_some_and(|at| now < at);
        if (self.stale || due)
            && !waiting
            && !self.memory.busy
            && self.memory.volumes == Volumes::Ready
            && !self.ending()
        {
            self.stale = false;
            self.follow_at = due.then(|| now + SignedDuration::from_secs(10));
            // Containers whose configuration could not be made may be tried again at once.
            let config_error = |f: &Failure| f.waiting.reason == "CreateContainerConfigError";
            for failure in self.memory.failed_starts.values_mut().filter(|f| config_error(f)) {
                failure.retry_at = now;
            }
            self.memory.busy = true;
            let work = self.mount();
            self.spawn(async move { Some(Done::Followed(work.await)) });
        } else if self.stale && self.memory.volumes == Volumes::Absent && !self.memory.busy {
            self.stale = false;
            self.memory.retry_at = None;
        }
    }

    /// One probe task per probe of each running container.
    pub(super) fn probe(&mut self) {
        if self.ending() {
            return;
        }
        for (role, container) in pod::containers(&self.pod) {
            if role == Role::Init || role == Role::Ephemeral || !probe::any(&container) {
                continue;
            }
            let Some(record) = self.runtime.latest(&container.name).filter(|r| r.phase == Phase::Running)
            else {
                continue;
            };
            if self.probes.contains_key(&record.id)
                || self.memory.starting.as_deref() == Some(&container.name)
            {
                continue;
            }
            let token = CancellationToken::new();
            self.probes.insert(record.id.clone(), token.clone());
            let target = probe::Target {
                node: self.node.clone(),
                pod: self.pod.clone(),
                container: container.clone(),
                id: record.id.clone(),
                ip: self.ip(),
                started_at: record.started_at.unwrap_or(record.created_at),
            };
            // After a restart of the kubelet a container that was ready stays ready until a probe says otherwise.
            let statuses = self.pod.status.iter().flat_map(|s| {
                s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())
            });
            let ours = statuses
                .filter(|s| s.name == container.name)
                .find(|s| s.container_id.as_deref().is_some_and(|id| id.ends_with(record.id.as_str())));
            if let Some(known) = ours {
                let probed = self.memory.probed.entry(record.id.clone()).or_default();
                if known.started == Some(true) && container.startup_probe.is_some() {
                    probed.startup.get_or_insert(true);
                }
                if known.ready && container.readiness_probe.is_some() {
                    probed.readiness.get_or_insert(true);
                }
            }
            let started = self.memory.probed.get(&record.id).and_then(|probed| probed.startup) == Some(true);
            let mailbox = self.mailbox.clone();
            let tell = move |id: &str, kind, success| {
                drop(mailbox.send(Message::Probed(id.to_owned(), kind, success)))
            };
            self.node.tasks.spawn_until_cancelled("probe", async move {
                token.run_until_cancelled(probe::run(target, started, tell)).await;
            });
        }
    }

    /// Forgets what belongs to containers that are no more.
    pub(super) fn forget(&mut self) {
        let known = |id: &String| self.runtime.containers.iter().any(|container| container.id == *id);
        self.memory.probed.retain(|id, _| known(id));
        self.memory.told.retain(|key| key.starts_with("image/") || known(key));
    }
}
