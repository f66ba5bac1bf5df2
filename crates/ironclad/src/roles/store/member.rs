//! The store of this server as one of several: how its member is made, joins, is reset, and is opened.
//!
//! Reads and writes `<data-dir>/raft`. While a server joins, the file `joining` in it holds the id that it asks with, so
//! that one that is cut off asks again as the same member. The store that a server kept alone before stays, under another
//! name, when it becomes the first of several. Not here: the consensus (`store_raft`), the keys (`join`, `pki`).
//!
//! **Reset once.** A flag stays in settings files. What `--cluster-reset` has done is noted beside the member, and a start
//! without the flag takes the note away: a server that is restarted with it does not throw out who has joined meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use foundation::{Clock, SharedClock};
use pki::Leaf;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use store::Store;
use store_raft::transport::Nowhere;
use store_raft::transport::tls::{PROTOCOL, Security, TlsTransport, ask_to_join};
use store_raft::{Identity, Member, Options, RaftStore};
use tokio::net::TcpListener;

use super::{Plan, Reset, directory, member_directory};
use crate::join::HandedOver;
use crate::roles::Context;
use crate::roles::apiserver::Current;

/// What the store that a server kept alone is called once it is the content of a cluster.
const BEFORE: &str = "store-before-cluster";
/// How long a member that votes alone may take until it leads: many times what an election takes.
const ALONE: Duration = Duration::from_secs(30);

fn joining_file(data_dir: &Path) -> PathBuf {
    member_directory(data_dir).join("joining")
}

fn reset_file(data_dir: &Path) -> PathBuf {
    member_directory(data_dir).join("reset-done")
}

/// Whether a server has begun to join and not come to the end.
pub fn is_joining(data_dir: &Path) -> bool {
    joining_file(data_dir).exists()
}

/// Whether `--cluster-reset` has been carried out, and the member not been started without it since.
pub fn was_reset(data_dir: &Path) -> bool {
    reset_file(data_dir).exists()
}

/// Notes that this server is about to join, before it writes any key. Gives the id that it asks with.
pub fn begin_to_join(data_dir: &Path, random: u64) -> anyhow::Result<u64> {
    let file = joining_file(data_dir);
    let known = fs::read_to_string(&file).ok();
    let known = known.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    if let Some(id) = known.filter(|id| *id != 0) {
        return Ok(id);
    }
    let id = random.max(1);
    let directory = member_directory(data_dir);
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&file, format!("{id:016x}\n")))
        .and_then(|()| fs::File::open(&file)?.sync_all())
        .and_then(|()| fs::File::open(&directory)?.sync_all())
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(id)
}

/// Makes the member, if there is none yet, and starts it. Does not wait for the others.
pub async fn open(
    context: &Context,
    plan: &Plan,
    handed: Option<HandedOver>,
) -> anyhow::Result<Arc<RaftStore>> {
    let data_dir = context.config.dirs.data_dir.clone();
    let (listen, reached) = context.config.cluster.peer_addresses(context.node.ip);
    let listener = match TcpListener::bind(listen).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!(
                "{listen} is taken by another program; choose another for the other servers with --peer-listen"
            )
        }
        other => other.with_context(|| format!("cannot listen on {listen} for the other servers"))?,
    };
    let options = Options::new(context.node.name.clone(), reached.to_string());
    match (plan, handed) {
        (Plan::Join(server), Some(handed)) => join(context, server, &handed, &options).await?,
        (Plan::Found, _) => found(&data_dir, &options).await?,
        (Plan::Member { reset }, _) => prepare(&data_dir, *reset, &options).await?,
        _ => bail!("a server cannot join without the keys of its cluster"),
    }
    set_old_store_aside(&data_dir);
    let directory = member_directory(&data_dir);
    let identity = Identity::load(&directory)?.context("there is no member in the data directory")?;
    let security = security(context, identity.member)?;
    let clock = context.clock.clone();
    let opened = tokio::task::spawn_blocking(move || {
        RaftStore::open(&directory, options, clock, |identity, inward| {
            TlsTransport::start(identity, reached.to_string(), listener, security, inward)
        })
    });
    opened.await.context("opening the store was cut off")?.context("cannot open the member of the store")
}

/// Opens a member that votes alone, for an operator, while no server does. Others that only learn get to know later.
///
/// # Errors
/// What is wrong with its files; that others vote; why it cannot write, which it must to lead.
pub async fn open_alone(data_dir: &Path, clock: SharedClock) -> anyhow::Result<Arc<RaftStore>> {
    let directory = member_directory(data_dir);
    let time = clock.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let looked = store_raft::look(&directory)?;
        if !looked.alone {
            bail!(
                "the store in {} is one that several servers keep together, and they forget together: ask a running one, by \
                 --endpoints",
                directory.display()
            );
        }
        // As it is recorded, so that opening it changes nothing of that.
        let options = Options::new(looked.member.name.clone(), looked.member.address.clone());
        drop(looked);
        Ok(RaftStore::open(&directory, options, clock, |_, _| Arc::new(Nowhere))?)
    });
    let store = opened.await.context("opening the store was cut off")??;
    leads(&*store, &*time, store.joined()).await?;
    Ok(store)
}

/// Waits until a member leads, but not for ever: one whose disk refuses tries again and again.
async fn leads(
    store: &dyn Store,
    clock: &dyn Clock,
    joined: impl Future<Output = Result<(), store::Error>>,
) -> anyhow::Result<()> {
    tokio::select! {
        joined = joined => return Ok(joined?),
        () = clock.sleep(ALONE) => {}
    }
    match store.status().await?.alarm {
        Some(alarm) => bail!("the store does not begin to write: {alarm}"),
        None => bail!("the store does not begin to write within {ALONE:?}"),
    }
}

async fn found(data_dir: &Path, options: &Options) -> anyhow::Result<()> {
    let (own, directory, options) = (directory(data_dir), member_directory(data_dir), options.clone());
    let made = tokio::task::spawn_blocking(move || {
        let has_store = fs::read_dir(&own).is_ok_and(|mut entries| entries.next().is_some());
        RaftStore::found(&directory, &options, has_store.then_some(own.as_path()))
    });
    made.await.context("making the first member was cut off")?.context("cannot make the first member")?;
    Ok(())
}

async fn join(context: &Context, server: &str, handed: &HandedOver, options: &Options) -> anyhow::Result<()> {
    let data_dir = &context.config.dirs.data_dir;
    RaftStore::can_join(&member_directory(data_dir))?;
    let id = begin_to_join(data_dir, context.randomness.u64())?;
    let member = Member { id, name: options.name.clone(), address: options.address.clone() };
    let security = security(context, id)?;
    let mut refused = Vec::new();
    for address in &handed.members {
        match ask_to_join(&security, address, &member).await {
            Ok(identity) => {
                RaftStore::join(&member_directory(data_dir), identity)?;
                fs::remove_file(joining_file(data_dir)).context("cannot end the joining")?;
                return Ok(());
            }
            Err(error) => refused.push(format!("{address}: {error}")),
        }
    }
    bail!("no member of the cluster of {server} takes on this one: {}", refused.join("; "))
}

/// Refuses a data directory that cannot get a member, before a cluster has taken that member on.
///
/// # Errors
/// The log that is in the way; a directory that cannot be read.
pub fn refuse_a_log(data_dir: &Path) -> anyhow::Result<()> {
    let directory = member_directory(data_dir);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    let mut names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    if let Some(log) = names.find(|name| name.ends_with(".wal")) {
        bail!(
            "{} holds the log of a store that is no member's ({log}): move it away, or join with an empty data directory",
            directory.display()
        );
    }
    Ok(())
}

/// Before a member is opened that was made before.
async fn prepare(data_dir: &Path, reset: Reset, options: &Options) -> anyhow::Result<()> {
    // Of a joining that was cut off in its last step.
    remove_if_there(&joining_file(data_dir))?;
    let done = reset_file(data_dir);
    match reset {
        Reset::No => remove_if_there(&done),
        Reset::Done => {
            tracing::warn!(
                "--cluster-reset has been carried out already and is passed over: start without it"
            );
            Ok(())
        }
        Reset::Now => {
            let (directory, options) = (member_directory(data_dir), options.clone());
            let reset = tokio::task::spawn_blocking(move || store_raft::reset(&directory, &options));
            reset.await.context("the reset was cut off")?.context("the member cannot go on alone")?;
            // On the disk, as the reset is: done again it would throw out who has joined meanwhile.
            Ok(pki::write_private(&done, "")?)
        }
    }
}

/// What a person has to know and do after a reset.
pub fn after_reset(data_dir: &Path) -> String {
    let (raft, token) = (member_directory(Path::new("<data-dir>")), pki::Tokens::server_file(data_dir));
    format!(
        "\nThis server goes on alone, with what it had. Start it without --cluster-reset from now on.\n\
         On each of the other servers: stop it, remove {}, and start it with --server and the token in {}.\n",
        raft.display(),
        token.display()
    )
}

fn remove_if_there(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// The store that this server kept alone is out of date from now on. It must not be mistaken for the cluster's.
fn set_old_store_aside(data_dir: &Path) {
    let (own, before) = (directory(data_dir), data_dir.join(BEFORE));
    if own.exists()
        && let Err(error) = fs::rename(&own, &before)
    {
        tracing::warn!(%error, store = %own.display(), "the store from before the cluster is still there; it is out of date");
    }
}

/// How this member and the others prove themselves to each other: by certificates of the members' authority alone.
fn security(context: &Context, member: u64) -> anyhow::Result<Security> {
    let (pki, now) = (&context.pki, context.clock.now());
    let leaf = Leaf::Peer { member };
    // Made now, so that a fault in it is told at the start. Renewed ones are taken into use with the next connection.
    pki.credential(leaf, now)?;
    let mut roots = RootCertStore::empty();
    let authority = pki.peer_authority(now)?.certificate().der().to_vec();
    roots.add(authority.into()).context("the members' authority cannot be used")?;
    let roots = Arc::new(roots);
    let current = Arc::new(Current(context.clone(), leaf));
    let provider = foundation::tls::provider();
    let mut client = foundation::tls::client()
        .with_root_certificates(roots.clone())
        .with_client_cert_resolver(current.clone());
    let members = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .context("members cannot be verified")?;
    let mut server = foundation::tls::server().with_client_cert_verifier(members).with_cert_resolver(current);
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Security { client: Arc::new(client), server: Arc::new(server) })
}

/// Why writes are refused, if they are: nobody leads, or the disk refuses. What `/readyz` is asked for.
pub fn check(store: &RaftStore) -> Result<(), String> {
    use futures::FutureExt as _;
    // It is at hand: nothing is waited for.
    match store.status().now_or_never() {
        Some(Ok(status)) => status.alarm.map_or(Ok(()), Err),
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_cut_off_while_joining_asks_again_as_the_same_member() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_joining(folder.path()));
        assert_eq!(begin_to_join(folder.path(), 0xab).unwrap(), 0xab);
        assert!(is_joining(folder.path()));
        assert_eq!(begin_to_join(folder.path(), 0xcd).unwrap(), 0xab);
        fs::write(joining_file(folder.path()), "torn").unwrap();
        assert_eq!(begin_to_join(folder.path(), 0).unwrap(), 1, "nobody is 0");
    }

    #[test]
    fn a_members_certificate_has_the_names_that_the_transport_looks_for() {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        let settings = pki::Settings { dir: folder.path().join("pki"), ..pki::Settings::default() };
        let pki = pki::Pki::open(settings, now).unwrap();
        let chain = pki.credential(Leaf::Peer { member: 0xab }, now).unwrap().chain();
        assert!(store_raft::transport::tls::vouches_for(&chain[0], 0xab));
        assert!(!store_raft::transport::tls::vouches_for(&chain[0], 0xac));
        assert_eq!(pki::PEER_NAME, store_raft::transport::tls::MEMBER);
    }

    #[tokio::test]
    async fn a_member_that_does_not_come_to_lead_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let clock = foundation::ManualClock::new("2026-11-22T10:00:00Z".parse().unwrap());
        let shared: SharedClock = Arc::new(clock.clone());
        let store = store::embedded::Engine::open(folder.path(), Default::default(), shared).unwrap();
        leads(&*store, &clock, async { Ok(()) }).await.unwrap();
        let (error, ()) = tokio::join!(leads(&*store, &clock, std::future::pending()), async {
            tokio::task::yield_now().await;
            clock.advance(ALONE);
        });
        assert!(error.unwrap_err().to_string().contains("does not begin to write"));
    }
}
