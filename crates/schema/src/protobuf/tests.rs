//! What is read, what is refused, what is written.

use super::*;

fn schema(name: &str) -> Schema {
    Schema::built_in(name).unwrap()
}

/// `field` as a length-delimited field of a message.
fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [part(1, api_version.as_bytes()), part(2, kind.as_bytes())].concat();
    [MAGIC, &part(1, &meta), &part(2, raw)].concat()
}

#[test]
fn what_kubectl_sends_is_read() {
    let labels = [part(1, b"a"), part(2, b"b")].concat();
    // Name, an empty generateName, an empty creationTimestamp, a label.
    let metadata = [part(1, b"x"), part(2, b""), part(8, b""), part(11, &labels)].concat();
    let data = [part(1, b"k"), part(2, b"v")].concat();
    let raw = [part(1, &metadata), part(2, &data)].concat();
    let json = to_json(&body("v1", "ConfigMap", &raw), &schema("io.k8s.api.core.v1.ConfigMap")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "x", "labels": {"a": "b"}}, "data": {"k": "v"},
        })
    );
}

#[test]
fn a_zero_that_means_something_is_kept() {
    // `replicas` is a pointer, `minReadySeconds` is none.
    let spec = vec![1 << 3, 0, 5 << 3, 0];
    let raw = part(2, &spec);
    let json =
        to_json(&body("apps/v1", "Deployment", &raw), &schema("io.k8s.api.apps.v1.Deployment")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["spec"], serde_json::json!({"replicas": 0}));
}

/// It would be stored as null otherwise, and the client told that all is well.
#[test]
fn raw_json_is_read_or_refused() {
    let revision = schema("io.k8s.api.apps.v1.ControllerRevision");
    let read =
        |raw: &[u8]| decode(&body("apps/v1", "ControllerRevision", &part(2, &part(1, raw))), &revision);
    assert_eq!(read(b"{\"a\":[1]}").map(|value| value["data"].clone()), Ok(serde_json::json!({"a": [1]})));
    assert_eq!(read(b"{\"a\":"), Err(Error::Raw));
    assert_eq!(read(b"no JSON"), Err(Error::Raw));
}

#[test]
fn garbage_is_refused_and_never_more() {
    let schema = schema("io.k8s.api.core.v1.Pod");
    let good = body("v1", "Pod", &part(1, &part(1, b"x")));
    for bad in
        [&b""[..], b"k8s", b"{}", b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"k8s\0\x12\xff\x01x"]
    {
        assert_eq!(to_json(bad, &schema).map_err(|status| status.code), Err(400), "{bad:?}");
    }
    for at in 0..good.len() {
        // Cut short or with one byte changed: read or refused, but nothing else.
        let _ = to_json(&good[..at], &schema);
        let mut changed = good.clone();
        changed[at] ^= 0xff;
        let _ = to_json(&changed, &schema);
    }
}

#[test]
fn every_definition_in_the_table_is_known() {
    for name in layout::names() {
        assert!(crate::table().definition(name).is_some(), "{name}");
    }
    assert!(layout::names().count() > 300, "{}", layout::names().count());
    let volume = layout::of(crate::table().definition("io.k8s.api.core.v1.Volume").unwrap()).unwrap();
    let Some(layout::Slot::Inline(source)) = volume.get(2) else { panic!("{volume:?}") };
    assert!(matches!(source.get(2), Some(layout::Slot::Field(field)) if field.name == "emptyDir"));
}

#[test]
fn raw_json_that_is_none_is_refused() {
    let schema = schema("io.k8s.api.apps.v1.ControllerRevision");
    let revision = |raw: &[u8]| {
        let metadata = part(1, b"x");
        body("apps/v1", "ControllerRevision", &[part(1, &metadata), part(2, &part(1, raw))].concat())
    };
    let deep = format!("{}1{}", "[".repeat(50), "]".repeat(50)).into_bytes();
    for (raw, good) in
        [(&b"{\"a\":1}"[..], true), (b"", true), (&deep, true), (b"{\"a\":", false), (b"x", false)]
    {
        assert_eq!(to_json(&revision(raw), &schema).is_ok(), good, "{}", String::from_utf8_lossy(raw));
    }
}
