//! What the worker tells the API: the pod's status, its events about back-offs, and the end of its object.
//!
//! One write is under way at a time; what changes meanwhile goes with the next. Not here: what the status says
//! ([`crate::status`]).

use std::sync::Arc;

use api::types::core::v1::{Pod, PodStatus};
use client::{DeleteOptions, EventType, Patch};
use jiff::{SignedDuration, Timestamp};

use super::{Actor, Done};
use crate::worker::decide::Decision;
use crate::worker::state::Failure;
use crate::{pod, status};

impl Actor {
    pub(super) fn tell_back_offs(&mut self, decision: &Decision) {
        let (pod, ns, uid) = (pod::name(&self.pod), pod::namespace(&self.pod), pod::uid(&self.pod));
        for (name, waiting) in &decision.waiting {
            let reference = crate::node::container_reference(&self.pod, name);
            let tell = |kind, reason, message| {
                self.node.recorder.event_about(reference.clone(), kind, reason, message)
            };
            match (waiting.reason.as_str(), self.runtime.latest(name), self.memory.failed_starts.get(name)) {
                ("CrashLoopBackOff", Some(record), _) if self.memory.told.insert(record.id.clone()) => {
                    let message =
                        format!("Back-off restarting failed container {name} in pod {pod}_{ns}({uid})");
                    tell(EventType::Warning, "BackOff", message);
                }
                ("ImagePullBackOff", _, Some(Failure { at, image: Some(image), .. }))
                    if self.memory.told.insert(format!("image/{name}/{at}")) =>
                {
                    tell(EventType::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
                    tell(EventType::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
                }
                _ => {}
            }
        }
    }

    /// Writes the status if it has changed, and lets the object go at the end. Returns when to try again.
    pub(super) fn report(&mut self, decision: &Decision) -> Option<Timestamp> {
        if self.gone || self.reporting || self.deleting || self.deleted {
            return None;
        }
        let now = self.node.clock.now();
        if let Some(at) = self.report_at.filter(|at| now < *at) {
            return Some(at);
        }
        self.report_at = None;
        let about =
            status::Node { ips: &self.node.ips, runtime: &self.node.version.name, terminal: self.finished };
        let new = status::generate(&self.view(), decision, &about);
        let old = self.pod.status.clone().unwrap_or_default();
        let (node, uid) = (self.node.clone(), pod::uid(&self.pod).to_owned());
        let (namespace, name) = (pod::namespace(&self.pod).to_owned(), pod::name(&self.pod).to_owned());
        let runs_now = new.phase.as_deref() == Some("Running") && old.phase.as_deref() != Some("Running");
        if runs_now && !self.memory.ran {
            self.memory.ran = true;
            let since = |then: Timestamp| now.duration_since(then).max(SignedDuration::ZERO).unsigned_abs();
            let created = self.pod.metadata.creation_timestamp.as_ref().map_or(self.start_time, |at| at.0);
            crate::metrics::started(since(created), since(self.start_time));
        }
        if let Some(patch) = status::patch::between(&uid, &old, &new) {
            if self.last_patch.replace(patch.clone()).as_ref() == Some(&patch) {
                let at = now + SignedDuration::from_secs(1);
                self.last_patch = None;
                self.report_at = Some(at);
                return Some(at);
            }
            self.reporting = true;
            self.spawn(async move {
                let patched =
                    node.client.patch_status::<Pod>(Some(&namespace), &name, &Patch::Strategic(patch)).await;
                let result = match patched {
                    Ok(pod) => Ok(Some(Box::new(pod))),
                    Err(error) if error.is_not_found() || error.is_conflict() => Ok(None),
                    Err(error) => Err(error.to_string()),
                };
                Some(Done::Reported(Box::new(new), result))
            });
            return None;
        }
        if self.finished && self.pod.metadata.deletion_timestamp.is_some() {
            self.deleting = true;
            self.spawn(async move {
                let options = DeleteOptions::uid(uid).with_grace_period(0);
                let result = match node.client.delete::<Pod>(Some(&namespace), &name, &options).await {
                    Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
                    other => other.map_err(|error| error.to_string()),
                };
                Some(Done::Deleted(result))
            });
        }
        None
    }

    pub(super) fn reported(&mut self, _sent: PodStatus, result: Result<Option<Box<Pod>>, String>) {
        self.reporting = false;
        match result {
            Ok(Some(pod)) => self.adopt(&Arc::new(*pod)),
            // Deleted or replaced by a namesake: the watch says which.
            Ok(None) => self.report_at = Some(self.node.clock.now() + SignedDuration::from_secs(1)),
            Err(error) => {
                tracing::warn!(pod = pod::full_name(&self.pod), %error, "a pod's status was not written");
                self.report_at = Some(self.node.clock.now() + SignedDuration::from_secs(1));
            }
        }
    }
}
