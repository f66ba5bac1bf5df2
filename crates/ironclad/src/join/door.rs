//! What a server answers to machines that are not in the cluster yet, on the API server's port.
//!
//! `GET /cacerts`: the certificate of the cluster's authority, for anybody: it is no secret, and proves itself by the hash
//! in the asker's token. `POST /ironclad/v1/join`: the keys of the cluster, sealed, for who shows that it knows the secret
//! of the server token; anybody else is told nothing, and has to wait after a few attempts. Not here: how a store takes on
//! a member (`store_raft`), which happens once the new server has its keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ::apiserver::beside::Beside;
use ::apiserver::response::{self, Response};
use anyhow::bail;
use async_trait::async_trait;
use bytes::Bytes;
use foundation::SharedClock;
use http::{HeaderValue, Method, header};
use parking_lot::Mutex;
use pki::handover;
use pki::token::Secret;
use store_raft::RaftStore;

use super::agreed::Agreed;
use super::attempts::Attempts;
use super::versions::Version;
use super::{AUTHORITY_PATH, Asked, HandedOver, JOIN_PATH};
use crate::config;
use crate::tokens::shared::Shared;

/// What can be joined here.
pub enum Cluster {
    /// Servers that keep the store together.
    Members {
        /// The one of this server.
        store: Arc<RaftStore>,
        /// Its server's settings. What they come to is worked out for each request: files that they name may change.
        config: Arc<config::Server>,
    },
    /// The server keeps its store alone.
    Alone,
    /// The servers share a store of somebody else's.
    External,
}

/// What answers.
pub struct Door {
    /// The cluster's authority, PEM.
    pub authority: String,
    /// Where the keys are.
    pub keys: PathBuf,
    /// Who may have them.
    pub tokens: Arc<Shared>,
    /// What they are for.
    pub cluster: Cluster,
    /// The time.
    pub clock: SharedClock,
    /// Who was wrong.
    pub attempts: Mutex<Attempts>,
}

impl Door {
    async fn join(&self, body: &[u8], remote: SocketAddr) -> anyhow::Result<Response> {
        let now = self.clock.monotonic();
        let address = remote.ip().to_canonical();
        if let Some(wait) = self.attempts.lock().must_wait(address, now) {
            let mut answer = response::text(429, "too many attempts with a wrong token\n");
            let seconds = HeaderValue::from(wait.as_secs().max(1));
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
            return Ok(answer);
        }
        let Ok(asked) = serde_json::from_slice::<Asked>(body) else {
            return Ok(response::text(400, "this is no request to join\n"));
        };
        // As a majority of the servers knows them now: the token may have been changed at another one.
        let tokens = match self.tokens.now().await {
            Ok(tokens) => tokens,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "somebody asks to join, and the tokens cannot be read"
                );
                return Ok(response::text(503, "the cluster's store does not answer: nobody can join now\n"));
            }
        };
        let Secret::Server(secret) = &tokens.server else { bail!("the token of servers is an agent's") };
        let Some(sealer) = handover::check(secret, &asked.nonce.0, &asked.proof.0) else {
            self.attempts.lock().was_wrong(address, now);
            tracing::warn!(%remote, "somebody asked to join with a wrong token");
            return Ok(response::text(401, "the token is not this cluster's\n"));
        };
        let (store, agreed) = match &self.cluster {
            Cluster::Members { store, config } => (store, Agreed::of(config)?),
            Cluster::Alone => {
                let text = "this server keeps its store alone: start it with --cluster-init once, then others can join\n";
                return Ok(response::text(409, text));
            }
            Cluster::External => {
                let text = "the servers of this cluster share a datastore: start the new one with the same --datastore-endpoint and a copy of <data-dir>/pki\n";
                return Ok(response::text(409, text));
            }
        };
        if let Some(objection) = asked.version.objection(&Version::own()) {
            return Ok(response::text(409, format!("{objection}\n")));
        }
        let members = store.standing().borrow().members.iter().map(|member| member.address.clone()).collect();
        let handed = HandedOver {
            members,
            files: handover::export(&self.keys)?,
            agent_token: tokens.agent.bare(),
            agreed,
            version: Version::own(),
        };
        let sealed = sealer.seal(&serde_json::to_vec(&handed)?)?;
        tracing::info!(%remote, "handed the cluster's keys to a server that joins");
        Ok(response::bytes(200, "application/octet-stream", sealed))
    }
}

#[async_trait]
impl Beside for Door {
    fn has(&self, path: &str) -> bool {
        path == AUTHORITY_PATH || path == JOIN_PATH
    }

    async fn answer(&self, request: http::Request<Bytes>, remote: SocketAddr) -> Response {
        match (request.method(), request.uri().path()) {
            (&Method::GET, AUTHORITY_PATH) => {
                response::bytes(200, "application/x-pem-file", self.authority.clone())
            }
            (&Method::POST, JOIN_PATH) => self.join(request.body(), remote).await.unwrap_or_else(|error| {
                tracing::error!(error = format!("{error:#}"), "a server cannot be given the keys");
                response::text(500, "the keys cannot be handed over; the server's log says why\n")
            }),
            _ => response::text(405, "this method is not answered here\n"),
        }
    }
}
