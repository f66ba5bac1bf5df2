//! NetworkPolicy: what traffic pods may have.
//! Upstream: pkg/registry/networking/networkpolicy, pkg/apis/networking.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{cidr, json, one_of_if_set, port, port_number};
use crate::kinds::optional::{default_text, items, items_mut};
use crate::kinds::row;
use crate::kinds::warn;
use crate::meta::IntOrString;
use crate::meta_validation::label_selector_errors;
use crate::names::parse_cidr;
use crate::types::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["netpol".into()],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Pod-Selector", "string", "Which pods the policy is for."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<NetworkPolicy>::new()
                .default_with(default)
                .validate(validate)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", Scope::Namespaced)
    }
}

fn default(policy: &mut NetworkPolicy) {
    let spec = policy.spec.get_or_insert_default();
    spec.pod_selector.get_or_insert_default();
    let rules = items_mut(&mut spec.ingress).iter_mut().map(|rule| &mut rule.ports);
    for ports in rules.chain(items_mut(&mut spec.egress).iter_mut().map(|rule| &mut rule.ports)) {
        for port in items_mut(ports) {
            default_text(&mut port.protocol, "TCP");
        }
    }
    if items(&spec.policy_types).is_empty() {
        let mut types = vec!["Ingress".to_owned()];
        if !items(&spec.egress).is_empty() {
            types.push("Egress".to_owned());
        }
        spec.policy_types = Some(types);
    }
}

fn validate(policy: &NetworkPolicy) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = NetworkPolicySpec::default();
    let spec = policy.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    if let Some(selector) = &spec.pod_selector {
        errors.extend(label_selector_errors(selector, &path.child("podSelector")));
    }
    for (index, rule) in items(&spec.ingress).iter().enumerate() {
        let path = path.child("ingress").index(index);
        ports(&mut errors, items(&rule.ports), &path.child("ports"));
        peers(&mut errors, items(&rule.from), &path.child("from"));
    }
    for (index, rule) in items(&spec.egress).iter().enumerate() {
        let path = path.child("egress").index(index);
        ports(&mut errors, items(&rule.ports), &path.child("ports"));
        peers(&mut errors, items(&rule.to), &path.child("to"));
    }
    let types = items(&spec.policy_types);
    let types_path = path.child("policyTypes");
    if types.len() > 2 {
        let message = "may not specify more than two policyTypes";
        errors.push(field::invalid(&types_path, types.to_vec(), message));
        return errors;
    }
    for (index, kind) in types.iter().enumerate() {
        if !["Egress", "Ingress"].contains(&&**kind) {
            errors.push(field::not_supported(&types_path.index(index), &**kind, &["Egress", "Ingress"]));
        }
    }
    errors
}

fn ports(errors: &mut ErrorList, ports: &[NetworkPolicyPort], path: &Path) {
    for (index, one) in ports.iter().enumerate() {
        let path = path.index(index);
        one_of_if_set(errors, &path.child("protocol"), &one.protocol, &["SCTP", "TCP", "UDP"]);
        let end_path = path.child("endPort");
        match (&one.port, one.end_port) {
            (None, Some(_)) => {
                errors.push(field::required(
                    &path.child("port"),
                    "must be specified when `endPort` is specified",
                ));
            }
            (Some(IntOrString::String(_)), Some(end)) => {
                errors.push(field::invalid(
                    &end_path,
                    end,
                    "may not be specified when `port` is non-numeric",
                ));
            }
            (Some(IntOrString::Int(first)), Some(end)) => {
                if end < *first {
                    errors.push(field::invalid(&end_path, end, "must be greater than or equal to `port`"));
                }
                port_number(errors, &end_path, end);
            }
            (_, None) => {}
        }
        if let Some(number) = &one.port {
            port(errors, &path.child("port"), number);
        }
    }
}

fn peers(errors: &mut ErrorList, peers: &[NetworkPolicyPeer], path: &Path) {
    for (index, peer) in peers.iter().enumerate() {
        let path = path.index(index);
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        for (name, selector) in
            [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)]
        {
            if let Some(selector) = selector {
                errors.extend(label_selector_errors(selector, &path.child(name)));
            }
        }
        match &peer.ip_block {
            None if !selects => errors.push(field::required(&path, "must specify a peer")),
            Some(_) if selects => {
                errors.push(field::forbidden(&path, "may not specify both ipBlock and another peer"));
            }
            None => {}
            Some(block) => {
                let path = path.child("ipBlock");
                if block.cidr.is_empty() {
                    errors.push(field::required(&path.child("cidr"), ""));
                    continue;
                }
                cidr(errors, &path.child("cidr"), &block.cidr);
                for (index, except) in items(&block.except).iter().enumerate() {
                    let path = path.child("except").index(index);
                    cidr(errors, &path, except);
                    if let (Some(outer), Some(inner)) = (parse_cidr(&block.cidr), parse_cidr(except))
                        && !within(inner, outer)
                    {
                        let message = "must be a strict subset of `cidr`";
                        errors.push(field::invalid(&path, json(except), message));
                    }
                }
            }
        }
    }
}

fn within(inner: (std::net::IpAddr, u8), outer: (std::net::IpAddr, u8)) -> bool {
    use std::net::IpAddr;
    if inner.1 <= outer.1 {
        return false;
    }
    match (inner.0, outer.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let shift = 32 - u32::from(outer.1);
            a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shift = 128 - u32::from(outer.1);
            a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

fn warnings(policy: &NetworkPolicy, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(spec) = &policy.spec else { return warnings };
    let path = Path::new("spec");
    let mut peers = |path: Path, peers: &[NetworkPolicyPeer]| {
        for (index, peer) in peers.iter().enumerate() {
            let Some(block) = &peer.ip_block else { continue };
            let path = path.index(index).child("ipBlock");
            warn::cidr(&mut warnings, &path.child("cidr"), &block.cidr);
            for (index, except) in items(&block.except).iter().enumerate() {
                warn::cidr(&mut warnings, &path.child("except").index(index), except);
            }
        }
    };
    for (index, rule) in items(&spec.ingress).iter().enumerate() {
        peers(path.child("ingress").index(index).child("from"), items(&rule.from));
    }
    for (index, rule) in items(&spec.egress).iter().enumerate() {
        peers(path.child("egress").index(index).child("to"), items(&rule.to));
    }
    warnings
}

fn cells(policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.clone()).unwrap_or_default();
    vec![row::name(&policy.metadata), row::selector(Some(&selector)), row::age(&policy.metadata, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checks() {
        let from = |peer: Value| json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
        for (spec, errors) in [
            (json!({"podSelector": {}}), 0),
            (from(json!({})), 1),
            (from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})), 0),
            (from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})), 1),
            (from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})), 1),
            (json!({"egress": [{"ports": [{"port": 80, "endPort": 70}]}]}), 1),
            (json!({"policyTypes": ["x"]}), 1),
        ] {
            let mut policy: NetworkPolicy = serde_json::from_value(json!({"spec": spec})).unwrap();
            default(&mut policy);
            assert_eq!(validate(&policy).len(), errors, "{spec}");
        }
    }
}
