//! Pages of other origins: which of them a browser lets read the answers.
//!
//! Upstream: apiserver/pkg/server/filters/cors.go, pkg/server/options/server_run_options.go (what an expression needs).

use http::{HeaderMap, HeaderValue, Method, header};
use regex::Regex;

use crate::response::Response;

const METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE, PATCH";
const HEADERS: &str = "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, \
                       If-Modified-Since";

/// Origins whose pages may use the API.
#[derive(Clone, Debug, Default)]
pub struct Cors(Vec<Regex>);

impl Cors {
    /// Reads regular expressions over the `Origin` header.
    ///
    /// # Errors
    /// Where one is none, or leaves open where the host begins or ends: a longer name could be anybody's.
    pub fn new(expressions: &[String]) -> Result<Self, String> {
        let read = |expression: &String| {
            let problem =
                |what: String| format!("--cors-allowed-origins has invalid regular expression: {what}");
            let starts = expression.contains('^') || expression.contains("//");
            let ends = expression.contains('$') || expression.contains(':');
            if !(starts && ends) {
                return Err(problem(
                    "regular expression does not pin to start/end of host in the origin header".to_owned(),
                ));
            }
            Regex::new(expression).map_err(|error| problem(error.to_string()))
        };
        expressions.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The origin of a request that may read the answer.
    pub(crate) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN).filter(|_| !self.0.is_empty())?;
        let text = origin.to_str().ok().filter(|text| !text.is_empty())?;
        self.0.iter().any(|expression| expression.is_match(text)).then(|| origin.clone())
    }
}

/// The answer to a browser that asks beforehand.
pub(crate) fn preflight(method: &Method, origin: Option<&HeaderValue>) -> Option<Response> {
    (origin.is_some() && method == Method::OPTIONS).then(|| {
        let mut response = crate::response::text(204, "");
        response.headers_mut().remove(header::CONTENT_TYPE);
        response
    })
}

/// Tells a browser that the page may read the answer.
pub(crate) fn permit(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_says_where_the_host_begins_and_ends() {
        for (expression, sound) in [
            ("^https://example.com$", true),
            ("//example\\.com(:|$)", true),
            ("example.com", false),
            ("^https://example.com", true),
            ("^example", false),
            ("^(https://example.com$", false),
        ] {
            assert_eq!(Cors::new(&[expression.to_owned()]).is_ok(), sound, "{expression}");
        }
    }

    #[test]
    fn only_origins_that_match_are_allowed() {
        let cors = Cors::new(&["//example\\.com(:|$)".to_owned()]).unwrap();
        for (origin, allowed) in [
            (Some("https://example.com"), true),
            (Some("https://example.com:8443"), true),
            (Some("https://example.com.evil.org"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(cors.allowed(&headers).is_some(), allowed, "{origin:?}");
            assert!(Cors::default().allowed(&headers).is_none());
        }
    }
}
