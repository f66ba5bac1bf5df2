//! Saves the store on a schedule, and keeps the latest few of what was saved.
//!
//! Writes `<name>-<node>-<seconds>.db` files to a directory of its own; removes the oldest of them, and nothing else. A
//! save that fails is logged and tried again when the schedule says so. Not here: the file (`etcd::snapshot`).
//!
//! Upstream: the manner is that of k3s' `--etcd-snapshot-*` flags.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use api::cron::Schedule;
use foundation::{SharedClock, Tasks};
use jiff::Timestamp;
use store::Store;

use super::Context;

/// Starts saving, if the settings ask for it.
pub fn start(context: &Context, store: Arc<dyn Store>, tasks: &Tasks) -> anyhow::Result<()> {
    let settings = &context.config.datastore;
    let Some(cron) = &settings.etcd_snapshot_schedule_cron else { return Ok(()) };
    let schedule = Schedule::parse(cron)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("{cron:?} is no schedule"))?;
    let backups = Backups {
        directory: settings
            .etcd_snapshot_dir
            .clone()
            .unwrap_or_else(|| context.config.dirs.data_dir.join("snapshots")),
        prefix: format!("{}-{}-", settings.etcd_snapshot_name, context.node.name),
        retention: settings.etcd_snapshot_retention.max(1),
    };
    let clock = context.clock.clone();
    tasks.spawn_until_cancelled("backups", run(backups, schedule, store, clock));
    Ok(())
}

/// Where backups are, and how many of them.
struct Backups {
    directory: PathBuf,
    prefix: String,
    retention: usize,
}

async fn run(backups: Backups, schedule: Schedule, store: Arc<dyn Store>, clock: SharedClock) {
    let mut last = Timestamp::MIN;
    loop {
        // A clock that is put back a little must not save twice.
        let now = clock.now().max(last);
        let Some(due) = schedule.next(now) else {
            tracing::warn!("the schedule of backups never comes about");
            return;
        };
        clock.sleep(due.duration_since(now).unsigned_abs()).await;
        last = due;
        let name = format!("{}{}.db", backups.prefix, due.as_second());
        let file = backups.directory.join(name);
        match backups.save(&*store, &file).await {
            Ok(revision) => tracing::info!(file = %file.display(), revision, "saved the store"),
            Err(error) => tracing::error!(error = format!("{error:#}"), "the store could not be saved"),
        }
    }
}

impl Backups {
    async fn save(&self, store: &dyn Store, file: &Path) -> anyhow::Result<u64> {
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        let saved = crate::store_commands::save(store, file).await?;
        self.forget()?;
        Ok(saved.revision)
    }

    /// Removes the oldest backups of this node beyond what is kept.
    fn forget(&self) -> anyhow::Result<()> {
        let problem = || format!("cannot clean up {}", self.directory.display());
        let mut found: Vec<(u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.directory).with_context(problem)? {
            let path = entry.with_context(problem)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let rest = name.strip_prefix(&self.prefix);
            let of = |suffix| rest.and_then(|rest| rest.strip_suffix(suffix));
            if of(".db.part").is_some_and(|time| time.parse::<u64>().is_ok()) {
                // Of a save that this node was stopped in: it makes one at a time, and that is done.
                std::fs::remove_file(&path).with_context(problem)?;
                continue;
            }
            let time = of(".db");
            if let Some(time) = time.and_then(|time| time.parse().ok()) {
                found.push((time, path));
            }
        }
        found.sort();
        let superfluous = found.len().saturating_sub(self.retention);
        for (_, path) in found.drain(..superfluous) {
            std::fs::remove_file(&path).with_context(problem)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::write(directory.path().join(name), "").unwrap();
        for name in
            ["s-n-9.db", "s-n-10.db", "s-n-11.db", "s-n-x.db", "s-other-1.db", "notes", "s-n-8.db.part"]
        {
            make(name);
        }
        let backups =
            Backups { directory: directory.path().to_owned(), prefix: "s-n-".to_owned(), retention: 2 };
        backups.forget().unwrap();
        let mut left: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["notes", "s-n-10.db", "s-n-11.db", "s-n-x.db", "s-other-1.db"]);
    }

    #[tokio::test]
    async fn it_saves_when_it_is_time_and_keeps_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let clock = foundation::ManualClock::new(Timestamp::UNIX_EPOCH);
        let shared: SharedClock = Arc::new(clock.clone());
        let engine = store::embedded::Engine::open(folder.path().join("store"), Default::default(), shared);
        let store: Arc<dyn Store> = engine.unwrap();
        let directory = folder.path().join("saved");
        let backups = Backups { directory: directory.clone(), prefix: "s-n-".to_owned(), retention: 2 };
        let schedule = Schedule::parse("*/5 * * * *").unwrap();
        let saving = tokio::spawn(run(backups, schedule, store.clone(), Arc::new(clock.clone())));
        for round in 1..=4 {
            let put = store::Op::put("key", round.to_string());
            store.txn(store::Txn::of(vec![put])).await.unwrap();
            clock.wait_for_sleepers(1).await;
            clock.advance(std::time::Duration::from_secs(299));
            assert!(!directory.join(format!("s-n-{}.db", round * 300)).exists(), "it is not time yet");
            clock.advance(std::time::Duration::from_secs(1));
            // It sleeps again once it has saved.
            clock.wait_for_sleepers(1).await;
        }
        saving.abort();
        let mut left: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["s-n-1200.db", "s-n-900.db"]);
        for (name, value) in [("s-n-900.db", "3"), ("s-n-1200.db", "4")] {
            let mut file = std::fs::File::open(directory.join(name)).unwrap();
            let saved = etcd::snapshot::read(&mut file).unwrap();
            assert_eq!(saved.keys()[0].value, value);
        }
    }
}
