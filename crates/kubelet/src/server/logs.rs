//! `GET /containerLogs/{namespace}/{pod}/{container}`.
//! Upstream: `pkg/kubelet/server/server.go` (`getContainerLogs`), `GetKubeletContainerLogs`.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, Context, Query, answer};
use crate::logs::{LogOptions, send};
use crate::worker::state::Phase;

pub(super) async fn serve(
    context: &Context,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let Some(snapshot) = context.pods.find(namespace, name) else {
        return answer(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist\n"));
    };
    let options = match options(context, query) {
        Ok(options) => options,
        Err((code, message)) => return answer(code, message),
    };
    let previous = query.set(&["previous"]);
    let record =
        if previous { snapshot.runtime.previous(container) } else { snapshot.runtime.latest(container) };
    let known =
        snapshot.pod.iter().flat_map(|pod| crate::pod::containers(pod)).any(|(_, c)| c.name == container);
    let Some(record) = record.cloned() else {
        let text = match (known, previous) {
            (false, _) => format!("container {container} is not valid for pod {name}"),
            (true, true) => {
                format!("previous terminated container \"{container}\" in pod \"{name}\" not found")
            }
            (true, false) => {
                format!("container \"{container}\" in pod \"{name}\" is waiting to start: ContainerCreating")
            }
        };
        return answer(StatusCode::BAD_REQUEST, text);
    };
    if record.phase == Phase::Created {
        let text =
            format!("container \"{container}\" in pod \"{name}\" is waiting to start: ContainerCreating");
        return answer(StatusCode::BAD_REQUEST, text);
    }
    let (out, lines) = mpsc::channel::<Bytes>(16);
    let pods = context.pods.clone();
    let uid = snapshot.pod.as_ref().map(|pod| crate::pod::uid(pod).to_owned()).unwrap_or_default();
    let path = PathBuf::from(&record.log_path);
    let clock = context.node.clock.clone();
    context.tasks.spawn_until_cancelled("stream", async move {
        let ended = async {
            pods.until_exited(&uid, &record.id).await;
            // The runtime may still be writing what the container said last.
            clock.sleep(Duration::from_millis(50)).await;
        };
        if let Err(error) = send(&path, &options, ended, out).await {
            tracing::debug!(path = %path.display(), %error, "a log was not read");
        }
    });
    let frames = ReceiverStream::new(lines).map(|bytes| Ok(http_body::Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

/// What is answered instead of a log.
type Refusal = (StatusCode, String);

/// So many seconds ago; the beginning of time, if that is later.
fn since(now: Timestamp, seconds: i64) -> Result<Timestamp, Refusal> {
    if seconds < 1 {
        return Err((StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#.to_owned()));
    }
    Ok(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
}

fn options(context: &Context, query: &Query) -> Result<LogOptions, Refusal> {
    fn number<T: std::str::FromStr>(query: &Query, key: &str) -> Result<Option<T>, Refusal> {
        let Some(text) = query.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
        let invalid = |_| (StatusCode::BAD_REQUEST, format!("{key}: {text:?} is not a valid value"));
        text.parse().map(Some).map_err(invalid)
    }
    let since = match number(query, "sinceSeconds")? {
        Some(seconds) => Some(since(context.node.clock.now(), seconds)?),
        None => number(query, "sinceTime")?,
    };
    let stream = match query.get("stream") {
        None | Some("" | "All") => None,
        Some(stream) => Some(stream.to_ascii_lowercase()),
    };
    Ok(LogOptions {
        follow: query.set(&["follow"]),
        tail: number(query, "tailLines")?,
        since,
        timestamps: query.set(&["timestamps"]),
        limit: number(query, "limitBytes")?,
        stream,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_seconds_is_answered() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let code = |seconds| since(now, seconds).map_err(|(code, _)| code.as_u16());
        for (seconds, expected) in [
            (60, Ok(Timestamp::from_second(999_940).unwrap())),
            (i64::MAX, Ok(Timestamp::MIN)),
            (0, Err(422)),
            (-1, Err(422)),
            (i64::MIN, Err(422)),
        ] {
            assert_eq!(code(seconds), expected, "{seconds}");
        }
    }
}
