//! Building blocks of the kinds' warnings: texts for the `Warning` header of requests that are served all the same.
//! Not for what is wrong: that is validation's. Each block adds what it finds to a list.
//! Upstream: pkg/api/node/util.go, apimachinery pkg/util/validation/ip.go; the texts are wire behaviour.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::addresses;
use crate::field::{Path, quote};
use crate::meta::{LabelSelector, ObjectMeta, Quantity};
use crate::names;
use crate::quantity;
use crate::types::core::v1::NodeSelectorTerm;

/// The annotation that named a storage class before there was a field for it.
pub(crate) const STORAGE_CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Why a label of nodes should not be used any more.
pub(crate) fn node_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
        "beta.kubernetes.io/os" => r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
        "failure-domain.beta.kubernetes.io/region" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
        }
        "beta.kubernetes.io/instance-type" => {
            r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => r#"use "node-role.kubernetes.io/control-plane" instead"#,
        _ => return None,
    })
}

/// Warns of deprecated labels in a term; with `values`, also of values that no label can have (where they are not
/// refused: a preference that can never hold does no harm).
pub(crate) fn node_selector_term(
    warnings: &mut Vec<String>,
    term: &NodeSelectorTerm,
    values: bool,
    path: &Path,
) {
    for (index, expression) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        if let Some(message) = node_label(&expression.key) {
            warnings.push(format!("{}: {} is {message}", path.child("key"), expression.key));
        }
        for (index, value) in expression.values.iter().flatten().enumerate().filter(|_| values) {
            for message in names::is_label_value(value) {
                warnings
                    .push(format!("{}: {value} is invalid, {message}", path.child("values").index(index)));
            }
        }
    }
}

/// Warns of deprecated labels in a label selector of nodes.
pub(crate) fn node_selector(warnings: &mut Vec<String>, selector: Option<&LabelSelector>, path: &Path) {
    let Some(selector) = selector else { return };
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        if let Some(message) = node_label(&expression.key) {
            let path = path.child("matchExpressions").index(index).child("key");
            warnings.push(format!("{path}: {} is {message}", expression.key));
        }
    }
    for label in selector.match_labels.iter().flat_map(BTreeMap::keys) {
        if let Some(message) = node_label(label) {
            warnings.push(format!("{}: {message}", path.child("matchLabels").child(label.clone())));
        }
    }
}

/// An address that is an IPv4 one in the notation of IPv6 is the IPv4 one.
fn unmapped(address: IpAddr) -> (IpAddr, bool) {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or((address, false), |four| (IpAddr::V4(four), true)),
        IpAddr::V4(_) => (address, false),
    }
}

fn non_standard(kind: &str, path: &Path, value: &str, standard: &str) -> String {
    format!(
        "{path}: non-standard {kind} {} will be considered invalid in a future Kubernetes release: use {}",
        quote(value),
        quote(standard)
    )
}

/// Warns of an address in an unusual form. What is no address says nothing here.
pub(crate) fn ip(warnings: &mut Vec<String>, path: &Path, value: &str) {
    let Ok(address) = value.parse::<IpAddr>() else { return };
    let canonical = address.to_string();
    match unmapped(address) {
        (standard, true) => {
            warnings.push(non_standard("IP address", path, value, &standard.to_string()));
        }
        (IpAddr::V6(_), false) if canonical != value => warnings.push(format!(
            "{path}: IPv6 address {} should be in RFC 5952 canonical format ({})",
            quote(value),
            quote(&canonical)
        )),
        _ => {}
    }
}

/// Warns of a CIDR that may not mean what it says, or is in an unusual form.
pub(crate) fn cidr(warnings: &mut Vec<String>, path: &Path, value: &str) {
    let Some((address, length)) = names::parse_cidr(value) else { return };
    let before = warnings.len();
    let (standard, mapped) = unmapped(address);
    let length_of_standard = if mapped { length.saturating_sub(96) } else { length };
    let network = addresses::network(standard, length_of_standard);
    if network != standard {
        let whole = if standard.is_ipv4() { 32 } else { 128 };
        warnings.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quote(value),
            quote(&format!("{network}/{length_of_standard}")),
            quote(&format!("{standard}/{whole}"))
        ));
    }
    if mapped {
        let standard = format!("{network}/{length_of_standard}");
        warnings.push(non_standard("CIDR value", path, value, &standard));
    }
    let canonical = format!("{address}/{length}");
    if warnings.len() == before && address.is_ipv6() && canonical != value {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({})",
            quote(value),
            quote(&canonical)
        ));
    }
}

/// Warns of a part of a byte.
pub(crate) fn whole_bytes(warnings: &mut Vec<String>, path: &Path, amount: Option<&Quantity>) {
    let Some(Ok(amount)) = amount.map(quantity::Quantity::from_wire) else { return };
    if amount.milli_value() % 1000 != 0 {
        let amount = quote(&amount.to_string());
        warnings.push(format!("{path}: fractional byte value {amount} is invalid, must be an integer"));
    }
}

/// Warns when the name of an object, from which the names of its pods are made, cannot be a host name.
pub(crate) fn name_of_pods(warnings: &mut Vec<String>, meta: &ObjectMeta) {
    host_name(warnings, meta, "Pod names and hostnames");
}

/// Warns when a name that becomes `what` is no DNS label.
pub(crate) fn host_name(warnings: &mut Vec<String>, meta: &ObjectMeta, what: &str) {
    let messages = names::is_dns1123_label(meta.name.as_deref().unwrap_or_default());
    if !messages.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            messages.join(" ")
        ));
    }
}

/// Warns of a deprecated annotation.
pub(crate) fn annotation(warnings: &mut Vec<String>, meta: &ObjectMeta, key: &str, message: &str) {
    if meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key)) {
        warnings.push(format!("{}: {message}", Path::new("metadata").child("annotations").key(key)));
    }
}

/// Whether an update changed what `metadata.generation` counts; a new object always did.
pub(crate) fn is_new_generation(new: &ObjectMeta, old: Option<&Value>) -> bool {
    old.is_none_or(|old| old.pointer("/metadata/generation").and_then(Value::as_i64) != new.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(check: fn(&mut Vec<String>, &Path, &str), value: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        check(&mut warnings, &Path::new("f"), value);
        warnings
    }

    #[test]
    fn addresses() {
        for (value, warnings) in [
            ("1.2.3.4", vec![]),
            ("2001:db8::2", vec![]),
            (
                "2001:db8:0:0::2",
                vec![
                    r#"f: IPv6 address "2001:db8:0:0::2" should be in RFC 5952 canonical format ("2001:db8::2")"#,
                ],
            ),
            (
                "::ffff:1.2.3.4",
                vec![
                    r#"f: non-standard IP address "::ffff:1.2.3.4" will be considered invalid in a future Kubernetes release: use "1.2.3.4""#,
                ],
            ),
            ("no address", vec![]),
        ] {
            assert_eq!(of(ip, value), warnings);
        }
    }

    #[test]
    fn networks() {
        for (value, warnings) in [
            ("10.0.0.0/8", vec![]),
            ("0.0.0.0/0", vec![]),
            ("::/0", vec![]),
            (
                "192.12.2.8/24",
                vec![
                    r#"f: CIDR value "192.12.2.8/24" is ambiguous in this context (should be "192.12.2.0/24" or "192.12.2.8/32"?)"#,
                ],
            ),
            (
                "2001:db8:0:0::/64",
                vec![
                    r#"f: IPv6 CIDR value "2001:db8:0:0::/64" should be in RFC 5952 canonical format ("2001:db8::/64")"#,
                ],
            ),
            (
                "::ffff:1.2.3.0/120",
                vec![
                    r#"f: non-standard CIDR value "::ffff:1.2.3.0/120" will be considered invalid in a future Kubernetes release: use "1.2.3.0/24""#,
                ],
            ),
        ] {
            assert_eq!(of(cidr, value), warnings);
        }
    }

    #[test]
    fn parts_of_a_byte() {
        let mut warnings = Vec::new();
        for amount in ["1Gi", "1500m", "0.5"] {
            whole_bytes(&mut warnings, &Path::new("f"), Some(&Quantity(amount.to_owned())));
        }
        assert_eq!(
            warnings,
            [
                r#"f: fractional byte value "1500m" is invalid, must be an integer"#,
                r#"f: fractional byte value "500m" is invalid, must be an integer"#
            ]
        );
    }
}
