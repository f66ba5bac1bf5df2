//! The program's allocator: the C library's, with a stock of small blocks for each thread before it.
//!
//! An object of the API is hundreds of small blocks of a few sizes (nodes of maps, texts), which live for one request. The
//! C library keeps seven of each size for a thread; beyond those, it searches its lists, cuts blocks up and joins them again,
//! which was a fifth of what a write costs (docs/decisions/0016-small-blocks.md). Here a thread keeps up to [`STOCK`] bytes of
//! each size and [`BUDGET`] of all, and whatever is beyond goes to the C library, as all that is large does.
//!
//! Blocks come from the C library, each as large as it would have made it anyway: memory at rest does not grow. One that is
//! freed by another thread than took it goes to the stock of the one that freed it. A thread that ends gives its stock back.
//! Not here: what is given back to the system (`memory`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// What a thread keeps of one size, in bytes: more than the nodes of a pod's maps.
const STOCK: usize = 64 << 10;
/// What a thread keeps of all sizes together, in bytes: machines have many threads, and nobody asks for it while they rest.
const BUDGET: usize = 512 << 10;
/// The largest block that is kept: the node of a map of JSON with children has 640 bytes.
const LARGEST: usize = class_size(CLASSES - 1);
const CLASSES: usize = 48;
/// How many blocks of each class are kept; worked out beforehand, for it is asked at each that is freed.
static MOST: [u32; CLASSES] = {
    let (mut most, mut class) = ([0; CLASSES], 0);
    while class < CLASSES {
        most[class] = (STOCK / class_size(class)) as u32;
        class += 1;
    }
    most
};
/// What every block of the C library is aligned to.
const ALIGNMENT: usize = 16;

/// Sizes as the C library has them: multiples of 16 and the 8 bytes behind them, which are free to use; 24 at least.
const fn class_size(class: usize) -> usize {
    class * ALIGNMENT + 24
}

/// The class of a block, if it is of those that are kept.
fn class_of(layout: Layout) -> Option<usize> {
    let kept = layout.size() <= LARGEST && layout.align() <= ALIGNMENT;
    kept.then(|| layout.size().saturating_sub(class_size(0)).div_ceil(ALIGNMENT))
}

/// What the C library is asked for, for a block of this class.
const fn class_layout(class: usize) -> Layout {
    match Layout::from_size_align(class_size(class), ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => panic!("classes are small"),
    }
}

/// A block that nobody uses; its first bytes say which is the next one.
struct Unused {
    next: *mut Unused,
}

/// The blocks of one class.
struct Class {
    first: Cell<*mut Unused>,
    count: Cell<u32>,
}

impl Class {
    const EMPTY: Class = Class { first: Cell::new(ptr::null_mut()), count: Cell::new(0) };

    fn take(&self) -> Option<*mut u8> {
        let first = self.first.get();
        if first.is_null() {
            return None;
        }
        // SAFETY: what stands in the list was put there by `keep`, and is nobody's else since.
        self.first.set(unsafe { (*first).next });
        self.count.set(self.count.get() - 1);
        Some(first.cast())
    }

    /// Keeps a block; false if there are enough.
    ///
    /// # Safety
    /// The block is one of this class of the C library's, and nobody uses it any more.
    unsafe fn keep(&self, block: *mut u8, most: u32) -> bool {
        let count = self.count.get();
        if count >= most {
            return false;
        }
        let block: *mut Unused = block.cast();
        // SAFETY: a block has 24 bytes at least, is aligned to 16, and is ours now.
        unsafe { block.write(Unused { next: self.first.get() }) };
        self.first.set(block);
        self.count.set(count + 1);
        true
    }
}

/// What a thread keeps.
struct Stock {
    classes: [Class; CLASSES],
    /// How much of [`BUDGET`] is left.
    room: Cell<usize>,
    /// The class that gives next where there is no room.
    giver: Cell<usize>,
}

impl Stock {
    fn take(&self, class: usize) -> Option<*mut u8> {
        let block = self.classes[class].take()?;
        self.room.set(self.room.get() + class_size(class));
        Some(block)
    }

    /// Keeps a block; false if there are enough.
    ///
    /// # Safety
    /// As that of [`Class::keep`].
    unsafe fn keep(&self, block: *mut u8, class: usize) -> bool {
        let size = class_size(class);
        if self.room.get() < size && self.classes[class].count.get() < MOST[class] {
            self.make_room(class);
        }
        // SAFETY: as it is promised to us.
        let kept = self.room.get() >= size && unsafe { self.classes[class].keep(block, MOST[class]) };
        if kept {
            self.room.set(self.room.get() - size);
        }
        kept
    }

    /// Half of what is kept of another class goes, one class after the other: sizes that were of use once would else hold
    /// the room of those that are of use now for as long as the thread lives.
    #[cold]
    fn make_room(&self, wanting: usize) {
        for _ in 0..CLASSES {
            let class = self.giver.get();
            self.giver.set((class + 1) % CLASSES);
            let count = self.classes[class].count.get();
            if class != wanting && count > 0 {
                return self.release(class, count.div_ceil(2));
            }
        }
    }

    /// Gives so many blocks of a class to the C library, or all there are.
    fn release(&self, class: usize, count: u32) {
        for _ in 0..count {
            let Some(block) = self.take(class) else { return };
            // SAFETY: blocks of a class come from the C library, asked for with this layout or one of the same class, which
            // it does not look at.
            unsafe { System.dealloc(block, class_layout(class)) };
        }
    }

    fn empty(&self) {
        for class in 0..CLASSES {
            self.release(class, u32::MAX);
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.empty();
    }
}

thread_local! {
    // Without a constructor: whoever allocates for the first time must not allocate for that.
    static STOCK_OF_THREAD: Stock =
        const { Stock { classes: [Class::EMPTY; CLASSES], room: Cell::new(BUDGET), giver: Cell::new(0) } };
}

/// Gives the stock of the calling thread back to the C library.
pub(crate) fn empty() {
    // A thread that is ending has none.
    let _ = STOCK_OF_THREAD.try_with(Stock::empty);
}

/// See the module. To be named with `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

impl Allocator {
    /// A block of a class: out of the stock, else, or when the thread is ending, of the C library's.
    fn take(class: usize) -> *mut u8 {
        let kept = STOCK_OF_THREAD.try_with(|stock| stock.take(class));
        // SAFETY: the layout has a size.
        kept.ok().flatten().unwrap_or_else(|| unsafe { System.alloc(class_layout(class)) })
    }

    /// # Safety
    /// The block is one of this class of the C library's, and nobody uses it any more.
    unsafe fn give(block: *mut u8, class: usize) {
        // SAFETY: as it is promised to us.
        let kept = STOCK_OF_THREAD.try_with(|stock| unsafe { stock.keep(block, class) });
        if kept != Ok(true) {
            // SAFETY: as it is promised to us; the C library does not look at the layout.
            unsafe { System.dealloc(block, class_layout(class)) };
        }
    }
}

// SAFETY: a block of a class has as many bytes as the largest layout of that class, is aligned as any of them asks, and is
// in one list or in use, never both. All else is the C library's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class_of(layout) {
            Some(class) => Self::take(class),
            // SAFETY: the caller's promises are the same.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match class_of(layout) {
            Some(class) => {
                let block = Self::take(class);
                if !block.is_null() {
                    // SAFETY: the block has as many bytes at least.
                    unsafe { block.write_bytes(0, layout.size()) };
                }
                block
            }
            // SAFETY: the caller's promises are the same. The C library knows which memory is zero already.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class_of(layout) {
            // SAFETY: the caller has it from `alloc`, by the same layout.
            Some(class) => unsafe { Self::give(block, class) },
            // SAFETY: as above.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size is not too large for the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class_of(layout), class_of(wanted)) {
            (Some(has), Some(wants)) if has == wants => block,
            // SAFETY: both are the C library's alone.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            _ => {
                // SAFETY: as the caller promises.
                let new = unsafe { self.alloc(wanted) };
                if !new.is_null() {
                    // SAFETY: two different blocks, of at least as many bytes; the old one is not used any more.
                    unsafe {
                        ptr::copy_nonoverlapping(block, new, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                }
                new
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    /// A block filled with a pattern of its own.
    struct Block {
        start: *mut u8,
        layout: Layout,
        seed: u8,
    }

    // SAFETY: whoever has it is the only one who does.
    unsafe impl Send for Block {}

    impl Block {
        fn new(size: usize, seed: u8) -> Self {
            let layout = layout(size);
            // SAFETY: the size is not zero; the block is written within its size.
            let start = unsafe { Allocator.alloc(layout) };
            assert!(!start.is_null() && (start as usize).is_multiple_of(ALIGNMENT));
            unsafe { start.write_bytes(seed, size) };
            Self { start, layout, seed }
        }

        fn check(&self, size: usize) {
            // SAFETY: that many bytes were written.
            let bytes = unsafe { std::slice::from_raw_parts(self.start, size) };
            assert!(
                bytes.iter().all(|byte| *byte == self.seed),
                "somebody else wrote into a block of {size}"
            );
        }

        fn resize(&mut self, size: usize) {
            let before = self.layout.size();
            // SAFETY: it is ours, and so is the new one; written within its size.
            self.start = unsafe { Allocator.realloc(self.start, self.layout, size) };
            self.layout = layout(size);
            self.check(before.min(size));
            unsafe { self.start.write_bytes(self.seed, size) };
        }
    }

    impl Drop for Block {
        fn drop(&mut self) {
            self.check(self.layout.size());
            // SAFETY: it is ours, and not used any more.
            unsafe { Allocator.dealloc(self.start, self.layout) };
        }
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn a_block_is_as_large_as_the_c_library_makes_it_anyway() {
        for size in 1..=LARGEST {
            let class = class_of(layout(size)).unwrap();
            assert!(class_size(class) >= size);
            // SAFETY: allocated, asked about, and freed.
            let usable = unsafe {
                let block = libc::malloc(size);
                let usable = libc::malloc_usable_size(block);
                libc::free(block);
                usable
            };
            assert_eq!(class_size(class), usable, "{size}");
        }
        assert_eq!(class_of(layout(LARGEST + 1)), None);
        assert_eq!(class_of(Layout::from_size_align(64, 64).unwrap()), None);
    }

    #[test]
    fn nobody_else_writes_into_a_block_whoever_frees_it() {
        let (give, take) = mpsc::channel::<Block>();
        let freer = thread::spawn(move || {
            let mut held = Vec::new();
            for mut block in take {
                block.resize(block.layout.size() * 3 / 2 + 1);
                held.push(block);
                if held.len() > 300 {
                    held.drain(..200);
                }
            }
        });
        let makers: Vec<_> = (1..=3_u8)
            .map(|maker| {
                let give = give.clone();
                thread::spawn(move || {
                    let mut own = Vec::new();
                    for round in 0..20_000_usize {
                        // Sizes of all classes, and beyond.
                        let size = 1 + (round * 7 + usize::from(maker) * 131) % (LARGEST + 200);
                        let mut block = Block::new(size, maker);
                        match round % 4 {
                            0 => give.send(block).unwrap(),
                            1 => block.resize(1 + size / 2),
                            _ => own.push(block),
                        }
                        if own.len() > 500 {
                            own.drain(100..400);
                        }
                    }
                })
            })
            .collect();
        drop(give);
        for maker in makers {
            maker.join().unwrap();
        }
        freer.join().unwrap();
    }

    #[test]
    fn zeroed_blocks_are_zero_also_out_of_the_stock() {
        for size in [8, 100, LARGEST, LARGEST + 100] {
            drop(Block::new(size, 0xff));
            // SAFETY: read within its size, and freed.
            unsafe {
                let block = Allocator.alloc_zeroed(layout(size));
                assert!(std::slice::from_raw_parts(block, size).iter().all(|byte| *byte == 0));
                Allocator.dealloc(block, layout(size));
            }
        }
    }

    #[test]
    fn a_thread_keeps_so_much_and_no_more() {
        let count = |size| {
            let class = class_of(layout(size)).unwrap();
            STOCK_OF_THREAD.with(|stock| stock.classes[class].count.get())
        };
        let free = |size| drop((0..10_000).map(|_| Block::new(size, 1)).collect::<Vec<_>>());
        empty();
        free(500);
        let kept = count(500);
        assert_eq!(kept as usize, STOCK / class_size(class_of(layout(500)).unwrap()));
        let block = Block::new(500, 2);
        assert_eq!(count(500), kept - 1);
        drop(block);
        for size in (1..=LARGEST).step_by(ALIGNMENT) {
            free(size);
        }
        let room = || STOCK_OF_THREAD.with(|stock| stock.room.get());
        assert!(room() < BUDGET / 4, "{} bytes of the budget are left", room());
        // A size that comes late finds room all the same, for the others give some back.
        free(500);
        assert_eq!(count(500), kept);
        empty();
        assert_eq!(room(), BUDGET);
        assert_eq!(count(500), 0);
    }

    #[test]
    fn what_ends_after_the_stock_can_still_be_freed_and_taken() {
        struct Last(RefCell<Vec<Block>>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.borrow_mut().clear();
                drop(Block::new(40, 3));
            }
        }
        thread_local! {
            static LAST: Last = const { Last(RefCell::new(Vec::new())) };
        }
        // What is used first goes last.
        thread::spawn(|| LAST.with(|last| last.0.borrow_mut().push(Block::new(40, 3)))).join().unwrap();
    }
}
