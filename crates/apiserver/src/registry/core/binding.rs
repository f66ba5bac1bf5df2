//! `bindings`: the old way to bind a pod, by a Binding of its name. The same as `pods/binding`.

use api::{Object, Status};
use async_trait::async_trait;

use super::pod;
use crate::engine::Call;
use crate::registry::Rest;

/// `bindings`.
pub(in crate::registry) struct Bindings;

#[async_trait]
impl Rest for Bindings {
    async fn answer(&self, call: &Call, object: &Object) -> Result<Option<Object>, Status> {
        pod::binding::bind(call, object.name(), object).await.map(Some)
    }
}
