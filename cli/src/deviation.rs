//! How far a method's gradients are from backpropagation's.

use predictive_coding::{Parameters, Role};

/// How far gradients are from exact's, for the weights of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// |dtheta_pc - dtheta_bp| / |dtheta_bp|.
    pub relative_error: f64,
    /// Between the two, in degrees.
    pub angle: f64,
}

/// How far the weights' gradients are from `exact`'s, for each layer that has weights, from 1.
pub fn deviations(gradients: &Parameters, exact: &Parameters) -> Vec<(usize, Deviation)> {
    let weights = |parameters: &Parameters, layer: usize| -> Vec<f64> {
        let of_layer = parameters.iter().filter(|(spec, _)| spec.layer == layer && spec.role == Role::Weight);
        of_layer.flat_map(|(_, values)| values).map(|&value| f64::from(value)).collect()
    };
    let mut layers: Vec<usize> =
        exact.specs().iter().filter(|spec| spec.role == Role::Weight).map(|spec| spec.layer).collect();
    layers.dedup();
    layers.into_iter().map(|layer| (layer + 1, deviation(&weights(gradients, layer), &weights(exact, layer)))).collect()
}

/// Names for the errors of all layers, and then for their angles.
pub fn columns(layers: usize) -> impl Iterator<Item = String> {
    let quantities = ["relative_error", "angle_degrees"].into_iter();
    quantities.flat_map(move |quantity| (1..=layers).map(move |layer| format!("{quantity}.{layer}")))
}

/// NaN where `exact` is 0. The angle is 2 atan2(|a - b|, |a + b|) of the unit vectors a and b,
/// which keeps its digits where the arc cosine loses them.
fn deviation(found: &[f64], exact: &[f64]) -> Deviation {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let pairs = || found.iter().zip(exact);
    let (found_norm, exact_norm) = (norm(&mut found.iter().copied()), norm(&mut exact.iter().copied()));
    let difference = norm(&mut pairs().map(|(a, b)| a / found_norm - b / exact_norm));
    let sum = norm(&mut pairs().map(|(a, b)| a / found_norm + b / exact_norm));
    Deviation {
        relative_error: norm(&mut pairs().map(|(a, b)| a - b)) / exact_norm,
        angle: 2.0 * difference.atan2(sum).to_degrees(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_by_hand() {
        let Deviation { relative_error, angle } = deviation(&[0.0, 2.0], &[2.0, 0.0]);
        assert!((relative_error - 2f64.sqrt()).abs() < 1e-15 && (angle - 90.0).abs() < 1e-12);
        let Deviation { relative_error, angle } = deviation(&[-3.0, 0.0], &[1.0, 0.0]);
        assert!((relative_error - 4.0).abs() < 1e-15 && (angle - 180.0).abs() < 1e-12);
        let small = deviation(&[1.0, 1e-9], &[1.0, 0.0]);
        assert!((small.angle / 1e-9f64.to_degrees() - 1.0).abs() < 1e-6, "{small:?}");
        assert_eq!(deviation(&[1.0, 5.0], &[1.0, 5.0]), Deviation { relative_error: 0.0, angle: 0.0 });
    }
}
