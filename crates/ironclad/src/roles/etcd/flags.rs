//! The settings of `ironclad etcd`: etcd's flags and variables that mean something here.
//!
//! Not here: those that do not (`others`), the ports and their TLS (`listeners`), what the quota comes to (`quota`).
//! Upstream: etcd's `server/embed/config.go` and `server/etcdserver/api/v3compactor`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ArgAction;

use super::others::{Others, boolean};
use super::quota;

/// The most that a transaction can write, in bytes of its keys and values.
const LARGEST: usize = 8 << 20;
/// So long a history is kept that nothing is forgotten for its age.
const FOR_EVER: Duration = Duration::MAX;
/// What `--watch-progress-notify-interval` is where it is 0, and at least.
const PROGRESS: (Duration, Duration) = (Duration::from_mins(10), Duration::from_millis(100));

/// Settings of `ironclad etcd`. The names are etcd's.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of this member
    #[arg(long, env = "ETCD_NAME", default_value = "default", value_name = "NAME")]
    pub name: String,
    /// Directory of the store
    #[arg(long, env = "ETCD_DATA_DIR", default_value = "default.etcd", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// URLs to listen on for clients: http://address:port or https://address:port
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        default_value = "http://127.0.0.1:2379",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub listen_client_urls: Vec<String>,
    /// URLs that clients are told; those listened on by default
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_delimiter = ',', value_name = "URL")]
    pub advertise_client_urls: Vec<String>,
    /// URLs to listen on for those who ask for /metrics and /health only
    #[arg(long, env = "ETCD_LISTEN_METRICS_URLS", value_delimiter = ',', value_name = "URL")]
    pub listen_metrics_urls: Vec<String>,
    /// URLs that the list of members shows for this one; nobody listens there
    #[arg(long, env = "ETCD_INITIAL_ADVERTISE_PEER_URLS", value_delimiter = ',', value_name = "URL")]
    pub initial_advertise_peer_urls: Vec<String>,
    /// Certificate of the server; read again when it changes
    #[arg(long, env = "ETCD_CERT_FILE", requires = "key_file", value_name = "FILE")]
    pub cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, env = "ETCD_KEY_FILE", requires = "cert_file", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Authorities that clients' certificates must come from; clients need none by default
    #[arg(long, env = "ETCD_TRUSTED_CA_FILE", value_name = "FILE")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Whether clients must show a certificate, which --trusted-ca-file asks for as well
    #[arg(
        long,
        env = "ETCD_CLIENT_CERT_AUTH",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = false,
        default_missing_value = "true",
        value_parser = boolean,
        action = ArgAction::Set,
        value_name = "BOOL"
    )]
    pub client_cert_auth: bool,
    /// The oldest TLS that is spoken
    #[arg(
        long,
        env = "ETCD_TLS_MIN_VERSION",
        default_value = "TLS1.2",
        value_parser = ["", "TLS1.2", "TLS1.3"],
        value_name = "VERSION"
    )]
    pub tls_min_version: String,
    /// Comparisons and operations that a transaction may have
    #[arg(long, env = "ETCD_MAX_TXN_OPS", default_value_t = 128, value_name = "N")]
    pub max_txn_ops: usize,
    /// Bytes of keys and values that a transaction may write; 8 MiB at most
    #[arg(long, env = "ETCD_MAX_REQUEST_BYTES", default_value_t = LARGEST, value_name = "BYTES")]
    pub max_request_bytes: usize,
    /// Bytes of history that are kept, in memory: of more, the older half is forgotten. 0: a quarter of the memory, 2 GiB at
    /// most; negative: without a bound
    #[arg(long, env = "ETCD_QUOTA_BACKEND_BYTES", default_value_t = 0, value_name = "BYTES")]
    pub quota_backend_bytes: i64,
    /// How --auto-compaction-retention counts
    #[arg(
        long,
        env = "ETCD_AUTO_COMPACTION_MODE",
        default_value = "periodic",
        value_parser = ["periodic", "revision"],
        value_name = "MODE"
    )]
    pub auto_compaction_mode: String,
    /// History to keep: hours or a duration (periodic), or a number of revisions; 0: until somebody compacts it
    #[arg(long, env = "ETCD_AUTO_COMPACTION_RETENTION", default_value = "0", value_name = "RETENTION")]
    pub auto_compaction_retention: String,
    /// How often watches that ask for it are told how far they have come; 100ms at least, 0: 10m
    #[arg(
        long,
        alias = "experimental-watch-progress-notify-interval",
        env = "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL",
        value_parser = duration,
        default_value = "10m",
        value_name = "DURATION"
    )]
    pub watch_progress_notify_interval: Duration,
    /// How much is logged: debug, info, warn or error; --v and IRONCLAD_LOG win
    #[arg(
        long,
        env = "ETCD_LOG_LEVEL",
        value_parser = ["debug", "info", "warn", "error", "panic", "fatal"],
        value_name = "LEVEL"
    )]
    pub log_level: Option<String>,
    #[command(flatten)]
    pub others: Others,
    #[command(flatten)]
    pub logs: crate::config::logs::Logs,
}

/// What of the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// All of it, until somebody compacts.
    Everything,
    /// What is younger.
    Age(Duration),
    /// So many revisions.
    Revisions(u64),
}

impl Options {
    /// Starts the log of this process.
    pub fn start_logs(&self) -> anyhow::Result<()> {
        let level = self.log_level.as_deref().map(|level| match level {
            "panic" | "fatal" => "error",
            other => other,
        });
        self.logs.start_with(level)
    }

    /// What of the past is to be kept.
    pub fn retention(&self) -> anyhow::Result<Retention> {
        let text = self.auto_compaction_retention.trim();
        let problem = || format!("--auto-compaction-retention={text} is not understood");
        let number: Option<u64> = text.parse().ok();
        let age = match (self.auto_compaction_mode.as_str(), number) {
            (_, Some(0)) => return Ok(Retention::Everything),
            ("revision", Some(revisions)) => return Ok(Retention::Revisions(revisions)),
            ("revision", None) => bail!("{}: with --auto-compaction-mode=revision it is a number", problem()),
            (_, Some(hours)) => hours.checked_mul(3600).map(Duration::from_secs).with_context(problem)?,
            (_, None) => duration(text).map_err(anyhow::Error::msg).with_context(problem)?,
        };
        Ok(if age.is_zero() { Retention::Everything } else { Retention::Age(age) })
    }

    /// How often watches are told how far they have come.
    pub fn progress_interval(&self) -> Duration {
        match self.watch_progress_notify_interval {
            Duration::ZERO => PROGRESS.0,
            given => given.max(PROGRESS.1),
        }
    }

    /// How the store is to behave where the process may have so much memory, if that is known.
    pub fn engine(&self, memory: Option<u64>) -> anyhow::Result<store::embedded::Options> {
        let history_age = match self.retention()? {
            Retention::Age(age) => age,
            Retention::Everything | Retention::Revisions(_) => FOR_EVER,
        };
        let (history_bytes, warning) = quota::quota(self.quota_backend_bytes, memory);
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        if self.max_request_bytes > LARGEST {
            tracing::warn!(asked = self.max_request_bytes, "--max-request-bytes is {LARGEST} at most");
        }
        let max_txn_bytes = self.max_request_bytes.min(LARGEST);
        Ok(store::embedded::Options { history_age, history_bytes, max_txn_bytes, ..Default::default() })
    }
}

use crate::config::apiserver::duration;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    fn given(flags: &[&str]) -> Options {
        Program::try_parse_from([&["etcd"], flags].concat()).unwrap().options
    }

    #[test]
    fn history_is_kept_as_etcd_keeps_it() {
        let minutes = |minutes: u64| Retention::Age(Duration::from_secs(60 * minutes));
        for (mode, retention, expected) in [
            ("periodic", "0", Some(Retention::Everything)),
            ("periodic", "0s", Some(Retention::Everything)),
            ("periodic", "1", Some(minutes(60))),
            ("periodic", "30m", Some(minutes(30))),
            ("periodic", "1h30m", Some(minutes(90))),
            ("revision", "0", Some(Retention::Everything)),
            ("revision", "1000", Some(Retention::Revisions(1000))),
            ("revision", "1h", None),
            ("periodic", "long", None),
            ("periodic", "18446744073709551615", None),
        ] {
            let options = given(&[
                &format!("--auto-compaction-mode={mode}"),
                &format!("--auto-compaction-retention={retention}"),
            ]);
            assert_eq!(options.retention().ok(), expected, "{mode} {retention}");
        }
        let of = |flags: &[&str]| {
            let engine = given(flags).engine(Some(4 << 30));
            engine.map(|engine| (engine.history_age, engine.history_bytes))
        };
        assert_eq!(of(&[]).unwrap(), (FOR_EVER, 1 << 30), "nothing is forgotten for its age");
        let day = Duration::from_secs(86_400);
        let flags = ["--auto-compaction-retention=24", "--quota-backend-bytes=8589934592"];
        assert_eq!(of(&flags).unwrap(), (day, 8 << 30));
        assert_eq!(given(&["--max-request-bytes=33554432"]).engine(None).unwrap().max_txn_bytes, LARGEST);
    }

    #[test]
    fn watches_are_told_as_often_as_by_etcd() {
        for (given_as, millis) in [("0", 600_000), ("1ns", 100), ("100ms", 100), ("5s", 5_000)] {
            let options = given(&[&format!("--watch-progress-notify-interval={given_as}")]);
            assert_eq!(options.progress_interval(), Duration::from_millis(millis), "{given_as}");
        }
    }

    /// As kubeadm 1.34 writes its manifest of a first control plane.
    const KUBEADM: &[&str] = &[
        "--advertise-client-urls=https://10.0.0.1:2379",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--client-cert-auth=true",
        "--data-dir=/var/lib/etcd",
        "--experimental-initial-corrupt-check=true",
        "--experimental-watch-progress-notify-interval=5s",
        "--feature-gates=InitialCorruptCheck=true",
        "--watch-progress-notify-interval=5s",
        "--initial-advertise-peer-urls=https://10.0.0.1:2380",
        "--initial-cluster=one=https://10.0.0.1:2380",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.1:2380",
        "--name=one",
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
        "--peer-client-cert-auth=true",
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--snapshot-count=10000",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
    ];

    #[test]
    fn manifests_of_etcd_are_understood() {
        // Each of the two names of one flag stands in another version's manifest.
        for left_out in ["--experimental-watch-progress", "--watch-progress"] {
            let flags: Vec<_> = KUBEADM.iter().copied().filter(|flag| !flag.starts_with(left_out)).collect();
            let options = given(&flags);
            options.others.check().unwrap();
            assert_eq!(options.listen_client_urls, ["https://127.0.0.1:2379", "https://10.0.0.1:2379"]);
            assert_eq!(options.listen_metrics_urls, ["http://127.0.0.1:2381"]);
            assert_eq!(options.progress_interval(), Duration::from_secs(5));
            assert!(options.client_cert_auth);
        }
        let switches = given(&["--client-cert-auth", "--strict-reconfig-check", "--pre-vote=false"]);
        assert!(switches.client_cert_auth && switches.others.check().is_ok());
        assert!(!given(&["--client-cert-auth=false"]).client_cert_auth);
        assert!(given(&["--client-cert-auth=1"]).client_cert_auth);
        assert!(Program::try_parse_from(["etcd", "--no-such-flag=1"]).is_err());
        assert!(given(&["--initial-cluster=a=http://a:2380,b=http://b:2380"]).others.check().is_err());
    }
}
