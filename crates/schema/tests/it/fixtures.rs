//! Upstream's own serializations of one object of each kind, read and written again. They are found by the environment
//! variable `IRONCLAD_TESTDATA`; without it the test says so and passes.

use std::path::PathBuf;

use schema::{Schema, protobuf, table};
use serde_json::Value;

/// The files' names without their endings, with the schema of what they hold.
fn fixtures() -> Vec<(PathBuf, Schema)> {
    let Some(folder) = std::env::var_os("IRONCLAD_TESTDATA") else {
        eprintln!("skipped: set IRONCLAD_TESTDATA to the folder of recordings");
        return Vec::new();
    };
    let files = std::fs::read_dir(PathBuf::from(folder).join("api")).expect("the folder of serializations");
    let mut found: Vec<(PathBuf, Schema)> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "pb"))
        .map(|path| {
            let stem = path.with_extension("");
            let name = stem.file_name().unwrap().to_str().unwrap().to_owned();
            let (rest, kind) = name.rsplit_once('.').unwrap();
            let (group, version) = rest.rsplit_once('.').unwrap();
            let group = if group == "core" { "" } else { group };
            // Upstream registers the kinds of meta.k8s.io in every group.
            let meta = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
            let definition = table().of_kind(group, version, kind).or_else(|| table().definition(&meta));
            (stem, Schema::BuiltIn(definition.unwrap_or_else(|| panic!("no definition of {name}"))))
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

#[test]
fn protobuf_comes_out_byte_for_byte() {
    let mut wrong = Vec::new();
    for (stem, schema) in fixtures() {
        let bytes = std::fs::read(with_ending(&stem, "pb")).unwrap();
        let json: Value =
            serde_json::from_slice(&std::fs::read(with_ending(&stem, "json")).unwrap()).unwrap();
        let decoded = protobuf::decode(&bytes, &schema);
        if decoded.as_ref() != Ok(&json) {
            wrong.push(format!("{}: read {decoded:?}\n  wanted {json}", stem.display()));
        }
        if protobuf::encode(&json, &schema).as_ref() != Ok(&bytes) {
            wrong.push(format!("{}: written otherwise", stem.display()));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn json_and_yaml_are_read_whole() {
    let mut wrong = Vec::new();
    for (stem, schema) in fixtures() {
        let json = std::fs::read(with_ending(&stem, "json")).unwrap();
        let wanted: Value = serde_json::from_slice(&json).unwrap();
        let yaml = std::fs::read(with_ending(&stem, "yaml")).unwrap();
        let converted = schema::yaml_to_json(&yaml).unwrap().json;
        for (form, text) in [("json", json), ("yaml", converted)] {
            match schema::decode(&text, &schema, schema::FieldValidation::Strict) {
                Ok(decoded) if decoded.value == wanted => {}
                other => wrong.push(format!("{} {form}: {other:?}\n  wanted {wanted}", stem.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn with_ending(stem: &std::path::Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}.{ending}", stem.display()))
}

#[test]
fn every_served_kind_has_a_protobuf_form() {
    let without: Vec<String> = api::kinds::all()
        .iter()
        .filter(|kind| !protobuf::supports(&Schema::built_in(&kind.schema).unwrap()))
        .map(|kind| kind.schema.to_string())
        .collect();
    assert!(without.is_empty(), "{without:?}");
}
