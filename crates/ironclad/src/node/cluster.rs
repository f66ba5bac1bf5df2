//! What all nodes of a cluster have to agree on, and the ConfigMap by which servers tell it to agents.
//!
//! A server knows it by its flags. Not here: who reads and writes the ConfigMap (`agent`, `roles::apiserver`).

use std::{fmt, net::Ipv4Addr, str::FromStr};

use api::Object;
use api::types::core::v1::ConfigMap;
use serde_json::json;

use crate::config::Cidr;

/// The settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Addresses of pods.
    pub cluster_cidr: Cidr,
    /// Addresses of Services.
    pub service_cidr: Cidr,
    /// Address of the cluster DNS.
    pub cluster_dns: Ipv4Addr,
    /// Domain of the cluster DNS.
    pub cluster_domain: String,
}

/// Why a ConfigMap tells no settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's ConfigMap {}/{} has no usable {key:?}", Cluster::NAMESPACE, Cluster::NAME)]
pub struct Error {
    /// The key, named as the server's flag.
    key: &'static str,
}

impl Cluster {
    /// Namespace of the ConfigMap.
    pub const NAMESPACE: &str = "kube-system";
    /// Its name.
    pub const NAME: &str = "ironclad";

    /// As the ConfigMap, whose keys are named as the server's flags.
    pub fn object(&self) -> Object {
        Object(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": Self::NAME, "namespace": Self::NAMESPACE},
            "data": {
                "cluster-cidr": self.cluster_cidr.to_string(), "service-cidr": self.service_cidr.to_string(),
                "cluster-dns": self.cluster_dns.to_string(), "cluster-domain": self.cluster_domain,
            },
        }))
    }

    /// Reads the ConfigMap.
    ///
    /// # Errors
    /// The first key that is missing or makes no sense.
    pub fn read(told: &ConfigMap) -> Result<Self, Error> {
        fn value<T: FromStr>(told: &ConfigMap, key: &'static str) -> Result<T, Error> {
            let text = told.data.as_ref().and_then(|data| data.get(key)).filter(|text| !text.is_empty());
            text.and_then(|text| text.parse().ok()).ok_or(Error { key })
        }
        Ok(Self {
            cluster_cidr: value(told, "cluster-cidr")?,
            service_cidr: value(told, "service-cidr")?,
            cluster_dns: value(told, "cluster-dns")?,
            cluster_domain: value(told, "cluster-domain")?,
        })
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pods in {}, Services in {}", self.cluster_cidr, self.service_cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_tells_is_what_an_agent_reads() {
        let cluster = Cluster {
            cluster_cidr: "10.1.0.0/16".parse().unwrap(),
            service_cidr: "10.2.0.0/20".parse().unwrap(),
            cluster_dns: Ipv4Addr::new(10, 2, 0, 10),
            cluster_domain: "example.org".to_owned(),
        };
        let object = cluster.object();
        assert_eq!(Cluster::read(&serde_json::from_value(object.0.clone()).unwrap()), Ok(cluster));
        for key in ["cluster-cidr", "service-cidr", "cluster-dns", "cluster-domain"] {
            for bad in [serde_json::Value::Null, json!("")] {
                let mut told = object.0.clone();
                told["data"][key] = bad;
                if told["data"][key].is_null() {
                    told["data"].as_object_mut().unwrap().remove(key);
                }
                let found = Cluster::read(&serde_json::from_value(told).unwrap());
                assert_eq!(found, Err(Error { key }));
            }
        }
    }
}
