//! Sets of manifests: what is read out of them, and what is wrong with them.

use super::*;

const POLICY: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: p.static.k8s.io}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  validations: [{expression: 'has(object.metadata)'}]
";
const BINDING: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: b.static.k8s.io}
spec: {policyName: p.static.k8s.io, validationActions: [Deny]}
";
const WEBHOOK: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: w.static.k8s.io}
webhooks:
- name: a.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {url: 'https://127.0.0.1:1/'}
  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
";

fn take(manifests: &Manifests, files: &[(&str, &str)]) -> Result<bool, String> {
    let files: Vec<(PathBuf, String)> =
        files.iter().map(|(name, text)| (PathBuf::from(name), (*text).to_owned())).collect();
    manifests.take(&files).map_err(|error| error.to_string())
}

fn names(manifests: &Manifests) -> Vec<String> {
    let current = manifests.current();
    current.values().flatten().map(|object| object.name().to_owned()).collect()
}

#[test]
fn documents_lists_and_files_are_one_set() {
    let manifests = Manifests::new(VALIDATING_POLICIES);
    let other = POLICY.replace("p.static", "q.static");
    let items: Vec<Value> = [&other, BINDING]
        .iter()
        .map(|text| serde_json::from_slice(&schema::yaml_to_json(text.as_bytes()).unwrap().json).unwrap())
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let both = format!("# first\n---\n{POLICY}\n--- # second\n{BINDING}");
    assert_eq!(take(&manifests, &[("a.yaml", &both)]), Ok(true));
    assert_eq!(names(&manifests), ["p.static.k8s.io", "b.static.k8s.io"]);
    let current = manifests.current();
    let policy = &current["validatingadmissionpolicies"][0].0;
    assert_eq!(policy["spec"]["failurePolicy"], "Fail", "defaults as over the API");
    assert_eq!(take(&manifests, &[("b.yaml", BINDING), ("c.yml", POLICY)]), Ok(false), "the same otherwise");
    assert_eq!(take(&manifests, &[("a.yaml", POLICY), ("b.json", &list)]), Ok(true));
    assert_eq!(names(&manifests), ["p.static.k8s.io", "q.static.k8s.io", "b.static.k8s.io"]);
    assert_eq!(take(&manifests, &[]), Ok(true));
    assert!(names(&manifests).is_empty());

    let webhooks = Manifests::new(VALIDATING_WEBHOOKS);
    let item: Value =
        serde_json::from_slice(&schema::yaml_to_json(WEBHOOK.as_bytes()).unwrap().json).unwrap();
    let item = json!({"metadata": item["metadata"], "webhooks": item["webhooks"]});
    let list = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfigurationList", "items": [item]});
    assert_eq!(take(&webhooks, &[("w.json", &list.to_string())]), Ok(true));
    assert_eq!(names(&webhooks), ["w.static.k8s.io"]);
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let manifests = Manifests::new(VALIDATING_POLICIES);
    take(&manifests, &[("a.yaml", POLICY)]).unwrap();
    let with = |text: &str, what: &str, instead: &str| {
        assert!(text.contains(what), "{what}");
        text.replace(what, instead)
    };
    for (files, problem) in [
        (vec![with(POLICY, "p.static.k8s.io", "p")], "the name must end with \".static.k8s.io\""),
        (vec![with(POLICY, "p.static.k8s.io", "P.static.k8s.io")], "a lowercase RFC 1123 subdomain"),
        (vec![POLICY.to_owned(), POLICY.to_owned()], "duplicate name \"p.static.k8s.io\""),
        (vec![with(POLICY, "spec:", "spec:\n  nobody: 1")], "unknown field \"spec.nobody\""),
        (vec![with(POLICY, "spec:", "kind: ValidatingAdmissionPolicy\nspec:")], "already set in map"),
        (vec![with(POLICY, "has(object.metadata)", "1 + 1")], "must evaluate to bool"),
        (vec![with(POLICY, "spec:", "spec:\n  failurePolicy: Never")], "Unsupported value: \"Never\""),
        (
            vec![with(POLICY, "spec:", "spec:\n  paramKind: {apiVersion: v1, kind: ConfigMap}")],
            "spec.paramKind is not supported",
        ),
        (vec![BINDING.to_owned()], "references policy \"p.static.k8s.io\" which does not exist"),
        (
            vec![POLICY.to_owned(), with(BINDING, "policyName: p.static.k8s.io", "policyName: p")],
            "must end with \".static.k8s.io\"",
        ),
        (
            vec![
                POLICY.to_owned(),
                with(BINDING, "policyName", "paramRef: {name: x, parameterNotFoundAction: Deny}, policyName"),
            ],
            "spec.paramRef is not supported",
        ),
        (vec![WEBHOOK.to_owned()], "unsupported resource type"),
        (vec![with(POLICY, "k8s.io/v1", "k8s.io/v1beta1")], "unsupported resource type"),
        (vec!["{".to_owned()], "error loading 0.yaml"),
    ] {
        let named: Vec<(String, String)> =
            files.into_iter().enumerate().map(|(index, text)| (format!("{index}.yaml"), text)).collect();
        let named: Vec<(&str, &str)> = named.iter().map(|(name, text)| (&**name, &**text)).collect();
        let error = take(&manifests, &named).unwrap_err();
        assert!(error.contains(problem), "{problem}: {error}");
        assert_eq!(names(&manifests), ["p.static.k8s.io"]);
    }
    let webhooks = Manifests::new(VALIDATING_WEBHOOKS);
    let service =
        with(WEBHOOK, "{url: 'https://127.0.0.1:1/'}", "{service: {name: svc, namespace: kube-system}}");
    let error = take(&webhooks, &[("w.yaml", &service)]).unwrap_err();
    assert!(error.contains("clientConfig.service is not supported for static manifests"), "{error}");
}

#[test]
fn directories_are_absolute_and_files_are_known_by_their_names() {
    let manifests = Manifests::new(MUTATING_POLICIES);
    assert!(manifests.set_directory("etc/manifests".into()).is_err());
    assert_eq!(manifests.directory(), None);
    manifests.set_directory("/etc/manifests".into()).unwrap();
    assert_eq!(manifests.directory(), Some(Path::new("/etc/manifests")));
    for (name, read) in
        [("a.yaml", true), ("a.YML", true), ("a.json", true), ("a.txt", false), ("yaml", false)]
    {
        assert_eq!(is_manifest(Path::new(name)), read, "{name}");
    }
}
