//! One kind in several versions: what somebody wrote in one of them is compared in that one.
//! Reads what the server knows of the other versions ([`Versions`]); converts nothing itself.
//! Upstream: structured-merge-diff `merge.Converter`, apimachinery `pkg/util/managedfields/internal/versionconverter.go`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use api::{Reason, Status};
use serde_json::Value;

use super::managers::Managers;
use super::nothing;
use super::shape::{Difference, Shape};
use crate::Schema;

/// What is known of a version.
#[derive(Clone, Debug)]
pub enum Version {
    /// Objects can be had in it; they have this shape.
    Known(Arc<Schema>),
    /// Nothing, but objects may still be stored in it. Who wrote in it keeps what they own.
    Unknown,
    /// There is no such version any more. Nobody owns anything in it.
    Gone,
}

/// The versions of a kind beside the one in which an object is written.
pub trait Versions {
    /// What is known of an `apiVersion`.
    fn find(&self, version: &str) -> Version;

    /// An object in another version, which may be the one in which it is written.
    ///
    /// # Errors
    /// It cannot be converted, or not yet: whoever asked then does so again.
    fn convert(&self, object: &Value, version: &str) -> Result<Value, Status>;
}

/// The versions of a kind that has one.
#[derive(Clone, Copy, Debug)]
pub struct Single;

impl Versions for Single {
    fn find(&self, _: &str) -> Version {
        Version::Unknown
    }

    fn convert(&self, _: &Value, version: &str) -> Result<Value, Status> {
        Err(Status::internal(format!("no conversion to {version}")))
    }
}

/// The shape of objects of some version.
pub(super) enum Known<'a> {
    Written(&'a Schema),
    Other(Arc<Schema>),
}

impl Deref for Known<'_> {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        match self {
            Self::Written(schema) => schema,
            Self::Other(schema) => schema,
        }
    }
}

/// A kind, seen from the version in which an object of it is written.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    pub(super) version: &'a str,
    pub(super) schema: &'a Schema,
    pub(super) others: &'a dyn Versions,
}

impl<'a> Kind<'a> {
    /// `None` where objects cannot be had in the version.
    pub(super) fn schema_in(&self, version: &str) -> Option<Known<'a>> {
        if version == self.version {
            return Some(Known::Written(self.schema));
        }
        match self.others.find(version) {
            Version::Known(schema) => Some(Known::Other(schema)),
            Version::Unknown | Version::Gone => None,
        }
    }

    /// An object in a version, `managedFields` aside.
    pub(super) fn convert<'o>(&self, object: &'o Value, version: &str) -> Result<Cow<'o, Value>, Status> {
        if object.get("apiVersion").and_then(Value::as_str) == Some(version) {
            return Ok(Cow::Borrowed(object));
        }
        self.others.convert(object, version).map(Cow::Owned)
    }

    /// Takes out the entries of versions that are gone.
    pub(super) fn forget_gone(&self, managers: &mut Managers) {
        managers.retain_versions(|version| {
            version == self.version || !matches!(self.others.find(version), Version::Gone)
        });
    }

    /// How two objects differ, in each of these versions that is known; `old` is `None` for a new object. What is
    /// `ignored` is left out.
    pub(super) fn differences(
        &self,
        old: Option<&Value>,
        new: &Value,
        versions: impl IntoIterator<Item = String>,
        ignored: &[&[&str]],
    ) -> Result<Differences, Status> {
        let failed = |which: &str, status: Status| {
            let message = format!("failed to convert {which} object: {}", status.message);
            Status::new(500, Reason::Unknown, message)
        };
        let mut found = BTreeMap::new();
        for version in versions {
            let Some(schema) = self.schema_in(&version) else { continue };
            let new = self.convert(new, &version).map_err(|status| failed("new", status))?;
            let old = match old {
                Some(old) => self.convert(old, &version).map_err(|status| failed("old", status))?,
                None => Cow::Owned(nothing(&new, &schema)),
            };
            let mut difference = Difference::between(&old, &new, Shape::of(&schema));
            difference.forget(ignored);
            found.insert(version, difference);
        }
        Ok(Differences(found))
    }
}

/// How two objects differ, by version.
#[derive(Default)]
pub(super) struct Differences(BTreeMap<String, Difference>);

impl Differences {
    pub(super) fn get(&self, version: &str) -> Option<&Difference> {
        self.0.get(version)
    }

    pub(super) fn take(&mut self, version: &str) -> Difference {
        self.0.remove(version).unwrap_or_default()
    }
}
