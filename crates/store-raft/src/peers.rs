//! The members of a store, as the etcd v3 API is told of them, and as whoever administers them has to know.
//!
//! Reads where the member stands; removes members and moves the lead when it is asked to. Where members serve clients is for
//! whoever makes one to say. Not here: the API (`etcd`), what the members agree on (`core`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use foundation::SharedClock;
use futures::future::BoxFuture;
use store::Error;

use crate::RaftStore;
use crate::core::Standing;

/// How long nobody may be known to lead before a client that wants a leader is sent away: three times what etcd gives an
/// election, as etcd does.
const LEADERLESS: Duration = Duration::from_secs(3);

/// Finds where members serve clients, by their ids, as far as they have said so.
pub type ClientUrls =
    Box<dyn Fn(Arc<RaftStore>) -> BoxFuture<'static, HashMap<u64, Vec<String>>> + Send + Sync>;

/// The members of a store, as one of them knows them.
pub struct Peers {
    store: Arc<RaftStore>,
    client_urls: ClientUrls,
    clock: SharedClock,
}

impl Peers {
    /// Those that keep a store.
    pub fn new(store: Arc<RaftStore>, client_urls: ClientUrls, clock: SharedClock) -> Self {
        Self { store, client_urls, clock }
    }
}

/// Why a member may not be removed, if that is known here.
pub fn objection(standing: &Standing, id: u64) -> Option<&'static str> {
    if standing.members.len() == 1 {
        return Some("it is the only member: without it there is no store");
    }
    if !keeps_majority(standing, id) {
        return Some("most of those that would be left are not heard of: remove these first");
    }
    None
}

/// Whether a majority of the voters that would be left is heard of. Only who leads hears of the others; anybody else does
/// not object.
fn keeps_majority(standing: &Standing, id: u64) -> bool {
    if standing.leader != standing.id {
        return true;
    }
    let left = standing.voters.iter().filter(|voter| **voter != id);
    let heard = left.clone().filter(|voter| !standing.silent.contains(voter)).count();
    heard > left.count() / 2
}

#[async_trait]
impl etcd::Members for Peers {
    fn standing(&self) -> etcd::Standing {
        let standing = self.store.standing().borrow().clone();
        let known = |member: &crate::Member| etcd::Known {
            id: member.id,
            name: member.name.clone(),
            peer_url: format!("https://{}", member.address),
            is_learner: !standing.voters.contains(&member.id),
        };
        etcd::Standing {
            id: standing.id,
            cluster: self.store.identity().cluster,
            leader: standing.leader,
            term: standing.term,
            indexes: (standing.committed, standing.applied),
            members: standing.members.iter().map(known).collect(),
        }
    }

    async fn client_urls(&self) -> HashMap<u64, Vec<String>> {
        (self.client_urls)(self.store.clone()).await
    }

    async fn move_leader(&self, id: u64) -> Result<(), Error> {
        self.store.move_leader(id).await
    }

    fn leader_changes(&self) -> u64 {
        self.store.leader_changes()
    }

    async fn leaderless(&self) {
        let mut standing = self.store.standing();
        while standing.wait_for(|standing| standing.leader == 0).await.is_ok() {
            tokio::select! {
                () = self.clock.sleep(LEADERLESS) => return,
                _ = standing.wait_for(|standing| standing.leader != 0) => {}
            }
        }
    }

    async fn remove(&self, id: u64) -> Result<(), Error> {
        let objection = objection(&self.store.standing().borrow(), id);
        match objection {
            Some(objection) => Err(Error::Invalid(objection)),
            None => self.store.remove_member(id).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_knows_whom_the_majority_needs() {
        let standing = |silent: &[u64]| Standing {
            id: 1,
            leader: 1,
            voters: vec![1, 2, 3],
            silent: silent.to_vec(),
            ..Standing::default()
        };
        for (silent, removed, expected) in
            [(&[][..], 2, true), (&[3], 3, true), (&[3], 2, false), (&[3], 1, false), (&[], 9, true)]
        {
            assert_eq!(keeps_majority(&standing(silent), removed), expected, "{silent:?} {removed}");
        }
        assert!(keeps_majority(&Standing { leader: 2, ..standing(&[]) }, 3), "it cannot know");
    }
}
