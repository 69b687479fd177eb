//! From a network to its plan, operation by operation: what is one step, and where each value lies.
//!
//! Operations that change nothing in the layout vanish: the identity, and a flatten, but where channels lie across lanes
//! and a linear map follows.

use std::ops::Range;

use predictive_coding_kernels::{Activation, ConvOptions, ConvShape, GemmScratch, Layout, Level, Local};

use super::{Branch, Inlet, InputPlan, LayerPlan, Link, Place, Plan, Sizes, Step, Sum};
use crate::affine::{Affine, Scales};
use crate::dropout::Dropout;
use crate::network::{self, Layer, Network, elements};
use crate::op::{Approximation, Op, adaptive_size};
use crate::parameters::{OpKey, ParameterSpec, Role};
use crate::product::{Product, ProductShape, WeightGradient};
use crate::wave::Wave;

/// Elements of a cache line.
const LINE: usize = 16;
/// Elements of the differences that a product makes before they are used: a part of the second cache.
const BAND: usize = 1 << 16;

impl Plan {
    /// For batches of up to `batch` samples.
    ///
    /// `fuse`: whether relaxations take their differences band by band, so that they are nowhere afterwards;
    /// `free_input`: the precision of an input that relaxes too.
    pub(crate) fn new(
        network: &Network,
        level: Level,
        layout: Layout,
        convolutions: ConvOptions,
        batch: usize,
        fuse: bool,
        free_input: Option<f64>,
    ) -> Self {
        let mut builder = Builder::new(level, layout, convolutions, batch, network, free_input);
        let waves = Wave::of_layers(network, free_input.is_some());
        for (l, layer) in network.layers().iter().enumerate() {
            builder.layer(l, layer, waves[l], fuse);
        }
        builder.finish()
    }
}

/// The next `len` elements of a buffer that ends at `end` so far.
fn place(end: &mut usize, len: usize) -> Range<usize> {
    *end += len;
    *end - len..*end
}

/// Why a tensor is there.
const HAS_PARAMETERS: &str = "a network has the parameters of all of its operations";

/// The next `len` elements of packed weights, which begin on a cache line.
fn on_a_line(end: &mut usize, len: usize) -> Range<usize> {
    let start = *end;
    *end += len.next_multiple_of(LINE);
    start..start + len
}

/// The operations of a chain.
fn placed<'a>(
    layer: usize,
    branch: Option<usize>,
    ops: &'a [Op],
    shapes: &'a [Vec<usize>],
) -> impl Iterator<Item = Placed<'a>> {
    let shapes = shapes.windows(2);
    let ops = ops.iter().zip(shapes).enumerate();
    ops.map(move |(op, (operation, shapes))| Placed {
        key: OpKey::new(layer, branch, op),
        op: operation,
        input: &shapes[0],
        output: &shapes[1],
    })
}

/// An operation of a chain, with the shapes before and after it.
#[derive(Clone, Copy)]
struct Placed<'a> {
    key: OpKey,
    op: &'a Op,
    input: &'a [usize],
    output: &'a [usize],
}

/// A step before it is planned: a product by its operation, or what stands between two.
enum Draft {
    Product(OpKey, ProductShape),
    /// Of the images that are given, by the running statistics with this eps if that is given.
    Affine(OpKey, [usize; 3], Option<f64>),
    /// Of images of so many channels and pixels.
    Dropout(f64, [usize; 2]),
    Local(Local),
}

struct Builder<'a> {
    level: Level,
    layout: Layout,
    convolutions: ConvOptions,
    batch: usize,
    specs: &'a [ParameterSpec],
    depth: usize,
    /// Channels, height and width of what the next operation reads. With channels across lanes, what is flat stays the
    /// image that it was.
    image: [usize; 3],
    /// Those of the input and of each layer's output.
    images: Vec<[usize; 3]>,
    input: InputPlan,
    layers: Vec<LayerPlan>,
    steps: Vec<Step>,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    differences: Vec<Range<usize>>,
    /// Elements of the outputs so far.
    output: usize,
    sizes: Sizes,
    row: usize,
}

impl<'a> Builder<'a> {
    fn new(
        level: Level,
        layout: Layout,
        convolutions: ConvOptions,
        batch: usize,
        network: &'a Network,
        free_input: Option<f64>,
    ) -> Self {
        let image = image(network.input_shape());
        let [channels, height, width] = image;
        let (mut output, mut sizes) = (0, Sizes::default());
        let pixels = [channels, height * width];
        let len = layout.len(level, pixels);
        let (value, belief) = match free_input {
            Some(_) => (Place::Output(place(&mut output, len)), 0..len),
            None => (Place::Inside(place(&mut sizes.values, len)), 0..0),
        };
        let input = InputPlan { image: pixels, value, output: belief, precision: free_input.unwrap_or(1.0), rate: 1.0 };
        Builder {
            level,
            layout,
            convolutions,
            batch,
            specs: network.parameters(),
            depth: network.layers().len(),
            image,
            images: vec![image],
            input,
            layers: Vec::new(),
            steps: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            differences: Vec::new(),
            output,
            sizes,
            row: 0,
        }
    }

    fn finish(self) -> Plan {
        let Builder { level, layout, input, mut layers, steps, inputs, outputs, differences, mut sizes, row, .. } =
            self;
        let place = |source: Option<usize>| source.map_or(0, |layer| layer + 1);
        let mut links = vec![0; layers.len()];
        layers.iter().flat_map(LayerPlan::links).for_each(|link| links[place(link.source)] += 1);
        layers.iter_mut().flat_map(LayerPlan::links_mut).for_each(|link| link.alone = links[place(link.source)] == 1);
        let free_input = std::iter::once(None).filter(|_| !input.output.is_empty());
        let beliefs = free_input.chain((0..layers.len() - 1).map(Some));
        let shared = beliefs.filter(|&source| links[place(source)] != 1).collect();
        // Rows at a distance that is an odd number of cache lines spread over the sets of the caches.
        sizes.side = if row > 0 { (row.div_ceil(LINE) | 1) * LINE } else { 0 };
        sizes.row = sizes.side;
        let images = layout.images(level);
        Plan { level, layout, images, input, steps, layers, shared, inputs, outputs, differences, sizes }
    }

    fn channels_and_pixels(&self) -> [usize; 2] {
        let [channels, height, width] = self.image;
        [channels, height * width]
    }

    fn image_len(&self) -> usize {
        self.layout.len(self.level, self.channels_and_pixels())
    }

    /// Where the values of a source lie, which are `from` as a [branch](crate::Branch) counts it.
    fn source(&self, from: usize) -> (Link, Place) {
        let source = from.checked_sub(1);
        let value = source.map_or(self.input.value.clone(), |layer| Place::Output(self.layers[layer].output.clone()));
        (Link { source, alone: false }, value)
    }

    fn is_clamped(&self, link: Link) -> bool {
        link.source.is_none() && self.input.output.is_empty()
    }

    /// A layer without any operation is the identity.
    fn layer(&mut self, l: usize, layer: &Layer, wave: Wave, fuse: bool) {
        let first = self.steps.len();
        let (partial, row) = (self.sizes.partial, self.row);
        let hidden = l + 1 < self.depth;
        let own = placed(l, None, layer.ops(), layer.shapes());
        let (inlet, start, difference, drafts) = match layer.branches() {
            [branch] => {
                let (link, value) = self.source(branch.from());
                self.image = self.images[branch.from()];
                let ops = placed(l, Some(0), branch.ops(), branch.shapes()).chain(own);
                (Inlet::Belief(link), value, None, self.drafts(ops))
            }
            branches => {
                let sum = self.sum(l, branches);
                let (value, difference) = (Place::Inside(sum.value.clone()), Some(sum.difference.clone()));
                (Inlet::Sum(sum), value, difference, self.drafts(own))
            }
        };
        let drafts = if drafts.is_empty() { vec![self.map((Activation::Identity, self.image))] } else { drafts };
        let fused = fuse && hidden && matches!(drafts[..], [.., Draft::Product(..), Draft::Local(_)]);
        let len = self.image_len();
        let output = place(&mut self.output, len);
        let clamped = matches!(inlet, Inlet::Belief(link) if self.is_clamped(link));
        let tail = self.chain(l, drafts, start, Place::Output(output.clone()), difference, clamped, fused);
        let products_below = self.steps[first..tail.start].iter().any(Step::has_parameters);
        let lowest_product = tail.clone().find(|&b| self.steps[b].has_parameters());
        let needs_input = |&b: &usize| match (&self.steps[b], lowest_product) {
            (Step::Product(_), _) => true,
            (Step::Affine(affine), _) => affine.is_trained(),
            (Step::Dropout(_), _) => false,
            (Step::Local(local), _) if products_below => !local.is_linear(),
            (Step::Local(local), Some(lowest)) => b > lowest && !local.is_linear(),
            (Step::Local(_), None) => false,
        };
        let renewed = tail.clone().rev().find(needs_input).or(products_below.then_some(tail.start));
        let local_end = matches!(self.steps[tail.end - 1], Step::Local(_));
        let len = if local_end { self.inputs[tail.end - 1].len() } else { 0 };
        self.images.push(self.image);
        self.layers.push(LayerPlan {
            steps: first..tail.end,
            inlet,
            renewed,
            fused,
            output,
            image: self.channels_and_pixels(),
            pulled: place(&mut self.sizes.pulled, len),
            precision: layer.precision(),
            rate: 1.0,
            partial,
            row,
            wave,
            tail,
        });
    }

    /// The chains of a layer's branches. Where those end in images of different sizes, which are flat to the network, all
    /// are flattened.
    fn sum(&mut self, l: usize, branches: &[network::Branch]) -> Sum {
        let mut drafts = Vec::with_capacity(branches.len());
        for (index, branch) in branches.iter().enumerate() {
            self.image = self.images[branch.from()];
            let steps = self.drafts(placed(l, Some(index), branch.ops(), branch.shapes()));
            drafts.push((steps, self.image));
        }
        let differ = drafts.iter().any(|(_, image)| *image != drafts[0].1);
        let mut planned = Vec::with_capacity(branches.len());
        for (branch, (mut drafts, image)) in branches.iter().zip(drafts) {
            let [channels, height, width] = image;
            self.image = image;
            if differ && height * width > 1 {
                drafts.push(Draft::Local(Local::flatten(
                    self.level,
                    self.layout.images(self.level),
                    channels,
                    [height, width],
                )));
                self.image = [channels * height * width, 1, 1];
            }
            let (link, start) = self.source(branch.from());
            let local_end = matches!(drafts.last(), Some(Draft::Local(_) | Draft::Affine(..) | Draft::Dropout(..)));
            let end = Place::Inside(0..0);
            let steps = self.chain(l, drafts, start, end, None, self.is_clamped(link), false);
            let len = if local_end { self.image_len() } else { 0 };
            let difference = place(&mut self.sizes.differences, len);
            if local_end {
                self.outputs[steps.end - 1] = Place::Inside(place(&mut self.sizes.values, len));
            }
            planned.push(Branch { link, steps, difference });
        }
        let len = self.image_len();
        let value = place(&mut self.sizes.values, len);
        for Branch { steps, difference, .. } in &planned {
            if difference.is_empty() && !steps.is_empty() {
                self.outputs[steps.end - 1] = Place::Inside(value.clone());
            }
        }
        self.sizes.sum = self.sizes.sum.max(len);
        Sum { branches: planned, value, difference: place(&mut self.sizes.differences, len) }
    }

    /// The steps from `start` to `end`. `difference`: where that at the start lies, if it is not a belief's; `clamped`:
    /// whether what they read never moves.
    #[expect(clippy::too_many_arguments, reason = "what a chain is made of and lies between")]
    fn chain(
        &mut self,
        layer: usize,
        drafts: Vec<Draft>,
        start: Place,
        end: Place,
        difference: Option<Range<usize>>,
        clamped: bool,
        fused: bool,
    ) -> Range<usize> {
        let first = self.steps.len();
        let (hidden, count) = (layer + 1 < self.depth, drafts.len());
        let mut drafts = drafts.into_iter().enumerate().peekable();
        while let Some((index, draft)) = drafts.next() {
            let (step, len) = match draft {
                Draft::Product(key, shape) => {
                    let rows = match drafts.peek() {
                        Some((_, Draft::Local(local))) if !shape.transposed => self.rows_per_band(&shape.conv, local),
                        _ => usize::MAX,
                    };
                    let options = self.convolutions.with_rows_per_band(rows);
                    let product = self.product(key, &shape, options, hidden, !clamped || index > 0);
                    let len = product.input_len();
                    self.sizes.product_input = self.sizes.product_input.max(len);
                    (Step::Product(Box::new(product)), len)
                }
                Draft::Affine(key, image, eps) => {
                    let affine = self.affine(key, image, eps);
                    let len = affine.len();
                    self.sizes.product_input = self.sizes.product_input.max(len);
                    (Step::Affine(affine), len)
                }
                Draft::Dropout(p, image) => {
                    let number = self.steps.iter().filter(|step| matches!(step, Step::Dropout(_))).count();
                    let mask = place(&mut self.sizes.values, self.layout.len(self.level, image));
                    let dropout = Dropout::new(p, number as u64, image, mask);
                    let len = dropout.len();
                    (Step::Dropout(dropout), len)
                }
                Draft::Local(local) => {
                    let len = local.input_len();
                    (Step::Local(Box::new(local)), len)
                }
            };
            let input = match index {
                0 => start.clone(),
                _ => Place::Inside(place(&mut self.sizes.values, len)),
            };
            if index > 0 {
                self.outputs.push(input.clone());
            }
            self.inputs.push(input);
            // The input of a local operation at the start is kept, as the belief moves on.
            let kept = match index {
                0 => difference.is_none() && !clamped && matches!(step, Step::Local(_)),
                _ => !(fused && index + 1 == count),
            };
            self.differences.push(match &difference {
                Some(difference) if index == 0 => difference.clone(),
                _ => place(&mut self.sizes.differences, if kept { len } else { 0 }),
            });
            if index > 0 || !matches!(step, Step::Product(_)) {
                self.sizes.gradient = self.sizes.gradient.max(len);
            }
            self.steps.push(step);
        }
        if count > 0 {
            self.outputs.push(end);
        }
        first..self.steps.len()
    }

    /// A normalisation, and the scales and shifts behind it.
    fn norm(&self, key: OpKey, op: &Op, drafts: &mut Vec<Draft>) {
        let [channels, pixels] = self.channels_and_pixels();
        let local = |groups: usize, centred: bool, eps: f64| {
            Draft::Local(Local::norm(self.level, self.layout, [channels, pixels], groups, centred, eps))
        };
        let (first, norm) = match op {
            Op::LayerNorm(norm) => (local(1, true, norm.eps), norm),
            Op::RmsNorm(norm) => (local(1, false, norm.eps), norm),
            Op::GroupNorm { num_groups, norm } => (local(*num_groups, true, norm.eps), norm),
            Op::BatchNorm2d(norm) => (Draft::Affine(key, self.image, Some(norm.eps)), norm),
            other => unreachable!("{} does not normalise", other.name()),
        };
        drafts.push(first);
        drafts.extend(norm.affine.then_some(Draft::Affine(key, self.image, None)));
    }

    /// The scales and shifts of a normalisation, or those of running statistics with this eps.
    fn affine(&mut self, key: OpKey, [channels, height, width]: [usize; 3], running: Option<f64>) -> Affine {
        let tensor = |role: Role| self.tensor(key, role);
        let scales = match running {
            None => Scales::Trained { weight: tensor(Role::Weight).expect(HAS_PARAMETERS), bias: tensor(Role::Bias) },
            Some(eps) => {
                let [mean, variance] =
                    [Role::RunningMean, Role::RunningVar].map(|role| tensor(role).expect(HAS_PARAMETERS));
                Scales::Running { mean, variance, eps }
            }
        };
        let Sizes { packed, partial, .. } = &mut self.sizes;
        let (image, packed) = ([channels, height * width], |len: usize| on_a_line(packed, len));
        Affine::new(self.level, self.layout, image, scales, packed, |len: usize| place(partial, len))
    }

    /// The place of a parameter of an operation.
    fn tensor(&self, key: OpKey, role: Role) -> Option<Range<usize>> {
        let own = self.specs.partition_point(|spec| spec.order() < (!role.is_trained(), key))..;
        let mut own = self.specs[own].iter().take_while(|spec| spec.key() == key);
        own.find(|spec| spec.role == role).map(|spec| spec.range.clone())
    }

    /// An activation by itself.
    fn map(&self, (activation, [channels, height, width]): (Activation, [usize; 3])) -> Draft {
        Draft::Local(Local::activation(self.level, self.layout, activation, channels, [height, width]))
    }

    /// The steps of some operations, with each cheap activation joined to a max pooling behind it.
    fn drafts<'o>(&mut self, ops: impl Iterator<Item = Placed<'o>>) -> Vec<Draft> {
        let mut drafts = Vec::new();
        let mut waiting: Option<(Activation, [usize; 3])> = None;
        let (level, layout) = (self.level, self.layout);
        let samples = layout.images(level);
        for Placed { key, op, input, output } in ops {
            let before = self.image;
            match op {
                Op::Flatten if layout.is_channels() => {}
                Op::Flatten | Op::Linear(_) => self.image = image(output),
                _ if output.len() == 3 => self.image = image(output),
                _ => {}
            }
            let product = || op.product(input).expect("an operation with weights is a product");
            let draft = match op {
                Op::Flatten | Op::Identity => continue,
                // Where channels do not lie across the lanes, the order is the same.
                Op::Unflatten { .. } if !layout.is_channels() || before == self.image => continue,
                Op::Unflatten { .. } => {
                    drafts.extend(waiting.take().map(|waiting| self.map(waiting)));
                    for (image, way) in
                        [(before, Local::flatten as fn(_, _, _, _) -> _), (self.image, Local::unflatten)]
                    {
                        let [channels, height, width] = image;
                        if height * width > 1 {
                            drafts.push(Draft::Local(way(level, samples, channels, [height, width])));
                        }
                    }
                    continue;
                }
                Op::Conv2d(_) | Op::ConvTranspose2d(_) => Draft::Product(key, product()),
                Op::Linear(_) => {
                    let [channels, height, width] = before;
                    if height * width > 1 {
                        drafts.extend(waiting.take().map(|waiting| self.map(waiting)));
                        drafts.push(Draft::Local(Local::flatten(level, samples, channels, [height, width])));
                    }
                    Draft::Product(key, product())
                }
                Op::LayerNorm(_) | Op::RmsNorm(_) | Op::GroupNorm { .. } | Op::BatchNorm2d(_) => {
                    drafts.extend(waiting.take().map(|waiting| self.map(waiting)));
                    if let ([features], [channels, height, width], Op::GroupNorm { .. }) = (input, before, op)
                        && height * width > 1
                    {
                        // A group of features need not be one of channels.
                        drafts.push(Draft::Local(Local::flatten(level, samples, channels, [height, width])));
                        self.image = [*features, 1, 1];
                    }
                    self.norm(key, op, &mut drafts);
                    continue;
                }
                Op::Dropout { p } => Draft::Dropout(*p, self.channels_and_pixels()),
                Op::MaxPool2d(pool) => {
                    let joined = waiting.take_if(|(activation, _)| activation.is_piecewise_linear());
                    let activation = joined.map_or(Activation::Identity, |(activation, _)| activation);
                    Draft::Local(Local::max_pool(level, layout, activation, &pool.shape(input)))
                }
                Op::AvgPool2d(pool) => Draft::Local(Local::avg_pool(level, layout, &pool.shape(input), pool.divisor())),
                Op::AdaptiveAvgPool2d { output_size } => {
                    let (channels, size) = (input[0], [input[1], input[2]]);
                    let output_size = adaptive_size(*output_size, input);
                    Draft::Local(Local::adaptive_avg_pool(level, layout, channels, size, output_size))
                }
                Op::Relu
                | Op::LeakyRelu { .. }
                | Op::Hardtanh { .. }
                | Op::Elu { .. }
                | Op::Selu
                | Op::Tanh
                | Op::Sigmoid
                | Op::Gelu { .. }
                | Op::Silu
                | Op::Softplus { .. } => {
                    drafts.extend(waiting.replace((activation(op), before)).map(|waiting| self.map(waiting)));
                    continue;
                }
            };
            drafts.extend(waiting.take().map(|waiting| self.map(waiting)));
            drafts.push(draft);
        }
        drafts.extend(waiting.map(|waiting| self.map(waiting)));
        drafts
    }

    /// Rows of a product's output that are used by the operation behind it while they are near.
    fn rows_per_band(&self, shape: &ConvShape, local: &Local) -> usize {
        let [height, width] = shape.output();
        let row = self.layout.len(self.level, [shape.out_channels, width]);
        // What is reshaped in between has other rows.
        let rows_alike = local.planes() == self.layout.planes(self.level, shape.out_channels)
            && local.input_rows(&(0..local.output_rows())).len() == height;
        match local.rows_per_row() {
            Some(window) if rows_alike && row * height > BAND => {
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

    /// `is_pulled_through`: whether what it reads is not clamped.
    fn product(
        &mut self,
        key: OpKey,
        shape: &ProductShape,
        options: ConvOptions,
        hidden: bool,
        is_pulled_through: bool,
    ) -> Product {
        let (weight, bias) = (self.tensor(key, Role::Weight).expect(HAS_PARAMETERS), self.tensor(key, Role::Bias));
        let (level, layout, sizes) = (self.level, self.layout, &mut self.sizes);
        let packed = |len: usize| on_a_line(&mut sizes.packed, len);
        let mut product = Product::new(level, layout, shape, options, (weight, bias), is_pulled_through, packed);
        sizes.product_scratch = sizes.product_scratch.max(product.scratch_len());
        sizes.gemm_scratch = sizes.gemm_scratch.max(product.dense_len());
        if hidden {
            sizes.band = sizes.band.max(product.band_len(0));
        }
        product.gradient = match product.matrix() {
            Some([outputs, inputs]) => {
                let scratch = GemmScratch::new(level, outputs, self.batch, inputs).len();
                sizes.gemm_scratch = sizes.gemm_scratch.max(scratch);
                let errors = place(&mut self.row, outputs);
                WeightGradient::Rows { errors, inputs: place(&mut self.row, inputs) }
            }
            None => WeightGradient::Partial(place(&mut sizes.partial, product.gradient_len())),
        };
        product.partial_bias = product.bias.as_ref().map(|bias| place(&mut sizes.partial, bias.len()));
        product
    }
}

/// The kernel of an operation that is an activation.
fn activation(op: &Op) -> Activation {
    match *op {
        Op::Relu => Activation::Relu,
        Op::LeakyRelu { negative_slope } => Activation::LeakyRelu { negative_slope },
        Op::Hardtanh { min_val, max_val } => Activation::Hardtanh { min_val, max_val },
        Op::Elu { alpha } => Activation::Elu { alpha },
        Op::Selu => Activation::Selu,
        Op::Tanh => Activation::Tanh,
        Op::Sigmoid => Activation::Sigmoid,
        Op::Gelu { approximate: Approximation::None } => Activation::Gelu,
        Op::Gelu { approximate: Approximation::Tanh } => Activation::GeluTanh,
        Op::Silu => Activation::Silu,
        Op::Softplus { beta, threshold } => Activation::Softplus { beta, threshold },
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
