//! From a level to code compiled for its instructions.

use super::{Simd, portable::Portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use crate::level::{Isa, Level};

/// A computation of an `R`, written once over [`Simd`].
pub(crate) trait Kernel<R = ()> {
    /// Runs it. Must be `#[inline(always)]`, as must all that it calls in its inner loops: the
    /// instructions are enabled in the function that [`dispatch`] inlines it into, and only there.
    fn run<S: Simd>(self, simd: S) -> R;
}

/// Runs a kernel with the instructions of a level.
#[inline]
pub(crate) fn dispatch<R, K: Kernel<R>>(level: Level, kernel: K) -> R {
    match level.isa() {
        Isa::Portable => portable(kernel),
        // SAFETY: a `Level` exists only if the CPU has its instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(kernel) },
        // SAFETY: a `Level` exists only if the CPU has its instructions.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(kernel) },
    }
}

/// Elements of a vector at a level.
pub(crate) fn lanes(level: Level) -> usize {
    dispatch(level, Lanes)
}

/// A function of its own, so that unoptimised callers of the other levels do not have its variables on their stack.
fn portable<R, K: Kernel<R>>(kernel: K) -> R {
    kernel.run(Portable)
}

struct Lanes;

impl Kernel<usize> for Lanes {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<R, K: Kernel<R>>(kernel: K) -> R {
    kernel.run(Avx2(()))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn avx512<R, K: Kernel<R>>(kernel: K) -> R {
    kernel.run(Avx512(()))
}
