//! What a client is warned of, as headers of the answer.
//! Upstream: apiserver/pkg/endpoints/filters/warning.go.

use http::{HeaderValue, header};

use crate::response::Response;

/// How many characters of warnings a response carries before each is cut short; when they are, no more are added after so many.
const MAX_WARNINGS: usize = 4 * 1024;
/// What is left of a warning that is cut short, in characters.
const MAX_CUT_WARNING: usize = 256;

/// `Warning: 299 - "text"`, one header each, as RFC 7234 has it.
pub(super) fn add(response: &mut Response, warnings: &[String]) {
    let mut seen = std::collections::HashSet::new();
    let warnings: Vec<&str> = warnings
        .iter()
        .map(String::as_str)
        .filter(|warning| !warning.is_empty() && seen.insert(*warning))
        // A header cannot carry them.
        .filter(|warning| !warning.contains(char::is_control))
        .collect();
    let cut = warnings.iter().map(|warning| warning.chars().count()).sum::<usize>() > MAX_WARNINGS;
    let mut written = 0;
    for warning in warnings {
        if cut && written >= MAX_WARNINGS {
            break;
        }
        let end = warning.char_indices().nth(MAX_CUT_WARNING).filter(|_| cut);
        let shown = end.map_or(warning, |(end, _)| &warning[..end]);
        written += shown.chars().count();
        let escaped = shown.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
