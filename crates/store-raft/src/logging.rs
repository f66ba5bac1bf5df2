//! What the consensus library has to say, in the program's own log.
//!
//! Its information is of interest to who looks for a fault in it only, and so are its warnings: they come as `debug`.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

struct Tracing;

impl Drain for Tracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            Level::Critical | Level::Error => tracing::error!("raft: {}", record.msg()),
            _ => tracing::debug!("raft: {}", record.msg()),
        }
        Ok(())
    }
}

pub(crate) fn logger() -> Logger {
    Logger::root(Tracing, o!())
}
