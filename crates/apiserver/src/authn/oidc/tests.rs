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
    let configuration =
        Configuration::read(&text, &[], &(Arc::new(clock.clone()) as SharedClock), dial).unwrap();
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
        ("level", json!(1), "validation expression 'claims.level > 2' failed: too low"),
        ("tenant", json!(1), "parse claim tenant"),
        ("tenant", Value::Null, "parse claim tenant"),
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
        Configuration::read(&text, &["https://own.example".to_owned()], &clock, dial)
            .map_err(|error| error.to_string())
    };
    let jwt = |issuer: &str, mappings: &str| {
        format!("jwt: [{{issuer: {{{issuer}}}, claimMappings: {{{mappings}}}}}]")
    };
    let good = "url: 'https://a.example', audiences: [a]";
    let name = "username: {claim: sub, prefix: ''}";
    let rules = |text: &str| format!("jwt: [{{issuer: {{{good}}}, claimMappings: {{{name}}}, {text}}}]");
    let field = |path: &str, body: &str| format!("jwt[0].{path}: {body}");
    for (text, want) in [
        (
            jwt("url: 'http://u:p@a.example?q#f', audiences: [a]", name),
            "[jwt[0].issuer.url: Invalid value: \"http://u:p@a.example?q#f\": URL scheme must be https, jwt[0].issuer.url: \
             Invalid value: \"http://u:p@a.example?q#f\": URL must not contain a username or password, \
             jwt[0].issuer.url: Invalid value: \"http://u:p@a.example?q#f\": URL must not contain a query, \
             jwt[0].issuer.url: Invalid value: \"http://u:p@a.example?q#f\": URL must not contain a fragment]"
                .to_owned(),
        ),
        (jwt("audiences: [a]", name), field("issuer.url", "Required value")),
        (
            jwt("url: 'https://own.example', audiences: [a]", name),
            field(
                "issuer.url",
                "Invalid value: \"https://own.example\": URL must not overlap with disallowed issuers: \
                 [https://own.example]",
            ),
        ),
        (
            jwt(&format!("{good}, discoveryURL: 'https://a.example/'"), name),
            field(
                "issuer.discoveryURL",
                "Invalid value: \"https://a.example/\": discoveryURL must be different from URL",
            ),
        ),
        (
            jwt("url: 'https://a.example', audiences: []", name),
            field("issuer.audiences", "Required value: at least one jwt[0].issuer.audiences is required"),
        ),
        (
            jwt("url: 'https://a.example', audiences: [a, b]", name),
            field(
                "issuer.audienceMatchPolicy",
                "Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            ),
        ),
        (
            jwt("url: 'https://a.example', audiences: [a, a], audienceMatchPolicy: MatchAny", name),
            field("issuer.audiences[1]", "Duplicate value: \"a\""),
        ),
        (
            jwt(&format!("{good}, certificateAuthority: x"), name),
            field(
                "issuer.certificateAuthority",
                "Invalid value: \"<omitted>\": data does not contain any valid RSA or ECDSA certificates",
            ),
        ),
        (
            jwt(&format!("{good}, egressSelectorType: etcd"), name),
            field(
                "issuer.egressSelectorType",
                "Invalid value: \"etcd\": egress selector must be either controlplane or cluster",
            ),
        ),
        (
            jwt(good, "username: {claim: sub}"),
            field(
                "claimMappings.username.prefix",
                "Required value: prefix is required when claim is set. It can be set to an empty string to disable \
                 prefixing",
            ),
        ),
        (
            jwt(good, "username: {}"),
            field("claimMappings.username", "Required value: claim or expression is required"),
        ),
        (
            jwt(good, "username: {claim: sub, expression: 'claims.sub'}"),
            field("claimMappings.username", "Invalid value: \"\": claim and expression can't both be set"),
        ),
        (
            jwt(good, "username: {prefix: x, expression: 'claims.sub'}"),
            field(
                "claimMappings.username.prefix",
                "Invalid value: \"x\": may not be specified when expression is set",
            ),
        ),
        (
            jwt(good, "username: {expression: 'claims.email'}"),
            field(
                "claimMappings.username.expression",
                "Invalid value: \"claims.email\": claims.email_verified must be used in \
                 claimMappings.username.expression or claimMappings.extra[*].valueExpression or \
                 claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            ),
        ),
        (
            jwt(good, &format!("{name}, extra: [{{key: Key, valueExpression: \"''\"}}]")),
            "[jwt[0].claimMappings.extra[0].key: Invalid value: \"Key\": must be a domain-prefixed path (such as \
             \"acme.io/foo\"), jwt[0].claimMappings.extra[0].key: Invalid value: \"Key\": must be lowercase]"
                .to_owned(),
        ),
        (
            jwt(good, &format!("{name}, extra: [{{key: a.k8s.io/key, valueExpression: \"''\"}}]")),
            field(
                "claimMappings.extra[0].key",
                "Invalid value: \"a.k8s.io/key\": k8s.io, kubernetes.io and their subdomains are reserved for \
                 Kubernetes use",
            ),
        ),
        (
            rules("claimValidationRules: [{claim: a, message: m}, {claim: a}, {}]"),
            "[jwt[0].claimValidationRules[0].message: Invalid value: \"m\": may not be specified when claim is set, \
             jwt[0].claimValidationRules[1].claim: Duplicate value: \"a\", jwt[0].claimValidationRules[2]: Required \
             value: claim or expression is required]"
                .to_owned(),
        ),
        (
            rules("claimValidationRules: [{expression: 'claims.a'}]"),
            field("claimValidationRules[0].expression", "Invalid value: \"claims.a\": must evaluate to bool"),
        ),
        (
            rules("userValidationRules: [{}, {expression: 'user.uid'}]"),
            "[jwt[0].userValidationRules[0].expression: Required value, jwt[0].userValidationRules[1].expression: \
             Invalid value: \"user.uid\": must evaluate to bool]"
                .to_owned(),
        ),
        (
            "anonymous: {enabled: false, conditions: [{path: /x}]}".to_owned(),
            "anonymous.conditions: Invalid value: [{\"path\":\"/x\"}]: enabled should be set to true when conditions are \
             defined"
                .to_owned(),
        ),
    ] {
        let problem = read(&text).expect_err(&text);
        assert_eq!(problem, want, "{text}");
    }
    for (text, want) in [
        (jwt(good, "username: {expression: 'claims.'}"), "compilation failed: ERROR: <input>:1:"),
        (rules("userValidationRules: [{expression: \"user.foo == 'x'\"}]"), "undefined field 'foo'"),
        (rules("userValidationRules: [{expression: 'user.groups == 1'}]"), "no matching overload"),
        (
            jwt(good, "username: {expression: 'claims.?email.orValue(\"\")'}"),
            "claims.email_verified must be used",
        ),
        (jwt(good, "username: {name: x}"), "unknown field `name`"),
    ] {
        let problem = read(&text).expect_err(&text);
        assert!(problem.contains(want), "{text}: {problem}");
    }
    for fine in [
        jwt(good, "username: {expression: 'claims.email_verified ? claims.email : claims.sub'}"),
        jwt(good, &format!("{name}, extra: [{{key: myk8s.io/key, valueExpression: \"''\"}}]")),
        jwt(&format!("{good}, egressSelectorType: cluster"), name),
        rules("userValidationRules: [{expression: \"user.extra.all(k, user.extra[k].size() > 0)\"}]"),
        jwt(good, &format!("{name}, groups: {{claim: '', prefix: ''}}")),
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
