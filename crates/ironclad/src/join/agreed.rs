//! The settings that all servers of a cluster must have alike, and how two servers' differ.
//!
//! Pure but for the file of the encryption at rest, whose hash is compared: a server that encrypts otherwise writes what
//! the others cannot read. Not here: what the settings do.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config;

/// What must be alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    cluster_cidr: String,
    service_cidr: String,
    cluster_domain: String,
    cluster_dns: String,
    /// SHA-256 of the file, in hexadecimal; none where nothing is encrypted.
    encryption: Option<String>,
}

impl Agreed {
    /// Of these settings.
    ///
    /// # Errors
    /// The encryption's file cannot be read.
    pub fn of(config: &config::Server) -> anyhow::Result<Self> {
        let hash = |path: &std::path::PathBuf| {
            let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
            anyhow::Ok(hash)
        };
        Ok(Self {
            cluster_cidr: config.cluster_cidr.to_string(),
            service_cidr: config.service_cidr.to_string(),
            cluster_domain: config.cluster_domain.clone(),
            cluster_dns: config.cluster_dns().to_string(),
            encryption: config.apiserver.encryption_provider_config.as_ref().map(hash).transpose()?,
        })
    }

    /// What differs between this server and its cluster, one clause each.
    pub fn differences(&self, cluster: &Self) -> Vec<String> {
        let texts = [
            ("--cluster-cidr", &self.cluster_cidr, &cluster.cluster_cidr),
            ("--service-cidr", &self.service_cidr, &cluster.service_cidr),
            ("--cluster-domain", &self.cluster_domain, &cluster.cluster_domain),
            ("--cluster-dns", &self.cluster_dns, &cluster.cluster_dns),
        ];
        let differ = texts.into_iter().filter(|(_, here, there)| here != there);
        let mut all: Vec<String> =
            differ.map(|(flag, here, there)| format!("{flag} is {here} here and {there} there")).collect();
        all.extend(match (&self.encryption, &cluster.encryption) {
            (None, Some(_)) => Some("--encryption-provider-config is set there and not here".to_owned()),
            (Some(_), None) => Some("--encryption-provider-config is set here and not there".to_owned()),
            (here, there) if here != there => {
                Some("the files of --encryption-provider-config must be the same, byte for byte".to_owned())
            }
            _ => None,
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let ours = Agreed {
            cluster_cidr: "10.42.0.0/16".into(),
            service_cidr: "10.43.0.0/16".into(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: "10.43.0.10".into(),
            encryption: None,
        };
        assert!(ours.differences(&ours).is_empty());
        let theirs = Agreed {
            service_cidr: "10.44.0.0/16".into(),
            cluster_dns: "10.44.0.10".into(),
            encryption: Some("aa".into()),
            ..ours.clone()
        };
        assert_eq!(
            ours.differences(&theirs),
            [
                "--service-cidr is 10.43.0.0/16 here and 10.44.0.0/16 there",
                "--cluster-dns is 10.43.0.10 here and 10.44.0.10 there",
                "--encryption-provider-config is set there and not here",
            ]
        );
        let other = Agreed { encryption: Some("bb".into()), ..theirs.clone() };
        assert_eq!(theirs.differences(&other).len(), 1);
        assert!(theirs.differences(&ours)[2].ends_with("here and not there"));
    }
}
