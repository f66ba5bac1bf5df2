//! `ironclad token`: prints the tokens by which other machines join this server's cluster.
//!
//! Reads the files that the server keeps in its data directory. Not here: what they say (`pki::token`), what they open
//! (`join`).

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use api::Object;
use pki::{Token, Tokens};
use serde_json::json;

use crate::config;
use crate::join::HandedOver;

/// Which token.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Print the token by which servers join: whoever has it can have all keys of the cluster
    Server(config::DataDir),
    /// Print the token by which agents join
    Agent(config::DataDir),
}

/// Prints it.
pub fn run(command: &Command) -> anyhow::Result<()> {
    let file = match command {
        Command::Server(dirs) => Tokens::server_file(&dirs.data_dir),
        Command::Agent(dirs) => Tokens::agent_file(&dirs.data_dir),
    };
    let token =
        read(&file).context("a server keeps it in its --data-dir, and makes it at its first start")?;
    writeln!(std::io::stdout(), "{token}").context("cannot print")
}

/// The token in a file.
pub fn read(file: &PathBuf) -> anyhow::Result<Token> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Token::parse(&text).with_context(|| format!("{} holds no token", file.display()))
}

/// The Secret by which the API server knows the agents' token. It never expires; who removes it, and the file, ends the
/// token. Upstream: bootstrap tokens (bootstrap.kubernetes.io), with the extra group that kubeadm gives nodes.
pub fn bootstrap_secret(token: &Token) -> Option<Object> {
    let token = token.bootstrap_token()?;
    let (id, secret) = token.split_once('.')?;
    let data = [
        ("token-id", id),
        ("token-secret", secret),
        ("description", "Lets agents join, by the token in the file agent-token of the servers."),
        ("usage-bootstrap-authentication", "true"),
        ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
    ];
    let data: serde_json::Map<_, _> =
        data.map(|(key, value)| (key.to_owned(), encoded(value).into())).into_iter().collect();
    Some(Object(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
        "data": data,
    })))
}

fn encoded(text: &str) -> String {
    // As the API's own types write bytes.
    let bytes = api::k8s_openapi::ByteString(text.as_bytes().to_vec());
    serde_json::to_value(bytes).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The tokens of the server with this data directory. A first server's secret may be given; one that joins has the
/// cluster's.
pub fn open(
    data_dir: &Path,
    pki: &pki::Pki,
    given: Option<&Token>,
    handed: Option<&HandedOver>,
) -> anyhow::Result<Tokens> {
    let authority = pki.cluster_authority().certificate();
    let problem = "the tokens of this cluster cannot be used";
    if let Some(given) = given.filter(|given| given.names_authority()) {
        given.verify(&authority.pem()).context("--token cannot be used")?;
    }
    if let (Some(given), Some(handed)) = (given, handed) {
        let agent = Token::parse(&handed.agent_token).context(problem)?.secret().clone();
        Tokens::take_over(data_dir, authority, given.secret().clone(), agent).context(problem)?;
    }
    Tokens::open(data_dir, authority, given.and_then(Token::server_secret)).context(problem)
}
