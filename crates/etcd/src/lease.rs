//! The service Lease.
//!
//! Reads and writes the store's leases. Upstream: etcd's `server/etcdserver/api/v3rpc/lease.go`.

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use store::Error;
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use crate::wire::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, lease_server::Lease,
};
use crate::{Server, leader, refusal};

/// The longest lease, in seconds: what Go's durations allow.
const LONGEST: i64 = 9_000_000_000;

#[async_trait]
impl Lease for Server {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > LONGEST {
            return Err(Status::new(Code::OutOfRange, refusal::LEASE_TTL_TOO_LARGE));
        }
        let granted = self.store.lease_grant(ttl.max(1), id).await.map_err(refusal::status)?;
        let header = self.header_now().await?;
        Ok(Response::new(LeaseGrantResponse {
            header,
            id: granted.id,
            ttl: granted.ttl,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.store.lease_revoke(request.into_inner().id).await.map_err(refusal::status)?;
        Ok(Response::new(LeaseRevokeResponse { header: self.header_now().await? }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let leader_lost =
            leader::lost(leader::is_required(request.metadata().as_ref()), self.options.members.clone());
        let server = self.clone();
        let state = (request.into_inner(), server, leader_lost.boxed());
        let answers = stream::unfold(Some(state), |state| async move {
            let (mut requests, server, mut leader_lost) = state?;
            let request = tokio::select! {
                request = requests.message() => request,
                () = &mut leader_lost => Err(leader::missing()),
            };
            match request {
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
                Ok(Some(request)) => match server.keep_alive(request.id).await {
                    Ok(answer) => Some((Ok(answer), Some((requests, server, leader_lost)))),
                    Err(status) => Some((Err(status), None)),
                },
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let header = self.header_now().await?;
        let answer = match self.store.lease_time_to_live(id).await {
            Ok(info) => LeaseTimeToLiveResponse {
                header,
                id,
                ttl: info.ttl,
                granted_ttl: info.granted_ttl,
                keys: if keys { info.keys } else { Vec::new() },
            },
            // A lease that is gone is an answer here, and no refusal.
            Err(Error::LeaseNotFound { .. }) => {
                LeaseTimeToLiveResponse { header, id, ttl: -1, ..LeaseTimeToLiveResponse::default() }
            }
            Err(error) => return Err(refusal::status(error)),
        };
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        // As etcd: what this member knows.
        let leases = self.store.leases_known().await.map_err(refusal::status)?;
        let leases = leases.into_iter().map(|lease| LeaseStatus { id: lease.id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.header_known().await?, leases }))
    }
}

impl Server {
    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let header = self.header_now().await?;
        match self.store.lease_keep_alive(id).await {
            Ok(info) => Ok(LeaseKeepAliveResponse { header, id, ttl: info.ttl }),
            Err(Error::LeaseNotFound { .. }) => Ok(LeaseKeepAliveResponse { header, id, ttl: 0 }),
            Err(error) => Err(refusal::status(error)),
        }
    }
}
