//! The store: opens the embedded engine in `<data-dir>/store`.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use foundation::SharedClock;
use store::embedded::{Engine, Options};

/// Opens the store.
pub fn open(data_dir: &Path, clock: SharedClock) -> anyhow::Result<Arc<Engine>> {
    let directory = data_dir.join("store");
    Engine::open(&directory, Options::default(), clock)
        .with_context(|| format!("cannot open the store in {}", directory.display()))
}
