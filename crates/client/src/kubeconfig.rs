//! kubeconfig files: read one into a [`Config`], write one for a user of this cluster.
//!
//! Not here: merging several files and `KUBECONFIG` (the command line's business), credential plugins (`exec`), which
//! answer with a clear error.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::{Config, Identity};

/// Why a kubeconfig could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file, or one it names, could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is no kubeconfig.
    #[error("{path}: {source}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where it stopped making sense.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A field contradicts another, or names something that is not there.
    #[error("{path}: {message}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// The file's content, as far as we use it. Unknown fields are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kubeconfig {
    /// Always `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Always `Config`.
    pub kind: String,
    /// Which context to use.
    pub current_context: String,
    /// The servers.
    pub clusters: Vec<NamedCluster>,
    /// Pairs of server and user.
    pub contexts: Vec<NamedContext>,
    /// The credentials.
    pub users: Vec<NamedUser>,
}

/// A server with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedCluster {
    /// What contexts call it.
    pub name: String,
    /// The server.
    pub cluster: Cluster,
}

/// How to reach and trust a server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    /// Its URL.
    pub server: String,
    /// Authorities, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// Authorities, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// The name to expect in its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// Trust anything.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,
}

/// A context with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedContext {
    /// What `current-context` calls it.
    pub name: String,
    /// The pair.
    pub context: Context,
}

/// Which user talks to which cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    /// A name in `clusters`.
    pub cluster: String,
    /// A name in `users`.
    pub user: String,
    /// The default namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A user with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NamedUser {
    /// What contexts call it.
    pub name: String,
    /// The credentials.
    pub user: User,
}

/// Credentials.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct User {
    /// Client certificate, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// Client certificate, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// Client key, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// Client key, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// Bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Bearer token, a file.
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// A credential plugin; not supported, kept to say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<serde_yaml_ng::Value>,
}

impl Kubeconfig {
    /// A file with one cluster, one user and one context of this `name`, its certificates inline.
    pub fn single(name: &str, config: &Config) -> Kubeconfig {
        let encode = |bytes: &Vec<u8>| STANDARD.encode(bytes);
        let mut user = User::default();
        match &config.identity {
            Identity::None => {}
            Identity::ClientCertificate { certificate_pem, key_pem } => {
                user.client_certificate_data = Some(encode(certificate_pem));
                user.client_key_data = Some(encode(key_pem));
            }
            Identity::Token(token) => user.token = Some(token.clone()),
            Identity::TokenFile(path) => user.token_file = Some(path.display().to_string()),
        }
        Kubeconfig {
            api_version: "v1".to_owned(),
            kind: "Config".to_owned(),
            current_context: name.to_owned(),
            clusters: vec![NamedCluster {
                name: name.to_owned(),
                cluster: Cluster {
                    server: config.server.clone(),
                    certificate_authority_data: config.ca_pem.as_ref().map(encode),
                    tls_server_name: config.tls_server_name.clone(),
                    insecure_skip_tls_verify: config.insecure_skip_tls_verify,
                    ..Cluster::default()
                },
            }],
            contexts: vec![NamedContext {
                name: name.to_owned(),
                context: Context { cluster: name.to_owned(), user: name.to_owned(), namespace: None },
            }],
            users: vec![NamedUser { name: name.to_owned(), user }],
        }
    }

    /// Reads and parses a file.
    pub fn load(path: &Path) -> Result<Kubeconfig, Error> {
        let text = read(path)?;
        serde_yaml_ng::from_slice(&text).map_err(|source| Error::Syntax { path: path.to_owned(), source })
    }

    /// Writes the file whole (a reader sees the old or the new one), readable by its owner only.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let text = serde_yaml_ng::to_string(self)
            .map_err(|source| Error::Syntax { path: path.to_owned(), source })?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temporary = path.with_file_name(name);
        // A leftover of a crash may have other permissions; the mode below only applies to a new file.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        std::fs::rename(&temporary, path).map_err(io)
    }

    /// What the current context says; `path` is where the file is, for the relative paths in it.
    pub fn config(&self, path: &Path) -> Result<Config, Error> {
        let content = |message: String| Error::Content { path: path.to_owned(), message };
        let context = self
            .contexts
            .iter()
            .find(|context| context.name == self.current_context)
            .ok_or_else(|| content(format!("context {:?} does not exist", self.current_context)))?;
        let cluster = self
            .clusters
            .iter()
            .find(|cluster| cluster.name == context.context.cluster)
            .ok_or_else(|| content(format!("cluster {:?} does not exist", context.context.cluster)))?;
        let user = self.users.iter().find(|user| user.name == context.context.user).map(|user| &user.user);
        let default = User::default();
        let user = user.unwrap_or(&default);
        Ok(Config {
            server: cluster.cluster.server.clone(),
            ca_pem: data(
                path,
                &cluster.cluster.certificate_authority_data,
                &cluster.cluster.certificate_authority,
            )?,
            tls_server_name: cluster.cluster.tls_server_name.clone(),
            insecure_skip_tls_verify: cluster.cluster.insecure_skip_tls_verify,
            identity: user.identity(path)?,
        })
    }
}

impl User {
    /// Who this is; `path` is where the file is, for the relative paths in it.
    pub fn identity(&self, path: &Path) -> Result<Identity, Error> {
        let content = |message: &str| Error::Content { path: path.to_owned(), message: message.to_owned() };
        if self.exec.is_some() {
            return Err(content("credential plugins (exec) are not supported"));
        }
        let certificate = data(path, &self.client_certificate_data, &self.client_certificate)?;
        let key = data(path, &self.client_key_data, &self.client_key)?;
        match (certificate, key) {
            (Some(certificate_pem), Some(key_pem)) => {
                Ok(Identity::ClientCertificate { certificate_pem, key_pem })
            }
            (None, None) => Ok(match (&self.token, &self.token_file) {
                (Some(token), _) => Identity::Token(token.clone()),
                (None, Some(file)) => Identity::TokenFile(beside(path, file)),
                (None, None) => Identity::None,
            }),
            _ => Err(content("a client certificate and its key must be given together")),
        }
    }
}

/// What is written in the kubeconfig at `path`, or in a file that it names; the former wins, as in upstream.
fn data(path: &Path, inline: &Option<String>, file: &Option<String>) -> Result<Option<Vec<u8>>, Error> {
    match (inline, file) {
        (Some(inline), _) => STANDARD.decode(inline.trim()).map(Some).map_err(|error| Error::Content {
            path: path.to_owned(),
            message: format!("base64 data: {error}"),
        }),
        (None, Some(file)) => read(&beside(path, file)).map(Some),
        (None, None) => Ok(None),
    }
}

/// [`Kubeconfig::load`] and [`Kubeconfig::config`] in one.
pub fn load(path: &Path) -> Result<Config, Error> {
    Kubeconfig::load(path)?.config(path)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn beside(kubeconfig: &Path, file: &str) -> PathBuf {
    kubeconfig.parent().unwrap_or(Path::new("")).join(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("config.yaml");
        let config = Config {
            server: "https://127.0.0.1:6443".to_owned(),
            ca_pem: Some(b"ca".to_vec()),
            identity: Identity::ClientCertificate { certificate_pem: b"c".to_vec(), key_pem: b"k".to_vec() },
            ..Config::default()
        };
        Kubeconfig::single("ironclad", &config).save(&path).unwrap();
        let read = load(&path).unwrap();
        assert_eq!(read.server, config.server);
        assert_eq!(read.ca_pem, config.ca_pem);
        assert!(matches!(read.identity, Identity::ClientCertificate { key_pem, .. } if key_pem == b"k"));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said() {
        let parse = |text: &str| {
            let parsed: Kubeconfig = serde_yaml_ng::from_str(text).unwrap();
            parsed.config(Path::new("/k")).unwrap_err().to_string()
        };
        assert_eq!(parse("current-context: x"), "/k: context \"x\" does not exist");
        assert_eq!(
            parse(
                "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], \
                 clusters: [{name: c, cluster: {server: s}}], users: [{name: u, user: {exec: {}}}]}"
            ),
            "/k: credential plugins (exec) are not supported"
        );
    }
}
