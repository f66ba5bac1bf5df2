//! Where ConfigMaps, Secrets, claims and tokens come from.
//!
//! [`Objects`] is the seam that the executor and the environment of containers read through. [`ApiObjects`] is the real
//! one: for each object that some pod on this node names there is one watch, opened with the first pod and closed with
//! the last. Tokens are kept until 80 % of their life is over.
//! Upstream: `pkg/kubelet/util/manager` (watch based), `pkg/kubelet/token`.

mod api_objects;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::types::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use async_trait::async_trait;

use crate::{Error, ObjectKey, TokenSpec};

pub use api_objects::ApiObjects;

/// Called when an object that a pod reads has changed.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// What pods read from the API.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Says which objects the pod `uid` reads from now on; `notify` is called when one of them changes. A second call
    /// replaces the first.
    fn register(&self, namespace: &str, uid: &str, keys: &BTreeSet<ObjectKey>, notify: Notify);
    /// The pod `uid` is gone.
    fn unregister(&self, uid: &str);
    /// A ConfigMap as of now; `None` if it does not exist.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, Error>;
    /// A Secret as of now; `None` if it does not exist.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, Error>;
    /// A token for the pod's ServiceAccount, bound to the pod.
    async fn token(&self, pod: &Pod, spec: &TokenSpec) -> Result<String, Error>;
    /// When the first of the pod's tokens is to be renewed.
    fn next_renewal(&self, uid: &str) -> Option<jiff::Timestamp>;
    /// A claim and the volume it is bound to.
    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(PersistentVolumeClaim, Option<PersistentVolume>)>, Error>;
}
