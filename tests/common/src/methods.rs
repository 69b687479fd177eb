//! Methods in short.

use predictive_coding::{Eta, FixedPrediction, Method, Strict};

/// Strict by steps.
pub fn strict(eta: impl Into<Eta>, iterations: usize) -> Method {
    Strict::new(eta, iterations).into()
}

/// Fixed-prediction from backpropagation's errors.
pub fn fixed(eta: impl Into<Eta>, iterations: usize) -> Method {
    FixedPrediction::new(eta, iterations).into()
}

/// Fixed-prediction, iterated.
pub fn literal(eta: impl Into<Eta>, iterations: usize) -> Method {
    FixedPrediction::new(eta, iterations).with_literal(true).into()
}
