//! What a server behind `…/proxy` says of its own paths, turned into what its clients can follow.
//!
//! A page that was written for the root of a server is shown below a path of this one: its redirects and its links to
//! `/x` are to lead to `…/proxy/x`. Only values of attributes are touched, in pages only; everything else stays byte by
//! byte as it was. What scripts and styles refer to stays, too.
//! Upstream: apimachinery/pkg/util/proxy/{transport,upgradeaware}.go.

mod links;

use std::io::{self, Write};

use bytes::Bytes;
use client::BoxError;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use links::Links;

use crate::response::Response;

/// Who may read an answer from a browser is for this server to say, not for the one behind it.
const CROSS_ORIGIN: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// How much of what came is worked on in one go, in bytes.
const BITE: usize = 2 * 1024;

/// Where a server is shown.
#[derive(Clone, Debug)]
pub(super) struct Front {
    /// The path of its root, without a slash at the end: up to `proxy`.
    pub(super) prefix: String,
    /// The host that the client asked; empty where it named none.
    pub(super) host: String,
    /// The host and port of the server behind.
    pub(super) backend: String,
}

impl Front {
    /// The answer as the client is to see it. `bodiless`: it has no body, whatever its headers say.
    pub(super) fn answer(self, answer: Response, bodiless: bool) -> Response {
        let (mut head, body) = answer.into_parts();
        for name in CROSS_ORIGIN {
            head.headers.remove(name);
        }
        if let Some(location) = head.headers.get(header::LOCATION) {
            let moved = location.to_str().ok().and_then(|to| HeaderValue::try_from(self.url(to)?).ok());
            if let Some(moved) = moved {
                head.headers.insert(header::LOCATION, moved);
            }
            return Response::from_parts(head, body);
        }
        // A part of a page is not one: where it begins nobody knows.
        let partial = matches!(head.status.as_u16(), 204 | 206 | 304);
        let coding = match page(&head.headers) {
            Some(coding) if !bodiless && !partial => coding,
            _ => return Response::from_parts(head, body),
        };
        head.headers.remove(header::CONTENT_LENGTH);
        let page = Some((body.into_data_stream(), Bytes::new(), Page::new(self, coding)));
        let chunks = futures::stream::try_unfold(page, |page| async move {
            let Some((mut chunks, mut rest, mut page)) = page else { return Ok(None) };
            if rest.is_empty() {
                match chunks.next().await {
                    Some(chunk) => rest = chunk?,
                    None => return Ok(Some((Frame::data(page.finish()?), None))),
                }
            } else {
                // What a little becomes when it is unpacked may be a thousand times as much: others have their turn.
                tokio::task::yield_now().await;
            }
            let out = page.push(&rest.split_to(rest.len().min(BITE)))?;
            Ok::<_, BoxError>(Some((Frame::data(out), Some((chunks, rest, page)))))
        });
        Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(chunks)))
    }

    /// Where a URL leads below the prefix; `None`: it stays as it is, because it is relative, or another server's.
    fn url(&self, target: &str) -> Option<String> {
        if target.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        let (scheme, rest) = scheme(target);
        let (authority, rest) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            None => ("", rest),
        };
        let (path, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        if !scheme.is_empty() && authority.is_empty() {
            return None;
        }
        let host = authority.rsplit('@').next().unwrap_or_default();
        if !path.starts_with('/') || !(host.is_empty() || host == self.backend || host == self.host) {
            return None;
        }
        let origin = if !host.is_empty() && host == self.host {
            format!("{scheme}//{authority}")
        } else {
            String::new()
        };
        if path.starts_with(&self.prefix) {
            return Some(format!("{origin}{path}{query}"));
        }
        let mut segments: Vec<&str> = Vec::new();
        for segment in path.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    segments.pop();
                }
                segment => segments.push(segment),
            }
        }
        let mut below = self.prefix.clone();
        for segment in segments {
            below.push('/');
            below.push_str(segment);
        }
        if path.ends_with('/') {
            below.push('/');
        }
        Some(format!("{origin}{below}{query}"))
    }
}

/// The scheme with its colon, and what follows.
fn scheme(url: &str) -> (&str, &str) {
    let end = url.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
    match end {
        Some(end) if url[end..].starts_with(':') && url.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            url.split_at(end + 1)
        }
        _ => ("", url),
    }
}

/// The coding of an answer that is a page with links, and what turns it into text and back; `None`: it is none, or cannot
/// be read.
fn page(headers: &HeaderMap) -> Option<Coding> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let empty = text(header::CONTENT_LENGTH) == "0";
    if empty || text(header::CONTENT_TYPE).split(';').next()?.trim() != "text/html" {
        return None;
    }
    Some(match text(header::CONTENT_ENCODING) {
        "" => Coding { unpack: Box::new(Identity), pack: Box::new(Identity) },
        "gzip" => Coding {
            unpack: Box::new(MultiGzDecoder::new(Vec::new())),
            pack: Box::new(GzEncoder::new(Vec::new(), Compression::fast())),
        },
        "deflate" => Coding {
            unpack: Box::new(DeflateDecoder::new(Vec::new())),
            pack: Box::new(DeflateEncoder::new(Vec::new(), Compression::fast())),
        },
        _ => return None,
    })
}

/// How a body is compressed.
struct Coding {
    unpack: Box<dyn Coder>,
    pack: Box<dyn Coder>,
}

/// Turns bytes into others, piece by piece.
trait Coder: Send {
    /// What comes of the bytes at once.
    fn push(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>>;
    /// What is left.
    fn finish(self: Box<Self>) -> io::Result<Vec<u8>>;
}

/// Leaves everything as it is.
struct Identity;

impl Coder for Identity {
    fn push(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

macro_rules! coders {
    ($($coder:ident),*) => {$(
        impl Coder for $coder<Vec<u8>> {
            fn push(&mut self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
                self.write_all(&bytes)?;
                self.flush()?;
                Ok(std::mem::take(self.get_mut()))
            }

            fn finish(self: Box<Self>) -> io::Result<Vec<u8>> {
                (*self).finish()
            }
        }
    )*};
}

coders!(MultiGzDecoder, DeflateDecoder, GzEncoder, DeflateEncoder);

/// A page on its way through.
struct Page {
    front: Front,
    links: Links,
    coding: Coding,
    /// Whether any of it has come: nothing at all is no compressed text.
    began: bool,
}

impl Page {
    fn new(front: Front, coding: Coding) -> Self {
        Self { front, links: Links::default(), coding, began: false }
    }

    fn push(&mut self, chunk: &[u8]) -> io::Result<Bytes> {
        self.began |= !chunk.is_empty();
        let mut rewritten = Vec::with_capacity(chunk.len());
        let text = self.coding.unpack.push(chunk.to_vec())?;
        self.links.push(&text, |url| self.front.url(url), &mut rewritten);
        Ok(self.coding.pack.push(rewritten)?.into())
    }

    fn finish(self) -> io::Result<Bytes> {
        let Self { front, mut links, coding: Coding { unpack, mut pack }, began } = self;
        if !began {
            return Ok(Bytes::new());
        }
        let mut rest = Vec::new();
        links.push(&unpack.finish()?, |url| front.url(url), &mut rest);
        links.finish(&mut rest);
        let mut out = pack.push(rest)?;
        out.extend(pack.finish()?);
        Ok(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/pods/p/proxy";

    fn front() -> Front {
        Front { prefix: PREFIX.into(), host: "localhost:8001".into(), backend: "10.42.0.7:80".into() }
    }

    #[test]
    fn only_absolute_paths_of_the_same_host_are_moved() {
        for (url, moved) in [
            ("/login", Some("P/login")),
            ("/", Some("P/")),
            ("/a/../b/?q=/x#/y", Some("P/b/?q=/x#/y")),
            ("http://10.42.0.7:80/login", Some("P/login")),
            ("//10.42.0.7:80/login", Some("P/login")),
            ("http://localhost:8001/login", Some("http://localhost:8001P/login")),
            ("/api/v1/namespaces/a/pods/p/proxy/x", Some("P/x")),
            ("https://example.com/login", None),
            ("//cdn.example.com/x.js", None),
            ("login", None),
            ("?q", None),
            ("#top", None),
            ("mailto:a@b", None),
            ("javascript:/x/", None),
            ("/a\nb", None),
        ] {
            let moved = moved.map(|url| url.replace('P', PREFIX));
            assert_eq!(front().url(url), moved, "{url}");
        }
    }

    fn answer(headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Response {
        let mut answer = Response::new(client::full_body(body));
        for (name, value) in headers {
            answer.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        front().answer(answer, false)
    }

    async fn body(answer: Response) -> Vec<u8> {
        answer.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn redirects_pages_and_cross_origin_headers_are_changed_and_nothing_else() {
        let moved = answer(&[("location", "/login"), ("access-control-allow-origin", "*")], "");
        assert_eq!(moved.headers()["location"], format!("{PREFIX}/login").as_str());
        assert!(!moved.headers().contains_key("access-control-allow-origin"));
        let text = r#"<a href="/x">"#;
        let other = answer(&[("content-type", "text/plain"), ("content-length", "13")], text);
        assert_eq!(other.headers()["content-length"], "13");
        assert_eq!(body(other).await, text.as_bytes());
        let page = answer(&[("content-type", "text/html; charset=utf-8"), ("content-length", "13")], text);
        assert!(!page.headers().contains_key("content-length"));
        let wanted = format!(r#"<a href="{PREFIX}/x">"#);
        assert_eq!(String::from_utf8(body(page).await).unwrap(), wanted);
        let html = ("content-type", "text/html");
        for coding in ["gzip", "deflate"] {
            let headers = [html, ("content-encoding", coding)];
            let coders = || super::page(answer(&headers, "").headers()).unwrap();
            let mut packer = coders().pack;
            let mut packed = packer.push(text.into()).unwrap();
            packed.extend(packer.finish().unwrap());
            // A text may be packed in several pieces, one after the other.
            let times = if coding == "gzip" { 2 } else { 1 };
            let shown = body(answer(&headers, packed.repeat(times))).await;
            let mut unpacker = coders().unpack;
            let mut unpacked = unpacker.push(shown).unwrap();
            unpacked.extend(unpacker.finish().unwrap());
            assert_eq!(String::from_utf8(unpacked).unwrap(), wanted.repeat(times), "{coding}");
            assert_eq!(body(answer(&headers, "")).await, b"", "{coding}");
        }
    }

    #[tokio::test]
    async fn what_is_no_whole_page_stays_as_it_is() {
        for code in [204, 206, 304] {
            let mut part = Response::new(client::full_body(r#"<a href="/x">"#));
            *part.status_mut() = http::StatusCode::from_u16(code).unwrap();
            part.headers_mut().insert("content-type", HeaderValue::from_static("text/html"));
            part.headers_mut().insert("content-length", HeaderValue::from_static("13"));
            let part = front().answer(part, false);
            assert_eq!(part.headers()["content-length"], "13", "{code}");
            assert_eq!(body(part).await, br#"<a href="/x">"#, "{code}");
        }
    }
}
