//! IP addresses and CIDRs.
//! Upstream: apiserver `pkg/cel/library/{ip,cidr}.go`, Go's `net/netip`.

use std::net::IpAddr;

use super::Call;
use crate::cel::value::{Error, Opaque, Result, Value};

/// An address as Go's `netip.ParseAddr` reads it, without what upstream refuses of that.
fn parse_ip(text: &str) -> std::result::Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )),
    }
}

fn parse_cidr(text: &str) -> std::result::Result<(IpAddr, u8), String> {
    let wrong =
        || format!("network address parse error during conversion from string: netip.ParsePrefix({text:?})");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let address = parse_ip(address).map_err(|_| wrong())?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most || (text.split_once('/').is_some_and(|(_, b)| b.len() > 1 && b.starts_with('0'))) {
        return Err(wrong());
    }
    Ok((address, bits))
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && masked(network, bits) == masked(address, bits)
}

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    let made = |address: IpAddr| Value::Opaque(Opaque::Ip(address));
    match (call.function, call.arguments) {
        ("ip", [Value::String(text)]) => parse_ip(text).map(made).map_err(Error::failed),
        ("ip", [Value::Opaque(Opaque::Cidr(address, _))]) => Ok(made(*address)),
        ("isIP", [Value::String(text)]) => Ok(Value::Bool(parse_ip(text).is_ok())),
        ("ip.isCanonical", [Value::String(text)]) => {
            let address = parse_ip(text).map_err(Error::failed)?;
            Ok(Value::Bool(address.to_string() == **text))
        }
        ("cidr", [Value::String(text)]) => {
            let (address, bits) = parse_cidr(text).map_err(Error::failed)?;
            Ok(Value::Opaque(Opaque::Cidr(address, bits)))
        }
        ("isCIDR", [Value::String(text)]) => Ok(Value::Bool(parse_cidr(text).is_ok())),
        (function, [Value::Opaque(Opaque::Ip(address))]) => Ok(match function {
            "family" => Value::Int(if address.is_ipv4() { 4 } else { 6 }),
            "isUnspecified" => Value::Bool(address.is_unspecified()),
            "isLoopback" => Value::Bool(address.is_loopback()),
            "isLinkLocalMulticast" => Value::Bool(match address {
                IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
                IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
            }),
            "isLinkLocalUnicast" => Value::Bool(link_local(address)),
            "isGlobalUnicast" => Value::Bool(
                !address.is_unspecified()
                    && !address.is_loopback()
                    && !address.is_multicast()
                    && !link_local(address)
                    && !matches!(address, IpAddr::V4(address) if address.is_broadcast()),
            ),
            _ => return Err(call.no_overload()),
        }),
        (function, [Value::Opaque(Opaque::Cidr(network, bits)), rest @ ..]) => match (function, rest) {
            ("containsIP", [Value::String(text)]) => {
                let address = parse_ip(text).map_err(Error::failed)?;
                Ok(Value::Bool(contains(*network, *bits, address)))
            }
            ("containsIP", [Value::Opaque(Opaque::Ip(address))]) => {
                Ok(Value::Bool(contains(*network, *bits, *address)))
            }
            ("containsCIDR", [Value::String(text)]) => {
                let (address, length) = parse_cidr(text).map_err(Error::failed)?;
                Ok(Value::Bool(length >= *bits && contains(*network, *bits, address)))
            }
            ("containsCIDR", [Value::Opaque(Opaque::Cidr(address, length))]) => {
                Ok(Value::Bool(length >= bits && contains(*network, *bits, *address)))
            }
            ("prefixLength", []) => Ok(Value::Int(i64::from(*bits))),
            ("masked", []) => Ok(Value::Opaque(Opaque::Cidr(masked(*network, *bits), *bits))),
            _ => Err(call.no_overload()),
        },
        _ => Err(call.no_overload()),
    }
}

fn link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}
