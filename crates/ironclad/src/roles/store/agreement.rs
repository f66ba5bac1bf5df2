//! Holds the settings of a server against those that the servers of its cluster had when they last started.
//!
//! Reads and writes one key of the store, beside the API's: what must be alike, as the server that started last had it. Done
//! before the API server is made, which would already tell agents the wrong settings. Not here: what must be alike
//! (`join::agreed`), a server that joins (`join`).
//!
//! **What is for life and what is not.** Networks and names of the cluster are what everything in it was made with: a server
//! that has others does not start. Keys and issuers are changed while servers run, one server after the other: a server
//! whose files differ from those of the one that started last says so, and goes on.

use anyhow::bail;
use serde::{Deserialize, Serialize};
use store::{Compare, Op, PutValue, Range, Store, Txn};

use crate::join::agreed::Agreed;

/// Where it is.
const KEY: &str = "/registry/ironclad/agreed";
/// Where API servers say that they are there (`apiserver::endpoints`), one key for each address.
const LEASES: &str = "/registry/masterleases/";
/// How often a write is tried while other servers start too.
const ATTEMPTS: usize = 10;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Name of the server that wrote it.
    server: String,
    agreed: Agreed,
}

/// Holds this server's settings against the cluster's, and notes them. Says which differ of those that may. `alone` says
/// that there is no other server: then it is this one that decides.
///
/// # Errors
/// Settings that must not differ; what the store says.
pub async fn check(
    store: &dyn Store,
    server: &str,
    mine: Agreed,
    alone: bool,
) -> anyhow::Result<Vec<String>> {
    let mine = Record { server: server.to_owned(), agreed: mine };
    for _ in 0..ATTEMPTS {
        let found = store.range(Range::key(KEY)).await?.kvs.into_iter().next();
        // What a later version has written, and this one does not understand, is not compared.
        let known = found.as_ref().and_then(|kv| serde_json::from_slice::<Record>(&kv.value).ok());
        let mut passing = Vec::new();
        if let Some(known) = &known {
            if known.agreed == mine.agreed {
                return Ok(passing);
            }
            let lasting = mine.agreed.lasting_differences(&known.agreed);
            if !alone && !lasting.is_empty() {
                bail!(
                    "the settings of this server are not those of its cluster, as {} has them: {}",
                    known.server,
                    lasting.join("; ")
                );
            }
            if !alone {
                let said = |difference| format!("unlike {}: {difference}", known.server);
                passing = mine.agreed.passing_differences(&known.agreed).into_iter().map(said).collect();
            }
        }
        let unchanged = match &found {
            Some(kv) => Compare::mod_revision(KEY, kv.mod_revision),
            None => Compare::absent(KEY),
        };
        let value = PutValue::Plain(serde_json::to_vec(&mine)?.into());
        let put = Op::Put { key: KEY.into(), value, lease: 0 };
        let txn = Txn { compare: vec![unchanged], success: vec![put], failure: Vec::new() };
        if store.txn(txn).await?.succeeded {
            return Ok(passing);
        }
    }
    bail!("other servers keep writing what the servers of this cluster must agree on")
}

/// Whether no other server than the one at this address says that it is there.
pub async fn is_alone(store: &dyn Store, own: std::net::IpAddr) -> anyhow::Result<bool> {
    let leases = store.range(Range { keys_only: true, ..Range::prefix(LEASES) }).await?;
    let own = own.to_string();
    Ok(leases.kvs.iter().all(|kv| &kv.key[LEASES.len()..] == own.as_bytes()))
}

#[cfg(test)]
mod tests {
    use foundation::SystemClock;
    use serde_json::json;

    use super::*;

    fn agreed(cidr: &str, encryption: &str) -> Agreed {
        serde_json::from_value(json!({
            "cluster_cidr": cidr, "service_cidr": "10.43.0.0/16", "cluster_domain": "cluster.local",
            "cluster_dns": "10.43.0.10", "encryption": encryption,
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn what_a_cluster_has_for_life_does_not_change_and_what_is_rotated_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let engine = crate::roles::store::open_embedded(folder.path(), SystemClock::shared()).unwrap();
        let (ours, others) = ("10.42.0.0/16", "10.52.0.0/16");
        for (case, server, agreed, alone, expected) in [
            ("the first", "a", agreed(ours, "1"), false, Ok(0)),
            ("alike", "b", agreed(ours, "1"), false, Ok(0)),
            (
                "another network",
                "b",
                agreed(others, "1"),
                false,
                Err("as a has them: --cluster-cidr is 10.52"),
            ),
            ("it was not noted", "b", agreed(ours, "1"), false, Ok(0)),
            ("a new key", "b", agreed(ours, "2"), false, Ok(1)),
            ("the next one follows", "c", agreed(ours, "2"), false, Ok(0)),
            ("one was forgotten", "a", agreed(ours, "1"), false, Ok(1)),
            ("alone it decides", "a", agreed(others, "3"), true, Ok(0)),
            ("who comes back later", "b", agreed(ours, "3"), false, Err("--cluster-cidr is 10.42")),
        ] {
            let found = check(&*engine, server, agreed, alone).await.map_err(|error| error.to_string());
            match (found, expected) {
                (Err(said), Err(part)) => assert!(said.contains(part), "{case}: {said}"),
                (found, expected) => {
                    assert_eq!(found.map(|said| said.len()), expected.map_err(str::to_owned), "{case}");
                }
            }
        }
        engine.shutdown();
    }

    #[tokio::test]
    async fn other_servers_are_known_by_their_leases() {
        let folder = tempfile::tempdir().unwrap();
        let engine = crate::roles::store::open_embedded(folder.path(), SystemClock::shared()).unwrap();
        let put = |ip: &str| {
            let (key, value) = (format!("{LEASES}{ip}").into(), PutValue::Plain("x".into()));
            Txn::of(vec![Op::Put { key, value, lease: 0 }])
        };
        let own = "10.0.0.1".parse().unwrap();
        assert!(is_alone(&*engine, own).await.unwrap());
        engine.txn(put("10.0.0.1")).await.unwrap();
        assert!(is_alone(&*engine, own).await.unwrap());
        engine.txn(put("10.0.0.11")).await.unwrap();
        assert!(!is_alone(&*engine, own).await.unwrap());
        engine.shutdown();
    }
}
