//! Which admission plugins there are, in their order, and which of them run.
//!
//! Not here: what a plugin does (its own file), how it is configured (`configuration`).
//! Upstream: `pkg/kubeapiserver/options/plugins.go`, apiserver `pkg/server/options/admission.go`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;

/// Why plugins cannot run as they are set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name that upstream does not have.
    #[error("{setting} plugin {name:?} is unknown")]
    Unknown {
        /// `enable-admission-plugins` or `disable-admission-plugins`.
        setting: &'static str,
        /// The name.
        name: String,
    },
    /// Names that are both enabled and disabled.
    #[error("[{}] in enable-admission-plugins and disable-admission-plugins overlapped", .0.join(" "))]
    Overlap(Vec<String>),
    /// A plugin that does nothing without a configuration, and has none.
    #[error("the admission plugin {0:?} needs a configuration (--admission-control-config-file)")]
    Unconfigured(&'static str),
    /// A plugin of upstream's that is not here.
    #[error("the admission plugin {0:?} is not supported")]
    Unsupported(String),
}

type Make = fn(&Options, &Surroundings) -> Arc<dyn Plugin>;

/// When a plugin runs.
enum Runs {
    /// Unless it is disabled.
    Usually(Make),
    /// If it is enabled.
    WhenEnabled(Make),
    /// Upstream has it and runs it only where it is enabled; we have not.
    Never,
    /// Upstream has it, and it does nothing without features that are off by default.
    Nothing,
}

use Runs::{Never, Nothing, Usually, WhenEnabled};

/// Every plugin of upstream's in its order. To add one: its file and its line.
const PLUGINS: &[(&str, Runs)] = &[
    ("AlwaysAdmit", WhenEnabled(|_, _| Arc::new(always::AlwaysAdmit))),
    ("NamespaceAutoProvision", Never),
    (
        "NamespaceLifecycle",
        Usually(|_, with| Arc::new(namespace_lifecycle::NamespaceLifecycle::new(with.clock.clone()))),
    ),
    ("NamespaceExists", WhenEnabled(|_, _| Arc::new(namespace_exists::NamespaceExists))),
    (
        "LimitPodHardAntiAffinityTopology",
        WhenEnabled(|_, _| Arc::new(limit_pod_hard_anti_affinity::LimitPodHardAntiAffinityTopology)),
    ),
    ("LimitRanger", Usually(|_, _| Arc::new(limit_ranger::LimitRanger::default()))),
    (
        "ServiceAccount",
        Usually(|_, with| {
            Arc::new(service_account::ServiceAccount::new(with.clock.clone(), with.randomness.clone()))
        }),
    ),
    (
        "NodeRestriction",
        Usually(|_, with| Arc::new(node_restriction::NodeRestriction::new(with.authorizer()))),
    ),
    ("TaintNodesByCondition", Usually(|_, _| Arc::new(taint_nodes_by_condition::TaintNodesByCondition))),
    ("AlwaysPullImages", WhenEnabled(|_, _| Arc::new(always_pull_images::AlwaysPullImages))),
    ("ImagePolicyWebhook", Never),
    (
        "PodSecurity",
        Usually(|options, _| Arc::new(pod_security::PodSecurity::new(options.pod_security.clone()))),
    ),
    (
        "PodNodeSelector",
        WhenEnabled(|options, _| {
            Arc::new(pod_node_selector::PodNodeSelector::new(options.node_selectors.clone()))
        }),
    ),
    ("Priority", Usually(|_, _| Arc::new(priority::Priority::default()))),
    (
        "DefaultTolerationSeconds",
        Usually(|_, _| Arc::new(default_toleration_seconds::DefaultTolerationSeconds)),
    ),
    (
        "PodTolerationRestriction",
        WhenEnabled(|options, _| {
            let usual = options.tolerations.clone();
            Arc::new(pod_toleration_restriction::PodTolerationRestriction::new(usual))
        }),
    ),
    (
        "EventRateLimit",
        WhenEnabled(|options, with| {
            Arc::new(event_rate_limit::EventRateLimit::new(&options.event_limits, with.clock.clone()))
        }),
    ),
    (
        "ExtendedResourceToleration",
        WhenEnabled(|_, _| Arc::new(extended_resource_toleration::ExtendedResourceToleration)),
    ),
    ("DefaultStorageClass", Usually(|_, _| Arc::new(default_storage_class::DefaultStorageClass))),
    (
        "StorageObjectInUseProtection",
        Usually(|_, _| Arc::new(storage_object_in_use_protection::StorageObjectInUseProtection)),
    ),
    (
        "OwnerReferencesPermissionEnforcement",
        WhenEnabled(|_, with| {
            Arc::new(owner_references_permission_enforcement::OwnerReferencesPermissionEnforcement::new(
                with.clone(),
            ))
        }),
    ),
    (
        "PersistentVolumeClaimResize",
        Usually(|_, _| Arc::new(persistent_volume_claim_resize::PersistentVolumeClaimResize)),
    ),
    ("RuntimeClass", Usually(|_, _| Arc::new(runtime_class::RuntimeClass))),
    (
        "CertificateApproval",
        Usually(|_, with| Arc::new(certificate_approval::CertificateApproval::new(with.authorizer()))),
    ),
    (
        "CertificateSigning",
        Usually(|_, with| Arc::new(certificate_signing::CertificateSigning::new(with.authorizer()))),
    ),
    (
        "ClusterTrustBundleAttest",
        Usually(|_, with| {
            Arc::new(cluster_trust_bundle_attest::ClusterTrustBundleAttest::new(with.authorizer()))
        }),
    ),
    (
        "CertificateSubjectRestriction",
        Usually(|_, _| Arc::new(certificate_subject_restriction::CertificateSubjectRestriction)),
    ),
    ("DefaultIngressClass", Usually(|_, _| Arc::new(default_ingress_class::DefaultIngressClass))),
    (
        "DenyServiceExternalIPs",
        WhenEnabled(|_, _| Arc::new(deny_service_external_ips::DenyServiceExternalIps)),
    ),
    ("PodTopologyLabels", Usually(|_, _| Arc::new(pod_topology_labels::PodTopologyLabels))),
    ("PodGroupWorkloadExists", Nothing),
    (
        "NodeDeclaredFeatureValidator",
        Usually(|_, _| Arc::new(node_declared_feature_validator::NodeDeclaredFeatureValidator)),
    ),
    ("JobValidation", Nothing),
    ("PodResizeValidator", Usually(|_, _| Arc::new(pod_resize_validator::PodResizeValidator))),
    (
        "MutatingAdmissionPolicy",
        Usually(|options, with| {
            Arc::new(policy::MutatingAdmissionPolicy::new(with.clone(), &options.manifests.mutating_policies))
        }),
    ),
    (
        "MutatingAdmissionWebhook",
        Usually(|options, with| {
            let identities = options.mutating_identities.clone();
            let manifests = &options.manifests.mutating_webhooks;
            Arc::new(webhook::MutatingAdmissionWebhook::new(with.clone(), identities, manifests))
        }),
    ),
    (
        "ValidatingAdmissionPolicy",
        Usually(|options, with| {
            let manifests = &options.manifests.validating_policies;
            Arc::new(policy::ValidatingAdmissionPolicy::new(with.clone(), manifests))
        }),
    ),
    (
        "ValidatingAdmissionWebhook",
        Usually(|options, with| {
            let identities = options.validating_identities.clone();
            let manifests = &options.manifests.validating_webhooks;
            Arc::new(webhook::ValidatingAdmissionWebhook::new(with.clone(), identities, manifests))
        }),
    ),
    (
        "ResourceQuota",
        Usually(|options, with| {
            let limited = options.limited_resources.clone();
            Arc::new(resource_quota::ResourceQuota::new(with.clock.clone(), limited))
        }),
    ),
    ("AlwaysDeny", WhenEnabled(|_, _| Arc::new(always::AlwaysDeny))),
];

/// What is wrong with the names in the settings.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    let known = |name: &String| PLUGINS.iter().any(|(plugin, _)| plugin == name);
    let settings =
        [("enable-admission-plugins", &options.enabled), ("disable-admission-plugins", &options.disabled)];
    for (setting, names) in settings {
        if let Some(name) = names.iter().find(|name| !known(name)) {
            return Err(Error::Unknown { setting, name: name.clone() });
        }
    }
    let enabled: BTreeSet<&String> = options.enabled.iter().collect();
    let disabled: BTreeSet<&String> = options.disabled.iter().collect();
    let both: Vec<String> = enabled.intersection(&disabled).map(|name| (*name).clone()).collect();
    if !both.is_empty() {
        return Err(Error::Overlap(both));
    }
    let missing = PLUGINS.iter().filter(|(_, runs)| matches!(runs, Never)).map(|(name, _)| *name);
    match missing.into_iter().find(|missing| enabled.iter().any(|name| name == missing)) {
        Some(missing) => Err(Error::Unsupported(missing.to_owned())),
        None if options.event_limits.is_empty() && enabled.iter().any(|name| *name == "EventRateLimit") => {
            Err(Error::Unconfigured("EventRateLimit"))
        }
        None => Ok(()),
    }
}

/// The plugins that run, in their order.
pub(super) fn chosen(options: &Options, surroundings: &Surroundings) -> Vec<Arc<dyn Plugin>> {
    let named = |names: &[String], name: &str| names.iter().any(|one| one == name);
    let chosen = PLUGINS.iter().filter_map(|(name, runs)| match runs {
        Usually(make) if !named(&options.disabled, name) => Some(make),
        WhenEnabled(make) if named(&options.enabled, name) => Some(make),
        _ => None,
    });
    chosen.map(|make| make(options, surroundings)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams_and_what_is_wrong_is_said() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (enabled, disabled, wanted) in [
            (&[][..], &[][..], None),
            (&["AlwaysPullImages", "PodSecurity"], &["Priority"], None),
            (&["Nobody"], &[], Some("enable-admission-plugins plugin \"Nobody\" is unknown")),
            (&[], &["Nobody"], Some("disable-admission-plugins plugin \"Nobody\" is unknown")),
            (
                &["Priority", "PodSecurity"],
                &["PodSecurity", "Priority"],
                Some(
                    "[PodSecurity Priority] in enable-admission-plugins and disable-admission-plugins overlapped",
                ),
            ),
            (
                &["ImagePolicyWebhook"],
                &[],
                Some("the admission plugin \"ImagePolicyWebhook\" is not supported"),
            ),
            (&[], &["ImagePolicyWebhook"], None),
            (
                &["EventRateLimit"],
                &[],
                Some(
                    "the admission plugin \"EventRateLimit\" needs a configuration (--admission-control-config-file)",
                ),
            ),
        ] {
            let options =
                Options { enabled: names(enabled), disabled: names(disabled), ..Options::default() };
            let found = check(&options).err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), wanted, "{enabled:?} {disabled:?}");
        }
        let unique: BTreeSet<&str> = PLUGINS.iter().map(|(name, _)| *name).collect();
        assert_eq!(unique.len(), PLUGINS.len());
    }

    #[test]
    fn those_that_upstream_runs_run() {
        let usual = PLUGINS.iter().filter(|(_, runs)| matches!(runs, Usually(_))).map(|(name, _)| *name);
        #[rustfmt::skip]
        let wanted = [
            "NamespaceLifecycle", "LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition",
            "PodSecurity", "Priority", "DefaultTolerationSeconds", "DefaultStorageClass",
            "StorageObjectInUseProtection", "PersistentVolumeClaimResize", "RuntimeClass", "CertificateApproval",
            "CertificateSigning", "ClusterTrustBundleAttest", "CertificateSubjectRestriction",
            "DefaultIngressClass", "PodTopologyLabels", "NodeDeclaredFeatureValidator", "PodResizeValidator",
            "MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy",
            "ValidatingAdmissionWebhook", "ResourceQuota",
        ];
        assert_eq!(usual.collect::<Vec<_>>(), wanted);
    }
}
