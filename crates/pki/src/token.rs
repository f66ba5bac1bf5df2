//! The tokens by which machines join a cluster: what they say, how they are written, and how one proves an authority.
//!
//! `K10<hash>::server:<secret>` lets a server join, `K10<hash>::<id>.<secret>` an agent; the latter's part behind the colons
//! is a bootstrap token as kubeadm's. The hash is the SHA-256 of the cluster authority's public key (DER,
//! SubjectPublicKeyInfo), in hexadecimal: whoever was given the token can tell the cluster's authority from an impostor's
//! before it says anything. It stays the same when the authority's certificate is renewed, as kubeadm's hashes do. The hash
//! of the certificate, which tokens of earlier versions have, is understood too. A token without a hash proves nothing by
//! itself.
//!
//! Not here: where the tokens of a server are kept (`files`), how its keys are handed over to a server that joins.
//! Upstream: the form is k3s' (its documentation of `k3s token`), the agent's part kubeadm's (bootstrap tokens).

mod files;

use std::fmt;

use ring::digest;

pub use files::Tokens;

use crate::{Certificate, pem};

/// What every token with a hash begins with.
const PREFIX: &str = "K10";
/// What a server's secret begins with.
const SERVER: &str = "server:";
/// The shortest secret of a server that is taken: it is what stands between the network and the cluster's keys.
pub const SHORTEST_SECRET: usize = 16;

/// Why a text is no token, or a certificate not the one that a token names. No message shows the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It starts as a token with a hash and does not go on as one.
    #[error("the token is damaged: after K10 there must be 64 hexadecimal digits and ::")]
    Hash,
    /// There is nothing behind the hash that anybody's token has.
    #[error(
        "the token is damaged: it must end in server:<secret>, or in a bootstrap token of six characters, a full stop and sixteen characters"
    )]
    Secret,
    /// The secret is too easily found out.
    #[error("the secret of a token must have at least {SHORTEST_SECRET} characters, none of them a blank")]
    Short,
    /// The certificate is another one.
    #[error(
        "the cluster's authority is not the one that the token names: the token is another cluster's, or somebody stands in between"
    )]
    OtherAuthority,
    /// The token names no authority.
    #[error(
        "the token does not name the cluster's authority: use the whole token, as `ironclad token` prints it, or name the authority's file"
    )]
    NoHash,
    /// What was sent for the authority's certificate is none.
    #[error("there is no certificate in what was sent for the cluster's authority")]
    NoCertificate,
}

/// What a token gives the right to.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// To join as a server, and so to have all keys of the cluster.
    Server(String),
    /// To ask for a node's certificate: a bootstrap token.
    Agent {
        /// Six characters that name it; no secret.
        id: String,
        /// Sixteen characters.
        secret: String,
    },
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the cluster authority's public key, or of its certificate, if the token names it.
    authority: Option<[u8; 32]>,
    secret: Secret,
}

impl Token {
    /// The token of a cluster with this authority.
    pub fn new(authority: &Certificate, secret: Secret) -> Self {
        Self { authority: Some(hash(&public_key(authority.der()).unwrap_or_default())), secret }
    }

    /// Reads a token; blanks around it do not count. A text that is neither a bootstrap token nor has a hash is a
    /// server's secret.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix(PREFIX).filter(|rest| rest.contains("::")) else {
            let bare = text.strip_prefix(SERVER);
            let secret = match bootstrap(text).filter(|_| bare.is_none()) {
                Some(agent) => agent,
                None => server(bare.unwrap_or(text))?,
            };
            return Ok(Self { authority: None, secret });
        };
        let (digits, rest) = rest.split_once("::").ok_or(Error::Hash)?;
        let authority = Some(unhex(digits).ok_or(Error::Hash)?);
        let secret = match rest.strip_prefix(SERVER) {
            Some(secret) => server(secret)?,
            None => bootstrap(rest).ok_or(Error::Secret)?,
        };
        Ok(Self { authority, secret })
    }

    /// What it gives the right to.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Whether it names the cluster's authority.
    pub fn names_authority(&self) -> bool {
        self.authority.is_some()
    }

    /// A server's secret, if it is a server's token.
    pub fn server_secret(&self) -> Option<&str> {
        match &self.secret {
            Secret::Server(secret) => Some(secret),
            Secret::Agent { .. } => None,
        }
    }

    /// The bootstrap token `<id>.<secret>`, if it is an agent's token: what goes behind `Bearer`.
    pub fn bootstrap_token(&self) -> Option<String> {
        match &self.secret {
            Secret::Server(_) => None,
            Secret::Agent { id, secret } => Some(format!("{id}.{secret}")),
        }
    }

    /// Whether the first certificate of a PEM text is the authority that the token names.
    ///
    /// # Errors
    /// [`Error::NoHash`] where the token names none; [`Error::NoCertificate`], [`Error::OtherAuthority`].
    pub fn verify(&self, authority_pem: &str) -> Result<(), Error> {
        let named = self.authority.ok_or(Error::NoHash)?;
        let found = pem::decode("CERTIFICATE", authority_pem).map_err(|_| Error::NoCertificate)?;
        let first = found.first().ok_or(Error::NoCertificate)?;
        let is_named = hash(first) == named || public_key(first).is_some_and(|key| hash(&key) == named);
        // Whoever puts more into it wants somebody else to be believed too.
        if found.len() == 1 && is_named { Ok(()) } else { Err(Error::OtherAuthority) }
    }
}

impl Secret {
    /// A new secret of servers.
    ///
    /// # Errors
    /// [`crate::Error::Crypto`] when the system gives no entropy.
    pub fn new_server() -> Result<Self, crate::Error> {
        files::new_server()
    }

    /// A new bootstrap token of agents.
    ///
    /// # Errors
    /// [`crate::Error::Crypto`] when the system gives no entropy.
    pub fn new_agent() -> Result<Self, crate::Error> {
        files::new_agent()
    }

    /// The text that says it, without the cluster's authority; [`Token::parse`] reads it.
    pub fn bare(&self) -> String {
        match self {
            Secret::Server(secret) => format!("{SERVER}{secret}"),
            Secret::Agent { id, secret } => format!("{id}.{secret}"),
        }
    }
}

impl fmt::Display for Token {
    /// The whole token, with its secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(hash) = &self.authority {
            write!(f, "{PREFIX}{}::", hex(hash))?;
        }
        f.write_str(&self.secret.bare())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.secret {
            Secret::Server(_) => "server",
            Secret::Agent { .. } => "agent",
        };
        f.debug_struct("Token").field("authority", &self.authority.is_some()).field("of", &kind).finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server(…)",
            Self::Agent { .. } => "Agent(…)",
        })
    }
}

fn server(secret: &str) -> Result<Secret, Error> {
    let sound = secret.len() >= SHORTEST_SECRET && secret.bytes().all(|b| b.is_ascii_graphic());
    if sound { Ok(Secret::Server(secret.to_owned())) } else { Err(Error::Short) }
}

fn bootstrap(text: &str) -> Option<Secret> {
    let (id, secret) = text.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    let sound = id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret);
    sound.then(|| Secret::Agent { id: id.to_owned(), secret: secret.to_owned() })
}

fn hash(der: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    out
}

/// The public key in a certificate (both DER).
fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn tokens_are_read_and_written_alike() {
        let server = Secret::Server(SECRET.into());
        let agent = Secret::Agent { id: "abcdef".into(), secret: "0123456789abcdef".into() };
        for (text, expected) in [
            (format!("K10{HASH}::server:{SECRET}"), Ok((true, server.clone()))),
            (format!(" K10{HASH}::server:{SECRET}\n"), Ok((true, server.clone()))),
            (format!("K10{}::server:{SECRET}", HASH.to_uppercase()), Ok((true, server.clone()))),
            (format!("K10{HASH}::abcdef.0123456789abcdef"), Ok((true, agent.clone()))),
            (SECRET.to_owned(), Ok((false, server.clone()))),
            (format!("server:{SECRET}"), Ok((false, server.clone()))),
            ("abcdef.0123456789abcdef".to_owned(), Ok((false, agent))),
            (format!("K10{}::server:{SECRET}", &HASH[1..]), Err(Error::Hash)),
            (format!("K10{}é::server:{SECRET}", &HASH[2..]), Err(Error::Hash)),
            (format!("K10::server:{SECRET}"), Err(Error::Hash)),
            (format!("K10{HASH}::{SECRET}"), Err(Error::Secret)),
            (format!("K10{HASH}::abcdef.0123456789ABCDEF"), Err(Error::Secret)),
            (format!("K10{HASH}::server:short"), Err(Error::Short)),
            ("with a blank in its midst".to_owned(), Err(Error::Short)),
            ("hunter2".to_owned(), Err(Error::Short)),
            (String::new(), Err(Error::Short)),
        ] {
            let found = Token::parse(&text);
            let simple = found.clone().map(|token| (token.names_authority(), token.secret().clone()));
            assert_eq!(simple, expected, "{text}");
            if let Ok(token) = found {
                assert_eq!(Token::parse(&token.to_string()), Ok(token), "{text}");
            }
        }
    }

    #[test]
    fn nothing_that_is_logged_shows_a_secret() {
        for text in [format!("K10{HASH}::server:{SECRET}"), format!("K10{HASH}::abcdef.0123456789abcdef")] {
            let token = Token::parse(&text).unwrap();
            let shown = format!("{token:?} {:?}", token.secret());
            assert!(!shown.contains("0123456789abcdef"), "{shown}");
        }
    }

    #[test]
    fn a_token_knows_its_clusters_authority() {
        use crate::authority::{Authority, Key};
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let make = || Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap();
        let (ours, theirs) = (make(), make());
        let (ours, theirs) = (ours.certificate(), theirs.certificate());
        let token = Token::new(ours, Secret::Server(SECRET.into()));
        let token = Token::parse(&token.to_string()).unwrap();
        for (sent, expected) in [
            (ours.pem(), Ok(())),
            (theirs.pem(), Err(Error::OtherAuthority)),
            (ours.pem() + &theirs.pem(), Err(Error::OtherAuthority)),
            (theirs.pem() + &ours.pem(), Err(Error::OtherAuthority)),
            ("<html>".to_owned(), Err(Error::NoCertificate)),
        ] {
            assert_eq!(token.verify(&sent), expected, "{sent}");
        }
        assert_eq!(Token::parse(SECRET).unwrap().verify(&ours.pem()), Err(Error::NoHash));
    }

    #[test]
    fn a_token_outlives_a_renewal_of_the_authoritys_certificate() {
        use crate::authority::{Authority, Key};
        let at = |text: &str| text.parse().unwrap();
        let first =
            Authority::self_signed("kubernetes", Key::generate().unwrap(), at("2026-11-22T10:00:00Z"))
                .unwrap();
        let before = first.certificate().pem();
        let of_certificate = format!("K10{}::server:{SECRET}", hex(&hash(first.certificate().der())));
        let token = Token::new(first.certificate(), Secret::Server(SECRET.into()));
        let renewed = first.renewed(at("2035-11-22T10:00:00Z")).unwrap();
        assert_ne!(renewed.certificate().pem(), before);
        assert_eq!((token.verify(&before), token.verify(&renewed.certificate().pem())), (Ok(()), Ok(())));
        assert_eq!(Token::new(renewed.certificate(), Secret::Server(SECRET.into())), token);
        // As earlier versions made them.
        let older = Token::parse(&of_certificate).unwrap();
        assert_eq!(older.verify(&before), Ok(()));
        assert_eq!(older.verify(&renewed.certificate().pem()), Err(Error::OtherAuthority));
    }

    #[test]
    fn new_secrets_are_tokens() {
        for secret in [Secret::new_server().unwrap(), Secret::new_agent().unwrap()] {
            assert_eq!(Token::parse(&secret.bare()).unwrap().secret(), &secret);
        }
        assert_ne!(Secret::new_agent().unwrap(), Secret::new_agent().unwrap());
    }
}
