//! The number that the reference computes with: f64, or f32 to show what the direct form loses.

use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// f64 or f32.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
{
    /// The nearest number to `x`.
    fn of(x: f64) -> Self;
    /// The same number.
    fn f64(self) -> f64;
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }

    fn f64(self) -> f64 {
        self
    }
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }

    fn f64(self) -> f64 {
        self.into()
    }
}
