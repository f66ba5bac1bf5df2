//! `resource.k8s.io`: who may write which part of a ResourceClaim's status. What specs may ask for is in `specs`.
//!
//! Allocation and reservations are the scheduler's and its likes': they need `resourceclaims/binding`. What a driver
//! tells of its devices needs `resourceclaims/driver` with the driver's name, for the node that the driver runs on or
//! for any. Neither subresource exists: they are names for permissions.
//! Upstream: pkg/registry/resource/authz.go (DRAResourceClaimGranularStatusAuthorization).

pub(super) mod specs;

use std::collections::{BTreeMap, BTreeSet};

use api::field::{self, ErrorList, Path};
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::Rest;
use crate::authz::Authorizer;
use crate::engine::Call;
use crate::request::{Attributes, RequestInfo, User};

/// `resourceclaims`.
pub(super) struct ResourceClaims;

#[async_trait]
impl Rest for ResourceClaims {
    fn expressions(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        // The spec does not change.
        if old.is_some() { ErrorList::new() } else { specs::claim_errors(&new["spec"], false) }
    }

    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let Some(old) = old else {
            return specs::check_claim(call, new, &new.0["spec"]).await;
        };
        if call.info.subresource != "status" {
            return Ok(());
        }
        let errors = specs::check_allocation(call, &new.0["status"], &old.0["status"]).await;
        if !errors.is_empty() {
            return Err(Status::invalid(&call.resource.descriptor.group_kind(), new.name(), errors));
        }
        let authorizer = &*call.server.authorization.authorizer;
        let refused = refused(authorizer, &call.user, &call.info, &new.0["status"], &old.0["status"]).await;
        if refused.is_empty() {
            return Ok(());
        }
        let path = Path::new("status");
        let errors = refused.into_iter().map(|detail| field::forbidden(&path, detail)).collect();
        Err(Status::invalid(&call.resource.descriptor.group_kind(), new.name(), errors))
    }
}

/// What of the change of a status the user may not make.
async fn refused(
    authorizer: &dyn Authorizer,
    user: &User,
    request: &RequestInfo,
    new: &Value,
    old: &Value,
) -> Vec<String> {
    let mut errors = Vec::new();
    let part = |verb: String, subresource: &str, namespace: &str, name: &str| {
        let mut info =
            RequestInfo { verb, namespace: namespace.into(), name: name.into(), ..request.clone() };
        info.subresource = subresource.into();
        Attributes::new(user.clone(), info)
    };
    if differ(&new["allocation"], &old["allocation"]) || differ(&new["reservedFor"], &old["reservedFor"]) {
        let verb = &request.verb;
        // Whoever allocates does so for all claims.
        if let Err(why) = may(authorizer, &part(verb.clone(), "binding", "", "")).await {
            errors.push(format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
                 verb=\"{verb}\" permission: {why}"
            ));
        }
    }
    let mut verbs = vec![format!("arbitrary-node:{}", request.verb)];
    if runs_on(user, allocated_node(&new["allocation"])) {
        verbs.insert(0, format!("associated-node:{}", request.verb));
    }
    for driver in changed_drivers(new, old) {
        let mut first = None;
        for verb in &verbs {
            match may(authorizer, &part(verb.clone(), "driver", &request.namespace, &driver)).await {
                Ok(()) => {
                    first = None;
                    break;
                }
                Err(why) => first = first.or(Some(why)),
            }
        }
        if let Some(why) = first {
            let verbs = verbs.join(" ");
            errors.push(format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{verbs}]\" permission: {why}"
            ));
        }
    }
    errors
}

async fn may(authorizer: &dyn Authorizer, attributes: &Attributes) -> Result<(), String> {
    let said = authorizer.evaluate(attributes).await;
    said.demanded(attributes).map_err(|refusal| refusal.message)
}

/// Whether two values mean different things; what is empty means what is not there.
fn differ(a: &Value, b: &Value) -> bool {
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    a != b && !(empty(a) && empty(b))
}

/// The drivers whose devices are told of, changed or left out anew.
fn changed_drivers(new: &Value, old: &Value) -> BTreeSet<String> {
    type Key<'a> = [&'a str; 4];
    fn devices(status: &Value) -> BTreeMap<Key<'_>, &Value> {
        let devices = status["devices"].as_array().into_iter().flatten();
        let key = |device| ["driver", "pool", "device", "shareID"].map(|field| text(device, field));
        devices.map(|device| (key(device), device)).collect()
    }
    fn allocated(status: &Value) -> BTreeSet<Key<'_>> {
        let results = status["allocation"]["devices"]["results"].as_array().into_iter().flatten();
        results
            .map(|result| ["driver", "pool", "device", "shareID"].map(|field| text(result, field)))
            .collect()
    }
    let (before, now) = (allocated(old), allocated(new));
    let (new, mut old) = (devices(new), devices(old));
    // What was told of a device goes with it, without being asked for (`prepare_for_status_update` of the kind).
    old.retain(|key, _| !before.contains(key) || now.contains(key));
    let keys: BTreeSet<&Key<'_>> = new.keys().chain(old.keys()).collect();
    let changed = keys.into_iter().filter(|key| new.get(*key) != old.get(*key));
    changed.map(|[driver, ..]| (*driver).to_owned()).collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The one node that an allocation is for.
fn allocated_node(allocation: &Value) -> Option<&str> {
    let [term] = allocation["nodeSelector"]["nodeSelectorTerms"].as_array()?.as_slice() else { return None };
    if term["matchExpressions"].as_array().is_some_and(|expressions| !expressions.is_empty()) {
        return None;
    }
    let [field] = term["matchFields"].as_array()?.as_slice() else { return None };
    let [node] = field["values"].as_array()?.as_slice() else { return None };
    (field["key"] == "metadata.name" && field["operator"] == "In").then(|| node.as_str()).flatten()
}

/// Whether the user is the account of a pod on the node.
fn runs_on(user: &User, node: Option<&str>) -> bool {
    let account = user.name.starts_with("system:serviceaccount:");
    let own = user.extra.get("authentication.kubernetes.io/node-name");
    account && own.is_some_and(|names| matches!(names.as_slice(), [one] if Some(one.as_str()) == node))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::Decision;

    /// Allows one thing, as `verb subresource namespace/name`.
    struct Only(&'static str);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
            let info = &attributes.info;
            let asked = format!("{} {} {}/{}", info.verb, info.subresource, info.namespace, info.name);
            (if asked == self.0 { Decision::Allow } else { Decision::NoOpinion }, String::new())
        }
    }

    #[tokio::test]
    async fn each_part_of_a_status_has_its_own_permission() {
        let allocation = json!({ "nodeSelector": { "nodeSelectorTerms": [
            { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] }] } });
        let device =
            |state: &str| json!({ "driver": "gpu.example", "pool": "p", "device": "d", "data": state });
        let old = json!({ "allocation": allocation, "devices": [device("a")] });
        let with = |devices: Value| json!({ "allocation": allocation, "devices": devices });
        let freed = json!({ "devices": [device("a")] });
        let mut reserved = old.clone();
        reserved["reservedFor"] = json!([{ "resource": "pods", "name": "p", "uid": "u" }]);
        let on = |node: &str| {
            let extra = ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
            User { extra: [extra].into(), ..User::new("system:serviceaccount:ns:driver", &[]) }
        };
        let who = "User \"system:serviceaccount:ns:driver\"";
        let binding = format!(
            "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
             verb=\"update\" permission: resourceclaims.resource.k8s.io is forbidden: {who} cannot update resource \
             \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope"
        );
        let driver = |verbs: &str, verb: &str| {
            format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{verbs}]\" permission: \
                 resourceclaims.resource.k8s.io \"gpu.example\" is forbidden: {who} cannot {verb} resource \
                 \"resourceclaims/driver\" in API group \"resource.k8s.io\" in the namespace \"ns\""
            )
        };
        let (own, any) = ("associated-node:update", "arbitrary-node:update");
        #[rustfmt::skip]
        let table = [
            ("", on("n1"), old.clone(), String::new()),
            ("", on("n1"), freed.clone(), binding.clone()),
            ("", on("n1"), reserved.clone(), binding),
            ("update binding /", on("n1"), freed, String::new()),
            ("update binding /", on("n1"), reserved, String::new()),
            ("associated-node:update driver ns/gpu.example", on("n1"), with(json!([device("b")])), String::new()),
            ("associated-node:update driver ns/gpu.example", on("n1"), with(json!([])), String::new()),
            ("associated-node:update driver ns/gpu.example", on("n2"), with(json!([device("b")])), driver(any, any)),
            ("arbitrary-node:update driver ns/gpu.example", on("n2"), with(json!([device("b")])), String::new()),
            ("arbitrary-node:update driver ns/gpu.example", on("n1"), with(json!([device("b")])), String::new()),
            ("arbitrary-node:update driver ns/other.example", on("n1"), with(json!([device("b")])), driver(&format!("{own} {any}"), own)),
        ];
        let path = "/apis/resource.k8s.io/v1/namespaces/ns/resourceclaims/c/status";
        let info = RequestInfo::parse(&http::Method::PUT, path, None);
        for (index, (grant, user, new, want)) in table.into_iter().enumerate() {
            let told = refused(&Only(grant), &user, &info, &new, &old).await;
            assert_eq!(told.join("\n"), want, "row {index}");
        }
    }

    #[test]
    fn deallocating_asks_for_nobody_elses_part() {
        let device = json!({ "driver": "gpu.example", "pool": "p", "device": "d" });
        let old = json!({ "allocation": { "devices": { "results": [device] } }, "devices": [device] });
        assert!(changed_drivers(&json!({}), &old).is_empty(), "it goes with the allocation");
        let still = json!({ "allocation": old["allocation"] });
        assert_eq!(changed_drivers(&still, &old), BTreeSet::from(["gpu.example".to_owned()]));
    }
}
