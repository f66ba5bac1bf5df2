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
use store::{Error, unavailable};

use crate::RaftStore;

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

/// Why a member is not removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Objection {
    /// Nobody else votes.
    #[error("it is the only member that votes: without it there is no store")]
    Alone,
    /// Others would have to be heard of.
    #[error("most of those that would be left are not heard of: remove these first")]
    Unheard,
    /// Something else.
    #[error(transparent)]
    Store(Error),
}

/// Removes a member for good, unless those that would be left could not agree on anything: whichever member is asked.
///
/// # Errors
/// Why it is not removed.
pub async fn remove(store: &RaftStore, id: u64) -> Result<(), Objection> {
    if store.standing().borrow().voters == [id] {
        return Err(Objection::Alone);
    }
    store.remove_member(id).await.map_err(|error| match error {
        Error::Unavailable(unavailable::UNHEARD) => Objection::Unheard,
        other => Objection::Store(other),
    })
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
        remove(&self.store, id).await.map_err(|objection| match objection {
            Objection::Alone => NotRemoved::NobodyLeft,
            Objection::Unheard => NotRemoved::Unheard,
            Objection::Store(error) => NotRemoved::Store(error),
        })
    }
}
