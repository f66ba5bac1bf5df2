//! What the API server shows of itself, whose client certificates it believes beside the cluster's, and how it leaves.
//!
//! Not here: the files' content (`roles/apiserver/pem.rs`), the stop itself (`server`).
//! Upstream: apiserver/pkg/server/options/{serving,authentication,server_run_options}.go.

use std::path::PathBuf;
use std::time::Duration;

use super::apiserver::duration;

/// The settings of the server's port.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Serving {
    /// Certificate to show to clients in place of the cluster's own, with what it is signed by; nodes and pods must trust it
    #[arg(long, env = "IRONCLAD_TLS_CERT_FILE", value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key
    #[arg(long, env = "IRONCLAD_TLS_PRIVATE_KEY_FILE", value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Certificates of authorities whose client certificates are believed beside those of the cluster's own
    #[arg(long, env = "IRONCLAD_CLIENT_CA_FILE", value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// How long the server still serves when it is told to stop, saying that it is not ready
    #[arg(
        long,
        env = "IRONCLAD_SHUTDOWN_DELAY_DURATION",
        default_value = "0s",
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub shutdown_delay_duration: Duration,
}

impl Serving {
    /// The files of the certificate and of its key, where they are given.
    pub fn certificate(&self) -> Option<[&PathBuf; 2]> {
        Some([self.tls_cert_file.as_ref()?, self.tls_private_key_file.as_ref()?])
    }
}
