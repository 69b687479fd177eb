//! Elementary functions over vectors, each to a few units in the last place.
//!
//! exp and expm1 write x = n ln 2 + r with |r| <= ln(2)/2 and sum the Taylor series of e^r - 1,
//! whose eighth term is below f32's rounding; NaN stays NaN.

use crate::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: n times the first is exact for |n| < 2^11.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// n and e^r - 1 of x = n ln 2 + r.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        p = s.fma(p, r, s.splat(coefficient));
    }
    (n, s.fma(s.mul(r, r), p, r))
}

/// e^x.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let (n, e) = reduce(s, x);
    // Two factors, since 2^n may be above or below the range of normal numbers.
    let half = s.round(s.mul(n, s.splat(0.5)));
    let rest = s.sub(n, half);
    s.mul(s.mul(s.add(e, s.splat(1.0)), s.exp2i(half)), s.exp2i(rest))
}

/// e^x - 1, to relative precision near 0.
#[inline(always)]
pub(crate) fn expm1<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-30.0), s.min(s.splat(89.0), x));
    let (n, e) = reduce(s, x);
    let half = s.round(s.mul(n, s.splat(0.5)));
    let (a, b) = (s.exp2i(half), s.exp2i(s.sub(n, half)));
    // a (b e + (b - 1/a)) = 2^n e + 2^n - 1; 1/a = 2^-half.
    let inverse = s.exp2i(s.neg(half));
    s.mul(a, s.fma(b, e, s.sub(b, inverse)))
}

/// log(1 + x) for -0.6 <= x <= 2, to relative precision near 0: 2 artanh(x / (2 + x)) by its series.
#[inline(always)]
pub(crate) fn log1p_moderate<S: Simd>(s: S, x: S::V) -> S::V {
    let t = s.div(x, s.add(x, s.splat(2.0)));
    let t2 = s.mul(t, t);
    let mut p = s.splat(1.0 / 19.0);
    for divisor in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = s.fma(p, t2, s.splat(1.0 / divisor));
    }
    let t_twice = s.add(t, t);
    s.fma(s.mul(p, t2), t_twice, t_twice)
}

/// 1 / (1 + e^-x), to relative precision in its lower tail.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.neg(s.abs(x)));
    let numerator = s.select(s.lt(x, s.splat(0.0)), e, s.splat(1.0));
    s.div(numerator, s.add(e, s.splat(1.0)))
}

/// log(1 + e^x).
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    s.add(s.max(s.splat(0.0), x), log1p_moderate(s, exp(s, s.neg(s.abs(x)))))
}

/// The normal density e^(-x^2/2) / sqrt(2 pi), to relative precision in its tails.
#[inline(always)]
pub(crate) fn normal_density<S: Simd>(s: S, x: S::V) -> S::V {
    const INVERSE_SQRT_2PI: f32 = 0.398_942_3;
    s.mul(gaussian(s, x), s.splat(INVERSE_SQRT_2PI))
}

/// e^(-x^2/2); the rounding of x^2, which the exponential would magnify, is put back.
#[inline(always)]
fn gaussian<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond 15 the result is 0 in f32, and infinity must not meet itself in the difference below.
    let x = s.max(s.splat(-15.0), s.min(s.splat(15.0), x));
    let square = s.mul(x, x);
    let lost = s.lost_by_square(x, square);
    let e = exp(s, s.mul(square, s.splat(-0.5)));
    s.fma(s.mul(e, s.splat(-0.5)), lost, e)
}

/// The upper tail of the normal distribution, Q(x) = 1 - Phi(x), for x >= 0 and to relative precision.
///
/// Q(x) e^(x^2/2) = t P(t) with t = 1 / (1 + 0.3 x); P is the Chebyshev fit of degree 10 over
/// 0 < t <= 1, off by at most 2.4e-8.
#[inline(always)]
pub(crate) fn normal_tail<S: Simd>(s: S, x: S::V) -> S::V {
    const FIT: [f32; 11] = [
        -0.011_062_28,
        0.040_306_92,
        -0.033_376_16,
        -0.029_246_084,
        0.020_960_936,
        0.016_644_526,
        0.060_438_2,
        0.087_036_185,
        0.108_932_905,
        0.119_682_156,
        0.119_682_685,
    ];
    let t = s.div(s.splat(1.0), s.fma(x, s.splat(0.3), s.splat(1.0)));
    let mut p = s.splat(FIT[0]);
    for coefficient in &FIT[1..] {
        p = s.fma(p, t, s.splat(*coefficient));
    }
    s.mul(s.mul(p, t), gaussian(s, x))
}

/// The normal distribution function Phi(x), to relative precision in its lower tail.
#[inline(always)]
pub(crate) fn normal_distribution<S: Simd>(s: S, x: S::V) -> S::V {
    let tail = normal_tail(s, s.abs(x));
    s.select(s.lt(s.splat(0.0), x), s.sub(s.splat(1.0), tail), tail)
}
