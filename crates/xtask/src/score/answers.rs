//! Manifests asked of a whole API server, as `kubectl create --dry-run=server --validate=strict` asks.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use api::kind::Descriptor;
use apiserver::{ApiServer, Options, User};
use bytes::Bytes;
use foundation::{SystemClock, SystemRandomness, Tasks};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Report, compare, files};

/// What differs for a reason that stands in `docs/compat.md`: words that all stand in the difference, and the first
/// column of the row.
const KNOWN: &[(&[&str], &str)] = &[
    (&["Pod.metadata.generation: recorded null"], "generation of pods"),
    (&["HorizontalPodAutoscaler.metadata.generation: recorded null"], "generation of autoscalers"),
    (
        &["StatefulSet.spec.updateStrategy.rollingUpdate.maxUnavailable: recorded null, ours 1"],
        "StatefulSet defaults",
    ),
    (
        &["not recorded: ", "`selector` does not match template `labels`; recorded: ", "map[string]string"],
        "maps in messages",
    ),
    (&["CustomResourceDefinition.status.acceptedNames."], "names of a new CustomResourceDefinition"),
    (
        &["CustomResourceDefinition.status.conditions: recorded null", "NamesAccepted"],
        "names of a new CustomResourceDefinition",
    ),
];

/// One recorded answer.
#[derive(Debug, Deserialize)]
struct Recording {
    manifest: String,
    accepted: bool,
    #[serde(default)]
    objects: Vec<Value>,
    /// What the client printed of errors.
    #[serde(default)]
    stderr: String,
}

/// Asks about every recording of the folder.
pub(super) async fn score(folder: &Path, compat: &str, report: &mut Report) -> Result<()> {
    let asker = Asker::new().await?;
    for file in files(folder)? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read(&file).with_context(|| format!("cannot read {name}"))?;
        let recording: Recording =
            serde_json::from_slice(&text).with_context(|| format!("{name} is no recording"))?;
        let Some(documents) = asker.documents(&recording) else {
            report.unasked += 1;
            continue;
        };
        let found = asker.ask(&recording, documents).await?;
        let rows: Vec<Option<&str>> = found.iter().map(|difference| row(difference, compat)).collect();
        if found.is_empty() {
            report.same += 1;
        } else if rows.iter().all(Option::is_some) {
            report.known.extend(rows.into_iter().flatten().take(1).map(str::to_owned));
        } else {
            let unknown =
                found.iter().zip(&rows).filter(|(_, row)| row.is_none()).map(|(text, _)| text.as_str());
            let unknown: Vec<&str> = unknown.take(4).collect();
            report.different.push(format!("{name}\n    {}", unknown.join("\n    ")));
        }
    }
    asker.tasks.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}

/// The row of the table that explains a difference.
fn row(difference: &str, compat: &str) -> Option<&'static str> {
    let explains = |words: &[&str]| words.iter().all(|word| difference.contains(word));
    let (_, row) = KNOWN.iter().find(|(words, _)| explains(words))?;
    compat.contains(&format!("\n| {row} |")).then_some(row)
}

/// The server, and the one who asks it.
struct Asker {
    transport: Arc<dyn client::Transport>,
    kinds: HashMap<(String, String), Arc<Descriptor>>,
    tasks: Tasks,
    _server: ApiServer,
    _folder: tempfile::TempDir,
}

impl Asker {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let clock = SystemClock::shared();
        let store = store::embedded::Engine::open(folder.path(), Default::default(), clock.clone())?;
        let tasks = Tasks::new("score");
        let options = Options { advertise: Some(([127, 0, 0, 1].into(), 6443)), ..Options::default() };
        let server = ApiServer::new(store, options, &tasks, clock, SystemRandomness::shared()).await?;
        let transport = server.in_process(User::new("admin", &[User::MASTERS]));
        let kinds = api::kinds::all()
            .into_iter()
            .map(|kind| ((kind.group_version().to_string(), kind.kind.to_string()), kind))
            .collect();
        let asker = Self { transport, kinds, tasks, _server: server, _folder: folder };
        // What a controller does in a whole cluster; pods are refused without it.
        for namespace in ["default", "kube-system"] {
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            let (code, answer) =
                asker.post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await?;
            if code != 201 {
                return Err(anyhow!("no service account in {namespace}: {answer}"));
            }
        }
        Ok(asker)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("content-type", "application/json")
            .body(Bytes::from(body.to_string()))?;
        let answer = self.transport.send(request).await?;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.map_err(|error| anyhow!("{error}"))?.to_bytes();
        Ok((code, serde_json::from_slice(&bytes)?))
    }

    /// The documents that the client would send, lists unfolded; `None` if it refuses by itself.
    fn documents(&self, recording: &Recording) -> Option<Vec<Value>> {
        let mut all = Vec::new();
        for value in values(&recording.manifest)? {
            match value.get("items").and_then(Value::as_array) {
                Some(items) if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                    all.extend(items.iter().cloned());
                }
                _ if value.is_null() => {}
                _ => all.push(value),
            }
        }
        let known = all.iter().all(|document| self.kind(document).is_some());
        (known && !all.is_empty()).then_some(all)
    }

    fn kind(&self, document: &Value) -> Option<&Arc<Descriptor>> {
        let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
        self.kinds.get(&(text("apiVersion"), text("kind")))
    }

    /// What differs from the recording.
    async fn ask(&self, recording: &Recording, documents: Vec<Value>) -> Result<Vec<String>> {
        let (mut found, mut objects, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for document in documents {
            let Some(kind) = self.kind(&document) else { continue };
            let root = if kind.group.is_empty() {
                "/api/v1".to_owned()
            } else {
                format!("/apis/{}", kind.group_version())
            };
            let namespace =
                document.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
            let place = if kind.is_namespaced() { format!("/namespaces/{namespace}") } else { String::new() };
            let path = format!(
                "{root}{place}/{}?dryRun=All&fieldManager=kubectl-create&fieldValidation=Strict",
                kind.plural
            );
            match self.post(&path, &document).await? {
                (200..=299, object) => objects.push(object),
                (_, status) => failures.push(status),
            }
        }
        for failure in &failures {
            found.extend(compare::unprinted(failure, &recording.stderr));
        }
        if recording.accepted == !failures.is_empty() {
            let recorded = if recording.accepted { "accepted" } else { "refused" };
            found.push(format!("recorded: {recorded}, {}", recording.stderr.trim()));
        } else if recording.objects.len() != objects.len() {
            found.push(format!("{} objects, recorded: {}", objects.len(), recording.objects.len()));
        } else {
            for (recorded, ours) in recording.objects.iter().zip(objects) {
                found.extend(compare::objects(recorded, ours));
            }
        }
        Ok(found)
    }
}

/// The values of a manifest: JSON, one behind another, or YAML.
fn values(manifest: &str) -> Option<Vec<Value>> {
    if manifest.trim_start().starts_with('{') {
        return serde_json::Deserializer::from_str(manifest).into_iter().collect::<Result<_, _>>().ok();
    }
    let parsed = split(manifest).into_iter().map(|text| {
        let converted = schema::yaml_to_json(text.as_bytes()).ok()?;
        serde_json::from_slice(&converted.json).ok()
    });
    parsed.collect()
}

/// The documents of a YAML manifest.
fn split(manifest: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in manifest.lines() {
        if line.starts_with("---") {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_difference_has_its_row() {
        let compat = include_str!("../../../../docs/compat.md");
        for (words, name) in KNOWN {
            assert_eq!(row(&words.concat(), compat), Some(*name));
        }
        assert_eq!(row("Pod.spec.nodeName: recorded null", compat), None);
    }

    #[test]
    fn manifests_are_split_where_the_client_splits_them() {
        assert_eq!(split("a: 1\n--- # next\nb: |\n  ---\n"), ["a: 1\n", "b: |\n  ---\n"]);
    }
}
