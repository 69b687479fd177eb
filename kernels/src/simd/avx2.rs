//! AVX2 with FMA: vectors of eight, 16 registers.
//!
//! Every intrinsic here is sound because an [`Avx2`] is made by `dispatch` and the table of leaves alone, after the
//! CPU was found to have AVX2 and FMA.

use std::arch::x86_64::*;

use super::Simd;
use super::portable::methods;

type V = __m256;

#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(crate) ());

/// Calls an intrinsic that has no other requirement than its CPU feature.
macro_rules! avx2 {
    ($call:expr) => {
        // SAFETY: the CPU has AVX2 and FMA, see the module's documentation.
        unsafe { $call }
    };
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type V = V;
    type Mask = V;

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: eight elements are valid by contract, and the CPU has AVX2.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: V) {
        // SAFETY: eight elements are valid by contract, and the CPU has AVX2.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    methods! {
        splat(x: f32) -> V { avx2!(_mm256_set1_ps(x)) }
        prefetch(at: *const f32) { avx2!(_mm_prefetch::<_MM_HINT_T0>(at.cast())) }
        add(a: V, b: V) -> V { avx2!(_mm256_add_ps(a, b)) }
        sub(a: V, b: V) -> V { avx2!(_mm256_sub_ps(a, b)) }
        mul(a: V, b: V) -> V { avx2!(_mm256_mul_ps(a, b)) }
        div(a: V, b: V) -> V { avx2!(_mm256_div_ps(a, b)) }
        max(a: V, b: V) -> V { avx2!(_mm256_max_ps(a, b)) }
        min(a: V, b: V) -> V { avx2!(_mm256_min_ps(a, b)) }
        fma(a: V, b: V, c: V) -> V { avx2!(_mm256_fmadd_ps(a, b, c)) }
        lost_by_square(a: V, square: V) -> V { avx2!(_mm256_fmsub_ps(a, a, square)) }
        abs(a: V) -> V { avx2!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a)) }
        round(a: V) -> V { avx2!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)) }
        exp2i(a: V) -> V {
            avx2!({
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
            })
        }
        lt(a: V, b: V) -> V { avx2!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
        eq(a: V, b: V) -> V { avx2!(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b)) }
        select(mask: V, yes: V, no: V) -> V { avx2!(_mm256_blendv_ps(no, yes, mask)) }
        sum(v: V) -> f32 {
            avx2!({
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            })
        }
    }
    /// Halves of pairs, of fours, then of the vector: what is exchanged doubles its distance each time.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: eight rows of eight elements are valid at both by contract, and the CPU has AVX2.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm256_loadu_ps(from.add(i * from_stride));
            }
            let mut pairs = r;
            for i in 0..4 {
                pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut fours = pairs;
            for half in 0..2 {
                let p = 4 * half;
                fours[p] = _mm256_shuffle_ps::<0x44>(pairs[p], pairs[p + 2]);
                fours[p + 1] = _mm256_shuffle_ps::<0xee>(pairs[p], pairs[p + 2]);
                fours[p + 2] = _mm256_shuffle_ps::<0x44>(pairs[p + 1], pairs[p + 3]);
                fours[p + 3] = _mm256_shuffle_ps::<0xee>(pairs[p + 1], pairs[p + 3]);
            }
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
                let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
                _mm256_storeu_ps(to.add(i * to_stride), low);
                _mm256_storeu_ps(to.add((i + 4) * to_stride), high);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> V {
        // SAFETY: lanes beyond n are masked off and not read; the n before are valid by contract.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes))
        }
    }
}
