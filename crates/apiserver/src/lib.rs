//! The API server: the one door to the cluster's state.
//!
//! A request runs through the filters ([`filters`]), is given its meaning ([`request::RequestInfo`]), is
//! authenticated ([`authn`]), authorized ([`authz`]), and then served by the one [`engine`] that works for
//! every kind from its `api::kind::Descriptor`. What a kind needs beyond that (address allocation, binding,
//! eviction, exec, …) is one file in `registry/<group>/<kind>.rs`.
//!
//! Read first: [`ApiServer`], [`Options`], [`request::RequestInfo`], [`registry::Resource`],
//! [`engine::Call`], [`cache::Cache`].
//!
//! To add what a kind needs of the cluster's state, implement [`registry::Rest`] in a file of its own and
//! add its line to `registry/special.rs`. To add an admission plugin, an authenticator or an authorizer,
//! implement the trait of that module.
//!
//! **Invariants.** No handler names a kind. Nothing knows which store is behind. A response's bytes are the
//! stored bytes wherever the client wants them whole. An idle server has no timers but its watches'.

pub mod admission;
pub mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod beside;
mod bootstrap;
pub mod cache;
pub mod cluster;
pub mod encoding;
pub mod encryption;
mod endpoints;
pub mod engine;
pub mod fairness;
pub mod filters;
pub mod handlers;
mod identity;
mod in_process;
pub mod listen;
pub mod metrics;
pub mod negotiation;
mod options;
pub mod output;
mod proxy;
pub mod registry;
pub mod request;
pub mod response;
mod reviewer;
pub mod server;
pub mod storage;
pub mod traces;
pub mod unread;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use api::Status;
use client::Transport;
use foundation::health::Checks;
use foundation::{SharedClock, SharedRandomness, Tasks};
use store::Store;
use tokio::net::TcpListener;

pub use endpoints::Reconciler as EndpointReconciler;
pub use filters::cors::Cors;
pub use in_process::InProcess;
pub use options::{Cidr, Options};
pub use request::User;
use server::Server;

/// A running API server. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer(Arc<Server>);

impl ApiServer {
    /// Starts a server over `store`: watches the store and makes the objects that every cluster has. It can
    /// be called in process from the moment this returns.
    pub async fn new(
        store: Arc<dyn Store>,
        options: Options,
        tasks: &Tasks,
        clock: SharedClock,
        randomness: SharedRandomness,
    ) -> Result<Self, Status> {
        let server = Server::new(store, options, tasks, clock, randomness).await?;
        bootstrap::run(&server).await?;
        handlers::health::hooks(&server, handlers::health::BOOTSTRAP);
        fairness::configure::start(&server).await?;
        handlers::health::hooks(&server, handlers::health::FAIRNESS);
        registry::apiextensions::start(&server).await?;
        handlers::health::hooks(&server, handlers::health::DEFINITIONS);
        aggregation::availability::start(&server);
        handlers::health::hooks(&server, handlers::health::AGGREGATION);
        Ok(Self(server))
    }

    /// A way to call the server from within its process, as `user`.
    pub fn in_process(&self, user: User) -> Arc<dyn Transport> {
        let mut user = user;
        if !user.is_in(User::AUTHENTICATED) && user.name != User::ANONYMOUS {
            user.groups.push(User::AUTHENTICATED.to_owned());
        }
        Arc::new(InProcess { server: self.0.clone(), user })
    }

    /// Serves HTTPS on `listener` until the tasks that the server was given are cancelled, then drains.
    pub async fn serve(&self, listener: TcpListener, tls: listen::Tls) {
        endpoints::start(&self.0);
        identity::start(&self.0);
        listen::serve(self.0.clone(), listener, tls).await;
    }

    /// Says from now on that the server is not ready, and goes on serving: whoever sends requests to several is to choose
    /// another before this one stops.
    pub fn announce_stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Accepts other providers and anonymous paths from now on.
    pub fn configure_authentication(&self, configured: authn::Configured) {
        self.0.authentication.configure(configured);
    }

    /// Lets others decide what is allowed from now on.
    pub fn configure_authorization(&self, options: &authz::Options) {
        self.0.authorization.configure(options);
    }

    /// Returns once requests can be served: at once, because [`ApiServer::new`] does all there is to do.
    pub async fn ready(&self) {}

    /// Has `/healthz` and `/readyz` tell whether the plugins of the encryption in use answer.
    pub fn check_encryption(&self, encryption: Arc<arc_swap::ArcSwap<encryption::Configuration>>) {
        self.0.checks.register(handlers::health::KMS, move || encryption.load().health());
    }

    /// What `/healthz`, `/livez` and `/readyz` report; other parts of the process add theirs.
    pub fn checks(&self) -> &Checks {
        &self.0.checks
    }

    /// The shared state, for parts of the process that extend the server.
    pub fn server(&self) -> &Arc<Server> {
        &self.0
    }
}
