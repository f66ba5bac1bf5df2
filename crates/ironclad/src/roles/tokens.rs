//! The tokens by which machines join, changed in a running cluster.
//!
//! `POST /ironclad/v1/tokens/agent` and `POST /ironclad/v1/tokens/server` on the API server's port, for whom RBAC allows it:
//! nobody but `system:masters`, unless a role says so. The answer holds no token: servers have it in their data directories.
//! Reads and writes the tokens in the store (`tokens::shared`) and the Secret by which the API server knows the agents'.
//! Not here: the command (`crate::tokens`), who is let in by them (`join::door`, the API server's authentication).

use std::sync::{Arc, OnceLock};

use ::apiserver::beside::Page;
use ::apiserver::response::{self, Response};
use api::{Reason, Status};
use async_trait::async_trait;
use client::Client;
use foundation::Tasks;
use http::Method;
use pki::token::Secret;
use serde_json::json;

use super::{Api, Context};
use crate::tokens::shared::{Known, Shared};
use crate::tokens::{bootstrap_secret, bootstrap_secret_name};

/// Where tokens are changed: this, and which.
pub const PATH: &str = "/ironclad/v1/tokens";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// What changes them.
pub struct Changes {
    shared: Arc<Shared>,
    /// Who makes and deletes Secrets; there once the API server is.
    client: OnceLock<Client>,
}

impl Changes {
    /// Of the tokens in the store.
    pub fn new(shared: Arc<Shared>) -> Changes {
        Changes { shared, client: OnceLock::new() }
    }

    /// The API server is there.
    pub fn serve(&self, client: Client) {
        // Said once; a second one would be the same.
        let _ = self.client.set(client);
    }

    async fn server(&self) -> anyhow::Result<()> {
        let fresh = Secret::new_server()?;
        self.shared.change(|known| Known { server: fresh.clone(), ..known }).await
    }

    /// The new one is known before the old one ends; the old one has ended when this returns.
    async fn agent(&self) -> anyhow::Result<()> {
        let Some(client) = self.client.get() else { anyhow::bail!("the API server has not started yet") };
        let (before, fresh) = (self.shared.now().await?.agent, Secret::new_agent()?);
        if let Some(secret) = bootstrap_secret(&fresh) {
            client.request(Method::POST, SECRETS, Some(&secret.0)).await?;
        }
        let change = |known: Known| match known.agent == before {
            true => Known { agent: fresh.clone(), introduced: true, ..known },
            // Somebody else has changed it: theirs counts.
            false => known,
        };
        let changed = self.shared.change(change).await;
        let taken = changed.is_ok() && self.shared.now().await?.agent == fresh;
        let ended = if taken { &before } else { &fresh };
        if let Some(name) = bootstrap_secret_name(ended) {
            match client.request(Method::DELETE, &format!("{SECRETS}/{name}"), None).await {
                Err(error) if !error.is_not_found() => {
                    return Err(anyhow::Error::new(error).context(format!(
                        "a token goes on to be good: delete the Secret {name} in kube-system to end it"
                    )));
                }
                _ => {}
            }
        }
        changed?;
        anyhow::ensure!(taken, "somebody else has changed the token meanwhile");
        Ok(())
    }
}

#[async_trait]
impl Page for Changes {
    fn has(&self, path: &str) -> bool {
        path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    async fn answer(&self, method: &Method, path: &str) -> Result<Response, Status> {
        let which = path.strip_prefix(PATH).unwrap_or_default().trim_matches('/');
        if method != Method::POST {
            let said = "tokens are changed here, and not shown: POST to agent or server";
            return Err(Status::new(405, Reason::MethodNotAllowed, said));
        }
        let changed = match which {
            "agent" => self.agent().await,
            "server" => self.server().await,
            _ => return Err(Status::new(404, Reason::NotFound, format!("there is no token of {which:?}"))),
        };
        if let Err(error) = changed {
            tracing::error!(error = format!("{error:#}"), of = which, "a token is not changed");
            return Err(Status::internal(format!("the token is not changed: {error:#}")));
        }
        tracing::info!(of = which, "a token was changed");
        Ok(response::json(200, &json!({"changed": which})))
    }
}

/// Once the API server is there: notes that it knows the agents' token, and has this server's files follow the store.
pub fn start(context: &Context, api: &Api, changes: &Changes, known: &Known, tasks: &Tasks) {
    changes.serve(api.administrator());
    let (shared, clock, introduced) = (changes.shared.clone(), context.clock.clone(), known.introduced);
    tasks.spawn_until_cancelled("tokens", async move {
        if !introduced && let Err(error) = shared.change(|known| Known { introduced: true, ..known }).await {
            tracing::warn!(
                error = format!("{error:#}"),
                "the agents' token is made known again at the next start"
            );
        }
        shared.follow(clock).await;
    });
}

/// Pages of several kinds as one.
pub struct Pages(pub Vec<Arc<dyn Page>>);

#[async_trait]
impl Page for Pages {
    fn has(&self, path: &str) -> bool {
        self.0.iter().any(|page| page.has(path))
    }

    async fn answer(&self, method: &Method, path: &str) -> Result<Response, Status> {
        match self.0.iter().find(|page| page.has(path)) {
            Some(page) => page.answer(method, path).await,
            None => Err(Status::new(404, Reason::NotFound, "there is no such page")),
        }
    }
}
