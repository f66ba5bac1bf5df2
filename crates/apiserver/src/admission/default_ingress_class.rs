//! Gives an Ingress that names no class the cluster's default one.
//! Reads IngressClasses.
//! Upstream: plugin/pkg/admission/network/defaultingressclass.

use std::sync::Arc;

use api::Status;
use api::types::networking::v1::IngressClass;
use async_trait::async_trait;

use super::default_storage_class::newest;
use super::{Operation, Plugin, Request, json};
use crate::cluster::ClusterState;

const MARK: &str = "ingressclass.kubernetes.io/is-default-class";
/// How an Ingress named its class before there was a field.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

pub(super) struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request<'_>, cluster: &Arc<dyn ClusterState>) -> Result<(), Status> {
        if !request.is("networking.k8s.io", "ingresses", "") {
            return Ok(());
        }
        let Some(ingress) = request.object.as_deref_mut() else { return Ok(()) };
        if !ingress.0["spec"]["ingressClassName"].is_null() || ingress.annotation(OLD_CLASS).is_some() {
            return Ok(());
        }
        let classes: Vec<IngressClass> =
            json::list(&**cluster, "networking.k8s.io", "ingressclasses", "").await?;
        if let Some(name) = newest(classes.into_iter().map(|class| class.metadata), &[MARK]) {
            ingress.0["spec"]["ingressClassName"] = name.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Write, run};
    use super::*;
    use crate::authz::fake::FakeCluster;

    #[tokio::test]
    async fn the_default_class_is_filled_in() {
        let cluster = FakeCluster::new();
        cluster.put(
            "ingressclasses.networking.k8s.io",
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
                "metadata": { "name": "nginx", "annotations": { MARK: "true" } }
            }),
        );
        for (metadata, want) in [
            (json!({ "name": "i", "namespace": "a" }), json!("nginx")),
            (json!({ "name": "i", "namespace": "a", "annotations": { OLD_CLASS: "x" } }), json!(null)),
        ] {
            let ingress = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": metadata, "spec": {} });
            let write = Write::create("ingresses.networking.k8s.io", "Ingress", ingress);
            let (ingress, _) = run(&DefaultIngressClass, &cluster, write).await.unwrap();
            assert_eq!(ingress["spec"].get("ingressClassName").cloned().unwrap_or_default(), want);
        }
    }
}
