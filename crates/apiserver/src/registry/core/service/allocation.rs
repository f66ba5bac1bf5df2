//! Which cluster IPs and node ports are taken.
//!
//! Two bitmaps under one lock: what this server believes, to choose by. What is true is in the store (`claims`), which a
//! write asks. New ones are chosen at random from the upper part of a range; the lower part
//! is left for people who choose, until the upper is full.
//! Upstream: pkg/registry/core/service/{ipallocator,portallocator}.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::field::{self, Path};
use api::{GroupKind, Object, Status};
use foundation::Randomness;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::fields;
use crate::options::Cidr;

/// The ranges that are allocated from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranges {
    /// Cluster IPs.
    pub(super) addresses: Cidr,
    /// Node ports: the first and the last.
    pub(super) ports: (u16, u16),
}

/// Offsets in the ranges, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Of cluster IPs.
    pub(super) addresses: Vec<u32>,
    /// Of node ports.
    pub(super) ports: Vec<u32>,
}

impl Held {
    /// What is not in the other.
    pub(super) fn without(&self, other: &Self) -> Self {
        // Both are sorted.
        let rest = |of: &[u32], other: &[u32]| {
            of.iter().filter(|at| other.binary_search(at).is_err()).copied().collect()
        };
        Self { addresses: rest(&self.addresses, &other.addresses), ports: rest(&self.ports, &other.ports) }
    }
}

/// The allocator of one server.
pub(super) struct Allocator {
    ranges: Ranges,
    taken: Mutex<Taken>,
}

struct Taken {
    addresses: Bitmap,
    /// By port: protocols share a number within one Service only, so a count is not needed.
    ports: Bitmap,
}

struct Bitmap {
    words: Vec<u64>,
    size: u32,
    /// Offsets below this are left for static choice as long as possible.
    reserved: u32,
}

impl Bitmap {
    fn new(size: u32, reserved: u32) -> Self {
        Self { words: vec![0; (size as usize).div_ceil(64)], size, reserved }
    }

    /// Takes `at`; false if it is taken.
    fn take(&mut self, at: u32) -> bool {
        let (word, bit) = (at as usize / 64, 1 << (at % 64));
        let free = self.words[word] & bit == 0;
        self.words[word] |= bit;
        free
    }

    fn is_taken(&self, at: u32) -> bool {
        self.words[at as usize / 64] & (1 << (at % 64)) != 0
    }

    fn free(&mut self, at: u32) {
        self.words[at as usize / 64] &= !(1 << (at % 64));
    }

    fn next(&mut self, randomness: &dyn Randomness) -> Option<u32> {
        for (low, high) in [(self.reserved, self.size), (0, self.reserved)] {
            if low >= high {
                continue;
            }
            let span = u64::from(high - low);
            let start = randomness.below(span);
            for step in 0..span {
                let at = low + u32::try_from((start + step) % span).ok()?;
                if self.take(at) {
                    return Some(at);
                }
            }
        }
        None
    }
}

impl Ranges {
    /// What a Service has of the ranges. What is not in them is nobody's business here.
    pub(super) fn held(&self, service: &Object) -> Held {
        let spec = &service.0["spec"];
        let mut addresses: Vec<u32> = Vec::new();
        if fields::needs_cluster_ip(service) {
            let texts = spec["clusterIPs"].as_array().into_iter().flatten().chain([&spec["clusterIP"]]);
            addresses = texts.filter_map(|t| self.addresses.offset(t.as_str()?.parse().ok()?)).collect();
        }
        // Only what is allocated: nobody promises the others a number that they have written down themselves.
        let mut numbers: Vec<&Value> = Vec::new();
        if fields::needs_node_ports(service) {
            numbers.extend(spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]));
        }
        if fields::needs_health_port(service) {
            numbers.push(&spec["healthCheckNodePort"]);
        }
        let numbers = numbers.into_iter().filter_map(Value::as_u64);
        let mut ports: Vec<u32> = numbers.filter_map(|port| self.port_offset(port)).collect();
        for list in [&mut addresses, &mut ports] {
            list.sort_unstable();
            list.dedup();
        }
        Held { addresses, ports }
    }

    /// Where a node port is in the range, if it is.
    pub(super) fn port_offset(&self, port: u64) -> Option<u32> {
        let (low, high) = (u64::from(self.ports.0), u64::from(self.ports.1));
        (low..=high).contains(&port).then(|| u32::try_from(port - low).unwrap_or(0))
    }

    /// The node port at this offset.
    pub(super) fn port(&self, at: u32) -> u32 {
        u32::from(self.ports.0) + at
    }
}

impl Allocator {
    pub(super) fn new(ranges: Ranges) -> Self {
        let Ranges { addresses: range, ports } = ranges;
        // Upstream: min(max(16, size/16), 256), and as much for ports up to 128.
        let mut addresses = Bitmap::new(range.size(), (range.size() / 16).clamp(16, 256).min(range.size()));
        // Neither the network's own address nor the broadcast address is anybody's.
        addresses.take(0);
        if range.address.is_ipv4() && range.size() > 1 {
            addresses.take(range.size() - 1);
        }
        let count = u32::from(ports.1.saturating_sub(ports.0)) + 1;
        let band = (count / 32).clamp(16, 128).min(count);
        let taken = Taken { addresses, ports: Bitmap::new(count, if count > band { band } else { 0 }) };
        Self { ranges, taken: Mutex::new(taken) }
    }

    /// Believes that these, and no others, are taken.
    pub(super) fn start_over(&self, held: &Held) {
        let new = Self::new(self.ranges);
        new.adopt(held);
        *self.taken.lock() = new.taken.into_inner();
    }

    /// Believes that these are taken.
    pub(super) fn adopt(&self, held: &Held) {
        let mut taken = self.taken.lock();
        for at in &held.addresses {
            taken.addresses.take(*at);
        }
        for at in &held.ports {
            taken.ports.take(*at);
        }
    }

    /// Which of these are believed to be taken.
    pub(super) fn believed(&self, held: Held) -> Held {
        let taken = self.taken.lock();
        let addresses = held.addresses.into_iter().filter(|at| taken.addresses.is_taken(*at));
        let ports = held.ports.into_iter().filter(|at| taken.ports.is_taken(*at));
        Held { addresses: addresses.collect(), ports: ports.collect() }
    }

    /// Gives the Service what its type needs, beyond what `old` has already.
    pub(super) fn allocate(
        &self,
        service: &mut Object,
        old: Option<&Object>,
        randomness: &dyn Randomness,
    ) -> Result<Held, Status> {
        let held = old.map(|old| self.ranges.held(old)).unwrap_or_default();
        let mut taken = self.taken.lock();
        let mut taking = Held::default();
        let result = self
            .addresses(&mut taken, &mut taking, service, &held.addresses, randomness)
            .and_then(|()| self.node_ports(&mut taken, &mut taking, service, &held.ports, randomness));
        match result {
            Ok(()) => Ok(taking),
            Err(error) => {
                undo(&mut taken, taking);
                Err(Status::invalid(&GroupKind::new("", "Service"), service.name(), vec![error]))
            }
        }
    }

    fn addresses(
        &self,
        taken: &mut Taken,
        taking: &mut Held,
        service: &mut Object,
        held: &[u32],
        randomness: &dyn Randomness,
    ) -> Result<(), field::Error> {
        if !fields::needs_cluster_ip(service) {
            return Ok(());
        }
        let path = Path::new("spec").child("clusterIPs");
        let asked = fields::cluster_ip(service).to_owned();
        if asked.is_empty() {
            let Some(at) = taken.addresses.next(randomness) else {
                let detail = "failed to allocate a serviceIP: range is full";
                return Err(field::internal(&path, detail));
            };
            taking.addresses.push(at);
            let address = self.ranges.addresses.nth(at).to_string();
            service.0["spec"]["clusterIP"] = address.clone().into();
            service.0["spec"]["clusterIPs"] = json!([address]);
            return Ok(());
        }
        service.0["spec"]["clusterIP"] = asked.clone().into();
        if service.0["spec"]["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            service.0["spec"]["clusterIPs"] = json!([asked]);
        }
        let Ok(address) = asked.parse::<IpAddr>() else {
            // Validation says what an address looks like.
            return Ok(());
        };
        let refuse = |why: String| {
            Err(field::invalid(&path, json!([asked]), format!("failed to allocate IP {asked}: {why}")))
        };
        let Some(at) = self.ranges.addresses.offset(address) else {
            return refuse(format!(
                "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {}",
                self.ranges.addresses
            ));
        };
        if held.contains(&at) {
            return Ok(());
        }
        if !taken.addresses.take(at) {
            return refuse("provided IP is already allocated".to_owned());
        }
        taking.addresses.push(at);
        Ok(())
    }

    fn node_ports(
        &self,
        taken: &mut Taken,
        taking: &mut Held,
        service: &mut Object,
        held: &[u32],
        randomness: &dyn Randomness,
    ) -> Result<(), field::Error> {
        let spec = Path::new("spec");
        if fields::needs_node_ports(service) {
            let mut ports = service.0["spec"]["ports"].as_array().cloned().unwrap_or_default();
            // Two protocols on one port share its node port.
            let mut shared: BTreeMap<u64, (u64, String)> = BTreeMap::new();
            for (index, port) in ports.iter_mut().enumerate() {
                let number = port["port"].as_u64().unwrap_or(0);
                let protocol = fields::protocol(port).to_owned();
                let asked = port["nodePort"].as_u64().unwrap_or(0);
                let path = spec.child("ports").index(index).child("nodePort");
                let got = match (asked, shared.get(&number)) {
                    (0, Some((other, with))) if *with != protocol => *other,
                    (0, _) => self.any(taken, taking, randomness, &path)?,
                    _ => self.port(taken, taking, asked, held, &path)?,
                };
                port["nodePort"] = got.into();
                shared.entry(number).or_insert((got, protocol));
            }
            service.0["spec"]["ports"] = ports.into();
        }
        if fields::needs_health_port(service) {
            let path = spec.child("healthCheckNodePort");
            let got = match service.0["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) {
                0 => self.any(taken, taking, randomness, &path)?,
                asked => self.port(taken, taking, asked, held, &path)?,
            };
            service.0["spec"]["healthCheckNodePort"] = got.into();
        }
        Ok(())
    }

    fn any(
        &self,
        taken: &mut Taken,
        taking: &mut Held,
        randomness: &dyn Randomness,
        path: &Path,
    ) -> Result<u64, field::Error> {
        let at = taken
            .ports
            .next(randomness)
            .ok_or_else(|| field::internal(path, "failed to allocate a nodePort: range is full"))?;
        taking.ports.push(at);
        Ok(self.ranges.port(at).into())
    }

    fn port(
        &self,
        taken: &mut Taken,
        taking: &mut Held,
        asked: u64,
        held: &[u32],
        path: &Path,
    ) -> Result<u64, field::Error> {
        let Some(at) = self.ranges.port_offset(asked) else {
            let (low, high) = self.ranges.ports;
            let detail =
                format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
            return Err(field::invalid(path, asked, detail));
        };
        if held.contains(&at) || taking.ports.contains(&at) {
            return Ok(asked);
        }
        if !taken.ports.take(at) {
            return Err(field::invalid(path, asked, "provided port is already allocated"));
        }
        taking.ports.push(at);
        Ok(asked)
    }

    /// Believes that these are free.
    pub(super) fn give_back(&self, held: Held) {
        undo(&mut self.taken.lock(), held);
    }

    /// Believes that what `old` had and `new` (`None`: deleted) has no more is free.
    pub(super) fn release(&self, old: &Object, new: Option<&Object>) {
        let kept = new.map(|new| self.ranges.held(new)).unwrap_or_default();
        let mut held = self.ranges.held(old);
        held.addresses.retain(|at| !kept.addresses.contains(at));
        held.ports.retain(|at| !kept.ports.contains(at));
        self.give_back(held);
    }
}

fn undo(taken: &mut Taken, held: Held) {
    for at in held.addresses {
        taken.addresses.free(at);
    }
    for at in held.ports {
        taken.ports.free(at);
    }
}

#[cfg(test)]
mod tests {
    use foundation::SeededRandomness;

    use super::*;

    fn service(spec: Value) -> Object {
        Object(json!({"metadata": {"name": "s"}, "spec": spec}))
    }

    fn allocator() -> Allocator {
        Allocator::new(Ranges { addresses: Cidr::parse("10.43.0.0/28").unwrap(), ports: (30_000, 30_003) })
    }

    #[test]
    fn addresses_are_given_once_until_the_range_is_full() {
        let (allocator, random) = (allocator(), SeededRandomness::new(1));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..14 {
            let mut one = service(json!({"type": "ClusterIP"}));
            allocator.allocate(&mut one, None, &random).unwrap();
            assert!(seen.insert(one.0["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        }
        let full = allocator.allocate(&mut service(json!({})), None, &random).unwrap_err();
        assert!(full.message.contains("range is full"), "{full}");
        allocator.release(&service(json!({"clusterIP": "10.43.0.3"})), None);
        let mut again = service(json!({}));
        allocator.allocate(&mut again, None, &random).unwrap();
        assert_eq!(again.0["spec"]["clusterIP"], "10.43.0.3");
    }

    #[test]
    fn what_is_asked_for_is_given_or_refused_in_upstreams_words() {
        let (allocator, random) = (allocator(), SeededRandomness::new(1));
        let mut first = service(
            json!({"type": "NodePort", "clusterIP": "10.43.0.5", "ports": [{"port": 80, "nodePort": 30001}]}),
        );
        allocator.allocate(&mut first, None, &random).unwrap();
        for (spec, message) in [
            (
                json!({"clusterIP": "10.43.0.5"}),
                "failed to allocate IP 10.43.0.5: provided IP is already allocated",
            ),
            (
                json!({"clusterIP": "10.44.0.5"}),
                "the provided IP (10.44.0.5) is not in the valid range. The range of valid IPs is 10.43.0.0/28",
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}),
                "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated",
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
                "provided port is not in the valid range. The range of valid ports is 30000-30003",
            ),
        ] {
            let refused = allocator.allocate(&mut service(spec), None, &random).unwrap_err();
            assert_eq!(refused.code, 422);
            assert!(refused.message.contains(message), "{refused}");
        }
        // An update keeps what it has, and a refused write has taken nothing.
        let mut same = first.clone();
        assert_eq!(allocator.allocate(&mut same, Some(&first), &random).unwrap(), Held::default());
    }

    #[test]
    fn protocols_on_one_port_share_a_node_port() {
        let (allocator, random) = (allocator(), SeededRandomness::new(1));
        let ports = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80}]);
        let mut dns = service(json!({"type": "NodePort", "ports": ports}));
        allocator.allocate(&mut dns, None, &random).unwrap();
        let node_port = |index: usize| dns.0["spec"]["ports"][index]["nodePort"].as_u64().unwrap();
        assert_eq!(node_port(0), node_port(1));
        assert_ne!(node_port(0), node_port(2));
    }

    #[test]
    fn what_a_change_of_type_does_not_need_is_released() {
        let (allocator, random) = (allocator(), SeededRandomness::new(1));
        let mut old = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30002}]}));
        allocator.allocate(&mut old, None, &random).unwrap();
        let mut new = service(json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30002}]}));
        fields::carry_over(&mut new, &old);
        assert_eq!(new.0["spec"]["clusterIP"], old.0["spec"]["clusterIP"]);
        assert!(new.0["spec"]["ports"][0].get("nodePort").is_none());
        allocator.release(&old, Some(&new));
        let mut next = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30002}]}));
        allocator.allocate(&mut next, None, &random).unwrap();
    }
}
