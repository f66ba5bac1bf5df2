//! The other versions of a request's resource, in which others may own fields of its objects.
//!
//! What is converted here is converted at once. What a webhook converts is noted, and asked for before the work that
//! needs it is done once more ([`Versions::settle`]): the merge itself never waits for anybody.
//! Not here: how objects are converted (`registry::conversion`), who owns what (`schema::patch::apply`).
//! Upstream: apimachinery/pkg/util/managedfields/internal/versionconverter.go.

use std::sync::Arc;

use api::{GroupVersion, Status};
use parking_lot::Mutex;
use schema::patch::apply;
use serde_json::Value;

use super::Call;
use crate::registry::Resource;

/// Conversions that one piece of work may ask for, one after the other: a configuration, what is left of it, and back.
const MOST: usize = 64;

/// The other versions of the resource of a call.
pub struct Versions<'a> {
    call: &'a Call,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    wanted: Vec<Question>,
    answers: Vec<(Question, Result<Value, Status>)>,
}

/// An object, and the version in which it is needed.
#[derive(Clone, Debug, PartialEq)]
struct Question {
    object: Value,
    version: String,
}

impl<'a> Versions<'a> {
    /// Those of the resource of `call`.
    pub fn of(call: &'a Call) -> Self {
        Self { call, asked: Mutex::default() }
    }

    /// Does `work`, as often as it takes until every conversion that it needs has an answer.
    pub async fn settle<R>(&self, work: impl Fn() -> Result<R, Status> + Send + Sync) -> Result<R, Status> {
        for _ in 0..MOST {
            let outcome = work();
            let wanted = std::mem::take(&mut self.asked.lock().wanted);
            if wanted.is_empty() {
                return outcome;
            }
            drop(outcome);
            for question in wanted {
                let answer = self.ask(&question).await;
                self.asked.lock().answers.push((question, answer));
            }
        }
        Err(Status::internal("an object cannot be compared with its other versions"))
    }

    async fn ask(&self, question: &Question) -> Result<Value, Status> {
        let Question { object, version } = question;
        let (Some(target), Some(source)) = (self.resource(version), self.source(object)) else {
            return Err(Status::internal(format!("no conversion to {version}")));
        };
        target.converted_from(&source, object).await
    }

    fn source(&self, object: &Value) -> Option<Arc<Resource>> {
        self.resource(object["apiVersion"].as_str().unwrap_or_default())
    }

    /// The resource in a version: its objects are kept where those of the call's are.
    fn resource(&self, version: &str) -> Option<Arc<Resource>> {
        let own = &self.call.resource;
        if own.descriptor.group_version().to_string() == version {
            return Some(own.clone());
        }
        let GroupVersion { group, version } = GroupVersion::parse(version)?;
        let table = self.call.server.registry.table();
        let found = table.get(&group, &version, &own.descriptor.plural)?;
        (found.view.prefix == own.view.prefix).then(|| found.clone())
    }
}

impl apply::Versions for Versions<'_> {
    fn find(&self, version: &str) -> apply::Version {
        match self.resource(version) {
            Some(resource) => apply::Version::Known(resource.schema.clone()),
            // A definition may have versions that it does not serve.
            None if self.call.resource.is_custom() => apply::Version::Unknown,
            None => apply::Version::Gone,
        }
    }

    fn convert(&self, object: &Value, version: &str) -> Result<Value, Status> {
        let (Some(target), Some(source)) = (self.resource(version), self.source(object)) else {
            return Err(Status::internal(format!("no conversion to {version}")));
        };
        if let Some(converted) = target.converted_here(&source, object) {
            return Ok(converted);
        }
        let mut asked = self.asked.lock();
        let known = asked.answers.iter();
        let mut known = known.filter(|(asked, _)| asked.version == version && asked.object == *object);
        if let Some((_, answer)) = known.next() {
            return answer.clone();
        }
        asked.wanted.push(Question { object: object.clone(), version: version.to_owned() });
        Err(Status::internal("a conversion has yet to be asked for"))
    }
}
