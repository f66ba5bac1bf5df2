//! Names outside the cluster: asks the host's own resolvers and remembers what they said.
//!
//! Reads the nameservers of a resolv.conf; sends queries by UDP, or TCP where the client came by TCP or the answer was
//! cut. The cache is bounded by entries and by time. Not here: the cluster's own names (`zone`).
//!
//! Upstream: CoreDNS's forward and cache plugins with the settings of the usual Corefile (cache 30).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use foundation::SharedClock;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Record, RecordType},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::message::text_of;

/// How long one resolver may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest time for which an answer is kept, as the usual `cache 30`.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a failure is kept, so that a resolver that is away is not asked for every query.
const FAILURE: Duration = Duration::from_secs(5);
/// Entries kept at most: at about 300 bytes each some 3 MB.
const ENTRIES: usize = 10_000;

type Key = (String, RecordType);

#[derive(Debug)]
struct Entry {
    until: Duration,
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
}

/// Asks others, and remembers.
pub struct Forwarder {
    resolvers: Vec<SocketAddr>,
    cache: Mutex<HashMap<Key, Entry>>,
    clock: SharedClock,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").field("resolvers", &self.resolvers).finish_non_exhaustive()
    }
}

/// The nameservers of a resolv.conf. A loopback address is left out only if it is `own`, which would ask itself.
pub fn resolvers_of(path: &Path, own: SocketAddr) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .filter(|address| *address != own)
        .collect()
}

impl Forwarder {
    /// A forwarder to these resolvers, asked in this order.
    pub fn new(resolvers: Vec<SocketAddr>, clock: SharedClock) -> Self {
        Self { resolvers, cache: Mutex::default(), clock }
    }

    /// What is remembered for a query.
    pub fn remembered(&self, query: &Message) -> Option<Message> {
        let now = self.clock.monotonic();
        let cache = self.cache.lock();
        let entry = cache.get(&key_of(query)?).filter(|entry| entry.until > now)?;
        let left = u32::try_from(entry.until.saturating_sub(now).as_secs()).unwrap_or(u32::MAX);
        let mut answer = crate::message::response_to(query);
        answer.metadata.response_code = entry.code;
        let aged = |records: &[Record]| -> Vec<Record> {
            records
                .iter()
                .cloned()
                .map(|mut record| {
                    record.ttl = record.ttl.min(left.max(1));
                    record
                })
                .collect()
        };
        answer.answers = aged(&entry.answers);
        answer.authorities = aged(&entry.authorities);
        Some(answer)
    }

    /// Asks the resolvers. With none that answers, the answer is SERVFAIL.
    pub async fn ask(&self, query: &Message) -> Message {
        let mut answer = crate::message::response_to(query);
        answer.metadata.response_code = ResponseCode::ServFail;
        for resolver in &self.resolvers {
            match timeout(PATIENCE, exchange(query, *resolver)).await {
                Ok(Ok(mut heard)) => {
                    heard.metadata.id = query.metadata.id;
                    answer = heard;
                    break;
                }
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "cannot ask resolver"),
                Err(_) => tracing::debug!(%resolver, "resolver does not answer"),
            }
        }
        self.remember(query, &answer);
        answer
    }

    fn remember(&self, query: &Message, answer: &Message) {
        let Some(key) = key_of(query) else { return };
        let code = answer.metadata.response_code;
        let ttl = answer.answers.iter().chain(&answer.authorities).map(|record| record.ttl).min();
        let keep = match (code, ttl) {
            (ResponseCode::NoError | ResponseCode::NXDomain, Some(seconds)) => {
                Duration::from_secs(u64::from(seconds)).min(LONGEST)
            }
            _ => FAILURE,
        };
        let now = self.clock.monotonic();
        let mut cache = self.cache.lock();
        if cache.len() >= ENTRIES {
            cache.retain(|_, entry| entry.until > now);
            if cache.len() >= ENTRIES {
                cache.clear();
            }
        }
        let (answers, authorities) = (answer.answers.clone(), answer.authorities.clone());
        cache.insert(key, Entry { until: now + keep, code, answers, authorities });
    }
}

fn key_of(query: &Message) -> Option<Key> {
    let question = query.queries.first()?;
    Some((text_of(&question.name), question.query_type))
}

async fn exchange(query: &Message, resolver: SocketAddr) -> std::io::Result<Message> {
    let malformed = |error| std::io::Error::other(format!("malformed message: {error}"));
    let mut query = query.clone();
    // An ID of the client's choice would let it guess what to forge.
    query.metadata.id = rand_id();
    let bytes = query.to_vec().map_err(std::io::Error::other)?;
    let any: IpAddr = if resolver.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(&bytes).await?;
    let mut buffer = [0_u8; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if answer.metadata.id != query.metadata.id || answer.queries != query.queries {
            continue;
        }
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        break;
    }
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(malformed)
}

fn rand_id() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    // RandomState is seeded by the operating system for every thread and counted up for every use.
    std::hash::RandomState::new().build_hasher().finish() as u16
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::ManualClock;
    use hickory_proto::{
        op::{OpCode, Query},
        rr::{RData, rdata::A},
    };

    use super::*;
    use crate::message::name_of;

    fn query(name: &str) -> Message {
        let mut query = Message::new(7, hickory_proto::op::MessageType::Query, OpCode::Query);
        query.add_query(Query::query(name_of(name).unwrap(), RecordType::A));
        query
    }

    #[tokio::test]
    async fn answers_are_remembered_for_their_time() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let clock = Arc::new(ManualClock::new(api_timestamp()));
        let forwarder = Forwarder::new(vec![address], clock.clone());
        let serve = async {
            let mut buffer = [0; 512];
            let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = crate::message::response_to(&asked);
            let record = RData::A(A([192, 0, 2, 1].into()));
            answer.add_answer(Record::from_rdata(asked.queries[0].name.clone(), 20, record));
            server.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
        };
        let asked = query("example.com");
        assert!(forwarder.remembered(&asked).is_none());
        let (answer, ()) = tokio::join!(forwarder.ask(&asked), serve);
        assert_eq!((answer.metadata.id, answer.answers.len()), (7, 1));
        clock.advance(Duration::from_secs(15));
        assert_eq!(forwarder.remembered(&query("EXAMPLE.com")).unwrap().answers[0].ttl, 5);
        clock.advance(Duration::from_secs(6));
        assert!(forwarder.remembered(&asked).is_none());
    }

    #[tokio::test]
    async fn without_resolvers_the_failure_is_told() {
        let forwarder = Forwarder::new(Vec::new(), Arc::new(ManualClock::new(api_timestamp())));
        assert_eq!(forwarder.ask(&query("example.com")).await.metadata.response_code, ResponseCode::ServFail);
    }

    fn api_timestamp() -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}
