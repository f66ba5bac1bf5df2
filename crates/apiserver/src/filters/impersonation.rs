//! Impersonation: acting as someone else, where one may.
//!
//! One may act as another in a mode, which follows from who the other is: as the node one runs on, as any node, as a
//! service account, as somebody else. A mode asks for two permissions: to be that identity (`impersonate:<mode>`) and
//! to do what is asked in that mode (`impersonate-on:<mode>:<verb>`). The old way, `impersonate`, allows everything
//! that the other may do, and is asked for last.
//! Not here: what the other may do (the rest of the filters go on as them).
//! Upstream: apiserver/pkg/endpoints/filters/impersonation.

use std::collections::{BTreeMap, HashMap};

use api::Status;
use api::names::{is_dns1123_label, is_dns1123_subdomain, is_domain_prefixed_path};
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::authz::{self, Authorizer};
use crate::request::{Attributes, RequestInfo, User, percent};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From so many groups or extra values on it is asked once for all of them before it is asked for each.
const MANY: usize = 4;
/// Users of whom the mode is remembered.
const REMEMBERED: usize = 1024;

/// Reads whom the request wants to act as, with the groups that it names and no others. Removes the headers, so that
/// nothing later mistakes them for its own. `None`: nobody else.
///
/// # Errors
/// 400 where the headers cannot be read or name no user.
pub(super) fn target(headers: &mut HeaderMap) -> Result<Option<User>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let values = |headers: &HeaderMap, name: &str| -> Result<Vec<String>, Status> {
        headers.get_all(name).iter().map(text).collect()
    };
    let mut target = User {
        name: values(headers, USER)?.into_iter().next().unwrap_or_default(),
        uid: values(headers, UID)?.into_iter().next().unwrap_or_default(),
        groups: values(headers, GROUP)?,
        extra: BTreeMap::new(),
    };
    for (header, value) in headers.iter() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            target.extra.entry(extra_key(key)).or_default().push(text(value)?);
        }
    }
    if target.name.is_empty() {
        if only_named(&target) {
            return Ok(None);
        }
        let wanted = go(&target);
        return Err(Status::bad_request(format!("requested {wanted} without impersonating a user name")));
    }
    let ours: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    Ok(Some(target))
}

/// The user as Go prints its structure: what upstream's message has.
fn go(user: &User) -> String {
    let list = |values: &[String]| match values {
        [] => "[]string(nil)".to_owned(),
        values => {
            let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            format!("[]string{{{}}}", quoted.join(", "))
        }
    };
    let extra: Vec<String> =
        user.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
    let extra = match extra.as_slice() {
        [] => "map[string][]string(nil)".to_owned(),
        some => format!("map[string][]string{{{}}}", some.join(", ")),
    };
    let User { name, uid, groups, .. } = user;
    format!("&user.DefaultInfo{{Name:{name:?}, UID:{uid:?}, Groups:{}, Extra:{extra}}}", list(groups))
}

/// A header's value. One that cannot be read is refused: without it the user would be another.
fn text(value: &HeaderValue) -> Result<String, Status> {
    let text = std::str::from_utf8(value.as_bytes());
    text.map(str::to_owned).map_err(|_| Status::bad_request("impersonation headers must be valid UTF-8"))
}

/// The key that a header's name tells: names of headers cannot hold all that keys may, and have it escaped.
pub(crate) fn extra_key(name: &str) -> String {
    percent::decode(name).to_ascii_lowercase()
}

/// Namespace and name of a service account; anything else of this form is a user as others.
fn service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, account) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = is_dns1123_label(namespace).is_empty() && is_dns1123_subdomain(account).is_empty();
    valid.then_some((namespace, account))
}

/// The node that a user is; anything else of this form is a user as others.
fn node(name: &str) -> Option<&str> {
    name.strip_prefix("system:node:").filter(|node| is_dns1123_subdomain(node).is_empty())
}

fn only_named(user: &User) -> bool {
    user.uid.is_empty() && user.groups.is_empty() && user.extra.is_empty()
}

/// A way to act as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

impl Mode {
    /// In the order in which they are tried.
    const ALL: [Mode; 5] =
        [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

    /// Its name in verbs; the old way has none.
    fn name(self) -> Option<&'static str> {
        match self {
            Mode::AssociatedNode => Some("associated-node"),
            Mode::ArbitraryNode => Some("arbitrary-node"),
            Mode::ServiceAccount => Some("serviceaccount"),
            Mode::UserInfo => Some("user-info"),
            Mode::Legacy => None,
        }
    }

    /// Whether `caller` can act as `target` in this way at all.
    fn concerns(self, target: &User, caller: &User) -> bool {
        match self {
            Mode::AssociatedNode => {
                let runs_on = caller.extra.get("authentication.kubernetes.io/node-name");
                let own = runs_on.is_some_and(
                    |names| matches!(names.as_slice(), [one] if node(&target.name) == Some(one)),
                );
                only_named(target) && own && service_account(&caller.name).is_some()
            }
            Mode::ArbitraryNode => only_named(target) && node(&target.name).is_some(),
            Mode::ServiceAccount => only_named(target) && service_account(&target.name).is_some(),
            Mode::UserInfo => node(&target.name).is_none() && service_account(&target.name).is_none(),
            Mode::Legacy => true,
        }
    }
}

/// Decides who may act as whom, and remembers the way that each user last did: it is tried first.
#[derive(Default)]
pub(crate) struct Impersonation {
    last: Mutex<HashMap<String, Mode>>,
}

impl Impersonation {
    /// The user to go on as, who is `target` with the groups that follow from it, and the verb that allows it where it
    /// is a constrained one. `asked` is the request as the caller's own.
    ///
    /// # Errors
    /// 403 with what the first way that was tried is missing.
    pub async fn check(
        &self,
        authorizer: &dyn Authorizer,
        asked: &Attributes,
        target: &User,
    ) -> Result<(User, Option<String>), Status> {
        let last = self.last.lock().get(&asked.user.name).copied();
        let others = Mode::ALL.into_iter().filter(|mode| Some(*mode) != last);
        let mut refused = None;
        for mode in last.into_iter().chain(others).filter(|mode| mode.concerns(target, &asked.user)) {
            let check = Check { authorizer, mode, caller: caller(mode, &asked.user), target };
            match check.run(asked).await {
                Ok(user) => {
                    self.remember(&asked.user.name, mode);
                    return Ok((user, mode.name().map(|name| format!("impersonate:{name}"))));
                }
                Err(status) => refused = refused.or(Some(status)),
            }
        }
        Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
    }

    fn remember(&self, user: &str, mode: Mode) {
        let mut last = self.last.lock();
        if last.get(user) == Some(&mode) {
            return;
        }
        if last.len() >= REMEMBERED {
            last.clear();
        }
        last.insert(user.to_owned(), mode);
    }
}

/// Who is asked about. What differs from node to node is left out for a caller who acts as its own: the answer is the
/// same for all of its pods.
fn caller(mode: Mode, user: &User) -> User {
    let mut user = user.clone();
    if mode == Mode::AssociatedNode {
        let keys = user.extra.into_keys().collect();
        user.extra = BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]);
    }
    user
}

/// One caller, one target, one way.
struct Check<'a> {
    authorizer: &'a dyn Authorizer,
    mode: Mode,
    caller: User,
    target: &'a User,
}

impl Check<'_> {
    async fn run(&self, asked: &Attributes) -> Result<User, Status> {
        if let Some(mode) = self.mode.name() {
            let mut on = asked.clone();
            on.user = self.caller.clone();
            on.info.verb = format!("impersonate-on:{mode}:{}", on.info.verb);
            self.demand(&on).await?;
        }
        let mut user = self.target.clone();
        self.name(&mut user).await?;
        if !self.target.uid.is_empty() {
            self.may(AUTHENTICATION, "uids", "", "", &self.target.uid).await?;
        }
        self.groups().await?;
        self.extra().await?;
        let anonymous = user.name == User::ANONYMOUS;
        let implied = if anonymous { User::UNAUTHENTICATED } else { User::AUTHENTICATED };
        if !user.is_in(User::UNAUTHENTICATED) && !user.is_in(implied) {
            user.groups.push(implied.to_owned());
        }
        Ok(user)
    }

    /// The API group of users and groups.
    fn group(&self) -> &'static str {
        if self.mode == Mode::Legacy { "" } else { AUTHENTICATION }
    }

    /// May it have that name; gives it the groups that go with the name.
    async fn name(&self, user: &mut User) -> Result<(), Status> {
        let (mode, name) = (self.mode, &self.target.name);
        if let Some(node) = node(name).filter(|_| mode != Mode::Legacy) {
            user.groups = vec!["system:nodes".to_owned()];
            let node = if mode == Mode::AssociatedNode { "*" } else { node };
            return self.may(self.group(), "nodes", "", "", node).await;
        }
        let Some((namespace, account)) = service_account(name) else {
            return self.may(self.group(), "users", "", "", name).await;
        };
        if self.target.groups.is_empty() {
            user.groups =
                vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        self.may(self.group(), "serviceaccounts", "", namespace, account).await
    }

    async fn groups(&self) -> Result<(), Status> {
        let groups = &self.target.groups;
        if self.mode != Mode::Legacy {
            for (wrong, named) in [("", "empty string"), (User::MASTERS, User::MASTERS)] {
                if groups.iter().any(|group| group == wrong) {
                    let attributes = self.attributes(self.group(), "groups", "", "", wrong);
                    let reason = format!("impersonating the {named} group is not allowed");
                    return Err(authz::forbidden(&attributes, &reason));
                }
            }
            if groups.len() >= MANY && self.may(self.group(), "groups", "", "", "*").await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.may(self.group(), "groups", "", "", group).await?;
        }
        Ok(())
    }

    async fn extra(&self) -> Result<(), Status> {
        let extra = &self.target.extra;
        if self.mode != Mode::Legacy {
            if let Some(problem) = extra.iter().find_map(|(key, values)| wrong_extra(key, values)) {
                let attributes = self.attributes(AUTHENTICATION, "userextras", "", "", "");
                return Err(authz::forbidden(&attributes, &problem));
            }
            let many = extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.may(AUTHENTICATION, "userextras", "*", "", "*").await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.may(AUTHENTICATION, "userextras", key, "", value).await?;
            }
        }
        Ok(())
    }

    fn attributes(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Attributes {
        let info = RequestInfo {
            is_resource: true,
            verb: self.mode.name().map_or("impersonate".to_owned(), |mode| format!("impersonate:{mode}")),
            group: group.into(),
            version: "v1".into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        Attributes::new(self.caller.clone(), info)
    }

    async fn may(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), Status> {
        self.demand(&self.attributes(group, resource, subresource, namespace, name)).await
    }

    async fn demand(&self, attributes: &Attributes) -> Result<(), Status> {
        self.authorizer.evaluate(attributes).await.demanded(attributes)
    }
}

/// What constrained ways have against an extra value. (Keys are in lower case already.)
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    if let Some(problem) = is_domain_prefixed_path(key).into_iter().next() {
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: {problem}"
        ));
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}

#[cfg(test)]
mod tests;
