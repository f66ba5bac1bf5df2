//! What clients look for in the documents.

use serde_json::json;

use super::*;

fn descriptor(group: &str, kind: &str) -> Arc<Descriptor> {
    api::kinds::all()
        .iter()
        .find(|descriptor| descriptor.group == group && descriptor.kind == kind)
        .unwrap_or_else(|| panic!("{group} {kind} is served"))
        .clone()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                found.insert(reference.clone());
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn assert_closed(document: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    // The keys of tokens are no objects of this API: that document alone defines nothing.
    let defines_nothing = document["components"]["schemas"].as_object().is_some_and(Map::is_empty);
    assert_eq!(found.is_empty(), defines_nothing);
    for reference in found {
        let pointer = reference.trim_start_matches('#').replace("~1", "/");
        assert!(document.pointer(&pointer).is_some(), "{reference} is defined");
    }
}

#[test]
fn every_group_version_has_a_closed_document() {
    let all: Vec<Arc<Descriptor>> = api::kinds::all().to_vec();
    let index = v3_index(&all, &Published::new());
    let mut operations = BTreeSet::new();
    for (path, entry) in index["paths"].as_object().unwrap() {
        let address = entry["serverRelativeURL"].as_str().unwrap();
        assert!(address.starts_with(&format!("/openapi/v3/{path}?hash=")), "{address}");
        let parts: Vec<&str> = path.split('/').collect();
        let group_version = match parts[..] {
            ["api", version] => Some(GroupVersion::new("", version)),
            ["apis", group, version] => Some(GroupVersion::new(group, version)),
            _ => None,
        };
        let document = match group_version {
            Some(group_version) => v3(&group_version, &all, &Published::new()),
            None => v3_root(path, &all, &Published::new()).unwrap_or_else(|| panic!("{path}")),
        };
        assert_closed(&document);
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values().filter(|member| member.is_object()) {
                let id = operation["operationId"].as_str().unwrap().to_owned();
                assert!(operations.insert(id.clone()), "{id} is unique");
            }
        }
    }
    assert_closed(&v2(&all, &Published::new()));
}

#[test]
fn roots_groups_and_the_version_have_documents() {
    let all: Vec<Arc<Descriptor>> = api::kinds::all().to_vec();
    for (name, path, id, answer) in [
        ("api", "/api/", "getCoreAPIVersions", "APIVersions"),
        ("apis", "/apis/", "getAPIVersions", "APIGroupList"),
        ("apis/apps", "/apis/apps/", "getAppsAPIGroup", "APIGroup"),
        (
            "apis/rbac.authorization.k8s.io",
            "/apis/rbac.authorization.k8s.io/",
            "getRbacAuthorizationAPIGroup",
            "APIGroup",
        ),
        ("version", "/version/", "getCodeVersion", "Info"),
        ("openid/v1/jwks", "/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", ""),
    ] {
        let document = v3_root(name, &all, &Published::new()).unwrap();
        assert_closed(&document);
        let get = &document["paths"][path]["get"];
        assert_eq!(get["operationId"], id);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert_eq!(schemas.is_empty(), answer.is_empty(), "{name}");
        assert!(
            answer.is_empty() || schemas.keys().any(|key| key.ends_with(&format!(".{answer}"))),
            "{name}"
        );
    }
    for absent in ["apis/nobody.example.com", "healthz", "api/v1"] {
        assert!(v3_root(absent, &all, &Published::new()).is_none(), "{absent}");
    }
}

#[test]
fn kubectl_finds_server_side_validation() {
    let document =
        v3(&GroupVersion::new("apps", "v1"), &[descriptor("apps", "Deployment")], &Published::new());
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
}

#[test]
fn definitions_carry_the_rules_of_merging() {
    let document = v3(&GroupVersion::new("", "v1"), &[descriptor("", "Pod")], &Published::new());
    let schemas = &document["components"]["schemas"];
    let mut containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"].clone();
    let words = containers.as_object_mut().and_then(|field| field.remove("description"));
    assert!(
        words
            .is_some_and(|words| words.as_str().is_some_and(|words| words.starts_with("List of containers")))
    );
    assert_eq!(
        containers,
        json!({
            "type": "array",
            "items": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}], "default": {}},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "x-kubernetes-patch-strategy": "merge",
            "x-kubernetes-patch-merge-key": "name",
        })
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    assert_eq!(schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"], json!("int-or-string"));
    assert!(schemas.get("io.k8s.api.core.v1.ServiceSpec").is_none(), "only what the group version needs");
}

#[test]
fn version_3_tells_what_is_there_when_nothing_is_given() {
    let all: Vec<Arc<Descriptor>> = api::kinds::all().to_vec();
    let third = v3(&GroupVersion::new("", "v1"), &all, &Published::new());
    for (path, expected) in [
        ("Pod/properties/metadata", json!({})),
        ("Pod/properties/spec", json!({})),
        ("Pod/properties/kind", Value::Null),
        ("Container/properties/name", json!("")),
        ("Container/properties/image", Value::Null),
        ("Container/properties/resources", json!({})),
        ("Container/properties/securityContext", Value::Null),
        ("Container/properties/args", Value::Null),
        ("Container/properties/args/items", json!("")),
        ("Container/properties/ports/items", json!({})),
        ("ContainerPort/properties/containerPort", json!(0)),
        ("ContainerPort/properties/protocol", json!("TCP")),
        ("ContainerStatus/properties/ready", json!(false)),
        ("ISCSIVolumeSource/properties/iscsiInterface", json!("default")),
        ("NodeSelectorRequirement/properties/key", json!("")),
        ("PodSpec/properties/nodeSelector/additionalProperties", json!("")),
        ("PodSpec/properties/overhead/additionalProperties", Value::Null),
        ("PodSpec/properties/hostNetwork", Value::Null),
        ("Event/properties/firstTimestamp", Value::Null),
        ("Event/properties/involvedObject", json!({})),
        ("Secret/properties/data/additionalProperties", Value::Null),
    ] {
        let schema = third.pointer(&format!("/components/schemas/io.k8s.api.core.v1.{path}"));
        let schema = schema.unwrap_or_else(|| panic!("{path} is there"));
        assert_eq!(schema.get("default").cloned().unwrap_or_default(), expected, "{path}: {schema}");
        assert!(
            schema.get("default").is_none() || schema.get("$ref").is_none(),
            "{path}: nothing beside a reference"
        );
    }
    for (group, path, expected) in [
        ("resource.k8s.io", "resource.v1.DeviceToleration/properties/operator", json!("Equal")),
        (
            "certificates.k8s.io",
            "certificates.v1.PodCertificateRequestSpec/properties/maxExpirationSeconds",
            json!(86_400),
        ),
        ("apps", "core.v1.FileKeySelector/properties/optional", json!(false)),
        ("apps", "core.v1.AzureDiskVolumeSource/properties/readOnly", json!(false)),
    ] {
        let document = v3(&GroupVersion::new(group, "v1"), &all, &Published::new());
        let schema = document.pointer(&format!("/components/schemas/io.k8s.api.{path}"));
        assert_eq!(schema.unwrap_or_else(|| panic!("{path} is there"))["default"], expected, "{path}");
    }
    let second = v2(&all, &Published::new());
    assert!(
        second
            .pointer("/definitions/io.k8s.api.core.v1.Pod/properties/spec")
            .unwrap()
            .get("default")
            .is_none()
    );
}

/// A reader of protobuf that knows wire types only: fields of a message by number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        if key & 7 == 0 {
            varint(&mut bytes);
            found.push((key >> 3, &bytes[..0]));
        } else {
            assert_eq!(key & 7, 2, "wire type");
            let length = usize::try_from(varint(&mut bytes)).unwrap();
            found.push((key >> 3, &bytes[..length]));
            bytes = &bytes[length..];
        }
    }
    found
}

fn all<'a>(message: &[(u64, &'a [u8])], number: u64) -> Vec<&'a [u8]> {
    message.iter().filter(|(field, _)| *field == number).map(|(_, bytes)| *bytes).collect()
}

#[test]
fn protobuf_says_what_json_says() {
    let descriptors: Vec<Arc<Descriptor>> = api::kinds::all().to_vec();
    let json = v2(&descriptors, &Published::new());
    let encoded = v2_protobuf(&json);
    let document = fields(&encoded);
    assert_eq!(all(&document, 1), [b"2.0"]);
    let definitions = fields(all(&document, 9)[0]);
    assert_eq!(definitions.len(), json["definitions"].as_object().unwrap().len());
    let pod = definitions
        .iter()
        .map(|(_, entry)| fields(entry))
        .find(|entry| all(entry, 1) == [b"io.k8s.api.core.v1.Pod"])
        .unwrap();
    let pod = fields(all(&pod, 2)[0]);
    let extension = fields(all(&pod, 31)[0]);
    assert_eq!(all(&extension, 1), [b"x-kubernetes-group-version-kind"]);
    let yaml = all(&fields(all(&extension, 2)[0]), 2)[0];
    assert_eq!(
        serde_json::from_slice::<Value>(yaml).unwrap(),
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    // The operation by which kubectl decides who validates.
    let path = fields(all(&document, 8)[0])
        .iter()
        .map(|(_, entry)| fields(entry))
        .find(|entry| all(entry, 1) == [b"/api/v1/namespaces/{namespace}/pods/{name}"])
        .unwrap();
    let patch = fields(all(&fields(all(&path, 2)[0]), 8)[0]);
    let references: Vec<&[u8]> = all(&patch, 8)
        .into_iter()
        .flat_map(|item| all(&fields(item), 2))
        .flat_map(|reference| all(&fields(reference), 1))
        .collect();
    assert!(references.contains(&&b"#/parameters/fieldValidation"[..]));
    let shared = fields(all(&document, 10)[0])
        .iter()
        .map(|(_, entry)| fields(entry))
        .find(|entry| all(entry, 1) == [b"fieldValidation"])
        .unwrap();
    let query = fields(all(&fields(all(&fields(all(&shared, 2)[0]), 2)[0]), 3)[0]);
    assert_eq!(
        (all(&query, 2), all(&query, 4), all(&query, 6)),
        (vec![&b"query"[..]], vec![&b"fieldValidation"[..]], vec![&b"string"[..]])
    );
}
