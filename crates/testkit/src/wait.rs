//! Waiting for something that another process brings about: looks again and again until it is so, or a deadline passes.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take on a busy two-core machine before the test calls it broken.
pub const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(50);

/// Looks until there is a value; panics with what was last seen when [`PATIENCE`] is over.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => {
                panic!("{what}: not within {} s; last seen: {seen}", PATIENCE.as_secs())
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}
