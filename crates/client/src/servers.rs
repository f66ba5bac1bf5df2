//! One transport over all API servers of a cluster: stays with one of them, goes on with the next when that one fails.
//!
//! A request that could not be sent is sent to the next server, whatever it is. One that was sent and not answered is sent
//! again only if it reads: whether a write was carried out nobody knows, and its sender decides. An answer that says that
//! the server cannot serve (503, 504) counts as a failure of this server too. Watches that break end with an error, as
//! over any transport; informers open them again.
//!
//! Reads and writes the network. Not here: which server ([`choice`]), where the list of them comes from (its user tells
//! it by [`ManyServers::set_servers`]), single servers ([`crate::HttpsTransport`]).

mod choice;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use foundation::{SharedClock, SharedRandomness};
use http::{Method, StatusCode};
use parking_lot::Mutex;

use self::choice::Choice;
use crate::https::base;
use crate::https::connections::{Connections, Failure, Patience};
use crate::{Body, Config, Identity, Transport, TransportError};

/// A node is given up after 40 s without a sign of life, so a server that has vanished without a word must be left well
/// before.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(10),
    sign: Duration::from_secs(5),
};

/// What a transport over several servers needs to know.
#[derive(Clone)]
pub struct ManyServersOptions {
    /// `https://host:port` of each server that is known.
    pub servers: Vec<String>,
    /// Where else a server may be found when none of the others answers: an address that a person named.
    pub last_resort: Vec<String>,
    /// The authorities that may have signed the servers' certificates, PEM.
    pub ca_pem: Vec<u8>,
    /// Who we are.
    pub identity: Identity,
    /// The time.
    pub clock: SharedClock,
    /// By which clients spread.
    pub randomness: SharedRandomness,
}

/// [`Transport`] over several servers.
pub struct ManyServers {
    ca_pem: Vec<u8>,
    last_resort: Vec<String>,
    connections: ArcSwap<Connections>,
    choice: Mutex<Choice>,
    clock: SharedClock,
    randomness: SharedRandomness,
}

impl ManyServers {
    /// A transport. Nothing is connected before the first request.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] for a URL, an authority or an identity that cannot be used, or without any server.
    pub fn new(options: ManyServersOptions) -> Result<ManyServers, TransportError> {
        let bases =
            |servers: &[String]| servers.iter().map(|server| base(server)).collect::<Result<Vec<_>, _>>();
        let (servers, last_resort) = (bases(&options.servers)?, bases(&options.last_resort)?);
        if servers.is_empty() && last_resort.is_empty() {
            return Err(TransportError::Invalid("no server is known".to_owned()));
        }
        let choice = Choice::new(&servers, &last_resort, &*options.randomness);
        let connections = connections(&options.ca_pem, options.identity)?;
        Ok(ManyServers {
            ca_pem: options.ca_pem,
            last_resort,
            connections: ArcSwap::from_pointee(connections),
            choice: Mutex::new(choice),
            clock: options.clock,
            randomness: options.randomness,
        })
    }

    /// Takes another list of servers for requests from now on. An empty one is not taken: it would be the last.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] for a URL that cannot be used; the list stays as it was.
    pub fn set_servers(&self, servers: &[String]) -> Result<(), TransportError> {
        let servers = servers.iter().map(|server| base(server)).collect::<Result<Vec<_>, _>>()?;
        if !servers.is_empty() {
            self.choice.lock().replace(&servers, &self.last_resort, &*self.randomness);
        }
        Ok(())
    }

    /// Every server that is known.
    pub fn servers(&self) -> Vec<String> {
        self.choice.lock().servers()
    }

    /// Is somebody else from now on, or shows a renewed certificate: new requests get new connections. What was begun goes
    /// on as it was.
    ///
    /// # Errors
    /// [`TransportError::Invalid`] for an identity that cannot be used; the old one stays.
    pub fn set_identity(&self, identity: Identity) -> Result<(), TransportError> {
        self.connections.store(Arc::new(connections(&self.ca_pem, identity)?));
        Ok(())
    }

    fn failed(&self, server: &str, why: &dyn std::fmt::Display) {
        tracing::debug!(server, %why, "an API server has failed");
        self.choice.lock().failed(server, self.clock.monotonic(), &*self.randomness);
    }

    fn succeeded(&self, server: &str) {
        if self.choice.lock().succeeded(server, self.clock.monotonic()) {
            tracing::info!(server, "going on with another API server");
        }
    }
}

fn connections(ca_pem: &[u8], identity: Identity) -> Result<Connections, TransportError> {
    let config = Config { ca_pem: Some(ca_pem.to_vec()), identity, ..Config::default() };
    Connections::new(&config, PATIENCE)
}

/// The request once more.
fn copy(request: &http::Request<Bytes>) -> http::Request<Bytes> {
    let mut copy = http::Request::new(request.body().clone());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[async_trait::async_trait]
impl Transport for ManyServers {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let connections = self.connections.load_full();
        let order = self.choice.lock().order(self.clock.monotonic(), &*self.randomness);
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let mut outcome = Err(TransportError::Invalid("no server is known".to_owned()));
        for server in order {
            match connections.send(&server, copy(&request)).await {
                Ok(answer)
                    if matches!(
                        answer.status(),
                        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                    ) =>
                {
                    self.failed(&server, &answer.status());
                    if !reads {
                        return Ok(answer);
                    }
                    outcome = Ok(answer);
                }
                Ok(answer) => {
                    self.succeeded(&server);
                    return Ok(answer);
                }
                Err(Failure { error: error @ TransportError::Invalid(_), .. }) => return Err(error),
                Err(Failure { error, unsent }) => {
                    self.failed(&server, &error);
                    if !unsent && !reads {
                        return Err(error);
                    }
                    // What a server has said is worth more than that another one was not reached.
                    if outcome.is_err() {
                        outcome = Err(error);
                    }
                }
            }
        }
        outcome
    }

    fn host(&self) -> &str {
        "apiserver"
    }
}
