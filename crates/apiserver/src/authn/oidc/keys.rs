//! A provider's keys: found by discovery, fetched when a token needs one that is not known.
//!
//! Asks the provider over HTTPS. An unknown key id makes it ask again, but not more often than every ten seconds,
//! so that made-up tokens cannot make this server flood the provider. Tokens of known keys never wait for that.
//! Upstream: github.com/coreos/go-oidc (jwks.go); RFC 7517, 7518.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use client::Transport;
use foundation::SharedClock;
use serde_json::Value;

use crate::authn::jose;

const AGAIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);
const DOCUMENT: usize = 1 << 20;

/// How a server is reached by the URL of one of its documents.
pub type Dial = Arc<dyn Fn(&str) -> Result<Arc<dyn Transport>, String> + Send + Sync>;

/// The keys of one provider.
pub struct KeySet {
    issuer: String,
    /// The discovery document.
    document: String,
    dial: Dial,
    clock: SharedClock,
    keys: ArcSwap<Vec<Value>>,
    /// When the provider was last asked. Held while it is.
    asked: tokio::sync::Mutex<Option<Duration>>,
}

impl KeySet {
    /// The keys of `issuer`, whose discovery document is at `document`.
    pub fn new(issuer: String, document: String, dial: Dial, clock: SharedClock) -> Self {
        Self { issuer, document, dial, clock, keys: ArcSwap::default(), asked: Default::default() }
    }

    /// The claims of a token that is signed by one of the keys.
    ///
    /// # Errors
    /// A sentence about what is wrong with the token, or with the provider.
    pub async fn verify(&self, token: &str) -> Result<Value, String> {
        let malformed = || "malformed jwt".to_owned();
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
        let signature = decode(signature)?;
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let id = header["kid"].as_str();
        let good = |keys: &[Value]| {
            let named = keys.iter().filter(|key| id.is_none() || key["kid"].as_str() == id);
            named.into_iter().any(|key| verifies(key, algorithm, signed.as_bytes(), &signature))
        };
        let known = self.keys.load_full();
        if !good(&known) {
            self.renew(&known).await?;
            if !good(&self.keys.load()) {
                return Err("failed to verify signature: failed to verify id token signature".to_owned());
            }
        }
        serde_json::from_slice(&decode(payload)?).map_err(|_| malformed())
    }

    /// Asks the provider, unless somebody did just now. `known` is what was found wanting.
    async fn renew(&self, known: &Arc<Vec<Value>>) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        if !Arc::ptr_eq(known, &self.keys.load()) {
            // Whom this one waited for has brought others.
            return Ok(());
        }
        let now = self.clock.monotonic();
        if asked.is_some_and(|asked| now.saturating_sub(asked) < AGAIN) {
            return Ok(());
        }
        *asked = Some(now);
        let fetched = self.fetch().await;
        // Those who wait behind a provider that does not answer shall not ask it in turn.
        *asked = Some(self.clock.monotonic());
        self.keys.store(Arc::new(fetched?));
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<Value>, String> {
        let found = self.get(&self.document).await?;
        if found["issuer"] != self.issuer.as_str() {
            return Err(format!(
                "issuer did not match the issuer returned by provider, expected {:?} got {}",
                self.issuer, found["issuer"]
            ));
        }
        let keys = found["jwks_uri"].as_str().ok_or("the provider does not say where its keys are")?;
        let mut keys = self.get(keys).await?;
        match keys["keys"].take() {
            Value::Array(keys) => Ok(keys),
            _ => Err("the provider's key set is no key set".to_owned()),
        }
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let failed = |problem: &dyn std::fmt::Display| format!("{url}: {problem}");
        let uri: http::Uri = url.parse().map_err(|problem| failed(&problem))?;
        if uri.scheme_str() != Some("https") {
            return Err(failed(&"must be an https URL"));
        }
        let transport = (self.dial)(url).map_err(|problem| failed(&problem))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = http::Request::get(path).body(Bytes::new()).map_err(|problem| failed(&problem))?;
        let exchange = async {
            let response = transport.send(request).await.map_err(|problem| failed(&problem))?;
            if !response.status().is_success() {
                return Err(failed(&response.status()));
            }
            let body = crate::response::read(response.into_body(), DOCUMENT).await;
            let body = body.map_err(|problem| failed(&problem))?;
            serde_json::from_slice(&body).map_err(|problem| failed(&problem))
        };
        tokio::select! {
            answer = exchange => answer,
            () = self.clock.sleep(PATIENCE) => Err(failed(&"no answer in time")),
        }
    }
}

/// Whether the key has made the signature. What cannot be understood has not.
fn verifies(key: &Value, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
    let meant = key["use"].as_str().is_none_or(|usage| usage == "sig")
        && key["alg"].as_str().is_none_or(|only| only == algorithm);
    meant && jose::read_key(key).is_some_and(|key| jose::verify(&key, algorithm, message, signature))
}
