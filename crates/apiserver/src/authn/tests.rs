//! Who is believed, and what those are told who are not.

use std::sync::Arc;

use foundation::{ManualClock, SharedClock, SystemRandomness};
use http::{HeaderMap, HeaderValue, header};

use super::*;
use crate::authz::fake::FakeCluster;

fn build_with(options: Options) -> Authentication {
    let cluster: Arc<dyn ClusterState> = FakeCluster::new();
    let clock: SharedClock = Arc::new(ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap()));
    build(&options, &cluster, &clock, &SystemRandomness::shared()).unwrap()
}

async fn who(
    authentication: &Authentication,
    headers: &[(&'static str, &str)],
    path: &str,
) -> Result<Option<User>, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let credentials = Credentials { headers: &map, certificates: &[], remote: None, audiences: &[], path };
    let found = authentication.authenticator.authenticate(credentials).await;
    found.map(|found| found.map(|f| f.user)).map_err(|status| status.message)
}

#[tokio::test]
async fn anonymous_reaches_only_the_open_paths() {
    let authentication = build_with(Options::default());
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let user = who(&authentication, &[], path).await.unwrap().unwrap();
        assert_eq!(user, User::new("system:anonymous", &["system:unauthenticated"]));
    }
    for path in ["/api", "/healthz/etcd", "/metrics", "/"] {
        assert_eq!(who(&authentication, &[], path).await, Ok(None), "{path}");
    }
    // Bad credentials do not become anonymous.
    let bad = who(&authentication, &[("authorization", "Bearer nonsense")], "/healthz").await;
    assert_eq!(bad, Err("invalid bearer token".to_owned()));
}

#[tokio::test]
async fn static_tokens_in_both_places() {
    let jane = StaticToken { token: "s3cret".into(), user: User::new("jane", &["dev"]) };
    let authentication = build_with(Options { static_tokens: vec![jane], ..Options::default() });
    let want = Ok(Some(User::new("jane", &["dev", "system:authenticated"])));
    // base64url of "s3cret"
    let protocol = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.czNjcmV0";
    #[rustfmt::skip]
    let table = [
        (("authorization", "Bearer s3cret"), true),
        (("authorization", "bearer  s3cret"), true),
        (("authorization", "Basic s3cret"), false),
        (("authorization", "Bearer s3cre"), false),
        (("sec-websocket-protocol", protocol), true),
    ];
    for (pair, good) in table {
        assert_eq!(who(&authentication, &[pair], "/api").await == want, good, "{pair:?}");
    }
    assert_eq!(header::AUTHORIZATION.as_str(), "authorization");
}

#[tokio::test]
async fn a_static_token_is_good_for_this_server_only() {
    let jane = StaticToken { token: "s3cret".into(), user: User::new("jane", &[]) };
    let key = rcgen::KeyPair::generate().unwrap().serialize_der();
    let key = pki::SigningKey::from_pkcs8(&key).unwrap();
    let accounts = token::Options::new("https://issuer", Arc::new(key));
    let options =
        Options { static_tokens: vec![jane], service_accounts: Some(accounts), ..Options::default() };
    let authentication = build_with(options);
    for (asked, good) in [
        (vec![], true),
        (vec!["https://issuer"], true),
        (vec!["vault"], false),
        (vec!["vault", "https://issuer"], true),
    ] {
        for other in ["s3cret x", "s3cret ", " s3cret", "s3cret\tx"] {
            let review = api::Object(serde_json::json!({"spec": {"token": other}}));
            let answer = review::token(review, &*authentication.tokens).await.unwrap();
            assert!(answer.0["status"]["authenticated"].is_null(), "{other:?} is another token");
        }
        let review = api::Object(serde_json::json!({"spec": {"token": "s3cret", "audiences": asked}}));
        let answer = review::token(review, &*authentication.tokens).await.unwrap();
        assert_eq!(answer.0["status"]["authenticated"] == true, good, "{asked:?}: {}", answer.0);
        if good {
            assert_eq!(answer.0["status"]["audiences"], serde_json::json!(["https://issuer"]));
        }
    }
}
