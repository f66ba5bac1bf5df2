//! The flags of the API server, under upstream's names.
//!
//! Not here: what the flags of the whole server are (the module above), what a setting does (crate `apiserver`).
//! Upstream: kube-apiserver's flags (pkg/controlplane/apiserver/options, apiserver/pkg/server/options).

use ::apiserver::fairness;

/// Flags that are on unless they are said to be off: `false` in a settings file means something for them.
pub const ON_BY_DEFAULT: &[&str] = &["enable-priority-and-fairness"];

/// What of the API server can be set.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "API server")]
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
}

impl ApiServer {
    /// The settings of priority and fairness.
    pub fn fairness(&self) -> fairness::Options {
        let seats = self.max_requests_inflight.saturating_add(self.max_mutating_requests_inflight);
        fairness::Options { enabled: self.enable_priority_and_fairness, seats }
    }
}
