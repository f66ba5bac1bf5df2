//! Whose ServiceAccount tokens are accepted, and how new ones are made: the keys, the issuers, the audiences.
//!
//! Reads the flags and the key files that they name; without them the cluster's own key (`pki`) signs for the issuer
//! `https://kubernetes.default.svc.<domain>`. With them the keys of another cluster can be taken over, whose tokens stay good.
//! Not here: what is done with them (`apiserver::authn::token`).
//! Upstream: pkg/kubeapiserver/options/authentication.go (`ServiceAccountAuthenticationOptions`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use apiserver::authn::token;
use pki::{PublicKey, SigningKey};

use super::apiserver::duration;

/// The settings of ServiceAccount tokens.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServiceAccounts {
    /// File of RSA or ECDSA keys, public or private, whose ServiceAccount tokens are accepted beside those of the
    /// cluster's own key; may be given several times
    #[arg(long, env = "IRONCLAD_SERVICE_ACCOUNT_KEY_FILE", value_delimiter = ',', value_name = "FILE")]
    pub service_account_key_file: Vec<PathBuf>,
    /// File of the RSA or ECDSA private key that signs ServiceAccount tokens; the cluster's own by default
    #[arg(long, env = "IRONCLAD_SERVICE_ACCOUNT_SIGNING_KEY_FILE", value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Who ServiceAccount tokens say they are from; of several, the first makes new ones, and all are accepted
    #[arg(long, env = "IRONCLAD_SERVICE_ACCOUNT_ISSUER", value_delimiter = ',', value_name = "URL")]
    pub service_account_issuer: Vec<String>,
    /// Where others are told that the public keys are; below the issuer by default
    #[arg(long, env = "IRONCLAD_SERVICE_ACCOUNT_JWKS_URI", value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,
    /// Audiences that mean this API server; the issuers by default
    #[arg(long, env = "IRONCLAD_API_AUDIENCES", value_delimiter = ',', value_name = "AUDIENCE")]
    pub api_audiences: Vec<String>,
    /// The longest life of a ServiceAccount token, from an hour on
    #[arg(
        long,
        env = "IRONCLAD_SERVICE_ACCOUNT_MAX_TOKEN_EXPIRATION",
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub service_account_max_token_expiration: Option<Duration>,
}

impl ServiceAccounts {
    /// The issuers, the one of new tokens first.
    pub fn issuers(&self, cluster_domain: &str) -> Vec<String> {
        match self.service_account_issuer.as_slice() {
            [] => vec![format!("https://kubernetes.default.svc.{cluster_domain}")],
            issuers => issuers.to_vec(),
        }
    }

    /// The audiences that mean this server.
    pub fn audiences(&self, cluster_domain: &str) -> Vec<String> {
        if self.api_audiences.is_empty() { self.issuers(cluster_domain) } else { self.api_audiences.clone() }
    }

    /// The keys of the flags: what other servers must be given too.
    ///
    /// # Errors
    /// Files that cannot be read, or hold no keys.
    pub fn keys(&self) -> anyhow::Result<Keys> {
        let signing =
            self.service_account_signing_key_file.as_ref().map(|path| signing_key(path)).transpose()?;
        Ok(Keys { signing: signing.map(|key| key.public()), accepted: self.accepted_keys()? })
    }

    fn accepted_keys(&self) -> anyhow::Result<Vec<PublicKey>> {
        let mut all = Vec::new();
        for path in &self.service_account_key_file {
            let keys = PublicKey::read_all(&read(path)?);
            if keys.is_empty() {
                bail!("{} does not contain any valid RSA or ECDSA public keys", path.display());
            }
            all.extend(keys);
        }
        Ok(all)
    }

    /// The key that signs: that of the flag, or `own`.
    pub fn signing_key(&self, own: &Arc<SigningKey>) -> anyhow::Result<Arc<SigningKey>> {
        match &self.service_account_signing_key_file {
            Some(path) => signing_key(path).map(Arc::new),
            None => Ok(own.clone()),
        }
    }

    /// How tokens are made and judged; `own` is the cluster's own key.
    pub fn options(&self, own: &Arc<SigningKey>, cluster_domain: &str) -> anyhow::Result<token::Options> {
        let issuers = self.issuers(cluster_domain);
        check_issuers(&issuers)?;
        if let Some(url) = &self.service_account_jwks_uri
            && !url.starts_with("https://")
        {
            bail!("--service-account-jwks-uri requires https scheme, parsed as: {url}");
        }
        // What this cluster has signed so far stays good.
        let mut former_keys = vec![own.public()];
        former_keys.extend(self.accepted_keys()?);
        if let Some(most) = self.service_account_max_token_expiration
            && !(3600..=1 << 32).contains(&most.as_secs())
        {
            bail!("--service-account-max-token-expiration must be between 1 hour and 2^32 seconds");
        }
        Ok(token::Options {
            audiences: self.audiences(cluster_domain),
            former_issuers: issuers[1..].to_vec(),
            keys_at: self.service_account_jwks_uri.clone(),
            former_keys,
            max_expiration: self.service_account_max_token_expiration,
            ..token::Options::new(issuers[0].clone(), self.signing_key(own)?)
        })
    }
}

/// The public halves of the keys that flags name.
pub struct Keys {
    /// Of the one that signs, if it is not the cluster's own.
    pub signing: Option<PublicKey>,
    /// Those whose tokens are accepted too.
    pub accepted: Vec<PublicKey>,
}

fn signing_key(path: &Path) -> anyhow::Result<SigningKey> {
    let key = SigningKey::from_pem(&read(path)?).map_err(anyhow::Error::msg);
    key.with_context(|| format!("{} cannot sign ServiceAccount tokens", path.display()))
}

fn check_issuers(issuers: &[String]) -> anyhow::Result<()> {
    for (index, issuer) in issuers.iter().enumerate() {
        if issuer.is_empty() {
            bail!("--service-account-issuer should not be an empty string");
        }
        if issuers[..index].contains(issuer) {
            bail!("--service-account-issuer {issuer:?} is already specified");
        }
        // A name without a colon is one of old clusters, which were no URLs.
        if issuer.contains(':') && issuer.parse::<http::Uri>().is_err() {
            bail!("--service-account-issuer {issuer:?} contained a ':' but was not a valid URL");
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        accounts: ServiceAccounts,
    }

    fn key() -> Arc<SigningKey> {
        let key = pki::PrivateKey::generate(pki::KeyType::EcdsaP256).unwrap();
        Arc::new(SigningKey::from_pem(&key.pem()).unwrap())
    }

    fn options(own: &Arc<SigningKey>, flags: &[&str]) -> Result<token::Options, String> {
        let program = Program::try_parse_from([&["program"], flags].concat()).map_err(|e| e.to_string())?;
        program.accounts.options(own, "cluster.local").map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn without_flags_the_clusters_own_key_signs_for_its_own_name() {
        let own = key();
        let found = options(&own, &[]).unwrap();
        let issuer = "https://kubernetes.default.svc.cluster.local";
        assert_eq!((found.issuer.as_str(), found.audiences.as_slice()), (issuer, &[issuer.to_owned()][..]));
        assert_eq!(found.signing_key.public(), own.public());
    }

    #[test]
    fn keys_and_issuers_of_another_cluster_are_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let generated = || pki::PrivateKey::generate(pki::KeyType::EcdsaP384).unwrap();
        let (signs, former) = (generated(), generated());
        std::fs::write(path("sa.key"), signs.pem()).unwrap();
        // A private key stands for its public half.
        std::fs::write(path("old.key"), former.pem()).unwrap();
        let own = key();
        let found = options(
            &own,
            &[
                &format!("--service-account-signing-key-file={}", path("sa.key")),
                &format!("--service-account-key-file={}", path("old.key")),
                "--service-account-issuer=https://new.example",
                "--service-account-issuer=https://old.example",
                "--service-account-max-token-expiration=2h",
            ],
        )
        .unwrap();
        assert_eq!(
            (found.issuer.as_str(), &*found.former_issuers[0]),
            ("https://new.example", "https://old.example")
        );
        assert_eq!(found.audiences, ["https://new.example", "https://old.example"]);
        let public = |key: &pki::PrivateKey| SigningKey::from_pem(&key.pem()).unwrap().public();
        assert_eq!(found.signing_key.public(), public(&signs));
        assert_eq!(found.former_keys, [own.public(), public(&former)]);
        assert_eq!(found.max_expiration, Some(Duration::from_secs(7200)));
    }

    #[test]
    fn what_cannot_be_is_told_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = folder.path().join("nothing");
        std::fs::write(&nothing, "nothing").unwrap();
        for (flag, want) in [
            (
                format!("--service-account-key-file={}", nothing.display()),
                "any valid RSA or ECDSA public keys",
            ),
            (format!("--service-account-signing-key-file={}", nothing.display()), "holds no private key"),
            ("--service-account-key-file=/nowhere".to_owned(), "cannot be read"),
            ("--service-account-issuer=a,a".to_owned(), "already specified"),
            ("--service-account-issuer=http://[".to_owned(), "not a valid URL"),
            ("--service-account-jwks-uri=http://x".to_owned(), "requires https scheme"),
            ("--service-account-max-token-expiration=1m".to_owned(), "between 1 hour"),
        ] {
            let problem = options(&key(), &[&flag]).err().unwrap_or_default();
            assert!(problem.contains(want), "{flag}: {problem}");
        }
    }
}
