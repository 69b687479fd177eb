//! An allocator whose every block of numbers lies beside a page that nobody may touch: a read or write
//! of a single element outside of it ends the program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// On which side of a block the page lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Before,
    Behind,
}

pub struct Guarded(pub Guard);

/// The alignments of f32 and of a buffer's cache lines; other blocks are the system's.
const ALIGNMENTS: [usize; 2] = [align_of::<f32>(), 64];

/// Of a page, and a multiple of it where pages are smaller.
const PAGE: usize = 1 << 16;

/// Mappings that are free again: a new one costs the system more than the test that uses it.
static FREE: Mutex<Free> = Mutex::new(Free { mappings: [(0, 0); 256], count: 0, bytes: 0 });

/// What the free mappings may hold.
const FREE_BYTES: usize = 1 << 29;

struct Free {
    /// Where each starts, and its bytes beside the guard.
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

    /// A mapping with an inaccessible page, or null; of any content.
    fn map(&self, pages: usize) -> *mut u8 {
        if let Some(start) = free().take(pages) {
            return std::ptr::with_exposed_provenance_mut(start);
        }
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, of which a page is made inaccessible.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), pages + PAGE, read_write, private, -1, 0);
            if start == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            let start = start.cast::<u8>();
            let guard = if self.0 == Guard::Before { start } else { start.add(pages) };
            if libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE) == 0 { start } else { std::ptr::null_mut() }
        }
    }

    /// Bytes from the start of a mapping to its block.
    fn offset(&self, pages: usize, layout: Layout) -> usize {
        if self.0 == Guard::Before { PAGE } else { pages - layout.size() }
    }
}

// SAFETY: blocks are as large and as aligned as was asked for, and in mappings of their own.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(pages) = Self::pages(layout) else {
            // SAFETY: the same contract.
            return unsafe { System.alloc(layout) };
        };
        let start = self.map(pages);
        if start.is_null() {
            return start;
        }
        // SAFETY: the block is inside of the mapping.
        unsafe { start.add(self.offset(pages, layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(pages) = Self::pages(layout) else {
            // SAFETY: the same contract.
            return unsafe { System.dealloc(block, layout) };
        };
        // SAFETY: the mapping that `alloc` took for this layout.
        unsafe {
            let start = block.sub(self.offset(pages, layout));
            if !free().put(start.expose_provenance(), pages) {
                libc::munmap(start.cast(), pages + PAGE);
            }
        }
    }
}

/// Whether reading the element beside a block of numbers, in a process of its own, ends that.
#[test]
fn the_page_is_guarded() {
    let numbers = vec![1f32; 1000];
    for (offset, guarded) in
        [(0, false), (999, false), (1000, super::GUARD == Guard::Behind), (-1, super::GUARD == Guard::Before)]
    {
        // SAFETY: the child reads one number and ends; where that may be of another mapping is what is asked.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                std::ptr::read_volatile(numbers.as_ptr().offset(offset));
                libc::_exit(0);
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            status
        };
        if guarded || (0..1000).contains(&offset) {
            // Killed, or ended by a sanitizer that tells of it.
            let ended = libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) != 0;
            assert_eq!(ended, guarded, "offset {offset}");
        }
    }
}
