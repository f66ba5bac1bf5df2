//! Issues tokens: the subresource `serviceaccounts/token`.
//! Upstream: pkg/registry/core/serviceaccount/storage/token.go, pkg/apis/authentication/validation.

use std::sync::Arc;

use api::field::{self, Path};
use api::{GroupKind, GroupResource, Object, Status};
use foundation::{SharedClock, SharedRandomness};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Claims, Keys, Options, Private, Reference, bound, user_name};
use crate::cluster::ClusterState;

/// What a TokenRequest gets that asks for nothing.
const DEFAULT_SECONDS: i64 = 60 * 60;
/// The least that may be asked for.
const MIN_SECONDS: i64 = 10 * 60;
const MAX_SECONDS: i64 = 1 << 32;
/// What the ServiceAccount admission plugin asks for on behalf of pods: an hour and seven seconds, an odd number
/// by which such requests are known.
const PODS_OWN_SECONDS: i64 = 60 * 60 + 7;
/// What those get instead while expirations are extended.
const EXTENDED_SECONDS: i64 = 365 * 24 * 60 * 60;

/// Issues tokens of ServiceAccounts.
pub struct Issuer {
    keys: Arc<Keys>,
    options: Options,
    cluster: Arc<dyn ClusterState>,
    clock: SharedClock,
    randomness: SharedRandomness,
}

impl Issuer {
    pub(in crate::authn) fn new(
        keys: Arc<Keys>,
        options: &Options,
        cluster: Arc<dyn ClusterState>,
        clock: SharedClock,
        randomness: SharedRandomness,
    ) -> Self {
        Self { keys, options: options.clone(), cluster, clock, randomness }
    }

    /// The public keys, for discovery and JWKS.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Answers a TokenRequest for an account: fills in the spec's defaults and the status. Warnings for the
    /// client are added to `warnings`; the audit log is told the token's id.
    ///
    /// # Errors
    /// 404 where the bound object does not exist, 409 where its UID or the account's is another, 400 and 422 as
    /// upstream.
    pub async fn issue(
        &self,
        account: &Object,
        mut request: Object,
        warnings: &mut Vec<String>,
    ) -> Result<Object, Status> {
        let now = self.clock.now();
        let namespace = account.namespace().unwrap_or_default().to_owned();
        addressed(account, &namespace, &request)?;
        let spec = &mut request.0["spec"];
        if !spec.is_object() {
            *spec = json!({});
        }
        if spec["expirationSeconds"].is_null() {
            spec["expirationSeconds"] = DEFAULT_SECONDS.into();
        }
        if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
            spec["audiences"] = json!(self.options.audiences);
        }
        let mut seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        validate(account.name(), seconds)?;
        if let Some(most) = self.options.max_expiration.and_then(|most| i64::try_from(most.as_secs()).ok())
            && seconds > most
        {
            warnings.push(format!("requested expiration of {seconds} seconds shortened to {most} seconds"));
            seconds = most;
            spec["expirationSeconds"] = seconds.into();
        }
        let audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect();
        let reference = spec["boundObjectRef"].clone();
        let mut private = self.bind(account, &namespace, &reference).await?;

        let ours = audiences.iter().all(|audience| self.options.audiences.contains(audience));
        let mut life = seconds;
        if self.options.extend_expiration
            && seconds == PODS_OWN_SECONDS
            && ours
            && private.pod.is_some()
            && self.options.max_expiration.is_none()
        {
            private.warnafter = Some(now.as_second() + seconds);
            life = EXTENDED_SECONDS;
        }
        let claims = Claims {
            aud: audiences,
            exp: now.as_second() + life,
            iat: now.as_second(),
            nbf: now.as_second(),
            iss: self.options.issuer.clone(),
            jti: self.token_id(),
            sub: user_name(&namespace, account.name()),
            private,
        };
        let token = self.keys.sign(&claims).map_err(Status::internal)?;
        let id = format!("JTI={}", claims.jti);
        crate::audit::annotate("authentication.kubernetes.io/issued-credential-id", &id);
        let end = now + SignedDuration::from_secs(seconds);
        request.0["metadata"]["name"] = account.name().into();
        request.0["metadata"]["namespace"] = namespace.into();
        request.0["metadata"]["creationTimestamp"] = second(now);
        request.0["status"] = json!({ "token": token, "expirationTimestamp": second(end) });
        Ok(request)
    }

    fn token_id(&self) -> String {
        let mut bytes = [0; 16];
        self.randomness.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    async fn bind(&self, account: &Object, namespace: &str, reference: &Value) -> Result<Private, Status> {
        let mut private = Private {
            namespace: namespace.to_owned(),
            serviceaccount: Reference { name: account.name().to_owned(), uid: account.uid().to_owned() },
            ..Private::default()
        };
        if reference.is_null() {
            return Ok(private);
        }
        let field = |name: &str| reference[name].as_str().unwrap_or_default();
        let (version, kind, name) = (field("apiVersion"), field("kind"), field("name"));
        let (resource, home) = match (version, kind) {
            ("v1", "Pod") => ("pods", namespace),
            ("v1", "Secret") => ("secrets", namespace),
            ("v1", "Node") => ("nodes", ""),
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let message = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
                return Err(Status::bad_request(message));
            }
        };
        let object = bound::find(&*self.cluster, resource, home, name).await?;
        let object = object.ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))?;
        let wanted = field("uid");
        if !wanted.is_empty() && wanted != object.uid() {
            let message = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object \
                 might have been deleted and then recreated"
            );
            return Err(Status::conflict(&GroupResource::new("", kind), name, message));
        }
        let found = Reference { name: name.to_owned(), uid: object.uid().to_owned() };
        match kind {
            "Pod" => {
                let runs_as = object.0.pointer("/spec/serviceAccountName").and_then(Value::as_str);
                if runs_as != Some(account.name()) {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount \
                         name.",
                        account.name()
                    )));
                }
                private.pod = Some(found);
                let node = object.0.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
                if !node.is_empty() {
                    let registered = bound::find(&*self.cluster, "nodes", "", node).await?;
                    let uid = registered.map(|node| node.uid().to_owned()).unwrap_or_default();
                    private.node = Some(Reference { name: node.to_owned(), uid });
                }
            }
            "Secret" => private.secret = Some(found),
            _ => private.node = Some(found),
        }
        Ok(private)
    }
}

/// Whether the request, where it names an account, names this one.
fn addressed(account: &Object, namespace: &str, request: &Object) -> Result<(), Status> {
    let metadata = Path::new("metadata");
    for (field, named, own) in [
        ("name", request.name(), account.name()),
        ("namespace", request.namespace().unwrap_or_default(), namespace),
    ] {
        if !named.is_empty() && named != own {
            let detail = format!("must match the service account {field} if specified");
            let errors = vec![field::invalid(&metadata.child(field), named, detail)];
            let kind = GroupKind::new("authentication.k8s.io", "TokenRequest");
            return Err(Status::invalid(&kind, account.name(), errors));
        }
    }
    let (asked, own) = (request.uid(), account.uid());
    if !asked.is_empty() && asked != own {
        let message = format!(
            "the UID in the token request ({asked}) does not match the UID of the service account ({own})"
        );
        let resource = GroupResource::new("authentication.k8s.io", "TokenRequest");
        return Err(Status::conflict(&resource, account.name(), message));
    }
    Ok(())
}

fn validate(name: &str, seconds: i64) -> Result<(), Status> {
    let path = Path::new("spec").child("expirationSeconds");
    let detail = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let errors = vec![field::invalid(&path, seconds, detail)];
    Err(Status::invalid(&GroupKind::new("authentication.k8s.io", "TokenRequest"), name, errors))
}

/// A time as Kubernetes writes it, to the second.
fn second(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}
