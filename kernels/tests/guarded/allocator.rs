//! An allocator whose every block of numbers lies beside a page that nobody may touch: a read or write
//! of a single element outside of it ends the program.

use std::alloc::{GlobalAlloc, Layout, System};

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

impl Guarded {
    /// The bytes of the pages that hold the block, if it is guarded.
    fn pages(layout: Layout) -> Option<usize> {
        let guarded = ALIGNMENTS.contains(&layout.align()) && layout.size().is_multiple_of(layout.align());
        guarded.then(|| layout.size().next_multiple_of(PAGE))
    }
}

// SAFETY: blocks are as large and as aligned as was asked for, and mappings of their own.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(pages) = Self::pages(layout) else {
            // SAFETY: the same contract.
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: a new mapping, of which a page of the size that was asked for is made inaccessible.
        unsafe {
            let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let start = libc::mmap(std::ptr::null_mut(), pages + PAGE, read_write, private, -1, 0);
            if start == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            let start = start.cast::<u8>();
            let (guard, block) = match self.0 {
                Guard::Before => (start, start.add(PAGE)),
                Guard::Behind => (start.add(pages), start.add(pages - layout.size())),
            };
            match libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE) {
                0 => block,
                _ => std::ptr::null_mut(),
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(pages) = Self::pages(layout) else {
            // SAFETY: the same contract.
            return unsafe { System.dealloc(block, layout) };
        };
        // SAFETY: the mapping that `alloc` made for this layout.
        unsafe {
            let start = match self.0 {
                Guard::Before => block.sub(PAGE),
                Guard::Behind => block.add(layout.size()).sub(pages),
            };
            libc::munmap(start.cast(), pages + PAGE);
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Self::pages(layout) {
            // SAFETY: the same contract; a new mapping is 0.
            Some(_) => unsafe { self.alloc(layout) },
            // SAFETY: the same contract.
            None => unsafe { System.alloc_zeroed(layout) },
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
            assert_eq!(libc::WIFSIGNALED(status), guarded, "offset {offset}");
        }
    }
}
