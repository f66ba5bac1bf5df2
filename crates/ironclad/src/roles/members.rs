//! Who keeps the store together: told to administrators, who may also remove somebody for good.
//!
//! `GET /ironclad/v1/members` and `DELETE /ironclad/v1/members/<id>` on the API server's port, for whom RBAC allows it:
//! nobody but `system:masters`, unless a role says so. The etcd v3 API tells the same where it is served. Not here: what the
//! members agree on (`store_raft`), the command (`crate::members`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::apiserver::beside::Page;
use ::apiserver::response::{self, Response};
use api::{Reason, Status};
use async_trait::async_trait;
use foundation::{Clock as _, SystemClock};
use http::Method;
use serde::{Deserialize, Serialize};
use store_raft::RaftStore;
use store_raft::core::Standing;

/// How long nobody may be known to lead before a client that wants a leader is sent away: three times what etcd gives an
/// election, as etcd does.
const LEADERLESS: Duration = Duration::from_secs(3);

/// Where the members are told.
pub const PATH: &str = "/ironclad/v1/members";

/// The members, as one of them knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Them all.
    pub members: Vec<One>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct One {
    /// Its id, hexadecimal.
    pub id: String,
    /// The name of its server's node.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// Whether it leads, votes or learns.
    pub state: State,
    /// Whether the one that leads, if that is the one that was asked, does not hear of it.
    pub silent: bool,
}

/// What part a member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It leads.
    Leader,
    /// It votes.
    Voter,
    /// It has not caught up yet.
    Learner,
}

/// The members of a store.
pub struct Peers(pub Arc<RaftStore>);

impl Peers {
    fn list(&self) -> List {
        let standing = self.0.standing().borrow().clone();
        let one = |member: &store_raft::Member| One {
            id: format!("{:016x}", member.id),
            name: member.name.clone(),
            address: member.address.clone(),
            state: match standing.voters.contains(&member.id) {
                _ if member.id == standing.leader => State::Leader,
                true => State::Voter,
                false => State::Learner,
            },
            silent: standing.silent.contains(&member.id),
        };
        List { members: standing.members.iter().map(one).collect() }
    }

    /// Why a member may not be removed, if that is known here.
    fn objection(&self, id: u64) -> Option<&'static str> {
        let standing = self.0.standing().borrow().clone();
        if standing.members.len() == 1 {
            return Some("it is the only member: without it there is no store");
        }
        if !keeps_majority(&standing, id) {
            return Some("most of those that would be left are not heard of: remove these first");
        }
        None
    }

    async fn removed(&self, id: &str) -> Result<Response, Status> {
        let known = self.list().members.into_iter().find(|member| member.id == id);
        let Some(known) = known else {
            return Err(Status::new(404, Reason::NotFound, format!("there is no member {id}")));
        };
        let number = u64::from_str_radix(id, 16).map_err(|_| Status::bad_request("an id is hexadecimal"))?;
        if let Some(objection) = self.objection(number) {
            return Err(Status::new(409, Reason::Conflict, objection));
        }
        self.0.remove_member(number).await.map_err(::apiserver::storage::status)?;
        tracing::info!(member = id, name = known.name, "removed a member");
        // It is agreed on; this member may hear of it later.
        let mut left = self.list();
        left.members.retain(|member| member.id != id);
        Ok(response::json(200, &serde_json::json!(left)))
    }
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
impl Page for Peers {
    fn has(&self, path: &str) -> bool {
        path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    async fn answer(&self, method: &Method, path: &str) -> Result<Response, Status> {
        match (method, path.strip_prefix(PATH).unwrap_or_default().trim_matches('/')) {
            (&Method::GET, "") => Ok(response::json(200, &serde_json::json!(self.list()))),
            (&Method::DELETE, id) if !id.is_empty() => self.removed(id).await,
            _ => Err(Status::new(
                405,
                Reason::MethodNotAllowed,
                "members are listed and removed, nothing else",
            )),
        }
    }
}

#[async_trait]
impl etcd::Members for Peers {
    fn standing(&self) -> etcd::Standing {
        let standing = self.0.standing().borrow().clone();
        let known = |member: &store_raft::Member| etcd::Known {
            id: member.id,
            name: member.name.clone(),
            peer_url: format!("https://{}", member.address),
            is_learner: !standing.voters.contains(&member.id),
        };
        etcd::Standing {
            id: standing.id,
            cluster: self.0.identity().cluster,
            leader: standing.leader,
            term: standing.term,
            indexes: (standing.committed, standing.applied),
            members: standing.members.iter().map(known).collect(),
        }
    }

    async fn client_urls(&self) -> HashMap<u64, Vec<String>> {
        super::etcd::client_urls::known(&*self.0).await
    }

    async fn move_leader(&self, id: u64) -> Result<(), store::Error> {
        self.0.move_leader(id).await
    }

    fn leader_changes(&self) -> u64 {
        self.0.leader_changes()
    }

    async fn leaderless(&self) {
        let mut standing = self.0.standing();
        while standing.wait_for(|standing| standing.leader == 0).await.is_ok() {
            tokio::select! {
                () = SystemClock.sleep(LEADERLESS) => return,
                _ = standing.wait_for(|standing| standing.leader != 0) => {}
            }
        }
    }

    async fn remove(&self, id: u64) -> Result<(), store::Error> {
        match self.objection(id) {
            Some(objection) => Err(store::Error::Invalid(objection)),
            None => self.0.remove_member(id).await,
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
