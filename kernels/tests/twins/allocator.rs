//! An allocator whose every block of numbers lies directly behind or before an inaccessible page: a read or write of a
//! single element outside of it on that side ends the program. The sides alternate irregularly.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

struct Guarded;

thread_local! {
    /// How many blocks there have been: a test has a thread of its own, and finds the same sides in every run.
    static BLOCKS: Cell<u64> = const { Cell::new(0) };
}

/// The alignments of f32 and of a buffer's cache lines; other blocks are the system's.
const ALIGNMENTS: [usize; 2] = [align_of::<f32>(), 64];

/// Of a page, and a multiple of it where pages are smaller.
const PAGE: usize = 1 << 16;

/// Mappings that are free again: a new one costs the system more than the test that uses it.
static FREE: Mutex<Free> = Mutex::new(Free { mappings: [(0, 0); 256], count: 0, bytes: 0 });

/// What the free mappings may hold.
const FREE_BYTES: usize = 1 << 29;

struct Free {
    /// Where each begins, and its bytes between the guards.
    mappings: [(usize, usize); 256],
    count: usize,
    bytes: usize,
}

impl Free {
    /// The one that was freed last of those that are as large.
    fn take(&mut self, pages: usize) -> Option<usize> {
        let place = self.mappings[..self.count].iter().rposition(|mapping| mapping.1 == pages)?;
        let (start, _) = self.mappings[place];
        self.mappings.copy_within(place + 1..self.count, place);
        self.count -= 1;
        self.bytes -= pages;
        Some(start)
    }

    /// Whether there was room.
    fn put(&mut self, start: usize, pages: usize) -> bool {
        if self.count == self.mappings.len() || self.bytes + pages > FREE_BYTES {
            return false;
        }
        self.mappings[self.count] = (start, pages);
        self.count += 1;
        self.bytes += pages;
        true
    }
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guarded {
    /// The bytes of the pages that hold the block, if it is guarded.
    fn pages(layout: Layout) -> Option<usize> {
        let guarded = ALIGNMENTS.contains(&layout.align()) && layout.size().is_multiple_of(layout.align());
        guarded.then(|| layout.size().next_multiple_of(PAGE))
    }

    /// So many bytes between two inaccessible pages, or null; of any content, and at a multiple of [`PAGE`].
    fn map(pages: usize) -> *mut u8 {
        if let Some(start) = free().take(pages) {
            return std::ptr::with_exposed_provenance_mut(start);
        }
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let len = pages + 3 * PAGE;
        // SAFETY: a new mapping, of which the pages are made accessible, and what is beyond the guards is given back.
        unsafe {
            let all = libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, private, -1, 0);
            if all == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            let all = all.cast::<u8>();
            let start = all.map_addr(|address| (address + PAGE).next_multiple_of(PAGE));
            let before = start.addr() - all.addr() - PAGE;
            let behind = PAGE - before;
            let end = start.add(pages + PAGE);
            for (rest, len) in [(all, before), (end, behind)] {
                if len > 0 {
                    libc::munmap(rest.cast(), len);
                }
            }
            if libc::mprotect(start.cast(), pages, read_write) != 0 {
                libc::munmap(start.sub(PAGE).cast(), pages + 2 * PAGE);
                return std::ptr::null_mut();
            }
            start
        }
    }

    /// Whether the next block begins behind a guard, rather than ends before one.
    fn begins() -> bool {
        const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
        BLOCKS.replace(BLOCKS.get() + 1).wrapping_mul(GOLDEN_RATIO) >> 63 == 0
    }
}

// SAFETY: blocks are as large and as aligned as was asked for, and in mappings of their own.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(pages) = Self::pages(layout) else {
            // SAFETY: the same contract.
            return unsafe { System.alloc(layout) };
        };
        let start = Self::map(pages);
        if start.is_null() || Self::begins() {
            return start;
        }
        // SAFETY: the block is inside of the pages.
        unsafe { start.add(pages - layout.size()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(pages) = Self::pages(layout) else {
            // SAFETY: the same contract.
            return unsafe { System.dealloc(block, layout) };
        };
        // On either side, it begins in the first of them.
        let start = block.map_addr(|address| address / PAGE * PAGE);
        if !free().put(start.expose_provenance(), pages) {
            // SAFETY: the mapping that `alloc` took for this layout.
            unsafe { libc::munmap(start.sub(PAGE).cast(), pages + 2 * PAGE) };
        }
    }
}

/// Reading the element beside a block of numbers kills the process that does it: on exactly one side of each block, and not
/// on the same side of all.
#[test]
fn a_page_is_guarded() {
    const LEN: isize = 1000;
    let blocks = [(); 16].map(|()| vec![1f32; LEN as usize]);
    let ends = |numbers: &[f32], offset: isize| {
        // SAFETY: the child reads one number and ends; where that may be of another mapping is what is asked.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                std::ptr::read_volatile(numbers.as_ptr().offset(offset));
                libc::_exit(0);
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            // Killed, or ended by a sanitizer that tells of it.
            libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) != 0
        }
    };
    let before = blocks.iter().filter(|block| ends(block, -1)).count();
    let behind = blocks.iter().filter(|block| ends(block, LEN)).count();
    assert!(before > 0 && behind > 0 && before + behind == blocks.len(), "{before} before, {behind} behind");
    assert!(blocks.iter().all(|block| !ends(block, 0) && !ends(block, LEN - 1)));
}
