//! Writes the protobuf field numbers of the built-in definitions, as crate `schema` reads them.
//! Reads the generated structs of the `k8s-pb` crate's source (its Rust names stand for upstream's message and field
//! names). A message that JSON has inlined (`Volume.volumeSource`) gives its fields a path of numbers.
//! Not here: the reading of the numbers (`schema::protobuf`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Where the numbers are kept, from the root of the repository.
pub const NUMBERS: &str = "crates/schema/src/generated/protobuf.txt";

/// Fields that are younger than the crate, with the numbers that upstream's own fixtures show.
const YOUNGER: &[(&str, &str)] = &[
    ("io.k8s.api.admissionregistration.v1.ApplyConfiguration", "expression=1"),
    ("io.k8s.api.admissionregistration.v1.JSONPatch", "expression=1"),
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy", "metadata=1 spec=2"),
    ("io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding", "metadata=1 spec=2"),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBindingSpec",
        "matchResources=3 paramRef=2 policyName=1",
    ),
    (
        "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec",
        "failurePolicy=5 matchConditions=6 matchConstraints=2 mutations=4 paramKind=1 reinvocationPolicy=7 variables=3",
    ),
    ("io.k8s.api.admissionregistration.v1.Mutation", "applyConfiguration=3 jsonPatch=4 patchType=2"),
    ("io.k8s.api.authentication.v1.TokenRequestSpec", "attestations=5"),
    (
        "io.k8s.api.batch.v1.JobSchedulingConfiguration",
        "disruptionMode=3 resourceClaims=4 schedulingConstraints=2 schedulingPolicy=1",
    ),
    ("io.k8s.api.batch.v1.JobSpec", "scheduling=17"),
    ("io.k8s.api.certificates.v1.ClusterTrustBundle", "metadata=1 spec=2"),
    ("io.k8s.api.certificates.v1.ClusterTrustBundleSpec", "signerName=1 trustBundle=2"),
    ("io.k8s.api.certificates.v1.PodCertificateRequest", "metadata=1 spec=2 status=3"),
    (
        "io.k8s.api.certificates.v1.PodCertificateRequestSpec",
        "maxExpirationSeconds=8 nodeName=6 nodeUID=7 podName=2 podUID=3 serviceAccountName=4 serviceAccountUID=5 signerName=1 stubPKCS10Request=12 unverifiedUserAnnotations=11",
    ),
    (
        "io.k8s.api.certificates.v1.PodCertificateRequestStatus",
        "beginRefreshAt=5 certificateChain=2 conditions=1 notAfter=6 notBefore=4",
    ),
    ("io.k8s.api.core.v1.ClusterTrustBundleProjection", "user=6"),
    ("io.k8s.api.core.v1.ConfigMapVolumeSource", "defaultUser=5"),
    ("io.k8s.api.core.v1.DownwardAPIVolumeFile", "user=5"),
    ("io.k8s.api.core.v1.DownwardAPIVolumeSource", "defaultUser=3"),
    ("io.k8s.api.core.v1.EmptyDirVolumeSource", "mode=3"),
    ("io.k8s.api.core.v1.EvictionResponder", "name=1 priority=2"),
    ("io.k8s.api.core.v1.GRPCAction", "mode=3"),
    ("io.k8s.api.core.v1.HTTPGetAction", "protocol=6"),
    ("io.k8s.api.core.v1.ImageVolumeStatus", "imageRef=1"),
    ("io.k8s.api.core.v1.KeyToPath", "user=4"),
    ("io.k8s.api.core.v1.NodeAllocatableMappedResources", "name=1 quantity=2"),
    ("io.k8s.api.core.v1.NodeAllocatableOverheadResources", "name=1 perContainer=3 perPod=2"),
    (
        "io.k8s.api.core.v1.NodeAllocatableResourceClaimStatus",
        "containers=2 mapping=4 overhead=5 resourceClaimName=1",
    ),
    ("io.k8s.api.core.v1.NodePodPreemptionPolicy", "disableResizePreemption=1"),
    ("io.k8s.api.core.v1.NodeSpec", "podPreemptionPolicy=8"),
    ("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "healthStatus=10"),
    ("io.k8s.api.core.v1.PodCertificateProjection", "user=8"),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "podGroupName=1"),
    ("io.k8s.api.core.v1.PodSpec", "evictionResponders=44 schedulingGroup=43"),
    ("io.k8s.api.core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses=21 volumeHealth=22"),
    ("io.k8s.api.core.v1.PodVolumeHealth", "healthConditions=2 lastTransitionTime=3 name=1"),
    ("io.k8s.api.core.v1.ProjectedVolumeSource", "defaultUser=3"),
    ("io.k8s.api.core.v1.ResourceHealth", "message=6"),
    ("io.k8s.api.core.v1.SecretVolumeSource", "defaultUser=5"),
    ("io.k8s.api.core.v1.ServiceAccountTokenProjection", "user=4"),
    ("io.k8s.api.core.v1.VolumeHealthCondition", "message=3 reason=2 status=1"),
    ("io.k8s.api.core.v1.VolumeHealthStatus", "healthConditions=1 lastTransitionTime=2"),
    ("io.k8s.api.core.v1.VolumeMount", "bindMountOptions=8"),
    ("io.k8s.api.core.v1.VolumeMountStatus", "volumeStatus=5"),
    ("io.k8s.api.core.v1.VolumeStatus", "image=1"),
    ("io.k8s.api.resource.v1.Device", "nodeAllocatableResources=14"),
    ("io.k8s.api.resource.v1.DeviceAttribute", "bools=7 ints=6 strings=8 versions=9"),
    ("io.k8s.api.resource.v1.DeviceTaintRule", "metadata=1 spec=2 status=3"),
    ("io.k8s.api.resource.v1.DeviceTaintRuleSpec", "deviceSelector=1 taint=2"),
    ("io.k8s.api.resource.v1.DeviceTaintRuleStatus", "conditions=1"),
    ("io.k8s.api.resource.v1.DeviceTaintSelector", "device=4 driver=2 pool=3"),
    (
        "io.k8s.api.resource.v1.NodeAllocatableMapping",
        "capacityKey=1 capacityMultiplier=2 deviceMultiplier=3",
    ),
    ("io.k8s.api.resource.v1.NodeAllocatableOverhead", "perContainer=2 perPod=1"),
    ("io.k8s.api.resource.v1.NodeAllocatableResource", "mapping=3 overhead=4"),
    ("io.k8s.api.resource.v1.ResourceSliceSpec", "partitionTypeAttribute=9 skipNodeOperations=10"),
    ("io.k8s.api.scheduling.v1alpha3.TopologyConstraint", "key=1"),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupDisruptionMode", "all=2 single=1"),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupGangSchedulingPolicy", "minCount=1"),
    (
        "io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupResourceClaim",
        "name=1 resourceClaimName=2 resourceClaimTemplateName=3",
    ),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupSchedulingConstraints", "topology=1"),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupSchedulingPolicy", "basic=1 gang=2"),
    ("io.k8s.api.storage.v1.CSINode", "status=3"),
    ("io.k8s.api.storage.v1.CSINodeStatus", "storageHealth=1"),
    ("io.k8s.api.storage.v1.StorageHealth", "healthConditions=2 name=1"),
    (
        "io.k8s.api.storage.v1.StorageHealthCondition",
        "accessMode=4 lastTransitionTime=6 message=3 reason=2 status=1 volumeMode=5",
    ),
    ("io.k8s.api.storagemigration.v1.StorageVersionMigration", "metadata=1 spec=2 status=3"),
    ("io.k8s.api.storagemigration.v1.StorageVersionMigrationSpec", "resource=1"),
    ("io.k8s.api.storagemigration.v1.StorageVersionMigrationStatus", "conditions=1 resourceVersion=2"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", "shardInfo=5"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions", "shardSelector=15"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ShardInfo", "selector=1"),
];

/// Rust field name, number, type.
type Fields = Vec<(String, u32, String)>;

/// The text of the table. `root` is the crate's folder.
pub fn numbers(root: &Path) -> String {
    let root = root.join("src");
    let mut out = String::from(
        "# Protobuf field numbers of the built-in definitions, by JSON name; a path where JSON inlines a message.\n\
         # Generated by `cargo xtask codegen protobuf`; do not edit.\n",
    );
    let mut modules: BTreeMap<String, BTreeMap<String, Fields>> = BTreeMap::new();
    for name in schema::table().names() {
        let Some((package, kind)) = name.rsplit_once('.') else { continue };
        let directory = package.trim_start_matches("io.k8s.").replace('.', "/").replace('-', "_");
        if !modules.contains_key(&directory) {
            let text = std::fs::read_to_string(root.join(&directory).join("mod.rs")).unwrap_or_default();
            modules.insert(directory.clone(), structs(&text));
        }
        let definition = schema::table().definition(name);
        // Definitions without fields have a wire form of their own.
        let Some(definition) = definition.filter(|definition| !definition.fields.is_empty()) else {
            continue;
        };
        let mut entries = Vec::new();
        if let Some(fields) = modules[&directory].get(&folded(kind)) {
            let json: BTreeMap<String, &str> =
                definition.fields.iter().map(|f| (folded(f.name), f.name)).collect();
            collect(&modules[&directory], fields, &json, "", &mut entries);
        }
        for entry in
            YOUNGER.iter().filter(|(younger, _)| *younger == name).flat_map(|(_, all)| all.split(' '))
        {
            if !entries.iter().any(|known| known == entry) {
                entries.push(entry.to_owned());
            }
        }
        entries.sort();
        if !entries.is_empty() {
            let _ = writeln!(out, "{name} {}", entries.join(" "));
        }
    }
    out
}

fn collect(
    module: &BTreeMap<String, Fields>,
    fields: &Fields,
    json: &BTreeMap<String, &str>,
    prefix: &str,
    out: &mut Vec<String>,
) {
    for (name, number, kind) in fields {
        match (json.get(&folded(name)), module.get(&folded(kind))) {
            (Some(json), _) => out.push(format!("{json}={prefix}{number}")),
            (None, Some(inlined)) => collect(module, inlined, json, &format!("{prefix}{number}."), out),
            (None, None) => {}
        }
    }
}

fn folded(name: &str) -> String {
    name.trim_start_matches("r#").replace(['_', '$', '-'], "").to_ascii_lowercase()
}

/// The structs of a generated file, by folded name, with the fields of each.
fn structs(text: &str) -> BTreeMap<String, Fields> {
    let mut found: BTreeMap<String, Fields> = BTreeMap::new();
    let (mut current, mut number) = (String::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.split([' ', '{']).next()) {
            // Rust's names are not upstream's in their capitals: HttpGetAction.
            current = folded(name);
            found.entry(current.clone()).or_default();
        } else if let Some((_, tag)) = line.split_once("tag = \"") {
            number = tag.split('"').next().and_then(|digits| digits.parse().ok());
        } else if let (Some(field), Some(tag)) = (line.strip_prefix("pub "), number)
            && let Some((name, kind)) = field.split_once(':')
        {
            let kind = kind.trim_end_matches([',', '>']).rsplit(['<', ':']).next().unwrap_or_default();
            found.entry(current.clone()).or_default().push((
                name.trim().to_owned(),
                tag,
                kind.trim().to_owned(),
            ));
            number = None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_are_read_with_their_numbers() {
        let text = "pub struct A {\n  /// Says what.\n  #[prost(string, optional, tag = \"3\")]\n  pub r#type: Option<String>,\n}\n";
        let found = structs(text);
        assert_eq!(found["a"], [("r#type".to_owned(), 3, "String".to_owned())]);
        assert_eq!(folded("$ref"), "ref");
        assert_eq!(folded("x-kubernetes-map-type"), "xkubernetesmaptype");
    }
}
