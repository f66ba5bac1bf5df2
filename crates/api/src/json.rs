//! Typed objects from JSON, by code that is compiled once.
//!
//! That code is generic over the format and the kind, so each crate that reads Pods would otherwise have the compiler
//! make it anew: about a megabyte of machine code per crate, and the time to build it. A crate uses what one below it
//! has made already (but not at `opt-level = 3`), which is why the kinds that several crates use typed are listed here.
//! A kind that is not listed is read as well. Not here: untyped objects, and what the API server makes of requests
//! (`schema`).

mod update;

use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use crate::kind::plain::Plain;

pub(crate) use update::update;

/// Reads a typed object: as text, which is one format, where bytes would be another.
///
/// # Errors
/// What is no UTF-8, no JSON, or not of the kind.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_str(std::str::from_utf8(json).map_err(serde_json::Error::custom)?)
}

/// Reads an untyped object as its type, without `metadata.managedFields`.
///
/// # Errors
/// What is not of the kind.
pub fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(Plain(object))
}

/// What is made of a kind.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Shared {
    /// Reads text and writes it again: this holds all of the generic code.
    pub copy: fn(&str) -> Result<String, serde_json::Error>,
    /// Reads a value and makes one again.
    pub convert: fn(&Value) -> Result<Value, serde_json::Error>,
}

macro_rules! shared {
    ($($group:ident::$version:ident { $($kind:ident),* $(,)? })*) => {
        /// The kinds that several crates use typed.
        #[doc(hidden)]
        pub static SHARED: &[Shared] = &[$($(Shared {
            copy: |text| serde_json::to_string(&serde_json::from_str::<crate::types::$group::$version::$kind>(text)?.clone()),
            convert: |value| {
                serde_json::to_value(typed::<crate::types::$group::$version::$kind>(value)?)
            },
        },)*)*];
    };
}

shared! {
    admissionregistration::v1 { MutatingWebhookConfiguration, ValidatingWebhookConfiguration }
    apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    batch::v1 { CronJob, Job }
    certificates::v1 { CertificateSigningRequest }
    coordination::v1 { Lease }
    core::v1 {
        ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
        ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
    }
    discovery::v1 { EndpointSlice }
    node::v1 { RuntimeClass }
    policy::v1 { PodDisruptionBudget }
    rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    scheduling::v1 { PriorityClass }
    storage::v1 { CSIDriver, CSINode, StorageClass, VolumeAttachment }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_listed_kind_is_read_and_written() {
        for shared in SHARED {
            let copy = (shared.copy)(r#"{"metadata":{"name":"a"},"unknown":1}"#);
            let copy: Value = serde_json::from_str(&copy.unwrap()).unwrap();
            assert_eq!(copy["metadata"], json!({"name": "a"}));
            assert_eq!((shared.convert)(&copy).unwrap(), copy);
            assert!((shared.copy)(r#"{"metadata":7}"#).is_err());
        }
    }
}
