//! A plugin on a unix socket, spoken to as upstream's server speaks to one.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use foundation::ManualClock;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioExecutor;
use store::{Op, Range, Store as _, Txn};

use super::*;
use crate::encryption::{Configuration, EncryptedStore};
use crate::storage::interposed::Interposed;

/// Encrypts by turning bytes round, under a key id that can be changed.
async fn plugin(listener: tokio::net::UnixListener, key: Arc<Mutex<String>>, calls: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (key, calls) = (key.clone(), calls.clone());
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (key, calls) = (key.clone(), calls.clone());
            async move {
                let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes().slice(5..);
                let key_id = key.lock().clone();
                let turned = |mut bytes: Vec<u8>| {
                    bytes.reverse();
                    bytes
                };
                if method == "Decrypt" && matches!(key_id.as_str(), "silent" | "refusing") {
                    calls.lock().push(method);
                    if key_id == "silent" {
                        std::future::pending::<()>().await;
                    }
                    let refusal = http::Response::builder()
                        .header(http::header::CONTENT_TYPE, "application/grpc")
                        .header("grpc-status", "3")
                        .header("grpc-message", "no such key");
                    return Ok(refusal.body(BoxBody::default()).unwrap());
                }
                let answer = match method.as_str() {
                    "Status" => {
                        let healthz = if key_id == "broken" { "no key" } else { "ok" };
                        StatusResponse { version: "v2".into(), healthz: healthz.into(), key_id }
                            .encode_to_vec()
                    }
                    "Encrypt" => {
                        let plain = EncryptRequest::decode(body).unwrap().plaintext;
                        let annotations = BTreeMap::from([("x.example".to_owned(), b"y".to_vec())]);
                        EncryptResponse { ciphertext: turned(plain), key_id, annotations }.encode_to_vec()
                    }
                    _ => {
                        let request = DecryptRequest::decode(body).unwrap();
                        assert_eq!(request.annotations["x.example"], b"y");
                        DecryptResponse { plaintext: turned(request.ciphertext) }.encode_to_vec()
                    }
                };
                calls.lock().push(method);
                let mut framed = BytesMut::new();
                framed.put_u8(0);
                framed.put_u32(answer.len() as u32);
                framed.put_slice(&answer);
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                let frames = [
                    Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(framed))),
                    Ok(http_body::Frame::trailers(trailers)),
                ];
                let body = StreamBody::new(futures::stream::iter(frames));
                let mut response = http::Response::new(BoxBody::new(body));
                let media_type = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
                Ok::<_, Infallible>(response)
            }
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

#[tokio::test]
async fn a_plugin_is_asked_once_for_many_objects_and_again_when_its_key_changes() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    let (key, calls) = (Arc::new(Mutex::new("1".to_owned())), Arc::new(Mutex::new(Vec::new())));
    tokio::spawn(plugin(tokio::net::UnixListener::bind(&socket).unwrap(), key.clone(), calls.clone()));
    let clock = ManualClock::default();
    let kms = |clock: &ManualClock| {
        Kms::new("k".into(), socket.clone(), Duration::from_secs(3), Arc::new(clock.clone()))
    };
    let writer = kms(&clock);
    let one = writer.seal(b"one", b"/a").await.unwrap();
    let two = writer.seal(b"two", b"/b").await.unwrap();
    assert_eq!(*calls.lock(), ["Status", "Encrypt"]);
    assert_eq!(writer.open(&one, b"/a").await.unwrap(), b"one");
    assert!(writer.open(&one, b"/b").await.is_err(), "bound to its place");
    assert_eq!(calls.lock().len(), 2, "its own seed is known");

    let reader = kms(&clock);
    assert_eq!(reader.open(&one, b"/a").await.unwrap(), b"one");
    assert_eq!(reader.open(&two, b"/b").await.unwrap(), b"two");
    assert_eq!(calls.lock()[2..], ["Decrypt"], "one seed for both");

    *key.lock() = "2".into();
    clock.advance(FRESH);
    assert_eq!(
        writer.seal(b"four", b"/d").await.map(|_| calls.lock().len()),
        Ok(3),
        "no write waits for the check"
    );
    writer.current().await.unwrap();
    let three = writer.seal(b"three", b"/c").await.unwrap();
    assert_eq!(EncryptedObject::decode(three.as_slice()).unwrap().key_id, "2");
    assert_eq!(reader.open(&three, b"/c").await.unwrap(), b"three");
}

#[tokio::test]
async fn a_plugin_that_fails_is_done_without_for_some_minutes() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    let (key, calls) = (Arc::new(Mutex::new("1".to_owned())), Arc::new(Mutex::new(Vec::new())));
    let serving =
        tokio::spawn(plugin(tokio::net::UnixListener::bind(&socket).unwrap(), key.clone(), calls.clone()));
    let clock = ManualClock::default();
    let kms = Kms::new("k".into(), socket.clone(), Duration::from_secs(3), Arc::new(clock.clone()));
    kms.seal(b"one", b"/a").await.unwrap();
    assert_eq!(calls.lock().len(), 2);
    // What it says is what it would say in trouble: no key, no health.
    *key.lock() = "broken".into();
    let asked = || calls.lock().iter().filter(|call| *call == "Status").count();
    assert_eq!(kms.health(), Ok(()));
    for (wait, works, statuses) in [
        (FRESH, true, 2),
        // It failed a moment ago, and is not asked.
        (Duration::from_secs(1), true, 2),
        (AGAIN, true, 3),
        (USABLE, false, 4),
        (Duration::from_secs(1), false, 4),
    ] {
        clock.advance(wait);
        let checked = kms.current().await.map(|_| ());
        assert!(kms.health().is_err(), "it is told at once, though there is a seed to go on with");
        assert_eq!(checked.is_ok(), works, "after {wait:?} more");
        assert_eq!(kms.seal(b"two", b"/b").await.is_ok(), works, "after {wait:?} more");
        assert_eq!(asked(), statuses, "after {wait:?} more");
    }
    *key.lock() = "2".into();
    clock.advance(AGAIN);
    kms.seal(b"three", b"/c").await.unwrap();
    assert_eq!(kms.health(), Ok(()));
    serving.abort();
}

#[tokio::test]
async fn a_plugin_is_checked_each_minute_for_as_long_as_somebody_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    let (key, calls) = (Arc::new(Mutex::new("broken".to_owned())), Arc::new(Mutex::new(Vec::new())));
    let serving =
        tokio::spawn(plugin(tokio::net::UnixListener::bind(&socket).unwrap(), key.clone(), calls.clone()));
    let clock = ManualClock::default();
    let kms = Arc::new(Kms::new("k".into(), socket.clone(), Duration::from_secs(3), Arc::new(clock.clone())));
    assert_eq!(kms.health().unwrap_err(), "the KMS plugin k has not answered yet");
    let following = tokio::spawn(follow(Arc::downgrade(&kms)));
    let asked = |count: usize| {
        let (calls, kms, clock) = (calls.clone(), kms.clone(), clock.clone());
        async move {
            let seen = async {
                // The pause after it is the sign that what was asked has been taken in.
                let pauses = || clock.next_deadline().is_some_and(|pause| pause > Duration::from_secs(3));
                while calls.lock().iter().filter(|call| *call == "Status").count() < count || !pauses() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it is asked in time");
            kms.health()
        }
    };
    assert!(asked(1).await.unwrap_err().contains("is not ready"));
    *key.lock() = "1".into();
    clock.advance(AGAIN);
    assert_eq!(asked(2).await, Ok(()));
    clock.advance(FRESH);
    assert_eq!(asked(3).await, Ok(()));
    *key.lock() = "broken".into();
    clock.advance(FRESH);
    assert!(asked(4).await.is_err());
    kms.seal(b"one", b"/a").await.expect("there is a seed to go on with");
    drop(kms);
    clock.advance(FRESH);
    tokio::time::timeout(Duration::from_secs(30), following).await.expect("it ends").unwrap();
    serving.abort();
}

#[tokio::test]
async fn a_list_waits_for_a_plugin_that_gives_no_answer_once() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    let (key, calls) = (Arc::new(Mutex::new("1".to_owned())), Arc::new(Mutex::new(Vec::new())));
    let serving =
        tokio::spawn(plugin(tokio::net::UnixListener::bind(&socket).unwrap(), key.clone(), calls.clone()));
    let (inner, clock) = (Interposed::new(), ManualClock::default());
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets], \
         providers: [{{kms: {{apiVersion: v2, name: k, endpoint: 'unix://{}', timeout: 3s}}}}]}}]",
        socket.display()
    );
    let opened = || {
        let clock: foundation::SharedClock = Arc::new(clock.clone());
        let configuration = Arc::new(Configuration::read(&text, &clock).unwrap());
        EncryptedStore::new(inner.clone(), Arc::new(arc_swap::ArcSwap::new(configuration)))
    };
    let writer = opened();
    for name in ["a", "b", "c"] {
        let put = Op::put(format!("/registry/core/secrets/{name}"), "{}");
        writer.txn(Txn::of(vec![put])).await.unwrap();
    }
    for (state, asked, named) in [("refusing", 3, 3), ("silent", 1, 1)] {
        *key.lock() = state.to_owned();
        calls.lock().clear();
        let reader = opened();
        let listing =
            tokio::spawn(async move { reader.range(Range::prefix("/registry/core/secrets/")).await });
        // Whoever waits for an answer has waited long enough as soon as the plugin has been asked.
        let passing = async {
            loop {
                let waited = calls.lock().len();
                if waited > 0 && state == "silent" {
                    clock.advance(Duration::from_secs(3));
                }
                tokio::task::yield_now().await;
            }
        };
        let listed = tokio::select! {
            listed = tokio::time::timeout(Duration::from_secs(30), listing) => listed.expect("it ends").unwrap(),
            () = passing => unreachable!(),
        };
        let Err(store::Error::Unreadable { values, more }) = listed else { panic!("{state}: {listed:?}") };
        assert_eq!((values.len(), more), (named, named < 3), "{state}: {values:?}");
        assert_eq!(calls.lock().len(), asked, "{state}");
    }
    serving.abort();
}
