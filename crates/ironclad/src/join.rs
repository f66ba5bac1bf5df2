//! How a machine joins a cluster: it reads the cluster's authority and proves it by the token, before it says anything.
//!
//! Read first: [`fetch_authority`], the first step of servers and agents alike; [`ask_for_keys`], the second one of a
//! server. What a server answers to machines that join is `door`'s, what servers must agree on `agreed`'s, which versions can
//! be mixed `versions`'. Not here: the form of tokens (`pki::token`), what an agent asks for with its own, how the store takes
//! on a member (`roles::store`).

pub mod agreed;
pub mod attempts;
pub mod door;
pub mod versions;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use api::k8s_openapi::ByteString;
use bytes::Bytes;
use client::{Config, HttpsTransport, Transport as _};
use http_body_util::{BodyExt as _, Limited};
use pki::{Token, handover};
use serde::{Deserialize, Serialize};

use agreed::Agreed;
use versions::Version;

use crate::config;
use crate::roles::store::member::begin_to_join;

/// Where a server tells its cluster's authority.
pub const AUTHORITY_PATH: &str = "/cacerts";
/// Where a server hands over the cluster's keys.
pub const JOIN_PATH: &str = "/ironclad/v1/join";
/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer in bytes.
const LARGEST: usize = 1 << 20;

/// The certificate of the cluster's authority (PEM), proven by the token's hash: read from a file that the person who
/// starts this machine has named, else from a server (`https://host:port`), whose own certificate proves nothing yet.
///
/// # Errors
/// A server that does not answer, or as something else; an authority that is not the token's; a token without a hash where
/// no file is named.
pub async fn fetch_authority(server: &str, token: &Token, file: Option<&Path>) -> anyhow::Result<String> {
    if let Some(file) = file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let certificates = pki::pem::decode("CERTIFICATE", &text).unwrap_or_default();
        ensure!(!certificates.is_empty(), "there is no certificate in {}", file.display());
        if token.names_authority() {
            token.verify(&text).with_context(|| format!("{} is not used", file.display()))?;
        }
        return Ok(text);
    }
    if !token.names_authority() {
        // Asking would only tell who listens that somebody is here.
        bail!(pki::token::Error::NoHash);
    }
    let config = Config { server: server.to_owned(), insecure_skip_tls_verify: true, ..Config::default() };
    let (code, body) = exchange(&config, http::Method::GET, AUTHORITY_PATH, Bytes::new()).await?;
    ensure!(code == 200, "{server} does not tell its authority: it answers {code}; is it a server of ours?");
    let text = String::from_utf8(body.to_vec()).map_err(|_| pki::token::Error::NoCertificate);
    let text = text.with_context(|| format!("the answer of {server} is not used"))?;
    token.verify(&text).with_context(|| format!("{server} is not trusted"))?;
    Ok(text)
}

/// A request for the keys.
#[derive(Serialize, Deserialize)]
struct Asked {
    nonce: ByteString,
    proof: ByteString,
    #[serde(default)]
    version: Version,
}

/// What is sealed in the answer.
#[derive(Serialize, Deserialize)]
pub struct HandedOver {
    /// Where the members of the store are reached by each other.
    pub members: Vec<String>,
    /// The keys: texts by the names of files.
    pub files: BTreeMap<String, String>,
    /// The bootstrap token of agents.
    pub agent_token: String,
    /// The settings of the cluster that all its servers have.
    pub agreed: Agreed,
    /// The version of the server that says this.
    #[serde(default)]
    pub version: Version,
}

/// Asks a server (`https://host:port`) for the keys of its cluster, by a server token whose authority has been proven.
///
/// # Errors
/// A server that does not answer or refuses; an answer that was not sealed for this request.
pub async fn ask_for_keys(server: &str, token: &Token, authority: &str) -> anyhow::Result<HandedOver> {
    let secret =
        token.server_secret().context("servers join by the token that `ironclad token server` prints")?;
    let request = handover::Request::new(secret)?;
    let asked = Asked {
        nonce: ByteString(request.nonce().to_vec()),
        proof: ByteString(request.proof()),
        version: Version::own(),
    };
    let ca_pem = Some(authority.as_bytes().to_vec());
    let config = Config { server: server.to_owned(), ca_pem, ..Config::default() };
    let body = serde_json::to_vec(&asked)?;
    let (code, body) = exchange(&config, http::Method::POST, JOIN_PATH, body.into()).await?;
    if code != 200 {
        let said = String::from_utf8_lossy(&body);
        bail!("{server} does not let this server join ({code}): {}", said.trim());
    }
    let opened =
        request.open(&body).with_context(|| format!("the answer of {server} is not for this request"))?;
    serde_json::from_slice(&opened).with_context(|| format!("the answer of {server} is not understood"))
}

/// Takes a server's first steps into a cluster: proves the cluster by the token, agrees on the settings, writes the
/// cluster's keys to the data directory.
///
/// # Errors
/// As [`fetch_authority`] and [`ask_for_keys`]; settings that differ; a data directory with keys of another cluster.
pub async fn enter(config: &config::Server, server: &str, random: u64) -> anyhow::Result<HandedOver> {
    let token = config.cluster.given_token()?;
    let token =
        token.context("--server needs the token of that server's cluster: --token or --token-file")?;
    let authority = fetch_authority(server, &token, None).await?;
    let handed = ask_for_keys(server, &token, &authority).await?;
    // A server that knows of versions has looked at ours; an older one has not.
    if let Some(objection) = Version::own().objection(&handed.version) {
        bail!("{objection}");
    }
    let differences = Agreed::of(config)?.differences(&handed.agreed);
    if !differences.is_empty() {
        bail!("the settings of this server are not those of its cluster: {}", differences.join("; "));
    }
    let told = handed.files.get("ca.crt").map(String::as_str).unwrap_or_default();
    token.verify(told).with_context(|| format!("the keys of {server} are not used"))?;
    let data_dir = &config.dirs.data_dir;
    // From here on a start without these settings would make keys for what is missing.
    begin_to_join(data_dir, random)?;
    handover::take_over(&data_dir.join("pki"), &handed.files)?;
    Ok(handed)
}

/// One request to a server, and its whole answer: the code and the body.
async fn exchange(
    config: &Config,
    method: http::Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<(u16, Bytes)> {
    let server = &config.server;
    ensure!(server.starts_with("https://"), "{server:?} is no URL such as https://10.0.0.1:6443");
    let transport = HttpsTransport::new(config)?;
    let request = http::Request::builder().method(method).uri(path).body(body);
    let request = request.context("the request cannot be made")?;
    let ask = async {
        let response = transport.send(request).await.with_context(|| format!("cannot reach {server}"))?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"));
        Ok((code, body.with_context(|| format!("the answer of {server} was cut off"))?.to_bytes()))
    };
    let answered = tokio::time::timeout(PATIENCE, ask).await;
    answered.with_context(|| format!("{server} did not answer within {PATIENCE:?}"))?
}
