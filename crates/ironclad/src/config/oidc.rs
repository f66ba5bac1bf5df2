//! The flags by which one OpenID Connect provider is named, from before there was a file for it.
//!
//! Reads the flags; what comes out is the text of an AuthenticationConfiguration, so that there is one way by which
//! providers are read. Not here: what a configuration means (`apiserver::authn::oidc`).
//! Upstream: pkg/kubeapiserver/options/authentication.go (OIDC flags and their conversion).

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::json;

/// Signature algorithms that the flag knows.
const ALGORITHMS: &[&str] =
    &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

/// One provider.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Oidc {
    /// URL of an OpenID Connect provider whose tokens are accepted; https only
    #[arg(
        long,
        env = "IRONCLAD_OIDC_ISSUER_URL",
        value_name = "URL",
        requires = "oidc_client_id",
        conflicts_with = "authentication_config"
    )]
    pub oidc_issuer_url: Option<String>,
    /// For whom its tokens must be meant
    #[arg(long, env = "IRONCLAD_OIDC_CLIENT_ID", value_name = "ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// Authorities that vouch for the provider; those of the machine by default
    #[arg(long, env = "IRONCLAD_OIDC_CA_FILE", value_name = "FILE", requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name
    #[arg(long, env = "IRONCLAD_OIDC_USERNAME_CLAIM", default_value = "sub", value_name = "CLAIM")]
    pub oidc_username_claim: String,
    /// Put before names; the URL and # by default, but for e-mail addresses. - is nothing
    #[arg(long, env = "IRONCLAD_OIDC_USERNAME_PREFIX", value_name = "TEXT", requires = "oidc_issuer_url")]
    pub oidc_username_prefix: Option<String>,
    /// Claim that is the user's groups
    #[arg(long, env = "IRONCLAD_OIDC_GROUPS_CLAIM", value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub oidc_groups_claim: Option<String>,
    /// Put before groups
    #[arg(long, env = "IRONCLAD_OIDC_GROUPS_PREFIX", value_name = "TEXT", requires = "oidc_groups_claim")]
    pub oidc_groups_prefix: Option<String>,
    /// Signature algorithms that are accepted
    #[arg(
        long,
        env = "IRONCLAD_OIDC_SIGNING_ALGS",
        default_value = "RS256",
        value_delimiter = ',',
        value_parser = clap::builder::PossibleValuesParser::new(ALGORITHMS),
        value_name = "NAME"
    )]
    pub oidc_signing_algs: Vec<String>,
    /// A claim and the value that it must have; may be given several times
    #[arg(
        long,
        env = "IRONCLAD_OIDC_REQUIRED_CLAIM",
        value_delimiter = ',',
        value_name = "CLAIM=VALUE",
        requires = "oidc_issuer_url"
    )]
    pub oidc_required_claim: Vec<String>,
}

impl Oidc {
    /// The same as a file; `None` if no provider is named.
    pub fn configuration(&self) -> anyhow::Result<Option<String>> {
        let (Some(url), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            return Ok(None);
        };
        let mut issuer = json!({"url": url, "audiences": [client]});
        if let Some(path) = &self.oidc_ca_file {
            let text = std::fs::read_to_string(path);
            issuer["certificateAuthority"] =
                text.with_context(|| format!("{} cannot be read", path.display()))?.into();
        }
        let claim = &self.oidc_username_claim;
        let prefix = match self.oidc_username_prefix.as_deref().unwrap_or_default() {
            "-" => String::new(),
            // An address is unique by itself; any other name only with its provider.
            "" if claim == "email" => String::new(),
            "" => format!("{url}#"),
            prefix => prefix.to_owned(),
        };
        let mut mappings = json!({"username": {"claim": claim, "prefix": prefix}});
        if let Some(groups) = &self.oidc_groups_claim {
            let prefix = self.oidc_groups_prefix.as_deref().unwrap_or_default();
            mappings["groups"] = json!({"claim": groups, "prefix": prefix});
        }
        let mut rules = Vec::new();
        for text in &self.oidc_required_claim {
            let Some((claim, value)) = text.split_once('=') else {
                bail!("--oidc-required-claim: {text:?} is not of the form claim=value")
            };
            rules.push(json!({"claim": claim, "requiredValue": value}));
        }
        let jwt = json!({"issuer": issuer, "claimMappings": mappings, "claimValidationRules": rules});
        let file = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [jwt],
        });
        // Every JSON text is YAML.
        Ok(Some(file.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;

    #[derive(Parser)]
    struct Program {
        /// What the whole server has beside them.
        #[arg(long)]
        authentication_config: Option<PathBuf>,
        #[command(flatten)]
        oidc: Oidc,
    }

    fn read(flags: &[&str]) -> Result<Option<Value>, String> {
        let program = Program::try_parse_from([&["program"], flags].concat()).map_err(|e| e.to_string())?;
        let text = program.oidc.configuration().map_err(|error| error.to_string())?;
        Ok(text.map(|text| serde_json::from_str(&text).unwrap()))
    }

    const BASE: [&str; 2] = ["--oidc-issuer-url=https://id.example.com", "--oidc-client-id=kubernetes"];

    #[test]
    fn flags_are_a_configuration() {
        assert_eq!(read(&[]), Ok(None));
        let of = |more: &[&str]| read(&[&BASE, more].concat()).unwrap().unwrap()["jwt"][0].clone();
        let plain = of(&[]);
        assert_eq!(plain["issuer"], json!({"url": "https://id.example.com", "audiences": ["kubernetes"]}));
        for (flags, username) in [
            (&[][..], json!({"claim": "sub", "prefix": "https://id.example.com#"})),
            (&["--oidc-username-claim=email"], json!({"claim": "email", "prefix": ""})),
            (&["--oidc-username-prefix=-"], json!({"claim": "sub", "prefix": ""})),
            (&["--oidc-username-prefix=oidc:"], json!({"claim": "sub", "prefix": "oidc:"})),
        ] {
            assert_eq!(of(flags)["claimMappings"]["username"], username, "{flags:?}");
        }
        let groups = of(&["--oidc-groups-claim=g", "--oidc-groups-prefix=x:"]);
        assert_eq!(groups["claimMappings"]["groups"], json!({"claim": "g", "prefix": "x:"}));
        let ruled = of(&["--oidc-required-claim=hd=example.com,a=b"]);
        assert_eq!(ruled["claimValidationRules"][1], json!({"claim": "a", "requiredValue": "b"}));
    }

    #[test]
    fn what_belongs_together_is_asked_for_together() {
        for flags in [
            &BASE[..1],
            &BASE[1..],
            &["--oidc-groups-claim=g"],
            &[BASE[0], BASE[1], "--oidc-groups-prefix=x:"],
            &[BASE[0], BASE[1], "--oidc-signing-algs=none"],
            &[BASE[0], BASE[1], "--oidc-required-claim=a"],
            &[BASE[0], BASE[1], "--authentication-config=x"],
        ] {
            assert!(read(flags).is_err(), "{flags:?}");
        }
    }
}
