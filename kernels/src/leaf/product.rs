//! The microkernel of every product of a broadcast operand with vectors, and the two loops around it.
//!
//! ```text
//! C[m][n] = sum over taps t and i < depth of  A[t.a + m * a.step + i * a.depth] * B[t.b + n * b.step + i * b.depth + lane]
//! ```
//!
//! for M rows by N vectors, held in registers from the first product to the last. The table of taps is the
//! im2col matrix without its copies: a matrix product has one tap and its depth, a convolution has a tap for each
//! (channel, row), or (group of channels, row, column), of its kernel. Whether A holds weights and B images, or A
//! pixels and B weights, is a question of strides alone.

use crate::buffer::LINE;
use crate::simd::Simd;

/// One entry of a table of addresses: offsets in either operand, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tap {
    pub(crate) a: u32,
    pub(crate) b: u32,
}

impl Tap {
    pub(crate) const ORIGIN: Tap = Tap { a: 0, b: 0 };

    /// # Panics
    /// If an offset does not fit 32 bits.
    pub(crate) fn new(a: usize, b: usize) -> Self {
        let narrow = |n: usize| {
            u32::try_from(n).unwrap_or_else(|_| panic!("an offset of {n} elements in a table, expected less than 2^32"))
        };
        Tap { a: narrow(a), b: narrow(b) }
    }
}

/// Taps that each stand for products one behind the other.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) taps: &'a [Tap],
    pub(crate) depth: usize,
}

/// Where an operand lies. Distances are in elements.
#[derive(Clone, Copy)]
pub(crate) struct Operand {
    pub(crate) at: *const f32,
    /// Distance of neighbouring rows of A, or of neighbouring vectors of B.
    pub(crate) step: isize,
    /// Distance of neighbouring products of a tap.
    pub(crate) depth: isize,
}

impl Operand {
    pub(crate) fn new(at: *const f32, step: usize, depth: usize) -> Self {
        Operand { at, step: step as isize, depth: depth as isize }
    }
}

/// A tile that is computed `count` times, each time further on in an operand and in the output.
#[derive(Clone, Copy)]
pub(crate) struct Repeat {
    pub(crate) count: usize,
    pub(crate) operand: isize,
    pub(crate) out: isize,
}

impl Repeat {
    pub(crate) const ONCE: Repeat = Repeat { count: 1, operand: 0, out: 0 };

    pub(crate) fn new(count: usize, operand: usize, out: usize) -> Self {
        Repeat { count, operand: operand as isize, out: out as isize }
    }
}

/// What becomes of the sums of a tile while they are in registers:
///
/// ```text
/// v = alpha sum + bias + gamma other + beta out;    out = v, or with a step out + step v
/// ```
#[derive(Clone, Copy)]
pub(crate) struct Epilogue {
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) gamma: f32,
    /// Not read if gamma is 0.
    pub(crate) other: *const f32,
    pub(crate) out: *mut f32,
    /// Distances of rows and of vectors in `out` and `other`.
    pub(crate) row: isize,
    pub(crate) vector: isize,
    /// One value for each row, or null.
    pub(crate) row_bias: *const f32,
    /// A vector for each vector of the tile, or null.
    pub(crate) vector_bias: *const f32,
    /// A vector for each vector of the tile, so far apart, or null.
    pub(crate) step: *const f32,
    pub(crate) step_vector: isize,
}

impl Epilogue {
    /// Overwrites `out`.
    pub(crate) fn store(out: *mut f32, row: usize, vector: usize) -> Self {
        let (row, vector) = (row as isize, vector as isize);
        Epilogue {
            alpha: 1.0,
            beta: 0.0,
            gamma: 0.0,
            other: std::ptr::null(),
            out,
            row,
            vector,
            row_bias: std::ptr::null(),
            vector_bias: std::ptr::null(),
            step: std::ptr::null(),
            step_vector: 0,
        }
    }

    /// Adds to `out`.
    pub(crate) fn add(out: *mut f32, row: usize, vector: usize) -> Self {
        Epilogue { beta: 1.0, ..Epilogue::store(out, row, vector) }
    }

    /// Asks for `count` vectors of the first row that are `ahead` elements further on.
    #[inline(always)]
    pub(crate) fn prefetch<S: Simd>(&self, s: S, count: usize, ahead: isize) {
        for vector in 0..count as isize {
            let distance = vector * self.vector + ahead;
            s.prefetch(self.out.wrapping_offset(distance));
            if self.gamma != 0.0 {
                s.prefetch(self.other.wrapping_offset(distance));
            }
        }
    }

    /// # Safety
    /// M rows by N vectors must be valid at `at` elements behind what the epilogue points to; so must the biases of
    /// the rows from `row` and the biases and steps of the vectors from `vector` on.
    #[inline(always)]
    pub(crate) unsafe fn finish<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        mut sums: [[S::V; N]; M],
        at: isize,
        [row, vector]: [usize; 2],
    ) {
        // One operand after the other, in loops that unroll, so that sums stay in registers.
        // SAFETY: as the caller promises.
        unsafe {
            if self.alpha != 1.0 {
                let alpha = s.splat(self.alpha);
                sums.iter_mut().flatten().for_each(|sum| *sum = s.mul(alpha, *sum));
            }
            if !self.row_bias.is_null() {
                for (m, sums) in sums.iter_mut().enumerate() {
                    let bias = s.splat(*self.row_bias.add(row + m));
                    sums.iter_mut().for_each(|sum| *sum = s.add(*sum, bias));
                }
            }
            if !self.vector_bias.is_null() {
                for n in 0..N {
                    let bias = s.load(self.vector_bias.add((vector + n) * S::LANES));
                    sums.iter_mut().for_each(|sums| sums[n] = s.add(sums[n], bias));
                }
            }
            // The place of a vector: anew for every pass, so that no pass keeps pointers for another.
            let place =
                |of: *const f32, n: usize| Lines::<M>::new(of.wrapping_offset(at + n as isize * self.vector), self.row);
            if self.gamma != 0.0 {
                let gamma = s.splat(self.gamma);
                for n in 0..N {
                    let other = place(self.other, n);
                    for (m, sums) in sums.iter_mut().enumerate() {
                        sums[n] = s.fma(gamma, s.load(other.at(m)), sums[n]);
                    }
                }
            }
            if self.beta != 0.0 {
                let beta = s.splat(self.beta);
                for n in 0..N {
                    let out = place(self.out, n);
                    for (m, sums) in sums.iter_mut().enumerate() {
                        sums[n] = s.fma(beta, s.load(out.at(m)), sums[n]);
                    }
                }
            }
            if !self.step.is_null() {
                for n in 0..N {
                    let step = s.load(self.step.offset((vector + n) as isize * self.step_vector));
                    let out = place(self.out, n);
                    for (m, sums) in sums.iter_mut().enumerate() {
                        sums[n] = s.fma(step, sums[n], s.load(out.at(m)));
                    }
                }
            }
            for n in 0..N {
                let out = place(self.out, n);
                for (m, sums) in sums.iter().enumerate() {
                    s.store(out.at(m).cast_mut(), sums[n]);
                }
            }
        }
    }
}

/// A product cut into equal tiles: `down` of them one behind the other in A, and `across` such columns in B.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) segments: &'a [Segment<'a>],
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    pub(crate) down: Repeat,
    pub(crate) across: Repeat,
    /// Distance from the vectors of a tile to those of the next across, which are asked for ahead of time. 0 if nothing
    /// is.
    pub(crate) ahead: isize,
    pub(crate) epilogue: Epilogue,
}

/// Multiplies tiles of M rows by N vectors.
///
/// # Safety
/// For every tile, every product of the segments and every row and vector, an element of A and LANES elements of B
/// must be readable, and what the epilogue points to must be valid.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, const M: usize, const N: usize>(s: S, product: &Product<'_>) {
    let Product { segments, a, b, down, across, ahead, epilogue } = product;
    for i in 0..across.count {
        for j in 0..down.count {
            let at = j as isize * down.out + i as isize * across.out;
            let a = Operand { at: a.at.wrapping_offset(j as isize * down.operand), ..*a };
            let b = Operand { at: b.at.wrapping_offset(i as isize * across.operand), ..*b };
            // SAFETY: as the caller promises.
            unsafe {
                let sums = multiply::<S, M, N>(s, segments, a, b, if j == 0 { *ahead } else { 0 });
                epilogue.finish(s, sums, at, [j * M, i * N]);
            }
        }
    }
}

/// The sums of a tile.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
    s: S,
    segments: &[Segment<'_>],
    a: Operand,
    b: Operand,
    ahead: isize,
) -> [[S::V; N]; M] {
    let mut sums = [[s.splat(0.0); N]; M];
    for segment in segments {
        for tap in segment.taps {
            let mut elements = Lines::<M>::new(a.at.wrapping_add(tap.a as usize), a.step);
            let mut vectors = Lines::<N>::new(b.at.wrapping_add(tap.b as usize), b.step);
            for _ in 0..segment.depth {
                if ahead != 0 {
                    for n in (0..N).step_by(LINE / S::LANES) {
                        s.prefetch(vectors.at(n).wrapping_offset(ahead));
                    }
                }
                // SAFETY: as the caller promises.
                unsafe { step(s, &elements, &vectors, &mut sums) };
                elements.advance(a.depth);
                vectors.advance(b.depth);
            }
        }
    }
    sums
}

/// Adds the products of M elements with N vectors.
///
/// # Safety
/// The elements and vectors must be readable.
#[inline(always)]
unsafe fn step<S: Simd, const M: usize, const N: usize>(s: S, a: &Lines<M>, b: &Lines<N>, sums: &mut [[S::V; N]; M]) {
    // SAFETY: as the caller promises.
    unsafe {
        let element = |m: usize| s.splat(*a.at(m));
        let vector = |n: usize| s.load(b.at(n));
        // The fewer operands stay in registers, the others pass.
        if M < N {
            let elements: [S::V; M] = std::array::from_fn(element);
            for n in 0..N {
                let v = vector(n);
                for (sums, element) in sums.iter_mut().zip(elements) {
                    sums[n] = s.fma(element, v, sums[n]);
                }
            }
        } else {
            let vectors: [S::V; N] = std::array::from_fn(vector);
            for (m, sums) in sums.iter_mut().enumerate() {
                let element = element(m);
                for (sum, v) in sums.iter_mut().zip(vectors) {
                    *sum = s.fma(element, v, *sum);
                }
            }
        }
    }
}

/// Pointers to lines at equal distances, so few of them that they stay in registers: every fourth, from which the
/// others are one, two and three steps away.
#[derive(Clone, Copy)]
struct Lines<const COUNT: usize> {
    every_fourth: [*const f32; 4],
    step: isize,
    three_steps: isize,
}

impl<const COUNT: usize> Lines<COUNT> {
    #[inline(always)]
    fn new(first: *const f32, step: isize) -> Self {
        let step = step.wrapping_mul(size_of::<f32>() as isize);
        let every_fourth = std::array::from_fn(|i| {
            let used = 4 * i < COUNT;
            if used { opaque(first.wrapping_byte_offset(4 * i as isize * step)) } else { first }
        });
        Lines { every_fourth, step, three_steps: step.wrapping_mul(3) }
    }

    #[inline(always)]
    fn at(&self, i: usize) -> *const f32 {
        let distance = match i % 4 {
            3 => self.three_steps,
            steps => self.step * steps as isize,
        };
        self.every_fourth[i / 4].wrapping_byte_offset(distance)
    }

    #[inline(always)]
    fn advance(&mut self, by: isize) {
        for pointer in &mut self.every_fourth[..COUNT.div_ceil(4)] {
            *pointer = opaque(pointer.wrapping_offset(by));
        }
    }
}

/// The same pointer, whose origin the compiler does not see: else it makes a pointer of its own for every line, which
/// are more than the registers hold.
#[inline(always)]
#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through the pointer")
)]
fn opaque(mut pointer: *const f32) -> *const f32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: no instruction.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags));
    }
    pointer
}
