//! A client that calls a Service all the time and counts what fails.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that were answered.
    pub answered: u64,
    /// Why the others were not.
    pub failures: Vec<String>,
    /// The different answers, in the order of their first arrival.
    pub answers: Vec<String>,
}

/// Calls `http://address/`, each time over a new connection, until `stop`.
pub fn run(address: SocketAddr, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    while !stop.load(Ordering::Relaxed) {
        match get(address) {
            Ok(answer) => {
                report.answered += 1;
                if !report.answers.contains(&answer) {
                    report.answers.push(answer);
                }
            }
            Err(error) => report.failures.push(format!("after {} answers: {error}", report.answered)),
        }
        // A pace that two cores bear beside the cluster.
        std::thread::sleep(Duration::from_millis(2));
    }
    report
}

/// The body of one answer.
pub fn get(address: SocketAddr) -> Result<String, String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET / HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => Err(format!("the answer was {answer:?}")),
    }
}
