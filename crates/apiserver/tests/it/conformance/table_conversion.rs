//! test/e2e/apimachinery/table_conversion.go: what cannot be shown as a table.

use http::Method;
use serde_json::json;

use crate::world::World;

/// Conformance: [sig-api-machinery] Servers with support for Table transformation should return a 406 for a backend which does not implement metadata [Conformance]
#[tokio::test]
async fn should_return_a_406_for_a_backend_which_does_not_implement_metadata() {
    let world = World::new().await;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get"}},
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let headers =
        [("content-type", "application/json"), ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let answer = world.admin.ask(Method::POST, path, &headers, review.to_string()).await;
    let answer = answer.is(406);
    assert_eq!((answer.text("/kind"), answer.text("/reason")), ("Status", "NotAcceptable"));
}
