//! What can keep a volume from being set up.

use std::path::PathBuf;

/// Why a volume is not there. The texts are what users read in `FailedMount` events.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The volume itself is wrong or not supported, or something it names is missing.
    #[error("{0}")]
    Invalid(String),
    /// The API did not give what the volume needs.
    #[error("{0}")]
    Api(#[from] client::Error),
    /// The disk or the kernel refused.
    #[error("{action} {}: {source}", path.display())]
    Host {
        /// What was tried, as in `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// One volume of a pod failed.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    SetUp {
        /// The volume's name in the pod.
        volume: String,
        /// Why.
        source: Box<Error>,
    },
}

impl Error {
    pub(crate) fn host(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Error {
        Error::Host { action, path: path.into(), source }
    }
}
