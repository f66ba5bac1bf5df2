//! The settings of a cluster of several servers that keep the store together.
//!
//! The flags have k3s' names where it has them. Once a server is a member (`<data-dir>/raft/member` exists) they no longer
//! say how to become one. Not here: what is done with them (`roles::store`, `join`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use pki::Token;

/// Port on which members of the store listen for each other.
const PEER_PORT: u16 = 2380;

/// How a server becomes one of several.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Several servers")]
pub struct Cluster {
    /// Make this server the first of several that keep the store together; what its own store has goes into it
    #[arg(long, env = "IRONCLAD_CLUSTER_INIT", conflicts_with_all = ["server", "datastore_endpoint"])]
    pub cluster_init: bool,
    /// Join the cluster of this server, for instance https://10.0.0.1:6443; needs its token
    #[arg(long, env = "IRONCLAD_SERVER", conflicts_with = "datastore_endpoint", value_name = "URL")]
    pub server: Option<String>,
    /// Token to join by, as `ironclad token server` prints it. On a first server: the secret that others are to show
    #[arg(
        long,
        env = "IRONCLAD_TOKEN",
        hide_env_values = true,
        conflicts_with = "token_file",
        value_name = "TOKEN"
    )]
    pub token: Option<String>,
    /// File with that token, which unlike a flag is not shown in the list of processes
    #[arg(long, env = "IRONCLAD_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// After the loss of the majority of the servers for good: go on with this one alone. The others then join it anew
    #[arg(long, env = "IRONCLAD_CLUSTER_RESET", conflicts_with_all = ["server", "cluster_init", "datastore_endpoint"])]
    pub cluster_reset: bool,
    /// Address on which this server listens for the others, and is reached by them; port 2380 of the node by default
    #[arg(long, env = "IRONCLAD_PEER_LISTEN", value_name = "ADDRESS")]
    pub peer_listen: Option<SocketAddr>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Cluster {
    /// The token that was given, if one was.
    pub fn given_token(&self) -> anyhow::Result<Option<Token>> {
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => {
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
            }
            (None, None) => return Ok(None),
        };
        let token = Token::parse(&text).context("--token cannot be used")?;
        if token.server_secret().is_none() {
            bail!("--token is an agent's token; servers join by the one that `ironclad token server` prints");
        }
        Ok(Some(token))
    }

    /// Where to listen for the other members, and where they are told to reach this one.
    pub fn peer_addresses(&self, node_ip: IpAddr) -> (SocketAddr, SocketAddr) {
        let listen = self.peer_listen.unwrap_or(SocketAddr::new(node_ip, PEER_PORT));
        let reached =
            if listen.ip().is_unspecified() { SocketAddr::new(node_ip, listen.port()) } else { listen };
        (listen, reached)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Given {
        #[arg(long)]
        datastore_endpoint: Option<String>,
        #[command(flatten)]
        cluster: Cluster,
    }

    fn given(flags: &[&str]) -> Result<Cluster, clap::Error> {
        let all = std::iter::once("x").chain(flags.iter().copied());
        Given::try_parse_from(all).map(|given| given.cluster)
    }

    #[test]
    fn ways_to_become_a_member_exclude_each_other() {
        for flags in [
            &["--cluster-init", "--server=https://a:6443"][..],
            &["--cluster-init", "--cluster-reset"],
            &["--cluster-reset", "--server=https://a:6443"],
            &["--cluster-init", "--datastore-endpoint=http://a:2379"],
            &["--server=https://a:6443", "--datastore-endpoint=http://a:2379"],
            &["--token=a", "--token-file=b"],
        ] {
            assert!(given(flags).is_err(), "{flags:?}");
        }
        assert!(given(&["--server=https://a:6443", "--token=0123456789abcdef"]).is_ok());
    }

    #[test]
    fn members_are_reached_at_the_node_unless_told_otherwise() {
        let node: IpAddr = "10.0.0.1".parse().unwrap();
        for (flags, listen, reached) in [
            (&[][..], "10.0.0.1:2380", "10.0.0.1:2380"),
            (&["--peer-listen=0.0.0.0:9000"], "0.0.0.0:9000", "10.0.0.1:9000"),
            (&["--peer-listen=10.0.0.2:9000"], "10.0.0.2:9000", "10.0.0.2:9000"),
        ] {
            let expected = (listen.parse().unwrap(), reached.parse().unwrap());
            assert_eq!(given(flags).unwrap().peer_addresses(node), expected, "{flags:?}");
        }
    }

    #[test]
    fn tokens_come_from_a_flag_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let by_file = format!("--token-file={}", file.display());
        let secret = |flag: &str| {
            let token = given(&[flag]).unwrap().given_token();
            token
                .map(|token| token.unwrap().server_secret().unwrap().to_owned())
                .map_err(|e| format!("{e:#}"))
        };
        assert_eq!(secret("--token=0123456789abcdef").unwrap(), "0123456789abcdef");
        assert_eq!(secret(&by_file).unwrap(), "0123456789abcdef");
        assert!(secret("--token=abcdef.0123456789abcdef").unwrap_err().contains("an agent's token"));
        assert!(secret("--token-file=/nonexistent").unwrap_err().contains("cannot read"));
        assert!(secret("--token=short").unwrap_err().contains("at least 16"));
        assert!(given(&[]).unwrap().given_token().unwrap().is_none());
    }
}
