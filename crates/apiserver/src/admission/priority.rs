//! Turns the name of a pod's priority class into its priority, and keeps at most one class the default.
//! Reads PriorityClasses.
//! Upstream: plugin/pkg/admission/priority.

use std::sync::Arc;

use api::Status;
use api::types::scheduling::v1::PriorityClass;
use async_trait::async_trait;

use super::parsed::Parsed;
use super::{Operation, Plugin, Request, json};
use crate::cluster::ClusterState;

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

#[derive(Default)]
pub(super) struct Priority {
    classes: Parsed<PriorityClass>,
}

impl Priority {
    async fn resolve(
        &self,
        request: &Request<'_>,
        name: &str,
        cluster: &dyn ClusterState,
    ) -> Result<(String, i32, String), Status> {
        let policy =
            |class: &PriorityClass| class.preemption_policy.clone().unwrap_or_else(|| PREEMPT.to_owned());
        if !name.is_empty() {
            let class = json::find_parsed(&self.classes, cluster, GROUP, "priorityclasses", "", name).await?;
            let class = class
                .ok_or_else(|| request.forbidden(format!("no PriorityClass with name {name} was found")))?;
            return Ok((name.to_owned(), class.value.unwrap_or_default(), policy(&class)));
        }
        let classes = json::list_parsed(&self.classes, cluster, GROUP, "priorityclasses", "").await?;
        let default =
            classes.into_iter().filter(|class| class.global_default == Some(true)).min_by_key(|c| c.value);
        Ok(match default {
            Some(class) => (
                class.metadata.name.clone().unwrap_or_default(),
                class.value.unwrap_or_default(),
                policy(&class),
            ),
            None => (String::new(), 0, PREEMPT.to_owned()),
        })
    }

    async fn pod(&self, request: &mut Request<'_>, cluster: &dyn ClusterState) -> Result<(), Status> {
        let Some(pod) = request.object.as_deref() else { return Ok(()) };
        let spec = &pod.0["spec"];
        if request.operation == Operation::Update {
            // The priority of a pod is settled at its creation; a client that does not know it does not unset it.
            let kept: Vec<_> = ["priority", "preemptionPolicy"]
                .into_iter()
                .filter(|field| spec[*field].is_null())
                .filter_map(|field| Some((field, request.old?.0["spec"].get(field)?.clone())))
                .collect();
            if let Some(pod) = request.object.as_deref_mut() {
                for (field, value) in kept {
                    pod.0["spec"][field] = value;
                }
            }
            return Ok(());
        }
        let named = json::text(spec, "/priorityClassName").to_owned();
        let given = (spec["priority"].as_i64(), spec["preemptionPolicy"].as_str().map(str::to_owned));
        let (name, value, policy) = self.resolve(request, &named, cluster).await?;
        if let Some(given) = given.0
            && given != i64::from(value)
        {
            return Err(request.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {value} from the given PriorityClass name"
            )));
        }
        if let Some(given) = given.1
            && given != policy
        {
            return Err(request.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
                 admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        if let Some(pod) = request.object.as_deref_mut() {
            if !name.is_empty() {
                pod.0["spec"]["priorityClassName"] = name.into();
            }
            pod.0["spec"]["priority"] = value.into();
            pod.0["spec"]["preemptionPolicy"] = policy.into();
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if request.is("", "pods", "") {
            return self.pod(request, &**cluster).await;
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if !request.is(GROUP, "priorityclasses", "") {
            return Ok(());
        }
        let Some(class) = request.object.as_deref() else { return Ok(()) };
        if class.0["globalDefault"] != true {
            return Ok(());
        }
        let classes: Vec<PriorityClass> = json::list(&**cluster, GROUP, "priorityclasses", "").await?;
        let other = classes
            .iter()
            .filter(|other| other.global_default == Some(true))
            .find_map(|other| other.metadata.name.as_deref().filter(|name| *name != class.name()));
        match other {
            Some(other) => Err(request.forbidden(format!(
                "PriorityClass {other} is already marked as default. Only one default can exist"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    fn class(name: &str, value: i32, default: bool, policy: &str) -> Value {
        json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
            "value": value, "globalDefault": default, "preemptionPolicy": policy })
    }

    #[tokio::test]
    async fn names_become_numbers() {
        let cluster = FakeCluster::new();
        let create = async |cluster: &_, spec: Value| {
            run(&Priority::default(), cluster, Write::create("pods", "Pod", pod(spec)))
                .await
                .map(|(pod, _)| pod["spec"].clone())
        };
        assert_eq!(
            create(&cluster, json!({})).await.unwrap(),
            json!({ "priority": 0, "preemptionPolicy": PREEMPT })
        );
        cluster.put("priorityclasses.scheduling.k8s.io", class("high", 1000, false, "Never"));
        assert_eq!(
            create(&cluster, json!({ "priorityClassName": "high" })).await.unwrap(),
            json!({ "priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never" })
        );
        for (spec, want) in [
            (json!({ "priorityClassName": "gone" }), "no PriorityClass with name gone was found"),
            (
                json!({ "priorityClassName": "high", "priority": 7 }),
                "the integer value of priority (7) must not be provided in pod spec; priority admission controller \
              computed 1000 from the given PriorityClass name",
            ),
            (
                json!({ "priorityClassName": "high", "preemptionPolicy": PREEMPT }),
                "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; \
              priority admission controller computed Never from the given PriorityClass name",
            ),
        ] {
            let error = create(&cluster, spec).await.unwrap_err();
            assert_eq!(error.message, format!("pods \"p\" is forbidden: {want}"));
        }
        cluster.put("priorityclasses.scheduling.k8s.io", class("usual", 5, true, PREEMPT));
        let spec = create(&cluster, json!({})).await.unwrap();
        assert_eq!((&spec["priorityClassName"], &spec["priority"]), (&json!("usual"), &json!(5)));

        let second = Write::create(
            "priorityclasses.scheduling.k8s.io",
            "PriorityClass",
            class("two", 1, true, PREEMPT),
        );
        let error = run(&Priority::default(), &cluster, second).await.unwrap_err();
        assert!(
            error.message.contains("PriorityClass usual is already marked as default"),
            "{}",
            error.message
        );
    }

    #[tokio::test]
    async fn an_update_keeps_the_priority() {
        let old = pod(json!({ "priority": 5, "preemptionPolicy": "Never" }));
        let write = Write::update("pods", "Pod", old, pod(json!({})));
        let (pod, _) = run(&Priority::default(), &FakeCluster::new(), write).await.unwrap();
        assert_eq!(pod["spec"], json!({ "priority": 5, "preemptionPolicy": "Never" }));
    }
}
