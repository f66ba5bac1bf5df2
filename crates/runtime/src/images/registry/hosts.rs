//! Which hosts serve a registry's images: itself, and the mirrors of `<dir>/<registry>/hosts.toml`.
//!
//! Of containerd's file these keys are read: `server`, `[host."URL"]`, `capabilities`, `ca`. A registry
//! of this machine (localhost) is spoken to without TLS.
//!
//! Upstream: containerd docs/hosts.md.

use std::path::{Path, PathBuf};

/// A host to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// `http://` or `https://`, host and port, perhaps a path.
    pub(super) url: String,
    /// More certificate authorities.
    pub(super) ca: Option<PathBuf>,
}

/// Hosts in the order to try them.
pub(super) fn of(registry: &str, directory: &Path) -> Vec<Host> {
    let file = |name: &str| std::fs::read_to_string(directory.join(name).join("hosts.toml")).ok();
    match file(registry).or_else(|| file("_default")) {
        Some(text) => parse(&text, registry),
        None => vec![own(registry)],
    }
}

fn own(registry: &str) -> Host {
    let name = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let bare = name
        .strip_prefix('[')
        .and_then(|r| r.split(']').next())
        .unwrap_or_else(|| name.split(':').next().unwrap_or_default());
    let local = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    Host { url: format!("{}://{name}", if local { "http" } else { "https" }), ca: None }
}

fn parse(text: &str, registry: &str) -> Vec<Host> {
    let mut server = own(registry);
    let mut mirrors: Vec<(Host, bool)> = Vec::new();
    let with_scheme = |url: &str| if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(url) = line.strip_prefix("[host.").and_then(|l| l.strip_suffix(']')) {
            let url = with_scheme(url.trim_matches(['"', '\'']).trim_end_matches('/'));
            mirrors.push((Host { url, ca: None }, true));
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let text = value.trim().trim_matches(['"', '\'']);
        match (key.trim(), mirrors.last_mut()) {
            ("server", None) => server.url = with_scheme(text.trim_end_matches('/')),
            ("ca", Some((mirror, _))) => mirror.ca = Some(text.into()),
            ("ca", None) => server.ca = Some(text.into()),
            ("capabilities", Some((_, pulls))) => *pulls = value.contains("pull"),
            _ => {}
        }
    }
    mirrors.into_iter().filter(|(_, pulls)| *pulls).map(|(host, _)| host).chain([server]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|h| h.url.as_str()).collect()
    }

    #[test]
    fn registries_have_their_urls() {
        for (registry, url) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("quay.io", "https://quay.io"),
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("[::1]:5000", "http://[::1]:5000"),
        ] {
            assert_eq!(urls(&of(registry, Path::new("/nonexistent"))), [url]);
        }
    }

    #[test]
    fn mirrors_come_first() {
        let text = "server = \"https://q.io\"\n[host.\"http://mirror:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/ca.pem\"\n[host.\"https://push\"]\n  capabilities = [\"push\"]\n";
        let hosts = parse(text, "quay.io");
        assert_eq!(urls(&hosts), ["http://mirror:5000", "https://q.io"]);
        assert_eq!(hosts[0].ca.as_deref(), Some(Path::new("/ca.pem")));
    }
}
