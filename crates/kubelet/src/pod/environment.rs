//! A container's environment: Services, `envFrom`, `env` with all its sources, in upstream's order and precedence.
//!
//! Pure: ConfigMaps and Secrets are looked up in a snapshot. Not here: fetching them.
//! Upstream: `pkg/kubelet/kubelet_pods.go` (`makeEnvironmentVariables`), `pkg/kubelet/envvars`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::types::core::v1::{Container, EnvVarSource, Pod, Service};
use cri::v1::KeyValue;
use volumes::{Content, ObjectKey, fields};

use super::expansion::expand;
use super::spec;

/// What the environment is made from besides the pod.
pub struct Sources<'a> {
    /// ConfigMaps and Secrets that [`references`] named.
    pub content: &'a Content,
    /// The Services of the pod's namespace, and `default/kubernetes`.
    pub services: &'a [Arc<Service>],
    /// What the node can give to pods.
    pub allocatable: &'a BTreeMap<String, api::meta::Quantity>,
}

/// The ConfigMaps and Secrets that the environments of the pod's containers read.
pub fn references(pod: &Pod) -> BTreeSet<ObjectKey> {
    let mut keys = BTreeSet::new();
    for (_, container) in super::containers(pod) {
        for from in container.env_from.iter().flatten() {
            keys.extend(from.config_map_ref.as_ref().map(|r| ObjectKey::ConfigMap(r.name.clone())));
            keys.extend(from.secret_ref.as_ref().map(|r| ObjectKey::Secret(r.name.clone())));
        }
        for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            keys.extend(source.config_map_key_ref.as_ref().map(|r| ObjectKey::ConfigMap(r.name.clone())));
            keys.extend(source.secret_key_ref.as_ref().map(|r| ObjectKey::Secret(r.name.clone())));
        }
    }
    keys
}

/// The container's environment, or why it cannot be made (`CreateContainerConfigError`).
pub fn make(
    pod: &Pod,
    container: &Container,
    ips: &[String],
    host_ips: &[String],
    sources: &Sources<'_>,
) -> Result<Vec<(String, String)>, String> {
    let mut result: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| {
            let key = format!("{prefix}{key}");
            // Anything but '=' may be part of a name (upstream's relaxed rule).
            if !key.is_empty() && !key.contains('=') {
                result.insert(key, value);
            }
        };
        if let Some(reference) = &from.config_map_ref {
            match sources.content.config_maps.get(&reference.name) {
                Some(object) => object.data.iter().flatten().for_each(|(key, value)| add(key, value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.content.secrets.get(&reference.name) {
                Some(object) => object
                    .data
                    .iter()
                    .flatten()
                    .for_each(|(key, value)| add(key, String::from_utf8_lossy(&value.0).into_owned())),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        }
    }
    let services = services(pod, sources.services);
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    for env in container.env.iter().flatten() {
        let value = match (&env.value, &env.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| {
                own.get(name).or_else(|| result.get(name)).or_else(|| services.get(name)).map(String::as_str)
            })),
            (_, Some(source)) => from_source(pod, container, source, ips, host_ips, sources)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            own.insert(env.name.clone(), value.clone());
            result.insert(env.name.clone(), value);
        }
    }
    for (name, value) in services {
        result.entry(name).or_insert(value);
    }
    Ok(result.into_iter().collect())
}

/// As the runtime takes it.
pub fn to_cri(environment: &[(String, String)]) -> Vec<KeyValue> {
    environment.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect()
}

fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    ips: &[String],
    host_ips: &[String],
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        // The API object gets its addresses only after the containers have started.
        return Ok(Some(match field.field_path.as_str() {
            "status.podIP" => ips.first().cloned().unwrap_or_default(),
            "status.podIPs" => ips.join(","),
            "status.hostIP" => host_ips.first().cloned().unwrap_or_default(),
            "status.hostIPs" => host_ips.join(","),
            path => fields::field(pod, path).map_err(|error| error.to_string())?,
        }));
    }
    if let Some(resource) = &source.resource_field_ref {
        let value = fields::resource(pod, &container.name, resource, sources.allocatable);
        return value.map(Some).map_err(|error| error.to_string());
    }
    let whole = super::full_name(pod);
    if let Some(r) = &source.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(object) = sources.content.config_maps.get(&r.name) else {
            return if optional { Ok(None) } else { Err(format!("configmap \"{}\" not found", r.name)) };
        };
        return match object.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => {
                Err(format!("couldn't find key {} in ConfigMap {}/{}", r.key, super::namespace(pod), r.name))
            }
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(object) = sources.content.secrets.get(&r.name) else {
            return if optional { Ok(None) } else { Err(format!("secret \"{}\" not found", r.name)) };
        };
        return match object.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => {
                Err(format!("couldn't find key {} in Secret {}/{}", r.key, super::namespace(pod), r.name))
            }
        };
    }
    if source.file_key_ref.is_some() {
        return Err(format!("pod {whole}: fileKeyRef is not supported by this node"));
    }
    Ok(Some(String::new()))
}

/// The variables that announce Services (Docker's link format): those of the pod's namespace if it wants them, and
/// always the API server's.
fn services(pod: &Pod, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let links = spec(pod).enable_service_links != Some(false);
    let mut result = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = namespace == "default" && name == "kubernetes";
        if !(master || links && namespace == super::namespace(pod)) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let ip = match spec.cluster_ip.as_deref() {
            None | Some("" | "None") => continue,
            Some(ip) => ip,
        };
        let upper = name.to_ascii_uppercase().replace('-', "_");
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let mut set = |key: String, value: String| {
            result.insert(format!("{upper}_{key}"), value);
        };
        set("SERVICE_HOST".into(), ip.to_owned());
        set("SERVICE_PORT".into(), first.port.to_string());
        for port in ports {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let number = port.port.to_string();
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                set(format!("SERVICE_PORT_{}", name.to_ascii_uppercase().replace('-', "_")), number.clone());
            }
            let url = format!("{}://{host}:{number}", protocol.to_ascii_lowercase());
            let prefix = format!("PORT_{number}_{protocol}");
            if std::ptr::eq(port, first) {
                set("PORT".into(), url.clone());
            }
            set(prefix.clone(), url);
            set(format!("{prefix}_PROTO"), protocol.to_ascii_lowercase());
            set(format!("{prefix}_PORT"), number);
            set(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_sources_in_their_order() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": [{"name": "c",
                "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cfg"}}, {"secretRef": {"name": "no", "optional": true}}],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "value": "$(A)$(X_k)$(DB_SERVICE_HOST)$(NO)"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "k"}}},
                    {"name": "O", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": true}}}]}]}
        }))
        .unwrap();
        let config = serde_json::from_value(json!({"data": {"k": "v"}})).unwrap();
        let content =
            Content { config_maps: BTreeMap::from([("cfg".into(), Arc::new(config))]), ..Content::default() };
        let service = |namespace: &str, name: &str, ip: &str| {
            let value = json!({"metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": ip, "ports": [{"name": "web", "port": 80}]}});
            Arc::new(serde_json::from_value::<Service>(value).unwrap())
        };
        let services = [
            service("shop", "db", "10.0.0.2"),
            service("other", "hidden", "10.0.0.3"),
            service("default", "kubernetes", "10.0.0.1"),
            service("shop", "headless", "None"),
        ];
        let sources = Sources { content: &content, services: &services, allocatable: &BTreeMap::new() };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let made: BTreeMap<_, _> =
            make(&pod, container, &["10.42.0.9".into()], &[], &sources).unwrap().into_iter().collect();
        for (name, want) in [
            ("A", Some("1")),
            ("B", Some("1v10.0.0.2$(NO)")),
            ("N", Some("p")),
            ("IP", Some("10.42.0.9")),
            ("K", Some("v")),
            ("O", None),
            ("X_k", Some("v")),
            ("DB_PORT_80_TCP", Some("tcp://10.0.0.2:80")),
            ("DB_SERVICE_PORT_WEB", Some("80")),
            ("KUBERNETES_SERVICE_HOST", Some("10.0.0.1")),
            ("HIDDEN_SERVICE_HOST", None),
            ("HEADLESS_SERVICE_HOST", None),
        ] {
            assert_eq!(made.get(name).map(String::as_str), want, "{name}");
        }
        assert_eq!(references(&pod).len(), 2);
        let empty = Sources { content: &Content::default(), services: &[], allocatable: &BTreeMap::new() };
        assert_eq!(make(&pod, container, &[], &[], &empty), Err("configmap \"cfg\" not found".into()));
    }
}
