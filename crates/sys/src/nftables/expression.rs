//! The expressions a rule is made of, and how each is written to the kernel.
//!
//! Not here: sets, chains and transactions.

use super::{Data, LIST_ELEMENT, Verdict, write_data};
use crate::netlink::Message;

/// A 32-bit register, 0 to 15. Longer values take several in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    fn number(self) -> u32 {
        // NFT_REG32_00 is 8; 0 is the verdict, 1 to 4 are the old 128-bit registers.
        8 + u32::from(self.0)
    }
}

/// What can be read of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Source address (IPv4).
    SourceIp,
    /// Destination address (IPv4).
    DestinationIp,
    /// Source port.
    SourcePort,
    /// Destination port.
    DestinationPort,
    /// Transport protocol.
    Protocol,
    /// The packet's mark.
    Mark,
    /// Index of the interface it leaves by.
    OutInterface,
    /// Kind of the destination address for this host, see [`Load::LOCAL`].
    DestinationKind,
    /// Connection tracking's status bits.
    ConnectionStatus,
}

impl Load {
    /// `RTN_LOCAL`: the destination is an address of this host.
    pub const LOCAL: u32 = 2;
    /// `IPS_DST_NAT`: the connection's destination has been translated.
    pub const TRANSLATED: u32 = 1 << 5;
}

/// One step of a rule; a step that does not match ends the rule.
#[derive(Clone, Debug)]
pub enum Expression {
    /// Reads into a register.
    Read(Load, Register),
    /// Puts bytes into registers.
    Put(Vec<u8>, Register),
    /// Goes on if the register has these bytes.
    Equal(Register, Vec<u8>),
    /// Goes on if the register does not have these bytes.
    NotEqual(Register, Vec<u8>),
    /// `register = register & mask ^ flip`, four bytes.
    Mask(Register, [u8; 4], [u8; 4]),
    /// Goes on if the key in the registers is in the set.
    In(Register, String),
    /// Goes on if the key in the registers is not in the set.
    NotIn(Register, String),
    /// Looks the key up in a map and puts the data into registers; goes on only if it is there.
    Map(Register, String, Register),
    /// Looks the key up in a map of verdicts; goes on only if it is not there.
    VerdictMap(Register, String),
    /// A random number below the modulus, in host order.
    Random(Register, u32),
    /// Translates the destination to address and port in two registers.
    DestinationNat(Register, Register),
    /// Puts the host's own address in place of the source.
    Masquerade,
    /// Sets the packet's mark from a register.
    SetMark(Register),
    /// Answers with ICMP port unreachable.
    Reject,
    /// Adds or refreshes an element of a dynamic map: key, data, seconds until it expires.
    Remember {
        /// The map.
        set: String,
        /// First register of the key.
        key: Register,
        /// First register of the data.
        data: Register,
        /// Seconds until the element expires.
        seconds: u32,
    },
    /// Ends the rule.
    Verdict(Verdict),
}

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_MARK: u32 = 3;
const META_OUT_INTERFACE: u32 = 5;
const META_PROTOCOL: u32 = 16;

impl Expression {
    pub(super) fn write(&self, message: &mut Message) {
        let element = message.nest(LIST_ELEMENT);
        message.put_text(1, self.name());
        let nest = message.nest(2);
        self.write_data(message);
        message.end(nest);
        message.end(element);
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Read(load, _) => match load {
                Load::SourceIp | Load::DestinationIp | Load::SourcePort | Load::DestinationPort => "payload",
                Load::Protocol | Load::Mark | Load::OutInterface => "meta",
                Load::DestinationKind => "fib",
                Load::ConnectionStatus => "ct",
            },
            Self::Put(..) | Self::Verdict(_) => "immediate",
            Self::Equal(..) | Self::NotEqual(..) => "cmp",
            Self::Mask(..) => "bitwise",
            Self::In(..) | Self::NotIn(..) | Self::Map(..) | Self::VerdictMap(..) => "lookup",
            Self::Random(..) => "numgen",
            Self::DestinationNat(..) => "nat",
            Self::Masquerade => "masq",
            Self::SetMark(_) => "meta",
            Self::Reject => "reject",
            Self::Remember { .. } => "dynset",
        }
    }

    fn write_data(&self, message: &mut Message) {
        match self {
            Self::Read(load, register) => read(message, *load, *register),
            Self::Put(bytes, register) => {
                message.put_be32(1, register.number());
                write_data(message, 2, &Data::Value(bytes.clone()));
            }
            Self::Verdict(verdict) => {
                message.put_be32(1, 0);
                write_data(message, 2, &Data::Verdict(verdict.clone()));
            }
            Self::Equal(register, bytes) => compare(message, *register, 0, bytes),
            Self::NotEqual(register, bytes) => compare(message, *register, 1, bytes),
            Self::Mask(register, mask, flip) => {
                message.put_be32(1, register.number()).put_be32(2, register.number()).put_be32(3, 4);
                write_data(message, 4, &Data::Value(mask.to_vec()));
                write_data(message, 5, &Data::Value(flip.to_vec()));
            }
            Self::In(key, set) => {
                message.put_text(1, set).put_be32(2, key.number());
            }
            Self::NotIn(key, set) => {
                message.put_text(1, set).put_be32(2, key.number()).put_be32(5, 1);
            }
            Self::Map(key, set, data) => {
                message.put_text(1, set).put_be32(2, key.number()).put_be32(3, data.number());
            }
            Self::VerdictMap(key, set) => {
                message.put_text(1, set).put_be32(2, key.number()).put_be32(3, 0);
            }
            Self::Random(register, modulus) => {
                message.put_be32(1, register.number()).put_be32(2, *modulus).put_be32(3, 1);
            }
            Self::DestinationNat(address, port) => {
                // Type 1 is destination translation, family 2 is IPv4.
                message.put_be32(1, 1).put_be32(2, 2);
                message.put_be32(3, address.number()).put_be32(5, port.number());
            }
            Self::Masquerade => {}
            Self::SetMark(register) => {
                message.put_be32(2, META_MARK).put_be32(3, register.number());
            }
            Self::Reject => {
                // Type 0: an ICMP message; code 3: port unreachable.
                message.put_be32(1, 0).put(2, &[3]);
            }
            Self::Remember { set, key, data, seconds } => {
                const UPDATE: u32 = 1;
                let milliseconds = u64::from(*seconds) * 1000;
                message
                    .put_text(1, set)
                    .put_be32(3, UPDATE)
                    .put_be32(4, key.number())
                    .put_be32(5, data.number())
                    .put(6, &milliseconds.to_be_bytes());
            }
        }
    }
}

fn compare(message: &mut Message, register: Register, operator: u32, bytes: &[u8]) {
    message.put_be32(1, register.number()).put_be32(2, operator);
    write_data(message, 3, &Data::Value(bytes.to_vec()));
}

fn read(message: &mut Message, load: Load, register: Register) {
    message.put_be32(1, register.number());
    let mut payload = |base: u32, offset: u32, length: u32| {
        message.put_be32(2, base).put_be32(3, offset).put_be32(4, length);
    };
    match load {
        Load::SourceIp => payload(BASE_NETWORK, 12, 4),
        Load::DestinationIp => payload(BASE_NETWORK, 16, 4),
        Load::SourcePort => payload(BASE_TRANSPORT, 0, 2),
        Load::DestinationPort => payload(BASE_TRANSPORT, 2, 2),
        Load::Protocol => drop(message.put_be32(2, META_PROTOCOL)),
        Load::Mark => drop(message.put_be32(2, META_MARK)),
        Load::OutInterface => drop(message.put_be32(2, META_OUT_INTERFACE)),
        // Result 3 is the address's type, flag 2 asks for the destination.
        Load::DestinationKind => drop(message.put_be32(2, 3).put_be32(3, 2)),
        // Key 2 is the status.
        Load::ConnectionStatus => drop(message.put_be32(2, 2)),
    }
}
