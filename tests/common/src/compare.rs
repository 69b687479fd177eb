//! The tensors of a step under their names, and how far they are from others.

use predictive_coding::{Method, Network, Quantity, Session};

use crate::naive::{Step, minus};

/// The relative error in the 2-norm that every tensor of the library stays within.
pub const BOUND: f64 = 1e-5;

/// `loss`, `activation.l`, `error.l`, `deviation.l`, `belief.l` and `grad.<parameter>`.
pub type Tensors = Vec<(String, Vec<f64>)>;

/// What the reference computed for `network`.
pub fn of_step(step: &Step<f64>, network: &Network) -> Tensors {
    let last = network.layers().len();
    let mut tensors = vec![("loss".to_string(), vec![step.loss])];
    for l in 1..=last {
        tensors.push((format!("activation.{l}"), step.activations[l].clone()));
        tensors.push((format!("error.{l}"), step.errors[l].clone()));
    }
    for l in usize::from(!step.free_input)..last {
        tensors.push((format!("deviation.{l}"), minus(&step.beliefs[l], &step.activations[l])));
        tensors.push((format!("belief.{l}"), step.beliefs[l].clone()));
    }
    let gradient = |spec: &predictive_coding::ParameterSpec| {
        (format!("grad.{}", spec.name), step.gradients[spec.range.clone()].to_vec())
    };
    tensors.extend(network.parameters().iter().map(gradient));
    tensors
}

/// What `session` holds after a step on `network`.
pub fn of_session(session: &Session, network: &Network) -> Tensors {
    let last = network.layers().len();
    let get = |quantity, l| widen(&session.get(quantity, l).unwrap());
    let mut tensors = vec![("loss".to_string(), vec![session.loss().into()])];
    for l in 1..=last {
        tensors.push((format!("activation.{l}"), get(Quantity::Activation, l)));
        tensors.push((format!("error.{l}"), get(Quantity::Error, l)));
    }
    let free = matches!(session.method(), Method::Strict(strict) if strict.free_input.is_some());
    for l in usize::from(!free)..last {
        tensors.push((format!("deviation.{l}"), get(Quantity::Deviation, l)));
        tensors.push((format!("belief.{l}"), get(Quantity::Belief, l)));
    }
    tensors.extend(session.gradients().iter().map(|(spec, values)| (format!("grad.{}", spec.name), widen(values))));
    tensors
}

/// The largest relative error of any of the tensors of `want`, and the tensor that has it.
///
/// # Panics
/// If `got` lacks one of them.
pub fn worst(got: &Tensors, want: &Tensors) -> (f64, String) {
    let error = |(name, want): &(String, Vec<f64>)| {
        let (_, got) = got.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no {name}"));
        (relative_error(got, want), name.clone())
    };
    want.iter().map(error).fold((0.0, String::new()), |worst, this| if this.0 > worst.0 { this } else { worst })
}

/// |got - want| / |want| in the 2-norm. Infinite where the sizes differ, where either is not finite,
/// and where `want` is exactly 0 but `got` is not.
pub fn relative_error(got: &[f64], want: &[f64]) -> f64 {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    if got.len() != want.len() || got == want {
        return if got == want { 0.0 } else { f64::INFINITY };
    }
    let error = norm(&minus(got, want)) / norm(want);
    if error.is_nan() { f64::INFINITY } else { error }
}

/// The same numbers as f64.
pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}
