//! In which fields zero is a value of its own: those that are pointers upstream.
//! The wire does not say: fields that are no pointers are written always, zero or not, and JSON leaves them out where
//! they are zero.
//! Not here: reading ([`super::read`]).

/// Names of fields that are pointers wherever they occur.
const EVERYWHERE: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "allowed",
    "attachRequired",
    "automountServiceAccountToken",
    "backoffLimit",
    "backoffLimitPerIndex",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "immutable",
    "maxFailedIndexes",
    "minReplicas",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "partition",
    "podInfoOnMount",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
    "volumeAttributesClassName",
];

/// Definitions and fields that are pointers there, while others of that name are none.
const SOMEWHERE: &[(&str, &str)] = &[("PodSpec", "priority")];

/// Whether zero is a value of its own in the `field` of a `definition` (its short name).
pub(super) fn counts(definition: &str, field: &str) -> bool {
    EVERYWHERE.contains(&field) || SOMEWHERE.contains(&(definition, field))
}
