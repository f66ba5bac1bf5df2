//! Names of images: `busybox` is `docker.io/library/busybox:latest`. Pure.
//!
//! Upstream: distribution/reference (normalisation and its messages).

use std::fmt;

/// Why a text names no image.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// It has a form no registry would take.
    #[error("invalid reference format")]
    Format,
    /// Upper case is not allowed in a repository.
    #[error("invalid reference format: repository name must be lowercase")]
    Upper,
}

/// A full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Registry, such as `docker.io` or `localhost:5000`.
    pub registry: String,
    /// Repository, such as `library/busybox`.
    pub repository: String,
    /// Tag; `latest` if neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name as users write it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.to_owned())),
            None => (text, None),
        };
        if let Some(digest) = &digest
            && !digest.strip_prefix("sha256:").is_some_and(is_hex64)
        {
            return Err(Error::Format);
        }
        // A colon behind the last slash starts a tag, one before it a port.
        let slash = name.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match name[slash..].find(':') {
            Some(colon) => (&name[..slash + colon], Some(name[slash + colon + 1..].to_owned())),
            None => (name, None),
        };
        let tag_ok = |t: &String| {
            !t.is_empty()
                && t.len() <= 128
                && t.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
                && !t.starts_with(['.', '-'])
        };
        if tag.as_ref().is_some_and(|t| !tag_ok(t)) {
            return Err(Error::Format);
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(Error::Upper);
        }
        let part_ok = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
                && !part.starts_with(['.', '_', '-'])
                && !part.ends_with(['.', '_', '-'])
        };
        if !repository.split('/').all(part_ok) || repository.ends_with("library/") {
            return Err(Error::Format);
        }
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether this is the hexadecimal part of a SHA-256 digest.
pub fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let d = format!("sha256:{}", "a".repeat(64));
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x/y:v1", "localhost:5000/x/y:v1".to_owned()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_owned()),
            (&format!("q.io/x@{d}"), format!("q.io/x@{d}")),
            (&format!("q.io/x:v1@{d}"), format!("q.io/x:v1@{d}")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (text, error) in [
            ("", Error::Format),
            ("Busybox", Error::Upper),
            ("a//b", Error::Format),
            ("x:", Error::Format),
            ("x@sha256:12", Error::Format),
            ("-x", Error::Format),
        ] {
            assert_eq!(Reference::parse(text), Err(error), "{text:?}");
        }
    }
}
