//! The ABAC authorizer: a file of policies, one JSON object a line, each of which lets somebody do something.
//!
//! Reads the file's text once; a change needs a restart, as upstream. Not here: who asks, and what it means that nobody
//! has an opinion. Upstream: pkg/auth/authorizer/abac, pkg/apis/abac (what the two versions mean).

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;

use super::{Authorizer, Decision};
use crate::request::{Attributes, User};

const GROUP: &str = "abac.authorization.kubernetes.io";

/// What a file of policies allows. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<[Policy]>);

/// A line of version v1beta1, or what a line without a version comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    spec: Option<Policy>,
    /// Where no version is said, the policy is the line itself.
    #[serde(flatten)]
    old: Policy,
}

impl Policies {
    /// Reads a file's text. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// The number of a line, and what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let said = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let read = |(number, line): (usize, &str)| {
            policy(line).map_err(|problem| format!("line {number}: {line}: {problem}"))
        };
        said.map(read).collect::<Result<Arc<[Policy]>, _>>().map(Self)
    }
}

fn policy(line: &str) -> Result<Policy, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let everybody = |policy: &mut Policy| {
        policy.group = User::AUTHENTICATED.to_owned();
        policy.user.clear();
    };
    if line.api_version.is_empty() && line.kind.is_empty() {
        let mut policy = line.old;
        if (policy.user.is_empty() && policy.group.is_empty()) || policy.user == "*" || policy.group == "*" {
            everybody(&mut policy);
        }
        // Without a version, what is not said is everything.
        if policy.namespace.is_empty() && policy.resource.is_empty() {
            policy.non_resource_path = "*".to_owned();
        }
        for part in [&mut policy.namespace, &mut policy.resource] {
            if part.is_empty() {
                *part = "*".to_owned();
            }
        }
        policy.api_group = "*".to_owned();
        return Ok(policy);
    }
    if line.kind != "Policy" || line.api_version != format!("{GROUP}/v1beta1") {
        return Err(format!("no kind {:?} is registered for version {:?}", line.kind, line.api_version));
    }
    let mut policy = line.spec.unwrap_or_default();
    if policy.user == "*" || policy.group == "*" {
        everybody(&mut policy);
    }
    Ok(policy)
}

impl Policy {
    fn allows(&self, attributes: &Attributes) -> bool {
        self.is_for(&attributes.user) && self.permits(attributes) && self.covers(attributes)
    }

    /// Whether the policy is for a user: both the user and the group that it names must be theirs.
    fn is_for(&self, user: &User) -> bool {
        let named = !self.user.is_empty() || !self.group.is_empty();
        named
            && (self.user.is_empty() || self.user == user.name)
            && (self.group.is_empty() || user.is_in(&self.group))
    }

    fn permits(&self, attributes: &Attributes) -> bool {
        !self.readonly || matches!(attributes.info.verb.as_str(), "get" | "list" | "watch")
    }

    fn covers(&self, attributes: &Attributes) -> bool {
        let info = &attributes.info;
        if info.is_resource {
            let is = |wanted: &str, asked: &str| wanted == "*" || wanted == asked;
            return is(&self.namespace, &info.namespace)
                && is(&self.resource, &info.resource)
                && is(&self.api_group, &info.group);
        }
        match self.non_resource_path.strip_suffix('*') {
            Some(prefix) => info.path.starts_with(prefix.trim_end_matches('*')),
            None => !self.non_resource_path.is_empty() && self.non_resource_path == info.path,
        }
    }
}

#[async_trait]
impl Authorizer for Policies {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        if self.0.iter().any(|policy| policy.allows(attributes)) {
            return (Decision::Allow, String::new());
        }
        (Decision::NoOpinion, "No policy matched.".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestInfo;

    fn allows(line: &str, user: &User, method: &str, path: &str) -> bool {
        let policies = Policies::read(line).unwrap();
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        let attributes = Attributes::new(user.clone(), RequestInfo::parse(&method, path, None));
        policies.0.iter().any(|policy| policy.allows(&attributes))
    }

    fn v1beta1(spec: &str) -> String {
        format!(r#"{{"apiVersion":"{GROUP}/v1beta1","kind":"Policy","spec":{spec}}}"#)
    }

    #[test]
    fn a_policy_lets_somebody_do_something() {
        let alice = User::new("alice", &["dev", User::AUTHENTICATED]);
        let nobody = User::new("nobody", &[]);
        let all = r#""namespace":"*","resource":"*","apiGroup":"*""#;
        let pods = "/api/v1/namespaces/a/pods";
        for (spec, user, method, path, allowed) in [
            (format!(r#"{{"user":"alice",{all}}}"#), &alice, "POST", pods, true),
            (format!(r#"{{"user":"bob",{all}}}"#), &alice, "POST", pods, false),
            (format!(r#"{{"group":"dev",{all}}}"#), &alice, "POST", pods, true),
            (format!(r#"{{"user":"alice","group":"ops",{all}}}"#), &alice, "GET", pods, false),
            (format!(r#"{{"user":"*",{all}}}"#), &alice, "GET", pods, true),
            (format!(r#"{{"user":"*",{all}}}"#), &nobody, "GET", pods, false),
            (format!("{{{all}}}"), &alice, "GET", pods, false),
            (format!(r#"{{"user":"alice","readonly":true,{all}}}"#), &alice, "GET", pods, true),
            (format!(r#"{{"user":"alice","readonly":true,{all}}}"#), &alice, "POST", pods, false),
            (r#"{"user":"alice","namespace":"a","resource":"pods"}"#.into(), &alice, "GET", pods, true),
            (r#"{"user":"alice","namespace":"b","resource":"pods"}"#.into(), &alice, "GET", pods, false),
            (r#"{"user":"alice","resource":"pods"}"#.into(), &alice, "GET", pods, false),
            (format!(r#"{{"user":"alice",{all}}}"#), &alice, "GET", "/version", false),
            (r#"{"user":"alice","nonResourcePath":"/version"}"#.into(), &alice, "GET", "/version", true),
            (r#"{"user":"alice","nonResourcePath":"/v*"}"#.into(), &alice, "GET", "/version", true),
            (r#"{"user":"alice","nonResourcePath":"*"}"#.into(), &alice, "GET", pods, false),
        ] {
            assert_eq!(allows(&v1beta1(&spec), user, method, path), allowed, "{spec} {method} {path}");
        }
    }

    #[test]
    fn without_a_version_what_is_not_said_is_everything() {
        let alice = User::new("alice", &[User::AUTHENTICATED]);
        for (line, path, allowed) in [
            (r#"{"user":"alice"}"#, "/apis/apps/v1/deployments", true),
            (r#"{"user":"alice"}"#, "/version", true),
            ("{}", "/version", true),
            (r#"{"user":"alice","namespace":"a"}"#, "/api/v1/namespaces/a/pods", true),
            (r#"{"user":"alice","namespace":"a"}"#, "/version", false),
            (r#"{"user":"bob"}"#, "/version", false),
        ] {
            assert_eq!(allows(line, &alice, "GET", path), allowed, "{line} {path}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        assert_eq!(Policies::read("\n# nothing\n  \n").unwrap().0.len(), 0);
        for (text, problem) in [
            ("{}\nnonsense", "line 2: nonsense: "),
            (r#"{"apiVersion":"x/v1","kind":"Policy"}"#, "no kind \"Policy\" is registered"),
            (r#"{"user":1}"#, "line 1: "),
        ] {
            let error = Policies::read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
