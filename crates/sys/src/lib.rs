//! The host, behind safe functions: memory, mounts, cgroups (v1 and v2), namespaces, netlink, nftables and
//! process control.
//!
//! Reads and writes the kernel only. It is the one crate that may use `unsafe`, and it knows nothing
//! of Kubernetes.
//!
//! Upstream: none; this is what upstream reaches through runc, vishvananda/netlink and knftables.

pub mod allocator;
pub mod cgroup;
pub mod conntrack;
pub mod container;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod nftables;
pub mod process;
pub mod seccomp;
