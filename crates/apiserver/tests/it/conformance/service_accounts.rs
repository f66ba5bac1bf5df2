//! test/e2e/auth/service_accounts.go: the part that is about the API. What a pod sees of its token is the node's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::world::{PATIENCE, World, pod};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

async fn world() -> World {
    let key = pki::PrivateKey::generate(pki::KeyType::EcdsaP256).unwrap();
    let key = std::sync::Arc::new(pki::SigningKey::from_pem(&key.pem()).unwrap());
    World::with(|options| {
        let issuer = "https://kubernetes.default.svc.cluster.local";
        options.authn.service_accounts = Some(apiserver::authn::token::Options::new(issuer, key));
    })
    .await
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

/// Conformance: [sig-auth] ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview [Conformance]
#[tokio::test]
async fn should_create_a_token_and_ensure_a_successful_token_review() {
    let world = world().await;
    let admin = &world.admin;
    let made = admin.post(ACCOUNTS, &account("e2e")).await.is(201);
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600},
    });
    let token = admin.post(&format!("{ACCOUNTS}/e2e/token"), &request).await.is(201);
    assert!(!token.text("/status/expirationTimestamp").is_empty());
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token.text("/status/token")},
    });
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = admin.post(reviews, &review).await.is(201);
    assert_eq!(answer.at("/status/authenticated"), &Value::Bool(true), "{answer:?}");
    assert!(answer.at("/status/error").is_null());
    assert_eq!(answer.text("/status/user/username"), "system:serviceaccount:default:e2e");
    assert_eq!(answer.text("/status/user/uid"), made.text("/metadata/uid"));
    let groups = answer.at("/status/user/groups").as_array().unwrap();
    for group in ["system:serviceaccounts", "system:serviceaccounts:default"] {
        assert!(groups.contains(&group.into()), "{groups:?}");
    }
    let id = answer.text("/status/user/extra/authentication.kubernetes.io~1credential-id/0");
    assert!(id.starts_with("JTI="), "{id}");

    admin.delete(&format!("{ACCOUNTS}/e2e"), None).await.is(200);
    // The server hears of the deletion through its watch cache.
    let refused = async {
        loop {
            let answer = admin.post(reviews, &review).await.is(201);
            if answer.at("/status/authenticated") != &Value::Bool(true) {
                break answer;
            }
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, refused).await.expect("the account is gone");
    assert!(!answer.text("/status/error").is_empty());
}

/// Conformance: [sig-auth] ServiceAccounts should run through the lifecycle of a ServiceAccount [Conformance]
#[tokio::test]
async fn should_run_through_the_lifecycle_of_a_service_account() {
    let world = world().await;
    let admin = &world.admin;
    let mut body = account("testserviceaccount");
    body["metadata"]["labels"] = json!({"test-serviceaccount-static": "true"});
    let selected = "/api/v1/serviceaccounts?labelSelector=test-serviceaccount-static%3Dtrue";
    let from = admin.get(selected).await.is(200).text("/metadata/resourceVersion").to_owned();
    let mut watch = admin.watch(&format!("{selected}&watch=true&resourceVersion={from}")).await;
    admin.post(ACCOUNTS, &body).await.is(201);
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "testserviceaccount".to_owned()));
    let one = format!("{ACCOUNTS}/testserviceaccount");
    let patch = json!({"automountServiceAccountToken": false});
    admin.patch(&one, "strategic-merge-patch+json", &patch).await.is(200);
    assert_eq!(watch.event().await.0, "MODIFIED");
    assert_eq!(admin.get(selected).await.is(200).names(), ["testserviceaccount"]);
    assert_eq!(admin.get(&one).await.is(200).at("/automountServiceAccountToken"), false);
    admin.delete(&format!("{ACCOUNTS}?labelSelector=test-serviceaccount-static%3Dtrue"), None).await.is(200);
    assert_eq!(watch.event().await.0, "DELETED");
}

/// Conformance: [sig-auth] ServiceAccounts should update a ServiceAccount [Conformance]
#[tokio::test]
async fn should_update_a_service_account() {
    let world = world().await;
    let mut made = world.admin.post(ACCOUNTS, &account("e2e")).await.is(201).body;
    made["automountServiceAccountToken"] = true.into();
    let updated = world.admin.put(&format!("{ACCOUNTS}/e2e"), &made).await.is(200);
    assert_eq!(updated.at("/automountServiceAccountToken"), true);
}

/// Conformance: [sig-auth] ServiceAccounts should allow opting out of API token automount [Conformance]
#[tokio::test]
async fn should_allow_opting_out_of_api_token_automount() {
    let world = world().await;
    let admin = &world.admin;
    for (name, automount) in [("default-sa", None), ("mount", Some(true)), ("nomount", Some(false))] {
        let mut body = account(name);
        if let Some(automount) = automount {
            body["automountServiceAccountToken"] = automount.into();
        }
        admin.post(ACCOUNTS, &body).await.is(201);
    }
    for (at, (account, own, mounted)) in [
        ("default-sa", None, true),
        ("mount", None, true),
        ("nomount", None, false),
        ("default-sa", Some(true), true),
        ("mount", Some(true), true),
        ("nomount", Some(true), true),
        ("default-sa", Some(false), false),
        ("mount", Some(false), false),
        ("nomount", Some(false), false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut body = pod(&format!("pod-{at}"));
        body["spec"]["serviceAccountName"] = account.into();
        if let Some(own) = own {
            body["spec"]["automountServiceAccountToken"] = own.into();
        }
        let made = admin.post("/api/v1/namespaces/default/pods", &body).await.is(201);
        let mounts = made.at("/spec/containers/0/volumeMounts").as_array().cloned().unwrap_or_default();
        let has = mounts.iter().any(|m| m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(has, mounted, "{account} {own:?}");
    }
}

/// Conformance: [sig-auth] ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer [Conformance]
#[tokio::test]
async fn should_support_oidc_discovery_of_service_account_issuer() {
    let world = world().await;
    world.admin.post(ACCOUNTS, &account("e2e")).await.is(201);
    let user = "system:serviceaccount:default:e2e";
    let client = world.user(user, &["system:serviceaccounts", "system:serviceaccounts:default"]);
    let document = client.get("/.well-known/openid-configuration").await.is(200);
    let keys = client.get("/openid/v1/jwks").await.is(200);
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": ["oidc-discovery-test"]},
    });
    let token = world.admin.post(&format!("{ACCOUNTS}/e2e/token"), &request).await.is(201);
    let token = token.text("/status/token");
    let mut parts = token.split('.');
    let mut part = || -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap()).unwrap()
    };
    let (header, claims) = (part(), part());
    assert_eq!(claims["iss"], document.text("/issuer"));
    assert_eq!(claims["aud"], json!(["oidc-discovery-test"]));
    let known = keys.at("/keys").as_array().unwrap();
    let key = known.iter().find(|key| key["kid"] == header["kid"]).expect("the key is published");
    assert_eq!(key["alg"], header["alg"]);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let field = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let point = [&[4][..], &field("x"), &field("y")].concat();
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .expect("the key has signed it");
    let algorithms = document.at("/id_token_signing_alg_values_supported").as_array().unwrap();
    assert!(algorithms.contains(&header["alg"]));
}
