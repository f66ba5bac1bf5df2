//! Answers TokenReview (is this token good, and whose is it) and SelfSubjectReview (who am I).
//! Upstream: pkg/registry/authentication.

use api::{Object, Status};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use super::{Authenticator, Credentials};
use crate::request::User;

fn describe(user: &User) -> Value {
    let mut out = json!({ "username": user.name });
    if !user.uid.is_empty() {
        out["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        out["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

/// Evaluates a TokenReview with the token authenticators ([`super::Authentication::tokens`]).
///
/// # Errors
/// 400 without a token.
pub async fn token(mut review: Object, tokens: &dyn Authenticator) -> Result<Object, Status> {
    let token = review.0.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = review
        .0
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    let mut headers = HeaderMap::new();
    // A header would end the token at its first space: two texts must not be one token.
    let whole = !token.contains(char::is_whitespace);
    let answer = match HeaderValue::from_str(&format!("Bearer {token}")) {
        Ok(value) if whole => {
            headers.insert(header::AUTHORIZATION, value);
            let credentials = Credentials {
                headers: &headers,
                certificates: &[],
                remote: None,
                audiences: &audiences,
                path: "",
            };
            tokens.authenticate(credentials).await
        }
        // No token of ours has characters that a header cannot carry.
        _ => Err(Status::unauthorized("invalid bearer token")),
    };
    review.0["status"] = match answer {
        Ok(Some(found)) => {
            let mut user = found.user;
            if !user.is_in(User::AUTHENTICATED) {
                user.groups.push(User::AUTHENTICATED.to_owned());
            }
            let mut status = json!({ "authenticated": true, "user": describe(&user) });
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            }
            status
        }
        // An unset user is written as an empty object, as upstream's encoder does.
        Ok(None) => json!({ "user": {} }),
        Err(status) => json!({ "user": {}, "error": status.message }),
    };
    Ok(review)
}

/// Evaluates a SelfSubjectReview.
pub fn self_subject(mut review: Object, user: &User) -> Object {
    review.0["status"] = json!({ "userInfo": describe(user) });
    review
}
