//! What the DNS counts, under CoreDNS' names, which dashboards of cluster DNS read.
//!
//! Upstream: coredns plugin/metrics/vars, plugin/cache. The labels `server` and `view` are as of a CoreDNS that serves
//! `dns://:53` without views.

use std::net::IpAddr;
use std::time::Duration;

use foundation::metrics::{Counter, Family, Histogram, registry};
use hickory_proto::op::{Message, ResponseCode};

const SERVER: &str = "dns://:53";
/// CoreDNS' bounds (TimeBuckets: exponential from a quarter of a millisecond), in seconds.
const LATENCY: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];
/// Types that are told apart; what clients make up is not.
const TYPES: &[&str] = &[
    "A", "AAAA", "CNAME", "DNSKEY", "DS", "MX", "NS", "NSEC", "NSEC3", "PTR", "RRSIG", "SOA", "SRV", "TXT",
    "ANY",
];

/// The families.
pub struct Metrics {
    /// The zone of the cluster, with the dot at its end.
    zone: String,
    requests: Family<Counter>,
    responses: Family<Counter>,
    latency: Family<Histogram>,
    hits: Family<Counter>,
    misses: Family<Counter>,
}

impl Metrics {
    /// Those of a DNS for `domain`.
    pub fn new(domain: &str) -> Self {
        let registry = registry();
        Self {
            zone: format!("{domain}."),
            requests: registry.counter(
                "coredns_dns_requests_total",
                "Queries.",
                &["server", "zone", "view", "proto", "family", "type"],
            ),
            responses: registry.counter(
                "coredns_dns_responses_total",
                "Answers, by their codes.",
                &["server", "zone", "view", "rcode", "plugin"],
            ),
            latency: registry.histogram(
                "coredns_dns_request_duration_seconds",
                "How long queries took, in seconds.",
                &["server", "zone", "view"],
                LATENCY,
            ),
            hits: registry.counter(
                "coredns_cache_hits_total",
                "Queries answered out of the cache.",
                &["server", "type", "zones", "view"],
            ),
            misses: registry.counter(
                "coredns_cache_misses_total",
                "Queries that the cache did not know.",
                &["server", "zones", "view"],
            ),
        }
    }

    /// The zone that a query belongs to: the cluster's, or the rest of the world.
    fn zone_of(&self, query: &Message) -> &str {
        let within = query.queries.first().is_some_and(|question| {
            let name = question.name.to_string().to_ascii_lowercase();
            let name = if name.ends_with('.') { name } else { format!("{name}.") };
            name == self.zone || name.ends_with(&format!(".{}", self.zone))
        });
        if within { &self.zone } else { "." }
    }

    /// A query has come, by UDP or TCP.
    pub fn asked(&self, query: &Message, protocol: &str, peer: IpAddr) {
        let family = if peer.is_ipv4() { "1" } else { "2" };
        let asked = query.queries.first().map(|question| question.query_type.to_string()).unwrap_or_default();
        let kind = if TYPES.contains(&asked.as_str()) { asked.as_str() } else { "other" };
        self.requests.with(&[SERVER, self.zone_of(query), "", protocol, family, kind]).inc();
    }

    /// A query has been answered.
    pub fn answered(&self, query: &Message, answer: &Message, took: Duration) {
        let zone = self.zone_of(query);
        let plugin = if zone == "." { "forward" } else { "kubernetes" };
        let code = match answer.metadata.response_code {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::FormErr => "FORMERR",
            ResponseCode::ServFail => "SERVFAIL",
            ResponseCode::NXDomain => "NXDOMAIN",
            ResponseCode::NotImp => "NOTIMP",
            ResponseCode::Refused => "REFUSED",
            _ => "other",
        };
        self.responses.with(&[SERVER, zone, "", code, plugin]).inc();
        self.latency.with(&[SERVER, zone, ""]).observe_duration(took);
    }

    /// The cache was looked at for a query that is to be forwarded.
    pub fn looked_up(&self, found: Option<&Message>) {
        match found {
            Some(answer) => {
                let denied = answer.metadata.response_code == ResponseCode::NXDomain;
                self.hits.with(&[SERVER, if denied { "denial" } else { "success" }, ".", ""]).inc();
            }
            None => self.misses.with(&[SERVER, ".", ""]).inc(),
        }
    }
}
