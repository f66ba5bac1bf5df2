//! How a runtime calls a chain of plugins.
//!
//! Reads the first configuration list of a directory; runs the plugins of its chain, each with the result of
//! the one before; keeps configuration and last result in a cache directory for DEL and CHECK. A plugin whose file is this
//! very program is called in the same process, without a fork. Not here: what a plugin does.
//!
//! Upstream: containernetworking/cni libcni.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cni::{Arguments, Code, Command, Config, Error, Success},
    plugin, plugins,
};

/// A network: the chain of plugins that a runtime calls for each sandbox.
#[derive(Clone, Debug)]
pub struct Network {
    name: String,
    version: String,
    chain: Vec<Value>,
    /// The whole configuration, as it was read.
    list: Value,
    bin_dir: PathBuf,
    cache_dir: PathBuf,
}

/// What a runtime knows of the sandbox to connect.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// ID of the sandbox.
    pub id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// Name, namespace and UID of the pod, for `CNI_ARGS`.
    pub pod_name: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// Host ports, as the `portMappings` capability wants them: `[{"hostPort", "containerPort", "protocol", "hostIP"}]`.
    pub port_mappings: Vec<Value>,
}

/// How long one plugin may take: half of what a kubelet waits for a sandbox.
const DEADLINE: Duration = Duration::from_secs(120);

/// Interface name of a pod's first network.
const INTERFACE: &str = "eth0";

impl Network {
    /// Loads the network of the alphabetically first `*.conflist` or `*.conf` in a directory.
    ///
    /// `NotAvailable` when there is none yet: the node is not ready for pods then.
    pub fn load(conf_dir: &Path, bin_dir: &Path, cache_dir: &Path) -> Result<Self, Error> {
        let unavailable = |why: String| Error::new(Code::NotAvailable, why);
        let mut files: Vec<PathBuf> = fs::read_dir(conf_dir)
            .map_err(|error| unavailable(format!("cni config load failed: {}: {error}", conf_dir.display())))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension().is_some_and(|kind| ["conflist", "conf", "json"].iter().any(|k| kind == *k))
            })
            .collect();
        files.sort();
        let path = files.first().ok_or_else(|| {
            unavailable(format!("cni config load failed: no network config found in {}", conf_dir.display()))
        })?;
        let text = fs::read(path).map_err(|error| unavailable(format!("{}: {error}", path.display())))?;
        let list: Value = serde_json::from_slice(&text)
            .map_err(|error| Error::new(Code::Decoding, format!("{}: {error}", path.display())))?;
        Self::parse(&list, bin_dir, cache_dir).ok_or_else(|| {
            Error::new(Code::InvalidConfig, format!("{} is no network configuration", path.display()))
        })
    }

    fn parse(list: &Value, bin_dir: &Path, cache_dir: &Path) -> Option<Self> {
        let chain = match list.get("plugins") {
            Some(plugins) => plugins.as_array()?.clone(),
            None => vec![list.clone()],
        };
        Some(Self {
            name: list["name"].as_str()?.to_owned(),
            version: list["cniVersion"].as_str().unwrap_or("0.3.0").to_owned(),
            chain: (!chain.is_empty()).then_some(chain)?,
            list: list.clone(),
            bin_dir: bin_dir.into(),
            cache_dir: cache_dir.into(),
        })
    }

    /// Connects a sandbox. When a plugin fails, what those before it made is undone.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Success, Error> {
        let namespace = plugins::bridge::open_namespace(&sandbox.netns)?;
        plugins::loopback::set_up(&namespace)?;
        let outcome = self.add_chain(sandbox).and_then(|result| {
            let success = serde_json::from_value(result.clone())
                .map_err(|error| Error::new(Code::Decoding, format!("the plugins' result: {error}")))?;
            self.remember(sandbox, &result)?;
            Ok(success)
        });
        outcome.inspect_err(|_| {
            // The first error is the one worth telling.
            let _ = self.del(sandbox);
        })
    }

    fn add_chain(&self, sandbox: &Sandbox) -> Result<Value, Error> {
        let mut result = Value::Null;
        for plugin in &self.chain {
            result = self.call(plugin, Command::Add, sandbox, &result)?;
        }
        Ok(result)
    }

    /// Disconnects a sandbox: the chain backwards, as it was when the sandbox was connected. All plugins are called; the
    /// first error is told.
    pub fn del(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let (file, known) = self.recall(sandbox);
        let then = known.config.as_ref().and_then(|list| Self::parse(list, &self.bin_dir, &self.cache_dir));
        let network = then.as_ref().unwrap_or(self);
        let mut outcome = Ok(());
        for plugin in network.chain.iter().rev() {
            outcome = outcome.and(network.call(plugin, Command::Del, sandbox, &known.result).map(drop));
        }
        if outcome.is_ok() {
            let _ = fs::remove_file(file);
        }
        outcome
    }

    /// Verifies that a sandbox is still connected.
    pub fn check(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let previous = self.recall(sandbox).1.result;
        for plugin in &self.chain {
            self.call(plugin, Command::Check, sandbox, &previous)?;
        }
        Ok(())
    }

    fn call(
        &self,
        plugin: &Value,
        command: Command,
        sandbox: &Sandbox,
        previous: &Value,
    ) -> Result<Value, Error> {
        let mut config = plugin.clone();
        config["name"] = self.name.clone().into();
        config["cniVersion"] = self.version.clone().into();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let mappings = &plugin["capabilities"]["portMappings"];
        if mappings.as_bool() == Some(true) && !sandbox.port_mappings.is_empty() {
            config["runtimeConfig"] = json!({"portMappings": sandbox.port_mappings});
        }
        let kind = plugin["type"].as_str().unwrap_or_default().to_owned();
        let config: Config = serde_json::from_value(config)
            .map_err(|error| Error::new(Code::InvalidConfig, format!("plugin {kind:?}: {error}")))?;
        call_plugin(&kind, command, &self.arguments(sandbox), &config).map_err(|error| Error {
            message: format!("plugin type={kind:?} failed ({}): {error}", command.as_str().to_lowercase()),
            ..error
        })
    }

    fn arguments(&self, sandbox: &Sandbox) -> Arguments {
        Arguments {
            container_id: sandbox.id.clone(),
            netns: sandbox.netns.clone(),
            interface: INTERFACE.into(),
            extra: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                sandbox.pod_namespace, sandbox.pod_name, sandbox.id, sandbox.pod_uid
            ),
            path: vec![self.bin_dir.clone()],
        }
    }

    fn remember(&self, sandbox: &Sandbox, result: &Value) -> Result<(), Error> {
        let path = self.cache_dir.join(format!("{}{}", self.name, cache_suffix(sandbox)));
        let known = json!({"config": self.list, "result": result});
        let write = || {
            fs::create_dir_all(&self.cache_dir)?;
            fs::write(&path, known.to_string())
        };
        write().map_err(|error: io::Error| Error::new(Code::Io, format!("{}: {error}", path.display())))
    }

    /// What is known of a sandbox's connection, and in which file: of this network or, if the configuration has changed
    /// its name since, of another.
    fn recall(&self, sandbox: &Sandbox) -> (PathBuf, Known) {
        let suffix = cache_suffix(sandbox);
        let own = self.cache_dir.join(format!("{}{suffix}", self.name));
        let path = if own.exists() {
            own
        } else {
            let entries = fs::read_dir(&self.cache_dir).into_iter().flatten().flatten();
            let mut paths = entries.map(|entry| entry.path());
            paths.find(|path| path.to_string_lossy().ends_with(&suffix)).unwrap_or(own)
        };
        // A lost cache makes DEL and CHECK weaker, not impossible: the specification allows no prevResult.
        let known =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        (path, known)
    }
}

/// The end of the name of a sandbox's file of [`Known`].
fn cache_suffix(sandbox: &Sandbox) -> String {
    format!("-{}-{INTERFACE}", sandbox.id)
}

/// What is kept of a connection, for its end.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Known {
    /// The configuration it was made by.
    config: Option<Value>,
    /// What the last plugin answered.
    result: Value,
}

/// Calls one plugin by its type: in this process when its file is this program, else by running it.
pub fn call_plugin(
    kind: &str,
    command: Command,
    arguments: &Arguments,
    config: &Config,
) -> Result<Value, Error> {
    if kind.is_empty() || kind.contains('/') {
        return Err(Error::new(Code::InvalidConfig, format!("invalid plugin type {kind:?}")));
    }
    let file = arguments.path.iter().map(|directory| directory.join(kind)).find(|path| path.exists());
    match (file, plugins::find(kind)) {
        (Some(path), embedded) => match embedded.filter(|_| is_this_program(&path)) {
            Some(embedded) => plugin::call(embedded, command, arguments, config),
            None => run(&path, command, arguments, config),
        },
        (None, _) => {
            Err(Error::failed(format!("failed to find plugin {kind:?} in path {:?}", arguments.path)))
        }
    }
}

fn is_this_program(path: &Path) -> bool {
    static SELF: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let own = SELF.get_or_init(|| identity(&env::current_exe().ok()?));
    own.is_some() && identity(path) == *own
}

fn run(path: &Path, command: Command, arguments: &Arguments, config: &Config) -> Result<Value, Error> {
    let failed = |error: io::Error| Error::failed(format!("{}: {error}", path.display()));
    let mut child = process::Command::new(path)
        .env("CNI_COMMAND", command.as_str())
        .env("CNI_CONTAINERID", &arguments.container_id)
        .env("CNI_NETNS", &arguments.netns)
        .env("CNI_IFNAME", &arguments.interface)
        .env("CNI_ARGS", &arguments.extra)
        .env("CNI_PATH", env::join_paths(&arguments.path).unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that its end is also that of whatever it has started.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let text = serde_json::to_vec(config).map_err(|error| Error::new(Code::Decoding, error.to_string()))?;
    let watchdog = Watchdog::start(child.id(), DEADLINE).map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A plugin that ends without reading tells why on standard output.
        let _ = input.write_all(&text);
    }
    let output = child.wait_with_output();
    if watchdog.stop() {
        return Err(Error::failed(format!("{}: no answer within {DEADLINE:?}", path.display())));
    }
    let output = output.map_err(failed)?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() {
        return Ok(answer);
    }
    let told = answer["msg"].as_str().map(ToOwned::to_owned);
    let message = told.unwrap_or_else(|| {
        format!("netplugin failed with no error message: {}", String::from_utf8_lossy(&output.stderr).trim())
    });
    let code = answer["code"].as_u64().and_then(|code| u32::try_from(code).ok());
    Err(Error { code: code.unwrap_or(Code::Failed as u32), message })
}

/// Kills a process group when its time is over.
struct Watchdog {
    done: mpsc::Sender<()>,
    thread: thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(group: u32, deadline: Duration) -> io::Result<Self> {
        let (done, finished) = mpsc::channel();
        let thread =
            thread::Builder::new().name("cni-deadline".into()).stack_size(64 * 1024).spawn(move || {
                let late = finished.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout);
                if late && let Ok(group) = i32::try_from(group) {
                    let _ = sys::process::kill(-group, sys::process::KILL);
                }
                late
            })?;
        Ok(Self { done, thread })
    }

    /// Lets go; whether the time was over.
    fn stop(self) -> bool {
        let _ = self.done.send(());
        self.thread.join().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_hangs_is_ended_with_what_it_started() {
        // The inner shell holds the pipe open as well.
        let mut command = process::Command::new("/bin/sh");
        command.args(["-c", "sh -c 'sleep 1000; echo never' & sleep 1000; echo never"]).process_group(0);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::start(child.id(), Duration::from_millis(50)).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(watchdog.stop());
        assert_eq!(output.stdout, b"");
    }
}
