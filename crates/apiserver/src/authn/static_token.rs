//! Tokens that are known from the start.
//! Upstream: apiserver/pkg/authentication/token/tokenfile.

use std::collections::HashMap;

use api::Status;
use async_trait::async_trait;
use ring::digest;

use super::{Authenticated, Authenticator, Credentials, bearer};
use crate::request::User;

/// One line of a token file.
#[derive(Clone)]
pub struct StaticToken {
    /// The secret.
    pub token: String,
    /// Who holds it.
    pub user: User,
}

impl std::fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticToken").field("user", &self.user.name).finish_non_exhaustive()
    }
}

impl StaticToken {
    /// Reads a token file: lines of `token,user,uid[,"group1,group2"]`.
    ///
    /// # Errors
    /// The first line that is not of this form.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, String> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(number, line)| {
                let mut parts = line.trim().splitn(4, ',').map(|part| part.trim().trim_matches('"'));
                let (Some(token), Some(name), Some(uid)) = (parts.next(), parts.next(), parts.next()) else {
                    return Err(format!("line {}: token, user name and user uid are required", number + 1));
                };
                if token.is_empty() || name.is_empty() {
                    return Err(format!("line {}: token and user name must not be empty", number + 1));
                }
                let groups = parts.next().unwrap_or_default().split(',').map(str::trim);
                let groups = groups.filter(|group| !group.is_empty()).map(str::to_owned).collect();
                let user = User { name: name.into(), uid: uid.into(), groups, ..User::default() };
                Ok(Self { token: token.into(), user })
            })
            .collect()
    }
}

type Hash = [u8; 32];

fn hash(token: &str) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    out
}

/// Looked up by hash, so that the time of a lookup tells nothing about how much of a guess was right.
pub(super) struct StaticTokens(HashMap<Hash, User>);

impl StaticTokens {
    pub(super) fn new(tokens: &[StaticToken]) -> Self {
        Self(tokens.iter().map(|entry| (hash(&entry.token), entry.user.clone())).collect())
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<Authenticated>, Status> {
        let Some(token) = bearer::token(credentials.headers) else { return Ok(None) };
        Ok(self.0.get(&hash(&token)).map(|user| Authenticated::plain(user.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files_are_read() {
        let tokens = StaticToken::parse_file("t1,jane,1\n\nt2,bob,2,\"dev,ops\"\n").unwrap();
        assert_eq!(tokens[0].user, User { name: "jane".into(), uid: "1".into(), ..User::default() });
        assert_eq!(tokens[1].user.groups, ["dev", "ops"]);
        assert!(StaticToken::parse_file("t1,jane").unwrap_err().starts_with("line 1:"));
    }
}
