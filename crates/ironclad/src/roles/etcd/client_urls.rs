//! Where the members of the servers' own store serve the etcd v3 API: each says so of itself in the store, and all are told
//! in the list of members.
//!
//! Reads and writes one key for each member, beside the API's. Not here: the list itself (`etcd`, `roles::members`).
//! Upstream: etcd's `server/etcdserver/api/membership` (the attributes of a member, which it publishes when it starts).

use std::collections::HashMap;
use std::time::Duration;

use foundation::SharedClock;
use store::{Error, Op, PutValue, Range, Store, Txn};

/// Where they are; the member's id, hexadecimal, comes after it.
const PREFIX: &str = "/registry/ironclad/etcd/";
/// How long to wait until what could not be said is said again.
const AGAIN: Duration = Duration::from_secs(5);

/// Has everybody know where a member is reached, or that it is not. Tries until it is known.
pub async fn publish(store: &dyn Store, clock: SharedClock, member: u64, urls: &[String]) {
    while let Err(error) = say(store, member, urls).await {
        tracing::debug!(%error, "where this member serves the etcd API cannot be said yet");
        clock.sleep(AGAIN).await;
    }
}

async fn say(store: &dyn Store, member: u64, urls: &[String]) -> Result<(), Error> {
    let key = format!("{PREFIX}{member:016x}");
    let said = urls.join("\n");
    let found = store.range(Range::key(key.clone())).await?.kvs.into_iter().next();
    let op = match found {
        None if said.is_empty() => return Ok(()),
        Some(known) if known.value == said => return Ok(()),
        Some(_) if said.is_empty() => Op::delete(key),
        _ => Op::Put { key: key.into(), value: PutValue::Plain(said.into()), lease: 0 },
    };
    store.txn(Txn::of(vec![op])).await.map(drop)
}

/// What is known of where members are reached, also where no majority is. Nothing, where it cannot be read: the list of
/// members is worth more than their URLs.
pub async fn known(store: &dyn Store) -> HashMap<u64, Vec<String>> {
    let found = store.range(Range::prefix(PREFIX).serializable()).await;
    let found = found.map(|found| found.kvs).unwrap_or_else(|error| {
        tracing::debug!(%error, "where members serve the etcd API cannot be read");
        Vec::new()
    });
    let one = |kv: &store::KeyValue| {
        let id = std::str::from_utf8(&kv.key).ok()?.strip_prefix(PREFIX)?;
        let urls = std::str::from_utf8(&kv.value).ok()?;
        Some((u64::from_str_radix(id, 16).ok()?, urls.lines().map(str::to_owned).collect()))
    };
    found.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use foundation::SystemClock;
    use store::embedded::Engine;

    use super::*;

    #[tokio::test]
    async fn each_member_says_where_it_is_and_no_more_when_nothing_changes() {
        let folder = tempfile::tempdir().unwrap();
        let clock = SystemClock::shared();
        let engine = Engine::open(folder.path(), Default::default(), clock.clone()).unwrap();
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        let (one, two) = (urls(&["https://10.0.0.1:2379"]), urls(&["https://a:1", "https://b:2"]));
        for (member, said, writes) in [
            (1, &one, 1),
            (0xabc, &two, 1),
            (1, &one, 0),
            (1, &two, 1),
            (1, &urls(&[]), 1),
            (7, &urls(&[]), 0),
        ] {
            let before = engine.revision().await.unwrap();
            publish(&*engine, clock.clone(), member, said).await;
            assert_eq!(engine.revision().await.unwrap(), before + writes, "{member} {said:?}");
            let found = known(&*engine).await;
            assert_eq!(found.get(&member).map_or(&[][..], Vec::as_slice), said.as_slice());
        }
        assert_eq!(known(&*engine).await, HashMap::from([(0xabc, two)]));
        engine.shutdown();
        assert_eq!(known(&*engine).await, HashMap::new(), "what cannot be read is not known");
    }
}
