//! Finds the URLs in HTML that comes in pieces, and leaves the rest as it is.
//!
//! Only as much of HTML's tokens as that takes: tags with their attributes, comments, and elements whose content is no
//! markup. Nothing is held back but the beginning of a token.

/// The attributes of each element that are URLs.
const URLS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text up to their own end tag.
const RAW: &[&str] = &["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];
/// A longer tag is passed on as it is.
const LONGEST: usize = 16 * 1024;
/// How much is looked at in one go: what is held and a piece are never more than this and a tag, and so the work is in
/// proportion to the page, whatever is in it.
const PIECE: usize = 16 * 1024;

/// The place in a page.
#[derive(Default)]
pub(super) struct Links {
    held: Vec<u8>,
    place: Place,
}

#[derive(Default)]
enum Place {
    #[default]
    Markup,
    Comment,
    /// Text up to the end tag of this name.
    Raw(&'static str),
}

impl Links {
    /// Takes a piece, and adds to `out` what is sure by now. `rewrite` gives another URL in place of one.
    pub(super) fn push(&mut self, piece: &[u8], rewrite: impl Fn(&str) -> Option<String>, out: &mut Vec<u8>) {
        for piece in piece.chunks(PIECE) {
            self.push_part(piece, &rewrite, out);
        }
    }

    fn push_part(&mut self, piece: &[u8], rewrite: impl Fn(&str) -> Option<String>, out: &mut Vec<u8>) {
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(piece);
        let mut at = 0;
        while at < held.len() {
            let rest = &held[at..];
            let (taken, go_on) = match self.place {
                Place::Markup => self.markup(rest, &rewrite, out),
                Place::Comment => match find(rest, b"-->") {
                    Some(end) => {
                        self.place = Place::Markup;
                        copy(rest, end + 3, out)
                    }
                    None => (copy(rest, rest.len().saturating_sub(2), out).0, false),
                },
                Place::Raw(name) => match end_tag(rest, name) {
                    Some(end) => {
                        self.place = Place::Markup;
                        copy(rest, end, out)
                    }
                    None => (copy(rest, rest.len().saturating_sub(name.len() + 2), out).0, false),
                },
            };
            at += taken;
            if !go_on {
                break;
            }
        }
        held.drain(..at);
        self.held = held;
    }

    /// What is left at the end, which was no token.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.held);
    }

    /// How much was taken, and whether there is more to do.
    fn markup(
        &mut self,
        rest: &[u8],
        rewrite: impl Fn(&str) -> Option<String>,
        out: &mut Vec<u8>,
    ) -> (usize, bool) {
        let Some(open) = rest.iter().position(|byte| *byte == b'<') else {
            return copy(rest, rest.len(), out);
        };
        if open > 0 {
            return copy(rest, open, out);
        }
        match rest {
            [_] | [_, b'!'] | [_, b'!', b'-'] => (0, false),
            [_, b'!', b'-', b'-', ..] => {
                self.place = Place::Comment;
                // `<!-->` is a whole comment: its dashes are begin and end.
                copy(rest, 2, out)
            }
            [_, first, ..] if first.is_ascii_alphabetic() => match Tag::read(rest) {
                Some(tag) => {
                    tag.write(rest, rewrite, out);
                    let raw = RAW.iter().find(|name| **name == tag.name);
                    self.place = raw.map_or(Place::Markup, |name| Place::Raw(name));
                    (tag.length, true)
                }
                None if rest.len() < LONGEST => (0, false),
                None => copy(rest, LONGEST, out),
            },
            _ => copy(rest, 1, out),
        }
    }
}

fn copy(from: &[u8], count: usize, out: &mut Vec<u8>) -> (usize, bool) {
    out.extend_from_slice(&from[..count]);
    (count, true)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Where the end tag of an element begins.
fn end_tag(text: &[u8], name: &str) -> Option<usize> {
    let length = name.len() + 2;
    text.windows(length)
        .position(|window| window.starts_with(b"</") && window[2..].eq_ignore_ascii_case(name.as_bytes()))
}

/// A start tag.
struct Tag {
    name: String,
    length: usize,
    /// The attributes with a value: the name, and where the value is.
    values: Vec<(String, std::ops::Range<usize>)>,
}

impl Tag {
    /// Reads a tag at the beginning of `text`; `None`: its end is not there yet.
    fn read(text: &[u8]) -> Option<Self> {
        let until = |from: usize, stop: fn(u8) -> bool| {
            text.get(from..)?.iter().position(|byte| stop(*byte)).map(|length| from + length)
        };
        let lower =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&text[range]).to_ascii_lowercase();
        let mut at = until(1, |byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>'))?;
        let mut tag = Self { name: lower(1..at), length: 0, values: Vec::new() };
        loop {
            at = until(at, |byte| !byte.is_ascii_whitespace() && byte != b'/')?;
            if text[at] == b'>' {
                tag.length = at + 1;
                return Some(tag);
            }
            // A name may begin with `=`.
            let end = until(at + 1, |byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'='))?;
            let name = lower(at..end);
            at = until(end, |byte| !byte.is_ascii_whitespace())?;
            if text[at] != b'=' {
                continue;
            }
            at = until(at + 1, |byte| !byte.is_ascii_whitespace())?;
            let value = match text[at] {
                b'"' => at + 1..until(at + 1, |byte| byte == b'"')?,
                b'\'' => at + 1..until(at + 1, |byte| byte == b'\'')?,
                b'>' => continue,
                _ => at..until(at, |byte| byte.is_ascii_whitespace() || byte == b'>')?,
            };
            at = value.end + usize::from(matches!(text[at], b'"' | b'\''));
            tag.values.push((name, value));
        }
    }

    /// Writes the tag with its URLs rewritten. What is put in front of a URL is a path of the API, which no quotes and no
    /// entities are in.
    fn write(&self, text: &[u8], rewrite: impl Fn(&str) -> Option<String>, out: &mut Vec<u8>) {
        let urls = URLS.iter().find(|(name, _)| *name == self.name).map_or(&[][..], |(_, urls)| urls);
        let mut written = 0;
        for (name, value) in &self.values {
            let url = std::str::from_utf8(&text[value.clone()]).ok().filter(|_| urls.contains(&&**name));
            if let Some(other) = url.and_then(&rewrite) {
                out.extend_from_slice(&text[written..value.start]);
                out.extend_from_slice(other.as_bytes());
                written = value.end;
            }
        }
        out.extend_from_slice(&text[written..self.length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(url: &str) -> Option<String> {
        url.starts_with('/').then(|| format!("P{url}"))
    }

    #[test]
    fn urls_in_attributes_are_rewritten_however_the_page_is_cut() {
        let page = concat!(
            "<!DOCTYPE html><html><head><title><a href=\"/no\"></title>",
            "<link rel=stylesheet href=/a.css><script src='/b.js'>if (a < b) x = '<a href=\"/no\">';</SCRIPT>",
            "<!-- <a href=\"/no\"> --></head><body><A HREF = \"/c?d=1&amp;e=2\" title=\"/no\">1 < 2</a>",
            "<img alt='a > b' src=\"/f.png\"/><p title=it's><a href=\"relative\"><a href>x</a href=\"/no\">",
            "<form action=\"/g\" data-href=\"/no\"><a href=\"/unfinished",
        );
        let wanted = page
            .replace("/a.css", "P/a.css")
            .replace("/b.js", "P/b.js")
            .replace("/c?d", "P/c?d")
            .replace("/f.png", "P/f.png")
            .replace("\"/g\"", "\"P/g\"");
        for size in [1, 2, 3, 7, 64, page.len()] {
            let (mut links, mut out) = (Links::default(), Vec::new());
            for piece in page.as_bytes().chunks(size) {
                links.push(piece, rewrite, &mut out);
            }
            links.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn a_tag_without_an_end_is_not_waited_for() {
        let (mut links, mut out) = (Links::default(), Vec::new());
        let long = format!("<a {}", "x".repeat(LONGEST));
        links.push(long.as_bytes(), rewrite, &mut out);
        assert_eq!(out, long.as_bytes());
        let mut sent = out.len();
        for _ in 0..20 {
            let piece = "<a".repeat(PIECE);
            links.push(piece.as_bytes(), rewrite, &mut out);
            sent += piece.len();
            assert!(sent - out.len() < LONGEST, "no more is held, or looked at again, than a tag");
        }
    }
}
