//! Activations: values, and differences that do not cancel.
//!
//! With z the pre-activation of the forward pass and D its deviation, a relaxation in differences
//! needs f(z + D) - f(z) and f'(z + D). Subtracting two values of f would lose every digit that D
//! is smaller than z by, so each activation has a form of its own, given where it is computed;
//! w stands for z + D.

use std::fmt;
use std::str::FromStr;

use crate::level::Level;
use crate::math::*;
use crate::names::NameError;
use crate::simd::{Kernel, Simd, dispatch};

/// An elementwise function, as PyTorch's of the same name. See [`Local`](crate::Local) for an example.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// x.
    Identity,
    /// max(x, 0).
    Relu,
    /// x where x > 0, `negative_slope` x elsewhere.
    LeakyRelu {
        /// Slope for x <= 0, any finite number.
        negative_slope: f32,
    },
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x Phi(x).
    Gelu,
    /// x sigmoid(x).
    Silu,
    /// log(1 + e^x).
    Softplus,
}

impl Activation {
    /// The name in model files, as in `leaky_relu`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Relu => "relu",
            Activation::LeakyRelu { .. } => "leaky_relu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
            Activation::Gelu => "gelu",
            Activation::Silu => "silu",
            Activation::Softplus => "softplus",
        }
    }

    /// Whether it consists of linear pieces, and so costs very little.
    pub fn is_piecewise_linear(self) -> bool {
        matches!(self, Activation::Identity | Activation::Relu | Activation::LeakyRelu { .. })
    }
}

impl fmt::Display for Activation {
    /// The [name](Self::name).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Activation {
    type Err = NameError;

    /// The function of that name; leaky_relu has a slope of 0.01.
    fn from_str(name: &str) -> Result<Self, NameError> {
        use Activation::*;
        const LEAKY: Activation = LeakyRelu { negative_slope: 0.01 };
        NameError::find("activation", name, &[Identity, Relu, LEAKY, Tanh, Sigmoid, Gelu, Silu, Softplus])
    }
}

/// A function with its slope and its difference.
pub(crate) trait Function: Copy {
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V;
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V;
    /// f(w) - f(z) with w = z + d.
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V;
}

/// A pass over elements, given the function.
pub(crate) trait Pass {
    fn run<S: Simd, F: Function>(self, s: S, f: F);
}

struct With<F, P>(F, P);

impl<F: Function, P: Pass> Kernel for With<F, P> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.1.run(s, self.0);
    }
}

/// Runs a pass at a level, compiled for its function.
pub(crate) fn with_function<P: Pass>(activation: Activation, level: Level, pass: P) {
    match activation {
        Activation::Identity => dispatch(level, With(Identity, pass)),
        Activation::Relu => dispatch(level, With(Relu, pass)),
        Activation::LeakyRelu { negative_slope } => dispatch(level, With(LeakyRelu(negative_slope), pass)),
        Activation::Tanh => dispatch(level, With(Tanh, pass)),
        Activation::Sigmoid => dispatch(level, With(Sigmoid, pass)),
        Activation::Gelu => dispatch(level, With(Gelu, pass)),
        Activation::Silu => dispatch(level, With(Silu, pass)),
        Activation::Softplus => dispatch(level, With(Softplus, pass)),
    }
}

/// As [`with_function`], where the function is taken more often than its result is used: for those of which
/// that is worth its time, and the time to compile it.
///
/// # Panics
/// If the activation is another.
pub(crate) fn with_linear_pieces<P: Pass>(activation: Activation, level: Level, pass: P) {
    match activation {
        Activation::Identity => dispatch(level, With(Identity, pass)),
        Activation::Relu => dispatch(level, With(Relu, pass)),
        Activation::LeakyRelu { negative_slope } => dispatch(level, With(LeakyRelu(negative_slope), pass)),
        _ => unreachable!("{activation:?} is not made of linear pieces"),
    }
}

/// Reads n <= LANES elements, for which `from` must be valid.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(s: S, from: *const f32, n: usize) -> S::V {
    // SAFETY: as the caller promises.
    unsafe { if n == S::LANES { s.load(from) } else { s.load_first(from, n) } }
}

/// Writes n <= LANES elements, for which `to` must be valid.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(s: S, to: *mut f32, v: S::V, n: usize) {
    // SAFETY: as the caller promises.
    unsafe { if n == S::LANES { s.store(to, v) } else { s.store_first(to, v, n) } }
}

#[derive(Clone, Copy)]
struct Identity;

impl Function for Identity {
    #[inline(always)]
    fn value<S: Simd>(self, _: S, z: S::V) -> S::V {
        z
    }
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, _: S::V) -> S::V {
        s.splat(1.0)
    }
    #[inline(always)]
    fn difference<S: Simd>(self, _: S, _: S::V, d: S::V, _: S::V) -> S::V {
        d
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Function for Relu {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        s.max(s.splat(0.0), z)
    }
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        s.select(s.lt(s.splat(0.0), w), s.splat(1.0), s.splat(0.0))
    }
    /// max(d, -z) where z > 0, else max(w, 0).
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let zero = s.splat(0.0);
        s.select(s.lt(zero, z), s.max(s.neg(z), d), s.max(zero, w))
    }
}

/// Slope 1 above 0, the given one elsewhere (PyTorch's at 0).
#[derive(Clone, Copy)]
struct LeakyRelu(f32);

impl Function for LeakyRelu {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        let positive = s.lt(s.splat(0.0), z);
        s.select(positive, z, s.mul(s.splat(self.0), z))
    }
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        s.select(s.lt(s.splat(0.0), w), s.splat(1.0), s.splat(self.0))
    }
    /// By the sides of z and w: d, a w - z, w - a z, a d; NaN if either is.
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let (zero, a) = (s.splat(0.0), s.splat(self.0));
        let (z_positive, w_positive) = (s.lt(zero, z), s.lt(zero, w));
        let from_positive = s.select(w_positive, d, s.sub(s.mul(a, w), z));
        let from_negative = s.select(w_positive, s.sub(w, s.mul(a, z)), s.mul(a, d));
        s.select(s.eq(w, w), s.select(z_positive, from_positive, from_negative), w)
    }
}

#[derive(Clone, Copy)]
struct Tanh;

impl Function for Tanh {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        // tanh |z| = (1 - e^-2|z|) / (1 + e^-2|z|)
        let m = expm1(s, s.mul(s.abs(z), s.splat(-2.0)));
        let t = s.div(s.neg(m), s.add(m, s.splat(2.0)));
        s.select(s.lt(z, s.splat(0.0)), s.neg(t), t)
    }
    /// 1 / cosh^2 w = 4 e / (1 + e)^2 with e = e^-2|w|.
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        let e = exp(s, s.mul(s.abs(w), s.splat(-2.0)));
        let q = s.div(s.splat(2.0), s.add(e, s.splat(1.0)));
        s.mul(s.mul(e, q), q)
    }
    /// sinh d / (cosh z cosh w). With a = e^-2|z| and b = e^-2|w| it is
    /// +-2 (1 - e^-2|d|) m / ((1 + a)(1 + b)) with the sign of d, where m = e^(|d|-|z|-|w|) is 1 if
    /// z and w lie on opposite sides of 0 (there |d| = |z| + |w|), and max(a, b) if on the same.
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let (one, zero, minus_two) = (s.splat(1.0), s.splat(0.0), s.splat(-2.0));
        let a = exp(s, s.mul(s.abs(z), minus_two));
        let b = exp(s, s.mul(s.abs(w), minus_two));
        let larger = s.select(s.lt(a, b), b, a);
        let opposite = s.select(s.lt(z, zero), s.select(s.lt(zero, w), one, zero), s.select(s.lt(w, zero), one, zero));
        let m = s.select(s.eq(opposite, one), one, larger);
        let span = s.mul(minus_two, expm1(s, s.mul(s.abs(d), minus_two)));
        let size = s.div(s.mul(span, m), s.mul(s.add(one, a), s.add(one, b)));
        s.select(s.lt(d, zero), s.neg(size), size)
    }
}

#[derive(Clone, Copy)]
struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        sigmoid(s, z)
    }
    /// e / (1 + e)^2 with e = e^-|w|.
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        let e = exp(s, s.neg(s.abs(w)));
        let q = s.div(s.splat(1.0), s.add(e, s.splat(1.0)));
        s.mul(s.mul(e, q), q)
    }
    /// s(upper) s(-lower) (1 - e^-|d|) with the sign of d, where upper and lower are the larger and
    /// the smaller of z and w.
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let falls = s.lt(d, s.splat(0.0));
        let (upper, lower) = (s.select(falls, z, w), s.select(falls, w, z));
        let span = expm1(s, s.neg(s.abs(d)));
        let product = s.mul(s.mul(sigmoid(s, upper), sigmoid(s, s.neg(lower))), span);
        s.select(falls, product, s.neg(product))
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        s.mul(z, sigmoid(s, z))
    }
    /// s(w) (1 + w s(-w)).
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        s.mul(sigmoid(s, w), s.fma(w, sigmoid(s, s.neg(w)), s.splat(1.0)))
    }
    /// d s(w) + z (s(w) - s(z)).
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        s.fma(d, sigmoid(s, w), s.mul(z, Sigmoid.difference(s, z, d, w)))
    }
}

#[derive(Clone, Copy)]
struct Softplus;

impl Function for Softplus {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        softplus(s, z)
    }
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        sigmoid(s, w)
    }
    /// With the smaller of z and w called lower, and a = |d|: for a <= 1 it is
    /// log1p(s(lower) expm1(a)). For larger a the two values differ enough to be subtracted if lower
    /// is negative; else softplus(x) = x + softplus(-x) gives a + log1p(s(-lower) expm1(-a)).
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        let falls = s.lt(d, zero);
        let (upper, lower) = (s.select(falls, z, w), s.select(falls, w, z));
        let a = s.abs(d);
        let near = log1p_moderate(s, s.mul(sigmoid(s, lower), expm1(s, s.min(one, a))));
        let apart = s.sub(softplus(s, upper), softplus(s, lower));
        let high = s.add(a, log1p_moderate(s, s.mul(sigmoid(s, s.neg(lower)), expm1(s, s.neg(a)))));
        let far = s.select(s.lt(lower, zero), apart, high);
        let size = s.select(s.lt(one, a), far, near);
        s.select(falls, s.neg(size), size)
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Gelu {
    /// Phi(w) - Phi(z). Up to |d| = 1/4 it is the four-point Gauss-Legendre sum of the density,
    /// whose error is below rounding as far as f32 reaches; beyond, the tails on the same side of
    /// 0 are subtracted, which are small where the distribution is close to 1.
    #[inline(always)]
    fn distribution_difference<S: Simd>(s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        const NODES: [f32; 4] = [0.069_431_84, 0.330_009_5, 0.669_990_5, 0.930_568_16];
        const WEIGHTS: [f32; 4] = [0.173_927_42, 0.326_072_58, 0.326_072_58, 0.173_927_42];
        let mut mean = s.splat(0.0);
        for (node, weight) in NODES.into_iter().zip(WEIGHTS) {
            let density = normal_density(s, s.fma(d, s.splat(node), z));
            mean = s.fma(s.splat(weight), density, mean);
        }
        let near = s.mul(d, mean);
        let (z_tail, w_tail) = (normal_tail(s, s.abs(z)), normal_tail(s, s.abs(w)));
        let zero = s.splat(0.0);
        let (z_positive, w_positive) = (s.lt(zero, z), s.lt(zero, w));
        let to_positive = s.sub(s.splat(1.0), s.add(w_tail, z_tail));
        let from_positive = s.select(w_positive, s.sub(z_tail, w_tail), s.neg(to_positive));
        let from_negative = s.select(w_positive, to_positive, s.sub(w_tail, z_tail));
        let far = s.select(z_positive, from_positive, from_negative);
        s.select(s.lt(s.splat(0.25), s.abs(d)), far, near)
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        s.mul(z, normal_distribution(s, z))
    }
    /// Phi(w) + w phi(w).
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        s.fma(w, normal_density(s, w), normal_distribution(s, w))
    }
    /// d Phi(w) + z (Phi(w) - Phi(z)).
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        s.fma(d, normal_distribution(s, w), s.mul(z, Gelu::distribution_difference(s, z, d, w)))
    }
}
