//! Which trace a request belongs to, as W3C headers say it: `traceparent` and `tracestate`.
//!
//! Reads and writes header maps. Upstream: the W3C recommendation Trace Context, by go.opentelemetry.io/otel/propagation.

use http::{HeaderMap, HeaderName, HeaderValue};

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// The longest `tracestate` that is passed on, in bytes; the recommendation asks for at least 512.
const LONGEST_STATE: usize = 512;

/// A span, as others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span in it.
    pub span: [u8; 8],
    /// Whether the trace is recorded.
    pub sampled: bool,
    /// What vendors have to say to each other; passed on as it came.
    pub state: String,
}

impl SpanContext {
    /// The span that a request was sent in; `None` where it names none or not properly.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(PARENT)?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = bytes(version)?;
        let [flags] = bytes(flags)?;
        let (trace, span): ([u8; 16], [u8; 8]) = (bytes(trace)?, bytes(span)?);
        // Later versions may say more; this one does not, and 255 is never one.
        let more = parts.next().is_some();
        if version == 0xff || (version == 0 && (more || flags > 2)) || trace == [0; 16] || span == [0; 8] {
            return None;
        }
        let states: Vec<&str> =
            headers.get_all(STATE).iter().filter_map(|state| state.to_str().ok()).collect();
        let state = states.join(",");
        let state = if state.len() > LONGEST_STATE { String::new() } else { state };
        Some(Self { trace, span, sampled: flags & 1 == 1, state })
    }

    /// Says it to whom a request is sent.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let flags = u8::from(self.sampled);
        let parent = format!("00-{}-{}-{flags:02x}", hex(&self.trace), hex(&self.span));
        if let Ok(value) = HeaderValue::try_from(parent) {
            headers.insert(PARENT, value);
        }
        headers.remove(STATE);
        if let (false, Ok(value)) = (self.state.is_empty(), HeaderValue::try_from(&self.state)) {
            headers.insert(STATE, value);
        }
    }
}

/// Lower-case hexadecimal digits, exactly as many as there are to be.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(out)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn read(parent: &str) -> Option<SpanContext> {
        SpanContext::of(&HeaderMap::from_iter([(PARENT, HeaderValue::try_from(parent).unwrap())]))
    }

    #[test]
    fn what_is_told_is_what_was_heard() {
        let mut headers = HeaderMap::new();
        headers.insert(PARENT, HeaderValue::try_from(format!("00-{TRACE}-{SPAN}-01")).unwrap());
        headers.append(STATE, HeaderValue::from_static("a=1"));
        headers.append(STATE, HeaderValue::from_static("b=2"));
        let context = SpanContext::of(&headers).unwrap();
        assert!(context.sampled);
        let mut told = HeaderMap::new();
        context.inject(&mut told);
        assert_eq!(told[PARENT], headers[PARENT]);
        assert_eq!(told[STATE], "a=1,b=2");
    }

    #[test]
    fn what_is_no_context_is_none() {
        for (parent, expected) in [
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01-more"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{}-{SPAN}-01", &TRACE[1..]), None),
            (String::new(), None),
        ] {
            assert_eq!(read(&parent).map(|context| context.sampled), expected, "{parent}");
        }
    }
}
