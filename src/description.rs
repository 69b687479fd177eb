//! A network as serde sees it: what a [model file](Network::from_toml) has, with every argument spelled out.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::loss::Loss;
use crate::network::{Branch, Layer, LayerSpec, Network};
use crate::op::Op;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    input: Vec<usize>,
    loss: Loss,
    layer: Vec<LayerDescription>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerDescription {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Left out for one that is the belief of the layer before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    branches: Vec<BranchDescription>,
    precision: f64,
    ops: Vec<Op>,
}

/// `from` counts layers from 1; 0 is the input.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchDescription {
    from: usize,
    ops: Vec<Op>,
}

impl From<Network> for Description {
    fn from(network: Network) -> Self {
        let branch = |branch: &Branch| BranchDescription { from: branch.from(), ops: branch.ops().to_vec() };
        let layer = |(l, layer): (usize, &Layer)| LayerDescription {
            name: layer.name().map(str::to_string),
            branches: match layer.is_plain(l) {
                true => vec![],
                false => layer.branches().iter().map(branch).collect(),
            },
            precision: layer.precision(),
            ops: layer.ops().to_vec(),
        };
        Description {
            input: network.input_shape().to_vec(),
            loss: network.loss(),
            layer: network.layers().iter().enumerate().map(layer).collect(),
        }
    }
}

impl TryFrom<Description> for Network {
    type Error = Error;

    fn try_from(Description { input, loss, layer: layers }: Description) -> Result<Self, Error> {
        let layer = |LayerDescription { name, branches, precision, ops }| {
            let branches = branches.into_iter().map(|BranchDescription { from, ops }| Branch::new(from, ops));
            LayerSpec::from(ops).with_name(name).with_branches(branches.collect()).with_precision(precision)
        };
        Network::new(&input, loss, layers.into_iter().map(layer).collect())
    }
}
