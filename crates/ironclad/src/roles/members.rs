//! Who keeps the store together: told to administrators, who may also remove somebody for good.
//!
//! `GET /ironclad/v1/members` and `DELETE /ironclad/v1/members/<id>` on the API server's port, for whom RBAC allows it:
//! nobody but `system:masters`, unless a role says so. The etcd v3 API tells the same where it is served
//! (`store_raft::peers`). Not here: what the members agree on (`store_raft`), the command (`crate::members`).

use std::sync::Arc;

use ::apiserver::beside::Page;
use ::apiserver::response::{self, Response};
use api::{Reason, Status};
use async_trait::async_trait;
use http::Method;
use serde::{Deserialize, Serialize};
use store_raft::RaftStore;
use store_raft::peers::{self, Objection};

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

/// Tells the members of a store, and removes them.
pub struct MembersPage(pub Arc<RaftStore>);

impl MembersPage {
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

    async fn removed(&self, id: &str) -> Result<Response, Status> {
        let known = self.list().members.into_iter().find(|member| member.id == id);
        let Some(known) = known else {
            return Err(Status::new(404, Reason::NotFound, format!("there is no member {id}")));
        };
        let number = u64::from_str_radix(id, 16).map_err(|_| Status::bad_request("an id is hexadecimal"))?;
        peers::remove(&self.0, number).await.map_err(|objection| match objection {
            Objection::Alone | Objection::Unheard => {
                Status::new(409, Reason::Conflict, objection.to_string())
            }
            Objection::Store(error) => ::apiserver::storage::status(error),
        })?;
        tracing::info!(member = id, name = known.name, "removed a member");
        // It is agreed on; this member may hear of it later.
        let mut left = self.list();
        left.members.retain(|member| member.id != id);
        Ok(response::json(200, &serde_json::json!(left)))
    }
}

#[async_trait]
impl Page for MembersPage {
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
