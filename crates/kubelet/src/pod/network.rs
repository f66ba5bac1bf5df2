//! A pod's names: its hostname, `/etc/hosts` and how it resolves.
//! Upstream: `pkg/kubelet/network/dns`, `pkg/kubelet/util/pod_hosts.go` (`/etc/hosts` in `kubelet_pods.go`).

use std::net::IpAddr;

use api::types::core::v1::Pod;
use cri::v1::DnsConfig;

use super::spec;

/// What the node knows about names.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// As in `cluster.local`.
    pub cluster_domain: String,
    /// The node's own nameservers.
    pub host_servers: Vec<String>,
    /// The node's own search list.
    pub host_searches: Vec<String>,
    /// The node's own options.
    pub host_options: Vec<String>,
}

impl Resolver {
    /// Reads the text of a `resolv.conf`.
    pub fn parse(text: &str, cluster_dns: Vec<IpAddr>, cluster_domain: String) -> Resolver {
        let mut resolver = Resolver { cluster_dns, cluster_domain, ..Resolver::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.host_servers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.host_searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.host_options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }
}

/// How the pod resolves names.
pub fn dns(pod: &Pod, resolver: &Resolver) -> DnsConfig {
    let spec = spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !super::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !resolver.cluster_dns.is_empty() {
        let domain = &resolver.cluster_domain;
        let mut searches = Vec::new();
        if !domain.is_empty() {
            searches.push(format!("{}.svc.{domain}", super::namespace(pod)));
            searches.push(format!("svc.{domain}"));
            searches.push(domain.clone());
        }
        searches.extend(resolver.host_searches.iter().cloned());
        DnsConfig {
            servers: resolver.cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        DnsConfig {
            servers: resolver.host_servers.clone(),
            searches: resolver.host_searches.clone(),
            options: resolver.host_options.clone(),
        }
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let prefix = format!("{name}:");
            config.options.retain(|o| o != name && !o.starts_with(&prefix));
            config.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    config.servers.truncate(3);
    for list in [&mut config.servers, &mut config.searches] {
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|item| seen.insert(item.clone()));
    }
    config.searches.truncate(32);
    config
}

/// The pod's hostname and, if it has a subdomain, its whole name.
pub fn hostname(pod: &Pod, node: &str, domain: &str) -> (String, Option<String>) {
    let spec = spec(pod);
    if super::host_network(pod) {
        return (node.to_owned(), None);
    }
    if let Some(over) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (over.to_owned(), None);
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(super::name(pod));
    // A host name has at most 63 characters; upstream cuts and drops what may not end it.
    let name: String = name.chars().take(63).collect();
    let name = name.trim_end_matches(['-', '.']).to_owned();
    let whole = spec
        .subdomain
        .as_deref()
        .filter(|subdomain| !subdomain.is_empty())
        .map(|subdomain| format!("{name}.{subdomain}.{}.svc.{domain}", super::namespace(pod)));
    (name, whole)
}

/// What the kernel is told as the sandbox's hostname.
pub fn sandbox_hostname(pod: &Pod, node: &str, domain: &str) -> String {
    let (name, whole) = hostname(pod, node, domain);
    match whole {
        Some(whole) if spec(pod).set_hostname_as_fqdn == Some(true) && whole.len() <= 64 => whole,
        _ if super::host_network(pod) => String::new(),
        _ => name,
    }
}

/// The managed `/etc/hosts`, or `None` where the node's own is kept as it is (`node_hosts` is its text).
pub fn hosts(pod: &Pod, ips: &[String], node: &str, domain: &str, node_hosts: Option<&str>) -> String {
    let mut out = String::new();
    match node_hosts {
        Some(text) => {
            out.push_str("# Kubernetes-managed hosts file (host network).\n");
            out.push_str(text);
        }
        None => {
            out.push_str("# Kubernetes-managed hosts file.\n");
            out.push_str("127.0.0.1\tlocalhost\n");
            out.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
            out.push_str("fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
            let (name, whole) = hostname(pod, node, domain);
            for ip in ips {
                match &whole {
                    Some(whole) => out.push_str(&format!("{ip}\t{whole}\t{name}\n")),
                    None => out.push_str(&format!("{ip}\t{name}\n")),
                }
            }
        }
    }
    let aliases = spec(pod).host_aliases.clone().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn resolution_by_policy() {
        let resolver = Resolver::parse(
            "nameserver 9.9.9.9\nsearch corp\noptions rotate\n",
            vec!["10.43.0.10".parse().unwrap()],
            "cluster.local".into(),
        );
        for (spec, servers, searches, options) in [
            (
                json!({}),
                "10.43.0.10",
                "shop.svc.cluster.local svc.cluster.local cluster.local corp",
                "ndots:5",
            ),
            (json!({"hostNetwork": true}), "9.9.9.9", "corp", "rotate"),
            (json!({"dnsPolicy": "Default"}), "9.9.9.9", "corp", "rotate"),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"],
                    "options": [{"name": "ndots", "value": "2"}]}}),
                "1.1.1.1",
                "x",
                "ndots:2",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "10.43.0.10",
                "shop.svc.cluster.local svc.cluster.local cluster.local corp",
                "ndots:2 edns0",
            ),
        ] {
            let got = dns(&pod(spec.clone()), &resolver);
            assert_eq!(
                (got.servers.join(" "), got.searches.join(" "), got.options.join(" ")),
                (servers.into(), searches.into(), options.into()),
                "{spec}"
            );
        }
    }

    #[test]
    fn names_of_a_pod() {
        let plain = pod(json!({}));
        let member = pod(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        assert_eq!(sandbox_hostname(&plain, "n", "d"), "web-0");
        assert_eq!(sandbox_hostname(&member, "n", "d"), "h.s.shop.svc.d");
        let text = hosts(&member, &["10.0.0.5".into()], "n", "d", None);
        assert!(text.contains("10.0.0.5\th.s.shop.svc.d\th\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }
}
