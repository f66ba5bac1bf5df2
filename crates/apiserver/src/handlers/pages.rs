//! `/statusz` and `/flagz`: what this server is and how it was started, for people and, where a version of the form is
//! asked for, for programs.
//! Upstream: apiserver/pkg/server/{statusz,flagz}.

use std::collections::BTreeSet;
use std::fmt::Write;

use api::Status;
use http::request::Parts;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::negotiation::{self, Page};
use crate::output;
use crate::request::Query;
use crate::response::{self, Response};
use crate::server::Server;

/// Who the pages are about.
const COMPONENT: &str = "kube-apiserver";
/// What stands between names and values. Which one is chosen anew each time, so that nobody parses the text.
const DELIMITERS: [&str; 4] = [":", ": ", "=", " "];
/// First parts of paths that are no pages for people.
const NO_PAGES: [&str; 5] = ["/apis", "/api", "/openid", "/openapi", "/.well-known"];

/// `/statusz`.
pub(super) fn statusz(
    server: &Server,
    head: &Parts,
    query: &Query,
    paths: &[String],
) -> Result<Response, Status> {
    let page = negotiation::page(&head.headers, query, "Statusz")?;
    let now = server.clock.now();
    let facts = Facts { started: server.started, now, paths: folders(paths) };
    let version = super::VERSION.trim_start_matches('v');
    let emulated = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
    Ok(match page {
        Page::Text => response::text(200, facts.text(delimiter(server), version, emulated)),
        Page::Structured(accepted, form) => output::value_response(
            accepted,
            200,
            &json!({
                "kind": "Statusz", "apiVersion": format!("config.k8s.io/{form}"), "metadata": {"name": COMPONENT},
                "startTime": crate::engine::timestamp(facts.started), "uptimeSeconds": facts.up(), "goVersion": "",
                "binaryVersion": version, "emulationVersion": emulated, "paths": facts.paths,
            }),
        ),
    })
}

/// `/flagz`.
pub(super) fn flagz(server: &Server, head: &Parts, query: &Query) -> Result<Response, Status> {
    let flags = &server.options.flags;
    Ok(match negotiation::page(&head.headers, query, "Flagz")? {
        Page::Text => {
            let mut text = title("flagz");
            let delimiter = delimiter(server);
            for (flag, value) in flags {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{flag}{delimiter}{value}");
            }
            response::text(200, text)
        }
        Page::Structured(accepted, form) => {
            let value: Value = json!({
                "kind": "Flagz", "apiVersion": format!("config.k8s.io/{form}"), "metadata": {"name": COMPONENT},
                "flags": flags,
            });
            output::value_response(accepted, 200, &value)
        }
    })
}

fn delimiter(server: &Server) -> &'static str {
    // Below 4.
    DELIMITERS[server.randomness.below(DELIMITERS.len() as u64) as usize]
}

fn title(page: &str) -> String {
    format!(
        "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
         guarantees and is for debugging purposes only.\n"
    )
}

/// The first parts of the paths that are pages, each once.
fn folders(paths: &[String]) -> Vec<String> {
    let first = paths.iter().filter_map(|path| path.split('/').nth(1)).filter(|part| !part.is_empty());
    let folders: BTreeSet<String> = first.map(|part| format!("/{part}")).collect();
    folders.into_iter().filter(|folder| !NO_PAGES.contains(&folder.as_str())).collect()
}

struct Facts {
    started: Timestamp,
    now: Timestamp,
    paths: Vec<String>,
}

impl Facts {
    /// In seconds.
    fn up(&self) -> i64 {
        (self.now.as_second() - self.started.as_second()).max(0)
    }

    fn text(&self, delimiter: &str, version: &str, emulated: &str) -> String {
        let started = self.started.strftime("%a %b %e %H:%M:%S UTC %Y");
        let up = self.up();
        let up = format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
        let mut text = title("statusz");
        text.push('\n');
        for (name, value) in [
            ("Started", started.to_string().as_str()),
            ("Up", &up),
            ("Go version", ""),
            ("Binary version", version),
            ("Emulation version", emulated),
            ("Paths", &self.paths.join(" ")),
        ] {
            let _ = writeln!(text, "{name}{delimiter} {value}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_upstreams() {
        let paths = ["/api", "/apis/apps/v1", "/livez/ping", "/livez", "/readyz", "/"].map(str::to_owned);
        let started: Timestamp = "2024-10-06T21:03:43Z".parse().unwrap();
        let now: Timestamp = "2024-10-06T22:04:45Z".parse().unwrap();
        let facts = Facts { started, now, paths: folders(&paths) };
        assert_eq!(
            facts.text(":", "1.37.0", "1.37"),
            "\nkube-apiserver statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
             compatibility guarantees and is for debugging purposes only.\n\nStarted: Sun Oct  6 21:03:43 UTC 2024\nUp: 1 \
             hr 01 min 02 sec\nGo version: \nBinary version: 1.37.0\nEmulation version: 1.37\nPaths: /livez /readyz\n"
        );
    }
}
