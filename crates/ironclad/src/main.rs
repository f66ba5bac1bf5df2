//! `ironclad`: a whole Kubernetes in one program.
//!
//! This file only decides what the process is: a container's supervisor, a CNI plugin, or a command of a person. The
//! first two must be decided before any thread exists. Commands stand in `cli`, the parts of a cluster in `roles`.

mod agent;
mod cli;
mod config;
mod demo;
mod demo_app;
mod file_watch;
mod images;
mod join;
mod members;
mod node;
mod preflight;
mod progress;
mod roles;
mod server;
mod store_commands;
mod tokens;
mod uninstall;

use std::{ffi::OsString, path::Path, process::ExitCode};

#[global_allocator]
static ALLOCATOR: sys::allocator::Allocator = sys::allocator::Allocator;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A supervisor forks into containers, and a fork copies only the calling thread: nothing may run before.
    if arguments.get(1).is_some_and(|word| word == "runtime-supervisor") {
        let arguments: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
        runtime::supervisor::main(&arguments);
    }
    let called_as =
        arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    if let Some(plugin) = called_as.filter(|name| network::plugins::NAMES.contains(name)) {
        return network::plugin_main(plugin);
    }
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain in one sentence: "cannot start: the port is taken".
            eprintln!("ironclad: {error:#}");
            ExitCode::FAILURE
        }
    }
}
