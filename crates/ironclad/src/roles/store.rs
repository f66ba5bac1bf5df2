//! The store: the embedded engine in `<data-dir>/store`, a member of several in `<data-dir>/raft`, or an external etcd.
//!
//! Reads the files of the external one's TLS; says by the settings and by what is in the data directory which of them it is
//! ([`plan`]). Not here: the member (`member`), what servers that share it agree on (`agreement`), the API that a store can be reached by (`etcd`).

pub mod agreement;
pub mod member;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use foundation::{SharedClock, Tasks};
use store::Store;
use store::embedded::{Engine, Options};
use store_etcd::EtcdStore;
use store_raft::{Identity, RaftStore};

use super::Context;
use crate::config;
use crate::config::datastore::Datastore;
use crate::join::HandedOver;

/// Where the cluster's state is.
pub enum Opened {
    /// In this process.
    Embedded(Arc<Engine>),
    /// In this process and in those of other servers, which agree on it.
    Replicated(Arc<RaftStore>),
    /// In an etcd, which other servers may share.
    External(EtcdStore),
}

/// Where it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// In this process.
    Embedded,
    /// In an etcd.
    External,
    /// In a member that the data directory has.
    Member {
        /// Whether it is to go on alone first.
        reset: Reset,
    },
    /// In the first member, which is to be made.
    Found,
    /// In a member that is to be made and joins the cluster of this server.
    Join(String),
}

/// What is asked of a member that lost the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Nothing.
    No,
    /// To go on alone.
    Now,
    /// What has been done already: the flag was left where it stood.
    Done,
}

/// What the settings and the data directory say.
///
/// # Errors
/// A sentence about what contradicts itself, or would lose what is there.
pub fn plan(config: &config::Server) -> anyhow::Result<Plan> {
    let (data_dir, cluster) = (&config.dirs.data_dir, &config.cluster);
    let raft = member_directory(data_dir);
    let is_member = Identity::load(&raft)
        .with_context(|| format!("cannot read which member is in {}", raft.display()))?
        .is_some();
    if !config.datastore.datastore_endpoint.is_empty() {
        if is_member {
            bail!(
                "{} holds a member of the servers' own store: leave out --datastore-endpoint",
                raft.display()
            );
        }
        return Ok(Plan::External);
    }
    if is_member {
        let reset = match (cluster.cluster_reset, member::was_reset(data_dir)) {
            (false, _) => Reset::No,
            (true, false) => Reset::Now,
            (true, true) => Reset::Done,
        };
        return Ok(Plan::Member { reset });
    }
    if cluster.cluster_reset {
        bail!(
            "--cluster-reset is for a server that is one of several, and there is no member in {}",
            raft.display()
        );
    }
    let own = directory(data_dir);
    let has_store = std::fs::read_dir(&own).is_ok_and(|mut entries| entries.next().is_some());
    if let Some(server) = &cluster.server {
        if has_store {
            bail!(
                "{} holds the store of a cluster of its own, which joining would leave behind: join with an empty data directory",
                own.display()
            );
        }
        member::refuse_a_log(data_dir)?;
        return Ok(Plan::Join(server.clone()));
    }
    if member::is_joining(data_dir) {
        bail!(
            "this server had begun to join a cluster: start it with --server and --token, or with an empty data directory"
        );
    }
    let peers = data_dir.join("pki/peer-ca.key");
    if !has_store && peers.exists() {
        bail!(
            "{} says that this server was one of several, but its part of the store is gone: join the others with --server \
             and --token, restore a backup to {}, or start with an empty data directory",
            peers.display(),
            own.display()
        );
    }
    Ok(if cluster.cluster_init { Plan::Found } else { Plan::Embedded })
}

impl Opened {
    /// It as the API server uses it.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(engine) => engine.clone(),
            Self::Replicated(member) => member.clone(),
            Self::External(etcd) => Arc::new(etcd.clone()),
        }
    }

    /// The member, if it is one.
    pub fn member(&self) -> Option<&Arc<RaftStore>> {
        match self {
            Self::Replicated(member) => Some(member),
            Self::Embedded(_) | Self::External(_) => None,
        }
    }

    /// Where it is, for people.
    pub fn place(&self, data_dir: &Path, settings: &Datastore) -> String {
        match self {
            Self::Embedded(_) => directory(data_dir).display().to_string(),
            Self::Replicated(member) => {
                let members = member.standing().borrow().members.len();
                let place = member_directory(data_dir).display().to_string();
                if members == 1 {
                    format!("{place}, one member")
                } else {
                    format!("{place}, one of {members} members")
                }
            }
            Self::External(_) => settings.datastore_endpoint.join(", "),
        }
    }

    /// Whether other servers may use it too.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::Embedded(_))
    }

    /// Whether no other server shares it now.
    ///
    /// # Errors
    /// What the store says.
    pub async fn is_alone(&self, own: IpAddr) -> anyhow::Result<bool> {
        match self {
            Self::Embedded(_) => Ok(true),
            Self::Replicated(member) => Ok(member.standing().borrow().members.len() == 1),
            Self::External(etcd) => agreement::is_alone(etcd, own).await,
        }
    }

    /// Whether it forgets its past only when it is told to.
    pub fn is_external(&self) -> bool {
        matches!(self, Self::External(_))
    }

    /// Returns, with the reason, when it does not serve any more and will not again in this process. Others end with the
    /// process.
    pub async fn ended(&self) -> store_raft::Ended {
        match self {
            Self::Replicated(member) => member.ended().await,
            Self::Embedded(_) | Self::External(_) => std::future::pending().await,
        }
    }

    /// Carries out what is queued, hands over the lead if it has one, and gives the directory free. Blocks. Nothing may be
    /// asked of it afterwards.
    pub fn shutdown(&self) {
        match self {
            Self::Embedded(engine) => engine.shutdown(),
            Self::Replicated(member) => member.shutdown(),
            Self::External(_) => {}
        }
    }
}

/// Has the store forget its past now and then, which nobody else does for an external one.
pub fn keep_compacted(context: &Context, store: Arc<dyn Store>, tasks: &Tasks) {
    let (clock, interval) = (context.clock.clone(), context.config.datastore.etcd_compaction_interval);
    if interval.is_zero() {
        return;
    }
    let stop = tasks.token();
    tasks.spawn("compaction", async move {
        stop.run_until_cancelled(store_etcd::compaction::run(&*store, clock, interval)).await;
    });
}

/// Where the embedded store is.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// Where a member of several is.
pub fn member_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("raft")
}

/// Opens the store that was planned. A member may take long: until a majority of the members runs and is reached.
pub async fn open(context: &Context, plan: &Plan, handed: Option<HandedOver>) -> anyhow::Result<Opened> {
    let (data_dir, settings) = (&context.config.dirs.data_dir, &context.config.datastore);
    match plan {
        Plan::Embedded => open_embedded(&directory(data_dir), context.clock.clone()).map(Opened::Embedded),
        Plan::External => open_external(settings, context.clock.clone()).map(Opened::External),
        Plan::Member { .. } | Plan::Found | Plan::Join(_) => {
            member::open(context, plan, handed).await.map(Opened::Replicated)
        }
    }
}

fn open_external(settings: &Datastore, clock: SharedClock) -> anyhow::Result<EtcdStore> {
    let secure = settings.datastore_endpoint.iter().any(|endpoint| endpoint.starts_with("https:"));
    let tls = secure
        .then(|| {
            store_etcd::tls::client(
                settings.datastore_cafile.as_deref(),
                settings.datastore_certfile.as_deref(),
                settings.datastore_keyfile.as_deref(),
            )
        })
        .transpose()?;
    let options =
        store_etcd::Options { tls, ..store_etcd::Options::new(settings.datastore_endpoint.clone(), clock) };
    EtcdStore::new(options).context("the external datastore cannot be used")
}

/// Opens the embedded store in a directory.
pub fn open_embedded(directory: &Path, clock: SharedClock) -> anyhow::Result<Arc<Engine>> {
    open_with(directory, Options::default(), clock)
}

/// Opens the embedded store in a directory, with settings of its own.
pub fn open_with(directory: &Path, options: Options, clock: SharedClock) -> anyhow::Result<Arc<Engine>> {
    Engine::open(directory, options, clock)
        .with_context(|| format!("cannot open the store in {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Given {
        #[command(flatten)]
        server: config::Server,
    }

    /// What is planned with these flags in a data directory with these files.
    fn planned(flags: &[&str], files: &[&str]) -> Result<Plan, String> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "cluster 1\nmember 2\n").unwrap();
        }
        let data_dir = format!("--data-dir={}", folder.path().display());
        let all = ["x", &data_dir].into_iter().chain(flags.iter().copied());
        plan(&Given::try_parse_from(all).unwrap().server).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_is_on_the_disk_comes_before_what_the_flags_say() {
        let (init, server) = ("--cluster-init", "--server=https://a:6443");
        let (reset, external) = ("--cluster-reset", "--datastore-endpoint=http://a:2379");
        let (member, store) = ("raft/member", "store/00000001.wal");
        let as_member = |reset| Ok(Plan::Member { reset });
        for (flags, files, expected) in [
            (&[][..], &[][..], Ok(Plan::Embedded)),
            (&[], &[store], Ok(Plan::Embedded)),
            (&[external], &[], Ok(Plan::External)),
            (&[init], &[], Ok(Plan::Found)),
            (&[init], &[store], Ok(Plan::Found)),
            (&[server], &[], Ok(Plan::Join("https://a:6443".into()))),
            // Said before the cluster takes on a member that could never start.
            (&[server], &["raft/joining", "raft/00000001.wal"], Err("holds the log of a store")),
            (&[server], &["raft/joining"], Ok(Plan::Join("https://a:6443".into()))),
            (&[], &[member], as_member(Reset::No)),
            (&[init], &[member], as_member(Reset::No)),
            (&[server], &[member, store], as_member(Reset::No)),
            (&[reset], &[member], as_member(Reset::Now)),
            (&[reset], &[member, "raft/reset-done"], as_member(Reset::Done)),
            (&[], &[member, "raft/reset-done"], as_member(Reset::No)),
            (&[server], &[store], Err("a cluster of its own")),
            (&[external], &[member], Err("leave out --datastore-endpoint")),
            (&[reset], &[], Err("there is no member")),
            (&[], &["raft/joining"], Err("had begun to join")),
            (&[init], &["raft/joining"], Err("had begun to join")),
            // An empty cluster under the old one's authority would be believed, and what runs would be stopped.
            (&[], &["pki/peer-ca.key"], Err("its part of the store is gone")),
            (&[init], &["pki/peer-ca.key"], Err("its part of the store is gone")),
            (&[init], &["pki/peer-ca.key", store], Ok(Plan::Found)),
            (&[server], &["pki/peer-ca.key"], Ok(Plan::Join("https://a:6443".into()))),
        ] {
            match (planned(flags, files), expected) {
                (Err(said), Err(part)) => assert!(said.contains(part), "{flags:?} {files:?}: {said}"),
                (found, expected) => {
                    assert_eq!(found, expected.map_err(str::to_owned), "{flags:?} {files:?}");
                }
            }
        }
    }
}
