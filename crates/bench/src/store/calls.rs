//! Calls of a gRPC service that cost the caller little: the load shares its processors with the stores that it measures.
//!
//! One message there and one back, over HTTP/2 without the layers of a general client. Streams (watches) and what is
//! called once use the generated clients. Not here: which calls make the load (`load`).

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use prost::Message;
use tokio::net::TcpStream;

/// What the two services of a load are called.
pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const TXN: &str = "/etcdserverpb.KV/Txn";

/// The same as the generated clients ask for.
const WINDOW: (u32, u32) = (1 << 20, 4 << 20);
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A connection that several callers share. Clones are the same one.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
}

impl Connection {
    /// Connects to `host:port`, without TLS.
    pub async fn open(authority: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(authority).await.context("cannot connect to the store")?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW.0).initial_connection_window_size(WINDOW.1);
        let (requests, connection) = builder.handshake(stream).await?;
        // It ends with the last of its users; what fails in it they are told.
        tokio::spawn(connection);
        Ok(Self { requests, authority: authority.to_owned() })
    }

    /// One of its methods, to be called again and again.
    pub fn method(&self, path: &'static str) -> anyhow::Result<Calls> {
        let uri = Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query(path);
        Ok(Calls { requests: self.requests.clone(), uri: uri.build()? })
    }
}

/// A method of a service.
pub struct Calls {
    requests: SendRequest<Bytes>,
    uri: Uri,
}

impl Calls {
    /// Asks, and waits for the answer.
    pub async fn call<A: Message + Default>(&mut self, message: &impl Message) -> anyhow::Result<A> {
        let mut body = BytesMut::with_capacity(PREFIX + message.encoded_len());
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).context("the message is too long")?);
        message.encode(&mut body)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        request.uri_mut().clone_from(&self.uri);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        std::future::poll_fn(|context| self.requests.poll_ready(context)).await?;
        let (response, mut stream) = self.requests.send_request(request, false)?;
        stream.send_data(body.freeze(), true)?;
        let mut answer = answer(response).await?;
        ensure!(answer.len() >= PREFIX, "the store answered nothing");
        answer.advance(PREFIX);
        Ok(A::decode(answer)?)
    }
}

async fn answer(response: ResponseFuture) -> anyhow::Result<Bytes> {
    let response = response.await?;
    ensure!(response.status() == StatusCode::OK, "the store answered {}", response.status());
    let (head, mut body) = response.into_parts();
    // Nearly always there is one piece, which is not copied.
    let (mut whole, mut more) = (Bytes::new(), BytesMut::new());
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        match whole.is_empty() {
            true => whole = piece,
            false => more.extend_from_slice(&piece),
        }
    }
    if !more.is_empty() {
        whole = [whole, more.freeze()].concat().into();
    }
    // A refusal has no message, and says so at once.
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    refused(&trailers)?;
    Ok(whole)
}

fn refused(trailers: &HeaderMap) -> anyhow::Result<()> {
    match trailers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        _ => bail!("the store refused: {:?}", trailers.get("grpc-message")),
    }
}
