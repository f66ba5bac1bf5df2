//! What is sampled, and what spans are told of each other.

use std::sync::Arc;

use foundation::{ManualClock, SeededRandomness};
use http::{HeaderMap, Method, Request};

use super::*;

fn tracer(per_million: u32, room: usize) -> (Arc<Tracer>, mpsc::Receiver<Ended>) {
    let (queue, spans) = mpsc::channel(room);
    let clock = Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let below = (u64::from(per_million) << 43) / 1_000_000 << 20;
    let dropped = Counter::default();
    let randomness = Arc::new(SeededRandomness::new(7));
    (Arc::new(Tracer { below, queue, dropped, clock, randomness }), spans)
}

fn request(tracer: &Arc<Tracer>, parent: Option<&str>, groups: &[&str]) -> Span {
    let mut request = Request::get("/api/v1/namespaces/n/pods/p/status?x=1");
    if let Some(parent) = parent {
        request = request.header("traceparent", parent);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let info = RequestInfo::parse(&head.method, head.uri.path(), head.uri.query());
    tracer.request(&head, &info, &User::new("u", groups), "the-id", Duration::from_millis(3))
}

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[test]
fn only_the_privileged_have_a_say_in_sampling() {
    for (per_million, parent, groups, recorded, continued) in [
        (0, None, &["system:masters"][..], false, false),
        (1_000_000, None, &[], true, false),
        (0, Some(SAMPLED), &["system:masters"], true, true),
        (0, Some(SAMPLED), &["system:monitoring"], true, true),
        (0, Some(SAMPLED), &["system:authenticated"], false, false),
        (1_000_000, Some(UNSAMPLED), &["system:masters"], false, true),
        (1_000_000, Some(UNSAMPLED), &[], true, false),
    ] {
        let (tracer, mut spans) = tracer(per_million, 8);
        let span = request(&tracer, parent, groups);
        let mut told = HeaderMap::new();
        span.inject(&mut told);
        let told = told["traceparent"].to_str().unwrap().to_owned();
        drop(span);
        let case = format!("{per_million} {parent:?} {groups:?}");
        let ended = spans.try_recv().ok();
        assert_eq!(ended.is_some(), recorded, "{case}");
        assert_eq!(told.contains("0af7651916cd43dd8448eb211c80319c"), continued, "{case}: {told}");
        if let Some(ended) = ended {
            assert_eq!(ended.parent.is_some(), continued, "{case}");
            assert_eq!(ended.link.is_some(), parent.is_some() && !continued, "{case}");
        }
    }
}

#[tokio::test]
async fn spans_are_below_the_one_that_is_open() {
    let (tracer, mut spans) = tracer(1_000_000, 8);
    let mut root = request(&tracer, None, &[]);
    root.past("authentication");
    root.around(async {
        let outer = span("Create");
        outer.around(async { drop(span("Create etcd3")) }).await;
        drop(outer);
        let mut headers = HeaderMap::new();
        calling(&Method::POST, "https://webhook/").inject(&mut headers);
        assert!(headers.contains_key("traceparent"));
    })
    .await;
    root.answered(500);
    drop(root);
    let mut ended = Vec::new();
    while let Ok(span) = spans.try_recv() {
        ended.push(span);
    }
    let names: Vec<&str> = ended.iter().map(|span| span.name.as_ref()).collect();
    let root_name = "GET /api/v1/namespaces/{:namespace}/pods/{:name}/status";
    assert_eq!(names, ["authentication", "Create etcd3", "Create", "HTTP POST", root_name]);
    let (store, handler, root) = (&ended[1], &ended[2], &ended[4]);
    assert_eq!(store.parent, Some(handler.context.span));
    assert_eq!(handler.parent, Some(root.context.span));
    assert_eq!(ended[0].start, root.start, "authentication begins with the request");
    assert_eq!(root.end - root.start, 3_000_000);
    assert!(root.failed && root.attributes.contains(&("http.response.status_code", Value::Integer(500))));
    assert!(handler.attributes.contains(&("audit-id", Value::Text("the-id".to_owned()))));
}

#[test]
fn what_does_not_fit_is_counted_and_nobody_waits() {
    let (tracer, _spans) = tracer(1_000_000, 1);
    for _ in 0..3 {
        drop(request(&tracer, None, &[]));
    }
    assert_eq!(tracer.dropped.get(), 2);
}

#[test]
fn without_a_request_there_is_no_span() {
    let span = span("Create");
    assert!(!span.is_open() && !span.is_recording());
}
