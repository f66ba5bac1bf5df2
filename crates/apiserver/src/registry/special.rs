//! The resources that need more than their descriptor, and the file each has.

use std::sync::Arc;

use api::kind::Descriptor;

use super::{
    Plain, Rest, admissionregistration::Expressions, apiextensions, authentication, authorization,
    certificates, core, rbac, resource,
};

type Make = fn() -> Arc<dyn Rest>;

/// Group, resource, and what it does differently.
const SPECIAL: &[(&str, &str, Make)] = &[
    ("", "bindings", || Arc::new(core::binding::Bindings)),
    ("", "componentstatuses", || Arc::new(core::component_status::ComponentStatuses)),
    ("", "namespaces", || Arc::new(core::namespace::Namespaces)),
    ("", "nodes", || Arc::new(core::node::Nodes)),
    ("", "persistentvolumes", || Arc::new(core::persistent_volume::PersistentVolumes)),
    ("", "pods", || Arc::new(core::pod::Pods)),
    ("", "serviceaccounts", || Arc::new(core::service_account::ServiceAccounts)),
    ("", "services", || Arc::new(core::service::Services::default())),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies", || Arc::new(Expressions::Mutating)),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", || Arc::new(Expressions::Webhooks)),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", || Arc::new(Expressions::Validating)),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", || Arc::new(Expressions::Webhooks)),
    ("apiextensions.k8s.io", "customresourcedefinitions", || Arc::new(apiextensions::Definitions)),
    ("authentication.k8s.io", "selfsubjectreviews", || Arc::new(authentication::SelfSubjectReviews)),
    ("authentication.k8s.io", "tokenreviews", || Arc::new(authentication::TokenReviews)),
    ("authorization.k8s.io", "localsubjectaccessreviews", || {
        Arc::new(authorization::LocalSubjectAccessReviews)
    }),
    ("authorization.k8s.io", "selfsubjectaccessreviews", || {
        Arc::new(authorization::SelfSubjectAccessReviews)
    }),
    ("authorization.k8s.io", "selfsubjectrulesreviews", || Arc::new(authorization::SelfSubjectRulesReviews)),
    ("authorization.k8s.io", "subjectaccessreviews", || Arc::new(authorization::SubjectAccessReviews)),
    ("certificates.k8s.io", "certificatesigningrequests", || Arc::new(certificates::SigningRequests)),
    ("certificates.k8s.io", "clustertrustbundles", || Arc::new(certificates::TrustBundles)),
    ("certificates.k8s.io", "podcertificaterequests", || Arc::new(certificates::PodCertificateRequests)),
    ("rbac.authorization.k8s.io", "clusterrolebindings", || Arc::new(rbac::Policy)),
    ("rbac.authorization.k8s.io", "clusterroles", || Arc::new(rbac::Policy)),
    ("rbac.authorization.k8s.io", "rolebindings", || Arc::new(rbac::Policy)),
    ("rbac.authorization.k8s.io", "roles", || Arc::new(rbac::Policy)),
    ("resource.k8s.io", "deviceclasses", || Arc::new(resource::specs::DeviceClasses)),
    ("resource.k8s.io", "resourceclaimtemplates", || Arc::new(resource::specs::ClaimTemplates)),
    ("resource.k8s.io", "resourceclaims", || Arc::new(resource::ResourceClaims)),
];

/// What `descriptor`'s resource does differently.
pub(super) fn rest(descriptor: &Descriptor) -> Arc<dyn Rest> {
    SPECIAL
        .iter()
        .find(|(group, resource, _)| *group == descriptor.group && *resource == descriptor.plural)
        .map_or_else(|| Arc::new(Plain) as Arc<dyn Rest>, |(_, _, make)| make())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_resource_exists() {
        let kinds = api::kinds::all();
        for (group, resource, _) in SPECIAL {
            assert!(kinds.iter().any(|d| d.group == *group && d.plural == *resource), "{resource}.{group}");
        }
    }

    #[test]
    fn every_subresource_in_discovery_has_a_handler() {
        for descriptor in api::kinds::all() {
            let rest = rest(&descriptor);
            for sub in &descriptor.subresources.other {
                assert!(rest.subresource(&sub.name).is_some(), "{descriptor:?}/{}", sub.name);
            }
        }
    }
}
