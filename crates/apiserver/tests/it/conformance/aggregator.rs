//! test/e2e/apimachinery/aggregator.go, with a sample API server in this process.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::world::{PATIENCE, World};

const GROUP: &str = "wardle.example.com";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// An API server of one resource that keeps what it is sent, and remembers who asked.
struct Sample {
    port: u16,
    authority: String,
    seen: Arc<Mutex<Vec<(String, Vec<String>, String)>>>,
    running: tokio::task::JoinHandle<()>,
}

impl Sample {
    async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["sample-api.default.svc".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let tls = foundation::tls::server()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let flunders: Arc<Mutex<Vec<Value>>> = Arc::default();
        let noted = seen.clone();
        let running = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen, flunders) = (acceptor.clone(), noted.clone(), flunders.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
                        let (seen, flunders) = (seen.clone(), flunders.clone());
                        async move { Ok::<_, Infallible>(answer(request, &seen, &flunders).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, authority: STANDARD.encode(certificate.pem()), seen, running }
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    seen: &Mutex<Vec<(String, Vec<String>, String)>>,
    flunders: &Mutex<Vec<Value>>,
) -> Response<Full<Bytes>> {
    let headers = request.headers().clone();
    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
    let user = headers.get("x-remote-user").map(text).unwrap_or_default();
    let groups = headers.get_all("x-remote-group").iter().map(text).collect();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    seen.lock().push((user, groups, path.clone()));
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let (code, value) = match (method, path.as_str()) {
        (Method::GET, "/apis/wardle.example.com/v1alpha1") => (
            200,
            json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
                "resources": [
                    {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["create", "get", "list"]},
                    {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
                ],
            }),
        ),
        (Method::GET, "/openapi/v2") => (200, document()),
        (Method::GET, "/openapi/v3") => (
            200,
            json!({"paths": {"apis/wardle.example.com/v1alpha1": {
                "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1",
            }}}),
        ),
        (Method::GET, "/openapi/v3/apis/wardle.example.com/v1alpha1") => (200, json!({"openapi": "3.0.0"})),
        (Method::POST, _) => {
            let flunder: Value = serde_json::from_slice(&body).unwrap();
            flunders.lock().push(flunder.clone());
            (201, flunder)
        }
        (Method::GET, path) if path.ends_with("/flunders") => (
            200,
            json!({"kind": "FlunderList", "apiVersion": "wardle.example.com/v1alpha1", "items": *flunders.lock()}),
        ),
        _ => (404, json!({"kind": "Status", "code": 404})),
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// Its API by OpenAPI v2, as an API server of the same library tells it.
fn document() -> Value {
    let answer = |name: &str| json!({"get": {"responses": {"200": {"schema": {"$ref": format!("#/definitions/{name}")}}}}});
    json!({
        "swagger": "2.0",
        "paths": {
            "/apis/wardle.example.com/v1alpha1/flunders": answer("com.example.wardle.v1alpha1.Flunder"),
            "/version/": answer("io.k8s.apimachinery.pkg.version.Info"),
        },
        "definitions": {
            "com.example.wardle.v1alpha1.Flunder": {"type": "object", "properties": {
                "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
            }},
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "description": "of an older library"},
            "io.k8s.apimachinery.pkg.version.Info": {"type": "object"},
        },
    })
}

/// The condition `Available`, once its reason is this one.
async fn reason(world: &World, name: &str, wanted: &str) -> Value {
    let path = format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut watch = world.admin.watch(&path).await;
    let found = async {
        loop {
            let event = watch.next().await.expect("the watch goes on");
            let condition = event["object"]["status"]["conditions"][0].clone();
            if condition["reason"] == wanted {
                return condition;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("never {wanted}"))
}

fn api_service(sample: &Sample) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1alpha1.wardle.example.com"},
        "spec": {
            "group": GROUP, "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
            "caBundle": sample.authority,
            "service": {"namespace": "default", "name": "sample-api", "port": sample.port},
        },
    })
}

async fn service(world: &World) {
    let body = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample-api"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    });
    world.admin.post("/api/v1/namespaces/default/services", &body).await.is(201);
}

/// Conformance: [sig-api-machinery] Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator [LinuxOnly] [Conformance]
#[tokio::test]
async fn should_be_able_to_support_the_sample_api_server() {
    let world = World::new().await;
    let admin = &world.admin;
    let sample = Sample::start().await;
    admin.post(SERVICES, &api_service(&sample)).await.is(201);
    let condition = reason(&world, "v1alpha1.wardle.example.com", "ServiceNotFound").await;
    assert_eq!(condition["message"], "service/sample-api in \"default\" is not present");
    let flunders = format!("/apis/{GROUP}/v1alpha1/namespaces/default/flunders");
    let early = admin.until(&flunders, |answer| answer.code != 404).await;
    assert_eq!((early.code, early.bytes.as_ref()), (503, &b"service unavailable\n"[..]));

    service(&world).await;
    let condition = reason(&world, "v1alpha1.wardle.example.com", "Passed").await;
    assert_eq!((&condition["status"], &condition["message"]), (&json!("True"), &json!("all checks passed")));
    let flunder = json!({
        "apiVersion": "wardle.example.com/v1alpha1", "kind": "Flunder", "metadata": {"name": "dynamic-flunder"},
    });
    let made = loop {
        let answer = admin.post(&flunders, &flunder).await;
        if answer.code != 503 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(made.code, 201);
    assert_eq!(admin.get(&flunders).await.is(200).text("/items/0/metadata/name"), "dynamic-flunder");
    // How much is too much is the other server's to say: more than this one reads goes through.
    let mut large = flunder.clone();
    large["metadata"]["name"] = "large".into();
    large["spec"] = "x".repeat(4 << 20).into();
    admin.post(&flunders, &large).await.is(201);
    assert_eq!(
        admin.post(&format!("{flunders}/x%2Fstatus"), &flunder).await.code,
        404,
        "nothing is smuggled"
    );
    let bob = world
        .granted("bob", json!([{"apiGroups": [GROUP], "resources": ["flunders"], "verbs": ["list"]}]))
        .await;
    let forged =
        [("x-remote-user", "root"), ("x-remote-group", "system:masters"), ("authorization", "Bearer x")];
    while bob.ask(Method::GET, &flunders, &forged, Bytes::new()).await.code == 403 {}
    let (user, groups, path) = sample.seen.lock().last().cloned().unwrap();
    assert_eq!((user.as_str(), path.as_str()), ("bob", flunders.as_str()));
    assert_eq!(groups, ["system:authenticated"], "nobody says himself who he is");

    let groups = admin.get("/apis").await.is(200);
    let group = groups.at("/groups").as_array().unwrap().iter().find(|g| g["name"] == GROUP).unwrap().clone();
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    assert_eq!(admin.get(&format!("/apis/{GROUP}")).await.is(200).text("/versions/0/version"), "v1alpha1");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let list = admin.ask(Method::GET, "/apis", &[("accept", accept)], Bytes::new()).await.is(200);
    let item =
        list.at("/items").as_array().unwrap().iter().find(|item| item["metadata"]["name"] == GROUP).unwrap();
    let resource = &item["versions"][0]["resources"][0];
    assert_eq!(
        (&resource["resource"], &resource["responseKind"]["kind"]),
        (&json!("flunders"), &json!("Flunder"))
    );
    assert_eq!(resource["subresources"][0]["subresource"], "status");
    let openapi = admin.get("/openapi/v3").await.is(200);
    let url = openapi.text("/paths/apis~1wardle.example.com~1v1alpha1/serverRelativeURL").to_owned();
    assert_eq!(admin.get(&url).await.is(200).text("/openapi"), "3.0.0");

    // Version 2 is one document of all servers.
    let path = "/paths/~1apis~1wardle.example.com~1v1alpha1~1flunders";
    let whole = admin.until("/openapi/v2", |answer| answer.at(path).is_object()).await;
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let flunder = whole.at("/definitions/com.example.wardle.v1alpha1.Flunder/properties/metadata/$ref");
    assert_eq!(flunder, &json!(format!("#/definitions/{meta}_v2")));
    assert_eq!(whole.text(&format!("/definitions/{meta}_v2/description")), "of an older library");
    assert!(whole.at(&format!("/definitions/{meta}/properties/uid")).is_object(), "the own one is as it was");
    assert!(
        whole.at("/definitions/io.k8s.apimachinery.pkg.version.Info").is_null(),
        "of a path that is not its own"
    );
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let binary = admin.ask(Method::GET, "/openapi/v2", &[("accept", accept)], Bytes::new()).await.is(200);
    let told = |name: &[u8]| binary.bytes.windows(name.len()).any(|window| window == name);
    assert!(told(b"/apis/wardle.example.com/v1alpha1/flunders"));

    // The status can be read and patched, and the object selected.
    let one = format!("{SERVICES}/v1alpha1.wardle.example.com");
    assert_eq!(
        admin.get(&format!("{one}/status")).await.is(200).text("/status/conditions/0/type"),
        "Available"
    );
    let patch = json!({"spec": {"versionPriority": 400}});
    admin.patch(&one, "merge-patch+json", &patch).await.is(200);

    sample.running.abort();
    let patch = json!({"spec": {"versionPriority": 401}});
    admin.patch(&one, "merge-patch+json", &patch).await.is(200);
    let condition = reason(&world, "v1alpha1.wardle.example.com", "FailedDiscoveryCheck").await;
    assert_eq!(condition["status"], "False");
    admin.until(&flunders, |answer| answer.code == 503 && answer.bytes == "service unavailable\n").await;
    admin.delete(&one, None).await.is(200);
    admin.until(&flunders, |answer| answer.code == 404).await;
    assert!(admin.get("/openapi/v2").await.is(200).at(path).is_null(), "gone with its APIService");
}

#[tokio::test]
async fn what_is_served_here_has_api_services_too() {
    let world = World::new().await;
    let admin = &world.admin;
    let listed = admin.get(SERVICES).await.is(200);
    for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"] {
        assert!(listed.names().contains(&name), "{name} in {:?}", listed.names());
    }
    let apps = admin.get(&format!("{SERVICES}/v1.apps")).await.is(200);
    assert_eq!(apps.text("/status/conditions/0/reason"), "Local");
    assert_eq!(apps.text("/metadata/labels/kube-aggregator.kubernetes.io~1automanaged"), "onstart");

    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut watch =
        admin.watch(&format!("{SERVICES}?watch=true&fieldSelector=metadata.name%3Dv1.example.com")).await;
    admin.post(definitions, &definition).await.is(201);
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "v1.example.com".to_owned()));
    admin.delete(&format!("{definitions}/things.example.com"), None).await.is(200);
    loop {
        if watch.event().await.0 == "DELETED" {
            break;
        }
    }
}

#[tokio::test]
async fn other_servers_are_told_whom_to_believe() {
    let world = World::with(|options| {
        options.aggregation.announcement = Some(apiserver::aggregation::Announcement {
            client_authorities: "CLIENTS".into(),
            front_proxy_authorities: "PROXIES".into(),
            allowed_names: vec!["front-proxy-client".into()],
        });
    })
    .await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = world.admin.get(path).await.is(200);
    assert_eq!(map.text("/data/client-ca-file"), "CLIENTS");
    assert_eq!(map.text("/data/requestheader-client-ca-file"), "PROXIES");
    assert_eq!(map.text("/data/requestheader-username-headers"), "[\"X-Remote-User\"]");
    assert_eq!(map.text("/data/requestheader-allowed-names"), "[\"front-proxy-client\"]");
}
