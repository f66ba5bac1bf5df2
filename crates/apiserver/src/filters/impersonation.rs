//! Impersonation: acting as someone else, where one may.
//! Upstream: apiserver/pkg/endpoints/filters/impersonation.go.

use api::Status;
use api::names::{is_dns1123_label, is_dns1123_subdomain};
use http::{HeaderMap, HeaderValue};

use crate::authz::{self, Authorizer, Decision};
use crate::request::{Attributes, RequestInfo, User, percent};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user to go on as. Removes the headers, so that nothing later mistakes them for its own.
pub(super) async fn apply(
    authorizer: &dyn Authorizer,
    user: User,
    headers: &mut HeaderMap,
) -> Result<User, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let values = |headers: &HeaderMap, name: &str| -> Result<Vec<String>, Status> {
        headers.get_all(name).iter().map(text).collect()
    };
    let name = values(headers, USER)?.into_iter().next().unwrap_or_default();
    let groups = values(headers, GROUP)?;
    let uid = values(headers, UID)?.into_iter().next().unwrap_or_default();
    let mut extra: std::collections::BTreeMap<String, Vec<String>> = Default::default();
    for (header, value) in headers.iter() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.entry(extra_key(key)).or_default().push(text(value)?);
        }
    }
    if name.is_empty() {
        return Err(Status::bad_request(
            "requested impersonating user info without impersonating a user: Impersonate-User is required",
        ));
    }
    let mut target =
        User { name: name.clone(), uid: uid.clone(), groups: groups.clone(), extra: extra.clone() };
    match service_account(&name) {
        Some((namespace, account)) => {
            may(authorizer, &user, ("", "v1"), "serviceaccounts", "", namespace, account).await?;
            if groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => may(authorizer, &user, ("", "v1"), "users", "", "", &name).await?,
    }
    for group in &groups {
        may(authorizer, &user, ("", "v1"), "groups", "", "", group).await?;
    }
    let authentication = ("authentication.k8s.io", "v1");
    if !uid.is_empty() {
        may(authorizer, &user, authentication, "uids", "", "", &uid).await?;
    }
    for (key, values) in &extra {
        for value in values {
            may(authorizer, &user, authentication, "userextras", key, "", value).await?;
        }
    }
    let anonymous = name == User::ANONYMOUS;
    let implied = if anonymous { User::UNAUTHENTICATED } else { User::AUTHENTICATED };
    if !target.is_in(User::UNAUTHENTICATED) && !target.is_in(implied) {
        target.groups.push(implied.to_owned());
    }
    let ours: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    Ok(target)
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

async fn may(
    authorizer: &dyn Authorizer,
    user: &User,
    (group, version): (&str, &str),
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    let info = RequestInfo {
        is_resource: true,
        verb: "impersonate".into(),
        group: group.into(),
        version: version.into(),
        namespace: namespace.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..RequestInfo::default()
    };
    let attributes = Attributes::new(user.clone(), info);
    match authorizer.authorize(&attributes).await {
        (Decision::Allow, _) => Ok(()),
        (_, reason) => Err(authz::forbidden(&attributes, &reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_like_one_is_a_service_account() {
        for (name, account) in [
            ("system:serviceaccount:ns:robot", Some(("ns", "robot"))),
            ("system:serviceaccount:ns:a.b", Some(("ns", "a.b"))),
            ("system:serviceaccount:ns:a:b", None),
            ("system:serviceaccount:ns:", None),
            ("system:serviceaccount::a", None),
            ("system:serviceaccount:NS:a", None),
            ("jane", None),
        ] {
            assert_eq!(service_account(name), account, "{name}");
        }
    }

    #[test]
    fn keys_are_unescaped() {
        for (name, key) in [
            ("authentication.kubernetes.io%2fpod-name", "authentication.kubernetes.io/pod-name"),
            ("scopes", "scopes"),
            ("100%", "100%"),
        ] {
            assert_eq!(extra_key(name), key);
        }
    }
}
