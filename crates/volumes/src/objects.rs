//! Where ConfigMaps, Secrets, trust bundles, claims, tokens and certificates come from.
//!
//! [`Objects`] is the seam that the executor and the environment of containers read through. [`ApiObjects`] is the real
//! one: for each object that some pod on this node names there is one watch, opened with the first pod and closed with
//! the last; trust bundles are watched together while a pod wants any. Tokens are kept until 80 % of their life is over;
//! certificates are asked for when the pod comes and renewed when their signer says so.
//! Upstream: `pkg/kubelet/util/manager` (watch based), `pkg/kubelet/token`, `pkg/kubelet/clustertrustbundle`,
//! `pkg/kubelet/podcertificate`.

mod api_objects;
mod certificates;
mod on_demand;
mod projection;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::types::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use async_trait::async_trait;

use crate::{Credential, Error, ObjectKey, TokenSpec, TrustBundles};

pub use api_objects::{ApiObjects, NodeIdentity};

/// Called when an object that a pod reads has changed.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// What pods read from the API.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Says which objects the pod reads from now on, and that the certificates which its volumes name are wanted;
    /// `notify` is called when one of them changes. A second call replaces the first.
    fn register(&self, pod: &Arc<Pod>, keys: &BTreeSet<ObjectKey>, notify: Notify);
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
    /// The ClusterTrustBundles as of now.
    async fn trust_bundles(&self) -> Result<TrustBundles, Error>;
    /// The certificate for the source of this number in the pod's volume. A pod that is new is given a moment for its
    /// signer to answer; after that, what is not there is an error.
    async fn certificate(&self, pod: &Pod, volume: &str, source: usize) -> Result<Credential, Error>;
    /// A claim and the volume it is bound to.
    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(PersistentVolumeClaim, Option<PersistentVolume>)>, Error>;
}
