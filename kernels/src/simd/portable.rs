//! What the compiler's target baseline has, through `wide`: SSE2 on x86-64, NEON on Arm.

use wide::{f32x4, i32x4};

use super::Simd;

/// Safe methods of a [`Simd`], all of them inlined.
macro_rules! methods {
    ($($name:ident($($operand:ident: $type:ty),*) $(-> $result:ty)? $body:block)*) => {
        $(#[inline(always)]
        fn $name(self, $($operand: $type),*) $(-> $result)? $body)*
    };
}
pub(super) use methods;

/// Vectors of four: tiles fit the 16 registers of SSE2.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    const LANES: usize = 4;
    type V = f32x4;
    type Mask = f32x4;

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
    methods! {
        splat(x: f32) -> f32x4 { f32x4::splat(x) }
        add(a: f32x4, b: f32x4) -> f32x4 { a + b }
        sub(a: f32x4, b: f32x4) -> f32x4 { a - b }
        mul(a: f32x4, b: f32x4) -> f32x4 { a * b }
        div(a: f32x4, b: f32x4) -> f32x4 { a / b }
        fma(a: f32x4, b: f32x4, c: f32x4) -> f32x4 { a.mul_add(b, c) }
        max(a: f32x4, b: f32x4) -> f32x4 { b.simd_lt(a).bitselect(a, b) }
        min(a: f32x4, b: f32x4) -> f32x4 { a.simd_lt(b).bitselect(a, b) }
        abs(a: f32x4) -> f32x4 { a.abs() }
        round(a: f32x4) -> f32x4 {
            // Adding 1.5 * 2^23 leaves no bit for a fraction; the addition rounds to even.
            let magic = f32x4::splat(12_582_912.0);
            (a + magic) - magic
        }
        exp2i(a: f32x4) -> f32x4 {
            // 2^23 + 127 + a holds the biased exponent in its low bits.
            let biased = (a + f32x4::splat(8_388_608.0 + 127.0)).to_array().map(|x| x.to_bits() as i32);
            let shifted: i32x4 = i32x4::from(biased) << 23;
            f32x4::from(shifted.to_array().map(|x| f32::from_bits(x as u32)))
        }
        lt(a: f32x4, b: f32x4) -> f32x4 { a.simd_lt(b) }
        eq(a: f32x4, b: f32x4) -> f32x4 { a.simd_eq(b) }
        select(mask: f32x4, yes: f32x4, no: f32x4) -> f32x4 { mask.bitselect(yes, no) }
        sum(v: f32x4) -> f32 {
            let [a, b, c, d] = v.to_array();
            (a + c) + (b + d)
        }
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
}
