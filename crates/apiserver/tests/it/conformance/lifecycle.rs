//! The round of API operations that conformance asks of a kind: discovery, create, get, list, watch, patch, update,
//! status, delete, deletecollection.

use serde_json::{Value, json};

use crate::world::World;

/// A kind under test.
pub struct Kind<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    /// Empty for a cluster-scoped kind.
    pub namespace: &'a str,
    /// An object without metadata.
    pub body: Value,
    /// A merge patch of the status, and where to see it; `None` without a status subresource.
    pub status: Option<(Value, &'a str)>,
}

impl Kind<'_> {
    fn base(&self) -> String {
        match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// The path of the collection.
    pub fn path(&self) -> String {
        match self.namespace {
            "" => format!("{}/{}", self.base(), self.resource),
            namespace => format!("{}/namespaces/{namespace}/{}", self.base(), self.resource),
        }
    }

    /// An object of this kind.
    pub fn object(&self, name: &str) -> Value {
        let mut object = self.body.clone();
        object["metadata"] = json!({"name": name, "labels": {"e2e": "lifecycle"}});
        object
    }

    /// Goes through all of them.
    pub async fn run(&self, world: &World) {
        let admin = &world.admin;
        let path = self.path();
        if !self.group.is_empty() {
            let groups = admin.get("/apis").await.is(200);
            let groups = groups.at("/groups").as_array().unwrap().clone();
            let group = groups.iter().find(|group| group["name"] == self.group).expect("the group is there");
            let versions = group["versions"].as_array().unwrap();
            assert!(versions.iter().any(|version| version["version"] == self.version));
        }
        let resources = admin.get(&self.base()).await.is(200);
        let names: Vec<&str> = resources
            .at("/resources")
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        assert!(names.contains(&self.resource), "{names:?}");
        if self.status.is_some() {
            let status = format!("{}/status", self.resource);
            assert!(names.contains(&status.as_str()), "{names:?}");
        }

        let names = ["lifecycle-1", "lifecycle-2", "lifecycle-3"];
        let selected = format!("{path}?labelSelector=e2e%3Dlifecycle");
        let start = admin.get(&selected).await.is(200).text("/metadata/resourceVersion").to_owned();
        for name in names {
            let made = admin.post(&path, &self.object(name)).await.is(201);
            assert!(!made.text("/metadata/uid").is_empty());
            admin.post(&path, &self.object(name)).await.is(409);
        }
        let one = format!("{path}/lifecycle-1");
        assert_eq!(admin.get(&one).await.is(200).text("/metadata/name"), names[0]);
        assert_eq!(admin.get(&selected).await.is(200).names(), names);
        if !self.namespace.is_empty() {
            let everywhere = format!("{}/{}?labelSelector=e2e%3Dlifecycle", self.base(), self.resource);
            assert_eq!(admin.get(&everywhere).await.is(200).names(), names);
        }

        let mut watch = admin.watch(&format!("{selected}&watch=true&resourceVersion={start}")).await;
        for name in names {
            assert_eq!(watch.event().await, ("ADDED".to_owned(), name.to_owned()));
        }
        let patch = json!({"metadata": {"annotations": {"patched": "true"}, "labels": {"second": "label"}}});
        let patched = admin.patch(&one, "merge-patch+json", &patch).await.is(200);
        assert_eq!(patched.text("/metadata/annotations/patched"), "true");
        let next = watch.next().await.unwrap();
        assert_eq!(
            (&next["type"], &next["object"]["metadata"]["annotations"]["patched"]),
            (&"MODIFIED".into(), &"true".into())
        );
        let mut update = patched.body.clone();
        update["metadata"]["annotations"]["updated"] = "true".into();
        assert_eq!(admin.put(&one, &update).await.is(200).text("/metadata/annotations/updated"), "true");
        let next = watch.next().await.unwrap();
        assert_eq!(next["object"]["metadata"]["annotations"]["updated"], "true");
        admin.put(&one, &update).await.is(409);

        if let Some((patch, pointer)) = &self.status {
            let status = format!("{one}/status");
            assert_eq!(admin.get(&status).await.is(200).text("/metadata/name"), names[0]);
            let patched = admin.patch(&status, "merge-patch+json", patch).await.is(200);
            assert_eq!(Some(patched.at(pointer)), patch.pointer(pointer), "the status is patched");
            let mut update = patched.body.clone();
            update["metadata"]["annotations"]["status"] = "updated".into();
            admin.put(&status, &update).await.is(200);
            assert_eq!(admin.get(&one).await.is(200).at(pointer), patched.at(pointer));
        }

        admin.delete(&one, None).await.is(200);
        admin.get(&one).await.is(404);
        assert_eq!(admin.get(&selected).await.is(200).names(), &names[1..]);
        admin.delete(&selected, None).await.is(200);
        assert!(admin.get(&selected).await.is(200).names().is_empty());
        loop {
            let (event, name) = watch.event().await;
            if event == "DELETED" && name == names[2] {
                break;
            }
        }
    }

    /// Sends each kind of patch to an object and, where there is one, to its status; makes the name of one from a
    /// prefix on the way.
    pub async fn patch_every_way(&self, world: &World) {
        let admin = &world.admin;
        let mut object = self.object("");
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("name");
        metadata.insert("generateName".to_owned(), "patched-".into());
        let api_version = &self.body["apiVersion"];
        let kind = &self.body["kind"];
        let label = json!({"metadata": {"labels": {"by": "patch"}}});
        let applied = |name: &str, of: &Value| {
            let mut config = of.clone();
            (config["apiVersion"], config["kind"]) = (api_version.clone(), kind.clone());
            config["metadata"]["name"] = name.into();
            config
        };
        for (media_type, patch) in [
            ("merge-patch+json", label.clone()),
            ("strategic-merge-patch+json", label.clone()),
            ("json-patch+json", json!([{"op": "add", "path": "/metadata/labels/by", "value": "patch"}])),
            ("apply-patch+yaml", label),
        ] {
            let made = admin.post(&self.path(), &object).await.is(201);
            let name = made.text("/metadata/name");
            assert!(name.starts_with("patched-") && name.len() > "patched-".len(), "{name}");
            let one = format!("{}/{name}", self.path());
            let force = if media_type.starts_with("apply") { "?fieldManager=e2e&force=true" } else { "" };
            let patch = if force.is_empty() { patch } else { applied(name, &patch) };
            let patched = admin.patch(&format!("{one}{force}"), media_type, &patch).await.is(200);
            assert_eq!(patched.text("/metadata/labels/by"), "patch", "{media_type}");
            assert_eq!(patched.text("/metadata/labels/e2e"), "lifecycle", "{media_type} keeps the rest");
            assert_eq!(patched.at("/spec"), made.at("/spec"), "{media_type}");

            if let Some((status, pointer)) = &self.status {
                let wanted = status.pointer(pointer);
                let patch = match media_type {
                    "json-patch+json" => {
                        let fields = status["status"].as_object().unwrap().iter();
                        let add = fields
                            .map(|(key, value)| json!({"op": "add", "path": format!("/status/{key}"), "value": value}));
                        Value::Array(add.collect())
                    }
                    "apply-patch+yaml" => applied(name, status),
                    _ => status.clone(),
                };
                let patched = admin.patch(&format!("{one}/status{force}"), media_type, &patch).await.is(200);
                assert_eq!(Some(patched.at(pointer)), wanted, "{media_type}");
                assert_eq!(Some(admin.get(&one).await.is(200).at(pointer)), wanted, "{media_type}");
            }
            admin.delete(&one, None).await.is(200);
        }
    }
}
