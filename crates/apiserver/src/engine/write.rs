//! What all writes have in common: their options, and the metadata that the server keeps.

use api::field::{self, ErrorList, Path};
use api::{GroupKind, Object, Status};
use schema::FieldValidation;
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::request::Query;

/// CreateOptions, UpdateOptions and PatchOptions; of DeleteOptions what admission is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Do everything but store.
    pub dry_run: bool,
    /// What happens to unknown fields.
    pub field_validation: FieldValidation,
    /// The same in the client's word, if it has one.
    pub asked_validation: Option<&'static str>,
    /// Who manages the fields.
    pub field_manager: String,
    /// Whether apply takes fields from other managers.
    pub force: bool,
    /// Whether the object is the outcome of an apply, and knows already who owns what.
    pub applied: bool,
    /// Of a deletion: what else its DeleteOptions say, by member.
    pub deletion: Value,
}

impl WriteOptions {
    /// Reads the options of `kind` (`CreateOptions`, …) from the query.
    pub fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        Self::parse_with(query, kind, Vec::new())
    }

    /// Reads the `PatchOptions` of an apply, or of another patch.
    pub fn parse_patch(query: &Query, apply: bool) -> Result<Self, Status> {
        let mut errors = Vec::new();
        if apply && query.get("fieldManager").unwrap_or_default().is_empty() {
            errors.push(field::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
        if !apply && query.get("force").is_some() {
            errors.push(field::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        Self::parse_with(query, "PatchOptions", errors)
    }

    fn parse_with(query: &Query, kind: &str, mut errors: ErrorList) -> Result<Self, Status> {
        let field_manager = query.get("fieldManager").unwrap_or_default();
        let path = Path::new("fieldManager");
        if field_manager.len() > 128 {
            // Its characters are not looked at then: each that is wrong is told with the whole text.
            errors.push(field::too_long(&path, 128));
        } else {
            for (at, character) in field_manager.char_indices().filter(|(_, c)| c.is_control()) {
                let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(character));
                errors.push(field::invalid(&path, field_manager, detail));
            }
        }
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        errors.extend(check_dry_run(&dry_run));
        let (field_validation, asked_validation) = match query.get("fieldValidation").unwrap_or_default() {
            "" => (FieldValidation::Warn, None),
            "Warn" => (FieldValidation::Warn, Some("Warn")),
            "Ignore" => (FieldValidation::Ignore, Some("Ignore")),
            "Strict" => (FieldValidation::Strict, Some("Strict")),
            other => {
                let known = ["Ignore", "Strict", "Warn"];
                errors.push(field::not_supported(&Path::new("fieldValidation"), other, &known));
                (FieldValidation::Warn, None)
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("meta.k8s.io", kind), "", errors));
        }
        Ok(Self {
            dry_run: !dry_run.is_empty(),
            field_validation,
            asked_validation,
            field_manager: field_manager.to_owned(),
            force: query.flag("force"),
            applied: false,
            deletion: Value::Null,
        })
    }

    /// As admission sees them.
    pub fn to_json(&self, operation: Operation) -> Value {
        let kind = match operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if let Value::Object(deletion) = &self.deletion {
            for (member, value) in deletion {
                options[member] = value.clone();
            }
        }
        if !self.field_manager.is_empty() {
            options["fieldManager"] = self.field_manager.clone().into();
        }
        if let Some(asked) = self.asked_validation {
            options["fieldValidation"] = asked.into();
        }
        options
    }
}

/// What is wrong with these values of `dryRun`. An empty one is wrong too: it could be meant as a wish to write nothing.
pub(super) fn check_dry_run(values: &[&str]) -> Option<field::Error> {
    let wrong = values.iter().any(|value| *value != "All");
    wrong.then(|| field::not_supported(&Path::new("dryRun"), values.to_vec(), &["All"]))
}

/// Copies a member of the metadata from `old`, or removes it where `old` has none.
pub(super) fn carry(new: &mut Object, old: &Object, member: &str) {
    let value = old.0.get("metadata").and_then(|metadata| metadata.get(member)).cloned();
    match value {
        Some(value) => new.metadata_mut().insert(member.to_owned(), value),
        None => new.metadata_mut().remove(member),
    };
}

/// Counts the generation up if the kind has one.
pub(super) fn next_generation(object: &mut Object) {
    let generation = object.generation();
    if generation > 0 {
        object.metadata_mut().insert("generation".into(), (generation + 1).into());
    }
}

/// The members of an object that are no part of what is wanted of it.
pub(super) const UNCOUNTED: [&str; 4] = ["metadata", "status", "apiVersion", "kind"];

/// Whether anything but the metadata differs: what `metadata.generation` counts. A status counts where it is no
/// subresource, as only custom resources have it (upstream: customresource/strategy.go, `PrepareForUpdate`).
pub(super) fn spec_differs(new: &Object, old: &Object, status_is_separate: bool) -> bool {
    let counts = |key: &str| !UNCOUNTED.contains(&key) || (key == "status" && !status_is_separate);
    let [new, old] = [new, old]
        .map(|object| object.0.as_object().into_iter().flatten().filter(|(key, _)| counts(key.as_str())));
    !new.eq(old)
}

/// The present as metadata has it: seconds, UTC.
pub(crate) fn timestamp(now: jiff::Timestamp) -> String {
    let seconds = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    seconds.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        let options = |query| WriteOptions::parse(&Query::parse(Some(query)), "CreateOptions");
        assert!(options("dryRun=All").unwrap().dry_run);
        assert_eq!(options("").unwrap().field_validation, FieldValidation::Warn);
        assert_eq!(options("fieldValidation=Strict").unwrap().field_validation, FieldValidation::Strict);
        let refused = options("fieldManager=%C3%A4%00b%7F").unwrap_err();
        for said in ["invalid character U+0000 (at position 2)", "invalid character U+007F (at position 4)"] {
            assert!(refused.message.contains(said), "{refused}");
        }
        // Each is told with the whole text: of one that is too long, none is, or a request of 64 KiB made gigabytes.
        let query = format!("fieldManager={}", "%00".repeat(20_000));
        let long = WriteOptions::parse(&Query::parse(Some(&query)), "CreateOptions").unwrap_err();
        assert_eq!(long.details.map(|details| details.causes.len()), Some(1));
        for (query, shown) in [
            ("dryRun=Some", r#"["Some"]"#),
            ("dryRun=", r#"[""]"#),
            ("dryRun", r#"[""]"#),
            ("dryRun=All&dryRun=&dryRun=x", r#"["All","","x"]"#),
        ] {
            let refused = options(query).unwrap_err();
            assert_eq!(refused.code, 422, "{query}");
            let said = format!("dryRun: Unsupported value: {shown}: supported values: \"All\"");
            assert!(refused.message.ends_with(&said), "{query}: {refused}");
        }
    }

    #[test]
    fn times_have_seconds() {
        let time: jiff::Timestamp = "2024-01-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(timestamp(time), "2024-01-02T03:04:05Z");
    }
}
