//! What the compiler's target baseline has, through `wide`: SSE2 on x86-64, NEON on Arm.

use wide::{f32x4, i32x4};

use super::Simd;

/// Vectors of four: tiles fit the 16 registers of SSE2.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    const LANES: usize = 4;
    type V = f32x4;
    type Mask = f32x4;

    #[inline(always)]
    fn splat(self, x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> f32x4 {
        // SAFETY: four elements are valid by contract; an array of f32 needs no more alignment than f32.
        f32x4::from(unsafe { from.cast::<[f32; 4]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: f32x4) {
        // SAFETY: four elements are valid by contract; an array of f32 needs no more alignment than f32.
        unsafe { to.cast::<[f32; 4]>().write(v.to_array()) }
    }
    #[inline(always)]
    fn add(self, a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x4, b: f32x4) -> f32x4 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x4, b: f32x4) -> f32x4 {
        a / b
    }
    #[inline(always)]
    fn fma(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn max(self, a: f32x4, b: f32x4) -> f32x4 {
        b.simd_lt(a).bitselect(a, b)
    }
    #[inline(always)]
    fn min(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_lt(b).bitselect(a, b)
    }
    #[inline(always)]
    fn abs(self, a: f32x4) -> f32x4 {
        a.abs()
    }
    #[inline(always)]
    fn round(self, a: f32x4) -> f32x4 {
        // Adding 1.5 * 2^23 leaves no bit for a fraction; the addition rounds to even.
        let magic = f32x4::splat(12_582_912.0);
        (a + magic) - magic
    }
    #[inline(always)]
    fn exp2i(self, a: f32x4) -> f32x4 {
        // 2^23 + 127 + a holds the biased exponent in its low bits.
        let biased: i32x4 = bits(a + f32x4::splat(8_388_608.0 + 127.0));
        from_bits(biased << 23)
    }
    #[inline(always)]
    fn lt(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_lt(b)
    }
    #[inline(always)]
    fn eq(self, a: f32x4, b: f32x4) -> f32x4 {
        a.simd_eq(b)
    }
    #[inline(always)]
    fn select(self, mask: f32x4, yes: f32x4, no: f32x4) -> f32x4 {
        mask.bitselect(yes, no)
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: four rows of four elements are valid at both by contract.
        unsafe {
            let rows = [0, 1, 2, 3].map(|i| self.load(from.add(i * from_stride)));
            for (j, column) in f32x4::transpose(rows).into_iter().enumerate() {
                self.store(to.add(j * to_stride), column);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, n: usize) -> f32x4 {
        // SAFETY: only the first n elements are read, which are valid by contract.
        f32x4::from([0, 1, 2, 3].map(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
    }
    #[inline(always)]
    fn sum(self, v: f32x4) -> f32 {
        let [a, b, c, d] = v.to_array();
        (a + c) + (b + d)
    }
}

#[inline(always)]
fn bits(v: f32x4) -> i32x4 {
    i32x4::from(v.to_array().map(|x| x.to_bits() as i32))
}

#[inline(always)]
fn from_bits(v: i32x4) -> f32x4 {
    f32x4::from(v.to_array().map(|x| f32::from_bits(x as u32)))
}
