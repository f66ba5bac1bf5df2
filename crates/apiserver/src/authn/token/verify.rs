//! Judges ServiceAccount tokens: signature, time, audience, and whether account and bound objects still exist.
//!
//! A signature that was checked once is remembered by the token's hash; time and objects are looked at on every
//! use, so that a token ends the moment its pod does.
//! Upstream: pkg/serviceaccount/{jwt,claims}.go.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use api::Status;
use async_trait::async_trait;
use foundation::SharedClock;
use foundation::metrics::{Counter, Family, registry};
use jiff::Timestamp;
use parking_lot::Mutex;
use ring::digest;

use super::keys::Opened;
use super::{Claims, Keys, Options, Reference, bound, groups, legacy, user_name};
use crate::authn::{Authenticated, Authenticator, Credentials, bearer};
use crate::cluster::ClusterState;
use crate::request::User;

/// How many checked signatures are remembered; a claim set is a few hundred bytes.
const REMEMBERED: usize = 8192;
/// How far ahead a token's beginning may lie, since clocks differ.
const SKEW_SECONDS: i64 = 60;

struct Uses {
    valid: Family<Counter>,
    stale: Family<Counter>,
}

static USES: LazyLock<Uses> = LazyLock::new(|| {
    let counter = |name, help| registry().counter(name, help, &[]);
    Uses {
        valid: counter("serviceaccount_valid_tokens_total", "Uses of ServiceAccount tokens in their time."),
        stale: counter(
            "serviceaccount_stale_tokens_total",
            "Uses of ServiceAccount tokens after the time that was asked for, which the server made longer.",
        ),
    }
});

/// The ServiceAccount token authenticator.
pub struct Verifier {
    keys: Arc<Keys>,
    audiences: Vec<String>,
    cluster: Arc<dyn ClusterState>,
    clock: SharedClock,
    opened: Mutex<HashMap<[u8; 32], Arc<Opened>>>,
}

impl Verifier {
    pub(in crate::authn) fn new(
        keys: Arc<Keys>,
        options: &Options,
        cluster: Arc<dyn ClusterState>,
        clock: SharedClock,
    ) -> Self {
        Self { keys, audiences: options.audiences.clone(), cluster, clock, opened: Mutex::default() }
    }

    fn open(&self, token: &str, now: Timestamp) -> Result<Option<Arc<Opened>>, String> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some(claims) = self.opened.lock().get(&hash) {
            return Ok(Some(claims.clone()));
        }
        let Some(claims) = self.keys.open(token)? else { return Ok(None) };
        let claims = Arc::new(claims);
        let mut opened = self.opened.lock();
        if opened.len() >= REMEMBERED {
            opened.retain(|_, token| match &**token {
                Opened::Bound(claims) => now.as_second() < claims.exp,
                Opened::Legacy(_) => true,
            });
            if opened.len() >= REMEMBERED {
                opened.clear();
            }
        }
        opened.insert(hash, claims.clone());
        Ok(Some(claims))
    }

    async fn judge(&self, claims: &Claims, wanted: &[String]) -> Result<Authenticated, String> {
        let now = self.clock.now();
        if now.as_second() > claims.exp {
            return Err("service account token has expired".to_owned());
        }
        if now.as_second() + SKEW_SECONDS < claims.nbf {
            return Err("service account token is not valid yet".to_owned());
        }
        let audiences = self.audiences(&claims.aud, wanted)?;
        let private = &claims.private;
        let (namespace, account) = (private.namespace.as_str(), private.serviceaccount.name.as_str());
        if claims.sub != user_name(namespace, account) {
            return Err("the subject is not the account of the token".to_owned());
        }
        self.alive("serviceaccounts", "service account", namespace, &private.serviceaccount, now).await?;
        if let Some(secret) = &private.secret {
            self.alive("secrets", "service account token", namespace, secret, now).await?;
        }
        if let Some(pod) = &private.pod {
            self.alive("pods", "pod", namespace, pod, now).await?;
        } else if let Some(node) = &private.node {
            // The node of a bound pod goes with the pod; a node that the token itself is bound to must exist.
            self.alive("nodes", "node", "", node, now).await?;
        }
        if let Some(warned) = private.warnafter.filter(|warned| now.as_second() > *warned) {
            let late = now.as_second() - warned;
            let stale = format!("subject: {}, seconds after warning threshold: {late}", claims.sub);
            crate::audit::annotate("authentication.k8s.io/stale-token", &stale);
            USES.stale.only().inc();
        } else {
            USES.valid.only().inc();
        }
        Ok(Authenticated { audiences, ..Authenticated::plain(user(claims)) })
    }

    /// Those of the audiences that a token is asked to be for which it is for.
    fn audiences(&self, of_token: &[String], wanted: &[String]) -> Result<Vec<String>, String> {
        let asked = if wanted.is_empty() { &self.audiences } else { wanted };
        let audiences: Vec<String> = asked.iter().filter(|a| of_token.contains(a)).cloned().collect();
        if audiences.is_empty() {
            let list = |audiences: &[String]| crate::authz::rbac::rules::quoted(audiences);
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                list(of_token),
                list(asked)
            ));
        }
        Ok(audiences)
    }

    async fn judge_legacy(
        &self,
        token: &str,
        claims: &legacy::Claims,
        wanted: &[String],
    ) -> Result<Authenticated, String> {
        legacy::seen(claims);
        // They name nobody, and so are for this server.
        let audiences = self.audiences(&self.audiences, wanted)?;
        let warnings = legacy::judge(&*self.cluster, token, claims, self.clock.now()).await?;
        let user = User {
            name: claims.sub.clone(),
            uid: claims.uid.clone(),
            groups: groups(&claims.namespace),
            ..User::default()
        };
        Ok(Authenticated { audiences, warnings, ..Authenticated::plain(user) })
    }

    async fn alive(
        &self,
        resource: &str,
        noun: &str,
        namespace: &str,
        reference: &Reference,
        now: Timestamp,
    ) -> Result<(), String> {
        let found = bound::find(&*self.cluster, resource, namespace, &reference.name).await;
        let name = if namespace.is_empty() {
            reference.name.clone()
        } else {
            format!("{namespace}/{}", reference.name)
        };
        match found.map_err(|status| status.message)? {
            None => Err(format!("{noun} {name} could not be found")),
            Some(object) if bound::is_gone(&object, now) => Err(format!("{noun} {name} has been deleted")),
            Some(object) if object.uid() != reference.uid => {
                Err(format!("{noun} UID ({}) does not match claim ({})", object.uid(), reference.uid))
            }
            Some(_) => Ok(()),
        }
    }
}

fn user(claims: &Claims) -> User {
    let private = &claims.private;
    let mut user = User {
        name: user_name(&private.namespace, &private.serviceaccount.name),
        uid: private.serviceaccount.uid.clone(),
        groups: groups(&private.namespace),
        ..User::default()
    };
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if let Some(pod) = &private.pod {
        extra("pod-name", &pod.name);
        extra("pod-uid", &pod.uid);
    }
    if let Some(node) = &private.node {
        extra("node-name", &node.name);
        extra("node-uid", &node.uid);
    }
    if !claims.jti.is_empty() {
        extra("credential-id", &format!("JTI={}", claims.jti));
    }
    user
}

#[async_trait]
impl Authenticator for Verifier {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let Some(token) = bearer::token(credentials.headers) else { return Ok(None) };
        let Some(opened) = self.open(&token, self.clock.now()).map_err(Status::unauthorized)? else {
            return Ok(None);
        };
        let judged = match &*opened {
            Opened::Bound(claims) => self.judge(claims, credentials.audiences).await,
            Opened::Legacy(claims) => self.judge_legacy(&token, claims, credentials.audiences).await,
        };
        judged.map(Some).map_err(Status::unauthorized)
    }
}
