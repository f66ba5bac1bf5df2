//! What a volume is made of: the pure vocabulary between the kinds of volumes and the executor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use api::types::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};

use crate::{Error, TrustBundles};

/// One kind of volume, made from its part of the pod's spec.
pub trait Kind: Send + Sync {
    /// The upstream plugin's name, which is also the directory the volume lives in (with `/` as `~`).
    fn plugin(&self) -> &'static str;

    /// What the volume reads from the API.
    fn references(&self) -> References {
        References::default()
    }

    /// What the node must hold for it now.
    fn plan(&self, context: &Context<'_>, content: &Content) -> Result<Plan, Error>;
}

/// What every kind may look at.
pub struct Context<'a> {
    /// The pod, in its newest known form (labels and addresses change).
    pub pod: &'a Pod,
    /// What the node can give to pods: what a container without a limit sees through the downward API.
    pub allocatable: &'a BTreeMap<String, api::meta::Quantity>,
}

/// What a pod reads from the API for as long as it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// A ConfigMap of the pod's namespace.
    ConfigMap(String),
    /// A Secret of the pod's namespace.
    Secret(String),
    /// The ClusterTrustBundles, of which a volume chooses by name or by signer and labels.
    ClusterTrustBundles,
}

/// A key that was made for a pod, and the certificates that a signer gave it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// A `PRIVATE KEY` block (PKCS#8).
    pub key: String,
    /// `CERTIFICATE` blocks, the pod's own first.
    pub chain: String,
}

impl std::fmt::Debug for Credential {
    /// The key is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// A ServiceAccount token that a volume carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenSpec {
    /// Who the token is for; empty for the API server.
    pub audience: String,
    /// Asked lifetime in seconds.
    pub expiration_seconds: i64,
}

/// What a volume reads from the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Objects that are watched for as long as the pod runs.
    pub objects: BTreeSet<ObjectKey>,
    /// Tokens that are renewed in time.
    pub tokens: BTreeSet<TokenSpec>,
    /// The sources of the volume, by their number in it, that want a certificate of the pod's own.
    pub certificates: BTreeSet<usize>,
    /// A claim (read once: a bound claim does not change).
    pub claim: Option<String>,
}

impl References {
    /// Adds what another part of the volume reads.
    pub fn extend(&mut self, other: References) {
        self.objects.extend(other.objects);
        self.tokens.extend(other.tokens);
        self.certificates.extend(other.certificates);
        self.claim = self.claim.take().or(other.claim);
    }
}

/// A snapshot of what [`References`] named. What is missing here does not exist.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The ConfigMaps by name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// The Secrets by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// The tokens.
    pub tokens: BTreeMap<TokenSpec, String>,
    /// The ClusterTrustBundles.
    pub trust_bundles: TrustBundles,
    /// The certificates by the number of their source.
    pub certificates: BTreeMap<usize, Credential>,
    /// The claim and the volume that it is bound to.
    pub claim: Option<(PersistentVolumeClaim, Option<PersistentVolume>)>,
}

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// The bytes.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// The owner, where it is not root.
    pub user: Option<u32>,
}

impl std::fmt::Debug for File {
    /// The contents may be secret: only their size is shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({} bytes, {:o}, {:?})", self.data.len(), self.mode, self.user)
    }
}

/// The files of a volume by their path in it.
pub type Payload = BTreeMap<String, File>;

/// What backs a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The node's disk.
    Disk,
    /// A tmpfs, of at most this many bytes where given.
    Memory {
        /// Upper bound in bytes.
        size: Option<u64>,
    },
}

/// What a path of the host must be before a pod may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathCheck {
    /// Anything, or nothing.
    None,
    /// A directory, made (0755) when there is nothing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, made (0644) when there is nothing.
    FileOrCreate,
    /// A file.
    File,
    /// A UNIX socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// What the node must hold for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A directory of the pod's own, kept until the pod is gone.
    Directory {
        /// What backs it.
        medium: Medium,
        /// Permission bits.
        mode: u32,
    },
    /// Files that change together.
    Files {
        /// The files.
        payload: Payload,
        /// What backs them.
        medium: Medium,
    },
    /// A path of the host, handed out as it is.
    HostPath {
        /// The path on the host.
        path: PathBuf,
        /// What it must be.
        check: PathCheck,
        /// Whether the pod's fsGroup is applied to it (local persistent volumes).
        own: bool,
        /// Whether containers may not write to it.
        read_only: bool,
    },
    /// Mounted by the runtime from an image; nothing is to be done here.
    Image,
}
