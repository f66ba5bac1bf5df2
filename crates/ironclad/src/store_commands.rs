//! `ironclad store`: what an operator does with a store.
//!
//! Works on a running store through the etcd v3 API (`--endpoints`, ours or an etcd's), or on a stopped one in its
//! directory (`--data-dir`), which is locked meanwhile: one that a server kept alone, or a member of several servers'. A
//! stopped one is only read, and none of its files changes, by all but `compact`. Prints what was found; `snapshot restore`
//! makes a new store. Not here: the file format (`etcd::snapshot`); what of a member's log counts (`store_raft::look`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use etcd::snapshot;
use foundation::SystemClock;
use store::embedded::check::{Owner, check};
use store::embedded::view::View;
use store::{Range, Store};

use crate::roles;

/// What to do with a store.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Save, look at and restore backups
    Snapshot {
        #[command(subcommand)]
        command: Snapshot,
    },
    /// Read everything and check that it makes sense: the files, also under a running server, and the keys
    Verify(Target),
    /// Forget the past, and give its room back
    Compact(Target),
    /// Print every key, with its revisions and the size of its value
    Dump(Dump),
    /// Print where the store stands
    Stats(Target),
}

/// What to do with a backup.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Snapshot {
    /// Save the store as of now; works while it is written to
    Save {
        /// File to make
        file: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Make a new store of a backup: of this program's, of etcdctl's, or of a copy of etcd's own database
    Restore {
        /// File to read
        file: PathBuf,
        /// Data directory of the new cluster, which has no store yet
        #[arg(long, env = "IRONCLAD_DATA_DIR", default_value = "/var/lib/ironclad", value_name = "DIR")]
        data_dir: PathBuf,
        /// How far the revision jumps, so that nobody takes the new store's past for the old one's
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
        bump_revision: u64,
    },
    /// Print what a backup holds
    Status {
        /// File to read
        file: PathBuf,
    },
}

/// Which store.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// URLs of a running store: a server's --etcd-listen, or an etcd
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub endpoints: Vec<String>,
    /// Authorities that its certificate may come from. Without this and --cert, the files of the server in --data-dir are
    /// used, if there are any, else the system's authorities
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Certificate to show
    #[arg(long, requires = "key", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, requires = "cert", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Data directory of a server that is stopped
    #[arg(long, env = "IRONCLAD_DATA_DIR", default_value = "/var/lib/ironclad", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Settings of `dump`.
#[derive(Clone, Debug, clap::Args)]
pub struct Dump {
    #[command(flatten)]
    target: Target,
    /// Only keys that start with this
    #[arg(long, default_value = "", value_name = "TEXT")]
    prefix: String,
    /// Also print the values
    #[arg(long)]
    values: bool,
}

/// Keys read at once.
const PAGE: usize = 4096;

/// Does it.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Snapshot { command } => snapshots(command).await,
        Command::Verify(target) => verify(&target).await,
        Command::Compact(target) => compact_target(&target).await,
        Command::Dump(options) => dump(&*open(&options.target).await?, &options).await,
        Command::Stats(target) => stats(&*open(&target).await?).await,
    }
}

/// The running store that the endpoints are of.
fn reach(target: &Target) -> anyhow::Result<Arc<dyn Store>> {
    let mut options = store_etcd::Options::new(target.endpoints.clone(), SystemClock::shared());
    if target.endpoints.iter().any(|endpoint| endpoint.starts_with("https:")) {
        let files = [&target.cacert, &target.cert, &target.key];
        let pki = target.data_dir.join("pki");
        let own = ["ca.crt", "admin.crt", "admin.key"].map(|file| pki.join(file));
        let named = files.iter().any(|file| file.is_some());
        let [cacert, cert, key] = match own.iter().all(|file| file.exists()) && !named {
            true => own.each_ref().map(|file| Some(file.as_path())),
            false => files.map(|file| file.as_deref()),
        };
        options.tls = Some(store_etcd::tls::client(cacert, cert, key)?);
    }
    Ok(Arc::new(store_etcd::EtcdStore::new(options)?))
}

/// Where a stopped store is, and whose.
fn place(target: &Target) -> anyhow::Result<(PathBuf, Owner)> {
    let member = roles::store::member_directory(&target.data_dir);
    let (directory, owner) = match member.join("member").exists() {
        true => (member, Owner::Replica),
        false => (roles::store::directory(&target.data_dir), Owner::Engine),
    };
    if !directory.is_dir() {
        // Opening would make one.
        bail!("there is no store in {}; name it with --data-dir or --endpoints", directory.display());
    }
    Ok((directory, owner))
}

const RUNNING: &str = "a running server's is reached by --endpoints, once it has --etcd-listen";

/// A store to be read: a running one, or what the files of a stopped one hold.
async fn open(target: &Target) -> anyhow::Result<Arc<dyn Store>> {
    if !target.endpoints.is_empty() {
        return reach(target);
    }
    let (directory, owner) = place(target)?;
    let shown = directory.display().to_string();
    let looked = tokio::task::spawn_blocking(move || -> Result<Arc<dyn Store>, store::Error> {
        if owner == Owner::Engine {
            return Ok(Arc::new(View::of_engine(&directory)?));
        }
        let looked = store_raft::look(&directory)?;
        let left_out = match looked.left_out {
            0 => String::new(),
            count => format!(
                "; {count} later ones are left out, of which only the other members know whether they were agreed on: \
                 among them may be what was acknowledged last"
            ),
        };
        // Not among what was asked for, which may go into another program.
        eprintln!(
            "ironclad: this is what the member knows to be agreed on, up to entry {} of its log{left_out}",
            looked.index
        );
        Ok(Arc::new(looked.view))
    });
    let looked = looked.await.context("reading the store was lost")?;
    looked.with_context(|| format!("cannot read the store in {shown}")).context(RUNNING)
}

/// Compacts a running store, or a stopped one that nobody else has a say in.
async fn compact_target(target: &Target) -> anyhow::Result<()> {
    if !target.endpoints.is_empty() {
        return compact(&*reach(target)?).await;
    }
    let (directory, owner) = place(target)?;
    let clock = SystemClock::shared();
    if owner == Owner::Engine {
        return compact(&*roles::store::open_embedded(&directory, clock).context(RUNNING)?).await;
    }
    let member = roles::store::member::open_alone(&target.data_dir, clock).await.context(RUNNING)?;
    let compacted = compact(&*member).await;
    tokio::task::spawn_blocking(move || member.shutdown()).await.context("closing the store was lost")?;
    compacted
}

/// What a member has is one of several copies, in a form of its own, and no command of one's own is to change it.
fn refuse_member(data_dir: &Path, hint: &str) -> anyhow::Result<()> {
    let directory = roles::store::member_directory(data_dir);
    if directory.join("member").exists() {
        bail!("the store in {} is one that several servers keep together: {hint}", directory.display());
    }
    Ok(())
}

/// Prints a line; a reader that has gone away ends the program in order.
fn say(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot print")
}

async fn snapshots(command: Snapshot) -> anyhow::Result<()> {
    match command {
        Snapshot::Save { file, target } => {
            let store = open(&target).await?;
            let saved = save(&*store, &file).await?;
            say(format_args!(
                "saved revision {} with {} keys to {}",
                saved.revision,
                saved.keys,
                file.display()
            ))
        }
        Snapshot::Restore { file, data_dir, bump_revision } => {
            let hint = "restore into an empty data directory, and start it with --cluster-init";
            refuse_member(&data_dir, hint)?;
            let contents = read(&file)?;
            let revision = contents.revision() + bump_revision;
            let directory = roles::store::directory(&data_dir);
            let (keys, leases) = (contents.keys().len(), contents.leases().collect::<Vec<_>>());
            std::fs::create_dir_all(&data_dir)
                .with_context(|| format!("cannot make {}", data_dir.display()))?;
            store::embedded::restore(
                &directory,
                &store::embedded::Options::default(),
                revision,
                contents.into_keys(),
                leases.into_iter(),
            )
            .with_context(|| format!("cannot restore into {}", directory.display()))?;
            say(format_args!(
                "restored {keys} keys to {}, which goes on from revision {revision}",
                directory.display()
            ))
        }
        Snapshot::Status { file } => {
            let contents = read(&file)?;
            let bytes: usize = contents.keys().iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            say(format_args!("revision  {}", contents.revision()))?;
            say(format_args!("keys      {}", contents.keys().len()))?;
            say(format_args!("leases    {}", contents.leases().count()))?;
            say(format_args!("bytes     {bytes}"))
        }
    }
}

/// What was saved.
pub struct Saved {
    /// The revision it is as of.
    pub revision: u64,
    keys: usize,
}

/// Saves a store. The file is there whole, or not at all; so much room again is taken beside it meanwhile.
pub async fn save(store: &dyn Store, file: &Path) -> anyhow::Result<Saved> {
    let gathered = snapshot::gather(store, Some(parent(file))).await;
    let gathered = gathered.with_context(|| format!("the store cannot be saved to {}", file.display()))?;
    let saved = Saved { revision: gathered.revision(), keys: gathered.keys() };
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || write(&gathered, &file)).await.context("the save was lost")??;
    Ok(saved)
}

/// The directory that a file is in.
fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write(gathered: &snapshot::Gathered, file: &Path) -> anyhow::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let written = write_part(gathered, &part).and_then(|()| {
        std::fs::rename(&part, file).with_context(|| format!("cannot rename {}", part.display()))
    });
    if written.is_err() {
        // What is wrong has been found; a rest that cannot be removed either is overwritten by the next save.
        let _ = std::fs::remove_file(&part);
    }
    written?;
    let parent = parent(file);
    let synced = std::fs::File::open(parent).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot sync {}", parent.display()))
}

fn write_part(gathered: &snapshot::Gathered, part: &Path) -> anyhow::Result<()> {
    let problem = || format!("cannot write {}", part.display());
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    // It holds every Secret.
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(part).with_context(problem)?;
    gathered.write(&mut out).with_context(problem)?;
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<snapshot::Contents> {
    let problem = || format!("cannot read {}", file.display());
    let mut input = std::fs::File::open(file).with_context(problem)?;
    snapshot::read(&mut input).with_context(problem)
}

/// Every key as of one revision, a page at a time.
async fn pages(
    store: &dyn Store,
    prefix: &str,
    keys_only: bool,
    mut page: impl FnMut(Vec<store::KeyValue>) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let all = Range::prefix(Bytes::copy_from_slice(prefix.as_bytes()));
    let (mut start, revision) = (all.start, store.revision().await?);
    loop {
        let range =
            Range { start, end: all.end.clone(), revision, limit: PAGE, keys_only, ..Range::default() };
        let found = store.range(Range { uncounted: true, ..range }).await?;
        let last = found.kvs.last().filter(|_| found.more).map(|kv| kv.key.clone());
        page(found.kvs)?;
        match last {
            Some(key) => start = etcd::convert::range_end(&key, &Bytes::new()),
            None => return Ok(revision),
        }
    }
}

async fn verify(target: &Target) -> anyhow::Result<()> {
    if !target.endpoints.is_empty() {
        verify_keys(&*reach(target)?).await?;
        let where_to = "`ironclad store verify --data-dir` on the server's machine reads them";
        return say(format_args!("this is what it has in memory; its files were not read: {where_to}"));
    }
    let (directory, owner) = place(target)?;
    let checked = tokio::task::spawn_blocking(move || check(&directory, owner)).await;
    let checked = checked.context("the check was lost")?.context("the store's files are not sound")?;
    let torn = match &checked.torn {
        None => String::new(),
        Some((path, offset)) => {
            format!(" but for a write that was not done, at {offset} of {}", path.display())
        }
    };
    say(format_args!(
        "a checkpoint of {} bytes and {} segments of {} bytes: sound{torn}",
        checked.checkpoint_bytes, checked.segments, checked.log_bytes
    ))?;
    match open(target).await {
        Ok(store) => verify_keys(&*store).await,
        Err(error) if matches!(error.downcast_ref(), Some(store::Error::Locked { .. })) => {
            say(format_args!("a running server has it open: its keys are looked at by --endpoints"))
        }
        Err(error) => Err(error),
    }
}

async fn verify_keys(store: &dyn Store) -> anyhow::Result<()> {
    let (mut keys, mut bytes, mut problems) = (0, 0, Vec::new());
    let mut last = Bytes::new();
    let revision = pages(store, "", false, |page| {
        for kv in page {
            (keys, bytes) = (keys + 1, bytes + kv.key.len() + kv.value.len());
            let name = String::from_utf8_lossy(&kv.key);
            if kv.key <= last {
                problems.push(format!("{name} is out of order"));
            }
            if kv.version == 0 || kv.create_revision == 0 || kv.create_revision > kv.mod_revision {
                problems.push(format!("{name} has impossible revisions"));
            }
            last = kv.key;
        }
        Ok(())
    })
    .await?;
    let counted = store.range(Range { count_only: true, ..Range::prefix("").at(revision) }).await?.count;
    if counted != keys {
        problems.push(format!("{counted} keys are counted and {keys} found"));
    }
    if !problems.is_empty() {
        bail!("the store contradicts itself: {}", problems.join("; "));
    }
    say(format_args!("{keys} keys with {bytes} bytes at revision {revision}: all sound"))
}

async fn compact(store: &dyn Store) -> anyhow::Result<()> {
    let revision = store.revision().await?;
    match store.compact(revision).await {
        Ok(()) => {}
        // There was nothing since.
        Err(store::Error::Compacted { .. }) => {}
        Err(error) => return Err(error).context("the store cannot be compacted"),
    }
    store.defragment().await.context("the room cannot be given back")?;
    let status = store.status().await?;
    say(format_args!("compacted at revision {revision}; {} bytes on disk", status.db_size))
}

async fn dump(store: &dyn Store, options: &Dump) -> anyhow::Result<()> {
    pages(store, &options.prefix, false, |page| {
        for kv in page {
            let key = String::from_utf8_lossy(&kv.key);
            say(format_args!(
                "{key} made {} written {} version {} lease {:x} bytes {}",
                kv.create_revision,
                kv.mod_revision,
                kv.version,
                kv.lease,
                kv.value.len()
            ))?;
            if options.values {
                say(format_args!("  {}", String::from_utf8_lossy(&kv.value)))?;
            }
        }
        Ok(())
    })
    .await
    .map(drop)
}

async fn stats(store: &dyn Store) -> anyhow::Result<()> {
    let status = store.status().await?;
    say(format_args!("revision          {}", status.revision))?;
    say(format_args!("compact revision  {}", status.compact_revision))?;
    say(format_args!("keys              {}", status.keys))?;
    say(format_args!("leases            {}", status.leases))?;
    say(format_args!("live bytes        {}", status.live_bytes))?;
    say(format_args!("history bytes     {}", status.history_bytes))?;
    say(format_args!("bytes on disk     {}", status.db_size))?;
    say(format_args!("alarm             {}", status.alarm.as_deref().unwrap_or("none")))
}
