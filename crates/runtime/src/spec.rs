//! From what CRI says of a container to what the launcher is told. Pure.
//!
//! Reads the CRI configs and the image's config, writes a [`wire::ContainerSpec`]. Not here: finding
//! files of the image or the host (given by the caller).
//!
//! Upstream: containerd internal/cri/server/container_create (order of mounts, defaults, environment).

use std::path::{Path, PathBuf};

use cri::v1;
use sys::cgroup::Limits;
use sys::cgroup::devices::{self, Rule};
use sys::container::capabilities::{self, Set, Sets};
use sys::container::{Device, Mount, Process, Root, Spec, User};
use sys::mount::Propagation;

use crate::images::config::RunConfig;
use crate::wire::{ContainerSpec, Pids};

/// Why a container cannot be as asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// Neither the pod nor the image says what to run.
    #[error("no command specified")]
    NoCommand,
    /// Not a capability.
    #[error("unknown capability {0:?}")]
    Capability(String),
    /// A mode or option that does not exist for this.
    #[error("{0}")]
    Unsupported(String),
}

/// What a container has if nothing else is said (containerd's default set).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything about a container that is not in its config.
pub(crate) struct Surroundings<'a> {
    /// The pod's config.
    pub sandbox: &'a v1::PodSandboxConfig,
    /// What the image says.
    pub image: &'a RunConfig,
    /// Who runs.
    pub user: User,
    /// The root directory.
    pub root: Root,
    /// Control group path.
    pub cgroup: String,
    /// The pod's shared memory; `None`: the host's.
    pub shm: Option<PathBuf>,
    /// Files of the pod: hostname and resolv.conf.
    pub sandbox_files: PathBuf,
    /// The host's capabilities.
    pub available: Set,
    /// Whether the host keeps devices from the container ([`sys::cgroup::Layout::filters_devices`]).
    pub filtered: bool,
    /// The compiled seccomp filter.
    pub seccomp: Option<sys::seccomp::Program>,
    /// Devices of the host, for a privileged container.
    pub host_devices: Vec<Device>,
    /// Devices asked for.
    pub devices: Vec<(Device, String)>,
    /// Log file.
    pub log: Option<PathBuf>,
}

/// The security context, or an empty one.
pub(crate) fn security(config: &v1::ContainerConfig) -> v1::LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|l| l.security_context.clone()).unwrap_or_default()
}

/// The capability sets of a container. Where nothing keeps it from opening devices (`filtered` is false) making their
/// nodes is not among what it has unasked: the node of the host's disk is the host.
pub(crate) fn capabilities(
    security: &v1::LinuxContainerSecurityContext,
    available: Set,
    filtered: bool,
) -> Result<Sets, Error> {
    if security.privileged {
        return Ok(Sets { bounding: available, effective: available, inheritable: Set(0), ambient: Set(0) });
    }
    let wanted = security.capabilities.clone().unwrap_or_default();
    let bit = |name: &String| {
        let name = name.to_uppercase();
        let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
        capabilities::bit(&name).ok_or(Error::Capability(name))
    };
    let is_all = |names: &[String]| names.iter().any(|n| n.eq_ignore_ascii_case("all"));
    let named = |names: &[String]| {
        names.iter().filter(|n| !n.eq_ignore_ascii_case("all")).map(bit).collect::<Result<Vec<_>, _>>()
    };
    let default = DEFAULT_CAPABILITIES.iter().filter(|name| filtered || **name != "CAP_MKNOD");
    let mut set = default.filter_map(|n| capabilities::bit(n)).fold(Set(0), Set::with);
    if is_all(&wanted.add_capabilities) {
        set = available;
    }
    if is_all(&wanted.drop_capabilities) {
        set = Set(0);
    }
    set = named(&wanted.add_capabilities)?.into_iter().fold(set, Set::with);
    set = named(&wanted.drop_capabilities)?.into_iter().fold(set, Set::without);
    let ambient = named(&wanted.add_ambient_capabilities)?.into_iter().fold(Set(0), Set::with);
    let set = Set(set.0 | ambient.0);
    Ok(Sets { bounding: set, effective: set, inheritable: ambient, ambient })
}

/// The whole specification.
pub(crate) fn build(config: &v1::ContainerConfig, around: Surroundings<'_>) -> Result<ContainerSpec, Error> {
    let security = security(config);
    let options = security.namespace_options.clone().unwrap_or_default();
    let args = arguments(config, around.image)?;
    let host_network = options.network() == v1::NamespaceMode::Node;
    let pids = match options.pid() {
        v1::NamespaceMode::Container => Pids::Own,
        v1::NamespaceMode::Node => Pids::Host,
        v1::NamespaceMode::Pod => Pids::Sandbox,
        v1::NamespaceMode::Target => Pids::Container(options.target_id.clone()),
    };
    let resources = config.linux.as_ref().and_then(|l| l.resources.clone()).unwrap_or_default();
    let process = Process {
        args,
        env: environment(config, around.image, around.sandbox, host_network),
        cwd: if config.working_dir.is_empty() {
            around.image.working_dir.clone()
        } else {
            config.working_dir.clone()
        },
        user: around.user,
        capabilities: capabilities(&security, around.available, around.filtered)?,
        no_new_privileges: security.no_new_privs,
        seccomp: around.seccomp,
        apparmor: apparmor(&security),
        // Always said: the supervisor's own is not for containers.
        oom_score_adj: Some(resources.oom_score_adj as i32),
        terminal: config.tty,
    };
    let mut devices: Vec<Device> = around.devices.into_iter().map(|(device, _)| device).collect();
    if security.privileged {
        devices.extend(around.host_devices);
    }
    let (masked, readonly) = if security.privileged {
        (vec![], vec![])
    } else {
        (paths(&security.masked_paths), paths(&security.readonly_paths))
    };
    let host_ipc = options.ipc() == v1::NamespaceMode::Node;
    let mounts = mounts(config, &security, host_ipc, around.shm.as_deref(), &around.sandbox_files)?;
    Ok(ContainerSpec {
        spec: Spec {
            process,
            root: Root {
                readonly: security.readonly_rootfs,
                nodev: !around.filtered && !security.privileged,
                ..around.root
            },
            mounts,
            devices,
            masked,
            readonly,
            pids: Default::default(),
            own_cgroup_namespace: !security.privileged,
            cgroup: around.cgroup,
        },
        pids,
        stdin: config.stdin,
        log: around.log,
    })
}

fn paths(all: &[String]) -> Vec<PathBuf> {
    all.iter().map(PathBuf::from).collect()
}

fn apparmor(security: &v1::LinuxContainerSecurityContext) -> Option<String> {
    use v1::security_profile::ProfileType;
    let profile = security.apparmor.as_ref()?;
    // The default profile is loaded by engines that find AppArmor; here only named ones are applied.
    (profile.profile_type() == ProfileType::Localhost && !security.privileged)
        .then(|| profile.localhost_ref.trim_start_matches("localhost/").to_owned())
}

/// Command and arguments: what the pod says, else what the image says; a command of the pod takes the
/// image's arguments out of force.
fn arguments(config: &v1::ContainerConfig, image: &RunConfig) -> Result<Vec<String>, Error> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (image.entrypoint.clone(), image.cmd.clone()),
        (true, false) => (image.entrypoint.clone(), config.args.clone()),
        (false, _) => (config.command.clone(), config.args.clone()),
    };
    let all: Vec<String> = command.into_iter().chain(args).collect();
    if all.is_empty() { Err(Error::NoCommand) } else { Ok(all) }
}

fn environment(
    config: &v1::ContainerConfig,
    image: &RunConfig,
    sandbox: &v1::PodSandboxConfig,
    host_network: bool,
) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default().to_owned() + "=";
        match env.iter_mut().find(|e| e.starts_with(&name)) {
            Some(slot) => *slot = entry,
            None => env.push(entry),
        }
    };
    set(DEFAULT_PATH.to_owned());
    if config.tty {
        set("TERM=xterm".to_owned());
    }
    let hostname = if sandbox.hostname.is_empty() && host_network {
        nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default()
    } else {
        sandbox.hostname.clone()
    };
    set(format!("HOSTNAME={hostname}"));
    for entry in &image.env {
        set(entry.clone());
    }
    for entry in &config.envs {
        set(format!("{}={}", entry.key, entry.value));
    }
    env
}

fn mounts(
    config: &v1::ContainerConfig,
    security: &v1::LinuxContainerSecurityContext,
    host_ipc: bool,
    shm: Option<&Path>,
    files: &Path,
) -> Result<Vec<Mount>, Error> {
    let asked = |path: &str| config.mounts.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    let bind = |source: PathBuf, target: &str, readonly: bool| Mount::Bind {
        source,
        target: target.into(),
        readonly,
        recursive_readonly: false,
        propagation: Propagation::Private,
    };
    let mut all = Vec::new();
    if !asked("/proc") {
        all.push(Mount::Proc);
    }
    if !asked("/dev") {
        all.push(Mount::Dev);
        if !asked("/dev/shm") {
            let source = if host_ipc { Path::new("/dev/shm") } else { shm.unwrap_or(Path::new("/dev/shm")) };
            all.push(bind(source.to_owned(), "/dev/shm", false));
        }
        if !asked("/dev/mqueue") {
            all.push(Mount::Mqueue { target: "/dev/mqueue".into() });
        }
    }
    if !asked("/sys") {
        all.push(Mount::Sysfs { readonly: !security.privileged });
        if !asked("/sys/fs/cgroup") {
            all.push(Mount::Cgroup { readonly: !security.privileged });
        }
    }
    let readonly_root = security.readonly_rootfs;
    for (name, target) in
        [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")]
    {
        if !asked(target) {
            all.push(bind(files.join(name), target, readonly_root));
        }
    }
    let mut own: Vec<&v1::Mount> = config.mounts.iter().collect();
    // Parents before children, otherwise in the order given.
    own.sort_by_key(|m| Path::new(&m.container_path).components().count());
    for mount in own {
        let propagation = match mount.propagation() {
            v1::MountPropagation::PropagationPrivate => Propagation::Private,
            v1::MountPropagation::PropagationHostToContainer => Propagation::Slave,
            v1::MountPropagation::PropagationBidirectional => Propagation::Shared,
        };
        if mount.recursive_read_only && (!mount.readonly || propagation != Propagation::Private) {
            return Err(Error::Unsupported(format!(
                "recursive read-only mount of {} needs readonly and private propagation",
                mount.container_path
            )));
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(Error::Unsupported("ID-mapped mounts are not supported".to_owned()));
        }
        all.push(Mount::Bind {
            source: mount.host_path.clone().into(),
            target: mount.container_path.clone().into(),
            readonly: mount.readonly,
            recursive_readonly: mount.recursive_read_only,
            propagation,
        });
    }
    Ok(all)
}

/// The limits of a control group.
pub(crate) fn limits(resources: &v1::LinuxContainerResources) -> Limits {
    let some = |n: i64| (n != 0).then_some(n);
    let text = |s: &String| (!s.is_empty()).then(|| s.clone());
    Limits {
        cpu_shares: some(resources.cpu_shares).and_then(|n| u64::try_from(n).ok()),
        cpu_quota: some(resources.cpu_quota),
        cpu_period: some(resources.cpu_period).and_then(|n| u64::try_from(n).ok()),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        memory: some(resources.memory_limit_in_bytes),
        // Without a word on swap a limited container gets none (containerd with swap left off).
        memory_and_swap: some(resources.memory_swap_limit_in_bytes).or(some(resources.memory_limit_in_bytes)),
        pids: None,
        hugepages: resources.hugepage_limits.iter().map(|h| (h.page_size.clone(), h.limit)).collect(),
        unified: resources.unified.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
    }
}

/// The device rules of a control group.
pub(crate) fn device_rules(privileged: bool, devices: &[(Device, String)]) -> Vec<Rule> {
    if privileged {
        return vec![Rule::all()];
    }
    let mut rules = devices::defaults();
    rules.extend(devices.iter().map(|(device, access)| Rule {
        kind: if device.block { 'b' } else { 'c' },
        major: Some(device.major),
        minor: Some(device.minor),
        access: access.clone(),
    }));
    rules
}

/// The text of a resolv.conf; `None` for an empty config (then the host's is copied).
pub(crate) fn resolv_conf(dns: &v1::DnsConfig) -> Option<String> {
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn commands_follow_the_kubernetes_table() {
        let image = RunConfig { entrypoint: words(&["ep"]), cmd: words(&["cmd"]), ..Default::default() };
        for (command, args, expected) in [
            (&[][..], &[][..], vec!["ep", "cmd"]),
            (&["c"], &[], vec!["c"]),
            (&[], &["a"], vec!["ep", "a"]),
            (&["c"], &["a"], vec!["c", "a"]),
        ] {
            let config =
                v1::ContainerConfig { command: words(command), args: words(args), ..Default::default() };
            assert_eq!(arguments(&config, &image).unwrap(), expected);
        }
        let nothing = arguments(&v1::ContainerConfig::default(), &RunConfig::default());
        assert_eq!(nothing, Err(Error::NoCommand));
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let all = Set(0x1ff_ffff_ffff);
        let has = |sets: &Sets, name: &str| sets.effective.contains(capabilities::bit(name).unwrap());
        let get = |add: &[&str], drop: &[&str]| {
            let security = v1::LinuxContainerSecurityContext {
                capabilities: Some(v1::Capability {
                    add_capabilities: words(add),
                    drop_capabilities: words(drop),
                    ..Default::default()
                }),
                ..Default::default()
            };
            super::capabilities(&security, all, true)
        };
        let default = get(&[], &[]).unwrap();
        assert!(has(&default, "CAP_CHOWN") && has(&default, "CAP_MKNOD") && !has(&default, "CAP_SYS_ADMIN"));
        let unfiltered = super::capabilities(&Default::default(), all, false).unwrap();
        assert!(has(&unfiltered, "CAP_CHOWN") && !has(&unfiltered, "CAP_MKNOD"));
        assert_eq!(get(&[], &["ALL"]).unwrap().effective, Set(0));
        let one = get(&["NET_BIND_SERVICE"], &["ALL"]).unwrap();
        assert_eq!(one.effective, Set(1 << 10));
        assert!(has(&get(&["ALL"], &["SYS_ADMIN"]).unwrap(), "CAP_BPF"));
        assert!(!has(&get(&["ALL"], &["SYS_ADMIN"]).unwrap(), "CAP_SYS_ADMIN"));
        assert_eq!(get(&["FLY"], &[]), Err(Error::Capability("CAP_FLY".into())));
    }

    #[test]
    fn the_pods_environment_wins_over_the_images() {
        let config = v1::ContainerConfig {
            envs: vec![v1::KeyValue { key: "A".into(), value: "pod".into() }],
            ..Default::default()
        };
        let image = RunConfig { env: words(&["A=image", "B=image"]), ..Default::default() };
        let sandbox = v1::PodSandboxConfig { hostname: "web-0".into(), ..Default::default() };
        let env = environment(&config, &image, &sandbox, false);
        assert_eq!(env, words(&[DEFAULT_PATH, "HOSTNAME=web-0", "A=pod", "B=image"]));
    }

    #[test]
    fn parents_are_mounted_before_children() {
        let mount = |path: &str| v1::Mount {
            container_path: path.into(),
            host_path: "/x".into(),
            ..Default::default()
        };
        let config = v1::ContainerConfig {
            mounts: vec![mount("/a/b"), mount("/a"), mount("/dev/shm")],
            ..Default::default()
        };
        let all = mounts(&config, &Default::default(), false, None, Path::new("/f")).unwrap();
        let targets: Vec<String> = all
            .iter()
            .filter_map(|m| match m {
                Mount::Bind { target, .. } => Some(target.display().to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(targets, ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/a", "/a/b", "/dev/shm"]);
    }

    #[test]
    fn resolv_conf_is_rendered() {
        let dns = v1::DnsConfig {
            servers: words(&["10.43.0.10"]),
            searches: words(&["a.svc", "svc"]),
            options: words(&["ndots:5"]),
        };
        assert_eq!(resolv_conf(&dns).unwrap(), "search a.svc svc\nnameserver 10.43.0.10\noptions ndots:5\n");
        assert_eq!(resolv_conf(&v1::DnsConfig::default()), None);
    }
}
