//! From a query's bytes to an answer's bytes, for what the cluster's zone knows.
//!
//! Not here: what a name means (`zone`), sockets (`server`).

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT},
    },
};

use crate::zone::{Answer, Data, Kind, View, Zone};

/// Seconds for which clients may keep a record of the cluster; CoreDNS's default for its kubernetes plugin.
const TTL: u32 = 5;
/// Largest UDP answer to a client that does not say more.
const PLAIN_UDP: usize = 512;
/// Largest UDP answer at all: what passes every link without fragments.
const LARGEST_UDP: usize = 1232;

/// What to do with a query.
#[derive(Debug)]
pub enum Reply {
    /// Send this answer.
    Now(Box<Message>),
    /// The name is outside the cluster: forward the query.
    Forward,
    /// The Service is another name for one outside: look that up, and put this before what is found.
    Follow {
        /// The answer so far: the alias.
        answer: Box<Message>,
        /// The name to look up.
        target: String,
    },
    /// Not a query at all: say nothing.
    Ignore,
}

/// Decides what to do with a query.
pub fn reply(query: &Message, zone: &Zone, view: &dyn View) -> Reply {
    if query.metadata.message_type != MessageType::Query {
        return Reply::Ignore;
    }
    let mut answer = response_to(query);
    if query.metadata.op_code != OpCode::Query {
        answer.metadata.response_code = ResponseCode::NotImp;
        return Reply::Now(Box::new(answer));
    }
    let [question] = query.queries.as_slice() else {
        answer.metadata.response_code = ResponseCode::FormErr;
        return Reply::Now(Box::new(answer));
    };
    if question.query_class != DNSClass::IN {
        answer.metadata.response_code = ResponseCode::Refused;
        return Reply::Now(Box::new(answer));
    }
    let kind = match question.query_type {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::TXT => Kind::Txt,
        _ => Kind::Other,
    };
    let name = text_of(&question.name);
    let records = match zone.answer(view, &name, kind) {
        Answer::NotHere => return Reply::Forward,
        Answer::NoName => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            Vec::new()
        }
        Answer::Records(records) => records,
    };
    answer.metadata.authoritative = true;
    if let [Data::Alias(target)] = records.as_slice() {
        if let Some(target) = name_of(target) {
            answer.add_answer(Record::from_rdata(question.name.clone(), TTL, RData::CNAME(CNAME(target))));
        }
        return Reply::Follow { answer: Box::new(answer), target: target.clone() };
    }
    for data in &records {
        add(&mut answer, &question.name, data);
    }
    if answer.answers.is_empty()
        && let Some(authority) = authority(zone)
    {
        // Tells resolvers for how long they may remember that there is nothing.
        answer.add_authority(authority);
    }
    Reply::Now(Box::new(answer))
}

/// An empty answer to a query, with its question.
pub fn response_to(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.queries = query.queries.clone();
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST_UDP as u16);
        answer.edns = Some(edns);
    }
    answer
}

/// The bytes of an answer; cut (with the flag that says so) where UDP could not carry it.
pub fn encode(answer: &Message, query: &Message, udp: bool) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    let asked = query.edns.as_ref().map_or(PLAIN_UDP, |edns| usize::from(edns.max_payload()));
    if udp && bytes.len() > asked.clamp(PLAIN_UDP, LARGEST_UDP) {
        return answer.truncate().to_vec().ok();
    }
    Some(bytes)
}

/// A name in lower case without its last dot.
pub fn text_of(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// A full name of a text.
pub fn name_of(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).ok()
}

fn add(answer: &mut Message, owner: &Name, data: &Data) {
    let address = |owner: &Name, address: &IpAddr| {
        let data = match address {
            IpAddr::V4(ip) => RData::A(A(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
        };
        Record::from_rdata(owner.clone(), TTL, data)
    };
    match data {
        Data::Address(ip) => {
            answer.add_answer(address(owner, ip));
        }
        Data::Port { port, target, addresses } => {
            let Some(target) = name_of(target) else { return };
            // Priority 0, and the same weight for all: CoreDNS's choice for equal targets.
            let record = RData::SRV(SRV::new(0, 100, *port, target.clone()));
            answer.add_answer(Record::from_rdata(owner.clone(), TTL, record));
            for ip in addresses {
                answer.add_additional(address(&target, ip));
            }
        }
        Data::Pointer(name) => {
            let Some(name) = name_of(name) else { return };
            answer.add_answer(Record::from_rdata(owner.clone(), TTL, RData::PTR(PTR(name))));
        }
        Data::Text(text) => {
            answer.add_answer(Record::from_rdata(
                owner.clone(),
                TTL,
                RData::TXT(TXT::new(vec![text.clone()])),
            ));
        }
        Data::Alias(_) => {}
    }
}

fn authority(zone: &Zone) -> Option<Record> {
    let domain = name_of(&zone.domain)?;
    let server = name_of(&format!("ns.dns.{}", zone.domain))?;
    let mailbox = name_of(&format!("hostmaster.{}", zone.domain))?;
    let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(domain, TTL, RData::SOA(soa)))
}
