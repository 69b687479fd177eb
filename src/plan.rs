//! A network planned for a SIMD level: the steps to compute, and where everything lies.
//!
//! Operations that change nothing in the layout of lanes (flatten, identity) vanish. What is left
//! is one chain of steps through all layers; the values between two steps are a *boundary*, counted
//! from 0 (the input) on, so that step b leads from boundary b to boundary b + 1.

use std::ops::Range;

use predictive_coding_kernels::{Activation, ConvShape, LaneAvgPool, LaneConv, LaneMaxPool, Level, lanes};

use crate::network::{Network, elements};
use crate::op::{Conv2d, Op};
use crate::parameters::{ParameterSpec, Role};

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) level: Level,
    pub(crate) lanes: usize,
    pub(crate) steps: Vec<Step>,
    pub(crate) layers: Vec<LayerPlan>,
    /// The place of each boundary in a tile's values.
    pub(crate) values: Vec<Range<usize>>,
    /// The place in the scratch of the difference at each boundary inside of a layer; those between
    /// layers are the relaxation's.
    pub(crate) differences: Vec<Range<usize>>,
    /// Elements of the packed weights.
    pub(crate) packed: usize,
    /// Elements of slopes and winners.
    pub(crate) local: usize,
    /// Elements of the largest boundary.
    pub(crate) widest: usize,
    /// Elements of scratch for weight gradients.
    pub(crate) weights_scratch: usize,
}

/// A layer as a part of the chain.
#[derive(Debug)]
pub(crate) struct LayerPlan {
    pub(crate) steps: Range<usize>,
    /// The place of v-hat_l, and of everything of its shape, among all layers' outputs.
    pub(crate) output: Range<usize>,
    /// The first step with weights, if any.
    pub(crate) lowest_product: Option<usize>,
    /// The steps to repeat for the gradients after the beliefs have moved: up to the last one that
    /// has a slope, or that leads to a product.
    pub(crate) renewed: Range<usize>,
}

#[derive(Debug)]
pub(crate) enum Step {
    Product(Box<Product>),
    /// The slopes lie at `slope` in the local state.
    Activation {
        function: Activation,
        slope: Range<usize>,
    },
    /// The winners lie at `winner` in the local state.
    MaxPool {
        pool: LaneMaxPool,
        winner: Range<usize>,
    },
    AvgPool(LaneAvgPool),
}

/// A convolution, or an affine map as a convolution of one pixel.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) conv: LaneConv,
    /// Places in the parameters.
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
    /// Places in the packed weights.
    pub(crate) forward: Range<usize>,
    pub(crate) backward: Range<usize>,
}

impl Plan {
    pub(crate) fn new(network: &Network, level: Level) -> Self {
        let mut builder = Builder::new(level, network.parameters());
        builder.boundary(network.input_shape());
        let mut layers = Vec::new();
        let mut output = 0;
        for (l, layer) in network.layers().iter().enumerate() {
            let first = builder.steps.len();
            for (o, (op, shapes)) in layer.ops().iter().zip(layer.shapes().windows(2)).enumerate() {
                builder.add(l, o, op, &shapes[0], &shapes[1]);
            }
            if builder.steps.len() == first {
                builder.activation(Activation::Identity, layer.output_shape());
            }
            let steps = first..builder.steps.len();
            let start = output;
            output += elements(layer.output_shape()) * builder.lanes;
            let is_product = |&b: &usize| matches!(builder.steps[b], Step::Product(_));
            let lowest_product = steps.clone().find(is_product);
            let last_slope = steps.clone().rev().find(|&b| builder.steps[b].has_local_state());
            let last_product = steps.clone().rev().find(is_product);
            let renewed_end = match lowest_product {
                Some(lowest) => last_slope.filter(|&b| b > lowest).map_or(0, |b| b + 1).max(last_product.unwrap_or(0)),
                None => 0,
            };
            layers.push(LayerPlan {
                renewed: steps.start..renewed_end.max(steps.start),
                output: start..output,
                lowest_product,
                steps,
            });
        }
        let mut place = 0;
        let mut differences = vec![0..0; builder.values.len()];
        for layer in &layers {
            let inside = layer.steps.start + 1..layer.steps.end;
            for (difference, values) in differences[inside.clone()].iter_mut().zip(&builder.values[inside]) {
                *difference = place..place + values.len();
                place = difference.end;
            }
        }
        Plan {
            level,
            lanes: builder.lanes,
            layers,
            differences,
            packed: builder.packed,
            local: builder.local,
            widest: builder.values.iter().map(Range::len).max().unwrap_or(0),
            weights_scratch: builder.weights_scratch,
            values: builder.values,
            steps: builder.steps,
        }
    }

    /// At most so many bytes of tables of addresses will a plan of this network have.
    pub(crate) fn table_bytes(network: &Network) -> usize {
        let ops = network.layers().iter().flat_map(|layer| layer.ops().iter().zip(layer.shapes()));
        ops.filter_map(|(op, input)| match op {
            Op::Conv2d(conv) => Some(LaneConv::table_bytes(&convolution(conv, input))),
            Op::Linear(linear) => Some(LaneConv::table_bytes(&ConvShape::linear(input[0], linear.out_features))),
            _ => None,
        })
        .fold(0, usize::saturating_add)
    }

    /// Elements of all boundaries.
    pub(crate) fn values_len(&self) -> usize {
        self.values.last().map_or(0, |range| range.end)
    }

    /// Elements of the scratch for differences.
    pub(crate) fn differences_len(&self) -> usize {
        self.differences.iter().map(Range::len).sum()
    }

    /// Elements of all layers' outputs.
    pub(crate) fn outputs_len(&self) -> usize {
        self.layers[self.layers.len() - 1].output.end
    }

    /// The place of v-hat of a layer (index from 0) in a tile's values.
    pub(crate) fn activation(&self, layer: usize) -> Range<usize> {
        self.values[self.layers[layer].steps.end].clone()
    }

    /// Elements of one sample of a layer's output.
    pub(crate) fn elements(&self, layer: usize) -> usize {
        self.layers[layer].output.len() / self.lanes
    }
}

impl Step {
    fn has_local_state(&self) -> bool {
        matches!(self, Step::Activation { .. } | Step::MaxPool { .. })
    }
}

struct Builder<'a> {
    level: Level,
    lanes: usize,
    specs: &'a [ParameterSpec],
    steps: Vec<Step>,
    values: Vec<Range<usize>>,
    packed: usize,
    local: usize,
    weights_scratch: usize,
}

impl<'a> Builder<'a> {
    fn new(level: Level, specs: &'a [ParameterSpec]) -> Self {
        Builder {
            level,
            lanes: lanes(level),
            specs,
            steps: Vec::new(),
            values: Vec::new(),
            packed: 0,
            local: 0,
            weights_scratch: 0,
        }
    }

    fn add(&mut self, layer: usize, op_index: usize, op: &Op, input: &[usize], output: &[usize]) {
        let step = match op {
            Op::Conv2d(conv) => self.product(layer, op_index, convolution(conv, input)),
            Op::Linear(linear) => self.product(layer, op_index, ConvShape::linear(input[0], linear.out_features)),
            Op::MaxPool2d(pool) => {
                let windows = windows(input, pool.kernel_size, pool.stride, pool.padding, pool.dilation);
                Step::MaxPool { pool: LaneMaxPool::new(self.level, &windows), winner: self.local(output) }
            }
            Op::AvgPool2d(pool) => {
                let windows = windows(input, pool.kernel_size, pool.stride, pool.padding, [1, 1]);
                Step::AvgPool(LaneAvgPool::fixed(self.level, &windows))
            }
            Op::AdaptiveAvgPool2d { output_size } => {
                Step::AvgPool(LaneAvgPool::adaptive(self.level, input[0], [input[1], input[2]], *output_size))
            }
            Op::Flatten | Op::Identity => return,
            Op::Relu => return self.activation(Activation::Relu, output),
            Op::LeakyRelu { negative_slope } => {
                return self.activation(Activation::LeakyRelu { negative_slope: *negative_slope }, output);
            }
            Op::Tanh => return self.activation(Activation::Tanh, output),
            Op::Sigmoid => return self.activation(Activation::Sigmoid, output),
            Op::Gelu => return self.activation(Activation::Gelu, output),
            Op::Silu => return self.activation(Activation::Silu, output),
            Op::Softplus => return self.activation(Activation::Softplus, output),
        };
        self.steps.push(step);
        self.boundary(output);
    }

    fn activation(&mut self, function: Activation, output: &[usize]) {
        let slope = self.local(output);
        self.steps.push(Step::Activation { function, slope });
        self.boundary(output);
    }

    fn product(&mut self, layer: usize, op: usize, shape: ConvShape) -> Step {
        let conv = LaneConv::new(self.level, shape);
        let tensor = |role: Role| {
            let found = self.specs.iter().find(|spec| spec.layer == layer && spec.op == op && spec.role == role);
            found.map(|spec| spec.range.clone())
        };
        let weight = tensor(Role::Weight).expect("a network has a weight for every product");
        let bias = tensor(Role::Bias);
        let forward = self.packed(conv.packed_forward_len());
        // Nothing is pulled back through the first product: what it reads is clamped.
        let first = self.steps.is_empty();
        let backward = if first { 0..0 } else { self.packed(conv.packed_backward_len()) };
        self.weights_scratch = self.weights_scratch.max(conv.weights_scratch_len());
        Step::Product(Box::new(Product { conv, weight, bias, forward, backward }))
    }

    fn boundary(&mut self, shape: &[usize]) {
        let start = self.values.last().map_or(0, |range| range.end);
        self.values.push(start..start + elements(shape) * self.lanes);
    }

    fn local(&mut self, shape: &[usize]) -> Range<usize> {
        let start = self.local;
        self.local += elements(shape) * self.lanes;
        start..self.local
    }

    /// Packed weights begin on a cache line.
    fn packed(&mut self, len: usize) -> Range<usize> {
        let start = self.packed;
        self.packed += len.next_multiple_of(16);
        start..start + len
    }
}

fn convolution(conv: &Conv2d, input: &[usize]) -> ConvShape {
    ConvShape {
        in_channels: input[0],
        out_channels: conv.out_channels,
        input: [input[1], input[2]],
        kernel: conv.kernel_size,
        stride: conv.stride,
        padding: conv.padding,
        dilation: conv.dilation,
    }
}

/// The windows of a pooling, as those of a convolution of each channel by itself.
fn windows(
    input: &[usize],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
) -> ConvShape {
    ConvShape {
        in_channels: input[0],
        out_channels: input[0],
        input: [input[1], input[2]],
        kernel,
        stride,
        padding,
        dilation,
    }
}
