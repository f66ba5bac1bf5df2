//! Tokens of a provider in this process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{Transport, TransportError};
use foundation::{Clock as _, ManualClock};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

use super::*;
use crate::response;

const URL: &str = "https://issuer.example.com";

/// A provider with one key, which can be exchanged for another.
struct Provider {
    key: Mutex<(String, EcdsaKeyPair)>,
    asked: AtomicUsize,
    /// It takes requests and does not answer them.
    mute: std::sync::atomic::AtomicBool,
}

fn key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap()
}

impl Provider {
    fn sign(&self, claims: &Value) -> String {
        let (id, key) = &*self.key.lock();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": id})), part(claims));
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

#[async_trait]
impl Transport for Provider {
    async fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<client::Body>, TransportError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let value = match request.uri().path() {
            "/.well-known/openid-configuration" => json!({"issuer": URL, "jwks_uri": format!("{URL}/keys")}),
            _ => {
                let (id, key) = &*self.key.lock();
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = (URL_SAFE_NO_PAD.encode(&point[..32]), URL_SAFE_NO_PAD.encode(&point[32..]));
                json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "kid": id, "x": x, "y": y}]})
            }
        };
        Ok(response::json(200, &value))
    }
}

struct World {
    provider: Arc<Provider>,
    tokens: Tokens,
    clock: ManualClock,
}

fn world(jwt: &str) -> World {
    let provider = Arc::new(Provider {
        key: Mutex::new(("1".into(), key())),
        asked: AtomicUsize::new(0),
        mute: Default::default(),
    });
    let clock = ManualClock::default();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: {URL}, audiences: [app]}}\n{jwt}"
    );
    let dialled = provider.clone();
    let dial = move |_: &str, _: Option<&str>| Ok(dialled.clone() as Arc<dyn Transport>);
    let configuration = Configuration::read(&text, &(Arc::new(clock.clone()) as SharedClock), dial).unwrap();
    let configured = Configured { issuers: configuration.issuers, ..Configured::default() };
    let configured = Arc::new(ArcSwap::from_pointee(configured));
    let tokens = Tokens { configured, clock: Arc::new(clock.clone()) };
    World { provider, tokens, clock }
}

impl World {
    async fn ask(&self, token: &str) -> Result<Option<crate::request::User>, String> {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", http::HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        let credentials =
            Credentials { headers: &headers, certificates: &[], remote: None, audiences: &[], path: "/" };
        let found = self.tokens.authenticate(credentials).await;
        found.map(|found| found.map(|found| found.user)).map_err(|status| status.message)
    }

    fn claims(&self) -> Value {
        let now = self.clock.now().as_second();
        json!({"iss": URL, "aud": ["other", "app"], "exp": now + 60, "sub": "jane", "groups": ["a", "b"], "level": 3})
    }
}

const PLAIN: &str =
    "  claimMappings: {username: {claim: sub, prefix: 'oidc:'}, groups: {claim: groups, prefix: ''}}\n";

#[tokio::test]
async fn a_good_token_is_a_user_and_the_keys_are_fetched_once() {
    let world = world(PLAIN);
    let token = world.provider.sign(&world.claims());
    for _ in 0..2 {
        let user = world.ask(&token).await.unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("oidc:jane", &["a".to_owned(), "b".into()][..])
        );
    }
    assert_eq!(world.provider.asked.load(Ordering::SeqCst), 2, "discovery and keys");
    assert_eq!(world.ask("no.jwt").await, Ok(None));
    let mut foreign = world.claims();
    foreign["iss"] = "https://another.example.com".into();
    assert_eq!(world.ask(&world.provider.sign(&foreign)).await, Ok(None), "left to others");

    for (claim, value, want) in [
        ("aud", json!("x"), "expected audience"),
        ("exp", json!(1), "token is expired"),
        ("nbf", json!(world.clock.now().as_second() + 3600), "not valid yet"),
        ("sub", json!(7), "claim sub is not a string"),
        ("groups", json!({}), "is not a string or a list of strings"),
    ] {
        let mut claims = world.claims();
        claims[claim] = value;
        let problem = world.ask(&world.provider.sign(&claims)).await.unwrap_err();
        assert!(problem.contains(want), "{claim}: {problem}");
    }
}

#[tokio::test]
async fn keys_are_asked_for_again_but_not_at_will() {
    let world = world(PLAIN);
    let token = world.provider.sign(&world.claims());
    world.ask(&token).await.unwrap();
    *world.provider.key.lock() = ("2".into(), key());
    let fresh = world.provider.sign(&world.claims());
    for _ in 0..3 {
        assert!(world.ask(&fresh).await.unwrap_err().contains("failed to verify signature"));
    }
    assert_eq!(world.provider.asked.load(Ordering::SeqCst), 2);
    world.clock.advance(Duration::from_secs(10));
    assert!(world.ask(&fresh).await.unwrap().is_some());
    assert!(world.ask(&token).await.is_err(), "the former key is gone");
}

#[tokio::test]
async fn expressions_map_and_rules_decide() {
    let world = world(
        "  claimMappings:\n    username: {expression: '\"x:\" + claims.sub'}\n    groups: {expression: 'claims.groups.filter(g, g != \"b\")'}\n    uid: {expression: 'claims.sub'}\n    extra: [{key: example.com/level, valueExpression: 'string(claims.level)'}]\n  claimValidationRules: [{expression: 'claims.level > 2', message: too low}, {claim: tenant, requiredValue: t1}]\n  userValidationRules: [{expression: '!user.username.startsWith(\"x:system\")', message: reserved}]\n",
    );
    let mut claims = world.claims();
    claims["tenant"] = "t1".into();
    let user = world.ask(&world.provider.sign(&claims)).await.unwrap().unwrap();
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("x:jane", "jane"));
    assert_eq!(user.groups, ["a"]);
    assert_eq!(user.extra["example.com/level"], ["3"]);
    for (claim, value, want) in [
        ("level", json!(1), "too low"),
        ("tenant", json!("t2"), "want = t1"),
        ("sub", json!("system:x"), "reserved"),
    ] {
        let mut claims = claims.clone();
        claims[claim] = value;
        let problem = world.ask(&world.provider.sign(&claims)).await.unwrap_err();
        assert!(problem.contains(want), "{problem}");
    }
}

#[test]
fn mistakes_in_the_file_are_named() {
    let read = |rest: &str| {
        let text =
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{rest}");
        let dial = |_: &str, _: Option<&str>| Err("unused".to_owned());
        let clock: SharedClock = Arc::new(ManualClock::default());
        Configuration::read(&text, &clock, dial).map_err(|error| error.to_string())
    };
    let jwt = |issuer: &str, mappings: &str| {
        format!("jwt: [{{issuer: {{{issuer}}}, claimMappings: {{{mappings}}}}}]")
    };
    let good = "url: 'https://a.example', audiences: [a]";
    let name = "username: {claim: sub, prefix: ''}";
    for (text, want) in [
        (jwt("url: 'http://a.example', audiences: [a]", name), "scheme must be https"),
        (jwt("url: 'https://a.example', audiences: []", name), "at least one"),
        (jwt("url: 'https://a.example', audiences: [a, b]", name), "MatchAny"),
        (jwt(good, "username: {claim: sub}"), "prefix is required"),
        (jwt(good, "username: {}"), "claim or expression is required"),
        (jwt(good, "username: {claim: sub, expression: 'claims.sub'}"), "can't both be set"),
        (jwt(good, "username: {expression: 'claims.'}"), "compilation failed"),
        (jwt(good, &format!("{name}, extra: [{{key: Key, valueExpression: \"''\"}}]")), "domain-prefixed"),
        (
            jwt(good, &format!("{name}, extra: [{{key: a.io/Key, valueExpression: \"''\"}}]")),
            "must be lowercase",
        ),
        (
            jwt(good, &format!("{name}, extra: [{{key: a.k8s.io/key, valueExpression: \"''\"}}]")),
            "reserved for Kubernetes use",
        ),
        (jwt(good, "username: {expression: 'claims.email'}"), "claims.email_verified must be used in"),
        (
            jwt(good, "username: {expression: 'claims.email + claims.email_verified2'}"),
            "claims.email_verified must be used in",
        ),
        (jwt(&format!("{good}, egressSelectorType: etcd"), name), "must be either controlplane or cluster"),
        ("anonymous: {enabled: false, conditions: [{path: /x}]}".to_owned(), "enabled should be set to true"),
    ] {
        let problem = read(&text).expect_err(&text);
        assert!(problem.contains(want), "{text}: {problem}");
    }
    for fine in [
        jwt(good, "username: {expression: 'claims.email_verified ? claims.email : claims.sub'}"),
        jwt(good, &format!("{name}, extra: [{{key: myk8s.io/key, valueExpression: \"''\"}}]")),
        jwt(&format!("{good}, egressSelectorType: cluster"), name),
    ] {
        assert!(read(&fine).is_ok(), "{fine}: {:?}", read(&fine).err());
    }
    assert_eq!(read("anonymous: {enabled: true}").unwrap().anonymous_paths, Some(vec!["*".to_owned()]));
    let open = read("anonymous: {enabled: true, conditions: [{path: /livez}]}").unwrap();
    assert_eq!(open.anonymous_paths, Some(vec!["/livez".to_owned()]));
}

#[tokio::test]
async fn a_provider_that_does_not_answer_holds_up_nobody_whose_key_is_known() {
    let world = world(PLAIN);
    let good = world.provider.sign(&world.claims());
    world.ask(&good).await.unwrap();
    world.clock.advance(Duration::from_secs(20));
    world.provider.mute.store(true, Ordering::SeqCst);
    *world.provider.key.lock() = ("2".into(), key());
    let unknown = world.provider.sign(&world.claims());
    let before = world.provider.asked.load(Ordering::SeqCst);
    let (mut first, mut second) = (Box::pin(world.ask(&unknown)), Box::pin(world.ask(&unknown)));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
    assert!(world.ask(&good).await.unwrap().is_some());
    // One wait for all who ask by unknown keys.
    world.clock.advance(Duration::from_secs(10));
    assert!(first.await.unwrap_err().contains("no answer in time"));
    assert!(second.await.is_err());
    assert_eq!(world.provider.asked.load(Ordering::SeqCst), before + 1);
}

#[test]
fn a_token_is_signed_in_a_way_that_is_accepted() {
    let token = format!("{}.e30.x", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#));
    let of = |accepted: &[&str]| {
        let accepted: Vec<String> = accepted.iter().map(ToString::to_string).collect();
        super::foreign_algorithm(&token, &accepted)
    };
    assert_eq!(of(&[]), None, "all that are known");
    assert_eq!(of(&["RS256", "ES256"]), None);
    assert_eq!(of(&["RS256"]).as_deref(), Some("ES256"));
}
