//! Events as a sink gets them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use client::{Transport, TransportError};
use foundation::ManualClock;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::sink::Queued;
use super::*;
use crate::request::RequestInfo;
use crate::response;

/// What a sink gets, and what keeps it open.
struct Events(mpsc::UnboundedReceiver<Queued>, Option<Sink>);

fn auditor(rule: &str) -> (Auditor, Events) {
    auditor_with(rule, Mode::Blocking, 1 << 20)
}

fn auditor_with(rule: &str, mode: Mode, room: u32) -> (Auditor, Events) {
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{rule}]");
    let (sink, events) = Sink::with_room("test", mode, Arc::new(ManualClock::default()), room);
    let events = Events(events, Some(sink.clone()));
    let auditor = Auditor {
        policy: Some(Arc::new(Policy::read(&text).unwrap())),
        sinks: vec![sink.door()],
        clock: Arc::new(ManualClock::default()),
        events: Counter::default(),
        levels: Default::default(),
    };
    (auditor, events)
}

async fn begin(auditor: &Auditor, method: &str, uri: &str) -> Option<Arc<Record>> {
    let request = http::Request::builder().method(method).uri(uri).header("user-agent", "kubectl");
    let (head, ()) = request.header("x-forwarded-for", "10.1.1.1, junk").body(()).unwrap().into_parts();
    let info = RequestInfo::parse(&head.method, head.uri.path(), head.uri.query());
    let seen = Seen {
        id: "id-1",
        head: &head,
        remote: Some([10, 2, 2, 2].into()),
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
    };
    let (attributes, told) = before(async {
        annotate("authentication.example.com/by", "token");
        Attributes::new(User::new("bob", &["dev"]), info)
    })
    .await;
    let told = if uri.contains("token=1") { told } else { Vec::new() };
    auditor.begin(&attributes, seen, told).await
}

/// Runs `future` as a request that is recorded at `level`, and gives the annotations that it made.
pub(crate) async fn annotated<F: Future>(level: &str, future: F) -> (F::Output, Value) {
    let (auditor, _events) = auditor(&format!("{{level: {level}}}"));
    let record = begin(&auditor, "POST", "/api/v1/namespaces/a/pods").await.expect("a rule");
    let output = scope(Some(record.clone()), future).await;
    (output, json!(record.annotations()))
}

fn next(events: &mut Events) -> Value {
    serde_json::from_slice(&events.0.try_recv().expect("an event").event).unwrap()
}

#[tokio::test]
async fn a_request_is_told_from_its_coming_to_its_answer() {
    let (auditor, mut events) = auditor("{level: RequestResponse, omitManagedFields: true}");
    let record = begin(&auditor, "POST", "/api/v1/namespaces/default/configmaps?dryRun=All").await.unwrap();
    let received = next(&mut events);
    assert_eq!(received["stage"], "RequestReceived");
    assert_eq!(received["sourceIPs"], json!(["10.1.1.1", "10.2.2.2"]));
    assert_eq!(received["user"], json!({"username": "bob", "groups": ["dev"]}));
    assert_eq!(received["requestURI"], "/api/v1/namespaces/default/configmaps?dryRun=All");
    assert_eq!(received["requestReceivedTimestamp"], "2026-01-01T00:00:00.000000Z");
    let object = json!({"metadata": {"name": "c", "managedFields": [1]}, "data": {"a": "b"}});
    let answer = scope(Some(record.clone()), async {
        annotate("authorization.k8s.io/decision", "allow");
        annotate("authorization.k8s.io/decision", "later ones do not count");
        request_object(&object);
        response::json(201, &object)
    });
    let response = record.answered(answer.await, false).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), object, "the answer is as it was");
    let complete = next(&mut events);
    assert_eq!(complete["stage"], "ResponseComplete");
    assert_eq!(complete["objectRef"]["name"], "c");
    let shown = json!({"metadata": {"name": "c"}, "data": {"a": "b"}});
    assert_eq!((&complete["requestObject"], &complete["responseObject"]), (&shown, &shown));
    assert_eq!(complete["responseStatus"]["code"], 201);
    assert_eq!(complete["annotations"], json!({"authorization.k8s.io/decision": "allow"}));
}

#[tokio::test]
async fn whoever_gives_up_while_the_event_waits_for_room_is_recorded_all_the_same() {
    let (sink, mut events) = Sink::with_room("test", Mode::Blocking, Arc::new(ManualClock::default()), 200);
    sink.send(Bytes::from_static(b"first")).await;
    {
        let mut waiting = Box::pin(sink.send(Bytes::from_static(b"second")));
        assert!(futures::poll!(&mut waiting).is_pending(), "there is no room");
    }
    let told: Vec<Bytes> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|queued| queued.event.clone()).collect();
    assert_eq!(told, ["first", "second"]);
}

#[tokio::test]
async fn metadata_leaves_objects_out_but_says_why_it_failed() {
    let (auditor, mut events) = auditor("{level: Metadata, omitStages: [RequestReceived]}");
    let record = begin(&auditor, "DELETE", "/api/v1/nodes/n").await.unwrap();
    let refused = api::Status::forbidden(&api::GroupResource::new("", "nodes"), "n", "no");
    record.answered(response::failure(&refused), false).await;
    let complete = next(&mut events);
    assert_eq!(complete["responseStatus"]["reason"], "Forbidden");
    assert!(complete["responseObject"].is_null());
    assert!(events.0.try_recv().is_err(), "the first stage is omitted");
}

/// A body that is announced and does not come.
struct Announced;

impl http_body::Body for Announced {
    type Data = Bytes;
    type Error = client::BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, client::BoxError>>> {
        std::task::Poll::Pending
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(1000)
    }
}

#[tokio::test]
async fn what_a_stranger_answers_is_neither_waited_for_nor_read() {
    let (auditor, mut events) = auditor("{level: RequestResponse, omitStages: [RequestReceived]}");
    let path = "/api/v1/namespaces/default/services/s/proxy/";
    let record = begin(&auditor, "GET", path).await.unwrap();
    let mut answer = http::Response::new(Announced.boxed_unsync());
    *answer.status_mut() = http::StatusCode::NOT_FOUND;
    answer.extensions_mut().insert(response::PassedOn);
    let answered = record.answered(answer, false);
    futures::FutureExt::now_or_never(answered).expect("nobody waits for the body");
    let complete = next(&mut events);
    assert_eq!(
        (&complete["responseStatus"]["code"], &complete["responseObject"]),
        (&json!(404), &Value::Null)
    );
}

#[tokio::test]
async fn a_watch_is_complete_when_it_ends() {
    let (auditor, mut events) = auditor("{level: Metadata, verbs: [watch]}");
    assert!(begin(&auditor, "GET", "/api/v1/pods").await.is_none(), "no rule");
    let record = begin(&auditor, "GET", "/api/v1/pods?watch=1").await.unwrap();
    let response = record.answered(response::text(200, "frames"), true).await;
    assert_eq!(
        (next(&mut events)["stage"].clone(), next(&mut events)["stage"].clone()),
        ("RequestReceived".into(), "ResponseStarted".into())
    );
    assert!(events.0.try_recv().is_err());
    drop(response);
    assert_eq!(next(&mut events)["stage"], "ResponseComplete");
}

/// Refuses the first request, and keeps what the later ones carry.
struct Receiver(Mutex<Vec<Value>>, tokio::sync::Notify);

#[async_trait]
impl Transport for Receiver {
    async fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<client::Body>, TransportError> {
        let body = serde_json::from_slice(request.body()).unwrap();
        let code = if self.0.lock().is_empty() { 500 } else { 200 };
        self.0.lock().push(body);
        self.1.notify_one();
        Ok(response::text(code, ""))
    }
}

#[tokio::test]
async fn a_webhook_gets_batches_and_is_tried_again() {
    let clock = ManualClock::default();
    let receiver = Arc::new(Receiver(Mutex::default(), tokio::sync::Notify::new()));
    let options = webhook::Options { batch: 2, ..webhook::Options::new(receiver.clone(), "/audit".into()) };
    let (sink, events) = Sink::new("test", Mode::Batch, Arc::new(clock.clone()));
    let sender = webhook::Sender::new(&options, Arc::new(clock.clone()), Counter::default()).unwrap();
    let token = foundation::CancellationToken::new();
    let running = tokio::spawn(webhook::run(sender, events, sink.clone(), token.clone()));
    for event in [r#"{"auditID":"1"}"#, r#"{"auditID":"2"}"#, r#"{"auditID":"3"}"#] {
        sink.offer(Bytes::from_static(event.as_bytes()));
    }
    receiver.1.notified().await;
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(10));
    receiver.1.notified().await;
    clock.wait_for_sleepers(1).await;
    clock.advance(Duration::from_secs(30));
    receiver.1.notified().await;
    token.cancel();
    drop(sink);
    running.await.unwrap();
    let got = receiver.0.lock();
    let ids = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|e| e["auditID"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(got.iter().map(ids).collect::<Vec<_>>(), [vec!["1", "2"], vec!["1", "2"], vec!["3"]]);
    assert_eq!(got[0]["kind"], "EventList");
}

#[tokio::test]
async fn a_request_whose_client_goes_away_is_told_once() {
    let (auditor, mut events) = auditor("{level: Metadata, omitStages: [RequestReceived]}");
    let record = begin(&auditor, "GET", "/api/v1/nodes").await.unwrap();
    record.annotate("authorization.k8s.io/decision", "allow");
    drop(record);
    let complete = next(&mut events);
    assert_eq!(complete["stage"], "ResponseComplete");
    assert_eq!(complete["responseStatus"]["message"], "Connection closed early");
    assert_eq!(complete["annotations"]["authorization.k8s.io/decision"], "allow");
    // One that was answered, and one that panicked, say no more when they are dropped.
    let record = begin(&auditor, "GET", "/api/v1/nodes").await.unwrap();
    record.answered(response::text(200, "list"), false).await;
    assert_eq!(next(&mut events)["responseStatus"]["code"], 200);
    let record = begin(&auditor, "GET", "/api/v1/nodes").await.unwrap();
    record.panicked().await;
    record.answered(response::text(500, ""), false).await;
    assert_eq!(next(&mut events)["stage"], "Panic");
    assert!(events.0.try_recv().is_err());
}

#[tokio::test]
async fn requests_wait_for_a_log_and_not_for_a_webhook() {
    // There is room for one event.
    let (waits, mut events) = auditor_with("{level: Metadata}", Mode::Blocking, 1_000);
    let first = begin(&waits, "GET", "/api/v1/nodes").await.unwrap();
    let mut answered = Box::pin(first.answered(response::text(200, ""), false));
    assert!(futures::poll!(&mut answered).is_pending(), "no room yet");
    assert_eq!(next(&mut events)["stage"], "RequestReceived");
    answered.await;
    assert_eq!(next(&mut events)["stage"], "ResponseComplete");
    let (loses, mut events) = auditor_with("{level: Metadata}", Mode::Batch, 1_000);
    let before = events.1.as_ref().unwrap().lost().get();
    let second = begin(&loses, "GET", "/api/v1/nodes").await.unwrap();
    second.answered(response::text(200, ""), false).await;
    assert_eq!(next(&mut events)["stage"], "RequestReceived");
    assert!(events.0.try_recv().is_err());
    assert!(events.1.unwrap().lost().get() > before, "what is lost is counted");
}

#[tokio::test]
async fn what_is_served_while_the_server_stops_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let log = log::Options { path: path.clone(), ..Default::default() };
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]";
    let policy = Some(Arc::new(Policy::read(policy).unwrap()));
    let tasks = foundation::Tasks::new("test");
    let options = Options { policy, log: Some(log), webhook: None };
    let auditor = Auditor::new(&options, &tasks, Arc::new(ManualClock::default())).unwrap();
    let under_way = begin(&auditor, "DELETE", "/api/v1/nodes/a").await.unwrap();
    let watch = begin(&auditor, "GET", "/api/v1/nodes?watch=1").await.unwrap();
    let watch = watch.answered(response::text(200, ""), true).await;
    let hold = auditor.hold();
    let stopping = tokio::spawn(async move { tasks.shutdown(Duration::from_secs(60)).await });
    while !stopping.is_finished() && !path.exists() {
        tokio::task::yield_now().await;
    }
    begin(&auditor, "DELETE", "/api/v1/nodes/b")
        .await
        .unwrap()
        .answered(response::text(200, ""), false)
        .await;
    drop(hold);
    under_way.answered(response::text(200, ""), false).await;
    // A watch that outlives the server does not hold up its end.
    assert_eq!(stopping.await.unwrap(), Vec::<String>::new());
    drop(watch);
    let text = std::fs::read_to_string(&path).unwrap();
    let complete = text.lines().filter(|line| line.contains("ResponseComplete")).count();
    assert_eq!(complete, 2, "{text}");
}

#[test]
fn a_policy_that_nobody_hears_is_refused() {
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]";
    let options = Options { policy: Some(Arc::new(Policy::read(policy).unwrap())), ..Options::default() };
    let tasks = foundation::Tasks::new("test");
    assert!(Auditor::new(&options, &tasks, Arc::new(ManualClock::default())).is_err());
}

#[tokio::test]
async fn what_is_told_before_the_user_is_known_is_recorded() {
    let (auditor, mut events) = auditor("{level: Metadata}");
    let _record = begin(&auditor, "GET", "/api/v1/pods?token=1").await.unwrap();
    assert_eq!(next(&mut events)["annotations"], json!({"authentication.example.com/by": "token"}));
}
