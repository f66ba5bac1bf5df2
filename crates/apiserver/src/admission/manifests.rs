//! Configurations of webhooks and policies out of files (`staticManifestsDir`): in force from the start, whatever the store
//! says, and out of reach of the API. They judge also writes of such configurations, which those of the API never do.
//!
//! A set of files is taken as a whole or not at all. Not here: reading the files and seeing that they change (the caller),
//! what the configurations do (`webhook`, `policy`).
//! Upstream: apiserver `pkg/admission/plugin/manifest`, `…/webhook/manifest`, `…/policy/manifest` (KEP-5793).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use api::field::ErrorList;
use api::kinds::admissionregistration::RESERVED_SUFFIX;
use api::{GroupVersionKind, Object};
use arc_swap::ArcSwap;
use schema::{FieldValidation, Schema};
use serde_json::{Value, json};

use crate::registry::admissionregistration as checks;

const GROUP: &str = "admissionregistration.k8s.io";

/// What is wrong with a set of manifests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The setting that names the directory.
    #[error("staticManifestsDir: {0:?} must be an absolute path")]
    Relative(PathBuf),
    /// A file says something that cannot be.
    #[error("error loading {file}: {problem}", file = file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What.
        problem: String,
    },
    /// Something that is missing in all files.
    #[error("{0}")]
    Set(String),
}

/// What a plugin takes from its directory: kinds, by their resources.
pub(super) type Kinds = &'static [(&'static str, &'static str)];

/// Of MutatingAdmissionWebhook.
pub(super) const MUTATING_WEBHOOKS: Kinds =
    &[("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")];
/// Of ValidatingAdmissionWebhook.
pub(super) const VALIDATING_WEBHOOKS: Kinds =
    &[("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")];
/// Of MutatingAdmissionPolicy.
pub(super) const MUTATING_POLICIES: Kinds = &[
    ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
    ("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
];
/// Of ValidatingAdmissionPolicy.
pub(super) const VALIDATING_POLICIES: Kinds = &[
    ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
];

/// The configurations of one plugin that come from files. Clones are the same.
#[derive(Clone, Debug)]
pub struct Manifests(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kinds: Kinds,
    directory: OnceLock<PathBuf>,
    current: ArcSwap<Set>,
}

/// By resource, in the order of their names.
pub(super) type Set = BTreeMap<&'static str, Vec<Object>>;

impl Manifests {
    pub(super) fn new(kinds: Kinds) -> Self {
        Self(Arc::new(Inner { kinds, directory: OnceLock::new(), current: ArcSwap::default() }))
    }

    /// Says where the files are.
    ///
    /// # Errors
    /// A path that is not absolute.
    pub(super) fn set_directory(&self, directory: PathBuf) -> Result<(), Error> {
        if !directory.is_absolute() {
            return Err(Error::Relative(directory));
        }
        // A plugin is configured once.
        let _ = self.0.directory.set(directory);
        Ok(())
    }

    /// Where the files are, if there are any.
    pub fn directory(&self) -> Option<&Path> {
        self.0.directory.get().map(PathBuf::as_path)
    }

    /// What is in force now.
    pub(super) fn current(&self) -> Arc<Set> {
        self.0.current.load_full()
    }

    /// Puts these files into force, in place of those before; says whether that changes anything.
    ///
    /// # Errors
    /// What is wrong with them: then everything stays as it was.
    pub fn take(&self, files: &[(PathBuf, String)]) -> Result<bool, Error> {
        let set = self.read(files)?;
        let changes = *self.0.current.load_full() != set;
        if changes {
            self.0.current.store(Arc::new(set));
        }
        Ok(changes)
    }

    fn read(&self, files: &[(PathBuf, String)]) -> Result<Set, Error> {
        let mut found: BTreeMap<&'static str, BTreeMap<String, Object>> = BTreeMap::new();
        for (path, text) in files {
            let wrong = |problem: String| Error::File { file: path.clone(), problem };
            for document in documents(path, text) {
                let converted =
                    schema::yaml_to_json(document.as_bytes()).map_err(|e| wrong(e.to_string()))?;
                if let Some(twice) = schema::yaml::strict_error(&converted.duplicates) {
                    return Err(wrong(format!("strict decoding error: {twice}")));
                }
                let value: Value =
                    serde_json::from_slice(&converted.json).map_err(|e| wrong(e.to_string()))?;
                for item in self.items(value).map_err(wrong)? {
                    let (resource, object) = self.object(item).map_err(wrong)?;
                    let name = object.name().to_owned();
                    if found.entry(resource).or_default().insert(name.clone(), object).is_some() {
                        return Err(wrong(format!("duplicate name {name:?}: it is in these files twice")));
                    }
                }
            }
        }
        if let [(_, policies), (_, bindings)] = self.0.kinds {
            let policies: BTreeSet<&String> =
                found.get(policies).into_iter().flat_map(BTreeMap::keys).collect();
            for (name, binding) in found.get(bindings).into_iter().flatten() {
                let policy = text(&binding.0, "/spec/policyName");
                if !policies.iter().any(|known| **known == policy) {
                    return Err(Error::Set(format!(
                        "binding {name:?} references policy {policy:?} which does not exist in the manifest directory"
                    )));
                }
            }
        }
        Ok(found.into_iter().map(|(resource, named)| (resource, named.into_values().collect())).collect())
    }

    /// The objects of a document: itself, or those of a list.
    fn items(&self, value: Value) -> Result<Vec<Value>, String> {
        if value.is_null() {
            return Ok(Vec::new());
        }
        let (version, kind) = (text(&value, "/apiVersion").to_owned(), text(&value, "/kind").to_owned());
        let own = version == format!("{GROUP}/v1");
        let of = self.0.kinds.iter().find(|(known, _)| own && kind.strip_suffix("List") == Some(*known));
        if !(version == "v1" && kind == "List") && of.is_none() {
            return Ok(vec![value]);
        }
        let Value::Object(mut list) = value else { return Ok(Vec::new()) };
        let Some(Value::Array(items)) = list.remove("items") else { return Ok(Vec::new()) };
        let typed = items.into_iter().map(|mut item| {
            // What a typed list says of its items' kind it says once.
            if let (Some((kind, _)), Some(item)) = (of, item.as_object_mut()) {
                item.entry("apiVersion").or_insert_with(|| version.clone().into());
                item.entry("kind").or_insert_with(|| json!(kind));
            }
            item
        });
        Ok(typed.collect())
    }

    fn object(&self, item: Value) -> Result<(&'static str, Object), String> {
        let (version, kind) = (text(&item, "/apiVersion"), text(&item, "/kind"));
        let known = self.0.kinds.iter().find(|(known, _)| *known == kind);
        let Some((kind, resource)) = known.filter(|_| version == format!("{GROUP}/v1")) else {
            return Err(format!("unsupported resource type {version}, Kind={kind}"));
        };
        let wanted = GroupVersionKind::new(GROUP, "v1", *kind);
        let descriptors = api::kinds::all();
        let descriptor = descriptors.iter().find(|one| one.group_version_kind() == wanted);
        let schema = descriptor.and_then(|descriptor| Schema::built_in(&descriptor.schema));
        let (Some(descriptor), Some(schema)) = (descriptor, schema) else {
            return Err(format!("nothing is known of {kind}"));
        };
        let decoded = schema::decode_value(&item, &schema, FieldValidation::Strict);
        let mut object = Object(decoded.map_err(|status| status.message)?.value);
        // Whatever it was stored as elsewhere.
        for member in ["resourceVersion", "managedFields"] {
            object.metadata_mut().remove(member);
        }
        descriptor.hooks.default(&mut object.0);
        let name = object.name().to_owned();
        if !name.ends_with(RESERVED_SUFFIX) {
            return Err(format!("{kind} {name:?}: the name must end with {RESERVED_SUFFIX:?}"));
        }
        let mut errors: ErrorList = api::names::is_dns1123_subdomain(&name)
            .into_iter()
            .map(|problem| {
                api::field::invalid(&api::field::Path::new("metadata").child("name"), &*name, problem)
            })
            .collect();
        errors.extend(descriptor.hooks.validate(&object.0));
        errors.extend(checks::wrong_expressions(kind, &object.0));
        if !errors.is_empty() {
            let status = api::Status::invalid(&descriptor.group_kind(), &name, errors);
            return Err(status.message);
        }
        alone(kind, &name, &object.0)?;
        Ok((*resource, object))
    }
}

/// What stands in files depends on nothing that only the API has.
fn alone(kind: &str, name: &str, object: &Value) -> Result<(), String> {
    for webhook in object["webhooks"].as_array().into_iter().flatten() {
        let own = text(webhook, "/name");
        if !webhook["clientConfig"]["service"].is_null() {
            return Err(format!(
                "webhook {own:?} in {name:?}: clientConfig.service is not supported for static manifests; use \
                 clientConfig.url instead"
            ));
        }
        if text(webhook, "/clientConfig/url").is_empty() {
            return Err(format!(
                "webhook {own:?} in {name:?}: clientConfig.url is required for static manifests"
            ));
        }
    }
    if !object["spec"]["paramKind"].is_null() {
        return Err(format!("{kind} {name:?}: spec.paramKind is not supported for static manifests"));
    }
    if kind.ends_with("Binding") {
        let policy = text(object, "/spec/policyName");
        if !policy.ends_with(RESERVED_SUFFIX) {
            return Err(format!(
                "binding {name:?}: spec.policyName {policy:?} must end with {RESERVED_SUFFIX:?}"
            ));
        }
        if !object["spec"]["paramRef"].is_null() {
            return Err(format!("binding {name:?}: spec.paramRef is not supported for static manifests"));
        }
    }
    Ok(())
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The documents of a file.
fn documents(path: &Path, text: &str) -> Vec<String> {
    if is_of(path, &["json"]) {
        return vec![text.to_owned()];
    }
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.strip_prefix("---").is_some_and(|rest| rest.trim().is_empty() || rest.trim().starts_with('#'))
        {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    documents
}

fn is_of(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    extensions.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether a file of this name is read.
pub fn is_manifest(path: &Path) -> bool {
    is_of(path, &["yaml", "yml", "json"])
}

#[cfg(test)]
mod tests;
