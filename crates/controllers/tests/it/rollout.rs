//! A Deployment from creation over a rolling update to deletion, with every controller running.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use api::meta::Time;
use api::types::apps::v1::{Deployment, ReplicaSet};
use api::types::core::v1::{Event, Pod};
use client::fake::FakeApi;
use client::{DeleteOptions, EventRecorder, Informers, Patch, RecorderOptions};
use controllers::Options;
use foundation::{SystemClock, Tasks};
use serde_json::json;

/// All controllers but those that need discovery, which the fake has not.
fn start(api: &FakeApi, tasks: &Tasks) -> Informers {
    let clock = SystemClock::shared();
    let informers = Informers::new(api.client(), tasks, clock.clone());
    let client = api.client();
    controllers::start(&Options {
        informers: informers.clone(),
        tasks: tasks.clone(),
        clock: clock.clone(),
        recorder: EventRecorder::new(api.client(), tasks, clock, RecorderOptions::component("controllers")),
        client_for: Arc::new(move |_| client.clone()),
        root_ca_pem: "pem".to_owned(),
        sign: Arc::new(|_, _| Err(pki::Error::Crypto("sign anything in this test"))),
        sign_token: Arc::new(|_| Err("no tokens in this test".to_owned())),
        cluster_cidrs: vec!["10.42.0.0/16".to_owned()],
        node_cidr_mask_v4: 24,
        node_cidr_mask_v6: 64,
        api_server_names: Vec::new(),
        signing_duration: controllers::certificates::signing::LIFE,
        disabled: BTreeSet::from(["garbage-collector".to_owned(), "namespace".to_owned()]),
    });
    informers
}

/// Makes every new pod ready, and notes the fewest ready pods there have been since the last reset.
fn kubelet(api: &FakeApi, informers: &Informers, fewest: Arc<AtomicI64>) {
    let pods = informers.informer::<Pod>();
    let mut changes = pods.subscribe();
    let client = api.client();
    tokio::spawn(async move {
        loop {
            let change = changes.recv().await;
            let pod = change.object();
            let ready = pods
                .list()
                .iter()
                .filter(|pod| {
                    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
                    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
                })
                .count() as i64;
            fewest.fetch_min(ready, Ordering::SeqCst);
            if pod.status.is_some() || change.is_deleted() {
                continue;
            }
            let now = Time(jiff::Timestamp::now());
            let patch = Patch::Merge(json!({"status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": now},
            ]}}));
            let (namespace, name) = (pod.metadata.namespace.clone(), pod.metadata.name.clone().unwrap());
            // The pod may be deleted already.
            let _ = client.patch_status::<Pod>(namespace.as_deref(), &name, &patch).await;
        }
    });
}

fn deployment() -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "v1"}]},
            },
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
        },
    }))
    .unwrap()
}

fn rolled_out(deployments: &[Deployment], generation: i64) -> bool {
    deployments.iter().any(|deployment| {
        let Some(status) = &deployment.status else { return false };
        let progressed = status.conditions.iter().flatten().any(|condition| {
            condition.type_.as_deref() == Some("Progressing")
                && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
        });
        status.observed_generation == Some(generation)
            && status.updated_replicas == Some(4)
            && status.replicas == Some(4)
            && status.available_replicas == Some(4)
            && progressed
    })
}

#[tokio::test]
async fn a_deployment_rolls_without_losing_its_pods() {
    let (api, tasks, fewest) = (FakeApi::new(), Tasks::new("test"), Arc::new(AtomicI64::new(0)));
    let informers = start(&api, &tasks);
    kubelet(&api, &informers, fewest.clone());
    api.insert(deployment());
    api.wait_for::<Deployment>(|all| rolled_out(all, 1)).await;
    assert_eq!(api.objects::<Pod>().len(), 4);

    fewest.store(i64::MAX, Ordering::SeqCst);
    let image =
        Patch::Merge(json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}}));
    api.client().patch::<Deployment>(Some("default"), "web", &image).await.unwrap();
    api.wait_for::<Deployment>(|all| rolled_out(all, 2)).await;
    let images: BTreeSet<_> = api
        .objects::<Pod>()
        .into_iter()
        .filter_map(|pod| pod.spec?.containers.first()?.image.clone())
        .collect();
    assert_eq!(images, BTreeSet::from(["v2".to_owned()]));
    assert!(fewest.load(Ordering::SeqCst) >= 3, "maxUnavailable is 1, and {fewest:?} were left");
    let revision = |deployment: &Deployment| {
        deployment
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get("deployment.kubernetes.io/revision").cloned())
    };
    assert_eq!(revision(&api.objects::<Deployment>()[0]).as_deref(), Some("2"));
    assert_eq!(api.objects::<ReplicaSet>().len(), 2, "the old one is kept for a rollback");
    let events = api.objects::<Event>();
    let scaled: Vec<_> = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("ScalingReplicaSet"))
        .filter_map(|event| event.message.clone())
        .collect();
    assert!(scaled.iter().any(|message| message.ends_with("from 0 to 4")), "{scaled:?}");

    api.client().delete::<Deployment>(Some("default"), "web", &DeleteOptions::default()).await.unwrap();
    tasks.shutdown(std::time::Duration::from_secs(5)).await;
}
