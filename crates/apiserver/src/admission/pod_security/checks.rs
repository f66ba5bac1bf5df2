//! The Pod Security Standards as a table of checks over a pod's metadata and spec.
//!
//! To add a check: a function that tells what it finds, and its row in [`TABLE`].
//! Upstream: pod-security-admission/policy; the order of the rows is that of its messages.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::json::{items, text};
use super::level::{Level, LevelVersion};

/// The version that "latest" means.
const LATEST: u32 = 37;
/// Since when pods for Windows are held only to what Windows has.
const KNOWS_WINDOWS: u32 = 25;
/// Since when pods in a user namespace of their own may be root in it.
const KNOWS_USER_NAMESPACES: u32 = 35;

/// What one check has against a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Finding {
    /// In a few words.
    pub(super) reason: String,
    /// Where and what.
    pub(super) detail: String,
}

struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    version: u32,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["/initContainers", "/containers", "/ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| items(spec, list))
    }

    /// The names of the containers that `bad` is true of.
    fn where_(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|container| bad(container))
            .map(|container| text(container, "/name"))
            .collect()
    }

    fn is_windows(&self) -> bool {
        self.version >= KNOWS_WINDOWS && text(self.spec, "/os/name") == "windows"
    }

    fn has_user_namespace(&self) -> bool {
        self.version >= KNOWS_USER_NAMESPACES && self.spec["hostUsers"] == false
    }
}

type Check = fn(&Pod<'_>) -> Option<Finding>;

struct Row {
    level: Level,
    /// The minor version that brought the check.
    since: u32,
    /// From when on it is left out at the restricted level, whose own check says more.
    overridden: Option<u32>,
    check: Check,
}

const fn baseline(since: u32, check: Check) -> Row {
    Row { level: Level::Baseline, since, overridden: None, check }
}

const fn overridden(since: u32, from: u32, check: Check) -> Row {
    Row { level: Level::Baseline, since, overridden: Some(from), check }
}

const fn restricted(since: u32, check: Check) -> Row {
    Row { level: Level::Restricted, since, overridden: None, check }
}

const TABLE: &[Row] = &[
    baseline(0, app_armor),
    overridden(0, 22, capabilities),
    baseline(0, host_namespaces),
    overridden(0, 0, host_path),
    baseline(0, host_ports),
    baseline(34, probe_hosts),
    baseline(0, privileged),
    baseline(0, proc_mount),
    baseline(0, se_linux),
    overridden(19, 19, seccomp),
    baseline(0, sysctls),
    baseline(0, host_process),
    restricted(8, privilege_escalation),
    restricted(22, restricted_capabilities),
    restricted(0, volumes),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    restricted(19, restricted_seccomp),
];

/// Everything a standard has against a pod.
pub(super) fn evaluate(standard: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Finding> {
    let version = standard.version.unwrap_or(LATEST);
    let pod = Pod { metadata, spec, version };
    let replaced =
        |row: &Row| standard.level == Level::Restricted && row.overridden.is_some_and(|from| from <= version);
    TABLE
        .iter()
        .filter(|row| row.level <= standard.level && row.since <= version && !replaced(row))
        .filter_map(|row| (row.check)(&pod))
        .collect()
}

fn found(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
    Some(Finding { reason: reason.into(), detail: detail.into() })
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quote<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<String> = values.into_iter().map(|value| format!("{:?}", value.as_ref())).collect();
    quoted.join(", ")
}

fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quote(names))
}

/// "pod", the containers, or both.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, names) => Some(containers(names)),
        (true, names) => Some(format!("pod and {}", containers(names))),
    }
}

fn app_armor(pod: &Pod<'_>) -> Option<Finding> {
    const KEY: &str = "container.apparmor.security.beta.kubernetes.io/";
    let bad = |holder: &Value| {
        let kind = text(holder, "/securityContext/appArmorProfile/type");
        (!matches!(kind, "" | "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
    };
    let values: BTreeSet<String> =
        std::iter::once(pod.spec).chain(pod.containers()).filter_map(bad).collect();
    let mut details = Vec::new();
    if let Some(who) = setters(bad(pod.spec).is_some(), &pod.where_(|c| bad(c).is_some())) {
        details.push(format!("{who} must not set AppArmor profile type to {}", quote(&values)));
    }
    let mut annotations: Vec<String> = pod.metadata["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            let allowed = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(KEY) && !allowed
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    let count = values.len() + annotations.len();
    if !annotations.is_empty() {
        let noun = plural("annotation", "annotations", annotations.len());
        details.push(format!("forbidden {noun} {}", annotations.join(", ")));
    }
    if details.is_empty() {
        return None;
    }
    found(plural("forbidden AppArmor profile", "forbidden AppArmor profiles", count), details.join("; "))
}

/// Containers that add capabilities beyond `allowed`, and which.
fn added<'a>(pod: &Pod<'a>, allowed: &[&str]) -> Option<(Vec<&'a str>, BTreeSet<String>)> {
    let extra = |container: &Value| -> Vec<String> {
        items(container, "/securityContext/capabilities/add")
            .filter_map(Value::as_str)
            .filter(|capability| !allowed.contains(capability))
            .map(str::to_owned)
            .collect()
    };
    let names = pod.where_(|container| !extra(container).is_empty());
    let values = pod.containers().flat_map(extra).collect();
    (!names.is_empty()).then_some((names, values))
}

fn capabilities(pod: &Pod<'_>) -> Option<Finding> {
    let allowed = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (names, values) = added(pod, &allowed)?;
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&names),
        quote(values)
    );
    found("non-default capabilities", detail)
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Finding> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"];
    let set: Vec<String> = fields
        .iter()
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if set.is_empty() { None } else { found("host namespaces", set.join(", ")) }
}

fn host_path(pod: &Pod<'_>) -> Option<Finding> {
    let names: Vec<&str> = items(pod.spec, "/volumes")
        .filter(|volume| !volume["hostPath"].is_null())
        .map(|volume| text(volume, "/name"))
        .collect();
    if names.is_empty() {
        return None;
    }
    found("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quote(names)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Finding> {
    let ports = |container: &Value| -> Vec<String> {
        let ports = items(container, "/ports").filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let names = pod.where_(|container| !ports(container).is_empty());
    if names.is_empty() {
        return None;
    }
    let values: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    let detail = format!(
        "{} {} {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("hostPort", "hostPorts", values.len()),
        values.into_iter().collect::<Vec<_>>().join(", ")
    );
    found("hostPort", detail)
}

fn probe_hosts(pod: &Pod<'_>) -> Option<Finding> {
    let hosts = |container: &Value| -> Vec<String> {
        let actions =
            ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"];
        let pointers = actions
            .iter()
            .flat_map(|action| ["httpGet", "tcpSocket"].map(|how| format!("/{action}/{how}/host")));
        pointers.map(|pointer| text(container, &pointer).to_owned()).filter(|host| !host.is_empty()).collect()
    };
    let names = pod.where_(|container| !hosts(container).is_empty());
    if names.is_empty() {
        return None;
    }
    let values: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let detail = format!(
        "{} {} probe or lifecycle {} {}",
        containers(&names),
        plural("uses", "use", names.len()),
        plural("host", "hosts", values.len()),
        quote(values)
    );
    found("probe or lifecycle host", detail)
}

fn privileged(pod: &Pod<'_>) -> Option<Finding> {
    let names = pod.where_(|container| container["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

fn proc_mount(pod: &Pod<'_>) -> Option<Finding> {
    if pod.has_user_namespace() {
        return None;
    }
    let kind = |container: &Value| text(container, "/securityContext/procMount").to_owned();
    let bad = |container: &Value| !matches!(kind(container).as_str(), "" | "Default");
    let names = pod.where_(bad);
    if names.is_empty() {
        return None;
    }
    let values: BTreeSet<String> = pod.containers().filter(|c| bad(c)).map(kind).collect();
    let detail =
        format!("{} must not set securityContext.procMount to {}", containers(&names), quote(values));
    found("procMount", detail)
}

fn se_linux(pod: &Pod<'_>) -> Option<Finding> {
    let mut types = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if pod.version >= 31 {
        types.push("container_engine_t");
    }
    let options = |holder: &Value| holder["securityContext"]["seLinuxOptions"].clone();
    let bad = |holder: &Value| {
        let options = options(holder);
        !types.contains(&text(&options, "/type"))
            || !text(&options, "/user").is_empty()
            || !text(&options, "/role").is_empty()
    };
    let who = setters(bad(pod.spec), &pod.where_(bad))?;
    let holders = || std::iter::once(pod.spec).chain(pod.containers()).map(options);
    let wrong: BTreeSet<String> = holders()
        .map(|o| text(&o, "/type").to_owned())
        .filter(|kind| !types.contains(&kind.as_str()))
        .collect();
    let mut data = Vec::new();
    if !wrong.is_empty() {
        data.push(format!("{} {}", plural("type", "types", wrong.len()), quote(&wrong)));
    }
    for field in ["user", "role"] {
        if holders().any(|options| !text(&options, &format!("/{field}")).is_empty()) {
            data.push(format!("{field} may not be set"));
        }
    }
    found(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")),
    )
}

fn seccomp_type(holder: &Value) -> &str {
    text(holder, "/securityContext/seccompProfile/type")
}

fn is_bad_seccomp(holder: &Value) -> bool {
    !matches!(seccomp_type(holder), "" | "RuntimeDefault" | "Localhost")
}

fn seccomp(pod: &Pod<'_>) -> Option<Finding> {
    let who = setters(is_bad_seccomp(pod.spec), &pod.where_(is_bad_seccomp))?;
    let holders = std::iter::once(pod.spec).chain(pod.containers());
    let values: BTreeSet<&str> = holders.filter(|holder| is_bad_seccomp(holder)).map(seccomp_type).collect();
    found(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quote(values)),
    )
}

fn sysctls(pod: &Pod<'_>) -> Option<Finding> {
    // (since, name): the sysctls that live in the pod's own namespaces and harm nobody.
    let allowed = [
        (0, "kernel.shm_rmid_forced"),
        (0, "net.ipv4.ip_local_port_range"),
        (0, "net.ipv4.ip_unprivileged_port_start"),
        (0, "net.ipv4.tcp_syncookies"),
        (0, "net.ipv4.ping_group_range"),
        (27, "net.ipv4.ip_local_reserved_ports"),
        (29, "net.ipv4.tcp_keepalive_time"),
        (29, "net.ipv4.tcp_fin_timeout"),
        (29, "net.ipv4.tcp_keepalive_intvl"),
        (29, "net.ipv4.tcp_keepalive_probes"),
        (32, "net.ipv4.tcp_rmem"),
        (32, "net.ipv4.tcp_wmem"),
        (37, "net.ipv4.tcp_slow_start_after_idle"),
        (37, "net.ipv4.tcp_notsent_lowat"),
    ];
    let bad: Vec<&str> = items(pod.spec, "/securityContext/sysctls")
        .map(|sysctl| text(sysctl, "/name"))
        .filter(|name| !allowed.iter().any(|(since, good)| *since <= pod.version && good == name))
        .collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Pod<'_>) -> Option<Finding> {
    let bad = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = setters(bad(pod.spec), &pod.where_(bad))?;
    found("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Finding> {
    if pod.is_windows() {
        return None;
    }
    let names = pod.where_(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    found("allowPrivilegeEscalation != false", detail)
}

fn restricted_capabilities(pod: &Pod<'_>) -> Option<Finding> {
    if pod.is_windows() {
        return None;
    }
    let keeps = pod.where_(|container| {
        !items(container, "/securityContext/capabilities/drop").any(|capability| capability == "ALL")
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if let Some((names, values)) = added(pod, &["NET_BIND_SERVICE"]) {
        let (who, what) = (containers(&names), quote(values));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Pod<'_>) -> Option<Finding> {
    const GOOD: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut names = Vec::new();
    let mut kinds = BTreeSet::new();
    for volume in items(pod.spec, "/volumes") {
        let sources = volume.as_object().into_iter().flatten();
        let mut sources = sources.filter(|(field, value)| *field != "name" && !value.is_null());
        // A volume without a source is an emptyDir by default.
        let kind = sources.next().map_or("emptyDir", |(field, _)| field.as_str());
        if !GOOD.contains(&kind) {
            names.push(text(volume, "/name"));
            kinds.insert(kind.to_owned());
        }
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} restricted volume {} {}",
        plural("volume", "volumes", names.len()),
        quote(&names),
        plural("uses", "use", names.len()),
        plural("type", "types", kinds.len()),
        quote(kinds)
    );
    found("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_user_namespace() {
        return None;
    }
    let own = |holder: &Value| holder["securityContext"]["runAsNonRoot"].as_bool();
    let explicit = setters(own(pod.spec) == Some(false), &pod.where_(|c| own(c) == Some(false)));
    if let Some(who) = explicit {
        return found(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if own(pod.spec) == Some(true) {
        return None;
    }
    let open = pod.where_(|container| own(container).is_none());
    if open.is_empty() {
        return None;
    }
    found(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&open)))
}

fn run_as_user(pod: &Pod<'_>) -> Option<Finding> {
    if pod.has_user_namespace() {
        return None;
    }
    let bad = |holder: &Value| holder["securityContext"]["runAsUser"] == 0;
    let who = setters(bad(pod.spec), &pod.where_(bad))?;
    found("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn restricted_seccomp(pod: &Pod<'_>) -> Option<Finding> {
    if pod.is_windows() {
        return None;
    }
    if let Some(finding) = seccomp(pod) {
        return Some(finding);
    }
    if !seccomp_type(pod.spec).is_empty() {
        return None;
    }
    let open = pod.where_(|container| seccomp_type(container).is_empty());
    if open.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers(&open)
    );
    found("seccompProfile", detail)
}
