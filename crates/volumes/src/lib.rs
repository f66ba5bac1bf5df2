//! The volumes of a pod: what each of them is made of, and putting that on the node's disk.
//!
//! Read first:
//! * [`Kind`]: one kind of volume. It says which API objects it reads ([`Kind::references`]) and, from a snapshot of
//!   them, what the node must hold ([`Kind::plan`]). Both are pure; there is one file per kind under `kinds/`.
//! * [`Plan`]: a directory, a path of the host, or a set of files that change together.
//! * [`PodVolumes`]: the executor. It is the only place that touches the disk or mounts anything.
//! * [`Objects`]: where ConfigMaps, Secrets, trust bundles, claims, tokens and certificates come from;
//!   [`objects::ApiObjects`] watches exactly the objects that pods on this node use.
//! * [`fields`]: the downward API, shared with the environment of containers.
//!
//! **Invariants.** A plan does no I/O. Nothing is watched that no pod uses. Files of one volume change together or not
//! at all (one rename of `..data`). Teardown removes only what is below the pod's own directory and never follows a
//! symbolic link or crosses a mount.
//!
//! To add a kind: a file under `kinds/` with a struct that implements [`Kind`], and one arm in [`kinds::of`].
//!
//! Upstream: `pkg/volume`, `pkg/kubelet/volumemanager`, `pkg/kubelet/util/manager`.

pub mod atomic_writer;
mod error;
pub mod fields;
mod host;
pub mod kinds;
pub mod objects;
pub mod ownership;
mod plan;
mod pod_volumes;
pub mod subpath;
mod trust_bundles;

pub use error::Error;
pub use host::{Host, SystemHost};
pub use objects::Objects;
pub use plan::{
    Content, Context, Credential, File, Kind, Medium, ObjectKey, PathCheck, Payload, Plan, References,
    TokenSpec,
};
pub use pod_volumes::{MountedVolume, PodVolumes};
pub use trust_bundles::TrustBundles;
