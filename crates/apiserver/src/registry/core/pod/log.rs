//! `pods/log`: what a container has written, from the pod's kubelet.
//!
//! What the kubelet says instead of a log becomes the reason of the failure. Pages in browsers may read a log over a
//! WebSocket.
//! Upstream: pkg/registry/core/pod/rest/log.go, apiserver's generic/rest/{streamer,response_checker}.go,
//! pkg/apis/core/validation (ValidatePodLogOptions).

use api::field::{self, ErrorList, Path};
use api::{GroupKind, Reason, Status};
use async_trait::async_trait;
use http::{HeaderValue, header};
use http_body_util::BodyExt;

use super::streams::{container, node_name, parameters, path, to_kubelet};
use crate::engine::Call;
use crate::registry::Subresource;
use crate::request::Query;
use crate::response::{self, Response};
use crate::websocket;

/// `pods/log`.
pub(super) struct Log;

/// So much of what a kubelet says instead of a log is told.
const EXCUSE: usize = 50_000;
const STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];

#[async_trait]
impl Subresource for Log {
    async fn serve(&self, mut call: Call) -> Result<Response, Status> {
        if call.info.verb != "get" {
            return Err(call.method_not_allowed());
        }
        let errors = validate(&call.query);
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("", "PodLogOptions"), &call.info.name, errors));
        }
        let pod = call.stored().await?.object;
        let container = container(&pod, call.query.get("container").unwrap_or_default())?;
        if node_name(&pod).is_empty() {
            // A pod that is nowhere has said nothing yet: upstream has no stream to offer, to a WebSocket neither.
            return Ok(response::no_content());
        }
        let kept = [
            "follow",
            "previous",
            "sinceSeconds",
            "sinceTime",
            "timestamps",
            "tailLines",
            "limitBytes",
            "stream",
        ];
        let query = parameters(&call.query, |name| kept.contains(&name).then(|| name.to_owned()));
        let path = path("containerLogs", &pod, Some(&container), &query);
        let (server, name) = (call.server.clone(), call.info.name.clone());
        // The kubelet knows of logs only, whatever the client makes of its connection.
        let upgrade = call.upgrade.take();
        let socket = match websocket::is_requested(&call.headers) {
            true => Some(websocket::log(&call.headers, upgrade)?),
            false => None,
        };
        let mut answer = to_kubelet(call, &pod, &path).await?;
        if !matches!(answer.status().as_u16(), 200..=206) {
            return Err(excuse(answer, &name).await);
        }
        let Some(socket) = socket else {
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            return Ok(answer);
        };
        let chunks = answer.into_body().into_data_stream();
        let messages = websocket::bytes_messages(&socket, chunks);
        Ok(websocket::serve(&server, socket, messages))
    }
}

/// What a kubelet that sends no log says about that.
async fn excuse(answer: Response, pod: &str) -> Status {
    let code = answer.status().as_u16();
    let text = match response::read(answer.into_body(), EXCUSE).await {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => return Status::internal(error.to_string()),
    };
    match code {
        400 => Status::bad_request(text),
        500 => Status::internal(text),
        404 => {
            let message = format!("the server could not find the requested resource ( pods/log {pod})");
            Status::new(404, Reason::NotFound, message)
        }
        code => {
            let message = format!(
                "the server responded with the status code {code} but did not return more information ( pods/log {pod})"
            );
            Status::new(code, Reason::Unknown, message)
        }
    }
}

/// What is wrong with the options. What is no number is the kubelet's to refuse.
fn validate(query: &Query) -> ErrorList {
    let mut errors = ErrorList::new();
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<i64>().ok());
    let given = |name: &str| query.get(name).is_some_and(|text| !text.is_empty());
    if let Some(lines) = number("tailLines").filter(|lines| *lines < 0) {
        errors.push(field::invalid(&Path::new("tailLines"), lines, "must be greater than or equal to 0"));
    }
    if let Some(bytes) = number("limitBytes").filter(|bytes| *bytes < 1) {
        errors.push(field::invalid(&Path::new("limitBytes"), bytes, "must be greater than 0"));
    }
    if given("sinceSeconds") && given("sinceTime") {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(field::forbidden(&Path::new(""), detail));
    } else if let Some(seconds) = number("sinceSeconds").filter(|seconds| *seconds < 1) {
        errors.push(field::invalid(&Path::new("sinceSeconds"), seconds, "must be greater than 0"));
    }
    if let Some(stream) = query.get("stream") {
        if !STREAMS.contains(&stream) {
            errors.push(field::not_supported(&Path::new("stream"), stream, &STREAMS));
        }
        if stream != "All" && given("tailLines") {
            let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.push(field::forbidden(&Path::new(""), detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_mean_nothing_are_refused() {
        for (query, expected) in [
            ("tailLines=0&limitBytes=1&sinceSeconds=1&stream=All", vec![]),
            ("stream=Stdout", vec![]),
            ("tailLines=-1", vec!["tailLines: Invalid value: -1: must be greater than or equal to 0"]),
            ("limitBytes=0", vec!["limitBytes: Invalid value: 0: must be greater than 0"]),
            ("sinceSeconds=0", vec!["sinceSeconds: Invalid value: 0: must be greater than 0"]),
            (
                "sinceSeconds=1&sinceTime=2024-01-01T00:00:00Z",
                vec![": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"],
            ),
            (
                "stream=both",
                vec![
                    "stream: Unsupported value: \"both\": supported values: \"All\", \"Stderr\", \"Stdout\"",
                ],
            ),
            (
                "stream=Stderr&tailLines=3",
                vec![": Forbidden: `tailLines` and specific `stream` are mutually exclusive for now"],
            ),
        ] {
            let errors = validate(&Query::parse(Some(query)));
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(errors, expected, "{query}");
        }
    }
}
