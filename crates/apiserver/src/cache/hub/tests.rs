//! What the hub does when the store, or a forgotten resource, gets in the way.

use foundation::ManualClock;

use super::*;
use crate::storage::interposed::{Interposed, put};

fn view(generation: u64) -> View {
    let extractor = Arc::new(Extractor::new([]));
    View {
        prefix: "/registry/core/pods/".into(),
        version: "v1".into(),
        extractor,
        convert: Conversion::Same,
        generation,
    }
}

fn key(name: &str) -> String {
    format!("/registry/core/pods/{name}")
}

struct World {
    store: Arc<Interposed>,
    hub: Arc<Hub>,
    clock: ManualClock,
    _tasks: Tasks,
}

async fn world() -> World {
    let (store, clock, tasks) = (Interposed::new(), ManualClock::default(), Tasks::new("test"));
    let hub = Hub::start(store.clone(), &tasks, Arc::new(clock.clone())).await.unwrap();
    World { store, hub, clock, _tasks: tasks }
}

/// Waits until the hub has opened a watch after the one that was cut.
async fn reopened(world: &World) {
    world.clock.wait_for_sleepers(1).await;
    world.clock.advance(BACKOFF.1);
}

#[test]
fn keys_belong_to_their_resource() {
    assert_eq!(prefix_of(b"/registry/core/pods/default/x"), b"/registry/core/pods/");
    assert_eq!(prefix_of(b"/registry/core/nodes/n1"), b"/registry/core/nodes/");
    assert_eq!(prefix_of(b"other"), b"other");
}

#[tokio::test]
async fn a_cache_filled_while_the_watch_is_opened_again_misses_nothing() {
    let world = world().await;
    let hub = world.hub.clone();
    let first = hub.cache(&view(1)).await.unwrap();
    // Between the end of one watch and the start of the next somebody reads, and then somebody writes.
    let reader = hub.clone();
    world.store.before("revision", move |store| async move {
        reader.cache(&view(1)).await.expect("the cache");
        put(&*store, &key("missed")).await;
        Ok(())
    });
    world.store.cut();
    reopened(&world).await;
    let mut closed = first.changes();
    while closed.changed().await.is_ok() {}
    let now = hub.catch_up().await.unwrap();
    let cache = hub.cache(&view(1)).await.unwrap();
    assert!(cache.get("missed").is_some(), "as new as revision {now}");
    put(&*world.store.inner, &key("later")).await;
    hub.catch_up().await.unwrap();
    assert!(cache.get("later").is_some());
}

#[tokio::test]
async fn a_resource_forgotten_while_its_cache_is_filled_has_one_cache_that_lives() {
    let world = world().await;
    let (hub, forgetting) = (world.hub.clone(), world.hub.clone());
    world.store.before("range", move |_| async move {
        forgetting.forget(&view(1).prefix);
        Ok(())
    });
    let first = hub.cache(&view(1)).await.unwrap();
    let second = hub.cache(&view(1)).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second) && !first.is_closed());
    put(&*world.store.inner, &key("a")).await;
    hub.catch_up().await.unwrap();
    assert!(first.get("a").is_some());
}

#[tokio::test]
async fn the_view_of_the_newer_definition_wins() {
    let hub = world().await.hub;
    let old = hub.cache(&view(1)).await.unwrap();
    let new = hub.cache(&view(2)).await.unwrap();
    assert!(!Arc::ptr_eq(&old, &new) && old.is_closed(), "watches on the old one end");
    let late = hub.cache(&view(1)).await.unwrap();
    assert!(Arc::ptr_eq(&new, &late), "a request that began under the old definition does not bring it back");
}

#[tokio::test]
async fn a_read_that_fails_leaves_nothing_behind() {
    let world = world().await;
    world.store.before("range", |_| async { Err(store::Error::Cancelled) });
    assert!(world.hub.cache(&view(1)).await.is_err());
    assert!(world.hub.state.lock().slots.values().all(Vec::is_empty));
    assert!(world.hub.cache(&view(1)).await.is_ok());
}

#[tokio::test]
async fn a_store_that_cannot_be_watched_is_tried_again_and_said() {
    let world = world().await;
    for _ in 0..2 {
        world.store.before("watch", |_| async { Err(store::Error::Unavailable("gone")) });
    }
    let mut trouble = world.hub.trouble.subscribe();
    let cache = world.hub.cache(&view(1)).await.unwrap();
    world.store.cut();
    reopened(&world).await;
    trouble.wait_for(Option::is_some).await.unwrap();
    assert!(cache.is_closed(), "who watches is told, and may ask another server");
    assert!(world.hub.check().unwrap_err().contains("gone"));
    put(&*world.store.inner, &key("a")).await;
    assert!(world.hub.catch_up().await.is_err(), "nobody waits for what cannot come");
    for _ in 0..2 {
        reopened(&world).await;
    }
    trouble.wait_for(Option::is_none).await.unwrap();
    assert_eq!(world.hub.check(), Ok(()));
    world.hub.catch_up().await.unwrap();
    assert!(world.hub.cache(&view(1)).await.unwrap().get("a").is_some());
}

#[tokio::test]
async fn a_cache_is_read_in_without_holding_up_the_others() {
    let world = world().await;
    put(&*world.store.inner, &key("a")).await;
    let hub = Arc::downgrade(&world.hub);
    let convert: crate::cache::conversion::Convert = Arc::new(move |value: &Bytes| {
        let hub = hub.upgrade().unwrap();
        assert!(hub.state.try_lock().is_some(), "every change of every resource waits meanwhile");
        value.clone()
    });
    let view = View { convert: Conversion::Here(convert), ..view(1) };
    assert!(world.hub.cache(&view).await.unwrap().get("a").is_some());
}

#[tokio::test]
async fn a_history_that_is_gone_is_asked_for_once() {
    let world = world().await;
    for name in ["a", "b", "c"] {
        put(&*world.store.inner, &key(name)).await;
    }
    let now = world.hub.catch_up().await.unwrap();
    world.store.inner.compact(now).await.unwrap();
    let view = view(1);
    let cache = world.hub.cache(&view).await.unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..3 {
        let asked = asked.clone();
        world.store.before("watch", move |_| async move {
            asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        });
    }
    tokio::join!(
        world.hub.recall(&view, &cache, 1),
        world.hub.recall(&view, &cache, 1),
        world.hub.recall(&view, &cache, 1)
    );
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// A webhook that answers when it is let to.
struct Slow(tokio::sync::Semaphore, std::sync::atomic::AtomicUsize);

#[async_trait::async_trait]
impl crate::cache::Ask for Slow {
    async fn served(&self, stored: Vec<Bytes>) -> Result<Vec<Bytes>, Status> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.0.acquire().await.expect("it is never closed").forget();
        Ok(stored)
    }
}

#[tokio::test]
async fn a_cache_that_is_being_converted_is_filled_also_without_the_one_who_asked_first() {
    let world = world().await;
    put(&*world.store, &key("a")).await;
    let slow = Arc::new(Slow(tokio::sync::Semaphore::new(0), Default::default()));
    let asked = || slow.1.load(std::sync::atomic::Ordering::SeqCst);
    let view = View { convert: Conversion::Asked(slow.clone()), ..view(1) };
    let (hub, of) = (world.hub.clone(), view.clone());
    let first = tokio::spawn(async move { hub.cache(&of).await.map(|_| ()) });
    while asked() == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.is_err(), "its time was over");
    slow.0.add_permits(1);
    let cache = world.hub.cache(&view).await.unwrap();
    assert!(cache.get("a").is_some());
    assert_eq!(asked(), 1, "what was begun was gone on with");
}

#[tokio::test]
async fn a_resource_that_changes_faster_than_it_is_converted_is_not_converted_without_end() {
    let world = world().await;
    put(&*world.store, &key("a")).await;
    let slow = Arc::new(Slow(tokio::sync::Semaphore::new(0), Default::default()));
    let asked = || slow.1.load(std::sync::atomic::Ordering::SeqCst);
    let view = View { convert: Conversion::Asked(slow.clone()), ..view(1) };
    for (attempt, wait) in [(1, 5), (2, 10)] {
        let (hub, of) = (world.hub.clone(), view.clone());
        let waiting = tokio::spawn(async move { hub.cache(&of).await.map(|_| ()) });
        while asked() < attempt {
            tokio::task::yield_now().await;
        }
        let large = format!(r#"{{"data":"{}"}}"#, "x".repeat(PENDING / 2));
        for _ in 0..3 {
            let write = store::Op::put(key("b"), large.clone());
            world.store.inner.txn(store::Txn::of(vec![write])).await.unwrap();
        }
        // Whoever waits is told when to come again, and whoever comes before that is refused without another attempt.
        let refused = waiting.await.unwrap().unwrap_err();
        assert_eq!((refused.code, refused.retry_after_seconds()), (503, Some(wait)));
        world.clock.advance(Duration::from_secs(u64::from(wait) - 1));
        let refused = world.hub.cache(&view).await.err().unwrap();
        assert_eq!((refused.code, refused.retry_after_seconds()), (503, Some(1)));
        assert_eq!(asked(), attempt);
        world.clock.advance(Duration::from_secs(1));
        // Changes that come late would overtake the next attempt before it was begun, and after the last one they would be
        // asked for beside the list.
        world.hub.catch_up().await.unwrap();
    }
    slow.0.add_permits(1);
    let cache = world.hub.cache(&view).await.unwrap();
    assert!(cache.get("a").is_some() && cache.get("b").is_some());
}
