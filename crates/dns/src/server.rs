//! The sockets of the DNS: UDP and TCP on one address.
//!
//! Reads queries; answers from the informers' caches at once, everything else in a task of its own, of which there is
//! a limited number. Not here: what the answers are (`zone`, `message`, `forward`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api::types::{core::v1::Service, discovery::v1::EndpointSlice};
use client::{Informer, Informers};
use foundation::{SharedClock, Tasks};
use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    forward::Forwarder,
    message::{self, Reply, name_of},
    metrics::Metrics,
    zone::{self, View, Zone},
};

/// Queries that wait for other resolvers at the same time, at most.
const FORWARDED: usize = 1000;
/// TCP connections at the same time, at most.
const CONNECTIONS: usize = 256;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
// Names of indexes are shared by all users of an informer.
const BY_SERVICE: &str = "dns/service";
const BY_ADDRESS: &str = "dns/address";
const BY_NAMESPACE: &str = "dns/namespace";

/// What the DNS needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen, by UDP and TCP.
    pub address: SocketAddr,
    /// The cluster's domain.
    pub domain: String,
    /// Whom to ask for names outside the cluster.
    pub resolvers: Vec<SocketAddr>,
    /// Who is answered; others are not, lest queries with a false sender be answered to a victim.
    pub clients: Clients,
}

/// Tells whether an address may ask.
#[derive(Clone)]
pub struct Clients(pub Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clients(..)")
    }
}

/// What can go wrong at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not this host's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Starts the DNS. It answers as soon as the caches have been filled, and SERVFAIL before.
pub async fn start(
    options: &Options,
    informers: &Informers,
    tasks: &Tasks,
    clock: SharedClock,
) -> Result<(), Error> {
    let failed = |source| Error::Listen { address: options.address, source };
    let udp = UdpSocket::bind(options.address).await.map_err(failed)?;
    let tcp = TcpListener::bind(options.address).await.map_err(failed)?;
    let services = informers.informer::<Service>();
    services.add_index(BY_ADDRESS, |service| {
        service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten()).cloned().collect()
    });
    services.add_index(BY_NAMESPACE, |service| service.metadata.namespace.iter().cloned().collect());
    let slices = informers.informer::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| {
        zone::slice_owner(slice).map(|(namespace, name)| format!("{namespace}/{name}")).into_iter().collect()
    });
    slices.add_index(BY_ADDRESS, |slice| {
        slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
    });
    let server = Arc::new(Server {
        zone: Zone { domain: options.domain.trim_end_matches('.').to_lowercase() },
        cluster: Cluster { services, slices },
        forwarder: Forwarder::new(options.resolvers.clone(), clock.clone()),
        forwarded: Arc::new(Semaphore::new(FORWARDED)),
        metrics: Metrics::new(&options.domain.trim_end_matches('.').to_lowercase()),
        tasks: tasks.clone(),
        clients: options.clients.clone(),
        clock,
    });
    tasks.spawn_until_cancelled("dns", server.clone().serve_udp(Arc::new(udp)));
    tasks.spawn_until_cancelled("dns", server.serve_tcp(tcp));
    Ok(())
}

struct Cluster {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl View for Cluster {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(Some(namespace), name)
    }
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &format!("{namespace}/{service}"))
    }
    fn service_of(&self, address: &str) -> Option<Arc<Service>> {
        self.services.by_index(BY_ADDRESS, address).into_iter().next()
    }
    fn slices_of(&self, address: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_ADDRESS, address)
    }
    fn has_namespace(&self, namespace: &str) -> bool {
        !self.services.by_index(BY_NAMESPACE, namespace).is_empty()
    }
}

struct Server {
    zone: Zone,
    cluster: Cluster,
    forwarder: Forwarder,
    forwarded: Arc<Semaphore>,
    metrics: Metrics,
    tasks: Tasks,
    clients: Clients,
    clock: SharedClock,
}

/// What a query led to.
enum Outcome {
    Send(Message),
    Nothing,
    Later(Reply, Message),
}

impl Server {
    fn decide(&self, query: &Message, protocol: &str, peer: IpAddr) -> Outcome {
        self.metrics.asked(query, protocol, peer);
        if !(self.cluster.services.has_synced() && self.cluster.slices.has_synced()) {
            let mut answer = message::response_to(query);
            answer.metadata.response_code = ResponseCode::ServFail;
            return Outcome::Send(answer);
        }
        match message::reply(query, &self.zone, &self.cluster) {
            Reply::Now(answer) => Outcome::Send(*answer),
            Reply::Ignore => Outcome::Nothing,
            Reply::Forward => {
                let found = self.forwarder.remembered(query);
                self.metrics.looked_up(found.as_ref());
                match found {
                    Some(answer) => Outcome::Send(answer),
                    None => Outcome::Later(Reply::Forward, query.clone()),
                }
            }
            follow @ Reply::Follow { .. } => Outcome::Later(follow, query.clone()),
        }
    }

    fn answered(&self, query: &Message, answer: &Message, began: Duration) {
        self.metrics.answered(query, answer, self.clock.monotonic().saturating_sub(began));
    }

    async fn finish(&self, reply: Reply, query: &Message) -> Message {
        match reply {
            Reply::Follow { mut answer, target } => {
                let Some(name) = name_of(&target) else { return *answer };
                let mut onward = query.clone();
                let Some(question) = query.queries.first() else { return *answer };
                onward.queries = vec![Query::query(name, question.query_type)];
                let found = match self.decide_onward(&onward) {
                    Some(found) => found,
                    None => self.forwarder.ask(&onward).await,
                };
                answer.metadata.response_code = found.metadata.response_code;
                answer.add_answers(found.answers.iter().cloned());
                *answer
            }
            _ => self.forwarder.ask(query).await,
        }
    }

    /// An alias may lead back into the cluster, or to something remembered.
    fn decide_onward(&self, onward: &Message) -> Option<Message> {
        match message::reply(onward, &self.zone, &self.cluster) {
            Reply::Now(answer) => Some(*answer),
            // A chain of aliases within the cluster is not followed further: it could be a circle.
            Reply::Follow { answer, .. } => Some(*answer),
            Reply::Forward | Reply::Ignore => self.forwarder.remembered(onward),
        }
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = [0_u8; 4096];
        loop {
            // An error here is about a packet sent before (ICMP unreachable): the socket stays good.
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
            if !(self.clients.0)(peer.ip()) {
                continue;
            }
            let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
            let began = self.clock.monotonic();
            match self.decide(&query, "udp", peer.ip()) {
                Outcome::Nothing => {}
                Outcome::Send(answer) => {
                    self.answered(&query, &answer, began);
                    if let Some(bytes) = message::encode(&answer, &query, true) {
                        let _ = socket.send_to(&bytes, peer).await;
                    }
                }
                Outcome::Later(reply, query) => {
                    // Over the limit the query is dropped: the client asks again.
                    let Ok(permit) = self.forwarded.clone().try_acquire_owned() else { continue };
                    let (server, socket) = (self.clone(), socket.clone());
                    self.tasks.spawn_until_cancelled("query", async move {
                        let answer = server.finish(reply, &query).await;
                        server.answered(&query, &answer, began);
                        if let Some(bytes) = message::encode(&answer, &query, true) {
                            let _ = socket.send_to(&bytes, peer).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors: at once it would fail again, and again.
                    tracing::warn!(%error, "a DNS connection was not accepted");
                    self.clock.sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            if !(self.clients.0)(peer.ip()) {
                continue;
            }
            let server = self.clone();
            self.tasks.spawn_until_cancelled("connection", async move {
                if let Err(error) = server.serve_connection(stream, peer.ip()).await {
                    tracing::debug!(%error, "DNS connection");
                }
                drop(permit);
            });
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
        loop {
            let Ok(length) = timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
            let mut bytes = vec![0; usize::from(length?)];
            timeout(IDLE, stream.read_exact(&mut bytes)).await??;
            let query = Message::from_vec(&bytes).map_err(std::io::Error::other)?;
            let began = self.clock.monotonic();
            let answer = match self.decide(&query, "tcp", peer) {
                Outcome::Nothing => continue,
                Outcome::Send(answer) => answer,
                Outcome::Later(reply, query) => self.finish(reply, &query).await,
            };
            self.answered(&query, &answer, began);
            let Some(bytes) = message::encode(&answer, &query, false) else { return Ok(()) };
            let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
            // Who does not read what was asked for must not keep its place.
            timeout(IDLE, stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat())).await??;
        }
    }
}
