//! What a plugin is, and how this binary becomes one when a runtime runs it under a plugin's name.
//!
//! Reads the `CNI_*` environment and the configuration on standard input; writes the result, or the error,
//! to standard output as the specification says. Not here: what each plugin does (`plugins/`).
//!
//! Upstream: containernetworking/cni pkg/skel.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::{
    cni::{Arguments, Code, Command, Config, Error, Success, VERSIONS},
    plugins,
};

/// One network plugin. Calls may come at the same time for different containers.
pub trait Plugin: Sync {
    /// Attaches a container and tells what it was given.
    fn add(&self, arguments: &Arguments, config: &Config) -> Result<Success, Error>;
    /// Detaches a container; what is gone already is no error.
    fn del(&self, arguments: &Arguments, config: &Config) -> Result<(), Error>;
    /// Verifies that what ADD made is still there.
    fn check(&self, arguments: &Arguments, config: &Config) -> Result<(), Error>;
    /// Drops what belongs to none of the attachments named in `cni.dev/valid-attachments`.
    fn gc(&self, _config: &Config) -> Result<(), Error> {
        Ok(())
    }
    /// Whether an ADD could be served now.
    fn status(&self, _config: &Config) -> Result<(), Error> {
        Ok(())
    }
}

/// Calls a plugin: the one way in, for a process of its own and for a call within one.
///
/// Answers the JSON for standard output; `Null` where the protocol says that nothing is printed.
pub fn call(
    plugin: &dyn Plugin,
    command: Command,
    arguments: &Arguments,
    config: &Config,
) -> Result<Value, Error> {
    if command == Command::Version {
        return Ok(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}));
    }
    let version = if config.cni_version.is_empty() { "0.3.0" } else { &config.cni_version };
    if !VERSIONS.contains(&version) {
        return Err(Error::new(
            Code::IncompatibleVersion,
            format!("incompatible CNI versions: config is {version:?}, plugin supports {VERSIONS:?}"),
        ));
    }
    let needs_container = matches!(command, Command::Add | Command::Del | Command::Check);
    if needs_container && (arguments.container_id.is_empty() || arguments.interface.is_empty()) {
        return Err(Error::new(
            Code::InvalidEnvironment,
            "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing",
        ));
    }
    if matches!(command, Command::Add | Command::Check) && arguments.netns.as_os_str().is_empty() {
        return Err(Error::new(Code::InvalidEnvironment, "required env variables [CNI_NETNS] missing"));
    }
    match command {
        Command::Add => plugin.add(arguments, config).map(|result| result.to_json(version)),
        Command::Del => plugin.del(arguments, config).map(|()| Value::Null),
        Command::Check => plugin.check(arguments, config).map(|()| Value::Null),
        Command::Gc => plugin.gc(config).map(|()| Value::Null),
        Command::Status => plugin.status(config).map(|()| Value::Null),
        Command::Version => Ok(Value::Null),
    }
}

/// Runs the process as the plugin of this name, as a runtime expects it. Not a plugin's name: exit code 1.
pub fn plugin_main(name: &str) -> ExitCode {
    let mut input = String::new();
    let (version, outcome) = match std::io::stdin().read_to_string(&mut input) {
        Ok(_) => run(name, &input),
        Err(error) => {
            ("1.0.0".to_owned(), Err(Error::new(Code::Io, format!("cannot read the configuration: {error}"))))
        }
    };
    let (answer, code) = match outcome {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&version), ExitCode::FAILURE),
    };
    if answer.is_null() || writeln!(std::io::stdout(), "{answer}").is_ok() { code } else { ExitCode::FAILURE }
}

fn run(name: &str, input: &str) -> (String, Result<Value, Error>) {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let arguments = Arguments {
        container_id: variable("CNI_CONTAINERID"),
        netns: PathBuf::from(variable("CNI_NETNS")),
        interface: variable("CNI_IFNAME"),
        extra: variable("CNI_ARGS"),
        path: std::env::split_paths(&variable("CNI_PATH")).collect(),
    };
    let command = match variable("CNI_COMMAND").parse() {
        Ok(command) => command,
        Err(error) => return ("1.0.0".to_owned(), Err(error)),
    };
    // VERSION may come with nothing but a version on standard input, or with nothing at all.
    let config = match serde_json::from_str::<Config>(input) {
        Ok(config) => config,
        Err(_) if command == Command::Version => Config::default(),
        Err(error) => {
            let error = Error::new(Code::Decoding, format!("error unmarshalling network config: {error}"));
            return ("1.0.0".to_owned(), Err(error));
        }
    };
    let version = config.cni_version.clone();
    let Some(plugin) = plugins::find(name) else {
        return (version, Err(Error::failed(format!("there is no plugin {name:?} in this binary"))));
    };
    (version, call(plugin, command, &arguments, &config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_calls_are_refused_with_the_specification_s_codes() {
        let plugin = plugins::find("loopback").unwrap();
        let complete = Arguments {
            container_id: "c".into(),
            netns: "/proc/self/ns/net".into(),
            interface: "lo".into(),
            ..Arguments::default()
        };
        let config = |version: &str| Config { cni_version: version.into(), ..Config::default() };
        let cases = [
            (Command::Add, complete.clone(), config("9.9.9"), 1),
            (Command::Add, Arguments { container_id: String::new(), ..complete.clone() }, config("1.0.0"), 4),
            (Command::Add, Arguments { netns: PathBuf::new(), ..complete.clone() }, config("1.0.0"), 4),
        ];
        for (command, arguments, config, code) in cases {
            assert_eq!(call(plugin, command, &arguments, &config).unwrap_err().code, code);
        }
        let versions = call(plugin, Command::Version, &Arguments::default(), &config("")).unwrap();
        assert_eq!(versions["supportedVersions"].as_array().unwrap().len(), VERSIONS.len());
    }
}
