//! The addresses of a Service: how the single and the plural field mirror each other, and what may change.
//! Upstream: pkg/registry/core/service/strategy.go, ValidateServiceClusterIPsRelatedFields.

use std::collections::HashSet;
use std::net::IpAddr;

use super::is_headless;
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::ip;
use crate::kinds::optional::{items, items_mut, text};
use crate::types::core::v1::{Service, ServiceSpec};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FIXED: &str = "may not change once set";

/// A new service: the single address is the first of the plural.
pub(super) fn normalize_new(service: &mut Service) {
    if let Some(spec) = &mut service.spec {
        normalize(spec, None);
    }
}

/// Clients set either field; whichever they changed wins.
pub(super) fn normalize(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let single = text(&spec.cluster_ip).to_owned();
    let Some(old) = old else {
        if !single.is_empty() && items(&spec.cluster_ips).is_empty() {
            spec.cluster_ips = Some(vec![single]);
        }
        return;
    };
    let unchanged_list = items(&spec.cluster_ips) == items(&old.cluster_ips);
    if single != text(&old.cluster_ip) && unchanged_list {
        if single.is_empty() {
            spec.cluster_ips = None;
        } else if !items(&spec.cluster_ips).is_empty() {
            items_mut(&mut spec.cluster_ips)[0] = single;
        } else {
            spec.cluster_ips = Some(vec![single]);
        }
    } else if single.is_empty() && !items(&spec.cluster_ips).is_empty() && text(&old.cluster_ip).is_empty() {
        spec.cluster_ip = items(&spec.cluster_ips).first().cloned();
    } else if !single.is_empty() && items(&spec.cluster_ips).is_empty() {
        spec.cluster_ips = Some(vec![single]);
    }
}

fn has_cluster_ip(spec: &ServiceSpec) -> bool {
    matches!(text(&spec.type_), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    match text(&spec.type_) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// What was allocated and is left out of an update is kept: `kubectl replace` must not lose the address.
pub(super) fn keep_allocated(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if has_cluster_ip(spec) && has_cluster_ip(old) {
        if text(&spec.cluster_ip).is_empty() {
            spec.cluster_ip.clone_from(&old.cluster_ip);
        }
        if items(&spec.cluster_ips).is_empty() && spec.cluster_ip == old.cluster_ip {
            spec.cluster_ips.clone_from(&old.cluster_ips);
        }
        if items(&spec.ip_families).is_empty() {
            spec.ip_families.clone_from(&old.ip_families);
        }
        if spec.ip_family_policy.is_none() {
            spec.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    }
    if has_node_ports(spec) && has_node_ports(old) {
        let used: Vec<i32> = items(&spec.ports).iter().filter_map(|port| port.node_port).collect();
        for port in items_mut(&mut spec.ports).iter_mut().filter(|port| port.node_port.unwrap_or(0) == 0) {
            let same = items(&old.ports)
                .iter()
                .find(|old| old.port == port.port && text(&old.protocol) == text(&port.protocol));
            port.node_port = same.and_then(|old| old.node_port).filter(|number| !used.contains(number));
        }
    }
    if super::needs_health_check(spec)
        && super::needs_health_check(old)
        && spec.health_check_node_port.unwrap_or(0) == 0
    {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// What belongs to the old type and was not touched goes with it, so that a change of type needs one field only.
pub(super) fn drop_type_dependent(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if has_cluster_ip(old) && !has_cluster_ip(spec) {
        if spec.cluster_ip == old.cluster_ip && spec.cluster_ips == old.cluster_ips {
            (spec.cluster_ip, spec.cluster_ips) = (None, None);
        }
        if spec.ip_families == old.ip_families {
            spec.ip_families = None;
        }
        if spec.ip_family_policy == old.ip_family_policy {
            spec.ip_family_policy = None;
        }
    }
    if has_node_ports(old) && !has_node_ports(spec) {
        let before: Vec<_> = items(&old.ports).iter().filter_map(|port| port.node_port).collect();
        for port in items_mut(&mut spec.ports) {
            if port.node_port.is_some_and(|number| before.contains(&number)) {
                port.node_port = None;
            }
        }
    }
    if super::needs_health_check(old)
        && !super::needs_health_check(spec)
        && spec.health_check_node_port == old.health_check_node_port
    {
        spec.health_check_node_port = None;
    }
    let (was, is) = (text(&old.type_) == "LoadBalancer", text(&spec.type_) == "LoadBalancer");
    if was && !is {
        if spec.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == old.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    if super::is_external(old)
        && !super::is_external(spec)
        && spec.external_traffic_policy == old.external_traffic_policy
    {
        spec.external_traffic_policy = None;
    }
}

pub(super) fn validate(errors: &mut ErrorList, spec: &ServiceSpec, path: &Path) {
    if text(&spec.type_) == "ExternalName" {
        return;
    }
    let list_path = path.child("clusterIPs");
    let (single, list) = (text(&spec.cluster_ip), items(&spec.cluster_ips));
    match (single.is_empty(), list.first()) {
        (false, None) => errors.push(field::required(&list_path, "")),
        (false, Some(first)) if first != single => {
            errors.push(field::invalid(&list_path, list.to_vec(), "first value must match `clusterIP`"));
        }
        (true, Some(_)) => {
            let message = "must be empty when `clusterIP` is not specified";
            errors.push(field::invalid(&list_path, list.to_vec(), message));
        }
        _ => {}
    }
    let families = items(&spec.ip_families);
    let mut seen = HashSet::new();
    for (index, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(index);
        if !FAMILIES.contains(&&**family) {
            errors.push(field::not_supported(&path, &**family, &FAMILIES));
        }
        if !seen.insert(family) {
            errors.push(field::duplicate(&path, &**family));
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !policies.contains(&&**policy) {
            errors.push(field::not_supported(&path.child("ipFamilyPolicy"), &**policy, &policies));
        }
    }
    let before = errors.len();
    for (index, address) in list.iter().enumerate() {
        if index == 0 && address == "None" {
            if list.len() > 1 {
                errors.push(field::invalid(
                    &list_path,
                    list.to_vec(),
                    "'None' must be the first and only value",
                ));
            }
            continue;
        }
        ip(errors, &list_path.index(index), address);
    }
    if list.len() > 2 {
        errors.push(field::invalid(&list_path, list.to_vec(), "may only hold up to 2 values"));
    }
    if errors.len() > before {
        return;
    }
    let is_v6 = |address: &String| address.contains(':');
    if list.len() == 2 && is_v6(&list[0]) == is_v6(&list[1]) {
        let message = "may specify no more than one IP for each IP family";
        errors.push(field::invalid(&list_path, list.to_vec(), message));
    }
    if !is_headless(spec) {
        for (index, (address, family)) in list.iter().zip(families).enumerate() {
            if (family == "IPv6") != is_v6(address) {
                let message = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
                errors.push(field::invalid(&list_path.index(index), &**address, message));
            }
        }
    }
}

pub(super) fn validate_update(errors: &mut ErrorList, new: &ServiceSpec, old: &ServiceSpec, path: &Path) {
    if text(&new.type_) == "ExternalName" || text(&old.type_) == "ExternalName" {
        return;
    }
    if !(is_headless(new) && is_headless(old)) {
        let path = path.child("clusterIPs");
        fixed(
            errors,
            items(&new.cluster_ips),
            items(&old.cluster_ips),
            "primary clusterIP can not be unset",
            &path,
        );
    }
    if !is_headless(new) && !is_headless(old) {
        let path = path.child("ipFamilies");
        fixed(
            errors,
            items(&new.ip_families),
            items(&old.ip_families),
            "primary ipFamily can not be unset",
            &path,
        );
    }
    let fewer = items(&new.cluster_ips).len() == 1 && items(&old.cluster_ips).len() == 2;
    if fewer && text(&new.ip_family_policy) != "SingleStack" {
        errors.push(field::invalid(
            &path.child("ipFamilyPolicy"),
            text(&new.ip_family_policy),
            "must be set to 'SingleStack' when releasing the secondary clusterIP",
        ));
    }
}

/// The second entry may come and go; the first stays.
fn fixed(errors: &mut ErrorList, new: &[String], old: &[String], unset: &str, path: &Path) {
    if new.is_empty() && !old.is_empty() {
        errors.push(field::invalid(&path.index(0), new.to_vec(), unset));
        return;
    }
    let compared = if new.len() == old.len() { old.len() } else { old.len().min(1) };
    for (index, (new_entry, old_entry)) in new.iter().zip(old).take(compared).enumerate() {
        if new_entry != old_entry {
            errors.push(field::invalid(&path.index(index), new.to_vec(), FIXED));
        }
    }
}

/// Refuses addresses that mean the node itself or a special use: as endpoints and external addresses they would be a
/// way around the network's rules.
pub(crate) fn special(errors: &mut ErrorList, address: &str, path: &Path) {
    let Ok(parsed) = address.parse::<IpAddr>() else {
        errors.push(field::invalid(path, address, "must be a valid IP address"));
        return;
    };
    let (link_local, link_local_multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    for (is, message) in [
        (parsed.is_unspecified(), format!("may not be unspecified ({address})")),
        (parsed.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (
            link_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ] {
        if is {
            errors.push(field::invalid(path, address, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_refused() {
        for (address, refused) in [
            ("10.0.0.1", false),
            ("2001:db8::1", false),
            ("127.0.0.1", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("224.0.0.5", true),
            ("fe80::1", true),
            ("x", true),
        ] {
            let mut errors = ErrorList::new();
            special(&mut errors, address, &Path::new("ip"));
            assert_eq!(!errors.is_empty(), refused, "{address}");
        }
    }
}
