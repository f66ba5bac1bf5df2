//! Who asks, and whether they may.
//!
//! [`Access`] is the seam; [`ApiAccess`] asks the API server (TokenReview, SubjectAccessReview) and remembers answers as
//! long as upstream does. Upstream: `pkg/kubelet/server/auth.go`, `apiserver/pkg/authentication/token/cache`.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use api::types::authentication::v1::TokenReviewSpec;
use api::types::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use async_trait::async_trait;
use client::{Client, TokenReview};
use foundation::SharedClock;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The name.
    pub name: String,
    /// The UID, if there is one.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows of it.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Who may do what on this node.
#[async_trait]
pub trait Access: Send + Sync {
    /// Who a bearer token belongs to; `None` if to nobody.
    async fn authenticate(&self, token: &str) -> Option<User>;
    /// Whether `user` may `verb` the `subresource` of the node.
    async fn authorize(&self, user: &User, verb: &str, node: &str, subresource: &str) -> bool;
}

/// The user that a verified client certificate names.
pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups =
        parsed.subject().iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
    let groups = groups.chain(["system:authenticated".to_owned()]).collect();
    Some(User { name, groups, ..User::default() })
}

/// The subresources of the node that a path stands for; any of them suffices.
pub fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    }
}

/// Asks the API server.
pub struct ApiAccess {
    client: Client,
    clock: SharedClock,
    users: Cache<[u8; 32], Option<User>>,
    decisions: Cache<(User, String, String), bool>,
}

/// Answers with the moment until which they hold.
struct Cache<K, V>(Mutex<HashMap<K, (Duration, V)>>);

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// More than this many answers are not kept.
    const MOST: usize = 4096;

    fn get(&self, key: &K, now: Duration) -> Option<V> {
        self.0.lock().get(key).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, until: Duration, now: Duration) {
        let mut map = self.0.lock();
        if map.len() >= Self::MOST {
            map.retain(|_, (until, _)| now < *until);
        }
        if map.len() < Self::MOST {
            map.insert(key, (until, value));
        }
    }
}

impl ApiAccess {
    /// Asks through `client`, which must be allowed to create the two reviews.
    pub fn new(client: Client, clock: SharedClock) -> ApiAccess {
        let (users, decisions) = (Cache(Mutex::default()), Cache(Mutex::default()));
        ApiAccess { client, clock, users, decisions }
    }
}

const TOKEN: Duration = Duration::from_secs(120);
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);

#[async_trait]
impl Access for ApiAccess {
    async fn authenticate(&self, token: &str) -> Option<User> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let now = self.clock.monotonic();
        if let Some(known) = self.users.get(&key, now) {
            return known;
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let status = match self.client.review_token(&review).await {
            Ok(review) => review.status.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "a token was not reviewed");
                return None;
            }
        };
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        self.users.put(key, user.clone(), now + TOKEN, now);
        user
    }

    async fn authorize(&self, user: &User, verb: &str, node: &str, subresource: &str) -> bool {
        let key = (user.clone(), verb.to_owned(), subresource.to_owned());
        let now = self.clock.monotonic();
        if let Some(known) = self.decisions.get(&key, now) {
            return known;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(node.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        match self.client.review_access(&review).await {
            Ok(review) => {
                let allowed = review.status.is_some_and(|status| status.allowed);
                self.decisions.put(key, allowed, now + if allowed { ALLOWED } else { DENIED }, now);
                allowed
            }
            Err(error) => {
                tracing::warn!(%error, user = user.name, "access was not reviewed");
                false
            }
        }
    }
}
