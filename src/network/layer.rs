//! A layer and the branches that it sums.

use crate::op::Op;
use crate::setters::setters;

/// One predictive-coding layer f_l: operations on a sum of branches. See [`Network`](crate::Network) for an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub(super) name: Option<String>,
    pub(super) branches: Vec<Branch>,
    pub(super) ops: Vec<Op>,
    pub(super) shapes: Vec<Vec<usize>>,
    pub(super) precision: f64,
}

/// A chain of operations on the belief of an earlier layer. See [`LayerSpec`] for an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    from: usize,
    ops: Vec<Op>,
    pub(super) shapes: Vec<Vec<usize>>,
}

/// A layer before its shapes are known: `ops` applied to the sum of its `branches`.
///
/// ```
/// use predictive_coding::{Branch, LayerSpec, Linear, Loss, Network, Op};
///
/// let linear = |outputs| Op::Linear(Linear::new(outputs));
/// // Layer 2 is relu(v_1 + linear(v_1)).
/// let skip = LayerSpec::from(vec![Op::Relu])
///     .with_branches(vec![Branch::new(1, vec![]), Branch::new(1, vec![linear(8)])]);
/// let layers = vec![vec![linear(8), Op::Relu].into(), skip, vec![linear(3)].into()];
/// let network = Network::new(&[4], Loss::MSE, layers)?;
/// assert_eq!(network.parameters()[2].name, "1.branches.1.0.weight");
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerSpec {
    /// What other layers call it in a model file.
    pub name: Option<String>,
    /// What is summed; if there is none, the belief of the layer before.
    pub branches: Vec<Branch>,
    /// The operations in the order of their evaluation.
    pub ops: Vec<Op>,
    /// The [precision](Layer::precision).
    pub precision: f64,
}

setters!(LayerSpec {
    with_name(name: Option<String>),
    with_branches(branches: Vec<Branch>),
    with_precision(precision: f64),
});

impl From<Vec<Op>> for LayerSpec {
    /// These operations on the belief of the layer before.
    fn from(ops: Vec<Op>) -> Self {
        LayerSpec { name: None, branches: vec![], ops, precision: 1.0 }
    }
}

impl From<&Layer> for LayerSpec {
    fn from(layer: &Layer) -> Self {
        let Layer { name, branches, ops, precision, .. } = layer.clone();
        LayerSpec { name, branches, ops, precision }
    }
}

impl Branch {
    /// Operations on the belief of layer `from`, counted from 1; 0 is the network's input.
    pub fn new(from: usize, ops: Vec<Op>) -> Self {
        Branch { from, ops, shapes: vec![] }
    }

    /// The layer whose belief it reads, counted from 1; 0 for the network's input.
    pub fn from(&self) -> usize {
        self.from
    }

    /// The operations in the order of their evaluation.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub(super) fn ops_mut(&mut self) -> &mut [Op] {
        &mut self.ops
    }

    /// The shapes of a sample: before the first operation, then after each. Empty before the branch is part of a network.
    pub fn shapes(&self) -> &[Vec<usize>] {
        &self.shapes
    }

    /// Number of multiplications and additions of its products, for one sample in one direction.
    pub fn flops(&self) -> u64 {
        products(&self.ops, &self.shapes).map(|(_, flops)| flops).sum()
    }
}

impl Layer {
    /// What other layers call it in a model file, if it has a name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What is summed: at least one branch.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// Whether it reads the layer before alone, and as it is. `index` is its own, from 0.
    #[cfg(any(feature = "files", feature = "serde"))]
    pub(crate) fn is_plain(&self, index: usize) -> bool {
        matches!(&self.branches[..], [branch] if branch.from == index && branch.ops.is_empty())
    }

    /// The operations on the sum of the branches, in the order of their evaluation.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The shapes of a sample: of the sum of the branches, then after each operation.
    pub fn shapes(&self) -> &[Vec<usize>] {
        &self.shapes
    }

    /// The operations of all branches and of the layer, each with the shape of a sample before it.
    pub fn all_ops(&self) -> impl Iterator<Item = (&Op, &[usize])> {
        let branches = self.branches.iter().map(|branch| (&branch.ops, &branch.shapes));
        let chains = branches.chain([(&self.ops, &self.shapes)]);
        chains.flat_map(|(ops, shapes)| ops.iter().zip(shapes.iter().map(Vec::as_slice)))
    }

    /// The shape of one sample of the sum of the branches: of v_{l-1}, if that is all that the layer reads.
    pub fn input_shape(&self) -> &[usize] {
        &self.shapes[0]
    }

    /// The shape of one sample of v_l.
    pub fn output_shape(&self) -> &[usize] {
        &self.shapes[self.ops.len()]
    }

    /// The precision p_l: the energy has the term p_l / 2 |epsilon_l|^2. 1 for the output layer.
    pub fn precision(&self) -> f64 {
        self.precision
    }

    /// Number of multiplications and additions of this layer's products, for one sample in one direction.
    pub fn flops(&self) -> u64 {
        self.branches.iter().map(Branch::flops).sum::<u64>() + self.own_flops()
    }

    /// Of the products behind the sum.
    fn own_flops(&self) -> u64 {
        products(&self.ops, &self.shapes).map(|(_, flops)| flops).sum()
    }

    /// Of pushing the movable beliefs that it reads through it, or pulling its error back to them.
    pub(super) fn relaxed_flops(&self) -> u64 {
        let moving = self.branches.iter().filter(|branch| branch.from > 0);
        match moving.clone().next() {
            Some(_) => moving.map(Branch::flops).sum::<u64>() + self.own_flops(),
            None => 0,
        }
    }

    /// Of pulling an error back to the outputs of the lowest products of every branch: all that the gradients need.
    pub(super) fn inner_flops(&self) -> u64 {
        let own: Vec<u64> = products(&self.ops, &self.shapes).map(|(_, flops)| flops).collect();
        let branches = self.branches.iter().map(|branch| products(&branch.ops, &branch.shapes).map(|(_, flops)| flops));
        let reaches_branches = branches.clone().any(|mut products| products.next().is_some());
        let skipped = if reaches_branches { 0 } else { 1 };
        own.iter().skip(skipped).sum::<u64>() + branches.flat_map(|products| products.skip(1)).sum::<u64>()
    }

    /// Of the part of that which no pull to a belief has done.
    pub(super) fn inner_flops_of_clamped(&self) -> u64 {
        let clamped = |branch: &&Branch| branch.from == 0;
        match self.branches.iter().all(|branch| clamped(&branch)) {
            true => self.inner_flops(),
            false => {
                let branches = self.branches.iter().filter(clamped);
                let inner = branches.flat_map(|branch| products(&branch.ops, &branch.shapes).skip(1));
                inner.map(|(_, flops)| flops).sum()
            }
        }
    }

    /// Of evaluating the layer anew for its gradients: the products whose result another product
    /// reads or a slope depends on.
    pub(super) fn renewed_flops(&self) -> u64 {
        let [branch] = &self.branches[..] else {
            // All branches are pushed to their sum.
            return self.relaxed_flops();
        };
        let ops: Vec<&Op> = branch.ops.iter().chain(&self.ops).collect();
        let below = products(&branch.ops, &branch.shapes);
        let own = products(&self.ops, &self.shapes).map(|(o, flops)| (o + branch.ops.len(), flops));
        let products: Vec<_> = below.chain(own).collect();
        let Some(&(lowest, _)) = products.first() else { return 0 };
        let matters = |o: &usize| ops[*o].has_slope() || ops[*o].is_product();
        let last = (lowest..ops.len()).rev().find(matters).unwrap_or(lowest);
        products.iter().filter(|&&(o, _)| o < last).map(|(_, flops)| flops).sum()
    }
}

/// The products of some operations with their multiplications and additions, by the index of their operation.
fn products(ops: &[Op], shapes: &[Vec<usize>]) -> impl Iterator<Item = (usize, u64)> {
    ops.iter()
        .zip(shapes.windows(2))
        .enumerate()
        .filter_map(|(o, (op, shapes))| Some((o, op.product(&shapes[0])?.flops())))
}
