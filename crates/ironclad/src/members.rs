//! `ironclad member`: who keeps the store together, and the end of a member whose server does not come back.
//!
//! Asks a running server, as the administrator that its kubeconfig names. Not here: what a server answers
//! (`roles::members`).

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use client::{Client, HttpsTransport};
use controllers::certificates::api_servers;
use http::Method;

use crate::config::DataDir;
use crate::roles::members::{List, One, PATH, State};

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Print the members, and which of them leads
    List(Target),
    /// Remove a member for good; its server may then only come back with an empty data directory
    Remove {
        /// Its id, or its name where only one has it
        member: String,
        #[command(flatten)]
        target: Target,
    },
}

/// Which server is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// Kubeconfig of an administrator; that in the data directory by default
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub dirs: DataDir,
}

/// Does it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(target) => print(&list(&connect(&target)?).await?),
        Command::Remove { member, target } => {
            let client = connect(&target)?;
            let removed = find(&list(&client).await?, &member)?;
            let answer = client.request(Method::DELETE, &format!("{PATH}/{}", removed.id), None).await;
            let left: List =
                serde_json::from_value(answer.with_context(|| format!("{member} cannot be removed"))?)?;
            print(&left)?;
            match left.members.iter().any(|member| member.name == removed.name) {
                true => Ok(()),
                false => set_names_free(&client, &removed.name).await,
            }
        }
    }
}

/// A client of the server that is asked, as the administrator of the kubeconfig.
///
/// # Errors
/// A kubeconfig that cannot be used.
pub fn connect(target: &Target) -> anyhow::Result<Client> {
    let path = target.kubeconfig.clone().unwrap_or_else(|| target.dirs.kubeconfig());
    let config = client::kubeconfig::load(&path).with_context(|| format!("cannot use {}", path.display()))?;
    Ok(Client::new(Arc::new(HttpsTransport::new(&config)?), "ironclad"))
}

async fn list(client: &Client) -> anyhow::Result<List> {
    match client.request(Method::GET, PATH, None).await {
        Err(error) if error.is_not_found() => {
            bail!("this server keeps its store alone, or in an external datastore: it has no members")
        }
        other => Ok(serde_json::from_value(other.context("the members cannot be listed")?)?),
    }
}

/// Forgets what the server on a node was called, which it is no more: that machine may become a node.
async fn set_names_free(client: &Client, node: &str) -> anyhow::Result<()> {
    let (namespace, name) = (api_servers::NAMESPACE, api_servers::object_name(node));
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    match client.request(Method::DELETE, &path, None).await {
        Err(error) if !error.is_not_found() => Err(error).with_context(|| {
            format!(
                "the member is removed, but the names of its server are still an API server's: delete the ConfigMap {name} \
                 in {namespace} if {node} is to become an agent"
            )
        }),
        _ => Ok(()),
    }
}

/// The member that a person means.
fn find(list: &List, named: &str) -> anyhow::Result<One> {
    let mut found = list.members.iter().filter(|member| member.id == named || member.name == named);
    match (found.next(), found.next()) {
        (Some(member), None) => Ok(member.clone()),
        (None, _) => bail!("no member has the id or name {named:?}"),
        _ => bail!("several members are called {named:?}: name one by its id"),
    }
}

fn print(list: &List) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(out, "{line}").context("cannot print");
    line(format_args!("{:<16}  {:<24} {:<22} STATE", "ID", "NAME", "ADDRESS"))?;
    for member in &list.members {
        let state = match member.state {
            State::Leader => "leads",
            State::Voter => "votes",
            State::Learner => "learns",
        };
        let silent = if member.silent { ", is not heard of" } else { "" };
        line(format_args!("{}  {:<24} {:<22} {state}{silent}", member.id, member.name, member.address))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_meant_by_its_id_or_by_a_name_of_its_own() {
        let one = |id: &str, name: &str| One {
            id: id.into(),
            name: name.into(),
            address: "10.0.0.1:2380".into(),
            state: State::Voter,
            silent: false,
        };
        let list = List { members: vec![one("a", "first"), one("b", "twin"), one("c", "twin")] };
        assert_eq!(find(&list, "first").unwrap().id, "a");
        assert_eq!(find(&list, "c").unwrap().id, "c");
        assert!(find(&list, "twin").unwrap_err().to_string().contains("several"));
        assert!(find(&list, "d").unwrap_err().to_string().contains("no member"));
    }
}
