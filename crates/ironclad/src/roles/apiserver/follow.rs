//! Takes files of settings into use whenever they change.
//!
//! Watches first and reads then, so that no change falls in between. A file that cannot be used leaves everything as it
//! was; a watch that breaks (its directory was replaced) is made anew.
//! Not here: what the files mean, how changes are seen (`file_watch`).
//! Upstream: the `…/dynamic…` controllers of apiserver, `metrics` of `authenticationconfig`, `encryptionconfig`, ….

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use foundation::{SharedClock, Tasks};

use crate::file_watch::FileWatch;

/// How long to wait before a watch that broke is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Settings that are read again: what they are called, and upstream's metric of how that went, where it has one.
pub type Followed = (&'static str, Option<&'static str>);
/// `--encryption-provider-config`.
pub const ENCRYPTION: Followed =
    ("encryption", Some("apiserver_encryption_config_controller_automatic_reloads_total"));
/// `--authentication-config`.
pub const AUTHENTICATION: Followed =
    ("authentication", Some("apiserver_authentication_config_controller_automatic_reloads_total"));
/// `--authorization-config`.
pub const AUTHORIZATION: Followed =
    ("authorization", Some("apiserver_authorization_config_controller_automatic_reloads_total"));
/// `--tls-cert-file` and `--tls-sni-cert-key`.
pub const SERVING_CERTIFICATES: Followed = ("serving certificates", None);

/// `--cert-file` of `ironclad etcd`.
pub const ETCD_CERTIFICATE: Followed = ("certificate of the etcd API", None);
/// `staticManifestsDir`; who takes them counts that by plugin.
pub const MANIFESTS: Followed = ("admission manifests", None);

/// Calls `reload` whenever one of the files changes.
pub fn follow(
    what: Followed,
    files: &[PathBuf],
    clock: &SharedClock,
    tasks: &Tasks,
    reload: impl Fn() -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let named = files.to_vec();
    let content = move || named.iter().map(|path| std::fs::read(path).ok()).collect::<Option<Vec<_>>>();
    follow_content(what, files, content, clock, tasks, reload)
}

/// Calls `reload` whenever a file in `directory` changes, comes or goes.
pub fn follow_directory(
    what: Followed,
    directory: &Path,
    clock: &SharedClock,
    tasks: &Tasks,
    reload: impl Fn() -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let at = directory.to_owned();
    let content = move || {
        let mut files: Vec<_> = std::fs::read_dir(&at).ok()?.flatten().map(|entry| entry.path()).collect();
        files.sort_unstable();
        // What cannot be read (a directory, a file that just went) is not told apart from nothing.
        let read =
            |path: PathBuf| [path.as_os_str().as_bytes().to_vec(), std::fs::read(&path).unwrap_or_default()];
        Some(files.into_iter().flat_map(read).collect::<Vec<_>>())
    };
    // Any name will do: what is watched is the directory that it would be in.
    follow_content(what, &[directory.join("any")], content, clock, tasks, reload)
}

fn follow_content(
    (what, metric): Followed,
    files: &[PathBuf],
    read: impl Fn() -> Option<Vec<Vec<u8>>> + Send + Sync + 'static,
    clock: &SharedClock,
    tasks: &Tasks,
    reload: impl Fn() -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let mut changes = FileWatch::new(files)?;
    let reloads = metric.map(|metric| {
        foundation::metrics::registry().counter(
            metric,
            "Number of times that a changed file of settings was taken into use, or could not be.",
            &["status"],
        )
    });
    let (files, clock) = (files.to_vec(), clock.clone());
    tasks.spawn_until_cancelled("configuration", async move {
        // They were read before they were watched, so they are read once more.
        let mut known = None;
        loop {
            let content = read();
            // Other files of the directory change too, and what was learnt under the same settings is worth keeping.
            if content.is_some() && content != known {
                let outcome = reload();
                if let Some(reloads) = &reloads
                    && (known.is_some() || outcome.is_err())
                {
                    reloads.with(&[if outcome.is_ok() { "success" } else { "failure" }]).inc();
                }
                if let Err(error) = outcome {
                    tracing::error!(
                        error = format!("{error:#}"),
                        what,
                        "the configuration is left as it was"
                    );
                }
                known = content;
            }
            // What happened before there is a new watch was not seen; the files are read after this in any case.
            if let Err(error) = changes.changed().await {
                tracing::warn!(%error, what, "changes of the configuration are not seen, watching anew");
                changes = loop {
                    match FileWatch::new(&files) {
                        Ok(watch) => break watch,
                        Err(_) => clock.sleep(AGAIN).await,
                    }
                };
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foundation::ManualClock;

    use super::*;

    #[tokio::test]
    async fn a_directory_that_was_replaced_is_followed_on() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, aside) = (folder.path().join("settings"), folder.path().join("aside"));
        let file = directory.join("file");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(&file, "1").unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let manual = ManualClock::default();
        let clock: SharedClock = Arc::new(manual.clone());
        let tasks = Tasks::new("test");
        let path = file.clone();
        follow(SERVING_CERTIFICATES, &[file.clone()], &clock, &tasks, move || {
            tell.send(std::fs::read_to_string(&path).unwrap_or_default())?;
            Ok(())
        })
        .unwrap();
        assert_eq!(told.recv().await.as_deref(), Some("1"));
        std::fs::write(&file, "2").unwrap();
        // Emptied and written: what is seen first may be the one or the other.
        while told.recv().await.as_deref() != Some("2") {}
        std::fs::create_dir(&aside).unwrap();
        std::fs::write(aside.join("file"), "3").unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::rename(&aside, &directory).unwrap();
        loop {
            tokio::select! {
                found = told.recv() => if found.as_deref() == Some("3") { break },
                () = tokio::task::yield_now() => manual.advance(AGAIN),
            }
        }
        tasks.shutdown(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn files_that_come_and_go_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let clock: SharedClock = Arc::new(ManualClock::default());
        let tasks = Tasks::new("test");
        let path = folder.path().to_owned();
        let names = move || {
            let mut names: Vec<_> =
                std::fs::read_dir(&path).unwrap().map(|one| one.unwrap().file_name()).collect();
            names.sort();
            names
        };
        follow_directory(MANIFESTS, folder.path(), &clock, &tasks, move || Ok(tell.send(names())?)).unwrap();
        assert_eq!(told.recv().await.unwrap().len(), 0);
        for (name, there) in [("a", true), ("b", true), ("a", false)] {
            let file = folder.path().join(name);
            match there {
                true => std::fs::write(&file, name).unwrap(),
                false => std::fs::remove_file(&file).unwrap(),
            }
            while told.recv().await.unwrap().iter().any(|known| known == name) != there {}
        }
        tasks.shutdown(Duration::from_secs(10)).await;
    }
}
