//! What a permission is not: a read does not write, a change does not create, and nobody is who they say they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::world::{World, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_read_verb_in_the_path_opens_no_subresource() {
    let world = World::new().await;
    let everything =
        json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch", "proxy"]}]);
    let reader = world.granted("reader", everything).await;
    world.admin.post(PODS, &pod("p")).await.is(201);
    for path in [
        "/api/v1/watch/nodes/n1/proxy/run/default/p/c?cmd=id",
        "/api/v1/watch/namespaces/default/pods/p/exec?command=id",
        "/api/v1/watch/namespaces/default/pods/p/proxy/",
        "/api/v1/watch/namespaces/default/services/s/proxy/",
        "/api/v1/proxy/nodes/n1/proxy/run/default/p/c",
        "/api/v1/watch/namespaces/default/pods/p/eviction",
        "/api/v1/proxy/nodes/n1",
    ] {
        for method in [Method::GET, Method::POST] {
            reader.ask(method.clone(), path, &[], "{}").await.is(404);
        }
    }
    reader.post("/api/v1/watch/namespaces/default/pods", &pod("q")).await.is(405);
    let mut watch = reader.watch("/api/v1/watch/namespaces/default/pods").await;
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "p".to_owned()));
}

#[tokio::test]
async fn what_clients_make_up_is_no_label() {
    let world = World::new().await;
    let nobody = world.user("nobody", &[]);
    nobody.get("/api/v1/namespaces/default/pods/p/made-up-by-a-client").await.is(403);
    world.admin.get("/api/v1/namespaces/default/pods/p/made-up-by-a-client").await.is(404);
    world.admin.get("/api/v1/namespaces/default/made-up-by-a-client").await.is(404);
    world.admin.get("/api/v1/namespaces/default/pods/p/log").await.is(404);
    let metrics = foundation::metrics::registry().render();
    assert!(!metrics.contains("made-up-by-a-client"));
    assert!(metrics.contains("subresource=\"log\""), "known ones are labels");
}

#[tokio::test]
async fn a_signing_request_names_who_sent_it() {
    let world = World::new().await;
    let rules = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["*"], "verbs": ["create", "get", "update"]}]);
    let eve = world.granted("eve", rules).await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let mut request = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"},
        "spec": {
            "request": "eA==", "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["client auth"],
            "username": "system:node:n1", "uid": "1", "groups": ["system:nodes"], "extra": {"a": ["b"]},
        },
    });
    let refused = eve.post(path, &request).await.is(422);
    assert!(refused.text("/message").ends_with("PEM block type must be CERTIFICATE REQUEST"), "{refused:?}");
    request["spec"]["request"] = STANDARD.encode(pem).into();
    let made = eve.post(path, &request).await.is(201);
    assert_eq!(made.text("/spec/username"), "eve");
    assert_eq!(made.at("/spec/groups"), &json!(["system:authenticated"]));
    assert_eq!((made.at("/spec/uid"), made.at("/spec/extra")), (&Value::Null, &Value::Null));
    let mut again = made.body.clone();
    again["spec"]["username"] = "system:node:n1".into();
    assert_eq!(eve.put(&format!("{path}/r"), &again).await.is(200).text("/spec/username"), "eve");
}

#[tokio::test]
async fn only_a_signer_fills_in_a_pods_certificate() {
    let world = World::new().await;
    let writes = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["podcertificaterequests", "podcertificaterequests/status"],
        "verbs": ["create", "get", "patch"]});
    let signs = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/s"],
        "verbs": ["sign"]});
    let writer = world.granted("writer", json!([writes])).await;
    let signer = world.granted("signer", json!([writes, signs])).await;
    let path = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    let (mut request, signed) = crate::conformance::pod_certificate_requests::issued(60);
    request["metadata"] = json!({"name": "r"});
    request["spec"]["signerName"] = "example.com/s".into();
    world.admin.post(path, &request).await.is(201);
    let status = format!("{path}/r/status");
    let refused = writer.patch(&status, "merge-patch+json", &signed).await.is(422);
    assert_eq!(
        refused.text("/details/causes/0/message"),
        "Forbidden: User \"writer\" is not permitted to \"sign\" for signer \"example.com/s\""
    );
    signer.patch(&status, "merge-patch+json", &signed).await.is(200);
}

#[tokio::test]
async fn a_stream_into_a_pod_takes_create() {
    let world = World::new().await;
    world.admin.post(PODS, &pod("p")).await.is(201);
    let resources = ["pods/exec", "pods/attach", "pods/portforward"];
    let reads = json!([{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]);
    let both = json!([{"apiGroups": [""], "resources": resources, "verbs": ["get", "create"]}]);
    let (reader, writer) = (world.granted("reader", reads).await, world.granted("writer", both).await);
    for resource in resources {
        let path = format!("{PODS}/p/{}", resource.trim_start_matches("pods/"));
        let refused = reader.get(&path).await.is(403);
        assert!(refused.message().contains("cannot create resource"), "{}", refused.message());
        let allowed = writer.get(&path).await.is(400);
        assert_eq!(allowed.message(), "pod p does not have a host assigned");
    }
}

#[tokio::test]
async fn a_put_that_creates_takes_create() {
    let world = World::new().await;
    let updates =
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update"]}]);
    let both = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update", "create"]}]);
    let (updater, creator) = (world.granted("updater", updates).await, world.granted("creator", both).await);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    updater.put(path, &lease).await.is(403);
    let made = creator.put(path, &lease).await.is(201);
    updater.put(path, &made.body).await.is(200);
}

#[tokio::test]
async fn nobody_has_the_server_call_itself() {
    let world = World::new().await;
    let admin = &world.admin;
    // Something that must not be reached by way of the API server.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    admin.post(PODS, &pod("p")).await.is(201);
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    admin.patch(&format!("{PODS}/p/status"), "merge-patch+json", &status).await.is(200);
    let refused = admin.get(&format!("{PODS}/p:{port}/proxy/")).await.is(400);
    assert_eq!(refused.message(), "address not allowed");

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    admin.post("/api/v1/namespaces/default/services", &service).await.is(201);
    // An address that is no pod's.
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"},
        "subsets": [{"addresses": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "p"}}], "ports": [{"port": port}]}]});
    admin.post("/api/v1/namespaces/default/endpoints", &endpoints).await.is(201);
    let refused = admin.get("/api/v1/namespaces/default/services/s/proxy/").await.is(503);
    assert_eq!(refused.message(), "no endpoints available for service \"s\"");
}

#[tokio::test]
async fn a_watch_of_one_object_by_path_sees_no_other() {
    let world = World::new().await;
    let rules =
        json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["mine"], "verbs": ["watch"]}]);
    let reader = world.granted("reader", rules).await;
    for name in ["another", "mine"] {
        world.admin.post(PODS, &pod(name)).await.is(201);
    }
    reader.get("/api/v1/watch/namespaces/default/pods").await.is(403);
    let mut watch = reader.watch("/api/v1/watch/namespaces/default/pods/mine").await;
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "mine".to_owned()));
    world.admin.post(PODS, &pod("later")).await.is(201);
    let path = format!("{PODS}/mine?gracePeriodSeconds=0");
    world.admin.delete(&path, None).await.is(200);
    assert_eq!(watch.event().await, ("DELETED".to_owned(), "mine".to_owned()));
}

#[tokio::test]
async fn a_label_makes_no_role_part_of_another_for_who_does_not_hold_it() {
    let world = World::new().await;
    let rules = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["get", "patch"]}]);
    let eve = world.granted("eve", rules).await;
    let strong = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin";
    let label = json!({"metadata": {"labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}});
    let refused = eve.patch(strong, "merge-patch+json", &label).await.is(403);
    assert!(refused.message().contains("attempting to grant RBAC permissions not currently held"));
    // What she holds herself she may label, and what collectors keep is nobody's grant.
    let own = "/apis/rbac.authorization.k8s.io/v1/clusterroles/eve";
    eve.patch(own, "merge-patch+json", &label).await.is(200);
    let finalizer = json!({"metadata": {"finalizers": ["example.com/f"]}});
    eve.patch(strong, "merge-patch+json", &finalizer).await.is(200);
}
