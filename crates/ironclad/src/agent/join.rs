//! How a node joins: proves the cluster's authority by its token, then has a certificate of its own signed.
//!
//! Needed once: from then on the certificate is enough. Reads and writes `<data-dir>/agent`. Not here: the form of tokens
//! (`pki::token`), how the authority is read (`crate::join`).
//! Upstream: kubelet's TLS bootstrapping, as `kubeadm join` sets it up.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use client::{Client, Identity, ManyServers, ManyServersOptions, TransportError};
use pki::{Credential, Token};

use super::{Context, Joined, RETRY, certificates};
use crate::{config::agent::Join, join::fetch_authority, tokens};

/// How long a server is looked for: servers and agents may be started at the same time.
const FIND: Duration = Duration::from_secs(2 * 60);
/// How long the first certificate is waited for.
const CERTIFICATE: Duration = Duration::from_secs(2 * 60);

/// What an earlier start has left, if it is good: the authority, and a certificate of this node that has not ended.
///
/// # Errors
/// Files that cannot be read; a token of another cluster than the one that was joined.
pub(super) fn joined_before(context: &Context, wanted: &Join) -> anyhow::Result<Option<Joined>> {
    let (authority, certificate) = (context.authority(), context.client_certificate());
    let authority_pem = match std::fs::read_to_string(&authority) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read {}", authority.display()))?,
    };
    // What an earlier version wrote may have been cut off by a loss of power.
    if pki::pem::decode("CERTIFICATE", &authority_pem).unwrap_or_default().is_empty() {
        return Ok(None);
    }
    let Some(credential) = Credential::read(&certificate)? else { return Ok(None) };
    if let Some(token) = token(wanted)?.filter(Token::names_authority) {
        token.verify(&authority_pem).with_context(|| {
            format!(
                "this machine has joined another cluster; `ironclad uninstall` makes it leave that one, and removes {}",
                context.dir.display()
            )
        })?;
    }
    let now = context.clock.now();
    let good = credential.is_of(&context.subject()) && now < credential.not_after();
    Ok(good.then_some(Joined { authority_pem, credential }))
}

/// Joins the cluster.
///
/// # Errors
/// Without a token or a server; a token that is another cluster's, or unknown to it; no server that answers; a certificate
/// that is refused, or that nobody approves.
pub(super) async fn join(context: &Context, wanted: &Join) -> anyhow::Result<Joined> {
    let token = token(wanted)?.context(
        "this machine has not joined a cluster, or its certificate has ended: give it --token or --token-file, as \
         `ironclad token agent` prints it on a server",
    )?;
    let bootstrap = token.bootstrap_token().context(
        "the token is a server's, which gives away all keys of the cluster: an agent joins by the one that \
         `ironclad token agent` prints on a server",
    )?;
    ensure!(!wanted.server.is_empty(), "give --server, for instance --server https://10.0.0.1:6443");
    let authority_pem = authority(context, wanted, &token).await?;
    let transport = ManyServers::new(ManyServersOptions {
        servers: wanted.server.clone(),
        last_resort: Vec::new(),
        ca_pem: authority_pem.clone().into_bytes(),
        identity: Identity::Token(bootstrap),
        clock: context.clock.clone(),
        randomness: context.randomness.clone(),
    })?;
    let client = Client::new(std::sync::Arc::new(transport), "kubelet");
    let subject = context.subject();
    let asked = certificates::ask(context, &client, certificates::Kind::Client, &subject, CERTIFICATE).await;
    let credential = asked.map_err(|error| {
        let code =
            error.chain().find_map(|cause| cause.downcast_ref::<client::Error>()?.status()).map(|s| s.code);
        match code {
            Some(401) => error.context("the cluster does not know the token: it has ended, or was removed"),
            _ => error.context("this node cannot join the cluster"),
        }
    })?;
    // The server's certificate may be of another cluster's authority: it is asked for anew.
    let serving = context.serving_certificate();
    match std::fs::remove_file(&serving) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", serving.display()));
        }
        _ => {}
    }
    // The authority before the certificate, which is not looked at without it; each on the disk before the next.
    pki::write_public(&context.authority(), &authority_pem)?;
    credential.write(&context.client_certificate())?;
    Ok(Joined { authority_pem, credential })
}

/// The token that was given, if one was.
fn token(wanted: &Join) -> anyhow::Result<Option<Token>> {
    match (&wanted.token, &wanted.token_file) {
        (Some(text), _) => Token::parse(text).map(Some).context("--token is not used"),
        (None, Some(file)) => tokens::read(file).map(Some),
        (None, None) => Ok(None),
    }
}

/// The cluster's authority, from the first server that tells it.
async fn authority(context: &Context, wanted: &Join, token: &Token) -> anyhow::Result<String> {
    let until = context.clock.monotonic() + FIND;
    let mut wait = RETRY.0;
    loop {
        let mut last = None;
        for server in &wanted.server {
            match fetch_authority(server, token, wanted.server_ca_file.as_deref()).await {
                Ok(authority) => return Ok(authority),
                // Another try would come to the same: only a server that is not there may be there later.
                Err(error) if !is_absence(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "a server is not reached");
                    last = Some(error);
                }
            }
        }
        if context.clock.monotonic() >= until {
            match last {
                Some(error) => return Err(error.context(format!("no server was reached within {FIND:?}"))),
                None => bail!("no server is named"),
            }
        }
        context.clock.sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Whether the server was not there, which it may be later, and not another one than was looked for.
fn is_absence(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<tokio::time::error::Elapsed>()
            || matches!(
                cause.downcast_ref::<TransportError>(),
                Some(TransportError::Connect { .. } | TransportError::Exchange(_))
            )
    })
}
