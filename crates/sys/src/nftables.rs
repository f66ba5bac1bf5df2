//! nftables by netlink: tables, chains, rules, sets and maps, changed in transactions.
//!
//! A [`Batch`] collects changes; [`Nftables::commit`] applies all of them or none. Rules are lists of
//! [`Expression`]s over 32-bit registers, as the kernel runs them; element keys and data are bytes laid out
//! as those registers (each part padded to four bytes). Not here: which rules are wanted.
//!
//! Upstream of the formats: Linux `include/uapi/linux/netfilter/nf_tables.h`.

mod expression;

use std::collections::BTreeSet;

pub use expression::{Expression, Load, Register};

use crate::netlink::{self, Error, Message, Socket};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DEL_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const DEL_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DEL_ELEMENT: u16 = 14;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// A netlink attribute's length has sixteen bits; this many bytes of elements stay well below.
const ELEMENTS_PER_MESSAGE: usize = 32 * 1024;

/// What a table's rules see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 packets.
    Ip = 2,
    /// IPv6 packets.
    Ip6 = 10,
}

/// Where a base chain hooks into the stack.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The hook.
    pub point: HookPoint,
    /// Order among the chains of a hook; see `NF_IP_PRI_*` (dstnat -100, filter 0, srcnat 100).
    pub priority: i32,
    /// Whether it is a chain for address translation.
    pub nat: bool,
}

/// A place in the path of a packet.
#[derive(Clone, Copy, Debug)]
pub enum HookPoint {
    /// Arrived, before routing.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// Through this host.
    Forward = 2,
    /// From this host.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Let it pass this hook.
    Accept,
    /// Throw it away.
    Drop,
    /// Go on after the chain that jumped here.
    Return,
    /// Go through a chain and come back.
    Jump(String),
    /// Go through a chain and do not come back.
    Goto(String),
}

/// What a map gives for a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// Bytes for registers.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// The type of a part of a key or of data: only `nft list ruleset` needs it, to print.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// A number in host order. This is the type that `nft` prints marks with: its own type for numbers has no
    /// length, on which `nft` 1.0 aborts.
    Integer = 19,
    /// An IPv4 address.
    Ipv4 = 7,
    /// An IPv6 address.
    Ipv6 = 8,
    /// A transport protocol.
    Protocol = 12,
    /// A port.
    Port = 13,
}

impl Part {
    fn length(self) -> u32 {
        // Every part takes whole registers.
        if matches!(self, Part::Ipv6) { 16 } else { 4 }
    }
}

/// What a set's elements carry.
#[derive(Clone, Copy, Debug)]
pub enum Carries<'a> {
    /// Nothing: a plain set.
    Nothing,
    /// A verdict.
    Verdict,
    /// Data of these parts.
    Data(&'a [Part]),
}

/// A set or map to make.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    /// Name.
    pub name: &'a str,
    /// Parts of the key.
    pub key: &'a [Part],
    /// What elements carry.
    pub carries: Carries<'a>,
    /// Whether rules add elements, which then expire.
    pub dynamic: bool,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key's registers.
    pub key: Vec<u8>,
    /// What it carries.
    pub data: Option<Data>,
}

/// Changes that are applied together or not at all.
#[derive(Debug, Clone)]
pub struct Batch {
    message: Message,
    family: Family,
    table: String,
    operations: Vec<String>,
}

impl Batch {
    /// An empty batch for one table.
    pub fn new(family: Family, table: &str) -> Self {
        let mut batch =
            Self { message: Message::default(), family, table: table.to_owned(), operations: Vec::new() };
        batch.message.begin(BATCH_BEGIN, 0, 0).raw(&general(0, SUBSYSTEM));
        batch
    }

    /// Whether nothing has been put in.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    fn begin(&mut self, kind: u16, flags: i32, operation: String) -> &mut Message {
        self.operations.push(operation);
        // Sequence numbers count from one, so that an error names its operation.
        let sequence = self.operations.len() as u32;
        let family = self.family as u8;
        self.message.begin(SUBSYSTEM << 8 | kind, flags, sequence).raw(&general(family, 0))
    }

    /// Makes the table, if it is not there.
    pub fn add_table(&mut self) -> &mut Self {
        let table = self.table.clone();
        self.begin(NEW_TABLE, libc::NLM_F_CREATE, format!("add table {table}")).put_text(1, &table);
        self
    }

    /// Deletes the table with all it holds. Fails when there is none: add it before.
    pub fn delete_table(&mut self) -> &mut Self {
        let table = self.table.clone();
        self.begin(DEL_TABLE, 0, format!("delete table {table}")).put_text(1, &table);
        self
    }

    /// Makes a chain, if it is not there; with a hook, packets go through it.
    pub fn add_chain(&mut self, name: &str, hook: Option<Hook>) -> &mut Self {
        let table = self.table.clone();
        let message = self.begin(NEW_CHAIN, libc::NLM_F_CREATE, format!("add chain {name}"));
        message.put_text(1, &table).put_text(3, name);
        if let Some(hook) = hook {
            let nest = message.nest(4);
            message.put_be32(1, hook.point as u32).put_be32(2, hook.priority as u32);
            message.end(nest);
            message.put_text(7, if hook.nat { "nat" } else { "filter" });
        }
        self
    }

    /// Deletes an empty chain that nothing refers to.
    pub fn delete_chain(&mut self, name: &str) -> &mut Self {
        let table = self.table.clone();
        self.begin(DEL_CHAIN, 0, format!("delete chain {name}")).put_text(1, &table).put_text(3, name);
        self
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) -> &mut Self {
        let table = self.table.clone();
        self.begin(DEL_RULE, 0, format!("flush chain {name}")).put_text(1, &table).put_text(2, name);
        self
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expression]) -> &mut Self {
        let table = self.table.clone();
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        let message = self.begin(NEW_RULE, flags, format!("add rule to {chain}"));
        message.put_text(1, &table).put_text(2, chain);
        let list = message.nest(4);
        for expression in expressions {
            expression.write(message);
        }
        message.end(list);
        self
    }

    /// Makes a set or map, if it is not there.
    pub fn add_set(&mut self, set: &Set<'_>) -> &mut Self {
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 0x10;
        const EVALUATED: u32 = 0x20;
        const VERDICT_TYPE: u32 = 0xffff_ff00;
        let table = self.table.clone();
        // The kernel wants an ID per set and batch, to let rules of the batch refer to it.
        let id = self.operations.len() as u32 + 1;
        let message = self.begin(NEW_SET, libc::NLM_F_CREATE, format!("add set {}", set.name));
        let dynamic = if set.dynamic { TIMEOUT | EVALUATED } else { 0 };
        let map = if matches!(set.carries, Carries::Nothing) { 0 } else { MAP };
        message
            .put_text(1, &table)
            .put_text(2, set.name)
            .put_be32(3, dynamic | map)
            .put_be32(4, type_of(set.key))
            .put_be32(5, length_of(set.key));
        match set.carries {
            Carries::Nothing => {}
            Carries::Verdict => {
                message.put_be32(6, VERDICT_TYPE).put_be32(7, 0);
            }
            Carries::Data(parts) => {
                message.put_be32(6, type_of(parts)).put_be32(7, length_of(parts));
            }
        }
        message.put_be32(10, id);
        self
    }

    /// Adds elements to a set or map; one that is there already with other data is an error.
    pub fn add_elements<'a>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) -> &mut Self {
        self.elements(NEW_ELEMENT, libc::NLM_F_CREATE, set, elements)
    }

    /// Deletes elements by their keys; one that is not there is an error.
    pub fn delete_elements<'a>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) -> &mut Self {
        self.elements(DEL_ELEMENT, 0, set, elements)
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: i32,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
    ) -> &mut Self {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let table = self.table.clone();
            let verb = if kind == NEW_ELEMENT { "add elements to" } else { "delete elements of" };
            let message = self.begin(kind, flags, format!("{verb} {set}"));
            message.put_text(1, &table).put_text(2, set);
            let list = message.nest(3);
            let start = message.as_bytes().len();
            while message.as_bytes().len() - start < ELEMENTS_PER_MESSAGE {
                let Some(element) = elements.next() else { break };
                let nest = message.nest(LIST_ELEMENT);
                write_data(message, 1, &Data::Value(element.key.clone()));
                if let (NEW_ELEMENT, Some(data)) = (kind, &element.data) {
                    write_data(message, 2, data);
                }
                message.end(nest);
            }
            message.end(list);
        }
        self
    }
}

/// The header of netfilter's messages: family, version 0, resource in network order.
fn general(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn type_of(parts: &[Part]) -> u32 {
    // Concatenated types are packed six bits each.
    parts.iter().fold(0, |all, part| all << 6 | *part as u32)
}

fn length_of(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.length()).sum()
}

fn write_data(message: &mut Message, kind: u16, data: &Data) {
    let nest = message.nest(kind);
    match data {
        Data::Value(bytes) => {
            message.put(DATA_VALUE, bytes);
        }
        Data::Verdict(verdict) => {
            let inner = message.nest(DATA_VERDICT);
            let (code, chain) = match verdict {
                Verdict::Drop => (0, None),
                Verdict::Accept => (1, None),
                Verdict::Jump(chain) => (-3, Some(chain)),
                Verdict::Goto(chain) => (-4, Some(chain)),
                Verdict::Return => (-5, None),
            };
            // The kernel's codes are signed; the wire carries their bits.
            message.put_be32(1, i32::cast_unsigned(code));
            if let Some(chain) = chain {
                message.put_text(2, chain);
            }
            message.end(inner);
        }
    }
    message.end(nest);
}

/// A connection to the kernel's nftables, in the network namespace it was opened in.
#[derive(Debug)]
pub struct Nftables(Socket);

impl Nftables {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        Socket::open(libc::NETLINK_NETFILTER).map(Self)
    }

    /// Applies a batch: all of it or, when an operation is refused, nothing.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut message = batch.message.clone();
        let end = batch.operations.len() as u32 + 1;
        message.begin(BATCH_END, 0, end).raw(&general(0, SUBSYSTEM));
        // The default send buffer (about 200 KiB) is too small for a cold start with thousands of Services;
        // a batch must go in one datagram.
        let room = i32::try_from(message.as_bytes().len() * 2).unwrap_or(i32::MAX).max(256 * 1024);
        self.0.set_option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, room)?;
        self.0.send(message.as_bytes())?;
        // The kernel has worked through the batch when send returns; refusals wait in the socket.
        let mut first = None;
        while let Some(buffer) = self.receive_now()? {
            for (header, payload) in netlink::messages(&buffer) {
                if i32::from(header.nlmsg_type) == libc::NLMSG_ERROR {
                    let at = (header.nlmsg_seq as usize).wrapping_sub(1);
                    let operation = batch.operations.get(at).map_or("apply the batch", String::as_str);
                    first = first.or(netlink::acknowledgement(operation, &header, payload).err());
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn receive_now(&self) -> Result<Option<Vec<u8>>, Error> {
        self.0.receive_now()
    }

    /// Whether there is a table of this name.
    pub fn has_table(&mut self, family: Family, table: &str) -> Result<bool, Error> {
        let mut message = Message::new(SUBSYSTEM << 8 | GET_TABLE, libc::NLM_F_ACK);
        message.raw(&general(family as u8, 0)).put_text(1, table);
        match self.0.exchange("look up table", message) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a table with all it holds; none is fine.
    pub fn delete_table(&mut self, family: Family, table: &str) -> Result<(), Error> {
        let mut batch = Batch::new(family, table);
        batch.add_table().delete_table();
        self.commit(&batch)
    }

    /// The elements of a set or map: keys with their data bytes (none for verdicts and plain sets).
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<BTreeSet<(Vec<u8>, Option<Vec<u8>>)>, Error> {
        let mut message = Message::new(SUBSYSTEM << 8 | GET_ELEMENT, libc::NLM_F_DUMP);
        message.raw(&general(family as u8, 0)).put_text(1, table).put_text(2, set);
        let answers = self.0.exchange(&format!("list elements of {set}"), message)?;
        let value = |nest| netlink::attribute(nest, DATA_VALUE).map(<[u8]>::to_vec);
        Ok(answers
            .iter()
            .filter_map(|answer| netlink::attribute(answer.payload.get(4..)?, 3))
            .flat_map(netlink::attributes)
            .filter_map(|(_, element)| {
                let key = value(netlink::attribute(element, 1)?)?;
                Some((key, netlink::attribute(element, 2).and_then(value)))
            })
            .collect())
    }
}
