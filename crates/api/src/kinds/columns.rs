//! The columns of every kind's Table, compared with a table written by hand from upstream's
//! pkg/printers/internalversion/printers.go (and the aggregator's for APIService).
//!
//! A row is the resource and its columns in order: `Name` is a string that is always shown, `Count:integer` has another
//! type, `Node*` is for `-o wide`, and `=` marks the format `name`. Descriptions are not compared: they are prose.

use crate::kind::{Column, Verbs};

const GENERIC: &str = "Name=, Created At:date";
const AGE: &str = "Name=, Age";

const UPSTREAM: &[(&str, &str)] = &[
    ("componentstatuses", "Name=, Status, Message, Error"),
    ("configmaps", "Name=, Data, Age"),
    ("endpoints", "Name=, Endpoints, Age"),
    ("events", "Last Seen, Type, Reason, Object, Subobject*, Source*, Message, First Seen*, Count*, Name=*"),
    ("limitranges", GENERIC),
    ("namespaces", "Name=, Status, Age"),
    (
        "nodes",
        "Name=, Status, Roles, Age, Version, Internal-IP*, External-IP*, OS-Image*, Kernel-Version*, \
         Container-Runtime*",
    ),
    (
        "persistentvolumeclaims",
        "Name=, Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, VolumeMode*",
    ),
    (
        "persistentvolumes",
        "Name=, Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, \
         Age, VolumeMode*",
    ),
    ("pods", "Name=, Ready, Status, Restarts, Age, IP*, Node*, Nominated Node*, Readiness Gates*"),
    ("podtemplates", "Name=, Containers, Images, Pod Labels"),
    (
        "replicationcontrollers",
        "Name=, Desired:integer, Current:integer, Ready:integer, Age, Containers*, Images*, Selector*",
    ),
    ("resourcequotas", "Name=, Request, Limit, Age"),
    ("secrets", "Name=, Type, Data, Age"),
    ("serviceaccounts", "Name=, Secrets, Age"),
    ("services", "Name=, Type, Cluster-IP, External-IP, Port(s), Age, Selector*"),
    ("controllerrevisions.apps", "Name=, Controller, Revision, Age"),
    (
        "daemonsets.apps",
        "Name=, Desired:integer, Current:integer, Ready:integer, Up-to-date:integer, Available:integer, \
         Node Selector, Age, Containers*, Images*, Selector*",
    ),
    ("deployments.apps", "Name=, Ready, Up-to-date, Available, Age, Containers*, Images*, Selector*"),
    (
        "replicasets.apps",
        "Name=, Desired:integer, Current:integer, Ready:integer, Age, Containers*, Images*, Selector*",
    ),
    ("statefulsets.apps", "Name=, Ready, Age, Containers*, Images*"),
    (
        "cronjobs.batch",
        "Name=, Schedule, Timezone, Suspend:boolean, Active:integer, Last Schedule, Age, Containers*, Images*, \
         Selector*",
    ),
    ("jobs.batch", "Name=, Status, Completions, Duration, Age, Containers*, Images*, Selector*"),
    ("horizontalpodautoscalers.autoscaling", "Name=, Reference, Targets, MinPods, MaxPods, Replicas, Age"),
    (
        "poddisruptionbudgets.policy",
        "Name=, Min Available, Max Unavailable, Allowed Disruptions:integer, Age",
    ),
    ("ingressclasses.networking.k8s.io", "Name=, Controller, Parameters, Age"),
    ("ingresses.networking.k8s.io", "Name=, Class, Hosts, Address, Ports, Age"),
    ("ipaddresses.networking.k8s.io", "Name=, ParentRef"),
    ("networkpolicies.networking.k8s.io", "Name=, Pod-Selector, Age"),
    ("servicecidrs.networking.k8s.io", "Name=, CIDRs, Age"),
    ("endpointslices.discovery.k8s.io", "Name=, AddressType, Ports, Endpoints, Age"),
    (
        "csidrivers.storage.k8s.io",
        "Name=, AttachRequired:boolean, PodInfoOnMount:boolean, StorageCapacity:boolean, TokenRequests, \
         RequiresRepublish:boolean, Modes, Age",
    ),
    ("csinodes.storage.k8s.io", "Name=, Drivers:integer, Age"),
    ("csistoragecapacities.storage.k8s.io", "Name=, StorageClassName, Capacity"),
    (
        "storageclasses.storage.k8s.io",
        "Name=, Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age",
    ),
    ("volumeattachments.storage.k8s.io", "Name=, Attacher=, PV, Node, Attached:boolean, Age"),
    ("volumeattributesclasses.storage.k8s.io", "Name=, DriverName, Age"),
    ("clusterroles.rbac.authorization.k8s.io", GENERIC),
    ("roles.rbac.authorization.k8s.io", GENERIC),
    ("clusterrolebindings.rbac.authorization.k8s.io", "Name=, Role, Age, Users*, Groups*, ServiceAccounts*"),
    ("rolebindings.rbac.authorization.k8s.io", "Name=, Role, Age, Users*, Groups*, ServiceAccounts*"),
    (
        "certificatesigningrequests.certificates.k8s.io",
        "Name=, Age, SignerName, Requestor, RequestedDuration, Condition",
    ),
    ("clustertrustbundles.certificates.k8s.io", "Name=, SignerName"),
    (
        "podcertificaterequests.certificates.k8s.io",
        "Name=, PodName, ServiceAccountName, NodeName, SignerName, State, UserAnnotations*",
    ),
    ("mutatingadmissionpolicies.admissionregistration.k8s.io", "Name=, Mutations:integer, ParamKind, Age"),
    ("mutatingadmissionpolicybindings.admissionregistration.k8s.io", "Name=, PolicyName, ParamRef, Age"),
    ("mutatingwebhookconfigurations.admissionregistration.k8s.io", "Name=, Webhooks:integer, Age"),
    (
        "validatingadmissionpolicies.admissionregistration.k8s.io",
        "Name=, Validations:integer, ParamKind, Age",
    ),
    ("validatingadmissionpolicybindings.admissionregistration.k8s.io", "Name=, PolicyName, ParamRef, Age"),
    ("validatingwebhookconfigurations.admissionregistration.k8s.io", "Name=, Webhooks:integer, Age"),
    ("leases.coordination.k8s.io", "Name=, Holder, Age"),
    (
        "events.events.k8s.io",
        "Last Seen, Type, Reason, Object, Subobject*, Source*, Message, First Seen*, Count*, Name=*",
    ),
    (
        "priorityclasses.scheduling.k8s.io",
        "Name=, Value:integer, Global-Default:boolean, Age, PreemptionPolicy",
    ),
    ("runtimeclasses.node.k8s.io", "Name=, Handler, Age"),
    (
        "flowschemas.flowcontrol.apiserver.k8s.io",
        "Name=, PriorityLevel, MatchingPrecedence, DistinguisherMethod, Age, MissingPL",
    ),
    (
        "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
        "Name=, Type, NominalConcurrencyShares, Queues, HandSize, QueueLengthLimit, Age",
    ),
    ("deviceclasses.resource.k8s.io", AGE),
    ("devicetaintrules.resource.k8s.io", AGE),
    ("resourceclaims.resource.k8s.io", "Name=, State, Age"),
    ("resourceclaimtemplates.resource.k8s.io", AGE),
    ("resourceslices.resource.k8s.io", "Name=, Node, Driver, Pool, Age"),
    ("storageversionmigrations.storagemigration.k8s.io", "Name, Resource"),
    ("customresourcedefinitions.apiextensions.k8s.io", "Name=, Group, Scope, Versions, Created At:date"),
    ("apiservices.apiregistration.k8s.io", "Name=, Service, Available, Age"),
];

fn written(columns: &[Column]) -> String {
    let columns = columns.iter().map(|column| {
        let kind = if column.r#type == "string" { String::new() } else { format!(":{}", column.r#type) };
        let format = if column.format == "name" { "=" } else { &column.format };
        format!("{}{kind}{format}{}", column.name, if column.priority > 0 { "*" } else { "" })
    });
    columns.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_columns_are_those_of_upstream() {
    for kind in super::all() {
        if !kind.verbs.contains(Verbs::LIST) {
            continue;
        }
        let resource = kind.group_resource().to_string();
        let upstream = UPSTREAM.iter().find(|(name, _)| *name == resource);
        let (_, columns) = upstream.unwrap_or_else(|| panic!("{resource} is not in the table"));
        assert_eq!(written(&kind.columns), *columns, "{resource}");
    }
}
