//! A client's connection: calls out of HTTP/2 frames, and answers back into them.
//!
//! Calls that write (Put, DeleteRange, Txn) are answered by the connection's own task: they come by the ten thousand, the
//! store answers many of them at once, and a task, a timer and the layers of a general server for each of them took more
//! processor time than the store itself. All other calls go to the generated services (`services`), each in a task of its own, for it
//! may compute for a while (a large range) or last for ever (a watch). What is no call is a page. Not here: the listener
//! (`serve`), what a call does (the services), the pages (`pages`), what comes before the first frame (`opening`).

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foundation::metrics::Gauge;
use futures::stream::{FuturesUnordered, StreamExt};
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::opening::Opened;
use crate::serve::Offer;
use crate::services::{Services, answer};
use crate::wire::etcdserverpb::{DeleteRangeRequest, PutRequest, TxnRequest};
use crate::{Server, leader, pages};

/// How long a client may take until it speaks.
const PATIENCE: Duration = Duration::from_secs(10);
/// A client that has vanished without a word is noticed, and its watches end: how often a silent one is asked for a sign
/// of life, and how long that may take.
const ALIVE: (Duration, Duration) = (Duration::from_secs(7200), Duration::from_secs(20));
/// The largest request in bytes: what the store takes in a transaction, and some room.
pub(crate) const MAX_REQUEST: usize = 10 << 20;
/// What may be on its way to us in one call and on the whole connection: together with the number of calls, what a client
/// can make us hold.
const WINDOW: (u32, u32) = (1 << 20, 4 << 20);
/// Calls at once on one connection.
const CALLS: u32 = 1000;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Answers up to this are handed over without a look at what the client has room for.
const SMALL: usize = 16 << 10;

/// Serves a client until it goes away.
pub(crate) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send, server: &Server, offer: Offer) {
    match tokio::time::timeout(PATIENCE, Opened::new(io)).await {
        Ok(Ok((io, true))) => serve_http2(io, server, offer).await,
        Ok(Ok((io, false))) => pages::serve(io, server).await,
        Ok(Err(_)) | Err(_) => tracing::debug!("a client of the etcd API says nothing"),
    }
}

async fn serve_http2(io: impl AsyncRead + AsyncWrite + Unpin, server: &Server, offer: Offer) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW.0).initial_connection_window_size(WINDOW.1);
    builder.max_concurrent_streams(CALLS).max_header_list_size(16 << 10);
    let handshake = tokio::time::timeout(PATIENCE, builder.handshake::<_, Bytes>(io)).await;
    let Ok(Ok(mut connection)) = handshake else {
        tracing::debug!("a client of the etcd API does not speak HTTP/2");
        return;
    };
    let mut gone = pin!(gone(connection.ping_pong()));
    let services = Services::new(server);
    let mut writes = FuturesUnordered::new();
    // They end with the connection.
    let mut others = JoinSet::new();
    loop {
        tokio::select! {
            // In this order: all that is answered is sent together.
            biased;
            Some(()) = writes.next() => {}
            Some(_) = others.join_next() => {}
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) if offer == Offer::Pages || !is_call(&request) => {
                    let (server, head) = (server.clone(), request.into_parts().0);
                    others.spawn(async move { page(&server, head, respond).await });
                }
                Some(Ok((request, mut respond))) if leader::is_missing(request.headers(), server) => {
                    if let Err(error) = respond.send_response(leader::missing().into_http(), true) {
                        tracing::debug!(%error, "a client did not wait for its answer");
                    }
                }
                Some(Ok((request, respond))) => match Write::of(request.uri().path()) {
                    Some(write) => writes.push(write.answer(server, request.into_body(), respond)),
                    None => {
                        let call = server.metrics.begin(request.uri().path());
                        let services = services.clone();
                        others.spawn(answer(services, request, respond, server.metrics.clone(), call));
                    }
                },
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection of the etcd API failed");
                    return;
                }
                None => return,
            },
            () = &mut gone => return,
        }
    }
}

/// Whether a request is a call of gRPC; the others are for pages.
fn is_call(request: &Request<RecvStream>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn page(server: &Server, head: http::request::Parts, mut respond: SendResponse<Bytes>) {
    let (head, body) = pages::answer(server, &head.into()).await.into_parts();
    let sent = match respond.send_response(Response::from_parts(head, ()), false) {
        Ok(mut stream) => match send(&mut stream, body).await {
            Ok(()) => stream.send_data(Bytes::new(), true),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "a client did not wait for its page");
    }
}

/// Until the client gives no sign of life any more.
async fn gone(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(ALIVE.0).await;
        if pings.send_ping(Ping::opaque()).is_err() {
            return;
        }
        let pong = tokio::time::timeout(ALIVE.1, poll_fn(|context| pings.poll_pong(context))).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

/// A call that writes.
#[derive(Debug, Clone, Copy)]
enum Write {
    Put,
    DeleteRange,
    Txn,
}

impl Write {
    fn of(path: &str) -> Option<Self> {
        [Self::Put, Self::DeleteRange, Self::Txn].into_iter().find(|write| write.path() == path)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Put => "/etcdserverpb.KV/Put",
            Self::DeleteRange => "/etcdserverpb.KV/DeleteRange",
            Self::Txn => "/etcdserverpb.KV/Txn",
        }
    }

    async fn answer(self, server: &Server, request: RecvStream, respond: SendResponse<Bytes>) {
        let metrics = &server.metrics;
        let mut call = metrics.begin(self.path());
        let answer = match whole(request).await {
            Ok(message) => {
                metrics.received.add(message.len() as u64);
                metrics.pending.inc();
                let _pending = Pending(&metrics.pending);
                self.carry_out(server, message).await
            }
            Err(status) => Err(status),
        };
        match &answer {
            Ok(message) => metrics.sent.add((message.len() - PREFIX) as u64),
            Err(status) => metrics.write_refused(status.code()),
        }
        if let Some(call) = &mut call {
            call.ended(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        }
        if let Err(error) = reply(respond, answer).await {
            tracing::debug!(%error, "a client did not wait for its answer");
        }
    }

    async fn carry_out(self, server: &Server, message: Bytes) -> Result<Bytes, Status> {
        match self {
            Self::Put => encoded(&server.write_put(decoded::<PutRequest>(message)?).await?),
            Self::DeleteRange => {
                encoded(&server.write_delete(decoded::<DeleteRangeRequest>(message)?).await?)
            }
            Self::Txn => encoded(&server.transaction(decoded::<TxnRequest>(message)?).await?),
        }
    }
}

/// A write under way, until it goes.
struct Pending<'a>(&'a Gauge);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The one message of a request.
async fn whole(mut request: RecvStream) -> Result<Bytes, Status> {
    let lost = |error: h2::Error| Status::cancelled(error.to_string());
    // Nearly always there is one piece, which is not copied.
    let (mut whole, mut more) = (Bytes::new(), BytesMut::new());
    while let Some(piece) = request.data().await {
        let piece = piece.map_err(lost)?;
        request.flow_control().release_capacity(piece.len()).map_err(lost)?;
        if whole.len() + more.len() + piece.len() > MAX_REQUEST + PREFIX {
            let text = format!("Error, decoded message length too large: the limit is: {MAX_REQUEST} bytes");
            return Err(Status::out_of_range(text));
        }
        match whole.is_empty() {
            true => whole = piece,
            false => more.extend_from_slice(&piece),
        }
    }
    if !more.is_empty() {
        whole = [whole, more.freeze()].concat().into();
    }
    if whole.len() < PREFIX {
        return Err(Status::internal("Missing request message."));
    }
    if whole.get_u8() != 0 {
        return Err(Status::unimplemented("compressed messages are not supported"));
    }
    if whole.get_u32() as usize != whole.len() {
        return Err(Status::internal("the request is not one message"));
    }
    Ok(whole)
}

fn decoded<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::internal(error.to_string()))
}

fn encoded(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).map_err(|_| Status::resource_exhausted("the answer is too long"))?);
    message.encode(&mut out).map_err(|error| Status::internal(error.to_string()))?;
    Ok(out.freeze())
}

async fn reply(mut respond: SendResponse<Bytes>, answer: Result<Bytes, Status>) -> Result<(), h2::Error> {
    let message = match answer {
        Ok(message) => message,
        Err(status) => return respond.send_response(status.into_http(), true).map(drop),
    };
    let mut head = Response::new(());
    let kind = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    let mut stream = respond.send_response(head, false)?;
    if message.len() <= SMALL {
        stream.send_data(message, false)?;
    } else {
        send(&mut stream, message).await?;
    }
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// Sends as the client has room for it.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let mut room = stream.capacity();
        while room == 0 {
            room = match poll_fn(|context| stream.poll_capacity(context)).await {
                Some(room) => room?,
                None => return Err(Reason::CANCEL.into()),
            };
        }
        stream.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::SystemClock;
    use h2::client::SendRequest;
    use store::embedded::Engine;

    use super::*;
    use crate::wire::etcdserverpb::watch_request::RequestUnion;
    use crate::wire::etcdserverpb::{
        PutResponse, RangeRequest, RequestOp, TxnResponse, WatchCreateRequest, WatchRequest, request_op,
        response_op,
    };

    /// A client of a server of its own.
    struct Client {
        engine: Arc<Engine>,
        requests: SendRequest<Bytes>,
        _directory: tempfile::TempDir,
    }

    impl Client {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let engine = Engine::open(directory.path(), Default::default(), SystemClock::shared()).unwrap();
            let server = Server::new(engine.clone(), Default::default(), SystemClock::shared());
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move { serve(theirs, &server, Offer::Everything).await });
            // More than one call can fill.
            let mut builder = h2::client::Builder::new();
            builder.initial_connection_window_size(1 << 20);
            let (requests, connection) = builder.handshake::<_, Bytes>(ours).await.unwrap();
            tokio::spawn(connection);
            Self { engine, requests, _directory: directory }
        }

        async fn send(&self, path: &str, body: Bytes) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
            let uri = format!("http://store{path}");
            let request = Request::post(uri).header("content-type", "application/grpc").body(()).unwrap();
            let mut requests = self.requests.clone().ready().await.unwrap();
            let (response, mut stream) = requests.send_request(request, false).unwrap();
            send(&mut stream, body).await.unwrap();
            (response, stream)
        }

        /// The message that is answered, or the code and the text of the refusal.
        async fn call(&self, path: &str, body: Bytes) -> Result<Bytes, (String, String)> {
            let (response, mut stream) = self.send(path, body).await;
            // A refusal may have come before the request was whole.
            let _ = stream.send_data(Bytes::new(), true);
            let (head, mut body) = response.await.unwrap().into_parts();
            let mut whole = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                whole.extend_from_slice(&piece);
            }
            let trailers = body.trailers().await.unwrap().unwrap_or(head.headers);
            let text = |name: &str| trailers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            match text("grpc-status").as_str() {
                "0" => Ok(Bytes::from(whole).slice(PREFIX..)),
                code => Err((code.to_owned(), text("grpc-message"))),
            }
        }
    }

    fn framed(message: &impl Message) -> Bytes {
        encoded(message).unwrap()
    }

    fn put(key: &str, value: Vec<u8>) -> PutRequest {
        PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() }
    }

    #[tokio::test]
    async fn calls_are_answered_and_refused_as_grpc_does() {
        let client = Client::new().await;
        const PUT: &str = "/etcdserverpb.KV/Put";
        let answer = client.call(PUT, framed(&put("k", b"v".to_vec()))).await.unwrap();
        assert_eq!(PutResponse::decode(answer).unwrap().header.unwrap().revision, 2);
        let compressed = Bytes::from_static(&[1, 0, 0, 0, 0]);
        let two = Bytes::from([framed(&put("a", vec![])), framed(&put("b", vec![]))].concat());
        for (path, body, code, text) in [
            (PUT, framed(&put("", vec![])), "3", "etcdserver: key is not provided"),
            (
                PUT,
                framed(&put("k", vec![b'x'; MAX_REQUEST])),
                "11",
                "too large: the limit is: 10485760 bytes",
            ),
            (PUT, framed(&PutRequest { lease: 7, ..put("k", vec![]) }), "5", "lease not found"),
            (PUT, compressed, "12", "compressed messages are not supported"),
            (PUT, two, "13", "the request is not one message"),
            (PUT, Bytes::new(), "13", "Missing request message."),
            ("/etcdserverpb.KV/Nothing", Bytes::new(), "12", ""),
            ("/nobody.Nothing/Put", Bytes::new(), "12", ""),
            ("/etcdserverpb.Auth/Authenticate", Bytes::new(), "12", "users and roles are not supported"),
        ] {
            let refused = client.call(path, body).await.expect_err(text);
            assert_eq!(refused.0, code, "{path}: {refused:?}");
            assert!(refused.1.replace("%20", " ").contains(text), "{path}: {refused:?}");
        }
        assert_eq!(store::Store::revision(&*client.engine).await.unwrap(), 2, "nothing was written by them");
    }

    #[tokio::test]
    async fn what_is_no_call_is_a_page() {
        let client = Client::new().await;
        for (path, status, text) in
            [("/health", 200, r#"{"health":"true","reason":""}"#), ("/x", 404, "404 page not found\n")]
        {
            let request = Request::get(format!("http://store{path}")).body(()).unwrap();
            let mut requests = client.requests.clone().ready().await.unwrap();
            let (head, mut body) =
                requests.send_request(request, true).unwrap().0.await.unwrap().into_parts();
            let mut whole = Vec::new();
            while let Some(piece) = body.data().await {
                whole.extend_from_slice(&piece.unwrap());
            }
            assert_eq!((head.status.as_u16(), whole.as_slice()), (status, text.as_bytes()), "{path}");
        }
    }

    #[tokio::test]
    async fn a_large_answer_is_sent_as_there_is_room_and_others_go_on() {
        let client = Client::new().await;
        for n in 0..5 {
            let put = put(&format!("k/{n}"), vec![n; 1 << 20]);
            client.call("/etcdserverpb.KV/Put", framed(&put)).await.unwrap();
        }
        let range = RangeRequest { key: "k/".into(), range_end: "k0".into(), ..RangeRequest::default() };
        let op = RequestOp { request: Some(request_op::Request::RequestRange(range)) };
        let txn = framed(&TxnRequest { success: vec![op], ..TxnRequest::default() });
        let (large, mut stream) = client.send("/etcdserverpb.KV/Txn", txn).await;
        stream.send_data(Bytes::new(), true).unwrap();
        let mut large = large.await.unwrap().into_body();
        // Nobody reads it yet.
        client.call("/etcdserverpb.KV/Put", framed(&put("other", vec![]))).await.unwrap();
        let mut whole = Vec::new();
        while let Some(piece) = large.data().await {
            let piece = piece.unwrap();
            large.flow_control().release_capacity(piece.len()).unwrap();
            whole.extend_from_slice(&piece);
        }
        assert_eq!(large.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        let answer = TxnResponse::decode(&whole[PREFIX..]).unwrap();
        let Some(response_op::Response::ResponseRange(found)) = &answer.responses[0].response else {
            panic!("not a range")
        };
        assert!(found.kvs.iter().enumerate().all(|(n, kv)| kv.value == vec![n as u8; 1 << 20]));
        assert_eq!(found.kvs.len(), 5);
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_call_and_with_its_connection() {
        let Client { engine, requests, _directory } = Client::new().await;
        let client = Client { engine: engine.clone(), requests, _directory };
        let create = WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
        let request = framed(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        let watch = async || {
            let (response, stream) = client.send("/etcdserverpb.Watch/Watch", request.clone()).await;
            let mut body = response.await.unwrap().into_body();
            body.data().await.unwrap().unwrap();
            (body, stream)
        };
        let left = async |watches: usize| {
            let waited = async {
                while engine.watches() != watches {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), waited).await.expect("a watch goes on");
        };
        let (kept, (_ended, mut stream)) = (watch().await, watch().await);
        assert_eq!(engine.watches(), 2);
        stream.send_reset(Reason::CANCEL);
        left(1).await;
        // The last of its users: the connection is closed.
        drop((kept, _ended, stream, client));
        left(0).await;
    }
}
