//! The flags of etcd that `ironclad etcd` has no use for, so that etcd's unit files and manifests start it as they are.
//!
//! Harmless ones are passed over, and the log says so. What would not be so if it were passed over is refused: who asks for
//! several members, for a check of clients or for an API that is not there must not believe to have it.
//! Not here: the flags that mean something (`flags`). Upstream: etcd's `server/etcdmain/{config,help}.go` of 3.5 and 3.6.

use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

use anyhow::bail;
use clap::builder::Resettable;
use clap::error::Error;
use clap::{Arg, ArgMatches, Command, FromArgMatches};

/// Flags with a value.
const VALUES: &[&str] = &[
    "auth-token",
    "auth-token-ttl",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "bcrypt-cost",
    "bootstrap-defrag-threshold-megabytes",
    "cipher-suites",
    "client-cert-allowed-hostname",
    "client-cert-file",
    "client-crl-file",
    "client-key-file",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "config-file",
    "corrupt-check-time",
    "cors",
    "discovery",
    "discovery-endpoints",
    "discovery-fallback",
    "discovery-proxy",
    "discovery-srv",
    "discovery-srv-name",
    "discovery-token",
    "downgrade-check-time",
    "election-timeout",
    "experimental-bootstrap-defrag-threshold-megabytes",
    "experimental-compact-hash-check-time",
    "experimental-compaction-batch-limit",
    "experimental-compaction-sleep-interval",
    "experimental-corrupt-check-time",
    "experimental-distributed-tracing-address",
    "experimental-distributed-tracing-instance-id",
    "experimental-distributed-tracing-sampling-rate",
    "experimental-distributed-tracing-service-name",
    "experimental-downgrade-check-time",
    "experimental-enable-v2v3",
    "experimental-max-learners",
    "experimental-snapshot-catchup-entries",
    "experimental-wait-cluster-ready-timeout",
    "experimental-warning-apply-duration",
    "experimental-warning-unary-request-duration",
    "feature-gates",
    "grpc-keepalive-interval",
    "grpc-keepalive-min-time",
    "grpc-keepalive-timeout",
    "heartbeat-interval",
    "host-whitelist",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "listen-client-http-urls",
    "listen-peer-urls",
    "local-address",
    "log-format",
    "log-outputs",
    "log-rotation-config-json",
    "logger",
    "max-concurrent-streams",
    "max-learners",
    "max-snapshots",
    "max-wals",
    "metrics",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
    "peer-cert-file",
    "peer-client-cert-file",
    "peer-client-key-file",
    "peer-crl-file",
    "peer-key-file",
    "peer-trusted-ca-file",
    "proxy",
    "proxy-dial-timeout",
    "proxy-failure-wait",
    "proxy-read-timeout",
    "proxy-refresh-interval",
    "proxy-write-timeout",
    "raft-read-timeout",
    "raft-write-timeout",
    "self-signed-cert-validity",
    "snapshot-catchup-entries",
    "snapshot-count",
    "tls-max-version",
    "v2-deprecation",
    "wal-dir",
    "warning-apply-duration",
    "warning-unary-request-duration",
];
/// Flags that are on or off.
const SWITCHES: &[&str] = &[
    "auto-tls",
    "debug",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "enable-v2",
    "experimental-compact-hash-check-enabled",
    "experimental-enable-distributed-tracing",
    "experimental-enable-lease-checkpoint",
    "experimental-enable-lease-checkpoint-persist",
    "experimental-initial-corrupt-check",
    "experimental-initial-election-tick-advance",
    "experimental-memory-mlock",
    "experimental-peer-skip-client-san-verification",
    "experimental-stop-grpc-service-on-defrag",
    "experimental-txn-mode-write-with-shared-buffer",
    "force-new-cluster",
    "initial-election-tick-advance",
    "memory-mlock",
    "peer-auto-tls",
    "peer-client-cert-auth",
    "peer-skip-client-san-verification",
    "pre-vote",
    "socket-reuse-address",
    "socket-reuse-port",
    "strict-reconfig-check",
    "unsafe-no-fsync",
];

/// The variables of them, in the same order: first those of the flags with a value.
static VARIABLES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let variable = |name: &&str| format!("ETCD_{}", name.to_uppercase().replace('-', "_"));
    VALUES.iter().chain(SWITCHES).map(variable).collect()
});

/// What TLS 1.2 is spoken with, as Go calls it: what `foundation::tls` offers. 1.3 has its own, which Go does not ask about.
const SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Those that were given, and their values.
#[derive(Clone, Debug, Default)]
pub struct Others(Vec<(&'static str, String)>);

impl Others {
    /// Refuses what must not be passed over, and says what is.
    ///
    /// # Errors
    /// A sentence about a flag that would promise what is not so.
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, value) in &self.0 {
            if let Some(objection) = objection(name, value) {
                bail!("--{name}={value} cannot be: {objection}");
            }
        }
        if !self.0.is_empty() {
            let names: Vec<_> = self.0.iter().map(|(name, _)| format!("--{name}")).collect();
            tracing::warn!(flags = names.join(", "), "flags of etcd that mean nothing here are passed over");
        }
        Ok(())
    }
}

/// A flag that is on or off, in the words that Go takes for it.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// What is neither on nor off is not passed over either.
fn is_on(value: &str) -> bool {
    boolean(value).unwrap_or(true)
}

/// Has variables that are empty count as unset, as for etcd.
pub fn without_empty_variables(
    command: Command,
    variable: impl Fn(&OsStr) -> Option<OsString> + Copy,
) -> Command {
    command.mut_args(|flag| {
        let name = flag.get_env().filter(|name| name.as_encoded_bytes().starts_with(b"ETCD_"));
        let is_empty = name.and_then(variable).is_some_and(|value| value.is_empty());
        if is_empty { flag.env(Resettable::Reset) } else { flag }
    })
}

/// Why a flag cannot be passed over, if it cannot.
fn objection(name: &str, value: &str) -> Option<String> {
    let because = |so: bool, why: &str| so.then(|| why.to_owned());
    match name {
        "initial-cluster" => {
            let names = value.split(',').filter_map(|member| Some(member.split_once('=')?.0.trim()));
            let names: std::collections::BTreeSet<_> = names.collect();
            let why = "this is a store of one member; several servers keep one together with `ironclad server --cluster-init`";
            because(names.len() > 1, why)
        }
        "discovery" | "discovery-srv" | "discovery-srv-name" | "discovery-token" | "discovery-endpoints" => {
            because(!value.is_empty(), "this is a store of one member, which looks for no others")
        }
        "config-file" => {
            because(!value.is_empty(), "settings are flags and variables of the environment here")
        }
        "client-crl-file" => {
            because(!value.is_empty(), "withdrawn certificates of clients are not looked for")
        }
        "client-cert-allowed-hostname" => {
            because(!value.is_empty(), "of clients' certificates only who has signed them is looked at")
        }
        "host-whitelist" => {
            because(!matches!(value, "" | "*"), "the names that clients use are not looked at")
        }
        "listen-client-http-urls" => because(
            !value.is_empty(),
            "pages and calls share the ports; --listen-metrics-urls has pages only",
        ),
        "auto-tls" => {
            because(is_on(value), "certificates are not made here: give --cert-file and --key-file")
        }
        "enable-v2" => because(is_on(value), "there is no v2 API"),
        "experimental-enable-v2v3" => because(!value.is_empty(), "there is no v2 API"),
        "proxy" => because(!matches!(value, "" | "off"), "there is no proxy"),
        "tls-max-version" => {
            because(!matches!(value, "" | "TLS1.3"), "TLS 1.3 is spoken with whoever knows it")
        }
        "cipher-suites" => {
            let given: Vec<_> = value.split(',').map(str::trim).filter(|suite| !suite.is_empty()).collect();
            let known =
                |suite: &&&str| given.contains(*suite) || given.contains(&suite.trim_end_matches("_SHA256"));
            let missing: Vec<_> = SUITES.iter().filter(|suite| !known(suite)).copied().collect();
            let why = format!("TLS 1.2 is spoken with these as well: {}", missing.join(", "));
            (!given.is_empty() && !missing.is_empty()).then_some(why)
        }
        _ => None,
    }
}

impl FromArgMatches for Others {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let names = VALUES.iter().chain(SWITCHES);
        let given = names.filter_map(|name| Some((*name, matches.get_one::<String>(name)?.clone())));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Others {
    fn augment_args(command: Command) -> Command {
        let names = VALUES.iter().chain(SWITCHES).zip(VARIABLES.iter());
        names.enumerate().fold(command, |command, (place, (name, variable))| {
            let flag = Arg::new(*name).long(*name).env(variable.as_str()).hide(true).value_name("VALUE");
            command.arg(match place < VALUES.len() {
                true => flag,
                false => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_a_promise_is_refused_and_the_rest_is_not() {
        let all = SUITES.join(",");
        let short = all.replace("POLY1305_SHA256", "POLY1305");
        for (name, value, refused) in [
            ("initial-cluster", "a=http://1.2.3.4:2380", false),
            ("initial-cluster", "a=http://1.2.3.4:2380,a=http://1.2.3.5:2380", false),
            ("initial-cluster", "a=http://1.2.3.4:2380,b=http://1.2.3.5:2380", true),
            ("initial-cluster-state", "new", false),
            ("discovery-srv", "example.com", true),
            ("config-file", "/etc/etcd.yml", true),
            ("client-crl-file", "/crl", true),
            ("client-cert-allowed-hostname", "a", true),
            ("host-whitelist", "*", false),
            ("host-whitelist", "localhost", true),
            ("auto-tls", "true", true),
            ("auto-tls", "T", true),
            ("auto-tls", "perhaps", true),
            ("auto-tls", "false", false),
            ("auto-tls", "", false),
            ("enable-v2", "0", false),
            ("enable-v2", "FALSE", false),
            ("client-cert-file", "/crt", false),
            ("proxy-dial-timeout", "1000", false),
            ("initial-election-tick-advance", "true", false),
            ("peer-auto-tls", "true", false),
            ("enable-v2", "true", true),
            ("proxy", "off", false),
            ("proxy", "on", true),
            ("tls-max-version", "TLS1.2", true),
            ("cipher-suites", all.as_str(), false),
            ("cipher-suites", short.as_str(), false),
            ("cipher-suites", SUITES[0], true),
            ("snapshot-count", "10000", false),
        ] {
            assert!(VALUES.contains(&name) || SWITCHES.contains(&name), "{name}");
            let others = Others(vec![(name, value.to_owned())]);
            assert_eq!(others.check().is_err(), refused, "{name}={value}");
        }
    }
}
