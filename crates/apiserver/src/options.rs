//! What the server is told at its start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::beside::{Beside, Page};
use crate::filters::cors::Cors;
use crate::{admission, aggregation, audit, authn, authz, endpoints, fairness, traces};

/// The settings of an API server. All have working defaults but the keys in `authn`.
#[derive(Clone)]
pub struct Options {
    /// The cluster IP range.
    pub service_cidr: Cidr,
    /// Node ports for Services, inclusive.
    pub node_ports: (u16, u16),
    /// The address under which the server is reached: the endpoint of the `kubernetes` Service. `None`: that
    /// Service gets no endpoint.
    pub advertise: Option<(IpAddr, u16)>,
    /// Who keeps the endpoints of the `kubernetes` Service.
    pub endpoints: endpoints::Reconciler,
    /// How the server reaches kubelets (logs, exec, proxy). `None`: those subresources answer 503.
    pub kubelet: Option<Arc<rustls::ClientConfig>>,
    /// The largest request body in bytes (upstream: 3 MiB).
    pub body_limit: usize,
    /// How long a request that is neither a watch nor a stream may take.
    pub request_timeout: Duration,
    /// The least that a watch lasts whose client names no time, in whole seconds; the most is twice that.
    pub min_request_timeout: Duration,
    /// How long a watch's client may leave what is sent to it unread before the watch is ended.
    pub reader_patience: Duration,
    /// How long Events are kept after their last write; zero: for ever (upstream: one hour).
    pub event_ttl: Duration,
    /// How long open requests are waited for on shutdown.
    pub drain: Duration,
    /// Who may be believed.
    pub authn: authn::Options,
    /// Who may do what.
    pub authz: authz::Options,
    /// How requests are passed on to other API servers.
    pub aggregation: aggregation::Options,
    /// What is written down of requests.
    pub audit: audit::Options,
    /// How much is served at once, and who waits.
    pub fairness: fairness::Options,
    /// Origins whose pages may use the API from a browser.
    pub cors: Cors,
    /// How probable it is that a request over HTTP/2 makes its client connect anew, maybe to another server.
    pub goaway_chance: f64,
    /// Which requests are traced, and where their spans go. `None`: no request.
    pub traces: Option<traces::Configuration>,
    /// Which admission plugins run.
    pub admission: admission::Options,
    /// How the server was started, by flag, for `/flagz`.
    pub flags: BTreeMap<String, String>,
    /// The name of the machine, by which the server's lease is known. `None`: it has no lease.
    pub hostname: Option<String>,
    /// Objects to make at the start where they do not exist, beside the server's own.
    pub bootstrap: Vec<api::Object>,
    /// Objects by whose `data` the server tells something: made at the start, and put right where they say something else.
    pub told: Vec<api::Object>,
    /// What answers paths of the server's port that are not the API's.
    pub beside: Option<Arc<dyn Beside>>,
    /// Further pages for those whom RBAC lets see them.
    pub pages: Option<Arc<dyn Page>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            service_cidr: Cidr { address: IpAddr::from([10, 43, 0, 0]), length: 16 },
            node_ports: (30_000, 32_767),
            advertise: None,
            endpoints: endpoints::Reconciler::default(),
            kubelet: None,
            body_limit: 3 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1_800),
            reader_patience: Duration::from_secs(30),
            event_ttl: Duration::from_secs(60 * 60),
            drain: Duration::from_secs(10),
            authn: authn::Options::default(),
            authz: authz::Options::default(),
            aggregation: aggregation::Options::default(),
            audit: audit::Options::default(),
            fairness: fairness::Options::default(),
            cors: Cors::default(),
            goaway_chance: 0.0,
            traces: None,
            admission: admission::Options::default(),
            flags: BTreeMap::new(),
            hostname: None,
            bootstrap: Vec::new(),
            told: Vec::new(),
            beside: None,
            pages: None,
        }
    }
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Its first address.
    pub address: IpAddr,
    /// The length of its prefix in bits.
    pub length: u8,
}

impl Cidr {
    /// Reads `10.43.0.0/16`; bits beyond the prefix are dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (length <= bits).then(|| Self { address: nth(mask(address, length), 0), length })
    }

    /// How many addresses, at most 2^16 (upstream's bitmap allocator has the same bound).
    pub fn size(&self) -> u32 {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        1 << (bits - self.length).min(16)
    }

    /// The address at `offset`.
    pub fn nth(&self, offset: u32) -> IpAddr {
        nth(self.address, offset)
    }

    /// Where `address` is in the range, if it is.
    pub fn offset(&self, address: IpAddr) -> Option<u32> {
        let offset = match (self.address, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                u128::from(u32::from(address)).checked_sub(u32::from(base).into())?
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => u128::from(address).checked_sub(base.into())?,
            _ => return None,
        };
        u32::try_from(offset).ok().filter(|offset| *offset < self.size())
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & keep).into())
        }
        IpAddr::V6(a) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & keep).into())
        }
    }
}

fn nth(address: IpAddr, offset: u32) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(u32::from(a).wrapping_add(offset).into()),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).wrapping_add(offset.into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_their_addresses() {
        let range = Cidr::parse("10.43.7.9/16").unwrap();
        assert_eq!(range.to_string(), "10.43.0.0/16");
        assert_eq!(range.size(), 65_536);
        assert_eq!(range.nth(258), IpAddr::from([10, 43, 1, 2]));
        assert_eq!(range.offset(IpAddr::from([10, 43, 1, 2])), Some(258));
        assert_eq!(range.offset(IpAddr::from([10, 44, 0, 0])), None);
        assert_eq!(Cidr::parse("10.0.0.0/33"), None);
        assert_eq!(Cidr::parse("fd00::/108").unwrap().size(), 65_536);
    }
}
