//! The words of the CNI protocol: what a plugin is given, what it answers, how it fails.
//!
//! Data only. Not here: how a plugin is called (`plugin`, `client`).
//!
//! Upstream: the CNI specification, sections 2 (execution) and 5 (result types).

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Versions of the protocol that are spoken, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container to the network.
    Add,
    /// Detach it; never fails because something is gone already.
    Del,
    /// Verify an attachment.
    Check,
    /// Drop what belongs to no attachment that is still wanted.
    Gc,
    /// Tell whether the plugin could serve an ADD now.
    Status,
    /// Tell the versions.
    Version,
}

impl Command {
    /// The word in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl FromStr for Command {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|command| command.as_str() == text)
            .ok_or_else(|| Error::new(Code::InvalidEnvironment, format!("unknown CNI_COMMAND: {text}")))
    }
}

/// The parameters of one call, which the protocol puts into the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The sandbox's ID.
    pub container_id: String,
    /// Path of the network namespace; empty for some DELs.
    pub netns: PathBuf,
    /// Name of the interface inside.
    pub interface: String,
    /// `CNI_ARGS`: `K8S_POD_NAME=…;K8S_POD_NAMESPACE=…`.
    pub extra: String,
    /// Where to find other plugins (IPAM).
    pub path: Vec<PathBuf>,
}

/// A plugin's configuration: what the specification names, and the rest for the plugin itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Version of the protocol.
    #[serde(default)]
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// The plugin.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// What the runtime adds for capabilities (port mappings …).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub runtime_config: Value,
    /// What the plugin before this one answered.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub prev_result: Value,
    /// The plugin's own keys.
    #[serde(flatten)]
    pub own: BTreeMap<String, Value>,
}

impl Config {
    /// The plugin's own keys as a type of its own.
    pub fn parse<T: for<'a> Deserialize<'a>>(&self) -> Result<T, Error> {
        let own = self.own.clone().into_iter().collect();
        serde_json::from_value(Value::Object(own)).map_err(|error| {
            Error::new(
                Code::InvalidConfig,
                format!("failed to load the configuration of {}: {error}", self.kind),
            )
        })
    }

    /// The result of the plugin before, if there was one.
    pub fn previous(&self) -> Result<Option<Success>, Error> {
        if self.prev_result.is_null() {
            return Ok(None);
        }
        serde_json::from_value(self.prev_result.clone())
            .map(Some)
            .map_err(|error| Error::new(Code::Decoding, format!("could not parse prevResult: {error}")))
    }
}

/// What a successful ADD answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Success {
    /// Version of the protocol.
    #[serde(default)]
    pub cni_version: String,
    /// Interfaces made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses given.
    #[serde(default)]
    pub ips: Vec<Ip>,
    /// Routes set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Resolver settings.
    #[serde(default)]
    pub dns: Dns,
}

impl Success {
    /// The answer in the form of its version: before 1.0 an address also tells its family.
    pub fn to_json(&self, version: &str) -> Value {
        let mut value = serde_json::json!({
            "cniVersion": version, "interfaces": self.interfaces, "ips": self.ips,
            "routes": self.routes, "dns": self.dns,
        });
        if version.starts_with("0.")
            && let Some(ips) = value["ips"].as_array_mut()
        {
            for (ip, source) in ips.iter_mut().zip(&self.ips) {
                ip["version"] = if source.address.contains(':') { "6".into() } else { "4".into() };
            }
        }
        value
    }
}

/// An interface, on the host or (with `sandbox`) in the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Path of the namespace it is in; empty for the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// In CIDR notation.
    pub address: String,
    /// The gateway of its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into the result's interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

impl Ip {
    /// Address and prefix length.
    pub fn parts(&self) -> Option<(IpAddr, u8)> {
        let (address, prefix) = self.address.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination in CIDR notation.
    pub dst: String,
    /// Next hop; the address's gateway when none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Resolver settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// Why a call failed, by the specification's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is not spoken here.
    IncompatibleVersion = 1,
    /// A parameter is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// The configuration is no JSON of the right shape.
    Decoding = 6,
    /// The configuration makes no sense.
    InvalidConfig = 7,
    /// A passing problem: the runtime may try again.
    TryAgain = 11,
    /// STATUS: an ADD would fail now.
    NotAvailable = 50,
    /// Anything else: 100 and above are a plugin's own.
    Failed = 100,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Kind of failure.
    pub code: u32,
    /// What happened.
    pub message: String,
}

impl Error {
    /// A failure of a kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as u32, message: message.into() }
    }
    /// A failure of the plugin's own.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }
    /// The answer on standard output.
    pub fn to_json(&self, version: &str) -> Value {
        serde_json::json!({"cniVersion": version, "code": self.code, "msg": self.message})
    }
}

impl From<sys::netlink::Error> for Error {
    fn from(error: sys::netlink::Error) -> Self {
        Self::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_take_the_form_of_their_version() {
        let result = Success {
            ips: vec![Ip { address: "10.1.0.2/24".into(), gateway: None, interface: Some(0) }],
            ..Success::default()
        };
        assert_eq!(result.to_json("0.4.0")["ips"][0]["version"], "4");
        assert_eq!(result.to_json("1.0.0")["ips"][0].get("version"), None);
        let back: Success = serde_json::from_value(result.to_json("0.4.0")).unwrap();
        assert_eq!(back.ips[0].parts(), Some((IpAddr::from([10, 1, 0, 2]), 24)));
    }
}
