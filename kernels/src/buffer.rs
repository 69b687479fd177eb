//! Buffers that begin on a cache line.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Elements of a cache line, and of the widest vector.
pub(crate) const LINE: usize = 16;

/// Elements at a distance of so many, 4 KiB, lie in the same set of a first cache.
const PAGE: usize = 1024;

/// Whether rows at this distance meet in one set of the first cache, which can not hold those of a tile.
pub(crate) fn collide(stride: usize) -> bool {
    stride > 0 && stride.is_multiple_of(PAGE)
}

/// The part of a scratch that begins on a cache line. It is at most LINE elements shorter.
pub(crate) fn from_line(scratch: &mut [f32]) -> &mut [f32] {
    let skipped = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE.min(scratch.len()));
    &mut scratch[skipped..]
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; LINE]);

/// A fixed number of f32 that begin on a cache line, so that no vector straddles two.
///
/// ```
/// use predictive_coding_kernels::Buffer;
///
/// let mut buffer = Buffer::zeros(5);
/// buffer[4] = 1.0;
/// assert_eq!(buffer.iter().sum::<f32>(), 1.0);
/// assert_eq!(format!("{buffer:?}"), "Buffer(5 elements)");
/// ```
#[derive(Clone, Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Buffer { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }

    /// Bytes allocated.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }
}

impl fmt::Debug for Buffer {
    /// How long it is, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} elements)", self.len)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` are len.div_ceil(LINE) arrays of LINE f32 without padding between them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
