//! Two threads for one job: one makes things, the other takes them, in order.
//!
//! For recovery, which reads, checks and decodes gigabytes, and puts into memory what is decoded: neither half waits for
//! the other. Pure but for the thread, which has ended when the job is done.

use std::sync::mpsc::sync_channel;

use crate::error::Error;

/// Things that are made and not taken yet, at most.
const AHEAD: usize = 8;

/// Runs `make` on a thread of its own; what it sends is given to `take` on this one. Returns what `make` returns, after
/// everything is taken.
pub(super) fn ahead<T: Send, R: Send>(
    make: impl FnOnce(&dyn Fn(T)) -> R + Send,
    take: impl FnMut(T),
) -> Result<R, Error> {
    std::thread::scope(|scope| {
        let (sender, made) = sync_channel(AHEAD);
        let run = move || {
            // Who takes is there for as long as this thread is, unless it panics: then nobody wants to know.
            make(&|item| drop(sender.send(item)))
        };
        let builder = std::thread::Builder::new().name("store-recovery".to_owned());
        let maker = builder.spawn_scoped(scope, run);
        let maker = maker.map_err(|error| Error::io("starting a thread to recover", error))?;
        made.into_iter().for_each(take);
        maker.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_taken_in_order_before_the_end_is_told() {
        let mut taken = Vec::new();
        let made = ahead(
            |send| {
                (0..1000).for_each(send);
                "made"
            },
            |n| taken.push(n),
        );
        assert_eq!(made.unwrap(), "made");
        assert_eq!(taken, (0..1000).collect::<Vec<_>>());
    }
}
