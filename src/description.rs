//! A network as serde sees it: what a [model file](Network::from_toml) has, with every argument spelled out.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::loss::Loss;
use crate::network::{Layer, Network};
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
    precision: f64,
    ops: Vec<Op>,
}

impl From<Network> for Description {
    fn from(network: Network) -> Self {
        let layer = |layer: &Layer| LayerDescription { precision: layer.precision(), ops: layer.ops().to_vec() };
        Description {
            input: network.input_shape().to_vec(),
            loss: network.loss(),
            layer: network.layers().iter().map(layer).collect(),
        }
    }
}

impl TryFrom<Description> for Network {
    type Error = Error;

    fn try_from(Description { input, loss, layer }: Description) -> Result<Self, Error> {
        let precisions: Vec<f64> = layer.iter().map(|layer| layer.precision).collect();
        let network = Network::new(&input, loss, layer.into_iter().map(|layer| layer.ops).collect())?;
        (1..).zip(precisions).try_fold(network, |network, (l, precision)| network.with_precision(l, precision))
    }
}
