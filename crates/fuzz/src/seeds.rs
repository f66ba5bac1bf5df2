//! What each target starts from: good inputs, made by the code that writes what the targets read. A target puts them into
//! its `corpus/` before it begins.

use std::io;
use std::path::Path;

use crate::sample::{Source, kinds, object};
use schema::{cbor, protobuf};
use serde_json::{Value, json};

/// Objects of each kind.
const OBJECTS: u8 = 2;

/// Writes the seeds of one target.
pub fn write(target: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).expect("a folder for seeds can be made");
    for (_, name, input) in all().expect("seeds can be made").0.iter().filter(|(of, ..)| of == target) {
        std::fs::write(folder.join(format!("seed-{name}")), input).expect("seeds can be written");
    }
}

/// The seeds of all targets: the target, a name, the input.
#[derive(Default)]
pub struct Seeds(pub Vec<(String, String, Vec<u8>)>);

impl Seeds {
    fn add(&mut self, target: &str, name: &str, input: &[u8]) {
        self.0.push((target.to_owned(), name.to_owned(), input.to_vec()));
    }
}

/// Makes them.
///
/// # Errors
/// What is written here cannot be encoded.
pub fn all() -> io::Result<Seeds> {
    let mut seeds = Seeds::default();
    for (kind, _) in (0_u16..).zip(kinds()) {
        for variant in 0..OBJECTS {
            let choice = kind.to_be_bytes();
            // A fixed sequence of bytes that choose branches, another one for each object.
            let draws: Vec<u8> =
                (0..200_u32).map(|n| (n * 97 + u32::from(variant) * 31 + u32::from(kind)) as u8).collect();
            let bytes = [&choice[..], &draws].concat();
            let (schema, object) = object(&mut Source::new(&bytes));
            let text = object.to_string().into_bytes();
            let name = format!("{kind}-{variant}");
            seeds.add("json", &name, &[&choice[..], &text].concat());
            seeds.add("yaml", &name, &[&choice[..], yaml(&object, 0).as_bytes()].concat());
            let encoded = protobuf::encode(&object, &schema).map_err(io::Error::other)?;
            seeds.add("protobuf", &name, &[&choice[..], &encoded].concat());
            seeds.add("cbor", &name, &[&choice[..], &cbor::encode(&object, Some(&schema))].concat());
            seeds.add("forms", &name, &bytes);
        }
    }
    let document = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "uid": "u", "labels": {"a": "b"}, "finalizers": ["x/a", "x/b"]},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [
            {"name": "a", "image": "i", "env": [{"name": "E", "value": "1"}], "ports": [{"containerPort": 80}]},
            {"name": "b", "args": ["x"]},
        ]}}},
    });
    let own = &["metadata", "spec"].map(|member| document[member].clone());
    let patches = [
        (
            "json_patch",
            json!([
                {"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "add", "path": "/metadata/labels/c", "value": "d"},
                {"op": "copy", "from": "/spec/template", "path": "/metadata/t"}, {"op": "remove", "path": "/metadata/finalizers/0"},
                {"op": "move", "from": "/spec/replicas", "path": "/metadata/r"},
            ]),
        ),
        ("merge_patch", json!({"metadata": {"labels": {"a": null, "e": "f"}}, "spec": own[1]})),
        (
            "strategic_patch",
            json!({
                "metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"], "$setElementOrder/finalizers": ["x/b"]},
                "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}, "template": {"spec": {
                    "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}],
                    "containers": [{"name": "c", "image": "j"}, {"name": "a", "$patch": "delete"}],
                }}},
            }),
        ),
        ("apply", document.clone()),
    ];
    for (target, patch) in patches {
        let input = format!("{document}\0{patch}");
        seeds.add(target, "seed", input.as_bytes());
    }
    let lists: [(&str, &[&[u8]]); 4] = [
        ("selector", &[b"a=b,c!=d,e in (f,g),!h,i,j notin (k),l>1,m<2", b"metadata.name=a\\,b,spec.nodeName!=n"]),
        ("quantity", &[b"1.5Gi\0100m", b"-1e3\0+.5Ei", b"9223372036854775807\01n"]),
        ("cel", &[
            b"{\"a\": [1, 2], \"m\": {\"k\": \"v\"}}\0self.a.map(x, x * 2).exists(y, y > 3) && has(self.m.k)",
            b"null\0s.split(' ').join('-').matches('^h.*$') ? duration('1h') > duration('1m') : l.sum() == 36",
            b"1\0cel.bind(x, quantity('1Gi'), x.add(quantity('1'))).isGreaterThan(quantity('1k'))",
            b"1\0timestamp('2024-01-01T00:00:00Z').getFullYear() == 2024 && [1, 2].filter(i, i in l) == {'a': b'x'}.map(k, 1)",
            b"1\0url('https://a/b?c=d').getQuery()['c'][0] == 'd' && ip('::1').family() == 6 && 'a%d'.format([1]) != s.lowerAscii()",
        ]),
        // A SYN_STREAM of no headers (zlib's stored blocks), data, a ping; a masked binary frame, a ping, a close.
        ("spdy", &[b"\x80\x03\0\x01\0\0\0\x1a\0\0\0\x01\0\0\0\0\0\0\x78\x01\0\x04\0\xfb\xff\0\0\0\0\0\0\0\xff\xff\0\0\0\x01\x01\0\0\x02hi\x80\x03\0\x06\0\0\0\x04\0\0\0\x01"]),
    ];
    for (target, inputs) in lists {
        for (number, input) in inputs.iter().enumerate() {
            seeds.add(target, &number.to_string(), input);
        }
    }
    let resize = br#".{"Width":80,"Height":24}"#;
    let masked: Vec<u8> =
        resize.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    let frame = [
        &[0x82, 0x80 | resize.len() as u8, 1, 2, 3, 4][..],
        &masked,
        &[0x89, 0x80, 0, 0, 0, 0, 0x88, 0x80, 0, 0, 0, 0],
    ];
    seeds.add("websocket", "seed", &frame.concat());
    Ok(seeds)
}

/// Block style, so that the fuzzer sees more of YAML than JSON.
fn yaml(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(object) if !object.is_empty() => {
            let lines =
                object.iter().map(|(key, value)| format!("\n{pad}{key}: {}", yaml(value, indent + 2)));
            lines.collect()
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter().map(|value| format!("\n{pad}- {}", yaml(value, indent + 2))).collect()
        }
        other => other.to_string(),
    }
}
