//! The service Cluster: who keeps the store. A store that one process keeps alone has one member, which cannot be changed;
//! of one that several keep, members are listed and removed. They are added by joining, not by this API.
//!
//! Upstream: etcd's `server/etcdserver/api/v3rpc/member.go`.

use std::collections::HashMap;

use tonic::{Request, Response, Status, async_trait};

use crate::wire::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, cluster_server::Cluster,
};
use crate::{Server, refusal};

/// One of those who keep a store together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its id. Not zero.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// Where the others reach it.
    pub peer_url: String,
    /// Whether it does not vote yet.
    pub is_learner: bool,
}

/// Where one member stands, and the others as it knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// This member.
    pub id: u64,
    /// The cluster.
    pub cluster: u64,
    /// Who leads; 0 if nobody is known to.
    pub leader: u64,
    /// The term of the consensus.
    pub term: u64,
    /// The last entry of the log that is agreed on, and the last that was applied here.
    pub indexes: (u64, u64),
    /// All members.
    pub members: Vec<Known>,
}

impl Standing {
    /// Whether this member does not vote yet.
    pub fn is_learner(&self) -> bool {
        self.members.iter().any(|known| known.id == self.id && known.is_learner)
    }
}

/// Why a member is not removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotRemoved {
    /// Without it there is nobody who could decide anything.
    #[error("nobody would be left to vote")]
    NobodyLeft,
    /// Most of those who would be left are not heard of.
    #[error("most of those that would be left are not heard of")]
    Unheard,
    /// Something else.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Those who keep a store together, as one of them knows them.
#[async_trait]
pub trait Members: Send + Sync + 'static {
    /// Where this one stands.
    fn standing(&self) -> Standing;

    /// How often this one has seen somebody else lead than before.
    fn leader_changes(&self) -> u64;

    /// Where members serve clients, by their ids, as far as they have said so.
    async fn client_urls(&self) -> HashMap<u64, Vec<String>>;

    /// Has a voter lead in the place of this one, which leads. Returns once it does.
    async fn move_leader(&self, id: u64) -> Result<(), store::Error>;

    /// Removes a member for good.
    async fn remove(&self, id: u64) -> Result<(), NotRemoved>;

    /// Returns once nobody has been known to lead for longer than it takes to elect somebody.
    async fn leaderless(&self);
}

fn refused() -> Status {
    Status::unimplemented("etcdserver: this store has one member, and its membership cannot be changed")
}

fn joining_only() -> Status {
    Status::unimplemented("etcdserver: members are added by starting a server that joins")
}

impl Server {
    async fn list(&self) -> Result<Vec<Member>, Status> {
        let own_urls = self.options.client_urls.clone();
        let Some(members) = &self.options.members else {
            let (id, name) = (self.options.id, self.options.name.clone());
            let peer_ur_ls = self.options.peer_urls.clone();
            let member = Member { id, name, client_ur_ls: own_urls, peer_ur_ls, ..Member::default() };
            return Ok(vec![member]);
        };
        let mut urls = members.client_urls().await;
        let standing = members.standing();
        urls.insert(standing.id, own_urls);
        let mut member = |known: Known| Member {
            // Nothing of one that serves no clients, or whose word has not come.
            client_ur_ls: urls.remove(&known.id).unwrap_or_default(),
            id: known.id,
            name: known.name,
            peer_ur_ls: vec![known.peer_url],
            is_learner: known.is_learner,
        };
        Ok(standing.members.into_iter().map(&mut member).collect())
    }
}

#[async_trait]
impl Cluster for Server {
    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(if self.options.members.is_some() { joining_only() } else { refused() })
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let Some(members) = &self.options.members else { return Err(refused()) };
        let id = request.into_inner().id;
        if !members.standing().members.iter().any(|known| known.id == id) {
            return Err(Status::not_found("etcdserver: member not found"));
        }
        members.remove(id).await.map_err(refusal::not_removed)?;
        Ok(Response::new(MemberRemoveResponse {
            header: self.header_now().await?,
            members: self.list().await?,
        }))
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(match self.options.members.is_some() {
            true => Status::unimplemented("etcdserver: a member says itself where it is, when it is started"),
            false => refused(),
        })
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        // Clients of 3.4 do not ask for it, those of 3.5 do.
        let header = match request.into_inner().linearizable {
            true => self.header_now().await?,
            false => self.header_known().await?,
        };
        Ok(Response::new(MemberListResponse { header, members: self.list().await? }))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(match self.options.members.is_some() {
            true => Status::unimplemented("etcdserver: a member votes as soon as it has caught up"),
            false => refused(),
        })
    }
}
