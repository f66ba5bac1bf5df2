//! The tokens of a cluster as all its servers have them: in the store, sealed by the key of the cluster's authority, which
//! only servers have. What is there counts; the files in the data directories follow it.
//!
//! Reads and writes one key of the store, beside the API's, and the files of the data directory. Not here: the Secret by
//! which the API server knows the agents' token, and who may change tokens (`roles::tokens`); the files (`pki::token`).
//!
//! **Why in the store.** A token that is changed on one server must end on all of them, also on those that are down: each
//! request to join is held against what a majority of the servers knows now. And the Secret of the agents' token is made once
//! (`introduced`): who deletes it has withdrawn the token, and no server that starts brings it back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::k8s_openapi::ByteString;
use foundation::SharedClock;
use futures::StreamExt as _;
use parking_lot::Mutex;
use pki::token::Secret;
use pki::{Pki, Token, Tokens};
use serde::{Deserialize, Serialize};
use store::{Compare, EventKind, Op, PutValue, Range, Revision, Store, Txn, WatchRequest};

/// Where they are.
const KEY: &str = "/registry/ironclad/tokens";
/// What they are sealed for.
const PURPOSE: &str = "ironclad tokens 1";
/// How often a write is tried while other servers write too.
const ATTEMPTS: usize = 10;
/// First and longest wait before the store is asked again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What is kept in the store.
#[derive(Serialize, Deserialize)]
struct Sealed {
    sealed: ByteString,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Content {
    server: String,
    agent: String,
    introduced: bool,
}

/// The tokens as they are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// By which servers join.
    pub server: Secret,
    /// By which agents join.
    pub agent: Secret,
    /// Whether the API server has been told of the agents' token: its Secret is made once.
    pub introduced: bool,
}

/// The tokens of a server that has started: where they are, and what they were then.
pub struct Settled {
    /// Where they are.
    pub shared: Arc<Shared>,
    /// What they were.
    pub known: Known,
}

/// What the store has, and since when.
struct Found {
    known: Option<Known>,
    /// Of the key's last write; 0 where there is none.
    written: Revision,
    /// Of the store.
    revision: Revision,
}

/// The tokens of the cluster, as one of its servers reaches them.
pub struct Shared {
    store: Arc<dyn Store>,
    pki: Arc<Pki>,
    data_dir: PathBuf,
    /// Held while the files are written: who changes a token and who follows the store write the same ones.
    writing: Mutex<()>,
}

impl Shared {
    /// Those in this store. Nothing is read yet.
    pub fn new(store: Arc<dyn Store>, pki: Arc<Pki>, data_dir: PathBuf) -> Shared {
        Shared { store, pki, data_dir, writing: Mutex::new(()) }
    }

    /// Brings this server's files and the store together when it starts: the store's tokens are taken over; a cluster that
    /// has none yet gets this server's. With `insist` the secret of servers is this server's in any case: a person has given
    /// it to one that is alone.
    ///
    /// # Errors
    /// What the store says; files that cannot be written.
    pub async fn settle(&self, mine: &Tokens, insist: bool) -> anyhow::Result<Known> {
        for _ in 0..ATTEMPTS {
            let found = self.find().await?;
            let wanted = match &found.known {
                Some(known) if !insist || known.server == *mine.server.secret() => {
                    self.keep(known)?;
                    return Ok(known.clone());
                }
                Some(known) => Known { server: mine.server.secret().clone(), ..known.clone() },
                None => {
                    if found.written > 0 {
                        tracing::warn!(
                            "the tokens in the store are another authority's: this server's take their place"
                        );
                    }
                    let (server, agent) = (mine.server.secret().clone(), mine.agent.secret().clone());
                    Known { server, agent, introduced: false }
                }
            };
            self.write(found.written, &wanted).await?;
        }
        bail!("other servers keep writing the tokens of the cluster")
    }

    /// The tokens as they are now.
    ///
    /// # Errors
    /// What the store says; no tokens that this server could read.
    pub async fn now(&self) -> anyhow::Result<Known> {
        let found = self.find().await?;
        found.known.context("the tokens in the store are not this cluster's")
    }

    /// Changes them, and the files of this server. `change` is asked again where somebody else has changed them meanwhile.
    ///
    /// # Errors
    /// As [`Shared::now`]; files that cannot be written.
    pub async fn change(&self, change: impl Fn(Known) -> Known) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let found = self.find().await?;
            let known = found.known.context("the tokens in the store are not this cluster's")?;
            let wanted = change(known.clone());
            if wanted == known || self.write(found.written, &wanted).await? {
                return self.keep(&wanted);
            }
        }
        bail!("other servers keep writing the tokens of the cluster")
    }

    /// Has the files follow the store, for as long as it is polled.
    pub async fn follow(&self, clock: SharedClock) {
        let mut wait = AGAIN.0;
        loop {
            match self.follow_once(&mut wait).await {
                Ok(()) => {}
                Err(error) => tracing::debug!(error = format!("{error:#}"), "the tokens are not followed"),
            }
            clock.sleep(wait).await;
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    async fn follow_once(&self, wait: &mut Duration) -> anyhow::Result<()> {
        let found = self.find().await?;
        if let Some(known) = &found.known {
            self.keep(known)?;
        }
        let Range { start, end, .. } = Range::key(KEY);
        let request =
            WatchRequest { start, end, start_revision: found.revision + 1, ..WatchRequest::default() };
        let mut changes = self.store.watch(request).await?;
        while let Some(batch) = changes.next().await {
            for event in batch?.events.iter().filter(|event| event.kind == EventKind::Put) {
                *wait = AGAIN.0;
                if let Some(known) = self.open(&event.kv.value) {
                    self.keep(&known)?;
                }
            }
        }
        Ok(())
    }

    async fn find(&self) -> anyhow::Result<Found> {
        let answer = self.store.range(Range::key(KEY)).await?;
        let kv = answer.kvs.first();
        let (known, written) = (kv.and_then(|kv| self.open(&kv.value)), kv.map_or(0, |kv| kv.mod_revision));
        Ok(Found { known, written, revision: answer.revision })
    }

    fn open(&self, value: &[u8]) -> Option<Known> {
        let Sealed { sealed } = serde_json::from_slice(value).ok()?;
        let text = self.pki.cluster_authority().unseal(PURPOSE, &sealed.0)?;
        let Content { server, agent, introduced } = serde_json::from_slice(&text).ok()?;
        let secret = |text: &str| Token::parse(text).ok().map(|token| token.secret().clone());
        Some(Known { server: secret(&server)?, agent: secret(&agent)?, introduced })
    }

    /// Whether nobody else has written since.
    async fn write(&self, since: Revision, known: &Known) -> anyhow::Result<bool> {
        let Known { server, agent, introduced } = known;
        let content = Content { server: server.bare(), agent: agent.bare(), introduced: *introduced };
        let sealed = self.pki.cluster_authority().seal(PURPOSE, &serde_json::to_vec(&content)?)?;
        let value = serde_json::to_vec(&Sealed { sealed: ByteString(sealed) })?;
        let unchanged = match since {
            0 => Compare::absent(KEY),
            revision => Compare::mod_revision(KEY, revision),
        };
        let put = Op::Put { key: KEY.into(), value: PutValue::Plain(value.into()), lease: 0 };
        let txn = Txn { compare: vec![unchanged], success: vec![put], failure: Vec::new() };
        Ok(self.store.txn(txn).await?.succeeded)
    }

    fn keep(&self, known: &Known) -> anyhow::Result<()> {
        let authority = self.pki.cluster_authority().certificate();
        let _alone = self.writing.lock();
        Tokens::take_over(&self.data_dir, authority, known.server.clone(), known.agent.clone())
            .context("the tokens of the cluster cannot be written to the data directory")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foundation::SystemClock;

    use super::*;

    /// A server of the cluster with these keys and this store, with tokens of its own making.
    struct World {
        folder: tempfile::TempDir,
        store: Arc<dyn Store>,
    }

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let store =
                crate::roles::store::open_embedded(&folder.path().join("store"), SystemClock::shared());
            World { store: store.unwrap(), folder }
        }

        fn pki(&self, cluster: &str) -> Arc<Pki> {
            let settings =
                pki::Settings { dir: self.folder.path().join(cluster), ..pki::Settings::default() };
            Arc::new(Pki::open(settings, "2026-11-22T10:00:00Z".parse().unwrap()).unwrap())
        }

        fn server(&self, name: &str, cluster: &str) -> (Shared, Tokens) {
            let (data_dir, pki) = (self.folder.path().join(name), self.pki(cluster));
            std::fs::create_dir_all(&data_dir).unwrap();
            let tokens = Tokens::open(&data_dir, pki.cluster_authority().certificate(), None).unwrap();
            (Shared::new(self.store.clone(), pki, data_dir), tokens)
        }

        fn file(&self, name: &str) -> (Secret, Secret) {
            let read = |file: PathBuf| crate::tokens::read(&file).unwrap().secret().clone();
            let data_dir = self.folder.path().join(name);
            (read(Tokens::server_file(&data_dir)), read(Tokens::agent_file(&data_dir)))
        }
    }

    #[tokio::test]
    async fn all_servers_have_the_tokens_of_the_first() {
        let world = World::new();
        let (first, tokens) = world.server("a", "pki");
        let known = first.settle(&tokens, false).await.unwrap();
        assert_eq!((&known.server, &known.agent), (tokens.server.secret(), tokens.agent.secret()));
        assert!(!known.introduced);
        first.change(|known| Known { introduced: true, ..known }).await.unwrap();
        let stored = world.store.range(Range::key(KEY)).await.unwrap().kvs[0].value.clone();
        let stored = String::from_utf8(stored.to_vec()).unwrap();
        assert!(!stored.contains(tokens.server.server_secret().unwrap()), "{stored}");

        let (second, tokens) = world.server("b", "pki");
        assert_ne!(*tokens.server.secret(), known.server);
        let settled = second.settle(&tokens, false).await.unwrap();
        assert_eq!(settled, Known { introduced: true, ..known.clone() }, "its Secret is not made again");
        assert_eq!(world.file("b"), world.file("a"));

        // What a person insists on.
        let (third, tokens) = world.server("c", "pki");
        let settled = third.settle(&tokens, true).await.unwrap();
        assert_eq!((&settled.server, &settled.agent), (tokens.server.secret(), &known.agent));
        assert_eq!(first.now().await.unwrap(), settled);

        // A store that was restored under another authority.
        let (other, tokens) = world.server("d", "other");
        assert!(other.now().await.is_err());
        let settled = other.settle(&tokens, false).await.unwrap();
        assert_eq!((&settled.server, settled.introduced), (tokens.server.secret(), false));
    }

    #[tokio::test]
    async fn changed_tokens_reach_the_files_of_all_servers() {
        let world = World::new();
        let (first, tokens) = world.server("a", "pki");
        first.settle(&tokens, false).await.unwrap();
        let (second, tokens) = world.server("b", "pki");
        let before = second.settle(&tokens, false).await.unwrap();
        let fresh = Secret::new_agent().unwrap();
        // The one that changes them follows the store, too.
        let follow = async {
            futures::join!(second.follow(SystemClock::shared()), first.follow(SystemClock::shared()));
        };
        let change = async {
            first.change(|known| Known { agent: fresh.clone(), ..known }).await.unwrap();
            assert_eq!(world.file("a"), (before.server.clone(), fresh.clone()));
            let limit = std::time::Instant::now() + Duration::from_secs(30);
            while world.file("b").1 != fresh {
                assert!(std::time::Instant::now() < limit, "the other server was not told");
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = follow => panic!("it follows for ever"),
            () = change => {}
        }
    }
}
