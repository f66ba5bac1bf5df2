//! Which endpoint is used, and what happens when it fails.
//!
//! One connection at a time, to whichever endpoint answered last. When it fails, the next one is tried; once all have
//! failed there is a pause, which grows. A call that only reads is tried again until its time is up. One that writes is
//! tried again only when it is certain that it was not carried out: the contract leaves open what an `Unavailable`
//! write has done, and a second attempt could do it twice.

use std::future::Future;
use std::io;
use std::time::Duration;

use etcd::refusal;
use futures::future::{Either, select};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::{Error, Options};

/// The pauses after all endpoints have failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long one endpoint may take to connect.
const CONNECT: Duration = Duration::from_secs(3);
/// How often a peer is asked for a sign of life while calls or watches are open, and how long it may take.
const ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// What may be on its way on a connection, and in one stream of it.
const WINDOW: (u32, u32) = (8 << 20, 4 << 20);

/// The endpoints of one etcd.
pub(crate) struct Endpoints {
    targets: Vec<Target>,
    options: Options,
    state: Mutex<State>,
    /// Held while connecting, so that it is done once.
    connecting: tokio::sync::Mutex<()>,
}

struct Target {
    endpoint: Endpoint,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

#[derive(Default)]
struct State {
    /// The connection in use.
    channel: Option<Connection>,
    /// Which endpoint it goes to, or is tried next.
    current: usize,
    /// Counts connections.
    made: u64,
}

/// A connection, and which one.
#[derive(Clone)]
pub(crate) struct Connection {
    pub channel: Channel,
    number: u64,
}

/// Whether a call that failed may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only reads: that does not matter.
    Read,
    /// It writes.
    Write,
}

impl Endpoints {
    pub fn new(options: Options) -> Result<Self, Error> {
        if options.endpoints.is_empty() {
            return Err(Error::NoEndpoint);
        }
        let targets = options.endpoints.iter().map(|endpoint| target(endpoint, &options));
        let targets = targets.collect::<Result<_, _>>()?;
        Ok(Self { targets, options, state: Mutex::default(), connecting: tokio::sync::Mutex::default() })
    }

    /// The connection in use, or a new one to the first endpoint that answers, each tried once.
    pub async fn connection(&self) -> Result<Connection, store::Error> {
        let _alone = self.connecting.lock().await;
        if let Some(connection) = self.state.lock().channel.clone() {
            return Ok(connection);
        }
        for _ in 0..self.targets.len() {
            let current = self.state.lock().current;
            match self.targets[current].connect().await {
                Ok(channel) => {
                    let mut state = self.state.lock();
                    state.made += 1;
                    let connection = Connection { channel, number: state.made };
                    state.channel = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => {
                    let endpoint = &self.options.endpoints[current];
                    tracing::warn!(endpoint, error = chain(&error), "an etcd endpoint does not answer");
                    self.state.lock().current = (current + 1) % self.targets.len();
                }
            }
        }
        Err(store::Error::Unavailable("no etcd endpoint answers"))
    }

    /// Leaves an endpoint whose connection has failed, unless somebody else has done so.
    pub fn failed(&self, connection: &Connection) {
        let mut state = self.state.lock();
        if state.channel.as_ref().is_some_and(|current| current.number == connection.number) {
            state.channel = None;
            state.current = (state.current + 1) % self.targets.len();
        }
    }

    /// Makes a call, on another endpoint if need be.
    pub async fn call<T, F>(&self, kind: Kind, call: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let clock = &self.options.clock;
        let deadline = clock.monotonic() + self.options.timeout;
        let mut pauses = Pauses::default();
        loop {
            let failure = match self.connection().await {
                Err(error) => Failure::Unsent(error),
                Ok(connection) => {
                    let left = deadline.saturating_sub(clock.monotonic());
                    let answer = std::pin::pin!(call(connection.channel.clone()));
                    let outcome = match select(answer, clock.sleep(left)).await {
                        Either::Left((outcome, _)) => outcome,
                        Either::Right(_) => Err(Status::deadline_exceeded("etcd takes too long")),
                    };
                    match outcome {
                        Ok(response) => return Ok(response.into_inner()),
                        Err(status) if is_lost(&status) => {
                            self.failed(&connection);
                            tracing::debug!(%status, "a call to etcd failed");
                            Failure::Lost(status)
                        }
                        Err(status) => return Err(Failure::Refused(status)),
                    }
                }
            };
            let again = kind == Kind::Read || failure.was_not_carried_out();
            if !again || clock.monotonic() >= deadline {
                return Err(failure);
            }
            pauses.wait(self).await;
        }
    }

    /// What pauses are measured with.
    pub fn clock(&self) -> &foundation::SharedClock {
        &self.options.clock
    }
}

/// The pauses between attempts: none until every endpoint has had its turn, then longer and longer.
#[derive(Default)]
pub(crate) struct Pauses {
    attempts: usize,
}

impl Pauses {
    pub async fn wait(&mut self, endpoints: &Endpoints) {
        self.attempts += 1;
        let rounds = self.attempts / endpoints.targets.len();
        if rounds > 0 && self.attempts.is_multiple_of(endpoints.targets.len()) {
            let pause = PAUSE.0 * (1 << (rounds - 1).min(5));
            endpoints.clock().sleep(pause.min(PAUSE.1)).await;
        }
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It never left.
    Unsent(store::Error),
    /// Nobody knows what became of it.
    Lost(Status),
    /// etcd said no.
    Refused(Status),
}

impl Failure {
    fn was_not_carried_out(&self) -> bool {
        match self {
            Self::Unsent(_) => true,
            // A member without a leader proposes nothing.
            Self::Lost(status) => status.message() == refusal::NO_LEADER,
            Self::Refused(_) => false,
        }
    }
}

/// Whether another endpoint may do better.
fn is_lost(status: &Status) -> bool {
    let lost = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
    // What the transport says has a cause; what etcd says has none.
    lost || std::error::Error::source(status).is_some()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn target(text: &str, options: &Options) -> Result<Target, Error> {
    let problem = || Error::Endpoint { endpoint: text.to_owned() };
    let uri: Uri = text.parse().map_err(|_| problem())?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(problem()),
    };
    let host = uri.host().ok_or_else(problem)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(2379);
    let tls = match (secure, &options.tls) {
        (false, _) => None,
        (true, None) => return Err(Error::Tls { detail: format!("{text} needs a trusted authority") }),
        (true, Some(config)) => {
            let name = ServerName::try_from(host.clone()).map_err(|_| problem())?;
            Some((TlsConnector::from(config.clone()), name))
        }
    };
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(ALIVE.0)
        .keep_alive_timeout(ALIVE.1)
        .initial_connection_window_size(WINDOW.0)
        .initial_stream_window_size(WINDOW.1);
    Ok(Target { endpoint, host, port, tls })
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Target {
    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let (host, port, tls) = (self.host.clone(), self.port, self.tls.clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (host, tls) = (host.clone(), tls.clone());
            async move {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                let stream: Box<dyn Io> = match tls {
                    None => Box::new(stream),
                    Some((connector, name)) => Box::new(connector.connect(name, stream).await?),
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        self.endpoint.connect_with_connector(connector).await
    }
}
