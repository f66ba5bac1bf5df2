//! The commands of `ironclad` and their flags.
//!
//! Reads the process arguments; starts the event loop a command needs. Not here: what a command does.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use anyhow::Context;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser};

use crate::{
    agent, config, demo, demo_app, images, members, roles, server, store_commands, tokens, uninstall,
};

/// A whole Kubernetes in one program
#[derive(Debug, Parser)]
#[command(name = "ironclad", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a cluster: control plane and node in one process
    Server(Box<config::Server>),
    /// Run a node of a cluster whose servers are elsewhere
    Agent(Box<config::agent::Agent>),
    /// Run the store alone, behind the etcd v3 API
    Etcd(Box<roles::etcd::Options>),
    /// Look after a store: save and restore it, verify, compact, dump
    Store {
        #[command(subcommand)]
        command: store_commands::Command,
    },
    /// Print or change the tokens by which other machines join this cluster
    Token {
        #[command(subcommand)]
        command: tokens::Command,
    },
    /// Look after the servers that keep the store together
    Member {
        #[command(subcommand)]
        command: members::Command,
    },
    /// Start a cluster and run a first workload in it
    Demo(demo::Options),
    /// Manage the images of this node
    Images {
        #[command(subcommand)]
        command: images::Command,
    },
    /// Measure this cluster against its targets
    Bench {
        #[command(subcommand)]
        command: bench::Command,
    },
    /// Stop everything and remove every trace from this machine
    Uninstall(uninstall::Options),
    /// The program inside the demo's image
    #[command(hide = true)]
    DemoApp {
        #[command(subcommand)]
        command: demo_app::Command,
    },
}

/// Runs the command that the arguments name.
pub fn run(arguments: Vec<OsString>) -> anyhow::Result<()> {
    let arguments = config::with_file(arguments, |name| std::env::var_os(name))?;
    let command = Cli::command().mut_subcommand("etcd", |etcd| {
        roles::etcd::others::without_empty_variables(etcd, |name| std::env::var_os(name))
    });
    let matches = command.clone().get_matches_from(arguments);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        Command::Server(mut options) => {
            options.flags = flags_of_the_api_server(&command, &matches);
            options.logs.start()?;
            event_loop()?.block_on(server::run(*options))
        }
        Command::Agent(options) => {
            options.logs.start()?;
            event_loop()?.block_on(agent::run(*options))
        }
        Command::Etcd(options) => {
            options.start_logs()?;
            event_loop()?.block_on(roles::etcd::run(*options))
        }
        Command::Store { command } => event_loop()?.block_on(store_commands::run(command)),
        Command::Member { command } => event_loop()?.block_on(members::run(command)),
        Command::Token { command } => event_loop()?.block_on(tokens::run(command)),
        Command::Demo(options) => event_loop()?.block_on(demo::run(options)),
        Command::Images { command } => images::run(command),
        Command::Bench { command } => event_loop()?.block_on(bench::run(command, &own_path()?)),
        Command::Uninstall(options) => uninstall::run(&options),
        Command::DemoApp { command } => demo_app::run(command),
    }
}

/// The flags of the API server and their values, given or not: what it shows on a page. None of them is a secret.
fn flags_of_the_api_server(command: &clap::Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let found = command.find_subcommand("server").zip(matches.subcommand_matches("server"));
    let Some((server, matches)) = found else { return BTreeMap::new() };
    let flags =
        server.get_arguments().filter(|flag| flag.get_help_heading() == Some(config::apiserver::HEADING));
    let shown = flags.filter_map(|flag| {
        let values = matches.try_get_raw(flag.get_id().as_str()).ok().flatten();
        let values: Vec<_> = values.into_iter().flatten().map(|value| value.to_string_lossy()).collect();
        Some((flag.get_long()?.to_owned(), values.join(",")))
    });
    shown.collect()
}

/// Path of this program.
pub fn own_path() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find the path of this program")
}

fn event_loop() -> anyhow::Result<tokio::runtime::Runtime> {
    // Control loops wait far more than they compute: more threads only cost memory.
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(64)
        // Address space, not memory: a request from within comes with its caller's stack, and an overflow would end
        // the server.
        .thread_stack_size(4 << 20)
        .enable_all()
        .build()
        .context("cannot start the event loop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_flags_are_known_with_their_values() {
        let given = ["ironclad", "server", "--max-requests-inflight=7", "--authorization-mode=Node,RBAC"];
        let command = Cli::command();
        let matches = command.clone().get_matches_from(given);
        let flags = flags_of_the_api_server(&command, &matches);
        assert_eq!(flags["max-requests-inflight"], "7");
        assert_eq!(flags["max-mutating-requests-inflight"], "200");
        assert_eq!(flags["authorization-mode"], "Node,RBAC");
        assert_eq!((flags["token-auth-file"].as_str(), flags.get("data-dir")), ("", None));
    }
}
