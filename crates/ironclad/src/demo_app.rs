//! The program inside the demo's image: a small HTTP server, and a client that calls it.
//!
//! Reads `POD_NAME`, `POD_NAMESPACE` and `NODE_NAME`, which the demo's manifests fill from the downward
//! API. Serves `/` (a sentence that tells where it runs) and `/healthz`. Not here: the manifests and the
//! story around them (`demo`).

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::signal::unix::{SignalKind, signal};

/// How long a terminated server goes on answering: the time in which the proxies of all nodes take it out of
/// their rules, so that a rolling update loses no request.
const LAME_DUCK: Duration = Duration::from_secs(2);

/// What the image's entry point does.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Serve HTTP
    Serve {
        /// Port to listen on
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Call a URL some times and print each answer
    Fetch {
        /// What to call: http://host[:port]/path
        url: String,
        /// How often
        #[arg(long, default_value_t = 3)]
        count: u32,
    },
}

/// Runs the program to its end.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { port } => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the event loop")?
            .block_on(serve(port)),
        Command::Fetch { url, count } => {
            for _ in 0..count {
                emit(get(&url)?.trim_end())?;
            }
            Ok(())
        }
    }
}

fn emit(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("cannot write to standard output")
}

async fn serve(port: u16) -> anyhow::Result<()> {
    let tell = |name| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
    let greeting = Bytes::from(format!(
        "hello from pod {} on node {} in namespace {}\n",
        tell("POD_NAME"),
        tell("NODE_NAME"),
        tell("POD_NAMESPACE")
    ));
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    emit(&format!("listening on {address}"))?;
    // As PID 1 of its container the process gets no default signal actions: without a handler SIGTERM does
    // nothing at all.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let closing = Arc::new(AtomicBool::new(false));
    let stop = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        closing.store(true, Ordering::Relaxed);
        tokio::time::sleep(LAME_DUCK).await;
    };
    let accept = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let greeting = greeting.clone();
            let closing = closing.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let response = respond(request.uri().path(), &greeting, closing.load(Ordering::Relaxed));
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), answer),
            );
        }
    };
    tokio::select! { () = stop => {}, () = accept => {} }
    emit("terminated")
}

fn respond(path: &str, greeting: &Bytes, closing: bool) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/" => (StatusCode::OK, greeting.clone()),
        "/healthz" => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"not found\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    if closing {
        response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    }
    response
}

/// One HTTP GET with a fresh connection: enough of a client to show that name, address and data path work.
pub fn get(url: &str) -> anyhow::Result<String> {
    let uri: http::Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    let host = uri.host().with_context(|| format!("{url:?} names no host"))?;
    let port = uri.port_u16().unwrap_or(80);
    let mut problem = None;
    for address in (host, port).to_socket_addrs().with_context(|| format!("cannot resolve {host:?}"))? {
        match get_from(address, host, uri.path()) {
            Ok(body) => return Ok(body),
            Err(why) => problem = Some(why),
        }
    }
    match problem {
        Some(why) => Err(why.context(format!("cannot get {url}"))),
        None => bail!("{host:?} has no address"),
    }
}

fn get_from(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("the server answered {status:?}");
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_answers() {
        let greeting = Bytes::from_static(b"hello\n");
        for (path, status) in [("/", 200), ("/healthz", 200), ("/nothing", 404)] {
            assert_eq!(respond(path, &greeting, false).status(), status, "{path}");
        }
        assert_eq!(respond("/", &greeting, true).headers()[http::header::CONNECTION], "close");
    }
}
