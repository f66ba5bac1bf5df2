//! The pod network: CNI plugins, the client that calls them, the configuration that joins the two, and the routes to
//! pods on other nodes.
//!
//! Read first: [`cni`] (the protocol's words), [`plugin`] (what a plugin is, and how the binary becomes
//! one), [`client`] (how a runtime calls a chain of plugins), [`conflist`] (what this product writes for
//! the runtime to find), [`routes`] (how packets get to other nodes).
//!
//! To add a plugin: one file in `plugins/` with a [`plugin::Plugin`], and a line in `plugins::NAMES`.
//!
//! Not here: Services (the `proxy` crate), which addresses a node may give out (node IPAM).
//!
//! Upstream: the CNI specification 1.1, the behaviour of containernetworking/plugins and of flannel's vxlan backend.

pub mod client;
pub mod cni;
pub mod conflist;
pub mod plugin;
pub mod plugins;
pub mod routes;

pub use plugin::plugin_main;
