//! The documents of the OCI image specification, as far as a runtime reads them. Docker's are alike.

use serde::{Deserialize, Serialize};

/// What is said about running an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// First words of the command.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Words after the entrypoint if the user gives none.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Working directory.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Signal that asks the program to end, name or number.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

/// Docker writes `null` for what is empty.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The image's configuration; its digest is the image's ID.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `amd64`, `arm64` …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default)]
    pub config: Option<RunConfig>,
    /// What it consists of.
    pub rootfs: RootFs,
}

/// The layers by the digests of their uncompressed archives, bottom first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// `sha256:…`
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// A reference to a blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// For which machine, in an index.
    pub platform: Option<Platform>,
    /// Names among others.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A kind of machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `amd64` …
    pub architecture: String,
    /// `linux`.
    pub os: String,
}

/// A manifest (`config` and `layers`) or an index of manifests (`manifests`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    /// What it is; may be missing.
    pub media_type: String,
    /// An image's configuration.
    pub config: Option<Descriptor>,
    /// An image's layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// An index's entries.
    pub manifests: Vec<Descriptor>,
}

/// This machine in the words of image platforms.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The entry of an index for this machine; one without a platform fits as well.
pub fn pick(entries: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture())
    };
    entries.iter().find(fits).or_else(|| entries.iter().find(|d| d.platform.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_empty() {
        let config: RunConfig = serde_json::from_str(r#"{"Cmd":null,"Env":["A=1"],"User":null}"#).unwrap();
        assert_eq!(config, RunConfig { env: vec!["A=1".into()], ..Default::default() });
    }

    #[test]
    fn the_platform_is_picked() {
        let entry = |arch: &str, digest: &str| Descriptor {
            digest: digest.into(),
            platform: Some(Platform { architecture: arch.into(), os: "linux".into() }),
            ..Default::default()
        };
        let entries = [entry("s390x", "a"), entry(architecture(), "b")];
        assert_eq!(pick(&entries).unwrap().digest, "b");
        assert!(pick(&entries[..1]).is_none());
    }
}
