//! Who may act as whom, by the permissions that they hold.

use async_trait::async_trait;

use super::*;
use crate::authz::Decision;

/// Allows what is listed, as `verb resource[/subresource] [namespace/]name`, and remembers what it was asked.
struct Grants(Vec<&'static str>, Mutex<Vec<String>>);

#[async_trait]
impl Authorizer for Grants {
    async fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        let info = &attributes.info;
        let slash = |first: &str, second: &str| match (first, second) {
            ("", one) | (one, "") => one.to_owned(),
            (first, second) => format!("{first}/{second}"),
        };
        let resource = slash(&info.resource, &info.subresource);
        let asked = format!("{} {resource} {}", info.verb, slash(&info.namespace, &info.name));
        let granted = self.0.contains(&asked.as_str());
        self.1.lock().push(asked);
        (if granted { Decision::Allow } else { Decision::NoOpinion }, String::new())
    }
}

fn get_pod(user: User) -> Attributes {
    let info = RequestInfo::parse(&http::Method::GET, "/api/v1/namespaces/bar/pods/foo", None);
    Attributes::new(user, info)
}

fn agent(node: &str) -> User {
    let extra =
        [("authentication.kubernetes.io/node-name", node), ("authentication.kubernetes.io/pod-name", "p")];
    User {
        name: "system:serviceaccount:ns:agent".into(),
        extra: extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into(),
        ..User::default()
    }
}

fn with_extra(key: &str, values: &[&str]) -> User {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    User { extra: BTreeMap::from([(key.to_owned(), values)]), ..User::new("anyone", &[]) }
}

#[tokio::test]
async fn each_mode_asks_for_the_identity_and_for_the_act() {
    let tester = || User::new("tester", &[]);
    let user_info = "impersonate-on:user-info:get pods bar/foo";
    let authentication = "in API group \"authentication.k8s.io\" at the cluster scope";
    let pods = "resource \"pods\" in API group \"\" in the namespace \"bar\"";
    #[rustfmt::skip]
    let table: Vec<(User, User, Vec<&'static str>, Result<(&str, Vec<&str>), String>)> = vec![
        (tester(), User::new("anyone", &[]), vec![user_info, "impersonate:user-info users anyone"],
         Ok(("impersonate:user-info", vec!["system:authenticated"]))),
        (tester(), User::new("anyone", &["dev"]), vec![user_info, "impersonate:user-info users anyone", "impersonate:user-info groups dev"],
         Ok(("impersonate:user-info", vec!["dev", "system:authenticated"]))),
        (tester(), User::new("anyone", &["a", "b", "c", "d"]), vec![user_info, "impersonate:user-info users anyone", "impersonate:user-info groups *"],
         Ok(("impersonate:user-info", vec!["a", "b", "c", "d", "system:authenticated"]))),
        (tester(), with_extra("acme.io/team", &["x"]), vec![user_info, "impersonate:user-info users anyone", "impersonate:user-info userextras/acme.io/team x"],
         Ok(("impersonate:user-info", vec!["system:authenticated"]))),
        (tester(), User::new("system:anonymous", &[]), vec![user_info, "impersonate:user-info users system:anonymous"],
         Ok(("impersonate:user-info", vec!["system:unauthenticated"]))),
        (tester(), User::new("system:serviceaccount:ns:robot", &[]), vec!["impersonate-on:serviceaccount:get pods bar/foo", "impersonate:serviceaccount serviceaccounts ns/robot"],
         Ok(("impersonate:serviceaccount", vec!["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]))),
        (tester(), User::new("system:node:n1", &[]), vec!["impersonate-on:arbitrary-node:get pods bar/foo", "impersonate:arbitrary-node nodes n1"],
         Ok(("impersonate:arbitrary-node", vec!["system:nodes", "system:authenticated"]))),
        (agent("n1"), User::new("system:node:n1", &[]), vec!["impersonate-on:associated-node:get pods bar/foo", "impersonate:associated-node nodes *"],
         Ok(("impersonate:associated-node", vec!["system:nodes", "system:authenticated"]))),
        // Another node is not its own.
        (agent("n2"), User::new("system:node:n1", &[]), vec!["impersonate-on:associated-node:get pods bar/foo", "impersonate:associated-node nodes *"],
         Err(format!("pods \"foo\" is forbidden: User \"system:serviceaccount:ns:agent\" cannot impersonate-on:arbitrary-node:get {pods}"))),
        // The old way still is one, for everybody.
        (tester(), User::new("anyone", &["system:masters"]), vec!["impersonate users anyone", "impersonate groups system:masters"],
         Ok(("", vec!["system:masters", "system:authenticated"]))),
        (tester(), User::new("system:node:n1", &[]), vec!["impersonate users system:node:n1"], Ok(("", vec!["system:authenticated"]))),
        (tester(), with_extra("scopes", &["x"]), vec!["impersonate users anyone", "impersonate userextras/scopes x"], Ok(("", vec!["system:authenticated"]))),
        // What is told is what the first way is missing.
        (tester(), User::new("anyone", &[]), vec![],
         Err(format!("pods \"foo\" is forbidden: User \"tester\" cannot impersonate-on:user-info:get {pods}"))),
        (tester(), User::new("anyone", &[]), vec![user_info],
         Err(format!("users.authentication.k8s.io \"anyone\" is forbidden: User \"tester\" cannot impersonate:user-info resource \"users\" {authentication}"))),
        (tester(), User::new("anyone", &["system:masters"]), vec![user_info, "impersonate:user-info users anyone", "impersonate:user-info groups system:masters"],
         Err(format!("groups.authentication.k8s.io \"system:masters\" is forbidden: User \"tester\" cannot impersonate:user-info resource \"groups\" {authentication}: \
              impersonating the system:masters group is not allowed"))),
        (tester(), with_extra("scopes", &["x"]), vec![user_info, "impersonate:user-info users anyone", "impersonate:user-info userextras/scopes x"],
         Err(format!("userextras.authentication.k8s.io is forbidden: User \"tester\" cannot impersonate:user-info resource \"userextras\" {authentication}: \
              impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \"scopes\": must be a domain-prefixed path (such as \"acme.io/foo\")"))),
    ];
    for (index, (caller, target, grants, want)) in table.into_iter().enumerate() {
        let authorizer = Grants(grants, Mutex::default());
        let found = Impersonation::default().check(&authorizer, &get_pod(caller), &target).await;
        match (found, want) {
            (Ok((user, constraint)), Ok((verb, groups))) => {
                assert_eq!(
                    (user.name, user.groups),
                    (target.name, groups.iter().map(|g| (*g).to_owned()).collect())
                );
                assert_eq!(constraint.unwrap_or_default(), verb, "row {index}");
            }
            (Err(status), Err(want)) => assert_eq!(status.message, want, "row {index}"),
            (found, want) => panic!("row {index}: {found:?} is not {want:?}"),
        }
    }
}

#[tokio::test]
async fn the_way_that_worked_is_tried_first() {
    let authorizer = Grants(vec!["impersonate users anyone"], Mutex::default());
    let impersonation = Impersonation::default();
    let asked = get_pod(User::new("tester", &[]));
    for questions in [2, 1, 1] {
        impersonation.check(&authorizer, &asked, &User::new("anyone", &[])).await.unwrap();
        assert_eq!(authorizer.1.lock().drain(..).count(), questions);
    }
    // And what is told then is what the old way is missing.
    let refused = impersonation.check(&authorizer, &asked, &User::new("other", &[])).await.unwrap_err();
    let old = "users \"other\" is forbidden: User \"tester\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope";
    assert_eq!(refused.message, old);
}

#[test]
fn headers_name_a_user_and_are_taken_away() {
    let headers = |list: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    };
    let mut some = headers(&[
        ("impersonate-user", "bob"),
        ("impersonate-group", "a"),
        ("impersonate-group", "b"),
        ("impersonate-extra-acme.io%2fteam", "x"),
        ("accept", "*/*"),
    ]);
    let bob = target(&mut some).unwrap().unwrap();
    assert_eq!((bob.name.as_str(), bob.groups.as_slice()), ("bob", &["a".to_owned(), "b".to_owned()][..]));
    assert_eq!(bob.extra["acme.io/team"], ["x"]);
    assert_eq!(some.len(), 1, "{some:?}");
    assert_eq!(target(&mut headers(&[("accept", "*/*")])).unwrap(), None);
    let refused = target(&mut headers(&[("impersonate-group", "a")])).unwrap_err();
    assert_eq!(refused.code, 400);
    assert_eq!(
        refused.message,
        "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\"}, Extra:map[string][]string(nil)} \
         without impersonating a user name"
    );
}

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
