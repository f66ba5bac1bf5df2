//! `certificates.k8s.io`: who asks for a certificate, whether requests and roots of trust can be read, who may put a
//! certificate into a pod's request, and the approval of signing requests apart from their status.
//! Not here: who may approve and sign (`admission`), signing.
//! Upstream: pkg/registry/certificates.

mod issuance;
mod request;
mod stub;
mod trust_bundle;

use std::sync::Arc;

use api::field::{self, ErrorList, Path};
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Rest, Subresource, Undo};
use crate::admission;
use crate::engine::{Call, Target, write_subresource};
use crate::response::Response;
use issuance::issuance_errors;
use request::{certificate_errors, request_errors};
use stub::stub_errors;
use trust_bundle::bundle_errors;

/// `certificatesigningrequests`.
pub(super) struct SigningRequests;

#[async_trait]
impl Rest for SigningRequests {
    /// Approvers decide by who asks, so that is never the client's to say.
    fn reserves(&self) -> bool {
        true
    }

    async fn before_create(&self, call: &Call, object: &mut Object) -> Result<Undo, Status> {
        let user = &call.user;
        if let Some(spec) = object.0["spec"].as_object_mut() {
            let mut set = |member: &str, value: Value, empty: bool| {
                if empty {
                    spec.remove(member)
                } else {
                    spec.insert(member.to_owned(), value)
                };
            };
            set("username", user.name.as_str().into(), user.name.is_empty());
            set("uid", user.uid.as_str().into(), user.uid.is_empty());
            set("groups", json!(user.groups), user.groups.is_empty());
            set("extra", json!(user.extra), user.extra.is_empty());
        }
        Ok(Undo::nothing())
    }

    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let Some(old) = old else {
            return invalid(call, new, request_errors(&new.0));
        };
        let certificate = |object: &Object| object.0["status"]["certificate"].clone();
        if certificate(new) == certificate(old) {
            return Ok(());
        }
        invalid(call, new, certificate_errors(&new.0))
    }

    fn subresource(&self, name: &str) -> Option<Arc<dyn Subresource>> {
        (name == "approval").then(|| Arc::new(Approval) as Arc<dyn Subresource>)
    }
}

/// `podcertificaterequests`.
pub(super) struct PodCertificateRequests;

#[async_trait]
impl Rest for PodCertificateRequests {
    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let Some(old) = old else {
            return invalid(call, new, stub_errors(&new.0));
        };
        if call.info.subresource != "status" {
            return Ok(());
        }
        let chain = |object: &Object| object.0["status"]["certificateChain"].clone();
        if chain(new) == chain(old) {
            return Ok(());
        }
        let kind = call.resource.descriptor.group_kind();
        let signer = old.0.pointer("/spec/signerName").and_then(Value::as_str).unwrap_or_default();
        let authorizer = &*call.server.authorization.authorizer;
        if admission::may_use_signer(authorizer, &call.user, "sign", signer).await {
            return invalid(call, new, issuance_errors(&new.0, &old.0, call.server.clock.now()));
        }
        let detail = format!("User {:?} is not permitted to \"sign\" for signer {signer:?}", call.user.name);
        let path = Path::new("spec").child("signerName");
        Err(Status::invalid(&kind, &call.info.name, vec![field::forbidden(&path, detail)]))
    }
}

/// `clustertrustbundles`.
pub(super) struct TrustBundles;

#[async_trait]
impl Rest for TrustBundles {
    /// A bundle that stays as it is is not judged again.
    async fn check(&self, call: &Call, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let bundle = |object: &Object| object.0["spec"]["trustBundle"].clone();
        if old.is_some_and(|old| bundle(old) == bundle(new)) {
            return Ok(());
        }
        invalid(call, new, bundle_errors(bundle(new).as_str().unwrap_or_default()))
    }
}

fn invalid(call: &Call, object: &Object, errors: ErrorList) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&call.resource.descriptor.group_kind(), object.name(), errors))
}

struct Approval;

#[async_trait]
impl Subresource for Approval {
    async fn serve(&self, call: Call) -> Result<Response, Status> {
        write_subresource(&call, Target::Other("approval")).await
    }
}
