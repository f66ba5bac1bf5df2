//! Serialized objects, read and written again: JSON and YAML are the same values then, protobuf the same bytes.

use std::path::Path;

use anyhow::{Context, Result};
use schema::{FieldValidation, Schema, protobuf, table};
use serde_json::Value;

use super::{Report, files};

/// Scores every file of the folder. Its names are `<group>.<version>.<kind>.<form>`.
pub(super) fn score(folder: &Path, report: &mut Report) -> Result<()> {
    for file in files(folder)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {name}"))?;
        let json =
            std::fs::read(file.with_extension("json")).with_context(|| format!("no JSON of {name}"))?;
        let wanted: Value = serde_json::from_slice(&json).with_context(|| format!("{name} has no JSON"))?;
        match round_trip(&name, &bytes, &wanted) {
            Ok(()) => report.round_trips += 1,
            Err(why) => report.broken.push(format!("{name}: {why}")),
        }
    }
    Ok(())
}

fn round_trip(name: &str, bytes: &[u8], wanted: &Value) -> Result<(), String> {
    let schema = schema_of(name).ok_or("no such kind")?;
    let mode = FieldValidation::Strict;
    let read = match name.rsplit('.').next() {
        Some("json") => {
            schema::decode(bytes, &schema, mode).map(|decoded| decoded.value).map_err(|e| e.to_string())
        }
        Some("yaml") => {
            let yaml = schema::yaml_to_json(bytes).map_err(|error| error.to_string())?;
            schema::decode_yaml(&yaml, bytes, &schema, mode)
                .map(|decoded| decoded.value)
                .map_err(|status| status.to_string())
        }
        Some("pb") => protobuf::decode(bytes, &schema).map_err(|error| error.to_string()),
        _ => return Err("a form that is not known".into()),
    };
    let read = read?;
    if read != *wanted {
        return Err("another value is read".into());
    }
    if name.ends_with(".pb") && protobuf::encode(&read, &schema).map_err(|error| error.to_string())? != bytes
    {
        return Err("other bytes are written".into());
    }
    Ok(())
}

fn schema_of(name: &str) -> Option<Schema> {
    let mut parts = name.rsplitn(4, '.').skip(1);
    let (kind, version, group) = (parts.next()?, parts.next()?, parts.next()?);
    let group = if group == "core" { "" } else { group };
    // Upstream registers the kinds of meta.k8s.io in every group.
    let meta = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
    table().of_kind(group, version, kind).or_else(|| table().definition(&meta)).map(Schema::BuiltIn)
}
