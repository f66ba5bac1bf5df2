//! The fields of a Service that hang together with its allocations.
//! Pure. Upstream: pkg/registry/core/service/storage/alloc.go, strategy.go.

use std::net::IpAddr;

use api::field::{self, ErrorList, Path};
use api::{GroupKind, Object, Status};
use serde_json::{Value, json};

use crate::options::Cidr;

/// `spec.type`, defaulted.
pub(super) fn service_type(service: &Object) -> &str {
    service.0["spec"]["type"].as_str().filter(|t| !t.is_empty()).unwrap_or("ClusterIP")
}

/// Whether the Service has cluster IPs of its own.
pub(super) fn needs_cluster_ip(service: &Object) -> bool {
    service_type(service) != "ExternalName" && !is_headless(service)
}

/// Whether its ports have node ports.
pub(super) fn needs_node_ports(service: &Object) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => service.0["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

/// Whether a load balancer asks its nodes for their health.
pub(super) fn needs_health_port(service: &Object) -> bool {
    service_type(service) == "LoadBalancer" && service.0["spec"]["externalTrafficPolicy"] == "Local"
}

/// Whether it is headless.
pub(super) fn is_headless(service: &Object) -> bool {
    cluster_ip(service) == "None"
}

/// `spec.clusterIP`, or the first of `spec.clusterIPs`.
pub(super) fn cluster_ip(service: &Object) -> &str {
    let spec = &service.0["spec"];
    let one = spec["clusterIP"].as_str().filter(|ip| !ip.is_empty());
    one.or_else(|| spec["clusterIPs"][0].as_str()).unwrap_or_default()
}

/// Fills in families and their policy as a cluster of one family has them.
///
/// # Errors
/// 422 where the Service asks for the family that the cluster does not have.
pub(super) fn default_families(service: &mut Object, range: Cidr) -> Result<(), Status> {
    if service_type(service) == "ExternalName" {
        return Ok(());
    }
    let headless = is_headless(service);
    if headless {
        service.0["spec"]["clusterIP"] = "None".into();
        service.0["spec"]["clusterIPs"] = json!(["None"]);
    }
    let selects = service.0["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    let (ours, other) = if range.address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    let name = service.name().to_owned();
    let spec = &mut service.0["spec"];
    let absent =
        |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value == "";
    // Whoever writes the endpoints of a headless Service without a selector decides on their family.
    if headless && !selects {
        if absent(&spec["ipFamilyPolicy"]) {
            spec["ipFamilyPolicy"] = "RequireDualStack".into();
        }
        if absent(&spec["ipFamilies"]) {
            let single = spec["ipFamilyPolicy"] == "SingleStack";
            spec["ipFamilies"] = if single { json!([ours]) } else { json!([ours, other]) };
        }
        return Ok(());
    }
    if absent(&spec["ipFamilyPolicy"]) {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    if absent(&spec["ipFamilies"]) {
        // An address asked for says its family.
        let asked = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
        let asked = if asked.is_empty() { vec![spec["clusterIP"].clone()] } else { asked };
        let of_other = |ip: &Value| {
            let address = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            address.is_some_and(|address| address.is_ipv4() != range.address.is_ipv4())
        };
        for index in (0..asked.len()).filter(|index| of_other(&asked[*index])) {
            let detail = format!("{other} is not configured on this cluster");
            errors.push(field::invalid(&path.child("clusterIPs").index(index), asked.clone(), detail));
        }
    }
    if errors.is_empty() && spec["ipFamilyPolicy"] == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(field::invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", detail));
    }
    for (index, family) in spec["ipFamilies"].as_array().into_iter().flatten().enumerate() {
        // What is no family at all is for validation to say.
        if *family == *other {
            let path = path.child("ipFamilies").index(index);
            errors.push(field::invalid(&path, other, "not configured on this cluster"));
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&GroupKind::new("", "Service"), &name, errors));
    }
    if absent(&spec["ipFamilies"]) {
        spec["ipFamilies"] = json!([ours]);
    }
    Ok(())
}

/// Keeps what was allocated where an update leaves it out, and drops what the new type does not have.
pub(super) fn carry_over(new: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && service_type(new) != "ExternalName" {
        let spec = &mut new.0["spec"];
        let no_ip = spec["clusterIP"].as_str().unwrap_or_default().is_empty();
        let no_ips = spec["clusterIPs"].as_array().is_none_or(Vec::is_empty);
        if no_ip && no_ips {
            spec["clusterIP"] = old.0["spec"]["clusterIP"].clone();
            spec["clusterIPs"] = old.0["spec"]["clusterIPs"].clone();
        } else if no_ips {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        } else if no_ip {
            spec["clusterIP"] = spec["clusterIPs"][0].clone();
        }
    }
    if service_type(new) == "ExternalName" && service_type(old) != "ExternalName" {
        let unchanged = cluster_ip(new) == cluster_ip(old);
        if let (true, Some(spec)) = (unchanged, new.0["spec"].as_object_mut()) {
            for member in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
            {
                spec.remove(member);
            }
        }
    }
    let had: Vec<Value> = old.0["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let (keeps, drops) =
        (needs_node_ports(new) && needs_node_ports(old), !needs_node_ports(new) && needs_node_ports(old));
    let ports = new
        .0
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
        .map(Vec::as_mut_slice)
        .unwrap_or_default();
    for port in ports {
        let same = had.iter().find(|p| p["port"] == port["port"] && protocol(p) == protocol(port));
        let before = same.map(|p| p["nodePort"].clone()).filter(|p| p.as_u64().unwrap_or(0) > 0);
        let present = port["nodePort"].as_u64().unwrap_or(0);
        if let (true, 0, Some(before)) = (keeps, present, &before) {
            port["nodePort"] = before.clone();
        }
        if drops
            && before.as_ref() == Some(&port["nodePort"])
            && let Some(port) = port.as_object_mut()
        {
            port.remove("nodePort");
        }
    }
    if needs_health_port(new) && needs_health_port(old) {
        if new.0["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
            new.0["spec"]["healthCheckNodePort"] = old.0["spec"]["healthCheckNodePort"].clone();
        }
    } else if needs_health_port(old)
        && let Some(spec) = new.0["spec"].as_object_mut()
    {
        spec.remove("healthCheckNodePort");
    }
}

/// A port's protocol, defaulted.
pub(super) fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

/// The name of the port that `asked` (a name, a number, or nothing where there is one port) means.
pub(super) fn port_name(service: &Object, asked: &str) -> Option<String> {
    let ports = service.0["spec"]["ports"].as_array()?;
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    if asked.is_empty() {
        return if ports.len() == 1 { ports.first().map(name) } else { None };
    }
    let number = asked.parse::<u64>().ok();
    ports.iter().find(|p| p["name"] == asked || (number.is_some() && p["port"].as_u64() == number)).map(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_one_family_has_no_other() {
        let range = Cidr::parse("10.43.0.0/16").unwrap();
        let selects = json!({"app": "a"});
        // What is asked for, then the families, or what is wrong with it.
        for (spec, expected) in [
            (json!({}), Ok(json!(["IPv4"]))),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), Ok(json!(["IPv4"]))),
            (json!({"clusterIP": "10.43.0.9"}), Ok(json!(["IPv4"]))),
            (json!({"type": "ExternalName", "ipFamilies": ["IPv6"]}), Ok(json!(["IPv6"]))),
            (json!({"clusterIP": "None"}), Ok(json!(["IPv4", "IPv6"]))),
            (json!({"clusterIP": "None", "selector": selects}), Ok(json!(["IPv4"]))),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                Err(
                    "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
                ),
            ),
            (
                json!({"clusterIP": "None", "selector": selects, "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"}),
                Err("spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster"),
            ),
            (
                json!({"clusterIP": "fd00::9"}),
                Err(
                    "spec.clusterIPs[0]: Invalid value: [\"fd00::9\"]: IPv6 is not configured on this cluster",
                ),
            ),
        ] {
            let mut service = Object(json!({"metadata": {"name": "s"}, "spec": spec}));
            let outcome = default_families(&mut service, range);
            let found =
                outcome.map(|()| service.0["spec"]["ipFamilies"].clone()).map_err(|status| status.message);
            let expected = expected.map_err(|why| format!("Service \"s\" is invalid: {why}"));
            assert_eq!(found, expected, "{spec}");
        }
    }
}
