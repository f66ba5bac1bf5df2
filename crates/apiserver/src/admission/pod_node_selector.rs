//! Keeps the pods of a namespace to the nodes that the namespace may use: the selector of its annotation, or the one
//! for all namespaces, becomes part of theirs; the configuration may bound what they select at all.
//! Reads Namespaces.
//! Upstream: plugin/pkg/admission/podnodeselector.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::types::core::v1::Namespace;
use api::{Status, names};
use async_trait::async_trait;
use serde_json::Value;

use super::json::find;
use super::{Operation, Plugin, Request};
use crate::cluster::ClusterState;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// Labels by key.
type Labels = BTreeMap<String, String>;

/// Which nodes namespaces may use.
#[derive(Clone, Debug, Default)]
pub struct NodeSelectors {
    /// For namespaces without an annotation.
    pub usual: Labels,
    /// What pods of a namespace may select at most; those that are not here may select anything.
    pub bounds: BTreeMap<String, Labels>,
}

impl NodeSelectors {
    /// Reads `key=value,key=value`.
    pub fn parse(text: &str) -> Result<Labels, String> {
        let mut labels = Labels::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(format!("invalid selector: {pair}"));
            };
            let (key, value) = (key.trim(), value.trim());
            if let Some(problem) =
                names::is_qualified_name(key).into_iter().chain(names::is_label_value(value)).next()
            {
                return Err(format!("invalid selector: {pair}: {problem}"));
            }
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(labels)
    }
}

pub(super) struct PodNodeSelector {
    selectors: NodeSelectors,
}

impl PodNodeSelector {
    pub(super) fn new(selectors: NodeSelectors) -> Self {
        Self { selectors }
    }

    /// What pods of the namespace get.
    async fn of_namespace(
        &self,
        request: &Request<'_>,
        cluster: &dyn ClusterState,
    ) -> Result<Labels, Status> {
        let found: Option<Namespace> = find(cluster, "", "namespaces", "", request.namespace).await?;
        let Some(namespace) = found else {
            return Err(request.forbidden(format!("namespace {} does not exist", request.namespace)));
        };
        let annotations = namespace.metadata.annotations.unwrap_or_default();
        match annotations.get(ANNOTATION) {
            Some(text) => NodeSelectors::parse(text).map_err(|problem| request.forbidden(problem)),
            None => Ok(self.selectors.usual.clone()),
        }
    }
}

fn selected(pod: &Value) -> Labels {
    let selector = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
    selector.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn conflict(a: &Labels, b: &Labels) -> bool {
    a.iter().any(|(key, value)| b.get(key).is_some_and(|other| other != value))
}

fn concerns(request: &Request<'_>) -> bool {
    request.is("", "pods", "")
}

const CONFLICT: &str = "pod node label selector conflicts with its namespace node label selector";

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !concerns(request) {
            return Ok(());
        }
        let wanted = self.of_namespace(request, &**cluster).await?;
        let Some(pod) = request.object.as_deref_mut() else { return Ok(()) };
        let own = selected(&pod.0);
        if conflict(&wanted, &own) {
            return Err(request.forbidden(CONFLICT));
        }
        if !wanted.is_empty() {
            let merged: Labels = wanted.into_iter().chain(own).collect();
            pod.0["spec"]["nodeSelector"] = serde_json::to_value(merged).map_err(Status::internal)?;
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &mut Request<'_>,
        cluster: &Arc<dyn ClusterState>,
    ) -> Result<(), Status> {
        if !concerns(request) {
            return Ok(());
        }
        let Some(own) = request.object.as_deref().map(|pod| selected(&pod.0)) else { return Ok(()) };
        if conflict(&self.of_namespace(request, &**cluster).await?, &own) {
            return Err(request.forbidden(CONFLICT));
        }
        let bound = self.selectors.bounds.get(request.namespace).filter(|bound| !bound.is_empty());
        match bound {
            Some(bound) if !own.iter().all(|(key, value)| bound.get(key) == Some(value)) => {
                Err(request.forbidden("pod node label selector labels conflict with its namespace whitelist"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Write, pod, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn pods_get_the_selector_of_their_namespace() {
        let selectors = NodeSelectors {
            usual: NodeSelectors::parse("env=test").unwrap(),
            bounds: BTreeMap::from([(
                "a".to_owned(),
                NodeSelectors::parse("env=test, env=prod,disk=ssd").unwrap(),
            )]),
        };
        let bounded = selectors.bounds["a"].clone();
        assert_eq!(bounded.get("env").map(String::as_str), Some("prod"), "the last of a key counts");
        let free = NodeSelectors { bounds: BTreeMap::new(), ..selectors.clone() };
        for (selectors, annotation, own, wanted) in [
            (&free, None, json!({}), Ok(json!({ "env": "test" }))),
            (&free, None, json!({ "disk": "ssd" }), Ok(json!({ "disk": "ssd", "env": "test" }))),
            (&free, Some("env=prod"), json!({}), Ok(json!({ "env": "prod" }))),
            (&free, Some(""), json!({ "env": "x" }), Ok(json!({ "env": "x" }))),
            (&free, None, json!({ "env": "prod" }), Err(CONFLICT)),
            (&free, Some("env"), json!({}), Err("invalid selector: env")),
            (
                &selectors,
                Some("env=prod"),
                json!({ "disk": "ssd" }),
                Ok(json!({ "disk": "ssd", "env": "prod" })),
            ),
            (
                &selectors,
                Some("env=prod"),
                json!({ "disk": "hdd" }),
                Err("pod node label selector labels conflict with its namespace whitelist"),
            ),
        ] {
            let cluster = FakeCluster::new();
            let annotations = annotation.map(|text| json!({ ANNOTATION: text }));
            cluster.put("namespaces", json!({ "metadata": { "name": "a", "annotations": annotations } }));
            let write = Write::create("pods", "Pod", pod(json!({ "nodeSelector": own })));
            let found = run(&PodNodeSelector::new(selectors.clone()), &cluster, write).await;
            let found = found.map(|(pod, _)| pod["spec"]["nodeSelector"].clone());
            let wanted = wanted.map_err(|why| format!("pods \"p\" is forbidden: {why}"));
            assert_eq!(found.map_err(|status| status.message), wanted, "{annotation:?} {own}");
        }
    }
}
