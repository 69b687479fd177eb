//! A network planned for a SIMD level and a layout: the steps to compute, and where everything lies.
//!
//! Operations that change nothing in the layout vanish: the identity, and a flatten, but where channels lie across lanes
//! and a linear map follows. What is left
//! is one chain of steps through all layers; the values between two steps are a *boundary*, counted
//! from 0 (the input) on, so that step b leads from boundary b to boundary b + 1.

use std::ops::Range;

use predictive_coding_kernels::{Activation, Conv, ConvOptions, ConvShape, GemmScratch, Layout, Level, Local};

use crate::network::{Network, elements};
use crate::op::Op;
use crate::parameters::{ParameterSpec, Role};

/// Elements of a cache line.
const LINE: usize = 16;
/// Elements of the differences that a product makes before they are used: a part of the second cache.
const BAND: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) level: Level,
    pub(crate) layout: Layout,
    /// Samples of a tile.
    pub(crate) images: usize,
    /// Channels and pixels of the input.
    pub(crate) input: [usize; 2],
    pub(crate) steps: Vec<Step>,
    pub(crate) layers: Vec<LayerPlan>,
    /// The place of the values at each boundary.
    pub(crate) values: Vec<Place>,
    /// The place in the scratch of the difference at each boundary inside of a layer; those between
    /// layers are the relaxation's.
    pub(crate) differences: Vec<Range<usize>>,
    pub(crate) sizes: Sizes,
}

/// Elements of the buffers of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) packed: usize,
    pub(crate) values: usize,
    pub(crate) differences: usize,
    pub(crate) band: usize,
    pub(crate) pulled: usize,
    /// Of the largest boundary that a gradient reaches on its way back through a layer.
    pub(crate) gradient: usize,
    /// Of the largest input of a product.
    pub(crate) product_input: usize,
    /// Scratch for products and the weight gradients of convolutions.
    pub(crate) product_scratch: usize,
    /// The gradients that are summed tile by tile.
    pub(crate) partial: usize,
    /// The operands of the weight gradients of matrices, per sample.
    pub(crate) row: usize,
    /// Those of one relaxation, where a sample has two.
    pub(crate) side: usize,
    /// Scratch for the weight gradients of matrices, for each thread.
    pub(crate) gemm_scratch: usize,
}

/// Where the values at a boundary lie.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In the scratch: the network's input and what is inside of layers.
    Inside(Range<usize>),
    /// Among the tile's activations.
    Output(Range<usize>),
}

/// A layer as a part of the chain.
#[derive(Debug)]
pub(crate) struct LayerPlan {
    pub(crate) steps: Range<usize>,
    /// The place of v-hat_l, and of everything of its shape, among all layers' outputs.
    pub(crate) output: Range<usize>,
    /// Channels and pixels of v-hat_l.
    pub(crate) image: [usize; 2],
    /// The first step with weights, if any.
    pub(crate) lowest_product: Option<usize>,
    /// The step up to whose input the layer is evaluated anew for the gradients after the beliefs have
    /// moved, if it has any.
    pub(crate) renewed: Option<usize>,
    /// Whether the last step is a local operation that takes its differences from the product before it
    /// band by band.
    pub(crate) fused: bool,
    /// The place of the error pulled back through the last step, if that is a local operation.
    pub(crate) pulled: Range<usize>,
    /// What the layer's error is weighted by; 1 at the output.
    pub(crate) precision: f64,
    /// What the step size of its belief is multiplied by.
    pub(crate) rate: f64,
}

#[derive(Debug)]
pub(crate) enum Step {
    Product(Box<Product>),
    Local(Box<Local>),
}

/// A convolution, or an affine map as a convolution of one pixel.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) conv: Conv,
    /// Places in the parameters.
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Option<Range<usize>>,
    /// Places in the packed weights.
    pub(crate) forward: Range<usize>,
    pub(crate) backward: Range<usize>,
    /// Place of the gradient of the bias among the partial gradients.
    pub(crate) partial_bias: Option<Range<usize>>,
    pub(crate) gradient: WeightGradient,
}

/// How the gradient of a product's weights is summed over the batch.
#[derive(Debug)]
pub(crate) enum WeightGradient {
    /// Of a convolution: tile by tile, at this place among the partial gradients.
    Partial(Range<usize>),
    /// Of a matrix: by one product over the whole batch, whose operands lie at these places in the row of
    /// a sample.
    Rows { errors: Range<usize>, inputs: Range<usize> },
}

impl Plan {
    /// For batches of up to `batch` samples.
    ///
    /// `fuse`: whether relaxations take their differences band by band, so that they are nowhere afterwards.
    pub(crate) fn new(
        network: &Network,
        level: Level,
        layout: Layout,
        convolutions: ConvOptions,
        batch: usize,
        fuse: bool,
    ) -> Self {
        let mut builder = Builder::new(level, layout, convolutions, batch, network);
        let input = builder.channels_and_pixels();
        let mut layers: Vec<LayerPlan> = Vec::new();
        let (mut output, mut pulled) = (0, 0);
        let last_layer = network.layers().len() - 1;
        for (l, layer) in network.layers().iter().enumerate() {
            let first = builder.steps.len();
            builder.layer(l, layer.ops(), layer.shapes(), l < last_layer);
            let steps = first..builder.steps.len();
            let lowest_product = steps.clone().find(|&b| is_product(&builder.steps[b]));
            let needs_input = |&b: &usize| match (&builder.steps[b], lowest_product) {
                (Step::Product(_), _) => true,
                (Step::Local(local), Some(lowest)) => b > lowest && !local.is_linear(),
                (Step::Local(_), None) => false,
            };
            let local_end = !is_product(&builder.steps[steps.end - 1]);
            layers.push(LayerPlan {
                renewed: steps.clone().rev().find(needs_input),
                fused: fuse
                    && l < last_layer
                    && local_end
                    && steps.len() > 1
                    && is_product(&builder.steps[steps.end - 2]),
                output: place(&mut output, layout.len(level, builder.channels_and_pixels())),
                image: builder.channels_and_pixels(),
                lowest_product,
                pulled: place(&mut pulled, if local_end { builder.inputs[steps.end - 1] } else { 0 }),
                precision: layer.precision(),
                rate: 1.0,
                steps,
            });
        }
        let mut sizes = Sizes { pulled, ..builder.sizes };
        let boundaries = builder.steps.len() + 1;
        let mut values = Vec::with_capacity(boundaries);
        let mut differences = vec![0..0; boundaries];
        for layer in &layers {
            for b in layer.steps.clone() {
                // The input of a layer is the output of the one before.
                if b == 0 || b > layer.steps.start {
                    values.push(Place::Inside(place(&mut sizes.values, builder.inputs[b])));
                }
                let to_band = layer.fused && b + 1 == layer.steps.end;
                // The input of a local operation at the start is kept, as the belief moves on.
                let kept = b > layer.steps.start || (b > 0 && !is_product(&builder.steps[b]));
                if kept && !to_band {
                    differences[b] = place(&mut sizes.differences, builder.inputs[b]);
                }
                if b > layer.steps.start || !is_product(&builder.steps[b]) {
                    sizes.gradient = sizes.gradient.max(builder.inputs[b]);
                }
                if is_product(&builder.steps[b]) {
                    sizes.product_input = sizes.product_input.max(builder.inputs[b]);
                }
            }
            values.push(Place::Output(layer.output.clone()));
        }
        // Rows at a distance that is an odd number of cache lines spread over the sets of the caches.
        sizes.side = if builder.row > 0 { (builder.row.div_ceil(LINE) | 1) * LINE } else { 0 };
        sizes.row = sizes.side;
        let (images, steps) = (layout.images(level), builder.steps);
        Plan { level, layout, images, input, steps, layers, values, differences, sizes }
    }

    /// Elements of the values at boundary `b`.
    pub(crate) fn len(&self, b: usize) -> usize {
        match &self.values[b] {
            Place::Inside(range) | Place::Output(range) => range.len(),
        }
    }

    /// Elements of all layers' outputs.
    pub(crate) fn outputs_len(&self) -> usize {
        self.layers[self.layers.len() - 1].output.end
    }

    /// Elements of the outputs of all layers but the last.
    pub(crate) fn hidden_len(&self) -> usize {
        self.layers[self.layers.len() - 1].output.start
    }

    /// Elements of one sample of a layer's output.
    pub(crate) fn elements(&self, layer: usize) -> usize {
        self.layers[layer].image.iter().product()
    }
}

/// The next `len` elements of a buffer that ends at `end` so far.
fn place(end: &mut usize, len: usize) -> Range<usize> {
    *end += len;
    *end - len..*end
}

fn is_product(step: &Step) -> bool {
    matches!(step, Step::Product(_))
}

/// A step before it is planned: a product by the index of its operation, or what stands between two.
enum Draft {
    Product(usize, ConvShape),
    Local(Local),
}

struct Builder<'a> {
    level: Level,
    layout: Layout,
    convolutions: ConvOptions,
    batch: usize,
    specs: &'a [ParameterSpec],
    /// Channels, height and width of what the next operation reads. With channels across lanes, what is flat stays the
    /// image that it was.
    image: [usize; 3],
    steps: Vec<Step>,
    /// Elements of each step's input.
    inputs: Vec<usize>,
    sizes: Sizes,
    row: usize,
}

impl<'a> Builder<'a> {
    fn new(level: Level, layout: Layout, convolutions: ConvOptions, batch: usize, network: &'a Network) -> Self {
        let (steps, inputs, sizes) = (Vec::new(), Vec::new(), Sizes::default());
        let image = image(network.input_shape());
        let specs = network.parameters();
        Builder { level, layout, convolutions, batch, specs, image, steps, inputs, sizes, row: 0 }
    }

    fn channels_and_pixels(&self) -> [usize; 2] {
        let [channels, height, width] = self.image;
        [channels, height * width]
    }

    /// The steps of a layer; one without any is the identity.
    fn layer(&mut self, layer: usize, ops: &[Op], shapes: &[Vec<usize>], hidden: bool) {
        let mut drafts = self.drafts(ops, shapes).into_iter().peekable();
        while let Some(draft) = drafts.next() {
            match draft {
                Draft::Product(op, shape) => {
                    let next = match drafts.peek() {
                        Some(Draft::Local(local)) => Some(local),
                        _ => None,
                    };
                    let rows = next.map_or(usize::MAX, |local| self.rows_per_band(&shape, local));
                    let step = self.product(layer, op, shape, rows, hidden);
                    self.steps.push(step);
                }
                Draft::Local(local) => {
                    self.inputs.push(local.input_len());
                    self.steps.push(Step::Local(Box::new(local)));
                }
            }
        }
    }

    /// The operations of a layer, with each cheap activation joined to a max pooling behind it.
    fn drafts(&mut self, ops: &[Op], shapes: &[Vec<usize>]) -> Vec<Draft> {
        let mut drafts = Vec::new();
        let mut waiting: Option<(Activation, [usize; 3])> = None;
        let (level, layout) = (self.level, self.layout);
        let map = |(activation, [channels, height, width]): (Activation, [usize; 3])| {
            Draft::Local(Local::activation(level, layout, activation, channels, [height, width]))
        };
        for (o, (op, input)) in ops.iter().zip(shapes).enumerate() {
            let before = self.image;
            match op {
                Op::Flatten if layout == Layout::Channels => {}
                Op::Flatten | Op::Linear(_) => self.image = image(&shapes[o + 1]),
                _ if shapes[o + 1].len() == 3 => self.image = image(&shapes[o + 1]),
                _ => {}
            }
            let draft = match op {
                Op::Flatten | Op::Identity => continue,
                Op::Conv2d(conv) => Draft::Product(o, conv.shape(input)),
                Op::Linear(linear) => {
                    let [channels, height, width] = before;
                    if height * width > 1 {
                        drafts.extend(waiting.take().map(map));
                        drafts.push(Draft::Local(Local::flatten(level, channels, [height, width])));
                    }
                    Draft::Product(o, ConvShape::linear(input[0], linear.out_features))
                }
                Op::MaxPool2d(pool) => {
                    let joined = waiting.take_if(|(activation, _)| activation.is_piecewise_linear());
                    let activation = joined.map_or(Activation::Identity, |(activation, _)| activation);
                    Draft::Local(Local::max_pool(level, layout, activation, &pool.shape(input)))
                }
                Op::AvgPool2d(pool) => Draft::Local(Local::avg_pool(level, layout, &pool.shape(input))),
                Op::AdaptiveAvgPool2d { output_size } => {
                    let (channels, size) = (input[0], [input[1], input[2]]);
                    Draft::Local(Local::adaptive_avg_pool(level, layout, channels, size, *output_size))
                }
                Op::Relu | Op::LeakyRelu { .. } | Op::Tanh | Op::Sigmoid | Op::Gelu | Op::Silu | Op::Softplus => {
                    drafts.extend(waiting.replace((activation(op), before)).map(map));
                    continue;
                }
            };
            drafts.extend(waiting.take().map(map));
            drafts.push(draft);
        }
        drafts.extend(waiting.map(map));
        if drafts.is_empty() {
            drafts.push(map((Activation::Identity, self.image)));
        }
        drafts
    }

    /// Rows of a product's output that are used by the operation behind it while they are near.
    fn rows_per_band(&self, shape: &ConvShape, local: &Local) -> usize {
        let [height, width] = shape.output();
        let row = self.layout.len(self.level, [shape.out_channels, width]);
        match local.rows_per_row() {
            Some(window) if row * height > BAND => {
                // Whole tiles of Winograd's algorithm, which have four rows, too.
                let step = window * [1, 4, 2, 4][window % 4];
                let most = (BAND / row / step).max(1) * step;
                // Rows behind the last window belong to that: the last band has one.
                let last_has_one = |rows: &usize| (height - 1) / rows * rows / window < local.output_rows();
                (most..).step_by(step).find(last_has_one).unwrap_or(usize::MAX)
            }
            _ => usize::MAX,
        }
    }

    fn product(&mut self, layer: usize, op: usize, shape: ConvShape, rows_per_band: usize, hidden: bool) -> Step {
        let options = self.convolutions.with_rows_per_band(rows_per_band);
        let conv = Conv::with_options(self.level, self.layout, shape, options);
        self.sizes.product_scratch = self.sizes.product_scratch.max(conv.scratch_len());
        // In the order of layers and operations.
        let own = self.specs.partition_point(|spec| (spec.layer, spec.op) < (layer, op))..;
        let tensor = |role: Role| {
            let mut own = self.specs[own.clone()].iter().take_while(|spec| (spec.layer, spec.op) == (layer, op));
            own.find(|spec| spec.role == role).map(|spec| spec.range.clone())
        };
        let weight = tensor(Role::Weight).expect("a network has a weight for every product");
        let bias = tensor(Role::Bias);
        let forward = self.packed(conv.packed_forward_len());
        // Nothing is pulled back through the first product: what it reads is clamped.
        let first = self.steps.is_empty();
        let backward = if first { 0..0 } else { self.packed(conv.packed_backward_len()) };
        if hidden {
            self.sizes.band = self.sizes.band.max(conv.output_band_len(0));
        }
        self.inputs.push(conv.input_len());
        let gradient = if conv.is_matrix() {
            let [inputs, outputs] = [shape.in_channels * shape.taps(), shape.out_channels];
            let scratch = GemmScratch::new(self.level, outputs, self.batch, inputs).len();
            self.sizes.gemm_scratch = self.sizes.gemm_scratch.max(scratch);
            let errors = place(&mut self.row, outputs);
            WeightGradient::Rows { errors, inputs: place(&mut self.row, inputs) }
        } else {
            WeightGradient::Partial(place(&mut self.sizes.partial, conv.gradient_len()))
        };
        let partial_bias = bias.as_ref().map(|bias| place(&mut self.sizes.partial, bias.len()));
        Step::Product(Box::new(Product { conv, weight, bias, forward, backward, partial_bias, gradient }))
    }

    /// Packed weights begin on a cache line.
    fn packed(&mut self, len: usize) -> Range<usize> {
        let start = self.sizes.packed;
        self.sizes.packed += len.next_multiple_of(LINE);
        start..start + len
    }
}

/// The kernel of an operation that is an activation.
fn activation(op: &Op) -> Activation {
    match op {
        Op::Relu => Activation::Relu,
        Op::LeakyRelu { negative_slope } => Activation::LeakyRelu { negative_slope: *negative_slope },
        Op::Tanh => Activation::Tanh,
        Op::Sigmoid => Activation::Sigmoid,
        Op::Gelu => Activation::Gelu,
        Op::Silu => Activation::Silu,
        Op::Softplus => Activation::Softplus,
        _ => Activation::Identity,
    }
}

/// Channels, height and width of a shape; the features of a flat one are channels of one pixel.
fn image(shape: &[usize]) -> [usize; 3] {
    match *shape {
        [channels, height, width] => [channels, height, width],
        _ => [elements(shape), 1, 1],
    }
}
