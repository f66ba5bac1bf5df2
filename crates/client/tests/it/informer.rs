//! What an informer guarantees, whatever the watch goes through.

use std::sync::Arc;

use api::types::core::v1::ConfigMap;
use client::fake::FakeApi;
use client::{Change, DeleteOptions, Informer, Informers, ListOptions};
use foundation::{SystemClock, Tasks};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

struct World {
    api: FakeApi,
    informers: Informers,
    _tasks: Tasks,
}

fn world() -> World {
    let api = FakeApi::new();
    let tasks = Tasks::new("test");
    let informers = Informers::new(api.client(), &tasks, SystemClock::shared());
    World { api, informers, _tasks: tasks }
}

fn map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "a", "labels": {"value": value}},
        "data": {"value": value},
    }))
    .unwrap()
}

fn value(map: &ConfigMap) -> String {
    map.data.as_ref().and_then(|data| data.get("value").cloned()).unwrap_or_default()
}

/// What a listener has heard, as `+name=value`, `~name=value`, `-name`.
#[derive(Clone, Default)]
struct Heard(Arc<(Mutex<Vec<String>>, Notify)>);

impl Heard {
    fn listen(informer: &Informer<ConfigMap>) -> Heard {
        let heard = Heard::default();
        let inner = heard.0.clone();
        informer.listen(move |change| {
            inner.0.lock().push(describe(change));
            inner.1.notify_waiters();
        });
        heard
    }

    async fn wait(&self, expected: &[&str]) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let changed = self.0.1.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if *self.0.0.lock() == expected {
                return;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                assert_eq!(*self.0.0.lock(), expected);
            }
        }
    }
}

fn describe(change: &Change<ConfigMap>) -> String {
    let name = change.object().metadata.name.clone().unwrap_or_default();
    match change {
        Change::Added(new) => format!("+{name}={}", value(new)),
        Change::Updated { new, .. } => format!("~{name}={}", value(new)),
        Change::Deleted(_) => format!("-{name}"),
    }
}

#[tokio::test]
async fn changes_of_one_object_arrive_in_order() {
    let world = world();
    let informer = world.informers.informer::<ConfigMap>();
    informer.synced().await;
    let heard = Heard::listen(&informer);
    let client = world.api.client();
    world.api.insert(map("x", "1"));
    for next in ["2", "3"] {
        client.update(None, &map("x", next)).await.unwrap();
    }
    client.delete::<ConfigMap>(Some("a"), "x", &DeleteOptions::default()).await.unwrap();
    heard.wait(&["+x=1", "~x=2", "~x=3", "-x"]).await;
    assert!(informer.is_empty());
}

#[tokio::test]
async fn a_late_listener_first_sees_what_is_there() {
    let world = world();
    world.api.insert(map("x", "1"));
    world.api.insert(map("y", "1"));
    let informer = world.informers.informer::<ConfigMap>();
    informer.synced().await;
    let heard = Heard::listen(&informer);
    heard.wait(&["+x=1", "+y=1"]).await;
    world.api.client().update(None, &map("y", "2")).await.unwrap();
    heard.wait(&["+x=1", "+y=1", "~y=2"]).await;
}

#[tokio::test]
async fn nothing_is_missed_over_a_relist() {
    let world = world();
    for name in ["gone", "changed", "same", "replaced"] {
        world.api.insert(map(name, "1"));
    }
    let informer = world.informers.informer::<ConfigMap>();
    informer.synced().await;
    let heard = Heard::listen(&informer);
    heard.wait(&["+changed=1", "+gone=1", "+replaced=1", "+same=1"]).await;
    // Nothing of what follows reaches the watch: it is held back, then cut, and its history forgotten.
    world.api.pause();
    let client = world.api.client();
    for name in ["gone", "replaced"] {
        client.delete::<ConfigMap>(Some("a"), name, &DeleteOptions::default()).await.unwrap();
    }
    client.update(None, &map("changed", "2")).await.unwrap();
    world.api.insert(map("replaced", "2"));
    world.api.insert(map("new", "1"));
    world.api.compact(true);
    world.api.resume();
    heard
        .wait(&[
            "+changed=1",
            "+gone=1",
            "+replaced=1",
            "+same=1",
            "-gone",
            "~changed=2",
            "+new=1",
            "-replaced",
            "+replaced=2",
        ])
        .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_asked_again() {
    let world = world();
    world.api.insert(map("x", "1"));
    let mut refusals = 3;
    world.api.react(move |_| {
        refusals -= 1;
        (refusals >= 0).then(|| api::Status::service_unavailable("starting"))
    });
    let informer = world.informers.informer::<ConfigMap>();
    informer.synced().await;
    assert_eq!(informer.len(), 1);
}

#[tokio::test]
async fn the_same_informer_is_shared_and_selectors_make_others() {
    let world = world();
    world.api.insert(map("x", "1"));
    world.api.insert(map("y", "2"));
    let all = world.informers.informer::<ConfigMap>();
    let again = world.informers.informer::<ConfigMap>();
    let some = world.informers.informer_with::<ConfigMap>(ListOptions::labels("value=2"));
    all.synced().await;
    again.synced().await;
    some.synced().await;
    assert_eq!((all.len(), again.len(), some.len()), (2, 2, 1));
    let lists = world.api.calls().iter().filter(|call| !call.query.contains("watch=true")).count();
    assert_eq!(lists, 2, "one list for each distinct informer");
    // An object that stops matching is deleted from the point of view of the selector.
    let heard = Heard::listen(&some);
    world.api.client().update(None, &map("y", "3")).await.unwrap();
    heard.wait(&["+y=2", "-y"]).await;
}

#[tokio::test]
async fn a_slow_subscriber_sees_one_change_per_object() {
    let world = world();
    let informer = world.informers.informer::<ConfigMap>();
    informer.synced().await;
    let mut subscription = informer.subscribe();
    let heard = Heard::listen(&informer);
    let client = world.api.client();
    world.api.insert(map("x", "1"));
    world.api.insert(map("y", "1"));
    client.update(None, &map("x", "2")).await.unwrap();
    client.delete::<ConfigMap>(Some("a"), "y", &DeleteOptions::default()).await.unwrap();
    heard.wait(&["+x=1", "+y=1", "~x=2", "-y"]).await;
    assert_eq!(describe(&subscription.recv().await), "+x=2");
    assert!(subscription.try_recv().is_none(), "y came and went unseen");
    client.delete::<ConfigMap>(Some("a"), "x", &DeleteOptions::default()).await.unwrap();
    world.api.insert(map("x", "3"));
    heard.wait(&["+x=1", "+y=1", "~x=2", "-y", "-x", "+x=3"]).await;
    assert_eq!(describe(&subscription.recv().await), "-x", "another object of the same name");
    assert_eq!(describe(&subscription.recv().await), "+x=3");
}

#[tokio::test]
async fn indexes_follow_changes() {
    let world = world();
    world.api.insert(map("x", "1"));
    let informer = world.informers.informer::<ConfigMap>();
    informer.synced().await;
    informer.add_index("value", |map| vec![value(map)]);
    let names = |of: &str| -> Vec<String> {
        informer.by_index("value", of).iter().map(|map| map.metadata.name.clone().unwrap()).collect()
    };
    assert_eq!(names("1"), ["x"]);
    let heard = Heard::listen(&informer);
    world.api.insert(map("y", "1"));
    world.api.client().update(None, &map("x", "2")).await.unwrap();
    heard.wait(&["+x=1", "+y=1", "~x=2"]).await;
    assert_eq!((names("1"), names("2")), (vec!["y".to_owned()], vec!["x".to_owned()]));
    assert_eq!(informer.index_len("value", "1"), 1);
}
