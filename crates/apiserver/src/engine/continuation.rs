//! Continue tokens: where a list in pieces goes on, and as of which revision.
//!
//! The token is opaque to clients; it has upstream's form so that what they print of it looks familiar.
//! Upstream: apiserver/pkg/storage/continue.go.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// A decoded token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    #[serde(rename = "v")]
    pub version: String,
    /// The revision of the first piece; -1: whatever is newest (an inconsistent list).
    #[serde(rename = "rv")]
    pub revision: i64,
    /// The key to start at, below the resource's prefix.
    pub start: String,
    /// How many objects there are from there on at that revision, if they were counted. Only told, never trusted:
    /// it becomes the `remainingItemCount` of later pieces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
}

impl Token {
    /// The token of a list as of `revision` whose last key was `last`, with `left` objects after it.
    pub fn after(revision: i64, last: &str, left: Option<u64>) -> Self {
        // The least key after `last`.
        Self { version: "meta.k8s.io/v1".to_owned(), revision, start: format!("{last}\0"), left }
    }

    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(json)
    }

    pub fn decode(text: &str) -> Result<Self, Status> {
        let invalid = |what: String| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {what}"))
        };
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(error.to_string()))?;
        let token: Self = serde_json::from_slice(&json).map_err(|error| invalid(error.to_string()))?;
        if token.version != "meta.k8s.io/v1" {
            return Err(invalid(format!(
                "server does not recognize this encoded version \"{}\"",
                token.version
            )));
        }
        if token.revision == 0 {
            return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()));
        }
        if token.start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)".into()));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip_and_garbage_is_refused() {
        let token = Token::after(7, "default/a", Some(3));
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        for garbage in ["", "!!", "e30", "eyJ2Ijoib3RoZXIiLCJydiI6MSwic3RhcnQiOiJhIn0"] {
            let refused = Token::decode(garbage).unwrap_err();
            assert_eq!(refused.code, 400, "{garbage}");
            let said = "invalid continue token: continue key is not valid: ";
            assert!(refused.message.starts_with(said), "{garbage}: {refused}");
        }
    }
}
