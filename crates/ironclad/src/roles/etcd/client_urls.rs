//! Where the members of the servers' own store serve the etcd v3 API: each says so of itself in the store, and all are told
//! in the list of members.
//!
//! Reads and writes one key for each member, beside the API's; whoever leads removes those of members that are none any
//! more. Not here: the list itself (`etcd`, `roles::members`).
//! Upstream: etcd's `server/etcdserver/api/membership` (the attributes of a member, which it publishes when it starts).

use std::collections::HashMap;
use std::time::Duration;

use foundation::SharedClock;
use store::{Error, Op, PutValue, Range, Store, Txn};
use store_raft::core::Standing;
use tokio::sync::watch;

/// Where they are; the member's id, hexadecimal, comes after it.
const PREFIX: &str = "/registry/ironclad/etcd/";
/// How long to wait until what could not be said, or removed, is tried again.
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
        let urls = std::str::from_utf8(&kv.value).ok()?;
        Some((member(&kv.key)?, urls.lines().map(str::to_owned).collect()))
    };
    found.iter().filter_map(one).collect()
}

/// Whose key it is.
fn member(key: &[u8]) -> Option<u64> {
    let id = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
    u64::from_str_radix(id, 16).ok()
}

/// Removes what those have said who are no members any more, for as long as this one is: when it comes to lead, and when
/// the members change while it does. So nothing is left by a crash after a removal, by a member's last word on its way out,
/// or by a backup of another cluster.
pub async fn tidy(store: &dyn Store, clock: SharedClock, mut standing: watch::Receiver<Standing>) {
    // In which term of its own, and as of which members, nothing of others is there.
    let mut tidied: Option<(u64, Vec<u64>)> = None;
    loop {
        let members = {
            let standing = standing.borrow_and_update();
            (standing.leader == standing.id).then(|| (standing.term, ids(&standing)))
        };
        let mut again = false;
        if members.is_some() && tidied != members {
            match remove_strangers(store, &standing).await {
                Ok(()) => tidied = members,
                Err(error) => {
                    tracing::debug!(%error, "what former members said cannot be removed yet");
                    again = true;
                }
            }
        }
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            () = clock.sleep(AGAIN), if again => {}
        }
    }
}

fn ids(standing: &Standing) -> Vec<u64> {
    standing.members.iter().map(|member| member.id).collect()
}

async fn remove_strangers(store: &dyn Store, standing: &watch::Receiver<Standing>) -> Result<(), Error> {
    let said = store.range(Range { keys_only: true, ..Range::prefix(PREFIX) }).await?.kvs;
    let stranger = |key: &[u8]| member(key).is_some_and(|id| !ids(&standing.borrow()).contains(&id));
    if !said.iter().any(|kv| stranger(&kv.key)) {
        return Ok(());
    }
    // Where this member stands is told after its reads are answered: only after another one is it sure to be as late as
    // what was found, so that nobody is a stranger who has just become a member.
    store.range(Range { keys_only: true, ..Range::key(PREFIX) }).await?;
    let gone = said.into_iter().filter(|kv| stranger(&kv.key)).map(|kv| Op::delete(kv.key));
    let gone: Vec<_> = gone.collect();
    if gone.is_empty() { Ok(()) } else { store.txn(Txn::of(gone)).await.map(drop) }
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

    #[tokio::test]
    async fn what_those_said_who_are_no_members_goes_when_a_leader_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let clock = SystemClock::shared();
        let engine = Engine::open(folder.path(), Default::default(), clock.clone()).unwrap();
        let standing = |term: u64, leader: u64, members: &[u64]| Standing {
            id: 1,
            term,
            leader,
            members: members.iter().map(|id| store_raft::Member { id: *id, ..Default::default() }).collect(),
            ..Standing::default()
        };
        let told = watch::Sender::new(standing(1, 2, &[1, 2]));
        let url = ["https://a:1".to_owned()];
        for member in [1, 2, 3, 4] {
            publish(&*engine, clock.clone(), member, &url).await;
        }
        // Not theirs, though it begins alike.
        engine.txn(Txn::of(vec![Op::put(format!("{PREFIX}note"), "kept")])).await.unwrap();
        let mut tidying = std::pin::pin!(tidy(&*engine, clock.clone(), told.subscribe()));
        assert!(futures::poll!(tidying.as_mut()).is_pending());
        assert_eq!(known(&*engine).await.len(), 4, "who follows removes nothing");
        let none: &[u64] = &[];
        for (term, leader, members, says, expected) in [
            // It comes to lead, after a removal that nobody tidied up after; then one is removed.
            (2, 1, &[1, 2, 4][..], none, &[1, 2, 4][..]),
            (2, 1, &[1, 2], none, &[1, 2]),
            // The last word of one that has left, while another leads; then it leads again.
            (3, 2, &[1, 2], &[4], &[1, 2, 4]),
            (4, 1, &[1, 2], none, &[1, 2]),
            // A new one.
            (4, 1, &[1, 2, 5], &[5], &[1, 2, 5]),
        ] {
            for member in says {
                publish(&*engine, clock.clone(), *member, &url).await;
            }
            told.send_replace(standing(term, leader, members));
            let found = async {
                loop {
                    let mut found: Vec<_> = known(&*engine).await.into_keys().collect();
                    found.sort();
                    if found == expected {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = &mut tidying => unreachable!("it goes on"),
                found = tokio::time::timeout(Duration::from_secs(60), found) => {
                    found.unwrap_or_else(|_| panic!("{expected:?} are not left"));
                }
            }
        }
        assert_eq!(engine.range(Range::key(format!("{PREFIX}note"))).await.unwrap().count, 1);
        drop(told);
        tidying.await;
    }
}
