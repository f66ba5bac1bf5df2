//! Holds pods to the Pod Security Standard that the labels of their namespace name.
//!
//! `enforce` refuses pods; `warn` warns about pods and about what makes pods; `audit` notes the same in the audit log,
//! beside the standard that was enforced and why somebody was exempt.
//! Reads Namespaces and, when a namespace's level is raised, its Pods.
//! Not here: the standards (`checks`), the labels (`level`).
//! Upstream: staging/src/k8s.io/pod-security-admission, plugin/pkg/admission/security/podsecurity.

mod checks;
mod level;
mod metrics;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{GroupKind, GroupResource, Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use self::checks::Finding;
use self::level::Policy;
pub use self::level::{Defaults, Exemptions, Level, LevelVersion};
use self::metrics::Counted;
use super::json::text;
use super::parsed::Parsed;
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

/// How many pods of a namespace are looked at when its level is raised.
const MOST_PODS: usize = 3000;

pub(super) struct PodSecurity {
    defaults: Defaults,
    policies: Parsed<Policy>,
}

impl PodSecurity {
    pub(super) fn new(defaults: Defaults) -> Self {
        Self { defaults, policies: Parsed::default() }
    }

    async fn policy_of(&self, namespace: &str, cluster: &dyn ClusterState) -> Result<Arc<Policy>, Status> {
        let resource = GroupResource::new("", "namespaces");
        let policy = |object: Object| level::policy(&object.labels(), &self.defaults);
        match cluster.cached(&resource, "", namespace).await? {
            Some(bytes) => self.policies.get(&bytes, |bytes| {
                serde_json::from_slice(bytes).map(|object| policy(Object(object))).map_err(Status::internal)
            }),
            None => Ok(Arc::new(policy(cluster.get(&resource, "", namespace).await?))),
        }
    }

    async fn namespace(&self, request: &mut Request<'_>, cluster: &dyn ClusterState) -> Result<(), Status> {
        let Some(new) = request.object.as_deref() else { return Ok(()) };
        let policy = level::policy(&new.labels(), &self.defaults);
        let old = request.old.map(|old| level::policy(&old.labels(), &self.defaults));
        // Labels that were wrong before may stay, so that the rest of such a namespace can still be changed.
        let known = old.as_ref().is_some_and(|old| old.errors == policy.errors);
        if !policy.errors.is_empty() && !known {
            let kind = GroupKind::new("", "Namespace");
            return Err(Status::invalid(&kind, new.name(), policy.errors));
        }
        let exempt = self.defaults.exemptions.namespaces.iter().any(|name| name == new.name());
        let ignored =
            exempt.then(|| policy.described(&new.labels(), &self.defaults)).flatten().map(|modes| {
                let name = new.name();
                format!(
                    "namespace {name:?} is exempt from Pod Security, and the policy ({modes}) will be ignored"
                )
            });
        let Some(old) = old else {
            request.warnings.extend(ignored);
            return Ok(());
        };
        let (before, after) = (old.enforce, policy.enforce);
        let raised =
            after.level > before.level || after.level == before.level && after.version != before.version;
        if before == after || after.level == Level::Privileged || !raised {
            return Ok(());
        }
        if exempt {
            request.warnings.extend(ignored);
            return Ok(());
        }
        let name = new.name().to_owned();
        let classes = &self.defaults.exemptions.runtime_classes;
        let mut warnings = existing_pods(&name, after, classes, cluster).await?;
        request.warnings.append(&mut warnings);
        Ok(())
    }
}

/// What to say about pods that are there already when a stricter level begins.
async fn existing_pods(
    namespace: &str,
    level: LevelVersion,
    exempt_classes: &[String],
    cluster: &dyn ClusterState,
) -> Result<Vec<String>, Status> {
    let pods = cluster.list(&GroupResource::new("", "pods"), namespace).await?.items;
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for bytes in pods.iter().take(MOST_PODS) {
        let pod: Value = serde_json::from_slice(bytes).map_err(Status::internal)?;
        if exempt_classes.iter().any(|class| class == text(&pod, "/spec/runtimeClassName")) {
            continue;
        }
        let findings = checks::evaluate(level, &pod["metadata"], &pod["spec"]);
        if findings.is_empty() {
            continue;
        }
        let reasons: Vec<&str> = findings.iter().map(|finding| finding.reason.as_str()).collect();
        let name = text(&pod, "/metadata/name");
        let entry = found.entry(reasons.join(", ")).or_insert_with(|| (name.to_owned(), 0));
        entry.1 += 1;
        if name < entry.0.as_str() {
            entry.0 = name.to_owned();
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MOST_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        let level = level.to_string();
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {level:?}"
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (pod, count))| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            more => format!("{pod} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    lines.sort();
    warnings.append(&mut lines);
    Ok(warnings)
}

/// Whether an update of a pod changes anything that the standards look at: images, and debugging containers.
fn is_significant(new: &Value, old: &Value) -> bool {
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| {
        let images = |pod: &Value| -> Vec<(String, String)> {
            let containers = pod["spec"][*list].as_array().into_iter().flatten();
            containers.map(|c| (text(c, "/name").to_owned(), text(c, "/image").to_owned())).collect()
        };
        images(new) != images(old)
    })
}

/// Where an object of this resource keeps the pod that it makes.
fn template(resource: &GroupResource) -> Option<&'static str> {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn details(findings: &[Finding]) -> String {
    let parts: Vec<String> = findings
        .iter()
        .map(|finding| match finding.detail.as_str() {
            "" => finding.reason.clone(),
            detail => format!("{} ({detail})", finding.reason),
        })
        .collect();
    parts.join(", ")
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if request.is("", "namespaces", "") {
            return self.namespace(request, &**cluster).await;
        }
        let pod = ["", "ephemeralcontainers", "resize"].iter().any(|sub| request.is("", "pods", sub));
        let made = template(&request.resource.group_resource()).filter(|_| request.subresource.is_empty());
        if !pod && made.is_none() {
            return Ok(());
        }
        let counted = Counted::of(request.operation, pod, request.subresource);
        let exemptions = &self.defaults.exemptions;
        for (exempt, names, name) in [
            ("namespace", &exemptions.namespaces, request.namespace),
            ("user", &exemptions.usernames, &request.user.name),
        ] {
            if names.iter().any(|exempt| exempt == name) {
                note("exempt", exempt);
                counted.exempt();
                return Ok(());
            }
        }
        let policy = self.policy_of(request.namespace, &**cluster).await;
        let policy = policy.inspect_err(|_| counted.failed(true))?;
        if policy.errors.is_empty() {
            if pod && policy.is_privileged() {
                note("enforce-policy", &LevelVersion::default().to_string());
                counted.evaluated("enforce", true, policy.enforce);
                return Ok(());
            }
            let silent = [policy.audit, policy.warn].iter().all(|mode| mode.level == Level::Privileged);
            if !pod && silent {
                return Ok(());
            }
        }
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        if pod && request.old.is_some_and(|old| !is_significant(&object.0, &old.0)) {
            return Ok(());
        }
        let Some(subject) = made.map_or(Some(&object.0), |pointer| object.0.pointer(pointer)) else {
            return Ok(());
        };
        if exemptions.runtime_classes.iter().any(|class| class == text(subject, "/spec/runtimeClassName")) {
            note("exempt", "runtimeClass");
            counted.exempt();
            return Ok(());
        }
        let warning = judge(&policy, subject, pod, counted).map_err(|refusal| request.forbidden(refusal))?;
        request.warnings.extend(warning);
        Ok(())
    }
}

/// Holds what is at `subject` (a pod, or the template of one) to each mode's standard, and tells the audit log. A
/// warning, or, where pods are refused, the refusal.
fn judge(
    policy: &Policy,
    subject: &Value,
    enforced: bool,
    counted: Counted<'_>,
) -> Result<Option<String>, String> {
    if let Some(error) = problem(policy) {
        note("error", &format!("Failed to parse policy: {error}"));
        counted.failed(false);
    }
    let check = |level: LevelVersion| checks::evaluate(level, &subject["metadata"], &subject["spec"]);
    let violation = |level: LevelVersion, findings: &[Finding]| {
        format!("PodSecurity {:?}: {}", level.to_string(), details(findings))
    };
    let refused = enforced.then(|| {
        note("enforce-policy", &policy.enforce.to_string());
        check(policy.enforce)
    });
    if let Some(findings) = &refused {
        counted.evaluated("enforce", findings.is_empty(), policy.enforce);
    }
    let audited = match &refused {
        Some(findings) if policy.audit == policy.enforce => findings.clone(),
        _ => check(policy.audit),
    };
    if !audited.is_empty() {
        counted.evaluated("audit", false, policy.audit);
        note("audit-violations", &format!("would violate {}", violation(policy.audit, &audited)));
    }
    if let Some(findings) = refused.filter(|findings| !findings.is_empty()) {
        return Err(format!("violates {}", violation(policy.enforce, &findings)));
    }
    let findings = check(policy.warn);
    if !findings.is_empty() {
        counted.evaluated("warn", false, policy.warn);
    }
    Ok((!findings.is_empty()).then(|| format!("would violate {}", violation(policy.warn, &findings))))
}

/// What is wrong with the labels, as Go tells of one error or of several.
fn problem(policy: &Policy) -> Option<String> {
    let errors: Vec<String> = policy.errors.iter().map(ToString::to_string).collect();
    match errors.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        more => Some(format!("[{}]", more.join(", "))),
    }
}

fn note(key: &str, value: &str) {
    crate::audit::annotate(&format!("pod-security.kubernetes.io/{key}"), value);
}

#[cfg(test)]
mod tests;
