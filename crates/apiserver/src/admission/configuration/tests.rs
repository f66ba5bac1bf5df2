//! What configurations are taken, and what is said of others.

use super::*;
use crate::admission::pod_security::Level;

fn configured(plugins: &str) -> Result<Options, String> {
    let text = format!("{{apiVersion: {GROUP}/v1, kind: AdmissionConfiguration, plugins: [{plugins}]}}");
    read(&text)
}

fn read(text: &str) -> Result<Options, String> {
    let files = |path: &Path| {
        match path.to_str().unwrap_or_default() {
        "/etc/a/pods.yaml" => Ok("apiVersion: pod-security.admission.config.k8s.io/v1\n\
            kind: PodSecurityConfiguration\ndefaults: {enforce: baseline, enforce-version: v1.30, audit: restricted}\n\
            exemptions: {usernames: [jane], namespaces: [kube-system], runtimeClasses: [kata]}\n"
            .to_owned()),
        "/etc/a/hooks.kubeconfig" => {
            Ok("{current-context: '', users: [{name: '*.example.org', user: {token: t}}]}".to_owned())
        }
        _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    }
    };
    let mut options = Options::default();
    let done = options.configure(text, Path::new("/etc/a/admission.yaml"), &files);
    done.map(|()| options).map_err(|error| error.to_string())
}

#[test]
fn plugins_are_configured_here_or_in_files_of_their_own() {
    let options = configured("{name: PodSecurity, path: pods.yaml}").unwrap().pod_security;
    assert_eq!(options.enforce, LevelVersion { level: Level::Baseline, version: Some(30) });
    assert_eq!(options.audit, LevelVersion { level: Level::Restricted, version: None });
    assert_eq!(options.warn, LevelVersion::default());
    let Exemptions { usernames, namespaces, runtime_classes } = options.exemptions;
    assert_eq!([usernames, namespaces, runtime_classes].concat(), ["jane", "kube-system", "kata"]);

    let quota = "{name: ResourceQuota, configuration: {apiVersion: apiserver.config.k8s.io/v1, \
        kind: ResourceQuotaConfiguration, limitedResources: [{resource: pods, matchContains: [requests.cpu], \
        matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]}]}}";
    let options = configured(quota).unwrap();
    let [limited] = &*options.limited_resources else { panic!("{options:?}") };
    assert_eq!(limited.resource.to_string(), "pods");
    assert_eq!(limited.contains, ["requests.cpu"]);
    assert_eq!(limited.scopes[0].to_string(), "{PriorityClass In [high]}");

    let hooks = "{name: ValidatingAdmissionWebhook, configuration: {apiVersion: apiserver.config.k8s.io/v1, \
        kind: WebhookAdmissionConfiguration, kubeConfigFile: hooks.kubeconfig}}";
    let options = configured(hooks).unwrap();
    let token = client::Identity::Token("t".to_owned());
    assert_eq!(*options.validating_identities.of("a.example.org:443"), token);
    assert_eq!(*options.mutating_identities.of("a.example.org:443"), client::Identity::None);
}

#[test]
fn what_is_wrong_is_said() {
    let pod_security = |rest: &str| {
        format!(
            "{{name: PodSecurity, configuration: {{apiVersion: pod-security.admission.config.k8s.io/v1, \
             kind: PodSecurityConfiguration, {rest}}}}}"
        )
    };
    let twice = [pod_security("defaults: {}"), pod_security("defaults: {}")].join(",");
    for (plugins, wanted) in [
        ("{name: PodSecurity}".to_owned(), ""),
        ("{name: Priority, configuration: {}}".to_owned(), "plugin Priority takes no configuration"),
        (
            "{name: PodSecurity, configuration: {kind: Other}}".to_owned(),
            "plugin PodSecurity: must be of kind PodSecurityConfiguration in pod-security.admission.config.k8s.io/v1",
        ),
        (
            "{name: PodSecurity, path: gone.yaml}".to_owned(),
            "plugin PodSecurity: /etc/a/gone.yaml cannot be read: entity not found",
        ),
        (
            pod_security("defaults: {warn: strict}"),
            "plugin PodSecurity: defaults.warn: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
        ),
        (
            pod_security("defaults: {warn-version: '1.30'}"),
            "plugin PodSecurity: defaults.warn-version: Invalid value: \"1.30\": must be \"latest\" or \"v1.x\"",
        ),
        (
            pod_security("exemptions: {namespaces: [a, a]}"),
            "plugin PodSecurity: exemptions.namespaces[1]: Duplicate value: \"a\"",
        ),
        (
            pod_security("exemptions: {usernames: ['']}"),
            "plugin PodSecurity: exemptions.usernames[0]: Invalid value: \"\": username must not be empty",
        ),
        (twice, "plugins[1].name: \"PodSecurity\" is there twice"),
    ] {
        assert_eq!(configured(&plugins).err().unwrap_or_default(), wanted, "{plugins}");
    }
    let kind = read("{apiVersion: v1, kind: Pod}").unwrap_err();
    assert_eq!(kind, "must be of kind AdmissionConfiguration in apiserver.config.k8s.io/v1 or v1alpha1");
}

#[test]
fn plugins_that_are_off_by_default_are_configured_too() {
    let events = "{name: EventRateLimit, configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, \
        kind: Configuration, limits: [{type: User, qps: 5, burst: 10}]}}";
    let options = configured(events).unwrap();
    let [limit] = options.event_limits.as_slice() else { panic!("{options:?}") };
    assert_eq!((limit.by, limit.per_second, limit.burst, limit.kept), (By::User, 5, 10, 4096));
    let wrong = events.replace("qps: 5", "qps: 0");
    let said = "plugin EventRateLimit: limits[0].qps: Invalid value: 0: must be positive";
    assert_eq!(configured(&wrong).unwrap_err(), said);
    let wrong = events.replace("type: User", "type: Nobody");
    assert!(configured(&wrong).unwrap_err().contains("limits[0].type: Unsupported value: \"Nobody\""));

    let selectors = "{name: PodNodeSelector, configuration: {podNodeSelectorPluginConfig: \
        {clusterDefaultNodeSelector: 'env=test', a: 'disk=ssd'}}}";
    let options = configured(selectors).unwrap().node_selectors;
    assert_eq!(options.usual.get("env").map(String::as_str), Some("test"));
    assert_eq!(options.bounds["a"].get("disk").map(String::as_str), Some("ssd"));

    let tolerations = "{name: PodTolerationRestriction, configuration: \
        {apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1, kind: Configuration, \
        default: [{key: a, operator: Exists}], whitelist: [{operator: Exists}]}}";
    let options = configured(tolerations).unwrap().tolerations;
    assert_eq!(options.defaults[0].key.as_deref(), Some("a"));
    assert_eq!(options.allowed[0].operator.as_deref(), Some("Exists"));
}

#[test]
fn manifests_lie_where_each_plugin_says() {
    let policies = |plugin: &str, directory: &str| {
        format!(
            "{{name: {plugin}, configuration: {{apiVersion: apiserver.config.k8s.io/v1, kind: {plugin}Configuration, \
             staticManifestsDir: {directory}}}}}"
        )
    };
    let webhooks = |plugin: &str, directory: &str| {
        format!(
            "{{name: {plugin}, configuration: {{apiVersion: apiserver.config.k8s.io/v1, kind: \
             WebhookAdmissionConfiguration, staticManifestsDir: {directory}}}}}"
        )
    };
    let all = [
        webhooks("MutatingAdmissionWebhook", "/m/mw"),
        webhooks("ValidatingAdmissionWebhook", "/m/vw"),
        policies("MutatingAdmissionPolicy", "/m/mp"),
        policies("ValidatingAdmissionPolicy", "''"),
    ];
    let options = configured(&all.join(", ")).unwrap();
    let found = options.manifests.each().map(|(_, manifests)| manifests.directory().map(Path::to_owned));
    assert_eq!(found, [Some("/m/mw".into()), Some("/m/vw".into()), Some("/m/mp".into()), None]);
    for (plugin, problem) in [
        (policies("ValidatingAdmissionPolicy", "manifests"), "must be an absolute path"),
        (webhooks("ValidatingAdmissionWebhook", "manifests"), "must be an absolute path"),
        (
            policies("ValidatingAdmissionPolicy", "/m")
                .replace("ValidatingAdmissionPolicyConf", "MutatingAdmissionPolicyConf"),
            "must be of kind ValidatingAdmissionPolicyConfiguration",
        ),
    ] {
        let error = configured(&plugin).unwrap_err();
        assert!(error.contains(problem), "{plugin}: {error}");
    }
}
