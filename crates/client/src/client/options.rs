//! What a call can ask for beyond its object: selectors and pages, patches, how to delete, which form to answer in.

use serde::Serialize;
use serde_json::Value;

use crate::path::Query;

/// Which objects, from which revision, how many at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListOptions {
    /// Label selector in its string syntax.
    pub label_selector: Option<String>,
    /// Field selector in its string syntax.
    pub field_selector: Option<String>,
    /// At most this many objects in one answer.
    pub limit: Option<u32>,
    /// The token of the previous page.
    pub continue_token: Option<String>,
    /// A revision for `list`: unset is the latest, `0` whatever the server has at hand.
    pub resource_version: Option<String>,
    /// `Exact` or `NotOlderThan`.
    pub resource_version_match: Option<String>,
    /// For a watch: the server ends it after so many seconds.
    pub timeout_seconds: Option<u32>,
}

impl ListOptions {
    /// Everything.
    pub fn all() -> ListOptions {
        ListOptions::default()
    }

    /// Objects whose fields match, e.g. `spec.nodeName=node-1`.
    pub fn fields(selector: impl Into<String>) -> ListOptions {
        ListOptions { field_selector: Some(selector.into()), ..ListOptions::default() }
    }

    /// Objects whose labels match.
    pub fn labels(selector: impl Into<String>) -> ListOptions {
        ListOptions { label_selector: Some(selector.into()), ..ListOptions::default() }
    }

    pub(crate) fn query(&self) -> Query {
        let mut query = Query::default();
        query.push_some("labelSelector", self.label_selector.as_deref());
        query.push_some("fieldSelector", self.field_selector.as_deref());
        query.push_some("limit", self.limit.map(|limit| limit.to_string()).as_deref());
        query.push_some("continue", self.continue_token.as_deref());
        query.push_some("resourceVersion", self.resource_version.as_deref());
        query.push_some("resourceVersionMatch", self.resource_version_match.as_deref());
        query.push_some("timeoutSeconds", self.timeout_seconds.map(|seconds| seconds.to_string()).as_deref());
        query
    }
}

/// A change to a part of an object, in one of the four languages.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(Value),
    /// RFC 7386: the fields to set; `null` removes.
    Merge(Value),
    /// Upstream's strategic merge: lists with merge keys are merged by element.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// The fields this manager wants.
        value: Value,
        /// The manager's name.
        field_manager: String,
        /// Take over fields that another manager owns.
        force: bool,
    },
}

impl Patch {
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Patch::Json(_) => "application/json-patch+json",
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    pub(crate) fn body(&self) -> &Value {
        match self {
            Patch::Json(value) | Patch::Merge(value) | Patch::Strategic(value) => value,
            Patch::Apply { value, .. } => value,
        }
    }

    pub(crate) fn query(&self) -> Query {
        let mut query = Query::default();
        if let Patch::Apply { field_manager, force, .. } = self {
            query.push("fieldManager", field_manager);
            query.push("force", if *force { "true" } else { "false" });
        }
        query
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// The object goes at once; the garbage collector deletes its dependents after it.
    Background,
    /// The object stays, marked, until its dependents that block it are gone.
    Foreground,
    /// The dependents stay and lose the reference to it.
    Orphan,
}

/// What must hold for a deletion to happen; otherwise it is a conflict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// The object is still this very one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The object has not changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Seconds of grace; unset is the kind's own, `0` is at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// What happens to dependents; unset is the kind's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
}

impl DeleteOptions {
    /// Delete this very object, not a later one of its name.
    pub fn uid(uid: impl Into<String>) -> DeleteOptions {
        DeleteOptions {
            preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
            ..DeleteOptions::default()
        }
    }

    /// The same, with this propagation.
    pub fn with_propagation(mut self, propagation: Propagation) -> DeleteOptions {
        self.propagation_policy = Some(propagation);
        self
    }

    /// The same, with this grace period in seconds.
    pub fn with_grace_period(mut self, seconds: i64) -> DeleteOptions {
        self.grace_period_seconds = Some(seconds);
        self
    }

    /// The same, if the object has not changed since `resource_version`.
    pub fn with_resource_version(mut self, resource_version: impl Into<String>) -> DeleteOptions {
        self.preconditions.get_or_insert_default().resource_version = Some(resource_version.into());
        self
    }
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Whole objects.
    Object,
    /// A list of type and metadata only.
    MetadataList,
    /// Type and metadata only (single objects and watch events).
    Metadata,
}

impl Accept {
    pub(crate) fn header(self) -> &'static str {
        match self {
            Accept::Object => "application/json",
            // The plain form is the fallback for a server (an aggregated one) that knows no partial metadata.
            Accept::MetadataList => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            }
            Accept::Metadata => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
        }
    }
}
