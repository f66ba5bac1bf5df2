//! Where the settings of `ironclad server` and `ironclad agent` come from: flags, environment, a YAML file.
//!
//! Reads the process arguments, `IRONCLAD_*` variables and the file named by `--config`. A key of the
//! file is the name of a flag without its dashes; flags win over the environment, which wins over the
//! file. Not here: what a setting does (see the role that takes it).
//!
//! Upstream: the manner is that of k3s, where a file is only another way to write flags.

pub mod agent;
pub mod apiserver;
pub mod cluster;
pub mod datastore;
pub mod logs;
pub mod manifests;
pub mod node;
pub mod oidc;
pub mod service_accounts;
pub mod serving;

use std::{
    ffi::OsString,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use jiff::SignedDuration;
use serde_yaml_ng::Value;

/// Where the settings file is looked for when `--config` is not given.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/ironclad/config.yaml";

/// What can be wrong with the settings, each one clear sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file named by `--config` cannot be read.
    #[error("the settings file {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("the settings file {path} is not valid YAML: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_yaml_ng::Error,
    },
    /// The file is YAML, but no map of settings.
    #[error("the settings file {path} must be a map from flag names to values")]
    NotAMap {
        /// The file.
        path: PathBuf,
    },
    /// A value has a shape that no flag takes.
    #[error("the setting {key:?} in {path} must be a text, a number, true, false or a list of those")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// A part of the cluster that `--disable` can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The controllers.
    Controllers,
    /// The scheduler.
    Scheduler,
    /// The kubelet, and with it the embedded runtime.
    Kubelet,
    /// The embedded runtime.
    Runtime,
    /// The pod network of the embedded plugins.
    Network,
    /// The service proxy.
    Proxy,
    /// The cluster DNS.
    Dns,
}

/// Where state is kept; the settings every command shares.
#[derive(Clone, Debug, clap::Args)]
pub struct DataDir {
    /// Directory of all state: store, certificates, images, volumes
    #[arg(long, env = "IRONCLAD_DATA_DIR", default_value = "/var/lib/ironclad", value_name = "DIR")]
    pub data_dir: PathBuf,
}

impl DataDir {
    /// The kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig.yaml")
    }
    /// Where the runtime finds CNI plugins.
    pub fn cni_bin_dir(&self, node: &node::Node) -> PathBuf {
        node.cni_bin_dir.clone().unwrap_or_else(|| self.data_dir.join("cni/bin"))
    }
    /// Where the runtime finds the configuration of the pod network.
    pub fn cni_conf_dir(&self, node: &node::Node) -> PathBuf {
        node.cni_conf_dir.clone().unwrap_or_else(|| self.data_dir.join("cni/net.d"))
    }
}

/// Every setting of `ironclad server`.
#[derive(Clone, Debug, clap::Args)]
pub struct Server {
    /// YAML file with the same keys as these flags
    #[arg(long, env = "IRONCLAD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub dirs: DataDir,
    #[command(flatten)]
    pub node: node::Node,
    /// Port of the API server
    #[arg(long, env = "IRONCLAD_HTTPS_LISTEN_PORT", default_value_t = 6443, value_name = "PORT")]
    pub https_listen_port: u16,
    /// Further names and addresses for the API server's certificate
    #[arg(long, env = "IRONCLAD_TLS_SAN", value_delimiter = ',', value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Addresses of pods
    #[arg(long, env = "IRONCLAD_CLUSTER_CIDR", default_value = "10.42.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: Cidr,
    /// Addresses of Services
    #[arg(long, env = "IRONCLAD_SERVICE_CIDR", default_value = "10.43.0.0/16", value_name = "CIDR")]
    pub service_cidr: Cidr,
    /// Address of the cluster DNS; the tenth of the Service addresses by default
    #[arg(long, env = "IRONCLAD_CLUSTER_DNS", value_name = "IP")]
    pub cluster_dns: Option<Ipv4Addr>,
    /// Domain of the cluster DNS
    #[arg(long, env = "IRONCLAD_CLUSTER_DOMAIN", default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// File to write the administrator's kubeconfig to; <data-dir>/kubeconfig.yaml by default
    #[arg(long, env = "IRONCLAD_WRITE_KUBECONFIG", value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Simulate this many nodes, which run pods in name only, instead of running a kubelet; needs no root
    #[arg(long, env = "IRONCLAD_HOLLOW_NODES", default_value_t = 0, value_name = "N")]
    pub hollow_nodes: usize,
    /// How long the certificates that the cluster signs for others are good at most, those of its agents among them
    #[arg(
        long,
        env = "IRONCLAD_CLUSTER_SIGNING_DURATION",
        default_value = "8760h",
        value_parser = life,
        value_name = "DURATION"
    )]
    pub cluster_signing_duration: SignedDuration,
    #[command(flatten)]
    pub logs: logs::Logs,
    #[command(flatten)]
    pub datastore: datastore::Datastore,
    #[command(flatten)]
    pub cluster: cluster::Cluster,
    #[command(flatten)]
    pub apiserver: apiserver::ApiServer,
    /// The flags of the API server as they were read, for its page.
    #[arg(skip)]
    pub flags: std::collections::BTreeMap<String, String>,
}

impl Server {
    /// Whether a part is to run.
    pub fn enabled(&self, part: Part) -> bool {
        let node_part = !matches!(part, Part::Controllers | Part::Scheduler);
        self.node.enabled(part) && !(self.hollow_nodes > 0 && node_part)
    }
    /// The address of the cluster DNS.
    pub fn cluster_dns(&self) -> Ipv4Addr {
        self.cluster_dns.unwrap_or_else(|| self.service_cidr.nth(10))
    }
    /// The kubeconfig to write.
    pub fn kubeconfig(&self) -> PathBuf {
        self.write_kubeconfig.clone().unwrap_or_else(|| self.dirs.kubeconfig())
    }
}

/// A span of time in which something can be done.
fn life(text: &str) -> Result<SignedDuration, String> {
    match apiserver::duration(text).map(SignedDuration::try_from)? {
        Ok(span) if span >= SignedDuration::from_secs(1) => Ok(span),
        _ => Err("must be a second at least".to_owned()),
    }
}

/// An IPv4 network such as `10.42.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

impl Cidr {
    /// Its first address and the length of its prefix.
    pub fn parts(self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::from(self.network), self.prefix)
    }
    /// Whether an address belongs to the network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ self.network) & !(u32::MAX >> self.prefix) == 0
    }
    /// The `n`-th address of the network, counted from the network's own.
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network.wrapping_add(n))
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} is no IPv4 network such as 10.42.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(problem)?;
        let address: Ipv4Addr = address.parse().map_err(|_| problem())?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|prefix| (8..=28).contains(prefix))
            .ok_or_else(|| format!("the network {text:?} must have a prefix length between 8 and 28"))?;
        let network = u32::from(address);
        if network & (u32::MAX >> prefix) != 0 {
            return Err(format!("{text:?} names an address inside the network, not the network itself"));
        }
        Ok(Self { network, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

/// The process arguments with those of the settings file put between the command's name and its own flags,
/// so that a flag on the command line, which comes later, wins.
///
/// Only `server` and `agent` take a file; every other command's arguments come back unchanged. A key whose
/// environment variable is set is left out, because the environment wins over the file.
pub fn with_file(
    arguments: Vec<OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, Error> {
    if arguments.get(1).is_none_or(|command| command != "server" && command != "agent") {
        return Ok(arguments);
    }
    let named = flag_value(&arguments, "--config").or_else(|| environment("IRONCLAD_CONFIG"));
    let path = match named {
        Some(path) => PathBuf::from(path),
        None if Path::new(DEFAULT_CONFIG_FILE).exists() => PathBuf::from(DEFAULT_CONFIG_FILE),
        None => return Ok(arguments),
    };
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let from_file = flags_of(&text, &path, &environment)?;
    let mut merged = arguments[..2].to_vec();
    merged.extend(from_file);
    merged.extend_from_slice(&arguments[2..]);
    Ok(merged)
}

fn flag_value(arguments: &[OsString], flag: &str) -> Option<OsString> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        if text == flag {
            return rest.next().cloned();
        }
        if let Some(value) = text.strip_prefix(flag).and_then(|tail| tail.strip_prefix('=')) {
            return Some(value.into());
        }
    }
    None
}

fn flags_of(
    text: &str,
    path: &Path,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, Error> {
    let parsed =
        serde_yaml_ng::from_str(text).map_err(|source| Error::Parse { path: path.into(), source })?;
    let map = match parsed {
        Value::Mapping(map) => map,
        Value::Null => return Ok(Vec::new()),
        _ => return Err(Error::NotAMap { path: path.into() }),
    };
    let mut flags = Vec::new();
    for (key, value) in map {
        let key = key.as_str().ok_or_else(|| Error::NotAMap { path: path.into() })?.to_owned();
        let variable = format!("IRONCLAD_{}", key.to_uppercase().replace('-', "_"));
        if environment(&variable).is_some() {
            continue;
        }
        let problem = || Error::Value { path: path.into(), key: key.clone() };
        match value {
            Value::Bool(true) => flags.push(format!("--{key}").into()),
            Value::Bool(false) if apiserver::ON_BY_DEFAULT.contains(&key.as_str()) => {
                flags.push(format!("--{key}=false").into());
            }
            Value::Bool(false) | Value::Null => {}
            Value::Sequence(items) => {
                for item in items {
                    flags.push(format!("--{key}={}", scalar(&item).ok_or_else(problem)?).into());
                }
            }
            other => flags.push(format!("--{key}={}", scalar(&other).ok_or_else(problem)?).into()),
        }
    }
    Ok(flags)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(file: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, file).unwrap();
        let mut all: Vec<OsString> = vec!["ironclad".into(), "server".into(), "--config".into(), path.into()];
        all.extend(arguments.iter().map(OsString::from));
        let lookup = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).into());
        let merged = with_file(all, lookup).unwrap();
        merged.into_iter().map(|a| a.into_string().unwrap()).filter(|a| !a.contains("config")).collect()
    }

    #[test]
    fn a_file_is_another_way_to_write_flags() {
        let file = "node-name: one\nhttps-listen-port: 7443\nstop-pods: true\ndisable: [dns, proxy]\n";
        assert_eq!(
            merged(file, &["--node-name=two"], &[]),
            [
                "ironclad",
                "server",
                "--node-name=one",
                "--https-listen-port=7443",
                "--stop-pods",
                "--disable=dns",
                "--disable=proxy",
                "--node-name=two"
            ]
            .iter()
            .filter(|a| !a.is_empty())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let merged = merged("node-name: one\n", &[], &[("IRONCLAD_NODE_NAME", "two")]);
        assert_eq!(merged, ["ironclad", "server"]);
    }

    #[test]
    fn networks_are_checked() {
        for (text, message) in [
            ("10.42.0.0/16", ""),
            ("10.42.0.0", "no IPv4 network"),
            ("10.42.1.0/16", "inside the network"),
            ("10.42.0.0/31", "between 8 and 28"),
            ("fd00::/64", "no IPv4 network"),
        ] {
            match text.parse::<Cidr>() {
                Ok(cidr) => assert_eq!((cidr.to_string().as_str(), message), (text, "")),
                Err(problem) => {
                    assert!(!message.is_empty() && problem.contains(message), "{text}: {problem}")
                }
            }
        }
        let cidr = "10.43.0.0/16".parse::<Cidr>().unwrap();
        assert_eq!(cidr.nth(10), Ipv4Addr::new(10, 43, 0, 10));
        assert!(cidr.contains([10, 43, 255, 1].into()) && !cidr.contains([10, 44, 0, 1].into()));
    }
}
