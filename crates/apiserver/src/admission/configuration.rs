//! Reads an AdmissionConfiguration (apiserver.config.k8s.io/v1) and the configurations of plugins that it holds or names.
//!
//! Not here: what the plugins do with them; the file itself, and those that it names, which the caller reads.
//! Upstream: apiserver `pkg/admission/config.go`, the `apis` packages of the plugins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::types::core::v1::Toleration;
use client::kubeconfig::{self, Kubeconfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use super::Options;
use super::event_rate_limit::{By, Limit};
use super::manifests::Manifests;
use super::pod_node_selector::NodeSelectors;
use super::pod_security::{Defaults, Exemptions, LevelVersion};
use super::pod_toleration_restriction::Tolerations;
use super::resource_quota::{Limited, Scope};
use super::webhook::Identities;

const GROUP: &str = "apiserver.config.k8s.io";

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no YAML of this form.
    #[error("{0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// It is of another kind.
    #[error("must be of kind {kind} in {versions}")]
    Kind {
        /// The kind that it must be.
        kind: &'static str,
        /// In one of these versions.
        versions: &'static str,
    },
    /// A field has a value that cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration of a plugin is wrong.
    #[error("plugin {name}: {problem}")]
    Plugin {
        /// The plugin.
        name: String,
        /// What is wrong.
        problem: Box<Error>,
    },
    /// A plugin that takes no configuration, or none that is known here.
    #[error("plugin {0} takes no configuration")]
    NotConfigurable(String),
    /// What is said of manifests.
    #[error(transparent)]
    Manifests(#[from] super::manifests::Error),
    /// A kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] kubeconfig::Error),
    /// A file that it names cannot be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Field { field: field.into(), problem: problem.into() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<PluginFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginFields {
    name: String,
    path: Option<PathBuf>,
    configuration: Option<Value>,
}

/// Who a configuration says it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

impl Options {
    /// Takes over what a file says; `path` is where it is, for the relative paths in it. Other files are read by `read`.
    pub fn configure(
        &mut self,
        text: &str,
        path: &Path,
        read: &dyn Fn(&Path) -> std::io::Result<String>,
    ) -> Result<(), Error> {
        let file: File = serde_yaml_ng::from_str(text)?;
        let known = [format!("{GROUP}/v1"), format!("{GROUP}/v1alpha1")].contains(&file.api_version);
        if !known || file.kind != "AdmissionConfiguration" {
            return Err(Error::Kind {
                kind: "AdmissionConfiguration",
                versions: "apiserver.config.k8s.io/v1 or v1alpha1",
            });
        }
        let mut seen = std::collections::BTreeSet::new();
        for (index, plugin) in file.plugins.into_iter().enumerate() {
            if !seen.insert(plugin.name.clone()) {
                // Upstream takes the first and says nothing.
                return Err(wrong(
                    format!("plugins[{index}].name"),
                    format!("{:?} is there twice", plugin.name),
                ));
            }
            let in_plugin = |problem| Error::Plugin { name: plugin.name.clone(), problem: Box::new(problem) };
            // What is written here wins over what is written elsewhere, as upstream has it.
            let (value, beside) = match (plugin.configuration, plugin.path) {
                (Some(value), _) => (value, path.to_owned()),
                (None, Some(named)) => {
                    let named = path.parent().unwrap_or(Path::new("")).join(named);
                    let text = read(&named)
                        .map_err(|source| in_plugin(Error::File { path: named.clone(), source }))?;
                    (serde_yaml_ng::from_str(&text).map_err(|error| in_plugin(error.into()))?, named)
                }
                (None, None) => continue,
            };
            self.plugin(&plugin.name, value, &beside, read).map_err(|problem| match problem {
                Error::NotConfigurable(_) => problem,
                problem => in_plugin(problem),
            })?;
        }
        Ok(())
    }

    fn plugin(
        &mut self,
        name: &str,
        value: Value,
        path: &Path,
        read: &dyn Fn(&Path) -> std::io::Result<String>,
    ) -> Result<(), Error> {
        match name {
            "PodSecurity" => self.pod_security = pod_security(value)?,
            "ResourceQuota" => self.limited_resources = limited_resources(value)?,
            "EventRateLimit" => self.event_limits = event_limits(value)?,
            "PodNodeSelector" => self.node_selectors = node_selectors(value)?,
            "PodTolerationRestriction" => self.tolerations = tolerations(value)?,
            "MutatingAdmissionWebhook" => {
                self.mutating_identities = webhooks(value, path, read, &self.manifests.mutating_webhooks)?;
            }
            "ValidatingAdmissionWebhook" => {
                self.validating_identities =
                    webhooks(value, path, read, &self.manifests.validating_webhooks)?;
            }
            "MutatingAdmissionPolicy" => policies(value, name, &self.manifests.mutating_policies)?,
            "ValidatingAdmissionPolicy" => policies(value, name, &self.manifests.validating_policies)?,
            _ => return Err(Error::NotConfigurable(name.to_owned())),
        }
        Ok(())
    }
}

/// A configuration of one of these kinds and versions.
fn of_kind<T: DeserializeOwned>(
    value: Value,
    kinds: &[&str],
    groups: &'static [&'static str],
    (kind, versions): (&'static str, &'static str),
) -> Result<T, Error> {
    let meta: TypeMeta = serde_yaml_ng::from_value(value.clone())?;
    let known = groups.contains(&meta.api_version.as_str()) && kinds.contains(&meta.kind.as_str());
    if !known {
        return Err(Error::Kind { kind, versions });
    }
    Ok(serde_yaml_ng::from_value(value)?)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodSecurityFields {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    defaults: PodSecurityDefaults,
    #[serde(default)]
    exemptions: ExemptionsFields,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
struct PodSecurityDefaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ExemptionsFields {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

fn pod_security(value: Value) -> Result<Defaults, Error> {
    let fields: PodSecurityFields = of_kind(
        value,
        &["PodSecurityConfiguration"],
        &[
            "pod-security.admission.config.k8s.io/v1",
            "pod-security.admission.config.k8s.io/v1beta1",
            "pod-security.admission.config.k8s.io/v1alpha1",
        ],
        ("PodSecurityConfiguration", "pod-security.admission.config.k8s.io/v1"),
    )?;
    let defaults = &fields.defaults;
    let mode = |name: &str, level: &str, version: &str| {
        let (level, version) = (
            if level.is_empty() { "privileged" } else { level },
            if version.is_empty() { "latest" } else { version },
        );
        if LevelVersion::parse(level, "latest").is_none() {
            let problem =
                format!("Invalid value: {level:?}: must be one of privileged, baseline, restricted");
            return Err(wrong(format!("defaults.{name}"), problem));
        }
        LevelVersion::parse(level, version).ok_or_else(|| {
            let problem = format!("Invalid value: {version:?}: must be \"latest\" or \"v1.x\"");
            wrong(format!("defaults.{name}-version"), problem)
        })
    };
    let exemptions = fields.exemptions;
    type NameCheck = fn(&str) -> Vec<String>;
    let lists: [(&str, &Vec<String>, NameCheck); 3] = [
        ("namespaces", &exemptions.namespaces, api::names::is_dns1123_label),
        ("runtimeClasses", &exemptions.runtime_classes, api::names::is_dns1123_subdomain),
        ("usernames", &exemptions.usernames, |name| match name {
            "" => vec!["username must not be empty".to_owned()],
            _ => Vec::new(),
        }),
    ];
    for (list, names, check) in lists {
        let mut seen = std::collections::BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            let field = format!("exemptions.{list}[{index}]");
            if let Some(problem) = check(name).into_iter().next() {
                return Err(wrong(field, format!("Invalid value: {name:?}: {problem}")));
            }
            if !seen.insert(name) {
                return Err(wrong(field, format!("Duplicate value: {name:?}")));
            }
        }
    }
    Ok(Defaults {
        enforce: mode("enforce", &defaults.enforce, &defaults.enforce_version)?,
        audit: mode("audit", &defaults.audit, &defaults.audit_version)?,
        warn: mode("warn", &defaults.warn, &defaults.warn_version)?,
        exemptions: Exemptions {
            usernames: exemptions.usernames,
            namespaces: exemptions.namespaces,
            runtime_classes: exemptions.runtime_classes,
        },
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QuotaFields {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    limited_resources: Vec<LimitedFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LimitedFields {
    #[serde(default)]
    api_group: String,
    resource: String,
    #[serde(default)]
    match_contains: Vec<String>,
    #[serde(default)]
    match_scopes: Vec<ScopeFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScopeFields {
    scope_name: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

fn limited_resources(value: Value) -> Result<Arc<[Limited]>, Error> {
    let fields: QuotaFields = of_kind(
        value,
        &["ResourceQuotaConfiguration", "Configuration"],
        &[
            "apiserver.config.k8s.io/v1",
            "resourcequota.admission.k8s.io/v1",
            "resourcequota.admission.k8s.io/v1beta1",
            "resourcequota.admission.k8s.io/v1alpha1",
        ],
        ("ResourceQuotaConfiguration", "apiserver.config.k8s.io/v1"),
    )?;
    let read = |(index, limited): (usize, LimitedFields)| {
        let path = format!("limitedResources[{index}]");
        if limited.resource.is_empty() {
            return Err(wrong(format!("{path}.resource"), "Required value"));
        }
        let scopes = limited.match_scopes.into_iter().map(|scope| Scope {
            name: scope.scope_name,
            operator: scope.operator,
            values: scope.values,
        });
        Ok(Limited {
            resource: api::GroupResource::new(limited.api_group, limited.resource),
            contains: limited.match_contains,
            scopes: scopes.collect(),
        })
    };
    fields.limited_resources.into_iter().enumerate().map(read).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EventFields {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    limits: Vec<LimitFields>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LimitFields {
    #[serde(rename = "type")]
    by: String,
    #[serde(default)]
    qps: i32,
    #[serde(default)]
    burst: i32,
    #[serde(default)]
    cache_size: i32,
}

fn event_limits(value: Value) -> Result<Vec<Limit>, Error> {
    /// Of how many keys counts are kept where nobody says.
    const KEPT: usize = 4096;
    let fields: EventFields = of_kind(
        value,
        &["Configuration"],
        &["eventratelimit.admission.k8s.io/v1alpha1"],
        ("Configuration", "eventratelimit.admission.k8s.io/v1alpha1"),
    )?;
    if fields.limits.is_empty() {
        return Err(wrong("limits", "must not be empty"));
    }
    let read = |(index, limit): (usize, LimitFields)| {
        let field = |name: &str| format!("limits[{index}].{name}");
        let positive = |name: &str, number: i32| {
            let found = u32::try_from(number).ok().filter(|number| *number > 0);
            found.ok_or_else(|| wrong(field(name), format!("Invalid value: {number}: must be positive")))
        };
        let by = By::parse(&limit.by).ok_or_else(|| {
            let supported = r#""Namespace", "Server", "SourceAndObject", "User""#;
            wrong(field("type"), format!("Unsupported value: {:?}: supported values: {supported}", limit.by))
        })?;
        let kept = usize::try_from(limit.cache_size).map_err(|_| {
            wrong(field("cacheSize"), format!("Invalid value: {}: must not be negative", limit.cache_size))
        })?;
        Ok(Limit {
            by,
            per_second: positive("qps", limit.qps)?,
            burst: positive("burst", limit.burst)?,
            kept: if kept == 0 { KEPT } else { kept },
        })
    };
    fields.limits.into_iter().enumerate().map(read).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeSelectorFields {
    #[serde(default)]
    pod_node_selector_plugin_config: BTreeMap<String, String>,
}

/// This configuration has no version.
fn node_selectors(value: Value) -> Result<NodeSelectors, Error> {
    const USUAL: &str = "clusterDefaultNodeSelector";
    let fields: NodeSelectorFields = serde_yaml_ng::from_value(value)?;
    let mut selectors = NodeSelectors::default();
    for (name, text) in fields.pod_node_selector_plugin_config {
        let labels = NodeSelectors::parse(&text)
            .map_err(|problem| wrong(format!("podNodeSelectorPluginConfig.{name}"), problem))?;
        match name.as_str() {
            USUAL => selectors.usual = labels,
            _ => drop(selectors.bounds.insert(name, labels)),
        }
    }
    Ok(selectors)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TolerationFields {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    default: Vec<Toleration>,
    #[serde(default)]
    whitelist: Vec<Toleration>,
}

fn tolerations(value: Value) -> Result<Tolerations, Error> {
    let fields: TolerationFields = of_kind(
        value,
        &["Configuration"],
        &["podtolerationrestriction.admission.k8s.io/v1alpha1"],
        ("Configuration", "podtolerationrestriction.admission.k8s.io/v1alpha1"),
    )?;
    Ok(Tolerations { defaults: fields.default, allowed: fields.whitelist })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookFields {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    kube_config_file: Option<PathBuf>,
    static_manifests_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyFields {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    static_manifests_dir: Option<PathBuf>,
}

/// Where manifests lie; an empty path is none.
fn place(directory: Option<PathBuf>, manifests: &Manifests) -> Result<(), Error> {
    match directory.filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => Ok(manifests.set_directory(directory)?),
        None => Ok(()),
    }
}

fn policies(value: Value, plugin: &str, manifests: &Manifests) -> Result<(), Error> {
    let kinds: [&'static str; 2] =
        ["MutatingAdmissionPolicyConfiguration", "ValidatingAdmissionPolicyConfiguration"];
    let Some(kind) = kinds.into_iter().find(|kind| kind.strip_suffix("Configuration") == Some(plugin)) else {
        return Err(Error::NotConfigurable(plugin.to_owned()));
    };
    let versions = "apiserver.config.k8s.io/v1";
    let fields: PolicyFields = of_kind(value, &[kind], &["apiserver.config.k8s.io/v1"], (kind, versions))?;
    place(fields.static_manifests_dir, manifests)
}

fn webhooks(
    value: Value,
    path: &Path,
    read: &dyn Fn(&Path) -> std::io::Result<String>,
    manifests: &Manifests,
) -> Result<Arc<Identities>, Error> {
    let fields: WebhookFields = of_kind(
        value,
        &["WebhookAdmissionConfiguration", "WebhookAdmission"],
        &["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1alpha1"],
        ("WebhookAdmissionConfiguration", "apiserver.config.k8s.io/v1"),
    )?;
    place(fields.static_manifests_dir, manifests)?;
    let Some(named) = fields.kube_config_file.filter(|named| !named.as_os_str().is_empty()) else {
        return Ok(Arc::default());
    };
    if named.is_relative() && path.parent().is_none() {
        return Err(wrong("kubeConfigFile", "must be an absolute path"));
    }
    let at = path.parent().unwrap_or(Path::new("")).join(named);
    let text = read(&at).map_err(|source| Error::File { path: at.clone(), source })?;
    let kubeconfig: Kubeconfig = serde_yaml_ng::from_str(&text)?;
    Ok(Arc::new(Identities::new(&kubeconfig, &at)?))
}

#[cfg(test)]
mod tests;
