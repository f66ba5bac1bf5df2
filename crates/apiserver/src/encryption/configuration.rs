//! Reads an EncryptionConfiguration (apiserver.config.k8s.io/v1).
//!
//! Upstream: apiserver/pkg/apis/apiserver/validation/validation_encryption.go.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foundation::{SharedClock, Tasks};
use serde::Deserialize;

use super::ciphers::{Cipher, Key};
use super::kms::{self, Kms};
use super::transformer::{Provider, Transformer};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no YAML of this form.
    #[error("the encryption configuration cannot be read: {0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// It is of another kind.
    #[error("the encryption configuration must be an EncryptionConfiguration of apiserver.config.k8s.io/v1")]
    Kind,
    /// A field has a value that cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Field { field: field.into(), problem: problem.into() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    resources: Vec<String>,
    providers: Vec<ProviderFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderFields {
    identity: Option<Empty>,
    aesgcm: Option<KeysFields>,
    aescbc: Option<KeysFields>,
    secretbox: Option<KeysFields>,
    kms: Option<KmsFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFields {
    keys: Vec<KeyFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KmsFields {
    #[serde(default)]
    api_version: Option<String>,
    name: String,
    endpoint: String,
    #[serde(default)]
    timeout: Option<String>,
}

/// Which resources are encrypted how, in the order in which they are asked.
pub struct Configuration {
    rules: Vec<(Vec<String>, Arc<Transformer>)>,
}

impl Configuration {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first thing in it that cannot be.
    pub fn read(text: &str, clock: &SharedClock) -> Result<Self, Error> {
        let file: File = serde_yaml_ng::from_str(text)?;
        if file.kind != "EncryptionConfiguration" || file.api_version != "apiserver.config.k8s.io/v1" {
            return Err(Error::Kind);
        }
        if file.resources.is_empty() {
            return Err(wrong("resources", "at least one encryption configuration resource is required"));
        }
        let mut rules = Vec::new();
        for (at, rule) in file.resources.into_iter().enumerate() {
            let path = format!("resources[{at}]");
            if rule.resources.is_empty() {
                return Err(wrong(
                    format!("{path}.resources"),
                    "resources must be set per encryption configuration",
                ));
            }
            if rule.providers.is_empty() {
                return Err(wrong(
                    format!("{path}.providers"),
                    "provider must be set per encryption configuration",
                ));
            }
            let mut providers = Vec::new();
            for (at, fields) in rule.providers.into_iter().enumerate() {
                providers.extend(read_provider(fields, &format!("{path}.providers[{at}]"), clock)?);
            }
            rules.push((rule.resources, Arc::new(Transformer::new(providers))));
        }
        Ok(Self { rules })
    }

    fn plugins(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.rules.iter().flat_map(|(_, transformer)| transformer.plugins())
    }

    /// Whether any key is kept by a plugin.
    pub fn has_plugins(&self) -> bool {
        self.plugins().next().is_some()
    }

    /// Has the plugins asked for their keys from now on, until this configuration is no longer in use.
    pub fn follow(&self, tasks: &Tasks) {
        for plugin in self.plugins() {
            tasks.spawn_until_cancelled("kms", kms::follow(Arc::downgrade(plugin)));
        }
    }

    /// What is wrong with the plugins, as far as one knows ([`Configuration::follow`]).
    ///
    /// # Errors
    /// A sentence for each plugin that fails.
    pub fn health(&self) -> Result<(), String> {
        let problems: Vec<String> = self.plugins().filter_map(|plugin| plugin.health().err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// How a resource is kept; `None`: as it is. `group` is empty for core.
    pub fn find(&self, group: &str, resource: &str) -> Option<&Arc<Transformer>> {
        let matches = |pattern: &String| match pattern.split_once('.') {
            _ if pattern == "*.*" => true,
            Some((plural, of)) => (plural == "*" || plural == resource) && of == group,
            None => pattern == resource && group.is_empty(),
        };
        self.rules
            .iter()
            .find(|(resources, _)| resources.iter().any(matches))
            .map(|(_, transformer)| transformer)
    }
}

fn read_provider(fields: ProviderFields, path: &str, clock: &SharedClock) -> Result<Vec<Provider>, Error> {
    let ProviderFields { identity, aesgcm, aescbc, secretbox, kms } = fields;
    let given = [identity.is_some(), aesgcm.is_some(), aescbc.is_some(), secretbox.is_some(), kms.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(wrong(path, "exactly one provider must be set in each element of providers"));
    }
    let read = |name: &str, keys: Option<KeysFields>, cipher: Cipher, sizes: &[usize]| {
        let path = format!("{path}.{name}.keys");
        let keys = keys.map(|keys| keys.keys).unwrap_or_default();
        if keys.is_empty() {
            return Err(wrong(path, "must have at least one key"));
        }
        keys.into_iter()
            .enumerate()
            .map(|(at, key)| {
                let path = format!("{path}[{at}]");
                if key.name.is_empty() || key.name.contains(':') {
                    return Err(wrong(format!("{path}.name"), "must be set and must not contain a colon"));
                }
                let secret = STANDARD
                    .decode(key.secret.trim())
                    .map_err(|_| wrong(format!("{path}.secret"), "must be base64 encoded"))?;
                if !sizes.contains(&secret.len()) {
                    let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
                    let problem = format!("must be of {} bytes, not {}", sizes.join(" or "), secret.len());
                    return Err(wrong(format!("{path}.secret"), problem));
                }
                Ok(Provider::Key(Key { cipher, name: key.name, secret }))
            })
            .collect::<Result<Vec<_>, _>>()
    };
    if identity.is_some() {
        return Ok(vec![Provider::Identity]);
    }
    if aesgcm.is_some() {
        return read("aesgcm", aesgcm, Cipher::AesGcm, &[16, 32]);
    }
    if aescbc.is_some() {
        return read("aescbc", aescbc, Cipher::AesCbc, &[16, 24, 32]);
    }
    if secretbox.is_some() {
        return read("secretbox", secretbox, Cipher::SecretBox, &[32]);
    }
    let Some(kms) = kms else { return Ok(Vec::new()) };
    let path = format!("{path}.kms");
    if kms.api_version.as_deref() != Some("v2") {
        return Err(wrong(format!("{path}.apiVersion"), "unsupported apiVersion, only v2 is served"));
    }
    if kms.name.is_empty() || kms.name.contains(':') {
        return Err(wrong(format!("{path}.name"), "must be set and must not contain a colon"));
    }
    let Some(socket) = kms.endpoint.strip_prefix("unix://") else {
        return Err(wrong(format!("{path}.endpoint"), "must be a unix socket, unix:///path"));
    };
    let timeout = match &kms.timeout {
        None => std::time::Duration::from_secs(3),
        Some(text) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|timeout| std::time::Duration::try_from(timeout).ok())
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| wrong(format!("{path}.timeout"), "should be a positive value"))?,
    };
    Ok(vec![Provider::Kms(Arc::new(Kms::new(kms.name, socket.into(), timeout, clock.clone())))])
}

#[cfg(test)]
mod tests {
    use foundation::SystemClock;

    use super::*;

    fn read(text: &str) -> Result<Configuration, String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n{text}");
        Configuration::read(&text, &SystemClock::shared()).map_err(|error| error.to_string())
    }

    #[test]
    fn mistakes_are_named() {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        #[rustfmt::skip]
        let table = [
            ("resources: []", "resources: at least one"),
            ("resources: [{resources: [], providers: [{identity: {}}]}]", "resources[0].resources: "),
            ("resources: [{resources: [secrets], providers: []}]", "resources[0].providers: "),
            ("resources: [{resources: [secrets], providers: [{}]}]", "exactly one provider"),
            ("resources: [{resources: [secrets], providers: [{aescbc: {keys: []}}]}]", "at least one key"),
            ("resources: [{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: AAAA}]}}]}]", "must be of 16 or 32 bytes, not 3"),
            ("resources: [{resources: [secrets], providers: [{secretbox: {keys: [{name: a, secret: '?'}]}}]}]", "must be base64"),
            ("resources: [{resources: [secrets], providers: [{kms: {name: k, endpoint: 'unix:///x'}}]}]", "only v2"),
            ("resources: [{resources: [secrets], providers: [{kms: {apiVersion: v2, name: k, endpoint: 'http://x'}}]}]", "unix socket"),
            ("resources: [{resources: [secrets], providers: [{rot13: {}}]}]", "unknown field"),
        ];
        for (text, want) in table {
            let Err(problem) = read(text) else { panic!("{text} was read") };
            assert!(problem.contains(want), "{text}: {problem}");
        }
        let good = format!(
            "resources: [{{resources: [secrets, '*.example.com'], providers: [{{aescbc: {{keys: [{{name: a, secret: {key}}}]}}}}, {{identity: {{}}}}]}}]"
        );
        let read = read(&good).unwrap();
        for (group, resource, want) in [
            ("", "secrets", true),
            ("", "configmaps", false),
            ("example.com", "things", true),
            ("apps", "secrets", false),
        ] {
            assert_eq!(read.find(group, resource).is_some(), want, "{resource}.{group}");
        }
    }
}
