//! Writes kubeconfig files with everything embedded, so that the file alone is enough to be somebody.
//! Not here: reading them (`client::kubeconfig`).

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{Certificate, Credential, Error, files};

/// What a kubeconfig says.
#[derive(Debug)]
pub struct Kubeconfig<'a> {
    /// Address of the API server, as a URL.
    pub server: &'a str,
    /// Name of the cluster and of the context.
    pub cluster: &'a str,
    /// Name of the user entry.
    pub user: &'a str,
    /// The authority that signed the server's certificate.
    pub authority: &'a Certificate,
    /// The user's certificate and key.
    pub credential: &'a Credential,
}

impl Kubeconfig<'_> {
    /// The YAML text.
    pub fn render(&self) -> String {
        let Self { server, cluster, user, .. } = self;
        let authority = STANDARD.encode(self.authority.pem());
        let certificate = STANDARD.encode(self.credential.certificate_pem());
        let key = STANDARD.encode(self.credential.key_pem());
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster:?}\n  cluster:\n    server: {server:?}\n    \
             certificate-authority-data: {authority}\nusers:\n- name: {user:?}\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\ncontexts:\n- name: {cluster:?}\n  \
             context:\n    cluster: {cluster:?}\n    user: {user:?}\ncurrent-context: {cluster:?}\n"
        )
    }

    /// Writes the file with mode 0600, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        files::replace(path, &self.render(), files::SECRET)
    }
}
