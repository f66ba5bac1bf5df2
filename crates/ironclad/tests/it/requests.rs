//! Requests that are refused, each with the status that upstream answers.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use client::Identity;
use serde_json::{Value, json};
use testkit::{Answer, Cluster, Options};

use crate::IRONCLAD;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

fn bearer(token: &str) -> Option<Identity> {
    Some(Identity::Token(token.to_owned()))
}

fn refused(answer: &Answer, code: u16, reason: &str, message: &str) {
    let body = &answer.body;
    assert_eq!(
        (answer.code, &body["kind"], &body["status"]),
        (code, &json!("Status"), &json!("Failure")),
        "{body}"
    );
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(body["reason"], reason, "{body}");
    assert!(body["message"].as_str().unwrap_or_default().contains(message), "{message:?} is not in {body}");
}

#[test]
fn refused_requests_say_why_as_upstream_does() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    let create = |body: Value| cluster.send("POST", CONFIG_MAPS, JSON, body.to_string());
    let config_map =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});

    // Over 3 MiB.
    let mut large = config_map("large");
    large["data"] = json!({"a": "x".repeat(3 << 20)});
    refused(&create(large), 413, "RequestEntityTooLarge", "limit is 3145728");

    // JSON nested without end, and JSON that is none.
    let nested = format!("{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"data\":{}", "[".repeat(1 << 20));
    refused(&cluster.send("POST", CONFIG_MAPS, JSON, nested), 400, "BadRequest", "");
    refused(&cluster.send("POST", CONFIG_MAPS, JSON, "{"), 400, "BadRequest", "");

    // A name that is no DNS label.
    let answer = create(config_map("No_Label"));
    refused(&answer, 422, "Invalid", "a lowercase RFC 1123 subdomain must consist of");
    assert_eq!(answer.body["details"]["causes"][0]["field"], "metadata.name", "{}", answer.body);

    // The same name twice.
    assert_eq!(create(config_map("twice")).code, 201);
    refused(&create(config_map("twice")), 409, "AlreadyExists", "configmaps \"twice\" already exists");

    // A stale resourceVersion.
    let path = format!("{CONFIG_MAPS}/twice");
    let mut stale = cluster.send("GET", &path, JSON, "").body;
    let mut newer = stale.clone();
    newer["data"] = json!({"a": "b"});
    assert_eq!(cluster.send("PUT", &path, JSON, newer.to_string()).code, 200);
    stale["data"] = json!({"a": "c"});
    let answer = cluster.send("PUT", &path, JSON, stale.to_string());
    refused(
        &answer,
        409,
        "Conflict",
        "the object has been modified; please apply your changes to the latest version",
    );

    // What is not there: an object, a resource, a method.
    refused(
        &cluster.send("GET", &format!("{CONFIG_MAPS}/none"), JSON, ""),
        404,
        "NotFound",
        "configmaps \"none\" not found",
    );
    assert_eq!(cluster.send("GET", "/api/v1/nothings", JSON, "").code, 404);
    refused(
        &cluster.send("PUT", CONFIG_MAPS, JSON, "{}"),
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    );

    // A body in a language that nobody speaks.
    refused(&cluster.send("POST", CONFIG_MAPS, "text/plain", "hello"), 415, "UnsupportedMediaType", "");

    // A field that does not exist, when the client asks to be strict.
    let mut unknown = config_map("unknown");
    unknown["dta"] = json!({});
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let answer = cluster.send("POST", &strict, JSON, unknown.to_string());
    refused(&answer, 400, "BadRequest", "strict decoding error: unknown field \"dta\"");

    // Pods that make no sense: every error at once, not the first.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "A", "image": ""}]}});
    let answer = cluster.send("POST", "/api/v1/namespaces/default/pods", JSON, pod.to_string());
    refused(&answer, 422, "Invalid", "Pod \"p\" is invalid: ");
    let causes = answer.body["details"]["causes"].as_array().unwrap().len();
    assert!(causes >= 2, "{}", answer.body);
}

#[test]
fn a_service_account_may_do_only_what_it_is_granted() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    let token = cluster.kubectl(&["create", "token", "default"]).trim().to_owned();
    let ask = |token: &str, method: &str, path: &str| cluster.send_as(bearer(token), method, path, JSON, "");
    let answer = ask(&token, "GET", "/api/v1/namespaces/default/secrets");
    refused(
        &answer,
        403,
        "Forbidden",
        "secrets is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"secrets\" in API \
         group \"\" in the namespace \"default\"",
    );
    cluster.kubectl(&["create", "role", "reader", "--verb=list", "--resource=secrets"]);
    cluster.kubectl(&[
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        "--serviceaccount=default:default",
    ]);
    testkit::wait::until("the grant is in force", || {
        let answer = ask(&token, "GET", "/api/v1/namespaces/default/secrets");
        if answer.code == 200 { Ok(()) } else { Err(answer.body.to_string()) }
    });
    assert_eq!(
        ask(&token, "DELETE", "/api/v1/namespaces/default/secrets").code,
        403,
        "only what was granted"
    );
    let who =
        cluster.kubectl(&["auth", "can-i", "list", "secrets", "--as=system:serviceaccount:default:default"]);
    assert_eq!(who, "yes\n");
}

#[test]
fn tokens_that_are_expired_or_forged_are_nobody() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    let good = cluster.kubectl(&["create", "token", "default"]).trim().to_owned();
    let ask = |token: &str| cluster.send_as(bearer(token), "GET", "/api", JSON, "");
    assert_eq!(ask(&good).code, 200);
    let (header, rest) = good.split_once('.').unwrap();
    let payload = URL_SAFE_NO_PAD.decode(rest.split_once('.').unwrap().0).unwrap();
    let mut claims: Value = serde_json::from_slice(&payload).unwrap();
    let sign = |claims: &Value| {
        let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature =
            sign_with(&std::fs::read_to_string(cluster.data_dir().join("pki/sa.key")).unwrap(), &text);
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    // The test's own signature is good, so what follows is refused for its claims.
    assert_eq!(ask(&sign(&claims)).code, 200);
    let soon_after = claims["iat"].as_i64().unwrap() - 7200;
    for claim in ["iat", "nbf"] {
        claims[claim] = json!(soon_after);
    }
    claims["exp"] = json!(soon_after + 3600);
    refused(&ask(&sign(&claims)), 401, "Unauthorized", "Unauthorized");
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    refused(&ask(&forged), 401, "Unauthorized", "Unauthorized");
    refused(&ask("nonsense"), 401, "Unauthorized", "Unauthorized");
}

#[test]
fn a_certificate_of_a_stranger_gets_an_answer_and_not_a_broken_connection() {
    let cluster = Cluster::start(Options::hollow(IRONCLAD, 1));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let stranger = Identity::ClientCertificate {
        certificate_pem: certificate.pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    };
    let answer = cluster.send_as(Some(stranger), "GET", "/api", JSON, "");
    refused(&answer, 401, "Unauthorized", "Unauthorized");
}

#[test]
fn who_is_believed_and_who_decides_follow_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let authentication = |paths: &[&str]| {
        let conditions: Vec<Value> = paths.iter().map(|path| json!({"path": path})).collect();
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "anonymous": {"enabled": true, "conditions": conditions},
        })
    };
    let authorization = |modes: &[&str]| {
        let authorizers: Vec<Value> =
            modes.iter().map(|mode| json!({"type": mode, "name": mode.to_lowercase()})).collect();
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": authorizers,
        })
    };
    let write = |name: &str, content: &Value| std::fs::write(file(name), content.to_string()).unwrap();
    write("authentication", &authentication(&["/livez"]));
    write("authorization", &authorization(&["Node", "RBAC"]));
    let flag = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
    let options = Options::hollow(IRONCLAD, 1)
        .flag(&flag("authentication-config", "authentication"))
        .flag(&flag("authorization-config", "authorization"));
    let cluster = Cluster::start(options);
    let nobody = |path: &str| cluster.send_as(Some(Identity::None), "GET", path, JSON, "").code;
    assert_eq!((nobody("/livez"), nobody("/version"), nobody("/api/v1/nodes")), (200, 401, 401));
    let becomes = |what: &str, path: &str, code: u16| {
        testkit::wait::until(what, || match nobody(path) {
            found if found == code => Ok(()),
            found => Err(format!("{path} is answered with {found}")),
        });
    };
    write("authentication", &authentication(&["/livez", "/version", "/api/v1/nodes"]));
    becomes("another path is open", "/version", 200);
    assert_eq!(nobody("/api/v1/nodes"), 403, "they are somebody now, who may not");
    write("authorization", &authorization(&["AlwaysAllow"]));
    becomes("everything is allowed", "/api/v1/nodes", 200);
    // A file that makes no sense changes nothing.
    std::fs::write(file("authorization"), "kind: Nonsense").unwrap();
    testkit::wait::until("the failure is counted", || {
        let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]);
        let line = "apiserver_authorization_config_controller_automatic_reloads_total{status=\"failure\"}";
        if metrics.contains(line) { Ok(()) } else { Err("no failure yet".to_owned()) }
    });
    assert_eq!(nobody("/api/v1/nodes"), 200);
}

/// Signs as the cluster does, with its own key.
fn sign_with(pem: &str, text: &str) -> Vec<u8> {
    use ring::{rand::SystemRandom, signature};
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    let random = SystemRandom::new();
    let key = signature::EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random)
        .unwrap();
    key.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec()
}
