//! Decoding by built-in definitions: what is kept, what is said.

use serde_json::json;

use super::*;

fn schema(short: &str) -> Schema {
    Schema::built_in(&format!("io.k8s.api.{short}")).unwrap()
}

fn strict(short: &str, body: &str) -> Result<Value, String> {
    decode(body.as_bytes(), &schema(short), FieldValidation::Strict).map(|decoded| decoded.value).map_err(
        |status| {
            assert_eq!(status.code, 400);
            status.message
        },
    )
}

fn canonical(short: &str, body: Value) -> Value {
    strict(short, &body.to_string()).unwrap()
}

#[test]
fn values_become_canonical() {
    let pod = canonical(
        "core.v1.Pod",
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {}, "annotations": null, "creationTimestamp": "2024-01-01T02:00:00+02:00"},
            "spec": {
                "containers": [{
                    "name": "c", "image": null, "args": [],
                    "resources": {"limits": {"cpu": 1.5, "memory": "1024Ki"}},
                    "ports": [{"containerPort": 80}],
                    "livenessProbe": {"httpGet": {"port": "http"}, "tcpSocket": {"port": 80}},
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "securityContext": {},
                "nodeSelector": {"a": null},
            },
        }),
    );
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {
                "containers": [{
                    "name": "c",
                    "resources": {"limits": {"cpu": "1500m", "memory": "1Mi"}},
                    "ports": [{"containerPort": 80}],
                    "livenessProbe": {"httpGet": {"port": "http"}, "tcpSocket": {"port": 80}},
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "securityContext": {},
                "nodeSelector": {"a": ""},
            },
        })
    );
}

#[test]
fn special_types() {
    assert_eq!(
        canonical("core.v1.Secret", json!({"data": {"a": "aGk=", "b": [104, 105], "c": null}})),
        json!({"data": {"a": "aGk=", "b": "aGk=", "c": ""}})
    );
    assert_eq!(
        canonical(
            "coordination.v1.Lease",
            json!({"spec": {"renewTime": "2024-01-01T00:00:00.123456+00:00"}})
        ),
        json!({"spec": {"renewTime": "2024-01-01T00:00:00.123456Z"}})
    );
    // Raw extensions stay as they are, nulls and empties included.
    let revision = json!({"data": {"a": null, "b": {}, "c": [1.5, {"x": []}]}, "revision": 3});
    assert_eq!(canonical("apps.v1.ControllerRevision", revision.clone()), revision);
    let crd = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
        "type": "object", "default": {"a": null, "b": []}, "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"p": {"items": {"type": "string"}, "additionalProperties": false}},
    }}}]}});
    let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
    let decoded = decode_value(&crd, &Schema::built_in(name).unwrap(), FieldValidation::Strict).unwrap();
    assert_eq!(decoded.value, crd);
}

#[test]
fn strict_findings() {
    let deployment = r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":1,"foo":{"deep":[1]},
        "template":{"spec":{"containers":[{"name":"a"},{"name":"b","bar":1,"image":"x","image":"y"}]}},
        "selector":{"matchLabels":{"k":"1","k":"2"}},"replicas":2},"Spec":{}}"#;
    let expected = [
        r#"unknown field "spec.foo""#,
        r#"unknown field "spec.template.spec.containers[1].bar""#,
        r#"duplicate field "spec.template.spec.containers[1].image""#,
        r#"duplicate field "spec.selector.matchLabels.k""#,
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "Spec""#,
    ];
    assert_eq!(
        strict("apps.v1.Deployment", deployment).unwrap_err(),
        format!(
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: {}",
            expected.join(", ")
        )
    );
    let warned = decode(deployment.as_bytes(), &schema("apps.v1.Deployment"), FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, expected);
    assert_eq!(warned.value["spec"]["replicas"], json!(2), "the last of repeated fields counts");
    assert_eq!(warned.value["spec"].get("foo"), None);
    let ignored =
        decode(deployment.as_bytes(), &schema("apps.v1.Deployment"), FieldValidation::Ignore).unwrap();
    assert_eq!((ignored.value, ignored.warnings), (warned.value, vec![]));
}

#[test]
fn wrong_types() {
    let pod = r#"Pod in version "v1" cannot be handled as a Pod: "#;
    let cases: [(&str, &str, String); 15] = [
        (
            "core.v1.Pod",
            r#"{"spec":{"volumes":[{"name":"a"},{"fc":{"lun":"2"}}]}}"#,
            format!("{pod}json: cannot unmarshal string into Go struct field FCVolumeSource.spec.volumes.fc.lun of type int32"),
        ),
        (
            "apps.v1.Deployment",
            r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":"3"}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go \
             struct field DeploymentSpec.spec.replicas of type int32"
                .into(),
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"containers":{"name":"a"}}}"#,
            format!("{pod}json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"),
        ),
        (
            "core.v1.Pod",
            r#"{"metadata":{"labels":{"a":1}}}"#,
            format!("{pod}json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"),
        ),
        (
            "core.v1.Pod",
            r#"{"spec":[]}"#,
            format!("{pod}json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"terminationGracePeriodSeconds":1.5}}"#,
            format!("{pod}json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64"),
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"priority":4294967296,"hostNetwork":"no"}}"#,
            format!("{pod}json: cannot unmarshal number 4294967296 into Go struct field PodSpec.spec.priority of type int32"),
        ),
        (
            "core.v1.Service",
            r#"{"spec":{"ports":[{"targetPort":1.5}]}}"#,
            "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal number 1.5 into Go \
             struct field ServicePort.spec.ports.targetPort of type int32"
                .into(),
        ),
        (
            "core.v1.Pod",
            r#"{"metadata":{"creationTimestamp":12}}"#,
            format!("{pod}json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string"),
        ),
        (
            "core.v1.Pod",
            r#"{"metadata":{"creationTimestamp":"now"}}"#,
            format!(r#"{pod}parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#),
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#,
            format!("{pod}quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        ),
        (
            "core.v1.Secret",
            r#"{"data":{"a":"?"}}"#,
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0".into(),
        ),
        (
            "core.v1.Pod",
            r#"{"spec":{"#,
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
             unexpected end of JSON input ({\"spec\":{)"
                .into(),
        ),
        (
            "core.v1.Pod",
            "kind: Pod",
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
             invalid character 'k' looking for beginning of value (6b696e643a20506f64)"
                .into(),
        ),
        (
            "core.v1.Pod",
            r#"{"kind":1}"#,
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
             json: cannot unmarshal number into Go struct field .kind of type string ({\"kind\":1})"
                .into(),
        ),
    ];
    for (short, body, expected) in cases {
        assert_eq!(strict(short, body).unwrap_err(), expected, "{body}");
    }
    assert!(
        strict("core.v1.Pod", "[]")
            .unwrap_err()
            .contains("cannot unmarshal array into Go value of type struct")
    );
}

#[test]
fn an_error_of_syntax_further_on_wins() {
    let message = strict("core.v1.Pod", r#"{"spec":1,"a":}"#).unwrap_err();
    assert!(message.contains("invalid character '}' looking for beginning of value"), "{message}");
}

#[test]
fn depth_is_refused_not_survived() {
    let deep = |prefix: &str, depth: usize| format!("{prefix}{}{}", "[".repeat(depth), "]".repeat(depth));
    // Unknown fields are skipped without recursion, to upstream's limit.
    let body = format!("{{{}}}", deep("\"unknown\":", 9_000));
    assert!(decode(body.as_bytes(), &schema("core.v1.Pod"), FieldValidation::Ignore).is_ok());
    for depth in [10_000, 2_000_000] {
        let body = format!("{{{}}}", deep("\"unknown\":", depth));
        let error = decode(body.as_bytes(), &schema("core.v1.Pod"), FieldValidation::Ignore).unwrap_err();
        assert!(error.message.contains("exceeded max depth"), "{}", error.message);
    }
    // What is kept must stay readable for everything behind.
    let body = format!("{{{}}}", deep("\"data\":", 500));
    let error =
        decode(body.as_bytes(), &schema("apps.v1.ControllerRevision"), FieldValidation::Ignore).unwrap_err();
    assert!(error.message.contains("exceeded max depth"), "{}", error.message);
}

#[test]
fn kinds_can_be_read_alone() {
    let read = |body: &str| type_meta(body.as_bytes(), "Pod");
    assert_eq!(
        read(r#"{"spec":{"kind":"x"},"kind":"Job","apiVersion":"batch/v1"}"#).unwrap(),
        TypeMeta { api_version: "batch/v1".into(), kind: "Job".into() }
    );
    assert_eq!(read("{}").unwrap(), TypeMeta::default());
    assert!(read("").unwrap_err().message.ends_with("unexpected end of JSON input (<empty>)"));
}

#[test]
fn no_definition_has_more_fields_than_the_decoder_tracks() {
    for name in crate::table().names() {
        assert!(crate::table().definition(name).unwrap().fields.len() <= 128, "{name}");
    }
}
