//! The runner's guarantees, over the fake API: a controller that keeps as many pods as a ConfigMap says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::meta::{ObjectMeta, OwnerReference};
use api::types::core::v1::{ConfigMap, Event, Pod};
use client::fake::FakeApi;
use client::{DeleteOptions, Endpoint, EventRecorder, EventType, Informers, RecorderOptions};
use foundation::{ManualClock, SharedClock, SystemClock, Tasks};
use jiff::Timestamp;
use reconcile::{
    Action, Controller, EventSpec, Key, Plan, Runner, RunnerOptions, Trigger, Verb, View, Watches,
};
use serde_json::json;
use tokio::sync::mpsc;

/// Keeps `data.pods` pods for each ConfigMap; says each plan.
struct Keeper {
    plans: mpsc::UnboundedSender<(String, usize)>,
    trigger: Arc<std::sync::OnceLock<Trigger>>,
    look_again: Option<Timestamp>,
}

impl Controller for Keeper {
    const NAME: &'static str = "keeper";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<ConfigMap>();
        watches.owned::<Pod, ConfigMap>();
        let _ = self.trigger.set(watches.trigger());
    }

    fn plan(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(map) = view.get_key::<ConfigMap>(key) else { return plan };
        let have = view.controlled_by::<Pod>(map.metadata.uid.as_deref().unwrap()).len();
        self.plans.send((key.to_string(), have)).unwrap();
        assert_ne!(key.name(), "bad", "a plan that panics");
        let wanted: usize = map.data.as_ref().unwrap()["pods"].parse().unwrap();
        let pod = Pod {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", key.name())),
                namespace: Some(key.namespace().to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "ConfigMap".to_owned(),
                    name: key.name().to_owned(),
                    uid: map.metadata.uid.clone().unwrap(),
                    controller: Some(true),
                    block_owner_deletion: None,
                }]),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        };
        let create = Action::create(&pod)
            .with_success(EventSpec::new(&*map, EventType::Normal, "Created", "Created pod: {name}"))
            .with_failure(EventSpec::new(&*map, EventType::Warning, "Failed", "Error creating: {error}"));
        plan.slow_start(vec![create; wanted.saturating_sub(have)]);
        if let Some(at) = self.look_again.filter(|at| *at > now) {
            plan.requeue_at(at);
        }
        plan
    }
}

struct World {
    api: FakeApi,
    plans: mpsc::UnboundedReceiver<(String, usize)>,
    trigger: Arc<std::sync::OnceLock<Trigger>>,
    _tasks: Tasks,
}

fn start_with(api: FakeApi, clock: SharedClock, look_again: Option<Timestamp>) -> World {
    let tasks = Tasks::new("test");
    let informers = Informers::new(api.client(), &tasks, SystemClock::shared());
    let recorder =
        EventRecorder::new(api.client(), &tasks, SystemClock::shared(), RecorderOptions::component("keeper"));
    let runner = Runner::new(RunnerOptions { informers, tasks: tasks.clone(), clock, recorder });
    let (sender, plans) = mpsc::unbounded_channel();
    let trigger = Arc::default();
    runner.start(Keeper { plans: sender, trigger: Arc::clone(&trigger), look_again }, api.client());
    World { api, plans, trigger, _tasks: tasks }
}

fn start(api: FakeApi) -> World {
    start_with(api, SystemClock::shared(), None)
}

fn map(name: &str, pods: usize) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "a"},
        "data": {"pods": pods.to_string()},
    }))
    .unwrap()
}

#[tokio::test]
async fn what_is_wanted_comes_to_be_and_events_tell_of_it() {
    let world = start(FakeApi::new());
    world.api.insert(map("x", 3));
    let pods = world.api.wait_for::<Pod>(|pods| pods.len() == 3).await;
    let events = world.api.wait_for::<Event>(|events| events.len() == 3).await;
    for pod in &pods {
        let message = format!("Created pod: {}", pod.metadata.name.as_deref().unwrap());
        assert!(events.iter().any(|event| event.message.as_deref() == Some(&message)), "{message}");
    }
    let event = &events[0];
    assert_eq!(event.source.as_ref().unwrap().component.as_deref(), Some("keeper"));
    assert_eq!(event.involved_object.kind.as_deref(), Some("ConfigMap"));
}

#[tokio::test]
async fn a_cache_that_lags_never_leads_to_a_second_creation() {
    let api = FakeApi::new();
    let pause = api.clone();
    api.react(move |call| {
        if call.path.ends_with("/pods") && call.method == http::Method::POST {
            pause.pause();
        }
        None
    });
    let mut world = start(api);
    world.api.insert(map("x", 1));
    assert_eq!(world.plans.recv().await, Some(("a/x".to_owned(), 0)));
    world.api.wait_for::<Pod>(|pods| pods.len() == 1).await;
    // The pod is there and the cache does not show it. Waking the key must not plan it again.
    for _ in 0..10 {
        world.trigger.get().unwrap().wake(Key::new("a", "x"));
        tokio::task::yield_now().await;
    }
    assert!(world.plans.try_recv().is_err());
    world.api.react(|_| None);
    world.api.resume();
    assert_eq!(world.plans.recv().await, Some(("a/x".to_owned(), 1)));
    assert_eq!(world.api.objects::<Pod>().len(), 1);
}

#[tokio::test]
async fn a_batch_stops_growing_when_one_fails() {
    let api = FakeApi::new();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    // The first three are allowed: batches of 1 and 2; then the quota is used up.
    api.react(move |call| {
        let create = call.path.ends_with("/pods") && call.method == http::Method::POST;
        let allowed = !create || counted.fetch_add(1, Ordering::SeqCst) < 3;
        (!allowed)
            .then(|| api::Status::forbidden(&api::GroupResource::new("", "pods"), "x", "exceeded quota"))
    });
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let world = start_with(api, clock, None);
    world.api.insert(map("x", 100));
    world.api.wait_for::<Event>(|events| events.iter().any(|e| e.reason.as_deref() == Some("Failed"))).await;
    // The pods that were created wake the key once more, and that run begins with a batch of one again.
    let tries = tries.load(Ordering::SeqCst);
    assert!(
        (1 + 2 + 4..=1 + 2 + 4 + 1).contains(&tries),
        "{tries}: the batch of four failed and none of eight followed"
    );
}

#[tokio::test]
async fn a_failed_key_comes_back_with_growing_waits() {
    let api = FakeApi::new();
    api.react(|call| {
        let create = call.path.ends_with("/pods") && call.method == http::Method::POST;
        create.then(|| api::Status::internal("no"))
    });
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let mut world = start_with(api, clock.clone(), None);
    world.api.insert(map("x", 1));
    assert!(world.plans.recv().await.is_some());
    for wait in [5, 10, 20, 40] {
        clock.wait_for_sleepers(1).await;
        let before = clock.next_deadline().unwrap();
        assert!(before <= Duration::from_millis(wait), "{before:?} {wait}");
        clock.advance(Duration::from_millis(wait - 1));
        tokio::task::yield_now().await;
        assert!(world.plans.try_recv().is_err(), "not before {wait} ms");
        clock.advance(Duration::from_millis(1));
        assert!(world.plans.recv().await.is_some());
    }
}

#[tokio::test]
async fn a_plan_that_panics_costs_nobody_else_anything() {
    let mut world = start(FakeApi::new());
    world.api.insert(map("bad", 1));
    assert_eq!(world.plans.recv().await, Some(("a/bad".to_owned(), 0)));
    world.api.insert(map("good", 1));
    let pods = world.api.wait_for::<Pod>(|pods| !pods.is_empty()).await;
    assert!(pods[0].metadata.name.as_deref().unwrap().starts_with("good-"));
}

/// Tries to empty two kinds, and asks for two paths; says what came of it.
struct Asker(mpsc::UnboundedSender<Vec<String>>);

impl Controller for Asker {
    const NAME: &'static str = "asker";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.primary::<ConfigMap>();
    }

    fn plan(&self, view: &View<'_>, _: &Key, _: Timestamp) -> Plan {
        const PATHS: [&str; 2] = ["/api/v1/namespaces/a/pods", "/api/v1/namespaces/a/secrets"];
        let mut plan = Plan::nothing();
        if view.answers().is_empty() {
            for (path, plural) in PATHS.iter().zip(["pods", "secrets"]) {
                let all = Verb::DeleteCollection(DeleteOptions::default());
                plan.attempts.push(Action::dynamic(Endpoint::new("", "v1", plural), Some("a"), "", all));
                plan.ask(*path);
            }
        } else {
            let code = |path: &&str| match view.answers().get(path) {
                None => "not asked".to_owned(),
                Some(Ok(_)) => "ok".to_owned(),
                Some(Err(status)) => status.code.to_string(),
            };
            let refused = |path: &&str| view.answers().refusal(path).map(|status| status.code.to_string());
            let refused = PATHS.iter().map(|path| refused(path).unwrap_or_default());
            self.0.send(PATHS.iter().map(code).chain(refused).collect()).unwrap();
        }
        plan
    }
}

#[tokio::test]
async fn an_error_of_the_server_is_an_answer_and_keeps_nothing_else() {
    let api = FakeApi::new();
    api.react(|call| call.path.ends_with("/pods").then(|| api::Status::service_unavailable("down")));
    let tasks = Tasks::new("test");
    let informers = Informers::new(api.client(), &tasks, SystemClock::shared());
    let recorder =
        EventRecorder::new(api.client(), &tasks, SystemClock::shared(), RecorderOptions::component("asker"));
    let clock = SystemClock::shared();
    let runner = Runner::new(RunnerOptions { informers, tasks: tasks.clone(), clock, recorder });
    let (sender, mut said) = mpsc::unbounded_channel();
    runner.start(Asker(sender), api.client());
    api.insert(map("x", 0));
    assert_eq!(said.recv().await.unwrap(), ["503", "ok", "503", ""]);
}

#[tokio::test]
async fn requeue_at_fires_once_at_its_time() {
    let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
    let at = Timestamp::from_second(60).unwrap();
    let mut world = start_with(FakeApi::new(), clock.clone(), Some(at));
    world.api.insert(map("x", 0));
    assert!(world.plans.recv().await.is_some());
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(59));
    tokio::task::yield_now().await;
    assert!(world.plans.try_recv().is_err());
    clock.advance(Duration::from_secs(2));
    assert!(world.plans.recv().await.is_some());
    clock.advance(Duration::from_secs(1000));
    tokio::task::yield_now().await;
    assert!(world.plans.try_recv().is_err());
}
