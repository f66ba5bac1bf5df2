//! The members of a store, as the etcd v3 API is told of them, and as whoever administers them has to know.
//!
//! Reads where the member stands; removes members and moves the lead when it is asked to. Where members serve clients is for
//! whoever makes one to say. Not here: the API (`etcd`), what the members agree on (`core`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd::NotRemoved;
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

/// Why a member may not be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// Nobody else votes.
    #[error("it is the only member that votes: without it there is no store")]
    Alone,
    /// Others would have to be heard of.
    #[error("most of those that would be left are not heard of: remove these first")]
    Unheard,
}

/// Why a member may not be removed, if that is known here.
pub fn objection(standing: &Standing, id: u64) -> Option<Objection> {
    if standing.voters == [id] {
        return Some(Objection::Alone);
    }
    (!keeps_majority(standing, id)).then_some(Objection::Unheard)
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

    async fn remove(&self, id: u64) -> Result<(), NotRemoved> {
        let objection = objection(&self.store.standing().borrow(), id);
        match objection {
            Some(Objection::Alone) => Err(NotRemoved::NobodyLeft),
            Some(Objection::Unheard) => Err(NotRemoved::Unheard),
            None => Ok(self.store.remove_member(id).await?),
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
        for (silent, removed, expected) in [
            (&[][..], 2, None),
            (&[3], 3, None),
            (&[3], 2, Some(Objection::Unheard)),
            (&[3], 1, Some(Objection::Unheard)),
            (&[], 9, None),
        ] {
            assert_eq!(objection(&standing(silent), removed), expected, "{silent:?} {removed}");
        }
        assert_eq!(objection(&Standing { leader: 2, ..standing(&[]) }, 3), None, "it cannot know");
        let alone = Standing { voters: vec![1], ..standing(&[2]) };
        assert_eq!(objection(&alone, 1), Some(Objection::Alone));
        assert_eq!(objection(&alone, 2), None, "who only learns is not needed");
    }
}
