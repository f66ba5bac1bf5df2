//! Rules, bindings and aggregation as tables.

use serde_json::{Value, json};

use super::*;
use crate::authz::fake::FakeCluster;
use crate::authz::{bootstrap, escalation};
use crate::request::RequestInfo;

fn resource(object: &Value) -> &'static str {
    match object["kind"].as_str().unwrap() {
        "ClusterRole" => "clusterroles.rbac.authorization.k8s.io",
        "ClusterRoleBinding" => "clusterrolebindings.rbac.authorization.k8s.io",
        "Role" => "roles.rbac.authorization.k8s.io",
        _ => "rolebindings.rbac.authorization.k8s.io",
    }
}

fn put(cluster: &FakeCluster, objects: impl IntoIterator<Item = Value>) {
    for object in objects {
        cluster.put(resource(&object), object);
    }
}

fn role(namespace: Option<&str>, name: &str, rules: Value) -> Value {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": { "name": name, "namespace": namespace }, "rules": rules })
}

fn binding(namespace: Option<&str>, name: &str, role: (&str, &str), subject: Value) -> Value {
    let kind = if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
            "metadata": { "name": name, "namespace": namespace },
            "roleRef": { "apiGroup": GROUP, "kind": role.0, "name": role.1 }, "subjects": [subject] })
}

fn user(name: &str) -> Value {
    json!({ "kind": "User", "apiGroup": GROUP, "name": name })
}

async fn ask(rbac: &Rbac, user: &User, method: &str, path: &str) -> (Decision, String) {
    let info = RequestInfo::parse(&method.parse().unwrap(), path, None);
    rbac.authorize(&Attributes::new(user.clone(), info)).await
}

#[tokio::test]
async fn decisions_follow_bindings() {
    let cluster = FakeCluster::new();
    let pods = json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }]);
    put(
        &cluster,
        [
            role(None, "pod-reader", pods.clone()),
            role(Some("a"), "local-reader", pods),
            binding(None, "everywhere", ("ClusterRole", "pod-reader"), user("alice")),
            binding(Some("a"), "here", ("ClusterRole", "pod-reader"), user("bob")),
            binding(
                Some("a"),
                "local",
                ("Role", "local-reader"),
                json!({ "kind": "ServiceAccount", "name": "robot", "namespace": "b" }),
            ),
            binding(
                None,
                "group",
                ("ClusterRole", "pod-reader"),
                json!({ "kind": "Group", "apiGroup": GROUP, "name": "readers" }),
            ),
            binding(None, "dangling", ("ClusterRole", "gone"), user("carol")),
        ],
    );
    let rbac = Rbac::new(cluster);
    let in_group = User::new("dave", &["readers"]);
    #[rustfmt::skip]
    let table = [
        (User::new("alice", &[]), "/api/v1/namespaces/b/pods", true, r#"RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "pod-reader" to User "alice""#),
        (User::new("alice", &[]), "/api/v1/pods", true, ""),
        (User::new("alice", &[]), "/api/v1/secrets", false, ""),
        (User::new("bob", &[]), "/api/v1/namespaces/a/pods", true, r#"RBAC: allowed by RoleBinding "here/a" of ClusterRole "pod-reader" to User "bob""#),
        (User::new("bob", &[]), "/api/v1/namespaces/b/pods", false, ""),
        (User::new("bob", &[]), "/api/v1/pods", false, ""),
        (User::new("system:serviceaccount:b:robot", &[]), "/api/v1/namespaces/a/pods", true, r#"RBAC: allowed by RoleBinding "local/a" of Role "local-reader" to ServiceAccount "robot/b""#),
        (User::new("system:serviceaccount:a:robot", &[]), "/api/v1/namespaces/a/pods", false, ""),
        (in_group, "/api/v1/pods", true, r#"RBAC: allowed by ClusterRoleBinding "group" of ClusterRole "pod-reader" to Group "readers""#),
        (User::new("carol", &[]), "/api/v1/pods", false, r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#),
    ];
    for (who, path, allowed, reason) in table {
        let (decision, said) = ask(&rbac, &who, "GET", path).await;
        assert_eq!(decision == Decision::Allow, allowed, "{} {path}", who.name);
        if !reason.is_empty() {
            assert_eq!(said, reason);
        }
    }
}

#[tokio::test]
async fn changes_take_effect_at_once() {
    let cluster = FakeCluster::new();
    let rbac = Rbac::new(cluster.clone());
    let alice = User::new("alice", &[]);
    assert_eq!(ask(&rbac, &alice, "GET", "/api/v1/pods").await.0, Decision::NoOpinion);
    let rules = |verb: &str| json!([{ "verbs": [verb], "apiGroups": [""], "resources": ["pods"] }]);
    put(&cluster, [role(None, "r", rules("list")), binding(None, "b", ("ClusterRole", "r"), user("alice"))]);
    assert_eq!(ask(&rbac, &alice, "GET", "/api/v1/pods").await.0, Decision::Allow);
    put(&cluster, [role(None, "r", rules("delete"))]);
    assert_eq!(ask(&rbac, &alice, "GET", "/api/v1/pods").await.0, Decision::NoOpinion);
    put(&cluster, [role(None, "r", rules("*"))]);
    assert_eq!(ask(&rbac, &alice, "GET", "/api/v1/pods").await.0, Decision::Allow);
    cluster.remove("clusterrolebindings.rbac.authorization.k8s.io", "", "b");
    assert_eq!(ask(&rbac, &alice, "GET", "/api/v1/pods").await.0, Decision::NoOpinion);
}

#[tokio::test]
async fn the_bootstrap_policy_gives_each_its_part() {
    let cluster = FakeCluster::new();
    put(&cluster, bootstrap::objects().into_iter().map(|object| object.0));
    // A role of the user's own joins the aggregated ones by its label.
    let mut own =
        role(None, "own", json!([{ "verbs": ["get"], "apiGroups": ["x.example"], "resources": ["things"] }]));
    own["metadata"]["labels"] = json!({ "rbac.authorization.k8s.io/aggregate-to-view": "true" });
    put(&cluster, [own]);
    for name in ["admin", "edit", "view"] {
        put(&cluster, [binding(Some("a"), name, ("ClusterRole", name), user(name))]);
    }
    let rbac = Rbac::new(cluster);
    let authenticated = |name: &str| User::new(name, &["system:authenticated"]);
    #[rustfmt::skip]
    let table = [
        (authenticated("x"), "GET", "/apis/apps/v1", true),
        (authenticated("x"), "GET", "/metrics", false),
        (authenticated("x"), "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", true),
        (User::new("system:anonymous", &["system:unauthenticated"]), "GET", "/healthz", true),
        (User::new("system:anonymous", &["system:unauthenticated"]), "GET", "/api/v1", false),
        (User::new("system:kube-scheduler", &[]), "POST", "/api/v1/namespaces/a/pods/p/binding", true),
        (User::new("system:kube-scheduler", &[]), "DELETE", "/api/v1/nodes/n", false),
        (User::new("system:kube-controller-manager", &[]), "GET", "/api/v1/secrets", true),
        (User::new("system:kube-proxy", &[]), "GET", "/apis/discovery.k8s.io/v1/endpointslices", true),
        (User::new("system:serviceaccount:kube-system:deployment-controller", &[]), "POST", "/apis/apps/v1/namespaces/a/replicasets", true),
        (User::new("system:serviceaccount:kube-system:deployment-controller", &[]), "POST", "/api/v1/namespaces/a/pods", false),
        (User::new("system:serviceaccount:kube-system:coredns", &[]), "GET", "/api/v1/services", true),
        (User::new("system:node:n", &["system:nodes"]), "GET", "/api/v1/services", false),
        (User::new("view", &[]), "GET", "/api/v1/namespaces/a/pods", true),
        (User::new("view", &[]), "GET", "/api/v1/namespaces/a/secrets", false),
        (User::new("view", &[]), "GET", "/apis/x.example/v1/namespaces/a/things/t", true),
        (User::new("edit", &[]), "GET", "/apis/x.example/v1/namespaces/a/things/t", true),
        (User::new("edit", &[]), "POST", "/api/v1/namespaces/a/pods", true),
        (User::new("edit", &[]), "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles", false),
        (User::new("admin", &[]), "GET", "/apis/x.example/v1/namespaces/a/things/t", true),
        (User::new("admin", &[]), "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles", true),
        (User::new("admin", &[]), "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/b/roles", false),
    ];
    for (who, method, path, want) in table {
        let (decision, reason) = ask(&rbac, &who, method, path).await;
        assert_eq!(decision == Decision::Allow, want, "{} {method} {path}: {reason}", who.name);
    }
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_hold() {
    let cluster = FakeCluster::new();
    put(&cluster, bootstrap::objects().into_iter().map(|object| object.0));
    put(
        &cluster,
        [
            binding(Some("a"), "admin", ("ClusterRole", "admin"), user("jane")),
            role(
                None,
                "binder",
                json!([{ "verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"] }]),
            ),
            binding(Some("a"), "binder", ("ClusterRole", "binder"), user("binder")),
            binding(None, "binder", ("ClusterRole", "binder"), user("binder")),
            // Delegation within one namespace.
            binding(Some("a"), "delegate", ("ClusterRole", "binder"), user("delegate")),
            role(
                None,
                "escalator",
                json!([{ "verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["*"] }]),
            ),
            binding(None, "escalator", ("ClusterRole", "escalator"), user("escalator")),
            role(
                None,
                "of-one",
                json!([{ "verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"], "resourceNames": ["r"] }]),
            ),
            binding(None, "of-one", ("ClusterRole", "of-one"), user("of-one")),
        ],
    );
    let rbac = Rbac::new(cluster);
    let pods = || {
        role(Some("a"), "r", json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }]))
    };
    let nodes = || {
        role(Some("a"), "r", json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["nodes"] }]))
    };
    let aggregating = || {
        let mut role = role(None, "r", json!([]));
        role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] });
        role
    };
    let bind = |to: &str| binding(Some("a"), "b", ("ClusterRole", to), user("x"));
    let labelled = |mut object: Value| {
        object["metadata"]["labels"] = json!({ "a": "b" });
        object
    };
    let bind_everywhere = || binding(None, "b", ("ClusterRole", "cluster-admin"), user("x"));
    let told = "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) \
                is attempting to grant RBAC permissions not currently held:\n\
                {APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\"]}";
    #[rustfmt::skip]
    let table = [
        ("jane", pods(), None, ""),
        ("jane", nodes(), None, told),
        ("jane", nodes(), Some(nodes()), ""),
        ("jane", nodes(), Some(pods()), told),
        ("escalator", nodes(), None, ""),
        // A new object has no name yet that a rule could be about.
        ("of-one", nodes(), None, "attempting to grant RBAC permissions not currently held"),
        ("of-one", nodes(), Some(pods()), ""),
        ("jane", bind("view"), None, ""),
        ("jane", bind("cluster-admin"), None, "attempting to grant RBAC permissions not currently held"),
        ("jane", bind("cluster-admin"), Some(bind("cluster-admin")), ""),
        ("jane", labelled(bind("cluster-admin")), Some(bind("cluster-admin")), "attempting to grant RBAC permissions not currently held"),
        ("jane", labelled(bind("view")), Some(bind("view")), ""),
        ("binder", bind("cluster-admin"), None, ""),
        ("delegate", bind("cluster-admin"), None, ""),
        ("delegate", bind_everywhere(), None, "attempting to grant RBAC permissions not currently held"),
        ("jane", bind("nothing"), None, "clusterroles.rbac.authorization.k8s.io \"nothing\" not found"),
        ("jane", aggregating(), None, "must have cluster-admin privileges to use the aggregationRule"),
    ];
    for (who, new, old, want) in table {
        let plural = resource(&new).split('.').next().unwrap();
        let (new, old) = (api::Object(new), old.map(api::Object));
        let write = escalation::Write {
            resource: &api::GroupVersionResource::new(GROUP, "v1", plural),
            namespace: new.namespace().unwrap_or_default(),
            name: if old.is_some() { new.name() } else { "" },
            user: &User::new(who, &["system:authenticated"]),
            new: &new,
            old: old.as_ref(),
        };
        match escalation::check(write, &rbac, &rbac).await {
            Ok(()) => assert_eq!(want, "", "{who} {}", new.0),
            Err(status) => {
                assert!(!want.is_empty() && status.message.contains(want), "{who}: {}", status.message);
            }
        }
    }
}

#[tokio::test]
async fn dropped_caches_cost_one_renewal() {
    let cluster = FakeCluster::new();
    let pods = json!([{ "verbs": ["list"], "apiGroups": [""], "resources": ["pods"] }]);
    put(&cluster, [role(None, "reader", pods)]);
    let rbac = Rbac::new(cluster.clone());
    let alice = User::new("alice", &[]);
    let list = "/api/v1/pods";
    assert_eq!(ask(&rbac, &alice, "GET", list).await.0, Decision::NoOpinion);
    cluster.reset();
    ask(&rbac, &alice, "GET", list).await;
    let renewed = cluster.lists();
    ask(&rbac, &alice, "GET", list).await;
    assert_eq!(cluster.lists(), renewed, "a decision reads no lists when nothing has changed");
    put(&cluster, [binding(None, "b", ("ClusterRole", "reader"), user("alice"))]);
    assert_eq!(ask(&rbac, &alice, "GET", list).await.0, Decision::Allow);
}

#[tokio::test]
async fn roles_that_take_up_each_other_are_each_looked_at_once() {
    // Each of them selects all, itself included: as paths they are more than can be walked.
    let cluster = FakeCluster::new();
    let all = json!({"matchLabels": {"take": "me"}});
    for n in 0..25 {
        let mut aggregated = role(None, &format!("a{n}"), json!([]));
        aggregated["metadata"]["labels"] = json!({"take": "me"});
        aggregated["aggregationRule"] = json!({"clusterRoleSelectors": [all]});
        put(&cluster, [aggregated]);
    }
    let mut plain =
        role(None, "plain", json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]));
    plain["metadata"]["labels"] = json!({"take": "me"});
    put(&cluster, [plain, binding(None, "b", ("ClusterRole", "a7"), user("alice"))]);
    let rbac = Rbac::new(cluster.clone());
    let alice = User::new("alice", &[]);
    let pod = "/api/v1/namespaces/a/pods/p";
    assert_eq!(ask(&rbac, &alice, "GET", pod).await.0, Decision::Allow);
    // They follow what they select, and what they are labelled.
    put(&cluster, [role(None, "plain", json!([]))]);
    assert_eq!(ask(&rbac, &alice, "GET", pod).await.0, Decision::NoOpinion);
}

#[tokio::test]
async fn grants_are_made_anew_where_bindings_changed_and_nowhere_else() {
    let cluster = FakeCluster::new();
    let pods = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]);
    let here =
        |namespace: &str, who: &str| binding(Some(namespace), who, ("ClusterRole", "reader"), user(who));
    put(&cluster, [role(None, "reader", pods), here("a", "alice"), here("b", "bob")]);
    let rbac = Rbac::new(cluster.clone());
    let grant_of = async |who: &str, namespace: &str| {
        let snapshot = rbac.snapshot().await.unwrap();
        let user = User::new(who, &[]);
        snapshot.grants(&user, namespace).next().map(|grant| grant.role.clone())
    };
    let (alice, bob) = (grant_of("alice", "a").await.unwrap(), grant_of("bob", "b").await.unwrap());
    put(&cluster, [here("b", "carol")]);
    assert!(grant_of("carol", "b").await.is_some());
    assert!(Arc::ptr_eq(&alice, &grant_of("alice", "a").await.unwrap()));
    assert!(!Arc::ptr_eq(&bob, &grant_of("bob", "b").await.unwrap()));
    cluster.remove("rolebindings.rbac.authorization.k8s.io", "b", "bob");
    assert!(grant_of("bob", "b").await.is_none());
}
