//! Who the server is to webhooks: the users of a kubeconfig, which are named after the servers they are for.
//! Not here: the file (`client::kubeconfig`), the setting that names it (`admission::configuration`).
//! Upstream: apiserver `pkg/util/webhook/authentication.go`.

use std::collections::BTreeMap;
use std::path::Path;

use client::Identity;
use client::kubeconfig::{self, Kubeconfig};

/// Identities by the servers that they are for.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    /// By `host:port`, `host` (then port 443 is meant), either of them with `*` for its first labels, or `*`.
    named: BTreeMap<String, Identity>,
    /// For all others.
    rest: Identity,
}

impl Identities {
    /// The users of a kubeconfig; `path` is where it is, for the relative paths in it.
    pub fn new(kubeconfig: &Kubeconfig, path: &Path) -> Result<Self, kubeconfig::Error> {
        let named = kubeconfig.users.iter().map(|user| Ok((user.name.clone(), user.user.identity(path)?)));
        let named: BTreeMap<String, Identity> = named.collect::<Result<_, kubeconfig::Error>>()?;
        let context = kubeconfig.contexts.iter().find(|context| context.name == kubeconfig.current_context);
        let current = context.and_then(|context| named.get(&context.context.user)).cloned();
        Ok(Self { rest: current.unwrap_or_default(), named })
    }

    /// Who the server is to `target`, a `host:port` (a Service is `name.namespace.svc`).
    pub(in crate::admission) fn of(&self, target: &str) -> &Identity {
        let host = match target.rsplit_once(':') {
            Some((host, "443")) => Some(host),
            // An address of the web without a port has the usual one.
            None => Some(target),
            _ => None,
        };
        let found = self.closest(target).or_else(|| host.and_then(|host| self.closest(host)));
        found.or_else(|| self.named.get("*")).unwrap_or(&self.rest)
    }

    /// By the whole name, or with fewer and fewer of its first labels.
    fn closest(&self, target: &str) -> Option<&Identity> {
        let shorter = target.match_indices('.').map(|(dot, _)| format!("*{}", &target[dot..]));
        std::iter::once(target.to_owned()).chain(shorter).find_map(|name| self.named.get(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_wins() {
        let user = |name: &str| format!("{{name: '{name}', user: {{token: '{name}'}}}}");
        let names =
            ["a.ns.svc", "*.ns.svc", "a.ns.svc:8443", "*.example.org", "hooks.example.org", "current"];
        let text = |names: &[&str]| {
            let users: Vec<String> = names.iter().map(|name| user(name)).collect();
            let users = users.join(", ");
            format!(
                "{{current-context: c, contexts: [{{name: c, context: {{user: current}}}}], users: [{users}]}}"
            )
        };
        let read = |names: &[&str]| {
            let kubeconfig: Kubeconfig = serde_yaml_ng::from_str(&text(names)).unwrap();
            Identities::new(&kubeconfig, Path::new("/k")).unwrap()
        };
        let identities = read(&names);
        for (target, wanted) in [
            ("a.ns.svc:443", "a.ns.svc"),
            ("a.ns.svc:8443", "a.ns.svc:8443"),
            ("b.ns.svc:443", "*.ns.svc"),
            ("b.ns.svc:8443", "current"),
            ("hooks.example.org", "hooks.example.org"),
            ("hooks.example.org:443", "hooks.example.org"),
            ("deep.hooks.example.org", "*.example.org"),
            ("10.0.0.1:9443", "current"),
        ] {
            assert_eq!(*identities.of(target), Identity::Token(wanted.to_owned()), "{target}");
        }
        assert_eq!(*read(&["*", "current"]).of("x:1"), Identity::Token("*".to_owned()));
        assert_eq!(*read(&["other"]).of("x:1"), Identity::None);
    }
}
