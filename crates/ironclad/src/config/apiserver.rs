//! The flags of the API server, under upstream's names.
//!
//! Not here: what the flags of the whole server are (the module above), what a setting does (crate `apiserver`).
//! Upstream: kube-apiserver's flags (pkg/controlplane/apiserver/options, apiserver/pkg/server/options).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::apiserver::{Cors, EndpointReconciler, admission, audit, authn, authz, encryption, fairness, traces};
use anyhow::Context as _;
use foundation::SharedClock;

use super::manifests;
use super::oidc::Oidc;
use super::service_accounts::ServiceAccounts;
use super::serving::Serving;
use crate::roles::apiserver::sni::NamedCertificate;

/// Flags that are on unless they are said to be off: `false` in a settings file means something for them.
pub const ON_BY_DEFAULT: &[&str] = &["anonymous-auth", "enable-priority-and-fairness"];

/// What its flags are listed under.
pub const HEADING: &str = "API server";

/// What of the API server can be set.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub struct ApiServer {
    /// Let requests wait and turn them away by FlowSchemas and PriorityLevelConfigurations
    #[arg(
        long,
        env = "IRONCLAD_ENABLE_PRIORITY_AND_FAIRNESS",
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub enable_priority_and_fairness: bool,
    /// Requests served at once that only read; together with the next, the seats of priority and fairness
    #[arg(long, env = "IRONCLAD_MAX_REQUESTS_INFLIGHT", default_value_t = 400, value_name = "N")]
    pub max_requests_inflight: u32,
    /// Requests served at once that write
    #[arg(long, env = "IRONCLAD_MAX_MUTATING_REQUESTS_INFLIGHT", default_value_t = 200, value_name = "N")]
    pub max_mutating_requests_inflight: u32,
    /// How long a request may take that is neither a watch nor a stream, for example 1m0s
    #[arg(
        long,
        env = "IRONCLAD_REQUEST_TIMEOUT",
        default_value = "1m0s",
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub request_timeout: Duration,
    /// The least seconds that a watch lasts whose client names no time; the most is twice that
    #[arg(long, env = "IRONCLAD_MIN_REQUEST_TIMEOUT", default_value_t = 1_800, value_name = "SECONDS")]
    pub min_request_timeout: u64,
    /// Who keeps the endpoints of the kubernetes Service: the servers themselves by leases, or nobody
    #[arg(
        long,
        env = "IRONCLAD_ENDPOINT_RECONCILER_TYPE",
        default_value = "lease",
        value_parser = ["lease", "none"],
        value_name = "TYPE"
    )]
    pub endpoint_reconciler_type: String,
    /// File that says what is written to the audit log
    #[arg(long, env = "IRONCLAD_AUDIT_POLICY_FILE", value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File to write the audit log to; - is standard output
    #[arg(long, env = "IRONCLAD_AUDIT_LOG_PATH", value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Days after which old audit logs are removed; 0: never
    #[arg(long, env = "IRONCLAD_AUDIT_LOG_MAXAGE", default_value_t = 366, value_name = "DAYS")]
    pub audit_log_maxage: u64,
    /// Old audit logs to keep; 0: all
    #[arg(long, env = "IRONCLAD_AUDIT_LOG_MAXBACKUP", default_value_t = 100, value_name = "N")]
    pub audit_log_maxbackup: usize,
    /// Size in MiB at which the audit log is put aside
    #[arg(long, env = "IRONCLAD_AUDIT_LOG_MAXSIZE", default_value_t = 100, value_name = "MIB")]
    pub audit_log_maxsize: u64,
    /// Whether requests wait for the audit log (blocking) or its events may be lost (batch)
    #[arg(
        long,
        env = "IRONCLAD_AUDIT_LOG_MODE",
        default_value = "blocking",
        value_parser = audit_mode,
        value_name = "MODE"
    )]
    pub audit_log_mode: audit::Mode,
    /// Kubeconfig of a server to send audit events to
    #[arg(
        long,
        env = "IRONCLAD_AUDIT_WEBHOOK_CONFIG_FILE",
        value_name = "FILE",
        requires = "audit_policy_file"
    )]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Audit events sent at once
    #[arg(long, env = "IRONCLAD_AUDIT_WEBHOOK_BATCH_MAX_SIZE", default_value_t = 400, value_name = "N")]
    pub audit_webhook_batch_max_size: usize,
    /// Seconds that an audit event waits for others to be sent with
    #[arg(long, env = "IRONCLAD_AUDIT_WEBHOOK_BATCH_MAX_WAIT", default_value_t = 30, value_name = "SECONDS")]
    pub audit_webhook_batch_max_wait: u64,
    /// How long Events are kept
    #[arg(long, env = "IRONCLAD_EVENT_TTL", default_value = "1h0m0s", value_parser = duration, value_name = "TIME")]
    pub event_ttl: Duration,
    /// Admission plugins to run beside those that usually do
    #[arg(long, env = "IRONCLAD_ENABLE_ADMISSION_PLUGINS", value_delimiter = ',', value_name = "NAME")]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins not to run
    #[arg(long, env = "IRONCLAD_DISABLE_ADMISSION_PLUGINS", value_delimiter = ',', value_name = "NAME")]
    pub disable_admission_plugins: Vec<String>,
    /// File that configures admission plugins
    #[arg(long, env = "IRONCLAD_ADMISSION_CONTROL_CONFIG_FILE", value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// Regular expressions over the origins whose pages may use the API from a browser
    #[arg(long, env = "IRONCLAD_CORS_ALLOWED_ORIGINS", value_delimiter = ',', value_name = "EXPRESSION")]
    pub cors_allowed_origins: Vec<String>,
    /// How probable it is that a request over HTTP/2 makes its client connect anew, so that clients spread over servers
    #[arg(
        long,
        env = "IRONCLAD_GOAWAY_CHANCE",
        default_value_t = 0.0,
        value_parser = goaway_chance,
        value_name = "SHARE"
    )]
    pub goaway_chance: f64,
    #[command(flatten)]
    pub serving: Serving,
    /// Certificate and key to show to clients that ask for certain names: certFile,keyFile[:name,*.name]
    #[arg(long, value_name = "FILES")]
    pub tls_sni_cert_key: Vec<NamedCertificate>,
    /// File that says which requests are traced, and where their spans are sent
    #[arg(long, env = "IRONCLAD_TRACING_CONFIG_FILE", value_name = "FILE")]
    pub tracing_config_file: Option<PathBuf>,
    /// File that says what the store keeps encrypted, and how
    #[arg(long, env = "IRONCLAD_ENCRYPTION_PROVIDER_CONFIG", value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Take the file of --encryption-provider-config into use whenever it changes
    #[arg(
        long,
        env = "IRONCLAD_ENCRYPTION_PROVIDER_CONFIG_AUTOMATIC_RELOAD",
        requires = "encryption_provider_config"
    )]
    pub encryption_provider_config_automatic_reload: bool,
    /// File that says which OpenID Connect tokens are accepted, and what anonymous users reach
    #[arg(long, env = "IRONCLAD_AUTHENTICATION_CONFIG", value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    #[command(flatten)]
    pub oidc: Oidc,
    #[command(flatten)]
    pub service_accounts: ServiceAccounts,
    /// Kubeconfig of a server that is asked whose a token is
    #[arg(long, env = "IRONCLAD_AUTHENTICATION_TOKEN_WEBHOOK_CONFIG_FILE", value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are remembered
    #[arg(
        long,
        env = "IRONCLAD_AUTHENTICATION_TOKEN_WEBHOOK_CACHE_TTL",
        default_value = "2m",
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// File of tokens that are known from the start: token,user,uid,"group1,group2"
    #[arg(long, env = "IRONCLAD_TOKEN_AUTH_FILE", value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Let requests without credentials reach /healthz, /livez, /readyz and /version
    #[arg(
        long,
        env = "IRONCLAD_ANONYMOUS_AUTH",
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        conflicts_with = "authentication_config"
    )]
    pub anonymous_auth: bool,
    /// File that says which authorizers are asked, in which order
    #[arg(
        long,
        env = "IRONCLAD_AUTHORIZATION_CONFIG",
        value_name = "FILE",
        conflicts_with = "authorization_mode"
    )]
    pub authorization_config: Option<PathBuf>,
    /// Authorizers in the order they are asked: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, env = "IRONCLAD_AUTHORIZATION_MODE", value_delimiter = ',', value_name = "MODE")]
    pub authorization_mode: Vec<String>,
    /// File of the policies of the ABAC mode, one JSON object a line
    #[arg(long, env = "IRONCLAD_AUTHORIZATION_POLICY_FILE", value_name = "FILE")]
    pub authorization_policy_file: Option<PathBuf>,
    /// Kubeconfig of the server of the Webhook mode
    #[arg(long, env = "IRONCLAD_AUTHORIZATION_WEBHOOK_CONFIG_FILE", value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// How long a yes of the Webhook mode is remembered
    #[arg(
        long,
        env = "IRONCLAD_AUTHORIZATION_WEBHOOK_CACHE_AUTHORIZED_TTL",
        default_value = "5m",
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long a no of the Webhook mode is remembered
    #[arg(
        long,
        env = "IRONCLAD_AUTHORIZATION_WEBHOOK_CACHE_UNAUTHORIZED_TTL",
        default_value = "30s",
        value_parser = duration,
        value_name = "DURATION"
    )]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

/// A span of time as Go writes it: `90s`, `5m`, `1h30m`, `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    parsed.ok_or_else(|| format!("{text:?} is no span of time such as 30s or 5m"))
}

fn goaway_chance(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=0.02).contains(share));
    share.ok_or_else(|| "must be in the range [0, 0.02]".to_owned())
}

fn audit_mode(text: &str) -> Result<audit::Mode, String> {
    match text {
        "blocking" => Ok(audit::Mode::Blocking),
        "batch" => Ok(audit::Mode::Batch),
        _ => Err("must be blocking or batch".to_owned()),
    }
}

impl ApiServer {
    /// The settings of priority and fairness.
    pub fn fairness(&self) -> fairness::Options {
        fairness::Options {
            enabled: self.enable_priority_and_fairness,
            reads: self.max_requests_inflight,
            writes: self.max_mutating_requests_inflight,
        }
    }

    /// What is written down, and where to.
    pub fn audit(&self) -> anyhow::Result<audit::Options> {
        let Some(path) = &self.audit_policy_file else { return Ok(audit::Options::default()) };
        let policy = audit::policy::Policy::read(&read(path)?).map_err(|problem| in_file(path, problem))?;
        let days = |days: u64| (days > 0).then(|| Duration::from_secs(days.saturating_mul(24 * 60 * 60)));
        let log = self.audit_log_path.as_ref().map(|path| audit::log::Options {
            path: path.clone(),
            max_age: days(self.audit_log_maxage),
            max_backups: self.audit_log_maxbackup,
            max_size: self.audit_log_maxsize.saturating_mul(1 << 20),
            mode: self.audit_log_mode,
        });
        let webhook = self.audit_webhook_config_file.as_ref().map(|path| {
            let (transport, at) = webhook(path)?;
            anyhow::Ok(audit::webhook::Options {
                batch: self.audit_webhook_batch_max_size,
                wait: Duration::from_secs(self.audit_webhook_batch_max_wait),
                ..audit::webhook::Options::new(transport, at)
            })
        });
        Ok(audit::Options { policy: Some(Arc::new(policy)), log, webhook: webhook.transpose()? })
    }

    /// Who is believed, beside those that the cluster's own keys vouch for. `issuers` are those of ServiceAccounts.
    pub fn authentication(
        &self,
        issuers: &[String],
        clock: &SharedClock,
        own: authn::Options,
    ) -> anyhow::Result<authn::Options> {
        let mut options = own;
        let audiences = options.service_accounts.as_ref().map(|accounts| accounts.audiences.clone());
        if let Some(path) = &self.token_auth_file {
            let tokens = authn::StaticToken::parse_file(&read(path)?);
            options.static_tokens = tokens.map_err(|problem| in_file(path, problem))?;
        }
        if let Some(path) = &self.authentication_token_webhook_config_file {
            let (transport, at) = webhook(path)?;
            let remember = self.authentication_token_webhook_cache_ttl;
            let audiences = audiences.unwrap_or_default();
            options.webhook = Some(authn::webhook::Options { transport, path: at, remember, audiences });
        }
        options.configured = self.configured_authentication(issuers, clock)?;
        Ok(options)
    }

    /// What the file of `--authentication-config` says now. `issuers` are those of ServiceAccounts, which nobody else may be.
    pub fn configured_authentication(
        &self,
        issuers: &[String],
        clock: &SharedClock,
    ) -> anyhow::Result<authn::Configured> {
        let mut configured = authn::Configured::default();
        if !self.anonymous_auth {
            configured.anonymous_paths.clear();
        }
        if let Some(text) = self.oidc.configuration()? {
            let found = authn::oidc::Configuration::read(&text, issuers, clock, provider);
            let found = found.context("--oidc-*")?;
            configured.issuers = found.issuers;
            for issuer in &mut configured.issuers {
                issuer.algorithms.clone_from(&self.oidc.oidc_signing_algs);
            }
        }
        if let Some(path) = &self.authentication_config {
            let found = authn::oidc::Configuration::read(&read(path)?, issuers, clock, provider);
            let found = found.map_err(|problem| in_file(path, problem))?;
            configured.issuers = found.issuers;
            if let Some(paths) = found.anonymous_paths {
                configured.anonymous_paths = paths;
            }
        }
        Ok(configured)
    }

    /// Who keeps the endpoints of the `kubernetes` Service.
    pub fn endpoint_reconciler(&self) -> EndpointReconciler {
        match self.endpoint_reconciler_type.as_str() {
            "none" => EndpointReconciler::None,
            _ => EndpointReconciler::Lease,
        }
    }

    /// Who decides.
    pub fn authorization(&self) -> anyhow::Result<authz::Options> {
        let dial = |path: &Path| webhook(path).map_err(|error| format!("{error:#}"));
        if let Some(path) = &self.authorization_config {
            return authz::structured::read(&read(path)?, &dial).map_err(|problem| in_file(path, problem));
        }
        if self.authorization_mode.is_empty() {
            return Ok(authz::Options::default());
        }
        let modes = self.authorization_mode.iter().map(|mode| {
            Ok(match mode.as_str() {
                "Node" => authz::Mode::Node,
                "RBAC" => authz::Mode::Rbac,
                "AlwaysAllow" => authz::Mode::AlwaysAllow,
                "AlwaysDeny" => authz::Mode::AlwaysDeny,
                "ABAC" => {
                    let path = self.authorization_policy_file.as_ref();
                    let path =
                        path.context("--authorization-mode=ABAC needs --authorization-policy-file")?;
                    let policies = authz::abac::Policies::read(&read(path)?);
                    authz::Mode::Abac(policies.map_err(|problem| in_file(path, problem))?)
                }
                "Webhook" => {
                    let path = self.authorization_webhook_config_file.as_ref();
                    let path = path
                        .context("--authorization-mode=Webhook needs --authorization-webhook-config-file")?;
                    let (transport, at) = webhook(path)?;
                    authz::Mode::Webhook(authz::webhook::Options {
                        name: "default".to_owned(),
                        transport,
                        path: at,
                        authorized: self.authorization_webhook_cache_authorized_ttl,
                        unauthorized: self.authorization_webhook_cache_unauthorized_ttl,
                        // Upstream's default for the flags.
                        timeout: Duration::from_secs(30),
                        failure: authz::webhook::FailurePolicy::NoOpinion,
                        conditions: Vec::new(),
                    })
                }
                other => anyhow::bail!(
                    "--authorization-mode: {other:?} is none of Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny"
                ),
            })
        });
        Ok(authz::Options { modes: modes.collect::<anyhow::Result<_>>()?, names: Vec::new() })
    }

    /// Which admission plugins run, and how.
    pub fn admission(&self) -> anyhow::Result<admission::Options> {
        let mut options = admission::Options {
            enabled: self.enable_admission_plugins.clone(),
            disabled: self.disable_admission_plugins.clone(),
            ..admission::Options::default()
        };
        if let Some(path) = &self.admission_control_config_file {
            let found = options.configure(&read(path)?, path, &|path| std::fs::read_to_string(path));
            found.map_err(|problem| in_file(path, problem))?;
            for (plugin, manifests) in options.manifests.each() {
                manifests::take(manifests).with_context(|| format!("plugin {plugin}"))?;
            }
        }
        options.check()?;
        Ok(options)
    }

    /// Whose pages may use the API.
    pub fn cors(&self) -> anyhow::Result<Cors> {
        Cors::new(&self.cors_allowed_origins).map_err(anyhow::Error::msg)
    }

    /// What is traced.
    pub fn traces(&self) -> anyhow::Result<Option<traces::Configuration>> {
        let Some(path) = &self.tracing_config_file else { return Ok(None) };
        let found = traces::Configuration::read(&read(path)?);
        found.map(Some).map_err(|problem| in_file(path, problem))
    }

    /// What the store keeps encrypted.
    pub fn encryption(&self, clock: &SharedClock) -> anyhow::Result<Option<encryption::Configuration>> {
        let Some(path) = &self.encryption_provider_config else { return Ok(None) };
        let read = encryption::Configuration::read(&read(path)?, clock);
        read.map(Some).map_err(|problem| in_file(path, problem))
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn in_file(path: &Path, problem: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{}: {problem}", path.display())
}

/// The server that a kubeconfig names, and the path on it: a webhook's whole URL is its cluster's server.
pub fn webhook(path: &Path) -> anyhow::Result<(Arc<dyn client::Transport>, String)> {
    let mut config = client::kubeconfig::load(path)?;
    let url: http::Uri = config.server.parse().map_err(|problem| in_file(path, problem))?;
    let at = url.path_and_query().map_or("/", |at| at.as_str()).to_owned();
    config.server = match (url.scheme_str(), url.authority()) {
        (Some(scheme), Some(authority)) => format!("{scheme}://{authority}"),
        _ => return Err(in_file(path, "the server must be a URL")),
    };
    let transport = client::HttpsTransport::new(&config).map_err(|problem| in_file(path, problem))?;
    Ok((Arc::new(transport), at))
}

/// The way to an OpenID Connect provider: by the authorities in the configuration, or those of the system.
fn provider(url: &str, authority: Option<&str>) -> Result<Arc<dyn client::Transport>, String> {
    let uri: http::Uri = url.parse().map_err(|problem: http::uri::InvalidUri| problem.to_string())?;
    let host = uri.authority().ok_or("no host")?;
    let config = client::Config {
        server: format!("https://{host}"),
        ca_pem: authority.map(|pem| pem.as_bytes().to_vec()),
        ..client::Config::default()
    };
    client::HttpsTransport::new(&config)
        .map(|transport| Arc::new(transport) as Arc<dyn client::Transport>)
        .map_err(|error| error.to_string())
}
