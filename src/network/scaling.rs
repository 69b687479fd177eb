//! Scales of products for a whole network.
//!
//! muPC (Innocenti et al., arXiv 2505.13124; jpc's `_get_param_scalings`): with standard normal weights, a product of N
//! inputs in a network of L layers has the scale
//!
//! ```text
//! 1 / sqrt(N L)    in a branch, where another branch of its layer, the skip, has no product
//! 1 / N            at the end of the last layer that has products
//! 1 / sqrt(N)      all others, the first layer's among them
//! ```

use std::collections::HashMap;

use super::{Branch, Layer, LayerSpec, Network};
use crate::init::Init;
use crate::names::names;
use crate::op::Op;
use crate::parameters::Role;

/// A rule for the scales of all products of a network. See [`Network::with_scaling`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scaling {
    /// That of muPC (Innocenti et al., [arXiv 2505.13124](https://arxiv.org/abs/2505.13124)), with which networks of any
    /// depth and width train alike: 1/sqrt(N) for a product of N inputs, 1/sqrt(N L) beside a skip in a network of L
    /// layers, 1/N at the output.
    Mupc,
}

names!(Scaling, "scaling", { Mupc => "mupc" });

impl Network {
    /// The same network with the scales of a rule for all products whose scale is 1. muPC is meant for weights that are
    /// [standard normal](crate::Init::StandardNormal).
    ///
    /// ```
    /// use predictive_coding::{Branch, Init, LayerSpec, Linear, Loss, Network, Op, Scaling};
    ///
    /// let linear = |outputs| Op::Linear(Linear::new(outputs).with_bias(false));
    /// let residual = |l| {
    ///     let branches = vec![Branch::new(l, vec![]), Branch::new(l, vec![Op::Relu, linear(64)])];
    ///     LayerSpec::from(vec![]).with_branches(branches)
    /// };
    /// let layers = vec![vec![linear(64)].into(), residual(1), residual(2), vec![linear(10)].into()];
    /// let network = Network::new(&[100], Loss::MSE, layers)?;
    /// let network = network.with_scaling(Scaling::Mupc).with_init(Init::StandardNormal);
    /// let Op::Linear(readout) = &network.layers()[3].ops()[0] else { unreachable!() };
    /// assert_eq!(readout.scale, 1.0 / 64.0);
    /// let Op::Linear(hidden) = &network.layers()[1].branches()[1].ops()[1] else { unreachable!() };
    /// assert_eq!(hidden.scale, 1.0 / 16.0);
    /// # Ok::<(), predictive_coding::Error>(())
    /// ```
    pub fn with_scaling(&self, scaling: Scaling) -> Self {
        let Scaling::Mupc = scaling;
        let weights = self.parameters.iter().filter(|spec| spec.role == Role::Weight);
        let inputs: HashMap<_, _> =
            weights.map(|spec| ((spec.layer, spec.branch, spec.op), spec.fan_in as f64)).collect();
        let has_product = |ops: &[Op]| ops.iter().any(Op::is_product);
        let in_layer = |layer: &Layer| has_product(&layer.ops) || layer.branches.iter().any(|b| has_product(b.ops()));
        let last = self.layers.iter().rposition(in_layer);
        let layers = self.layers.len() as f64;
        let mut specs: Vec<LayerSpec> = self.layers.iter().map(LayerSpec::from).collect();
        for (l, LayerSpec { branches, ops, .. }) in specs.iter_mut().enumerate() {
            let beside_skip = !branches.iter().all(|branch| has_product(branch.ops()));
            let (summed, ends) = (has_product(ops), last == Some(l));
            let rescale = |branch: Option<usize>, ops: &mut [Op]| {
                let readout = ops.iter().rposition(Op::is_product).filter(|_| ends && !(branch.is_some() && summed));
                for (o, op) in ops.iter_mut().enumerate() {
                    let Some((scale, &inputs)) = op.scale_mut().zip(inputs.get(&(l, branch, o))) else { continue };
                    if *scale == 1.0 {
                        *scale = match branch.is_some() && beside_skip {
                            true => 1.0 / (inputs * layers).sqrt(),
                            false if readout == Some(o) => 1.0 / inputs,
                            false => 1.0 / inputs.sqrt(),
                        };
                    }
                }
            };
            branches.iter_mut().enumerate().for_each(|(index, branch)| rescale(Some(index), branch.ops_mut()));
            rescale(None, ops);
        }
        self.with_layers(specs)
    }

    /// The same network, all weights of which are drawn in another way.
    pub fn with_init(&self, init: Init) -> Self {
        let mut specs: Vec<LayerSpec> = self.layers.iter().map(LayerSpec::from).collect();
        for LayerSpec { branches, ops, .. } in &mut specs {
            let all = branches.iter_mut().flat_map(Branch::ops_mut).chain(ops);
            all.filter_map(Op::init_mut).for_each(|of_op| *of_op = init);
        }
        self.with_layers(specs)
    }

    /// With layers of the same shapes.
    fn with_layers(&self, layers: Vec<LayerSpec>) -> Self {
        Network::new(&self.input, self.loss, layers).expect("a network with other scales and inits is legal as well")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Loss;
    use crate::op::{Conv2d, Linear};

    fn linear(features: usize) -> Op {
        Op::Linear(Linear::new(features))
    }

    fn scales(network: &Network) -> Vec<Vec<f64>> {
        let of_layer = |layer: &Layer| {
            let mut ops: Vec<Op> = layer.all_ops().map(|(op, _)| op.clone()).collect();
            ops.iter_mut().filter_map(Op::scale_mut).map(|scale| *scale).collect()
        };
        network.with_scaling(Scaling::Mupc).layers().iter().map(of_layer).collect()
    }

    fn root(n: f64) -> f64 {
        1.0 / n.sqrt()
    }

    /// As jpc: without skips hidden products have 1/sqrt(N).
    #[test]
    fn a_chain_is_scaled_by_width_alone() {
        let layers =
            vec![vec![linear(20)], vec![Op::Relu, linear(30)], vec![linear(40), Op::Relu, linear(5)], vec![Op::Relu]];
        let network = Network::new(&[10], Loss::MSE, layers).unwrap();
        assert_eq!(scales(&network), [vec![root(10.0)], vec![root(20.0)], vec![root(30.0), 1.0 / 40.0], vec![]]);
    }

    #[test]
    fn products_beside_a_skip_are_scaled_by_depth_too() {
        let skip = |l: usize| Branch::new(l, vec![Op::Relu]);
        let conv = Op::Conv2d(Conv2d::new(4, [3, 3]).with_padding([1, 1]));
        let other = Op::Conv2d(Conv2d::new(4, [1, 1]).with_scale(0.3));
        let layers = vec![
            vec![conv.clone()].into(),
            // Both products of the branch; behind the sum there is no skip.
            LayerSpec::from(vec![Op::Relu, conv.clone()])
                .with_branches(vec![skip(1), Branch::new(1, vec![conv.clone(), Op::Relu, conv.clone()])]),
            // No branch is a skip, and a scale that is given stays.
            LayerSpec::from(vec![Op::Flatten])
                .with_branches(vec![Branch::new(1, vec![other]), Branch::new(2, vec![conv])]),
            vec![linear(6)].into(),
            LayerSpec::from(vec![]).with_branches(vec![skip(4), Branch::new(4, vec![linear(6)])]),
            LayerSpec::from(vec![])
                .with_branches(vec![Branch::new(4, vec![linear(2)]), Branch::new(5, vec![linear(2)])]),
        ];
        let network = Network::new(&[2, 3, 3], Loss::MSE, layers).unwrap();
        let expected = [
            vec![root(18.0)],
            vec![root(36.0 * 6.0), root(36.0 * 6.0), root(36.0)],
            vec![0.3, root(36.0)],
            vec![root(36.0)],
            vec![root(6.0 * 6.0)],
            vec![1.0 / 6.0, 1.0 / 6.0],
        ];
        assert_eq!(scales(&network), expected);
        let again = network.with_scaling(Scaling::Mupc);
        assert_eq!(again.with_scaling(Scaling::Mupc), again);
    }

    #[test]
    fn all_weights_are_drawn_in_another_way() {
        let network = Network::new(&[3], Loss::MSE, vec![vec![linear(4)], vec![linear(2)]]).unwrap();
        let by_hand = |features: usize| vec![Op::Linear(Linear::new(features).with_init(Init::Xavier))];
        let by_hand = Network::new(&[3], Loss::MSE, vec![by_hand(4), by_hand(2)]).unwrap();
        assert_eq!(network.with_init(Init::Xavier), by_hand);
    }
}
