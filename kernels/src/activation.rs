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
    /// x limited to a range.
    Hardtanh {
        /// The least value.
        min_val: f32,
        /// The largest value, which is no smaller.
        max_val: f32,
    },
    /// x where x > 0, `alpha` (e^x - 1) elsewhere.
    Elu {
        /// Minus the value far below 0, any finite number.
        alpha: f32,
    },
    /// 1.0507 x where x > 0, 1.0507 times 1.6733 (e^x - 1) elsewhere.
    Selu,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x Phi(x).
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, which is close to x Phi(x).
    GeluTanh,
    /// x sigmoid(x).
    Silu,
    /// log(1 + e^(beta x)) / beta, or x where beta x is above a threshold. From a threshold of 20 on that makes no
    /// difference in f32, and is not done.
    Softplus {
        /// How steep the bend is, a finite number above 0.
        beta: f32,
        /// PyTorch's is 20.
        threshold: f32,
    },
}

impl Activation {
    /// The name, as in `leaky_relu`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Relu => "relu",
            Activation::LeakyRelu { .. } => "leaky_relu",
            Activation::Hardtanh { .. } => "hardtanh",
            Activation::Elu { .. } => "elu",
            Activation::Selu => "selu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Silu => "silu",
            Activation::Softplus { .. } => "softplus",
        }
    }

    /// Whether it consists of linear pieces, and so costs very little.
    pub fn is_piecewise_linear(self) -> bool {
        use Activation::*;
        matches!(self, Identity | Relu | LeakyRelu { .. } | Hardtanh { .. })
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

    /// The function of that name with PyTorch's defaults: leaky_relu has a slope of 0.01, hardtanh a range of -1 to 1, elu
    /// an alpha of 1, softplus a beta of 1 and a threshold of 20.
    fn from_str(name: &str) -> Result<Self, NameError> {
        use Activation::*;
        let leaky = LeakyRelu { negative_slope: 0.01 };
        let (hardtanh, elu) = (Hardtanh { min_val: -1.0, max_val: 1.0 }, Elu { alpha: 1.0 });
        let softplus = Softplus { beta: 1.0, threshold: 20.0 };
        let all = [Identity, Relu, leaky, hardtanh, elu, Selu, Tanh, Sigmoid, Gelu, GeluTanh, Silu, softplus];
        NameError::find("activation", name, &all)
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
        Activation::Elu { alpha } => dispatch(level, With(Elu::new(alpha.into(), 1.0), pass)),
        Activation::Selu => dispatch(level, With(Elu::SELU, pass)),
        Activation::Tanh => dispatch(level, With(Tanh, pass)),
        Activation::Sigmoid => dispatch(level, With(Sigmoid, pass)),
        Activation::Gelu => dispatch(level, With(Gelu, pass)),
        Activation::GeluTanh => dispatch(level, With(GeluTanh, pass)),
        Activation::Silu => dispatch(level, With(Silu, pass)),
        Activation::Softplus { beta: 1.0, threshold: SURE.. } => dispatch(level, With(Softplus, pass)),
        Activation::Softplus { beta, threshold } => {
            let threshold = if threshold < SURE { threshold } else { f32::INFINITY };
            dispatch(level, With(SharpSoftplus { beta, threshold }, pass));
        }
        Activation::Identity | Activation::Relu | Activation::LeakyRelu { .. } | Activation::Hardtanh { .. } => {
            with_linear_pieces(activation, level, pass);
        }
    }
}

/// The threshold from which on the softplus of what is above is itself, to f32's rounding.
const SURE: f32 = 20.0;

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
        Activation::Hardtanh { min_val, max_val } => dispatch(level, With(Hardtanh { min_val, max_val }, pass)),
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

/// Slope 1 inside of the range, 0 at its ends (PyTorch's) and beyond.
#[derive(Clone, Copy)]
struct Hardtanh {
    min_val: f32,
    max_val: f32,
}

impl Function for Hardtanh {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        s.min(s.splat(self.max_val), s.max(s.splat(self.min_val), z))
    }
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        let above = s.select(s.lt(s.splat(self.min_val), w), s.splat(1.0), s.splat(0.0));
        s.select(s.lt(w, s.splat(self.max_val)), above, s.splat(0.0))
    }
    /// With y = f(z), how far w is from there, (z - y) + d, limited to the range about y.
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, _: S::V) -> S::V {
        let y = self.value(s, z);
        let (down, up) = (s.sub(s.splat(self.min_val), y), s.sub(s.splat(self.max_val), y));
        s.min(up, s.max(down, s.add(s.sub(z, y), d)))
    }
}

/// `slope` x above 0, `below` (e^x - 1) elsewhere.
#[derive(Clone, Copy)]
struct Elu {
    slope: f32,
    below: f32,
}

impl Elu {
    /// Klambauer et al. (2017), with the digits of PyTorch.
    const SELU: Elu = Elu::new(1.673_263_242_354_377_2, 1.050_700_987_355_480_5);

    const fn new(alpha: f64, scale: f64) -> Self {
        Elu { slope: scale as f32, below: (alpha * scale) as f32 }
    }
}

impl Function for Elu {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        let [above, below] = [s.mul(s.splat(self.slope), z), s.mul(s.splat(self.below), expm1(s, z))];
        s.select(s.lt(s.splat(0.0), z), above, below)
    }
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        s.select(s.lt(s.splat(0.0), w), s.splat(self.slope), s.mul(s.splat(self.below), exp(s, w)))
    }
    /// With the larger of z and w called upper: `slope` d above 0; `below` e^upper (1 - e^-|d|) with the sign of d below;
    /// the difference of the values, of which one is above 0 and one is not, from one side to the other.
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let (zero, slope, below) = (s.splat(0.0), s.splat(self.slope), s.splat(self.below));
        let (z_positive, w_positive, falls) = (s.lt(zero, z), s.lt(zero, w), s.lt(d, zero));
        let size = s.mul(exp(s, s.select(falls, z, w)), expm1(s, s.neg(s.abs(d))));
        let under = s.mul(below, s.select(falls, size, s.neg(size)));
        let lower = expm1(s, s.select(z_positive, w, z));
        let from_positive = s.select(w_positive, s.mul(slope, d), s.fma(below, lower, s.neg(s.mul(slope, z))));
        let from_negative = s.select(w_positive, s.fma(s.neg(below), lower, s.mul(slope, w)), under);
        s.select(z_positive, from_positive, from_negative)
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

/// x sigmoid(q) with q(x) = 2 sqrt(2 / pi) (x + 0.044715 x^3).
#[derive(Clone, Copy)]
struct GeluTanh;

impl GeluTanh {
    const TWICE_ROOT: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;

    /// As far as sigmoid(q) is neither 0 nor 1, so that no power of it is infinite.
    #[inline(always)]
    fn limited<S: Simd>(s: S, x: S::V) -> S::V {
        s.max(s.splat(-15.0), s.min(s.splat(15.0), x))
    }

    /// q(x) of what is [limited](Self::limited).
    #[inline(always)]
    fn argument<S: Simd>(s: S, x: S::V) -> S::V {
        let bend = s.fma(s.mul(x, x), s.splat(Self::CUBIC), s.splat(1.0));
        s.mul(s.mul(x, s.splat(Self::TWICE_ROOT)), bend)
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        s.mul(z, sigmoid(s, Self::argument(s, Self::limited(s, z))))
    }
    /// s(q) + w s(q) s(-q) q'(w).
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        let limited = Self::limited(s, w);
        let q = Self::argument(s, limited);
        let square = s.mul(limited, limited);
        let steepness = s.mul(s.splat(Self::TWICE_ROOT), s.fma(square, s.splat(3.0 * Self::CUBIC), s.splat(1.0)));
        let gate = sigmoid(s, q);
        s.fma(s.mul(w, gate), s.mul(steepness, sigmoid(s, s.neg(q))), gate)
    }
    /// d s(q(w)) + z (s(q(w)) - s(q(z))), where q(w) - q(z) is d times what the sums of w^2 + w z + z^2, or
    /// (w + z / 2)^2 + 3/4 z^2, make of it.
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let (z_limited, w_limited) = (Self::limited(s, z), Self::limited(s, w));
        let [from, to] = [z_limited, w_limited].map(|x| Self::argument(s, x));
        let shifted = s.fma(z_limited, s.splat(0.5), w_limited);
        let squares = s.fma(s.mul(z_limited, s.splat(0.75)), z_limited, s.mul(shifted, shifted));
        let bend = s.fma(squares, s.splat(Self::CUBIC), s.splat(1.0));
        let step = s.mul(s.mul(d, s.splat(Self::TWICE_ROOT)), bend);
        s.fma(d, sigmoid(s, to), s.mul(z, Sigmoid.difference(s, from, step, to)))
    }
}

/// softplus(beta x) / beta, or x where beta x is above the threshold.
#[derive(Clone, Copy)]
struct SharpSoftplus {
    beta: f32,
    threshold: f32,
}

impl Function for SharpSoftplus {
    #[inline(always)]
    fn value<S: Simd>(self, s: S, z: S::V) -> S::V {
        let scaled = s.mul(s.splat(self.beta), z);
        let bent = s.div(softplus(s, scaled), s.splat(self.beta));
        s.select(s.lt(s.splat(self.threshold), scaled), z, bent)
    }
    #[inline(always)]
    fn slope<S: Simd>(self, s: S, w: S::V) -> S::V {
        let scaled = s.mul(s.splat(self.beta), w);
        s.select(s.lt(s.splat(self.threshold), scaled), s.splat(1.0), sigmoid(s, scaled))
    }
    /// Softplus' own on one side of the threshold, d on the other. From one side to the other, with x that below: where x
    /// is negative, the two values are subtracted; else it is d -+ softplus(-beta x) / beta, as
    /// softplus(x) = x + softplus(-x).
    #[inline(always)]
    fn difference<S: Simd>(self, s: S, z: S::V, d: S::V, w: S::V) -> S::V {
        let (beta, threshold) = (s.splat(self.beta), s.splat(self.threshold));
        let [from, step, to] = [z, d, w].map(|x| s.mul(beta, x));
        let (z_above, w_above) = (s.lt(threshold, from), s.lt(threshold, to));
        let bent = s.div(Softplus.difference(s, from, step, to), beta);
        let (lower, linear) = (s.select(z_above, to, from), s.select(z_above, z, w));
        let falls = s.lt(lower, s.splat(0.0));
        let gap = s.div(softplus(s, s.neg(s.abs(lower))), beta);
        let rise = s.select(falls, s.sub(linear, gap), s.sub(s.abs(d), gap));
        let from_above = s.select(w_above, d, s.neg(rise));
        let from_below = s.select(w_above, rise, bent);
        s.select(z_above, from_above, from_below)
    }
}
