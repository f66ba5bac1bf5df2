//! Small pieces of memory kept by the thread that frees them, for what it asks next.
//!
//! A request to the API server makes trees of some thousand small pieces and frees them again within a millisecond. The
//! C library keeps seven pieces of each size within a thread's reach; every further one goes through its arena, merged
//! with its neighbours and split again. Threads that say so keep as much as the requests of a moment need. Everything else is the C
//! library's: pieces are its pieces, of its sizes, so that either may free what the other gave.
//! Not here: large pieces, and giving memory back to the host (the C library's).
//! Upstream: glibc's tunable `glibc.malloc.tcache_count` would do, but can only be set before a process starts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// Bytes that one thread keeps at most. Requests that wait for the disk together hold about a hundred kilobytes each,
/// and give them back together.
const MOST: usize = 1 << 20;
/// The C library's sizes are this far apart, and it holds one word beside each piece.
const STEP: usize = 16;
const WORD: usize = 8;
/// The largest pieces that are kept: a node of a map of JSON values, with room.
const LARGEST: usize = CLASSES * STEP - WORD - STEP;
const CLASSES: usize = 50;

/// The C library's allocator with [`recycle`].
#[derive(Debug)]
pub struct Recycling;

/// What a thread keeps. Needs no destructor, so that it can be reached as long as the thread allocates.
struct Kept {
    active: Cell<bool>,
    bytes: Cell<usize>,
    /// The first piece of each class; each begins with the address of the next.
    first: [Cell<*mut u8>; CLASSES],
}

/// Frees what its thread keeps when the thread ends.
struct End;

thread_local! {
    static KEPT: Kept = const {
        Kept { active: Cell::new(false), bytes: Cell::new(0), first: [const { Cell::new(ptr::null_mut()) }; CLASSES] }
    };
    static END: End = const { End };
}

/// Has the calling thread keep what it frees, until it ends.
pub fn recycle() {
    // The first use of `END` asks for it to be dropped with the thread.
    END.with(|_| KEPT.with(|kept| kept.active.set(true)));
}

impl Drop for End {
    fn drop(&mut self) {
        KEPT.with(|kept| {
            kept.active.set(false);
            for (class, first) in kept.first.iter().enumerate() {
                while let Some(piece) = pop(first) {
                    // SAFETY: every piece in a list came from `System` with this layout or one that it treats alike.
                    unsafe { System.dealloc(piece, piece_of(class)) };
                }
            }
            kept.bytes.set(0);
        });
    }
}

/// The class of pieces that serve a layout; `None` for those that are not kept.
#[inline]
fn class_of(layout: Layout) -> Option<usize> {
    // The C library gives at least a chunk of four words, one of them its own.
    (layout.size() <= LARGEST && layout.align() <= WORD)
        .then(|| (layout.size().max(2 * WORD) + WORD + STEP - 1) / STEP)
}

/// The layout of a class: all that the C library's piece of this class has room for.
#[inline]
fn piece_of(class: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and no class is so large as to overflow.
    unsafe { Layout::from_size_align_unchecked(class * STEP - WORD, WORD) }
}

/// Takes the first piece out of a list.
#[inline]
fn pop(first: &Cell<*mut u8>) -> Option<*mut u8> {
    let piece = first.get();
    if piece.is_null() {
        return None;
    }
    // SAFETY: a piece in a list is free, at least a word long, aligned to a word, and begins with the next one's address.
    first.set(unsafe { piece.cast::<*mut u8>().read() });
    Some(piece)
}

// SAFETY: every piece given out came from `System`, with a size no smaller than asked for, and is in no list while it is
// out. Lists belong to one thread. No method unwinds: nothing in them panics, and `KEPT` can be reached at any time.
unsafe impl GlobalAlloc for Recycling {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            // SAFETY: the caller's promise is passed on.
            return unsafe { System.alloc(layout) };
        };
        let kept = KEPT.with(|kept| {
            let piece = pop(&kept.first[class])?;
            kept.bytes.set(kept.bytes.get() - class * STEP);
            Some(piece)
        });
        // SAFETY: the layout of a class is never empty.
        kept.unwrap_or_else(|| unsafe { System.alloc(piece_of(class)) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class_of(layout).is_none() {
            // SAFETY: the caller's promise is passed on. Large memory may be known to be zero already.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise is passed on.
        let piece = unsafe { self.alloc(layout) };
        if !piece.is_null() {
            // SAFETY: the piece was just given out, and is at least so long.
            unsafe { piece.write_bytes(0, layout.size()) };
        }
        piece
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let is_kept = class_of(layout).is_some_and(|class| {
            KEPT.with(|kept| {
                let bytes = kept.bytes.get() + class * STEP;
                if !kept.active.get() || bytes > MOST {
                    return false;
                }
                let first = &kept.first[class];
                // SAFETY: the piece is free now, at least a word long and aligned to one: `alloc` saw to that, or the
                // C library, which gives no shorter ones.
                unsafe { piece.cast::<*mut u8>().write(first.get()) };
                first.set(piece);
                kept.bytes.set(bytes);
                true
            })
        });
        if !is_kept {
            // SAFETY: the piece came from `System`, which frees by address alone.
            unsafe { System.dealloc(piece, layout) };
        }
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the new size does not overflow with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class_of(layout), class_of(wanted)) {
            (Some(old), Some(new)) if old == new => piece,
            (Some(_), Some(_)) => {
                // SAFETY: the caller's promise is passed on.
                let moved = unsafe { self.alloc(wanted) };
                if !moved.is_null() {
                    // SAFETY: both are at least so long, and the new one is nobody else's.
                    unsafe { ptr::copy_nonoverlapping(piece, moved, layout.size().min(size)) };
                    // SAFETY: the piece is the caller's, who gives it up.
                    unsafe { self.dealloc(piece, layout) };
                }
                moved
            }
            // SAFETY: the piece came from `System`. What it gives for the new size is no smaller than its class.
            _ => unsafe { System.realloc(piece, layout, size) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, WORD.min(size.next_power_of_two())).unwrap()
    }

    fn kept() -> usize {
        KEPT.with(|kept| kept.bytes.get())
    }

    #[test]
    fn a_class_has_room_for_its_sizes() {
        for size in 1..=LARGEST {
            let class = class_of(layout(size)).unwrap();
            assert!(class < CLASSES && piece_of(class).size() >= size, "{size}");
        }
        assert_eq!(class_of(layout(24)), class_of(layout(1)));
        assert_ne!(class_of(layout(24)), class_of(layout(25)));
        assert_eq!(class_of(layout(LARGEST + 1)), None);
        assert_eq!(class_of(Layout::from_size_align(16, 64).unwrap()), None);
    }

    /// A series of allocations, each filled with a number of its own that must still be there at its end.
    fn churn(rounds: usize) {
        let mut live: Vec<(*mut u8, usize, u8)> = Vec::new();
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let check = |(piece, size, mark): (*mut u8, usize, u8)| {
            // SAFETY: the piece is live and so long.
            let bytes = unsafe { std::slice::from_raw_parts(piece, size) };
            assert!(bytes.iter().all(|byte| *byte == mark));
        };
        for round in 0..rounds {
            let (size, mark) = (1 + random(1_200), round as u8);
            match random(5) {
                0 | 1 => {
                    // SAFETY: the size is not zero; the piece is filled to its end.
                    let piece = unsafe { Recycling.alloc(layout(size)) };
                    unsafe { piece.write_bytes(mark, size) };
                    live.push((piece, size, mark));
                }
                2 => {
                    // SAFETY: as above.
                    let piece = unsafe { Recycling.alloc_zeroed(layout(size)) };
                    check((piece, size, 0));
                    unsafe { piece.write_bytes(mark, size) };
                    live.push((piece, size, mark));
                }
                3 if !live.is_empty() => {
                    let (piece, old, before) = live.swap_remove(random(live.len()));
                    let align = layout(old).align();
                    // SAFETY: the piece has this layout; what it held is still there up to the smaller size.
                    let moved = unsafe { Recycling.realloc(piece, layout(old), size) };
                    check((moved, old.min(size), before));
                    // SAFETY: it is so long now, and was made with this alignment.
                    unsafe { moved.write_bytes(mark, size) };
                    if layout(size).align() == align {
                        live.push((moved, size, mark));
                    } else {
                        // SAFETY: as above.
                        unsafe { Recycling.dealloc(moved, Layout::from_size_align(size, align).unwrap()) };
                    }
                }
                _ if !live.is_empty() => {
                    let found = live.swap_remove(random(live.len()));
                    check(found);
                    // SAFETY: the piece has this layout.
                    unsafe { Recycling.dealloc(found.0, layout(found.1)) };
                }
                _ => {}
            }
        }
        for found in live {
            check(found);
            // SAFETY: the piece has this layout.
            unsafe { Recycling.dealloc(found.0, layout(found.1)) };
        }
    }

    #[test]
    fn nothing_is_given_out_twice() {
        churn(20_000);
        assert_eq!(kept(), 0, "this thread did not ask to keep anything");
        let threads = [1, 2, 3, 4].map(|_| {
            std::thread::spawn(|| {
                recycle();
                churn(50_000);
                assert!((1..=MOST).contains(&kept()));
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn what_one_thread_gave_another_may_keep() {
        // SAFETY: the size is not zero.
        let piece = unsafe { Recycling.alloc(layout(100)) } as usize;
        std::thread::spawn(move || {
            recycle();
            // SAFETY: the piece has this layout, and nobody else has it.
            unsafe { Recycling.dealloc(piece as *mut u8, layout(100)) };
            // SAFETY: the size is not zero.
            let again = unsafe { Recycling.alloc(layout(97)) };
            assert_eq!(again as usize, piece);
            // SAFETY: the piece has this layout.
            unsafe { Recycling.dealloc(again, layout(97)) };
        })
        .join()
        .unwrap();
    }
}
