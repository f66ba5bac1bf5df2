//! The memory of this process.
//!
//! Tells the allocator. Not here: how much there is.

/// Gives back to the system what was freed. The allocator keeps that for the thread that had it, where others do not find
/// it: so it is worth the time after much was freed that another thread is about to need.
pub fn give_back() {
    crate::allocator::empty();
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
