//! AVX-512F: vectors of sixteen, 32 registers.
//!
//! Every intrinsic here is sound because an [`Avx512`] is made by `dispatch` and the table of leaves alone, after the
//! CPU was found to have AVX-512F.

use std::arch::x86_64::*;

use super::Simd;
use super::portable::methods;

type V = __m512;

#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(crate) ());

/// Calls an intrinsic that has no other requirement than its CPU feature.
macro_rules! avx512 {
    ($call:expr) => {
        // SAFETY: the CPU has AVX-512F, see the module's documentation.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    type V = V;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: sixteen elements are valid by contract, and the CPU has AVX-512F.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: V) {
        // SAFETY: sixteen elements are valid by contract, and the CPU has AVX-512F.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    methods! {
        splat(x: f32) -> V { avx512!(_mm512_set1_ps(x)) }
        prefetch(at: *const f32) { avx512!(_mm_prefetch::<_MM_HINT_T0>(at.cast())) }
        add(a: V, b: V) -> V { avx512!(_mm512_add_ps(a, b)) }
        sub(a: V, b: V) -> V { avx512!(_mm512_sub_ps(a, b)) }
        mul(a: V, b: V) -> V { avx512!(_mm512_mul_ps(a, b)) }
        div(a: V, b: V) -> V { avx512!(_mm512_div_ps(a, b)) }
        max(a: V, b: V) -> V { avx512!(_mm512_max_ps(a, b)) }
        min(a: V, b: V) -> V { avx512!(_mm512_min_ps(a, b)) }
        fma(a: V, b: V, c: V) -> V { avx512!(_mm512_fmadd_ps(a, b, c)) }
        lost_by_square(a: V, square: V) -> V { avx512!(_mm512_fmsub_ps(a, a, square)) }
        abs(a: V) -> V { avx512!(_mm512_abs_ps(a)) }
        round(a: V) -> V { avx512!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)) }
        exp2i(a: V) -> V { avx512!(_mm512_scalef_ps(_mm512_set1_ps(1.0), a)) }
        lt(a: V, b: V) -> __mmask16 { avx512!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b)) }
        eq(a: V, b: V) -> __mmask16 { avx512!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b)) }
        select(mask: __mmask16, yes: V, no: V) -> V { avx512!(_mm512_mask_blend_ps(mask, no, yes)) }
        sum(v: V) -> f32 { avx512!(_mm512_reduce_add_ps(v)) }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: sixteen rows of sixteen elements are valid at both by contract.
        unsafe { self.transpose_part(from, from_stride, [16, 16], to, to_stride, 16) }
    }
    #[inline(always)]
    unsafe fn transpose_part(
        self,
        from: *const f32,
        from_stride: usize,
        [rows, columns]: [usize; 2],
        to: *mut f32,
        to_stride: usize,
        width: usize,
    ) {
        // SAFETY: `columns` elements of `rows` rows are valid at `from` by contract, `width` elements of `columns`
        // rows at `to`; what is masked off is not accessed. The CPU has AVX-512F.
        unsafe {
            let mut block = [_mm512_setzero_ps(); 16];
            for (i, row) in block.iter_mut().enumerate() {
                let mask = if i < rows { first(columns) } else { 0 };
                *row = _mm512_maskz_loadu_ps(mask, from.wrapping_add(i.wrapping_mul(from_stride)));
            }
            for (j, column) in transposed(block).into_iter().enumerate() {
                let mask = if j < columns { first(width) } else { 0 };
                _mm512_mask_storeu_ps(to.wrapping_add(j * to_stride), mask, column);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> V {
        // SAFETY: lanes beyond n are masked off and not read; the n before are valid by contract.
        unsafe { _mm512_maskz_loadu_ps(first(n), from) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, v: V, n: usize) {
        // SAFETY: lanes beyond n are masked off and not written; the n before are valid by contract.
        unsafe { _mm512_mask_storeu_ps(to, first(n), v) }
    }
}

/// A mask of the first n <= 16 lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// The columns of a block of sixteen rows: halves of pairs, of fours, of eights, then of the vector;
/// what is exchanged doubles its distance each time.
#[inline(always)]
fn transposed(rows: [V; 16]) -> [V; 16] {
    // SAFETY: the CPU has AVX-512F, see the module's documentation.
    unsafe {
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        // Vector 4 g + q holds, in its 128-bit part t, column 4 t + q of rows 4 g to 4 g + 3.
        let mut fours = pairs;
        for g in 0..4 {
            let p = 4 * g;
            fours[p] = _mm512_shuffle_ps::<0x44>(pairs[p], pairs[p + 2]);
            fours[p + 1] = _mm512_shuffle_ps::<0xee>(pairs[p], pairs[p + 2]);
            fours[p + 2] = _mm512_shuffle_ps::<0x44>(pairs[p + 1], pairs[p + 3]);
            fours[p + 3] = _mm512_shuffle_ps::<0xee>(pairs[p + 1], pairs[p + 3]);
        }
        let mut columns = fours;
        for q in 0..4 {
            let even_low = _mm512_shuffle_f32x4::<0x88>(fours[q], fours[q + 4]);
            let odd_low = _mm512_shuffle_f32x4::<0xdd>(fours[q], fours[q + 4]);
            let even_high = _mm512_shuffle_f32x4::<0x88>(fours[q + 8], fours[q + 12]);
            let odd_high = _mm512_shuffle_f32x4::<0xdd>(fours[q + 8], fours[q + 12]);
            columns[q] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
            columns[4 + q] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
            columns[8 + q] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
            columns[12 + q] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
        }
        columns
    }
}
