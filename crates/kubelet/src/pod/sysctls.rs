//! Which kernel parameters pods of this node may set: pure.
//!
//! Those that are safe (they belong to a namespace of the pod and reach no other pod), and those that the node's
//! administrator has allowed beside. The runtime has the last word: it sets nothing that is not the pod's own.
//!
//! Upstream: `pkg/kubelet/sysctl`, `component-helpers/node/util/sysctl`.

use api::types::core::v1::Pod;

use super::spec;

/// What every pod may set. All exist in any kernel that this node can run on.
const SAFE: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// What a parameter belongs to, in the words of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// The namespace that the kernel keeps a parameter (or all that begin with a prefix) in; `None`: the host's.
fn namespace(name: &str) -> Option<Namespace> {
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    if name == "kernel.sem" || ipc.iter().any(|prefix| name.starts_with(prefix)) {
        Some(Namespace::Ipc)
    } else if name.starts_with("net.") {
        Some(Namespace::Net)
    } else {
        None
    }
}

/// The name with dots as separators, in which a slash stands for a dot within a word.
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

/// Whether `pattern` (a name, or a prefix that ends with `*`) can be allowed: it must belong to a namespace.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let name = dotted(pattern);
    match namespace(name.trim_end_matches('*')) {
        Some(_) => Ok(()),
        None => Err(format!("the sysctls {name:?} are not known to be namespaced")),
    }
}

/// Whether the pod may set what it wants to; else the message of its refusal. `allowed` are names and patterns
/// beside the safe ones.
pub fn admit(pod: &Pod, allowed: &[String]) -> Result<(), String> {
    let spec = spec(pod);
    let wanted = spec.security_context.iter().flat_map(|security| security.sysctls.iter().flatten());
    for sysctl in wanted {
        let name = dotted(&sysctl.name);
        let fits = |pattern: &String| match dotted(pattern).strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == dotted(pattern),
        };
        let listed = SAFE.contains(&name.as_str()) || allowed.iter().any(fits);
        let shared = match namespace(&name).filter(|_| listed) {
            None => return Err(format!("forbidden sysctl: {name:?} not allowlisted")),
            Some(Namespace::Ipc) => spec.host_ipc.filter(|host| *host).map(|_| "IPC"),
            Some(Namespace::Net) => spec.host_network.filter(|host| *host).map(|_| "Net"),
        };
        if let Some(shared) = shared {
            return Err(format!("forbidden sysctl: {name:?} not allowed with host {shared} enabled"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_listed_and_the_pods_own_is_admitted() {
        let allowed = vec!["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned()];
        for (name, host, refusal) in [
            ("net.ipv4.tcp_syncookies", false, None),
            ("net/ipv4/tcp_wmem", false, None),
            ("net.ipv4.tcp_notsent_lowat", false, None),
            (
                "net.ipv4.tcp_slow_start_after_idle",
                true,
                Some("\"net.ipv4.tcp_slow_start_after_idle\" not allowed with host Net enabled"),
            ),
            ("kernel.shm_rmid_forced", false, None),
            ("kernel.msgmax", false, None),
            ("net.core.somaxconn", false, None),
            ("kernel.core_pattern", false, Some("\"kernel.core_pattern\" not allowlisted")),
            ("kernel/core_pattern", false, Some("\"kernel.core_pattern\" not allowlisted")),
            ("net.ipv4.ip_forward", false, Some("\"net.ipv4.ip_forward\" not allowlisted")),
            ("net.core.somaxconn", true, Some("\"net.core.somaxconn\" not allowed with host Net enabled")),
            ("kernel.msgmax", true, Some("\"kernel.msgmax\" not allowed with host IPC enabled")),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [],
                "hostNetwork": host, "hostIPC": host,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}))
            .unwrap();
            let want = refusal.map(|text| format!("forbidden sysctl: {text}"));
            assert_eq!(admit(&pod, &allowed).err(), want, "{name}");
        }
        assert_eq!(
            check_pattern("vm.*"),
            Err("the sysctls \"vm.*\" are not known to be namespaced".to_owned())
        );
        assert_eq!(check_pattern("net.*"), Ok(()));
    }
}
