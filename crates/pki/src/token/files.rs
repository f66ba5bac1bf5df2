//! The tokens of a server, in its data directory: made once, kept, and rewritten when the authority is renewed.
//! Reads and writes `<data-dir>/server-token` and `<data-dir>/agent-token`.
//! Not here: the Secret by which the API server knows the agents' token.

use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom as _, SystemRandom};

use super::{Secret, Token, hex, server};
use crate::{Certificate, Error, files};

/// What bootstrap tokens are made of.
const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The tokens of a cluster, as one of its servers has them.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// By which servers join.
    pub server: Token,
    /// By which agents join.
    pub agent: Token,
}

impl Tokens {
    /// Where a server keeps the token by which others join.
    pub fn server_file(data_dir: &Path) -> PathBuf {
        data_dir.join("server-token")
    }

    /// Where a server keeps the token by which agents join.
    pub fn agent_file(data_dir: &Path) -> PathBuf {
        data_dir.join("agent-token")
    }

    /// The tokens in a data directory; those that are missing are made, the server's with the secret that is `wanted`.
    ///
    /// # Errors
    /// Files that cannot be read or written or hold something else; a `wanted` secret that is not the stored one.
    pub fn open(data_dir: &Path, authority: &Certificate, wanted: Option<&str>) -> Result<Self, Error> {
        let (server_file, agent_file) = (Self::server_file(data_dir), Self::agent_file(data_dir));
        let server = keep(&server_file, authority, || match wanted {
            Some(secret) => server(secret).map_err(|error| Error::Token(error.to_string())),
            None => new_server(),
        })?;
        if wanted.is_some() && server.server_secret() != wanted {
            return Err(Error::Token(format!(
                "it has another secret than {}: leave it out; `ironclad token rotate server` changes the secret of a running cluster",
                server_file.display()
            )));
        }
        let agent = keep(&agent_file, authority, new_agent)?;
        for (token, file) in [
            (server.server_secret().is_some(), &server_file),
            (agent.bootstrap_token().is_some(), &agent_file),
        ] {
            if !token {
                let reason = "it holds the other kind of token".to_owned();
                return Err(Error::BadFile { path: file.clone(), reason });
            }
        }
        Ok(Self { server, agent })
    }

    /// Writes the tokens of the cluster where they differ from those in the files, which it was handed over by another
    /// server, or which were changed there. Each file is replaced whole, and on the disk when this returns.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn take_over(
        data_dir: &Path,
        authority: &Certificate,
        server: Secret,
        agent: Secret,
    ) -> Result<Self, Error> {
        let (server, agent) = (Token::new(authority, server), Token::new(authority, agent));
        for (file, token) in [(Self::server_file(data_dir), &server), (Self::agent_file(data_dir), &agent)] {
            if files::read(&file)?.is_none_or(|text| text.trim() != token.to_string()) {
                write(&file, token)?;
                files::sync_dir(data_dir)?;
            }
        }
        Ok(Self { server, agent })
    }
}

/// The token in a file, or a new one in it. It names the authority as it is now.
fn keep(
    file: &Path,
    authority: &Certificate,
    make: impl FnOnce() -> Result<Secret, Error>,
) -> Result<Token, Error> {
    let stored = files::read(file)?;
    let known = stored.as_deref().map(|text| {
        Token::parse(text)
            .map_err(|error| Error::BadFile { path: file.to_owned(), reason: error.to_string() })
    });
    let secret = match known.transpose()? {
        Some(token) => token.secret().clone(),
        None => make()?,
    };
    let token = Token::new(authority, secret);
    if stored.is_none_or(|text| text.trim() != token.to_string()) {
        write(file, &token)?;
    }
    Ok(token)
}

fn write(file: &Path, token: &Token) -> Result<(), Error> {
    files::replace_durably(file, &format!("{token}\n"), files::SECRET)
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).map_err(|_| Error::Crypto("give random bytes"))?;
    Ok(out)
}

pub(super) fn new_server() -> Result<Secret, Error> {
    Ok(Secret::Server(hex(&random::<16>()?)))
}

pub(super) fn new_agent() -> Result<Secret, Error> {
    Ok(Secret::Agent { id: letters(6)?, secret: letters(16)? })
}

fn letters(count: usize) -> Result<String, Error> {
    let mut out = String::new();
    while out.len() < count {
        let [byte] = random::<1>()?;
        // 252 is the largest multiple of 36: each letter is as likely.
        if byte < 252 {
            out.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::authority::{Authority, Key};

    fn authority() -> Authority {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap()
    }

    #[test]
    fn tokens_are_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = authority();
        let made = Tokens::open(dir.path(), first.certificate(), None).unwrap();
        assert_eq!(made.server.server_secret().unwrap().len(), 32);
        assert_eq!(made.agent.bootstrap_token().unwrap().len(), 23);
        for file in [Tokens::server_file(dir.path()), Tokens::agent_file(dir.path())] {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let again = Tokens::open(dir.path(), first.certificate(), None).unwrap();
        assert_eq!((&again.server, &again.agent), (&made.server, &made.agent));

        // Another certificate: the same secrets under its hash.
        let renewed = authority();
        let moved = Tokens::open(dir.path(), renewed.certificate(), None).unwrap();
        assert_eq!(moved.server.secret(), made.server.secret());
        moved.server.verify(&renewed.certificate().pem()).unwrap();
        assert!(moved.server.verify(&first.certificate().pem()).is_err());
        let text = std::fs::read_to_string(Tokens::server_file(dir.path())).unwrap();
        assert_eq!(Token::parse(&text).unwrap(), moved.server);
    }

    #[test]
    fn a_given_secret_is_taken_once() {
        let authority = authority();
        let open = |dir: &Path, wanted| Tokens::open(dir, authority.certificate(), wanted);
        let dir = tempfile::tempdir().unwrap();
        let wanted = "a-secret-of-some-length";
        let made = open(dir.path(), Some(wanted)).unwrap();
        assert_eq!(made.server.server_secret(), Some(wanted));
        assert!(open(dir.path(), Some(wanted)).is_ok());
        assert!(open(dir.path(), None).is_ok());
        let error = open(dir.path(), Some("another-of-some-length")).unwrap_err().to_string();
        assert!(error.contains("another secret than") && !error.contains("a-secret"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path(), Some("short")).unwrap_err().to_string().contains("at least 16"));
    }

    #[test]
    fn tokens_are_taken_over_whole_and_mistaken_files_named() {
        let authority = authority();
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let theirs = Tokens::open(other.path(), authority.certificate(), None).unwrap();
        let (server, agent) = (theirs.server.secret().clone(), theirs.agent.secret().clone());
        Tokens::take_over(dir.path(), authority.certificate(), server, agent).unwrap();
        let ours = Tokens::open(dir.path(), authority.certificate(), None).unwrap();
        assert_eq!((ours.server, ours.agent), (theirs.server, theirs.agent));

        std::fs::copy(Tokens::agent_file(dir.path()), Tokens::server_file(dir.path())).unwrap();
        let error = Tokens::open(dir.path(), authority.certificate(), None).unwrap_err().to_string();
        assert!(error.contains("server-token is not usable: it holds the other kind"), "{error}");
    }
}
