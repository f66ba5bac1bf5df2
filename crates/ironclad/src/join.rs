//! How a machine joins a cluster: it reads the cluster's authority and proves it by the token, before it says anything.
//!
//! Read first: [`fetch_authority`], the first step of servers and agents alike. What a server answers to machines that
//! join is `door`'s. Not here: the form of tokens (`pki::token`), what an agent asks for with its own.

pub mod door;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use client::{Config, HttpsTransport, Transport as _};
use http_body_util::{BodyExt as _, Limited};
use pki::Token;

/// Where a server tells its cluster's authority.
pub const AUTHORITY_PATH: &str = "/cacerts";
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
#[expect(dead_code, reason = "the commands that join are next; each of them begins with it")]
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
