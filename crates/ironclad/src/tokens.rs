//! `ironclad token`: prints and changes the tokens by which other machines join this server's cluster.
//!
//! Reads the files that the server keeps in its data directory; asks a running server to change a token. Not here: what they
//! say (`pki::token`), what they open (`join`), how all servers come to have the same ([`shared`]).

pub mod shared;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use api::Object;
use http::Method;
use pki::token::Secret;
use pki::{Token, Tokens};
use serde_json::json;

use crate::config;
use crate::join::HandedOver;
use crate::members::{self, Target};
use crate::roles::tokens::PATH;

/// Which token.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Print the token by which servers join: whoever has it can have all keys of the cluster
    Server(config::DataDir),
    /// Print the token by which agents join
    Agent(config::DataDir),
    /// Change a token of the running cluster: the old one lets nobody join any more, on any server
    Rotate {
        #[command(subcommand)]
        which: Which,
    },
}

/// Which token is changed. Who has joined stays.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Which {
    /// That by which servers join
    Server(Target),
    /// That by which agents join
    Agent(Target),
}

/// Does it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    let file = match &command {
        Command::Server(dirs) => Tokens::server_file(&dirs.data_dir),
        Command::Agent(dirs) => Tokens::agent_file(&dirs.data_dir),
        Command::Rotate { which } => return rotate(which).await,
    };
    let token =
        read(&file).context("a server keeps it in its --data-dir, and makes it at its first start")?;
    writeln!(std::io::stdout(), "{token}").context("cannot print")
}

/// Has a running server change a token, and prints the new one where this is that server.
async fn rotate(which: &Which) -> anyhow::Result<()> {
    let (name, target, file) = match which {
        Which::Server(target) => ("server", target, Tokens::server_file(&target.dirs.data_dir)),
        Which::Agent(target) => ("agent", target, Tokens::agent_file(&target.dirs.data_dir)),
    };
    let before = read(&file).ok();
    let client = members::connect(target)?;
    let answer = client.request(Method::POST, &format!("{PATH}/{name}"), None).await;
    answer.with_context(|| format!("the token by which a {name} joins cannot be changed"))?;
    let mut out = std::io::stdout();
    match read(&file).ok().filter(|token| before.as_ref() != Some(token)) {
        Some(token) => writeln!(out, "{token}"),
        None => writeln!(out, "The token is changed: `ironclad token {name}` prints it on each server."),
    }
    .context("cannot print")
}

/// The token in a file.
pub fn read(file: &PathBuf) -> anyhow::Result<Token> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Token::parse(&text).with_context(|| format!("{} holds no token", file.display()))
}

/// Name of the Secret by which the API server knows the agents' token.
pub fn bootstrap_secret_name(token: &Secret) -> Option<String> {
    match token {
        Secret::Agent { id, .. } => Some(format!("bootstrap-token-{id}")),
        Secret::Server(_) => None,
    }
}

/// That Secret. It never expires; who removes it ends the token for good.
/// Upstream: bootstrap tokens (bootstrap.kubernetes.io), with the extra group that kubeadm gives nodes.
pub fn bootstrap_secret(token: &Secret) -> Option<Object> {
    let name = bootstrap_secret_name(token)?;
    let Secret::Agent { id, secret } = token else { return None };
    let data = [
        ("token-id", id.as_str()),
        ("token-secret", secret.as_str()),
        ("description", "Lets agents join, by the token in the file agent-token of the servers."),
        ("usage-bootstrap-authentication", "true"),
        ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
    ];
    let data: serde_json::Map<_, _> =
        data.map(|(key, value)| (key.to_owned(), encoded(value).into())).into_iter().collect();
    Some(Object(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": name, "namespace": "kube-system"},
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
