//! Tokens: issued, checked, expired, bound.

use std::sync::Arc;
use std::time::Duration;

use api::Object;
use foundation::{ManualClock, SharedClock};
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::*;
use crate::audit::tests::annotated;
use crate::authn::{self, Credentials};
use crate::authz::fake::FakeCluster;
use crate::cluster::ClusterState;
use crate::request::User;

struct Fixture {
    cluster: Arc<FakeCluster>,
    clock: Arc<ManualClock>,
    authentication: authn::Authentication,
}

fn key(kind: pki::KeyType) -> Arc<SigningKey> {
    let pem = pki::PrivateKey::generate(kind).unwrap().pem();
    Arc::new(SigningKey::from_pem(&pem).unwrap())
}

fn fixture(change: impl FnOnce(&mut Options)) -> Fixture {
    let cluster = FakeCluster::new();
    for (resource, kind, namespace, name) in [
        ("serviceaccounts", "ServiceAccount", "a", "robot"),
        ("pods", "Pod", "a", "p"),
        ("pods", "Pod", "a", "other"),
        ("secrets", "Secret", "a", "s"),
        ("nodes", "Node", "", "n1"),
    ] {
        let mut object = json!({ "apiVersion": "v1", "kind": kind,
            "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-{name}") } });
        if kind == "Pod" {
            let account = if name == "p" { "robot" } else { "someone" };
            object["spec"] = json!({ "serviceAccountName": account, "nodeName": "n1" });
        }
        cluster.put(resource, object);
    }
    let mut accounts =
        Options::new("https://kubernetes.default.svc.cluster.local", key(pki::KeyType::EcdsaP256));
    change(&mut accounts);
    let options = authn::Options { service_accounts: Some(accounts), ..authn::Options::default() };
    let clock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
    let (state, shared): (Arc<dyn ClusterState>, SharedClock) = (cluster.clone(), clock.clone());
    Fixture {
        cluster,
        clock,
        authentication: authn::build(&options, &state, &shared, &foundation::SystemRandomness::shared())
            .unwrap(),
    }
}

impl Fixture {
    async fn request(&self, spec: Value) -> Result<(Object, Vec<String>), api::Status> {
        let account = self.cluster.get(&api::GroupResource::new("", "serviceaccounts"), "a", "robot").await?;
        let request = Object(json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {}, "spec": spec }));
        let mut warnings = Vec::new();
        let issuer = self.authentication.issuer.as_ref().unwrap();
        Ok((issuer.issue(&account, request, &mut warnings).await?, warnings))
    }

    async fn token(&self, spec: Value) -> String {
        self.request(spec).await.unwrap().0.0["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn user(&self, token: &str, audiences: &[String]) -> Result<Option<User>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let credentials =
            Credentials { headers: &headers, certificates: &[], remote: None, audiences, path: "/api" };
        let found = self.authentication.authenticator.authenticate(credentials).await;
        found.map(|found| found.map(|f| f.user)).map_err(|status| status.message)
    }
}

fn pod_reference() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p" })
}

#[tokio::test]
async fn a_token_bound_to_a_pod_lives_as_long_as_the_pod() {
    let fixture = fixture(|_| {});
    let token = fixture.token(json!({ "boundObjectRef": pod_reference() })).await;
    let user = fixture.user(&token, &[]).await.unwrap().unwrap();
    assert_eq!(user.name, "system:serviceaccount:a:robot");
    assert_eq!(user.uid, "uid-robot");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    let extra = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")][0].clone();
    assert_eq!(
        [extra("pod-name"), extra("pod-uid"), extra("node-name"), extra("node-uid")],
        ["p", "uid-p", "n1", "uid-n1"]
    );
    assert!(extra("credential-id").starts_with("JTI="));

    fixture.cluster.remove("pods", "a", "p");
    let error = fixture.user(&token, &[]).await.unwrap_err();
    assert_eq!(error, "[invalid bearer token, pod a/p could not be found]");
    let reborn = json!({ "apiVersion": "v1", "kind": "Pod", "spec": { "serviceAccountName": "robot" },
        "metadata": { "name": "p", "namespace": "a", "uid": "another" } });
    fixture.cluster.put("pods", reborn);
    assert!(
        fixture
            .user(&token, &[])
            .await
            .unwrap_err()
            .contains("pod UID (another) does not match claim (uid-p)")
    );
}

#[tokio::test]
async fn tokens_end_when_their_time_or_their_account_does() {
    let fixture = fixture(|_| {});
    let token = fixture.token(json!({ "expirationSeconds": 600 })).await;
    assert!(fixture.user(&token, &[]).await.unwrap().is_some());
    fixture.clock.advance(Duration::from_secs(601));
    assert!(fixture.user(&token, &[]).await.unwrap_err().contains("service account token has expired"));

    let token = fixture.token(json!({})).await;
    fixture.cluster.remove("serviceaccounts", "a", "robot");
    assert!(
        fixture.user(&token, &[]).await.unwrap_err().contains("service account a/robot could not be found")
    );
}

#[tokio::test]
async fn what_pods_get_by_themselves_lasts_a_year_and_says_an_hour() {
    let fixture = fixture(|_| {});
    let spec = json!({ "expirationSeconds": 3607, "boundObjectRef": pod_reference() });
    let (answer, _) = fixture.request(spec.clone()).await.unwrap();
    assert_eq!(answer.0["status"]["expirationTimestamp"], "2026-11-21T11:00:07Z");
    let token = answer.0["status"]["token"].as_str().unwrap().to_owned();
    fixture.clock.advance(Duration::from_secs(4000));
    assert!(fixture.user(&token, &[]).await.unwrap().is_some());

    let strict = super::tests::fixture(|options| options.extend_expiration = false);
    let token = strict.token(spec).await;
    strict.clock.advance(Duration::from_secs(4000));
    assert!(strict.user(&token, &[]).await.is_err());
}

#[tokio::test]
async fn requests_are_checked() {
    let fixture = fixture(|options| options.max_expiration = Some(Duration::from_secs(7200)));
    let pod = |change: (&str, &str)| {
        let mut reference = pod_reference();
        reference[change.0] = change.1.into();
        json!({ "boundObjectRef": reference })
    };
    #[rustfmt::skip]
    let table = [
        (json!({ "expirationSeconds": 599 }), 422, "may not specify a duration less than 10 minutes"),
        (json!({ "expirationSeconds": 4294967297i64 }), 422, "may not specify a duration larger than 2^32 seconds"),
        (pod(("name", "gone")), 404, "pods \"gone\" not found"),
        (pod(("uid", "another")), 409, "the UID in the bound object reference (another) does not match the UID in record"),
        (json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "other" } }), 400,
         "cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name."),
        (pod(("kind", "ConfigMap")), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"),
    ];
    for (spec, code, message) in table {
        let status = fixture.request(spec).await.unwrap_err();
        assert_eq!(status.code, code);
        assert!(status.message.contains(message), "{}", status.message);
    }
    let (answer, warnings) = fixture.request(json!({ "expirationSeconds": 10000 })).await.unwrap();
    assert_eq!(warnings, ["requested expiration of 10000 seconds shortened to 7200 seconds"]);
    assert_eq!(answer.0["spec"]["expirationSeconds"], 7200);
}

#[tokio::test]
async fn audiences_and_foreign_tokens() {
    let fixture = fixture(|_| {});
    let vault = ["vault".to_owned()];
    let token = fixture.token(json!({ "audiences": ["vault"] })).await;
    assert!(fixture.user(&token, &[]).await.unwrap_err().contains("is invalid for the target audiences"));
    assert!(fixture.user(&token, &vault).await.unwrap().is_some());

    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[1] = fixture.token(json!({})).await.split('.').nth(1).unwrap().to_owned();
    let error = fixture.user(&parts.join("."), &[]).await.unwrap_err();
    assert!(error.contains("no keys found that verify"), "{error}");

    let other = super::tests::fixture(|options| options.issuer = "https://elsewhere".to_owned());
    let foreign = other.token(json!({})).await;
    assert_eq!(fixture.user(&foreign, &[]).await.unwrap_err(), "invalid bearer token");
}

#[tokio::test]
async fn reviews_and_discovery() {
    let fixture = fixture(|_| {});
    let token = fixture.token(json!({ "boundObjectRef": pod_reference() })).await;
    let review = |token: &str| {
        Object(json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "metadata": {}, "spec": { "token": token } }))
    };
    let tokens = &*fixture.authentication.tokens;
    let done = authn::review::token(review(&token), tokens).await.unwrap();
    assert_eq!(done.0["status"]["authenticated"], true);
    assert_eq!(done.0["status"]["user"]["username"], "system:serviceaccount:a:robot");
    assert_eq!(done.0["status"]["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    let done = authn::review::token(review("nonsense"), tokens).await.unwrap();
    assert_eq!(done.0["status"], json!({ "user": {}, "error": "invalid bearer token" }));

    let keys = fixture.authentication.issuer.as_ref().unwrap().keys();
    let jwks = keys.jwks();
    let head = token.split('.').next().unwrap();
    let head: Value = serde_json::from_slice(
        &base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, head).unwrap(),
    )
    .unwrap();
    assert_eq!(head["kid"], jwks["keys"][0]["kid"]);
    assert_eq!(keys.discovery()["jwks_uri"], "https://kubernetes.default.svc.cluster.local/openid/v1/jwks");
}

#[tokio::test]
async fn a_request_that_names_another_account_is_refused() {
    let fixture = fixture(|_| {});
    let account = json!({ "metadata": { "name": "robot", "namespace": "a", "uid": "uid-robot" } });
    let issuer = fixture.authentication.issuer.as_ref().unwrap();
    for (metadata, want) in [
        (json!({ "name": "robot", "namespace": "a", "uid": "uid-robot" }), Ok(())),
        (json!({}), Ok(())),
        (
            json!({ "uid": "old" }),
            Err((
                409,
                "Operation cannot be fulfilled on TokenRequest.authentication.k8s.io \"robot\": the UID in the \
                  token request (old) does not match the UID of the service account (uid-robot)",
            )),
        ),
        (
            json!({ "name": "other" }),
            Err((
                422,
                "TokenRequest.authentication.k8s.io \"robot\" is invalid: metadata.name: Invalid value: \"other\": \
                  must match the service account name if specified",
            )),
        ),
        (
            json!({ "namespace": "b" }),
            Err((
                422,
                "TokenRequest.authentication.k8s.io \"robot\" is invalid: metadata.namespace: Invalid value: \"b\": \
                  must match the service account namespace if specified",
            )),
        ),
    ] {
        let request = Object(json!({ "kind": "TokenRequest", "metadata": metadata }));
        let answer = issuer.issue(&Object(account.clone()), request, &mut Vec::new()).await;
        let answer = answer.map(drop).map_err(|status| (status.code, status.message));
        assert_eq!(
            answer,
            want.map_err(|(code, message): (u16, &str)| (code, message.to_owned())),
            "{metadata}"
        );
    }
}

#[tokio::test]
async fn the_audit_log_knows_tokens_by_their_ids_and_tells_of_stale_ones() {
    let fixture = fixture(|options| options.extend_expiration = true);
    let spec = json!({ "expirationSeconds": 3607, "boundObjectRef": pod_reference() });
    let (token, notes) = annotated("Metadata", fixture.token(spec)).await;
    let user = fixture.user(&token, &[]).await.unwrap().unwrap();
    let id = &user.extra["authentication.kubernetes.io/credential-id"][0];
    assert_eq!(notes, json!({ "authentication.kubernetes.io/issued-credential-id": id }));
    fixture.clock.advance(Duration::from_secs(3607));
    let (_, notes) = annotated("Metadata", fixture.user(&token, &[])).await;
    assert_eq!(notes, json!({}), "it is as old as was asked for");
    fixture.clock.advance(Duration::from_secs(3));
    let (_, notes) = annotated("Metadata", fixture.user(&token, &[])).await;
    let stale = "subject: system:serviceaccount:a:robot, seconds after warning threshold: 3";
    assert_eq!(notes, json!({ "authentication.k8s.io/stale-token": stale }));
    // Others' tests count as well.
    let page = foundation::metrics::registry().render();
    for name in ["serviceaccount_stale_tokens_total ", "serviceaccount_valid_tokens_total "] {
        assert!(page.lines().any(|line| line.starts_with(name)), "{name}");
    }
    let count = page.lines().find_map(|line| line.strip_prefix("serviceaccount_stale_tokens_total "));
    assert!(count.is_some_and(|count| count != "0"), "{count:?}");
}

const SECRET: &str = "kubernetes.io/service-account.name";

/// A fixture with a token in a Secret, and the token.
fn kept() -> (Fixture, String) {
    let fixture = fixture(|_| {});
    let claims = super::legacy::Claims::new("a", "kept", "robot", "uid-robot");
    let token = fixture.authentication.issuer.as_ref().unwrap().keys().sign(&claims).unwrap();
    fixture.keep(&token, json!({}));
    (fixture, token)
}

impl Fixture {
    fn keep(&self, token: &str, labels: Value) {
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, token);
        self.cluster.put(
            "secrets",
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
                "metadata": {"name": "kept", "namespace": "a", "uid": "k", "labels": labels,
                    "annotations": {SECRET: "robot"}},
                "data": {"token": data},
            }),
        );
    }

    async fn last_used(&self) -> Value {
        let secret = self.cluster.get(&api::GroupResource::new("", "secrets"), "a", "kept").await.unwrap();
        secret.0["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].clone()
    }

    /// What the client of a token is warned of.
    async fn warnings(&self, token: &str) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let credentials =
            Credentials { headers: &headers, certificates: &[], remote: None, audiences: &[], path: "/api" };
        self.authentication.authenticator.authenticate(credentials).await.unwrap().unwrap().warnings
    }
}

#[tokio::test]
async fn a_token_in_a_secret_lives_as_long_as_the_secret_holds_it() {
    let (fixture, token) = kept();
    let user = fixture.user(&token, &[]).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:a:robot", "uid-robot"));
    assert!(user.is_in("system:serviceaccounts:a") && user.extra.is_empty());
    assert_eq!(fixture.last_used().await, "2026-11-21");
    fixture.clock.advance(Duration::from_secs(400 * 24 * 60 * 60));
    assert!(fixture.user(&token, &[]).await.unwrap().is_some(), "it has no end");
    assert_eq!(fixture.last_used().await, "2027-12-26");
    // It is for this server only.
    assert!(fixture.user(&token, &["vault".to_owned()]).await.is_err());

    fixture.keep("another", json!({}));
    assert_eq!(
        fixture.user(&token, &[]).await.unwrap_err(),
        "[invalid bearer token, Token does not match server's copy]"
    );
    fixture.cluster.remove("secrets", "a", "kept");
    assert!(fixture.user(&token, &[]).await.unwrap_err().contains("Token has been invalidated"));
    fixture.keep(&token, json!({}));
    fixture.cluster.remove("serviceaccounts", "a", "robot");
    assert!(fixture.user(&token, &[]).await.unwrap_err().contains("serviceaccounts \"robot\" not found"));
}

#[tokio::test]
async fn tokens_that_nobody_asked_for_are_warned_of_and_can_be_marked_as_invalid() {
    let (fixture, token) = kept();
    assert_eq!(fixture.warnings(&token).await, Vec::<String>::new());
    let (_, notes) = annotated("Metadata", fixture.user(&token, &[])).await;
    let subject = "system:serviceaccount:a:robot";
    let want = json!({
        "authentication.k8s.io/legacy-token": subject, "authentication.k8s.io/legacy-token-manual-secret": "kept",
    });
    assert_eq!(notes, want);
    fixture.cluster.put(
        "serviceaccounts",
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "secrets": [{"name": "kept"}],
            "metadata": {"name": "robot", "namespace": "a", "uid": "uid-robot"}}),
    );
    let warnings = fixture.warnings(&token).await;
    assert!(warnings[0].starts_with("Use tokens from the TokenRequest API"), "{warnings:?}");
    fixture.keep(&token, json!({"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}));
    let error = fixture.user(&token, &[]).await.unwrap_err();
    assert!(
        error.contains("the token in secret a/kept for service account a/robot has been marked invalid."),
        "{error}"
    );
    assert_eq!(fixture.last_used().await, "2026-11-21", "its use is noted all the same");
}

#[test]
fn a_token_of_a_secret_says_all_that_it_must() {
    let good = super::legacy::Claims::new("a", "s", "robot", "u");
    assert_eq!(good.check(), Ok(()));
    let said = serde_json::to_value(&good).unwrap();
    assert_eq!(said["kubernetes.io/serviceaccount/service-account.name"], "robot");
    for (claim, value, problem) in [
        ("sub", "", "sub claim is missing"),
        ("sub", "system:serviceaccount:a:other", "sub claim is invalid"),
        ("kubernetes.io/serviceaccount/namespace", "", "namespace claim is missing"),
        ("kubernetes.io/serviceaccount/secret.name", "", "secretName claim is missing"),
        ("kubernetes.io/serviceaccount/service-account.uid", "", "serviceAccountUID claim is missing"),
    ] {
        let mut claims = said.clone();
        claims[claim] = value.into();
        let claims: super::legacy::Claims = serde_json::from_value(claims).unwrap();
        assert_eq!(claims.check(), Err(problem.to_owned()));
    }
}

/// A key that kubeadm could have made.
fn rsa() -> Arc<SigningKey> {
    let pem = include_str!("../../../../pki/src/signing_key/testdata/rsa-pkcs1.pem");
    Arc::new(SigningKey::from_pem(pem).unwrap())
}

#[tokio::test]
async fn keys_and_issuers_of_a_cluster_that_is_taken_over_stay_good() {
    let former = fixture(|options| {
        options.issuer = "https://old.example".into();
        options.audiences = vec!["api".into()];
        options.signing_key = rsa();
    });
    let token = former.token(json!({})).await;
    assert!(former.user(&token, &[]).await.unwrap().is_some(), "an RSA key signs too");
    let taken = |keys: bool, issuer: bool| {
        fixture(move |options| {
            options.audiences = vec!["api".into()];
            options.signing_key = key(pki::KeyType::EcdsaP521);
            options.former_keys = if keys { vec![rsa().public(), rsa().public()] } else { Vec::new() };
            options.former_issuers = if issuer { vec!["https://old.example".into()] } else { Vec::new() };
        })
    };
    let both = taken(true, true);
    assert_eq!(both.user(&token, &[]).await.unwrap().unwrap().name, "system:serviceaccount:a:robot");
    let problem = taken(false, true).user(&token, &[]).await.unwrap_err();
    assert!(problem.contains("no keys found that verify"), "{problem}");
    assert!(taken(true, false).user(&token, &[]).await.is_err(), "an issuer that nobody named");

    let keys = both.authentication.issuer.as_ref().unwrap().keys();
    let listed = keys.jwks();
    let algorithms: Vec<&Value> = listed["keys"].as_array().unwrap().iter().map(|key| &key["alg"]).collect();
    assert_eq!(algorithms, ["ES512", "RS256"], "the key that signs first, each once");
    assert_eq!(keys.discovery()["id_token_signing_alg_values_supported"], json!(["ES512", "RS256"]));
    let fresh = both.token(json!({})).await;
    assert!(both.user(&fresh, &[]).await.unwrap().is_some());
}
