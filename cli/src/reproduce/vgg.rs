//! VGG-19 (Simonyan and Zisserman, arXiv 1409.1556) as 19 predictive-coding layers: each convolution with
//! its ReLU and, where it ends a block, its pooling, and the three linear layers.

use std::path::Path;

use predictive_coding::{Conv2d, Linear, Loss, MaxPool2d, Network, Op, ParameterSpec, Parameters, Role};

use crate::console::Failure;

/// Channels of the convolutions of each block, behind which a pooling halves the image.
const BLOCKS: [(usize, usize); 5] = [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)];

/// What the network is as large as.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pixels of a side of the image, a multiple of 32.
    pub side: usize,
    /// What all widths are divided by.
    pub divisor: usize,
    pub classes: usize,
}

impl Size {
    /// As it was trained on ImageNet.
    pub const FULL: Size = Size { side: 224, divisor: 1, classes: 1000 };
    /// With a few channels and pixels.
    pub const SMALL: Size = Size { side: 32, divisor: 16, classes: 10 };
}

pub fn network(size: Size) -> Result<Network, Failure> {
    let mut layers: Vec<Vec<Op>> = Vec::new();
    for (convolutions, channels) in BLOCKS {
        for _ in 0..convolutions {
            let convolution = Conv2d::new(channels / size.divisor, [3, 3]).with_padding([1, 1]);
            layers.push(vec![Op::Conv2d(convolution), Op::Relu]);
        }
        layers.last_mut().expect("a block has convolutions").push(Op::MaxPool2d(MaxPool2d::new([2, 2])));
    }
    layers.last_mut().expect("there are blocks").push(Op::Flatten);
    for _ in 0..2 {
        layers.push(vec![Op::Linear(Linear::new(4096 / size.divisor)), Op::Relu]);
    }
    layers.push(vec![Op::Linear(Linear::new(size.classes))]);
    Ok(Network::new(&[3, size.side, size.side], Loss::CROSS_ENTROPY, layers)?)
}

/// Weights from a file of torchvision's state dict, `features.0.weight` to `classifier.6.bias`.
pub fn load(network: &Network, path: &Path) -> Result<Parameters, Failure> {
    Ok(Parameters::load_named(network, path, torchvision_name)?)
}

/// The name of a parameter in torchvision, where ReLUs, poolings and dropouts count as modules.
fn torchvision_name(spec: &ParameterSpec) -> String {
    let role = if spec.role == Role::Weight { "weight" } else { "bias" };
    let mut first = 0;
    for (block, (convolutions, _)) in BLOCKS.into_iter().enumerate() {
        if spec.layer < first + convolutions {
            return format!("features.{}.{role}", 2 * spec.layer + block);
        }
        first += convolutions;
    }
    format!("classifier.{}.{role}", 3 * (spec.layer - first))
}

/// Random weights that keep the size of activations from layer to layer (He et al., arXiv 1502.01852), and
/// biases of 0.
pub fn random(network: &Network, seed: u64) -> Parameters {
    let mut parameters = network.initialize(seed);
    let specs = parameters.specs().clone();
    for spec in specs.iter() {
        // From the variance 1 / (3 fan_in) to 2 / fan_in.
        let factor = if spec.role == Role::Weight { 6f32.sqrt() } else { 0.0 };
        parameters.values_mut()[spec.range.clone()].iter_mut().for_each(|value| *value *= factor);
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_the_names_of_torchvision() {
        let network = network(Size::SMALL).unwrap();
        let names: Vec<String> = network.parameters().iter().map(torchvision_name).collect();
        let features = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34].map(|i| format!("features.{i}"));
        let modules = features.into_iter().chain([0, 3, 6].map(|i| format!("classifier.{i}")));
        let expected: Vec<_> = modules.flat_map(|module| ["weight", "bias"].map(|r| format!("{module}.{r}"))).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_full_size_is_that_of_the_paper() {
        let network = network(Size::FULL).unwrap();
        assert_eq!(network.layers().len(), 19);
        assert_eq!(network.parameters().last().unwrap().range.end, 143_667_240);
        assert_eq!(network.layers()[9].output_shape(), [512, 28, 28]);
    }
}
