//! The types every kind shares, re-exported under one short path.
//! Not here: their validation ([`crate::meta_validation`]).

pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    APIGroup, APIGroupList, APIResource, APIResourceList, APIVersions, Condition, DeleteOptions, FieldsV1,
    GroupVersionForDiscovery, LabelSelector, LabelSelectorRequirement, ListMeta, ManagedFieldsEntry,
    MicroTime, ObjectMeta, OwnerReference, Preconditions, ServerAddressByClientCIDR, Time,
};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
