//! The settings that all servers of a cluster must have alike, and how two servers' differ.
//!
//! Pure but for files that settings name, of whose content a hash is compared: a server that encrypts otherwise writes what
//! the others cannot read, one with other keys refuses the others' tokens. Not here: what the settings do; when they are
//! compared (`join` and `roles::store::agreement`).

use std::collections::BTreeSet;

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
    /// None where a server of a version that did not compare them says this.
    #[serde(default)]
    accounts: Option<Accounts>,
}

/// Whose tokens of ServiceAccounts are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Accounts {
    /// The first makes new ones.
    issuers: Vec<String>,
    audiences: BTreeSet<String>,
    /// SHA-256 of the public half of the key of the flag, in hexadecimal; none for the cluster's own.
    signing: Option<String>,
    /// The same of all keys of the flags.
    accepted: BTreeSet<String>,
}

impl Agreed {
    /// Of these settings, with the files that they name as they are now.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    pub fn of(config: &config::Server) -> anyhow::Result<Self> {
        let hash = |path: &std::path::PathBuf| {
            let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            anyhow::Ok(digest(&text))
        };
        let accounts = &config.apiserver.service_accounts;
        let keys = accounts.keys()?;
        Ok(Self {
            cluster_cidr: config.cluster_cidr.to_string(),
            service_cidr: config.service_cidr.to_string(),
            cluster_domain: config.cluster_domain.clone(),
            cluster_dns: config.cluster_dns().to_string(),
            encryption: config.apiserver.encryption_provider_config.as_ref().map(hash).transpose()?,
            accounts: Some(Accounts {
                issuers: accounts.issuers(&config.cluster_domain),
                audiences: accounts.audiences(&config.cluster_domain).into_iter().collect(),
                signing: keys.signing.as_ref().map(|key| digest(&key.info())),
                accepted: keys.accepted.iter().chain(&keys.signing).map(|key| digest(&key.info())).collect(),
            }),
        })
    }

    /// What differs between this server and its cluster, one clause each.
    pub fn differences(&self, cluster: &Self) -> Vec<String> {
        let mut all = self.lasting_differences(cluster);
        all.extend(self.passing_differences(cluster));
        all
    }

    /// Those of what a cluster has for life: all that is in it rests on it.
    pub fn lasting_differences(&self, cluster: &Self) -> Vec<String> {
        let texts = [
            ("--cluster-cidr", &self.cluster_cidr, &cluster.cluster_cidr),
            ("--service-cidr", &self.service_cidr, &cluster.service_cidr),
            ("--cluster-domain", &self.cluster_domain, &cluster.cluster_domain),
            ("--cluster-dns", &self.cluster_dns, &cluster.cluster_dns),
        ];
        let differ = texts.into_iter().filter(|(_, here, there)| here != there);
        differ.map(|(flag, here, there)| format!("{flag} is {here} here and {there} there")).collect()
    }

    /// Those of what is changed in a running cluster, one server after another: keys and who is believed.
    pub fn passing_differences(&self, cluster: &Self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        all.extend(match (&self.encryption, &cluster.encryption) {
            (None, Some(_)) => Some("--encryption-provider-config is set there and not here".to_owned()),
            (Some(_), None) => Some("--encryption-provider-config is set here and not there".to_owned()),
            (here, there) if here != there => {
                Some("the files of --encryption-provider-config must be the same, byte for byte".to_owned())
            }
            _ => None,
        });
        let (Some(here), Some(there)) = (&self.accounts, &cluster.accounts) else { return all };
        let listed = |texts: Vec<&str>| texts.join(",");
        let texts = |texts: &BTreeSet<String>| listed(texts.iter().map(String::as_str).collect());
        if here.issuers != there.issuers {
            let list = |issuers: &[String]| listed(issuers.iter().map(String::as_str).collect());
            let (here, there) = (list(&here.issuers), list(&there.issuers));
            all.push(format!("--service-account-issuer is {here} here and {there} there"));
        }
        if here.audiences != there.audiences {
            let (here, there) = (texts(&here.audiences), texts(&there.audiences));
            all.push(format!("--api-audiences is {here} here and {there} there"));
        }
        if here.signing != there.signing {
            all.push("--service-account-signing-key-file names another key here than there".to_owned());
        }
        // Without the one that signs, which was named above.
        let accepted = |of: &Accounts| -> BTreeSet<String> {
            of.accepted.iter().filter(|key| Some(*key) != of.signing.as_ref()).cloned().collect()
        };
        if accepted(here) != accepted(there) {
            all.push("--service-account-key-file names other keys here than there".to_owned());
        }
        all
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
            accounts: None,
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

    #[test]
    fn tokens_that_others_would_refuse_are_differences() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let path = folder.path().join(name);
            let key = pki::PrivateKey::generate(pki::KeyType::EcdsaP256).unwrap();
            std::fs::write(&path, key.pem()).unwrap();
            path.display().to_string()
        };
        let of = |flags: &[String]| Agreed::of(&given(flags)).unwrap();
        let (one, two) = (key("one"), key("two"));
        let signs = |path: &str| format!("--service-account-signing-key-file={path}");
        let accepts = |path: &str| format!("--service-account-key-file={path}");
        let plain = of(&[]);
        for (flags, expected) in [
            (vec![], vec![]),
            (
                vec!["--service-account-issuer=https://b,https://a".to_owned()],
                vec![
                    "--service-account-issuer is https://b,https://a here",
                    "--api-audiences is https://a,https://b here",
                ],
            ),
            (vec!["--api-audiences=x".to_owned()], vec!["--api-audiences is x here"]),
            (vec![signs(&one)], vec!["--service-account-signing-key-file names another key"]),
            (vec![accepts(&two)], vec!["--service-account-key-file names other keys"]),
        ] {
            let found = of(&flags).differences(&plain);
            assert_eq!(found.len(), expected.len(), "{flags:?}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{flags:?}: {found}");
            }
            assert!(of(&flags).lasting_differences(&plain).is_empty(), "they are changed while servers run");
        }
        // What an older version says nothing of is not compared.
        let older = Agreed { accounts: None, ..plain.clone() };
        assert!(of(&[signs(&one)]).differences(&older).is_empty());
        assert!(older.differences(&of(&[signs(&one)])).is_empty());
        assert_eq!(of(&[signs(&one)]).differences(&of(&[signs(&two)])).len(), 1);
    }

    fn given(flags: &[String]) -> config::Server {
        use clap::Parser as _;

        #[derive(Debug, clap::Parser)]
        struct Given {
            #[command(flatten)]
            server: config::Server,
        }
        Given::try_parse_from(std::iter::once(&"x".to_owned()).chain(flags)).unwrap().server
    }
}
