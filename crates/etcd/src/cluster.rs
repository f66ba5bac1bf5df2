//! The service Cluster: one member, which cannot be changed.
//!
//! Upstream: etcd's `server/etcdserver/api/v3rpc/member.go`.

use tonic::{Request, Response, Status, async_trait};

use crate::Server;
use crate::wire::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, cluster_server::Cluster,
};

fn refused() -> Status {
    Status::unimplemented("etcdserver: this store has one member, and its membership cannot be changed")
}

#[async_trait]
impl Cluster for Server {
    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(refused())
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(refused())
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(refused())
    }

    async fn member_list(
        &self,
        _: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let member = Member {
            id: self.options.id,
            name: self.options.name.clone(),
            client_ur_ls: self.options.client_urls.clone(),
            ..Member::default()
        };
        Ok(Response::new(MemberListResponse { header: self.header_now().await?, members: vec![member] }))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(refused())
    }
}
