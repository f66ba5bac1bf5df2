//! Which endpoint is used, and what happens when it fails.
//!
//! One connection at a time, to whichever endpoint answered last. When it fails, the next one is tried; once all have
//! failed there is a pause, which grows. Whoever needs a connection waits for the one attempt that is under way, no longer
//! than a call may take, and shares what comes of it. A call that only reads is tried again until its time is up. One that writes is
//! tried again only when it is certain that it was not carried out: the contract leaves open what an `Unavailable`
//! write has done, and a second attempt could do it twice.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use etcd::refusal;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, Shared, select};
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
}

/// An attempt to connect, and what comes of it: nothing, if no endpoint answers.
type Attempt = Shared<BoxFuture<'static, Option<Connection>>>;

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
    /// Where there is none: the attempt under way.
    attempt: Option<Attempt>,
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
        Ok(Self { targets, options, state: Mutex::default() })
    }

    /// The connection in use, or a new one to the first endpoint that answers, each tried once.
    pub async fn connection(self: &Arc<Self>) -> Result<Connection, store::Error> {
        let attempt = {
            let mut state = self.state.lock();
            if let Some(connection) = &state.channel {
                return Ok(connection.clone());
            }
            state.attempt.get_or_insert_with(|| self.clone().start()).clone()
        };
        attempt.await.ok_or(store::Error::Unavailable("no etcd endpoint answers"))
    }

    /// Begins to connect. In a task of its own: those who wait may give up before an endpoint that does not answer is
    /// given up, and the next call is to find the next one.
    fn start(self: Arc<Self>) -> Attempt {
        let task = tokio::spawn(async move {
            let connected = self.connect().await;
            let mut state = self.state.lock();
            state.attempt = None;
            let channel = connected?;
            state.made += 1;
            let connection = Connection { channel, number: state.made };
            state.channel = Some(connection.clone());
            Some(connection)
        });
        task.map(|outcome| outcome.ok().flatten()).boxed().shared()
    }

    async fn connect(&self) -> Option<Channel> {
        for _ in 0..self.targets.len() {
            let current = self.state.lock().current;
            let attempt = std::pin::pin!(self.targets[current].connect());
            let problem = match select(attempt, self.options.clock.sleep(CONNECT)).await {
                Either::Left((Ok(channel), _)) => return Some(channel),
                Either::Left((Err(error), _)) => chain(&error),
                Either::Right(_) => "it takes too long".to_owned(),
            };
            let endpoint = &self.options.endpoints[current];
            tracing::warn!(endpoint, error = problem, "an etcd endpoint does not answer");
            self.state.lock().current = (current + 1) % self.targets.len();
        }
        None
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
    pub async fn call<T, F>(self: &Arc<Self>, kind: Kind, call: impl Fn(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = self.deadline();
        let mut pauses = Pauses::default();
        loop {
            let failure = match self.connection_by(deadline).await {
                Err(error) => Failure::Unsent(error),
                Ok(connection) => {
                    let answer = self.within(deadline, call(connection.channel.clone())).await;
                    let outcome =
                        answer.unwrap_or_else(|| Err(Status::deadline_exceeded("etcd takes too long")));
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
            if !again || self.options.clock.monotonic() >= deadline {
                return Err(failure);
            }
            pauses.wait(self).await;
        }
    }

    async fn connection_by(self: &Arc<Self>, deadline: Duration) -> Result<Connection, store::Error> {
        let mut connection = std::pin::pin!(self.connection());
        // Nearly always it is there, and no timer is made.
        if let Poll::Ready(connection) = futures::poll!(connection.as_mut()) {
            return connection;
        }
        let in_time = self.within(deadline, connection).await;
        in_time.unwrap_or(Err(store::Error::Unavailable("no etcd endpoint answers")))
    }

    /// What comes of something, if it comes before the deadline.
    pub async fn within<T>(&self, deadline: Duration, work: impl Future<Output = T>) -> Option<T> {
        let left = deadline.saturating_sub(self.options.clock.monotonic());
        match select(std::pin::pin!(work), self.options.clock.sleep(left)).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    /// When what begins now is to be done.
    pub fn deadline(&self) -> Duration {
        self.options.clock.monotonic() + self.options.timeout
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
