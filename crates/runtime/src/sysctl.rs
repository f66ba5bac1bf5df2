//! Which kernel parameters a pod may set, and where they are: only those that belong to a namespace of its own.
//!
//! Pure. Everything else under `/proc/sys` is the host's, and writing it is root on the node
//! (`kernel.core_pattern`). Not here: what the kubelet thinks safe (a shorter list).
//!
//! Upstream: runc libcontainer/configs/validate (the rule and its messages).

use std::path::{Component, Path, PathBuf};

/// Which namespaces the pod has of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub network: bool,
    pub ipc: bool,
    pub uts: bool,
}

/// Parameters of an IPC namespace, beside all below `fs.mqueue.`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The name with dots as separators. A slash may separate instead; then dots are part of the words, as in the
/// interface `eth0.100`. Which one separates is told by which comes first.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => swapped(name),
        _ => name.to_owned(),
    }
}

fn swapped(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    name.chars().map(swap).collect()
}

/// The file of the parameter `name`, if a pod with these namespaces may set it; else why not.
pub(crate) fn file(name: &str, own: Own) -> Result<PathBuf, String> {
    let name = dotted(name);
    if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
        if !own.ipc {
            return Err(format!("sysctl {name:?} is not allowed in the hosts ipc namespace"));
        }
    } else if name.starts_with("net.") {
        if !own.network {
            return Err(format!("sysctl {name:?} not allowed in host network namespace"));
        }
    } else if !(own.uts && name == "kernel.domainname") {
        return Err(format!("sysctl {name:?} is not in a separate kernel namespace"));
    }
    let relative = PathBuf::from(swapped(&name));
    // `net.//.kernel` would be `net/../kernel`.
    if relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(format!("sysctl {name:?} is not in a separate kernel namespace"));
    }
    Ok(Path::new("/proc/sys").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_parameters_can_be_set() {
        let all = Own { network: true, ipc: true, uts: true };
        let none = Own { network: false, ipc: false, uts: false };
        for (name, own, expected) in [
            ("net.core.somaxconn", all, Ok("/proc/sys/net/core/somaxconn")),
            ("net/ipv4/conf/eth0.100/forwarding", all, Ok("/proc/sys/net/ipv4/conf/eth0.100/forwarding")),
            ("net.ipv4.conf.eth0/100.forwarding", all, Ok("/proc/sys/net/ipv4/conf/eth0.100/forwarding")),
            ("kernel.shm_rmid_forced", all, Ok("/proc/sys/kernel/shm_rmid_forced")),
            ("fs.mqueue.msg_max", all, Ok("/proc/sys/fs/mqueue/msg_max")),
            ("kernel.domainname", all, Ok("/proc/sys/kernel/domainname")),
            ("kernel.core_pattern", all, Err("is not in a separate kernel namespace")),
            ("kernel/core_pattern", all, Err("is not in a separate kernel namespace")),
            ("kernel.shmx", all, Err("is not in a separate kernel namespace")),
            ("kernel.hostname", all, Err("is not in a separate kernel namespace")),
            ("vm.max_map_count", all, Err("is not in a separate kernel namespace")),
            ("net.//.kernel.core_pattern", all, Err("is not in a separate kernel namespace")),
            ("net/../kernel/core_pattern", all, Err("is not in a separate kernel namespace")),
            ("fs.mqueue.//.file-max", all, Err("is not in a separate kernel namespace")),
            ("net.core.somaxconn", none, Err("not allowed in host network namespace")),
            ("kernel.sem", none, Err("is not allowed in the hosts ipc namespace")),
            ("kernel.domainname", none, Err("is not in a separate kernel namespace")),
        ] {
            match (file(name, own), expected) {
                (Ok(path), Ok(expected)) => assert_eq!(path, Path::new(expected), "{name}"),
                (Err(reason), Err(expected)) => assert!(reason.ends_with(expected), "{name}: {reason}"),
                (got, expected) => panic!("{name}: {got:?}, not {expected:?}"),
            }
        }
    }
}
