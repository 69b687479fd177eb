//! A session: everything one network, batch size and method need, planned once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use predictive_coding_kernels::{
    Buffer, Choice, Layout, Level, Lhs, MatMut, MatRef, concurrency, elementwise, gemm, pool_threads,
};
use rayon::prelude::*;

use crate::draft::{Draft, Multiples, check_memory};
use crate::error::{Error, Result};
use crate::finite::check_samples;
use crate::group::{Call, Group, Start};
use crate::layer::{Change, Layers};
use crate::learn::Changing;
use crate::loss::Targets;
use crate::method::{ErrorBased, Incremental, Method, Solver, Strict};
use crate::names::names;
use crate::network::Network;
use crate::options::Options;
use crate::output::Output;
use crate::parameters::{Parameters, ParametersView};
use crate::plan::{Plan, Step, WeightGradient};
use crate::pool::Pool;
use crate::relaxation::Open;
use crate::state::{Descending, Scratch};

/// Values of the gradients that one task adds up.
const REDUCTION_BLOCK: usize = 1 << 16;

/// A quantity that a session holds for a layer, one value per element of the layer's output. See [`Session`] for an
/// example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantity {
    /// v-hat_l of the forward pass, for l = 1..=L.
    Activation,
    /// u_l = v_l - v-hat_l, for l = 1..L-1.
    Deviation,
    /// v_l, for l = 1..L-1.
    Belief,
    /// epsilon_l of the last iteration, for l = 1..=L.
    Error,
}

names!(Quantity, "quantity", {
    Activation => "activation", Deviation => "deviation", Belief => "belief", Error => "error",
});

/// Computes steps of one network by one method, for batches of up to a given size.
///
/// A session is planned once. It owns every buffer and allocates nothing afterwards (except that rayon's queue grows now and
/// then if a call comes from outside of a pool).
///
/// A batch is divided into tiles: either one sample in each lane of one or more vectors, or a single sample with its channels
/// across the lanes ([`Layout`]). Samples relax independently, so the forward pass, all iterations and the gradients of a
/// tile are one task of the current rayon pool. The tiles, and the order in which gradients are added, depend only on the
/// network, the batch, the layout and the SIMD level. Results are therefore bit-identical for any number of threads.
///
/// ```
/// use predictive_coding::{Linear, Loss, Network, Op, Options, Quantity, Session, Strict};
///
/// let linear = |outputs| Op::Linear(Linear::new(outputs));
/// let network = Network::new(&[4], Loss::MSE, vec![vec![linear(8), Op::Tanh], vec![linear(3)]])?;
/// let parameters = network.initialize(1);
/// // Two samples at most, each with a value for every output.
/// let mut session = Session::new(&network, 2, Strict::new(0.1, 20), Options::default())?;
/// let (x, y) = ([0.1, -0.5, 0.3, 0.9, 1.0, 0.2, -0.7, 0.4], [0.0f32, 1.0, 0.0, 1.0, 0.0, 0.0]);
/// let loss = session.infer(&parameters, &x, &y)?;
/// assert_eq!(session.get(Quantity::Belief, 1)?.len(), 2 * 8);
/// assert_eq!(session.gradients().get("0.0.weight").unwrap().len(), 8 * 4);
/// assert_eq!(session.predict(&parameters, &x[..4])?.len(), 3);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
///
/// A clone has the results of the last call and buffers of its own, so that another thread can use it.
#[derive(Clone)]
pub struct Session {
    pub(crate) plan: Arc<Plan>,
    pub(crate) method: Method,
    pub(crate) options: Options,
    network: Network,
    batch: usize,
    pub(crate) packed: Buffer,
    groups: Vec<Group>,
    scratch: Pool,
    /// The operands of the weight gradients of matrices: a row for each sample.
    rows: Buffer,
    /// For the products of those: one part for each thread.
    gemm_scratch: Buffer,
    /// Where the estimates of the largest stable step start, if eta may be chosen by them.
    open: Option<Box<Open>>,
    /// What a method's quantities are backpropagation's errors times of, for each layer, if they are.
    multiples: Option<Multiples>,
    /// The parameters of incremental.
    pub(crate) changing: Option<Box<Changing>>,
    pub(crate) gradients: Parameters,
    samples: usize,
    loss: f32,
    /// Whether the last call relaxed, or only went forward.
    pub(crate) inferred: bool,
    energies: Vec<f64>,
}

impl Session {
    /// Plans a session for batches of up to `batch` samples. With the default options, the SIMD level is the widest of this
    /// machine, or the one that the environment variable `PREDICTIVE_CODING_LEVEL` names.
    ///
    /// # Errors
    /// [`Error::Argument`] if the batch is 0, the method is refused by [`Method::validate`], has step sizes for another
    /// number of layers or, as a fixed-prediction with a large eta, diverges in this network beyond all numbers, the
    /// level does not exist here, or there is not enough memory.
    pub fn new(network: &Network, batch: usize, method: impl Into<Method>, options: Options) -> Result<Self> {
        let method = method.into();
        let Draft { plan, multiples, tiles, tiles_per_group, tasks, threads, extras, estimates, total } =
            Draft::new(network, batch, &method, &options)?;
        check_memory(batch, total)?;
        let incremental = matches!(method, Method::Incremental(_));
        let group = |first: usize| {
            let tiles = first..(first + tiles_per_group).min(tiles);
            Group::new(&plan, tiles, multiples.is_none(), incremental)
        };
        Ok(Session {
            packed: Buffer::zeros(plan.sizes.packed),
            groups: (0..tiles).step_by(tiles_per_group).map(group).collect(),
            scratch: Pool::new(&plan, extras, tasks),
            rows: Buffer::zeros(tiles * plan.images * plan.sizes.row),
            gemm_scratch: Buffer::zeros(threads * plan.sizes.gemm_scratch),
            open: estimates.then(|| Box::new(Open::new(&plan))),
            multiples,
            changing: incremental.then(|| Box::new(Changing::new(&plan, network))),
            plan: Arc::new(plan),
            method,
            options,
            network: network.clone(),
            batch,
            gradients: Parameters::zeros(network.parameters().clone()),
            samples: 0,
            loss: 0.0,
            inferred: false,
            energies: Vec::new(),
        })
    }

    /// The largest number of bytes that a session with these settings may use; `None` if the number overflows. Computing it
    /// needs little memory.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn required_bytes(
        network: &Network,
        batch: usize,
        method: &Method,
        options: &Options,
    ) -> Result<Option<usize>> {
        let total = Draft::new(network, batch, method, options)?.total;
        Ok(total.and_then(|total| total.checked_mul(size_of::<f32>())?.checked_add(network.table_bytes())))
    }

    /// One step without the optimiser: forward pass, relaxation, gradients. `x` is
    /// `[samples, input shape]` with 1 to `batch` samples, which `y` must match. Returns the loss of
    /// the forward pass.
    ///
    /// # Errors
    /// [`Error::Input`] if sizes or labels do not fit, or an input, a target or a parameter is not finite
    /// (nothing was computed);
    /// [`Error::Diverged`] if the energy of a strict relaxation, as it is before each of the n updates,
    /// shows that it diverged (all iterations were run and everything can be read);
    /// [`Error::Stopped`] if [`Options::stop`] was set meanwhile; [`Error::Argument`] for
    /// [`Incremental`](crate::Incremental), which [`learn`](Self::learn)s.
    pub fn infer<'a>(
        &mut self,
        parameters: impl Into<ParametersView<'a>>,
        x: &[f32],
        y: impl Into<Targets<'a>>,
    ) -> Result<f32> {
        self.infer_from(parameters, x, y, &[])
    }

    /// As [`infer`](Self::infer), with a strict relaxation that starts at given beliefs:
    /// `start[l - 1]` for layer l in 1..L; layers beyond the end of the slice start at v-hat.
    ///
    /// ```
    /// use predictive_coding::{Linear, Loss, Network, Op, Options, Quantity, Session, Start, Strict};
    ///
    /// let linear = |outputs| Op::Linear(Linear::new(outputs));
    /// let network = Network::new(&[2], Loss::MSE, vec![vec![linear(2), Op::Tanh], vec![linear(1)]])?;
    /// let (parameters, x, y) = (network.initialize(1), [0.5, -0.5], [1.0f32]);
    /// let mut session = Session::new(&network, 1, Strict::new(0.1, 10), Options::default())?;
    /// session.infer(&parameters, &x, &y)?;
    /// // Ten iterations more, from where the first ten ended.
    /// let deviation = session.get(Quantity::Deviation, 1)?;
    /// session.infer_from(&parameters, &x, &y, &[Start::Deviation(&deviation)])?;
    /// # Ok::<(), predictive_coding::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`infer`](Self::infer); [`Error::Input`] if a start does not fit its layer or is not finite, or
    /// the method is not strict, or is strict by sweeps or with a centred nudge.
    pub fn infer_from<'a>(
        &mut self,
        parameters: impl Into<ParametersView<'a>>,
        x: &[f32],
        y: impl Into<Targets<'a>>,
        start: &[Start<'_>],
    ) -> Result<f32> {
        let (parameters, targets) = (parameters.into(), y.into());
        if self.changing.is_some() {
            return Err(Error::Argument("incremental changes the parameters; expected a call of learn".into()));
        }
        let samples = self.check(parameters, x, Some(targets))?;
        self.check_start(start, samples)?;
        self.pack(parameters);
        let mut open = self.open.take();
        let (plan, packed) = (&*self.plan, &*self.packed);
        let layers = Layers { plan, parameters, packed, change: None, parallel: true };
        let vector = open.as_mut().map(|open| match self.solver() {
            Some(Solver::Automatic { .. }) => open.follow(layers, self.output(samples)),
            _ => open.vector(),
        });
        let (method, options) = (self.method.clone(), self.options);
        self.run(parameters, None, x, Some(targets), start, samples, |call, group, scratch, rows| {
            group.step(call, &method, &options, vector, scratch, rows);
        });
        self.open = open;
        self.inferred = !self.options.stopped();
        if !self.inferred {
            return Err(Error::Stopped);
        }
        self.reduce();
        self.outcome()
    }

    /// The loss of the last call, or its earliest divergence.
    pub(crate) fn outcome(&self) -> Result<f32> {
        let used = self.samples.div_ceil(self.plan.images).div_ceil(self.groups[0].tiles.len());
        match self.groups[..used].iter().filter_map(|group| group.divergence).min_by_key(|d| (d.iteration, d.sample)) {
            Some(divergence) => Err(Error::Diverged(divergence)),
            None => Ok(self.loss),
        }
    }

    /// Runs only the forward pass, and returns the loss. Afterwards only activations can be read.
    ///
    /// # Errors
    /// [`Error::Input`] if sizes or labels do not fit, or an input, a target or a parameter is not finite.
    pub fn forward<'a>(
        &mut self,
        parameters: impl Into<ParametersView<'a>>,
        x: &[f32],
        y: impl Into<Targets<'a>>,
    ) -> Result<f32> {
        let (parameters, targets) = (parameters.into(), y.into());
        let samples = self.check(parameters, x, Some(targets))?;
        self.pack(parameters);
        self.run(parameters, None, x, Some(targets), &[], samples, Group::forward);
        self.inferred = false;
        Ok(self.loss)
    }

    /// The outputs of the network, `[samples, output shape]`, for 1 to `batch` samples `x` without targets. Afterwards
    /// only activations can be read.
    ///
    /// # Errors
    /// [`Error::Input`] if the size does not fit, or an input or a parameter is not finite.
    pub fn predict<'a>(&mut self, parameters: impl Into<ParametersView<'a>>, x: &[f32]) -> Result<Vec<f32>> {
        let parameters = parameters.into();
        let samples = self.check(parameters, x, None)?;
        self.pack(parameters);
        self.run(parameters, None, x, None, &[], samples, Group::forward);
        self.inferred = false;
        self.get(Quantity::Activation, self.plan.layers.len())
    }

    /// A quantity of layer `layer` (from 1) of the last call, `[samples, layer shape]`.
    ///
    /// # Errors
    /// [`Error::Input`] if the layer has no such quantity, or the last call was none that computes it.
    pub fn get(&self, quantity: Quantity, layer: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.samples * self.elements_of(layer)?];
        self.read(quantity, layer, &mut out)?;
        Ok(out)
    }

    /// As [`get`](Self::get), into a buffer of exactly that size.
    ///
    /// # Errors
    /// As [`get`](Self::get), or [`Error::Input`] if `out` has another size.
    pub fn read(&self, quantity: Quantity, layer: usize, out: &mut [f32]) -> Result<()> {
        let layers = self.plan.layers.len();
        let elements = self.elements_of(layer)?;
        if layer == layers && matches!(quantity, Quantity::Deviation | Quantity::Belief) {
            return Err(Error::Input(format!(
                "layer {layer} is the output and has no {quantity:?}, expected a layer in 1..{layers}"
            )));
        }
        if quantity != Quantity::Activation && !self.inferred {
            return Err(Error::Input(format!(
                "the last call only ran the forward pass, so there is no {quantity:?}; call infer first"
            )));
        }
        if out.len() != self.samples * elements {
            return Err(Error::Input(format!(
                "the buffer for {quantity:?} of layer {layer} has {} elements, expected {} samples x {elements}",
                out.len(),
                self.samples
            )));
        }
        let layer_plan = &self.plan.layers[layer - 1];
        let place = layer_plan.output.clone();
        let tiles = self.groups.iter().flat_map(|group| &group.tiles);
        // What is iterated is kept times its precision.
        let error = self.multiples.as_ref().map_or(1.0 / layer_plan.precision, |multiples| multiples.errors[layer - 1]);
        let moved = self.multiples.as_ref().map(|multiples| multiples.moves[layer - 1] as f32);
        for (tile, rows) in tiles.zip(out.chunks_mut((self.plan.images * elements).max(1))) {
            let (source, factor) = match (quantity, moved) {
                (Quantity::Activation, _) => (&tile.activations, 1.0),
                (Quantity::Error, _) => (&tile.errors, error as f32),
                (Quantity::Deviation | Quantity::Belief, Some(moved)) => (&tile.errors, -moved),
                (Quantity::Deviation | Quantity::Belief, None) => (&tile.deviations, 1.0),
            };
            let (Plan { level, layout, .. }, image) = (&*self.plan, layer_plan.image);
            let samples = rows.len() / elements;
            layout.store(*level, &source[place.clone()], image, rows, samples, elements);
            if factor != 1.0 {
                rows.iter_mut().for_each(|value| *value *= factor);
            }
            if quantity == Quantity::Belief {
                for (sample, row) in rows.chunks_exact_mut(elements).enumerate() {
                    let places = layout.places(*level, image, sample);
                    row.iter_mut().zip(places).for_each(|(v, i)| *v += tile.activations[place.start + i]);
                }
            }
        }
        Ok(())
    }

    /// dLoss/dv-hat_L of the last call, `[samples, output shape]`: how the loss of the forward pass changes with the
    /// outputs. The output's error is the same but for strict, whose last iteration takes it at the beliefs.
    ///
    /// # Errors
    /// [`Error::Input`] if `out` has another size, or the last call had no targets.
    pub fn read_loss_gradient(&self, out: &mut [f32]) -> Result<()> {
        let last = &self.plan.layers[self.plan.layers.len() - 1];
        let elements = self.plan.elements(self.plan.layers.len() - 1);
        if self.loss.is_nan() {
            return Err(Error::Input("the last call had no targets, so there is no gradient of a loss".into()));
        }
        if out.len() != self.samples * elements {
            return Err(Error::Input(format!(
                "{} elements to read the loss's gradient into, expected {} samples x {elements}",
                out.len(),
                self.samples
            )));
        }
        let output = Output::new(&self.plan, self.network.loss(), self.samples, 1.0, false);
        let difference = Buffer::zeros(last.output.len());
        let mut error = Buffer::zeros(last.output.len());
        let mut losses = vec![0.0; self.plan.images];
        let tiles = self.groups.iter().flat_map(|group| &group.tiles);
        for (tile, rows) in tiles.zip(out.chunks_mut(self.plan.images * elements)) {
            let activation = &tile.activations[last.output.clone()];
            output.error(activation, &difference, &tile.targets, tile.samples, &mut error, &mut losses);
            let samples = rows.len() / elements;
            self.plan.layout.store(self.plan.level, &error, last.image, rows, samples, elements);
        }
        Ok(())
    }

    /// Elements of one sample of layer `layer` (from 1).
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn elements(&self, layer: usize) -> usize {
        self.elements_of(layer).unwrap_or_else(|error| panic!("{error}"))
    }

    fn elements_of(&self, layer: usize) -> Result<usize> {
        let layers = self.plan.layers.len();
        match (1..=layers).contains(&layer) {
            true => Ok(self.plan.elements(layer - 1)),
            false => Err(Error::Input(format!("there is no layer {layer}, expected 1..={layers}"))),
        }
    }

    /// Samples of the last call.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The loss of the forward pass of the last call. A divergence does not change it. NaN if there were no targets.
    pub fn loss(&self) -> f32 {
        self.loss
    }

    /// How each sample of the last relaxation by strict, error-based or incremental descended, in the order of the batch; nothing for
    /// the other methods.
    pub fn descents(&self) -> impl Iterator<Item = &Descending> {
        let descends =
            self.inferred && matches!(self.method, Method::Strict(_) | Method::ErrorBased(_) | Method::Incremental(_));
        let tiles = self.groups.iter().flat_map(|group| &group.tiles);
        tiles.flat_map(|tile| &tile.steps.samples).take(if descends { self.samples } else { 0 })
    }

    /// The layers (from 1) that no error reaches within the iterations, so that their gradients are 0
    /// ([`Method::unreached`]).
    pub fn unreached(&self) -> Range<usize> {
        self.method.unreached(self.plan.layers.len())
    }

    /// The gradients of the last [`infer`](Self::infer): the method's approximation of dLoss/dtheta.
    pub fn gradients(&self) -> &Parameters {
        &self.gradients
    }

    /// Scales the gradients of the last [`infer`](Self::infer) down if their norm is larger than `most`, like PyTorch's
    /// `clip_grad_norm_`. Returns the norm before scaling.
    pub fn clip_gradients(&mut self, most: f64) -> f64 {
        let values = self.gradients.values_mut();
        let norm = values.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let factor = most / (norm + 1e-6);
        if factor < 1.0 {
            values.iter_mut().for_each(|g| *g = (f64::from(*g) * factor) as f32);
        }
        norm
    }

    /// Whether the next strict relaxations record their energies. Off by default.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is not enough memory for one of each iteration (nothing was changed).
    pub fn record_energies(&mut self, record: bool) -> Result<()> {
        let iterations = match self.method {
            Method::Strict(Strict { iterations, .. })
            | Method::ErrorBased(ErrorBased { iterations, .. })
            | Method::Incremental(Incremental { iterations, .. })
                if record =>
            {
                iterations
            }
            _ => 0,
        };
        let numbers = iterations.checked_mul(self.groups.len() + 1);
        if !matches!(numbers.map(|numbers| Vec::<f64>::new().try_reserve_exact(numbers)), Some(Ok(()))) {
            return Err(Error::Argument(format!(
                "not enough memory for the energies of {iterations} iterations; use fewer iterations, or do not record energies"
            )));
        }
        self.energies = vec![0.0; iterations];
        for group in &mut self.groups {
            group.descent.energies = vec![0.0; iterations];
        }
        Ok(())
    }

    /// F_1 .. F_n of the last strict relaxation, summed over the batch: the loss at the current
    /// prediction plus half the squared errors of layers 1..L-1 times their precisions, each before the update of its
    /// iteration. Empty unless they were recorded.
    pub fn energies(&self) -> &[f64] {
        &self.energies
    }

    /// Bytes of all buffers, plus an upper bound for the address tables. Nothing is allocated after planning.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(Group::bytes).sum::<usize>()
            + self.scratch.bytes()
            + self.open.as_ref().map_or(0, |open| open.bytes())
            + self.packed.bytes()
            + self.changing.as_ref().map_or(0, |changing| changing.bytes())
            + self.rows.bytes()
            + self.gemm_scratch.bytes()
            + self.network.table_bytes()
            + size_of_val(self.gradients.values())
            + size_of_val(self.energies.as_slice())
    }

    /// The algorithm of each convolution, with its layer (from 1): forward, gradient of the data, gradient of the weights.
    /// The first operation of a network needs no gradient of its data.
    pub fn convolutions(&self) -> impl Iterator<Item = (usize, [Choice; 3])> {
        let layers = (1..).zip(&self.plan.layers);
        let steps =
            layers.flat_map(|(l, layer)| self.plan.steps[layer.steps.clone()].iter().map(move |step| (l, step)));
        steps.filter_map(|(l, step)| match step {
            Step::Product(product) if !product.conv.is_matrix() => Some((l, product.conv.choices())),
            _ => None,
        })
    }

    /// The network that it was planned for.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// What fills the lanes of the session's vectors.
    pub fn layout(&self) -> Layout {
        self.plan.layout
    }

    /// The SIMD level that this session computes with.
    pub fn level(&self) -> Level {
        self.plan.level
    }

    /// The number of samples of a call that fits the plan.
    pub(crate) fn check(
        &self,
        parameters: ParametersView<'_>,
        x: &[f32],
        targets: Option<Targets<'_>>,
    ) -> Result<usize> {
        let (found, expected) = (parameters.specs(), self.gradients.specs());
        if !std::sync::Arc::ptr_eq(found, expected) && found != expected {
            return Err(Error::Input(
                "the parameters belong to another network, expected the names and shapes of the session's network"
                    .into(),
            ));
        }
        let elements: usize = self.plan.input.iter().product();
        let samples = x.len() / elements;
        if samples * elements != x.len() || samples == 0 || samples > self.batch {
            return Err(Error::Input(format!(
                "found {} input values, expected {elements} for each of 1 to {} samples",
                x.len(),
                self.batch
            )));
        }
        if let Some(targets) = targets {
            targets.validate(self.network.loss(), samples, self.plan.elements(self.plan.layers.len() - 1))?;
        }
        check_samples(self.plan.level, "the input", x, self.network.input_shape())?;
        if let Some(Targets::Values(values)) = targets {
            check_samples(self.plan.level, "the target", values, self.network.output_shape())?;
        }
        parameters.check_finite(self.plan.level)?;
        Ok(samples)
    }

    fn check_start(&self, start: &[Start<'_>], samples: usize) -> Result<()> {
        let hidden = self.plan.layers.len() - 1;
        if !start.is_empty() && self.solver().is_none() {
            return Err(Error::Input(format!(
                "initial beliefs were given, but {} always starts at the forward pass; only strict takes them",
                self.method.name()
            )));
        }
        if !start.is_empty() && self.solver() == Some(&Solver::Sweeps) {
            return Err(Error::Input(
                "initial beliefs were given, but sweeps always start at the forward pass; use steps".into(),
            ));
        }
        if !start.is_empty() && matches!(&self.method, Method::Strict(strict) if strict.is_centred()) {
            return Err(Error::Input(
                "initial beliefs for a centred nudge, whose sides always start at the forward pass; they are for one side"
                    .into(),
            ));
        }
        if start.len() > hidden {
            return Err(Error::Input(format!(
                "initial beliefs were given for {} layers, expected at most {hidden}, the hidden layers",
                start.len()
            )));
        }
        for (layer, start) in start.iter().enumerate() {
            let (Start::Deviation(values) | Start::Belief(values)) = start else { continue };
            let expected = samples * self.plan.elements(layer);
            if values.len() != expected {
                return Err(Error::Input(format!(
                    "found {} initial values for layer {}, expected {samples} samples x {} = {expected}",
                    values.len(),
                    layer + 1,
                    self.plan.elements(layer)
                )));
            }
            let what = format_args!("the initial belief of layer {}", layer + 1);
            check_samples(self.plan.level, what, values, self.network.layers()[layer].output_shape())?;
        }
        Ok(())
    }

    /// Brings the weights into the layouts that the kernels want, once for all iterations.
    pub(crate) fn pack(&mut self, parameters: ParametersView<'_>) {
        for step in &self.plan.steps {
            if let Step::Product(product) = step {
                product.pack(parameters, &mut self.packed);
            }
        }
    }

    /// How beliefs move, if the method is strict.
    fn solver(&self) -> Option<&Solver> {
        match &self.method {
            Method::Strict(Strict { solver, .. }) => Some(solver),
            _ => None,
        }
    }

    fn output(&self, samples: usize) -> Output {
        let ascending = matches!(self.solver(), Some(Solver::Published2022(_)));
        let nudge = if let Method::Strict(strict) = &self.method { strict.beta() } else { 1.0 };
        Output::new(&self.plan, self.network.loss(), samples, nudge, ascending)
    }

    /// Runs `work` on every group, and adds up the losses.
    #[expect(clippy::too_many_arguments, reason = "the operands of a call, and what is done with them")]
    pub(crate) fn run(
        &mut self,
        parameters: ParametersView<'_>,
        change: Option<Change<'_>>,
        x: &[f32],
        targets: Option<Targets<'_>>,
        start: &[Start<'_>],
        samples: usize,
        work: impl Fn(Call<'_>, &mut Group, &mut Scratch, &mut [f32]) + Sync,
    ) {
        let output = self.output(samples);
        let tiles = samples.div_ceil(self.plan.images);
        let threads = concurrency();
        let tiles_per_group = self.groups[0].tiles.len();
        let used = tiles.div_ceil(tiles_per_group);
        // Where more threads would come than can run, a task takes several groups.
        let per_task = if pool_threads() > threads { used.div_ceil(threads) } else { 1 };
        // A thread that waits for a part of a product may take another group, which then needs scratch too.
        let parallel = used < threads && self.scratch.len() >= used;
        let (plan, packed) = (&*self.plan, &*self.packed);
        let layers = Layers { plan, parameters, packed, change, parallel };
        let call = Call { layers, output, x, targets, beliefs: start, samples };
        let rows_len = (tiles_per_group * self.plan.images * self.plan.sizes.row).max(1);
        let scratch = &self.scratch;
        let task = |index: usize, group: &mut Group, rows: &mut [f32]| {
            work(call, group, &mut scratch.free(index), rows);
        };
        if threads > 1 && used > 1 && self.plan.sizes.row > 0 {
            let groups = self.groups[..used].par_iter_mut().zip(self.rows.par_chunks_mut(rows_len));
            let groups = groups.enumerate().with_min_len(per_task).with_max_len(per_task);
            groups.for_each(|(index, (group, rows))| task(index, group, rows));
        } else if threads > 1 && used > 1 {
            let groups = self.groups[..used].par_iter_mut().enumerate();
            groups.with_min_len(per_task).with_max_len(per_task).for_each(|(index, group)| task(index, group, &mut []));
        } else {
            let mut rows = self.rows.chunks_mut(rows_len);
            for (index, group) in self.groups[..used].iter_mut().enumerate() {
                task(index, group, rows.next().unwrap_or_default());
            }
        }
        self.samples = samples;
        let tiles = self.groups.iter().flat_map(|group| &group.tiles).take(tiles);
        let losses = tiles.flat_map(|tile| &tile.losses[..tile.samples]);
        self.loss = targets.map_or(f32::NAN, |_| (losses.sum::<f64>() * output.scale) as f32);
    }

    /// Adds up what the groups found, in their order, and multiplies what is a product over the batch.
    pub(crate) fn reduce(&mut self) {
        let level = self.plan.level;
        let used = self.samples.div_ceil(self.plan.images).div_ceil(self.groups[0].tiles.len());
        let (sums, others) = self.groups[..used].split_at_mut(1);
        let sums = &mut sums[0].gradients;
        for_each_block(sums, |start, sums| {
            for group in &*others {
                elementwise::accumulate(level, &group.gradients[start..start + sums.len()], sums);
            }
        });
        let unnudged = if let Method::Strict(strict) = &self.method { strict.gradient_factor() as f32 } else { 1.0 };
        let values = self.gradients.values_mut();
        for (l, layer) in self.plan.layers.iter().enumerate() {
            let multiple = self.multiples.as_ref().map_or(unnudged, |multiples| multiples.weighted[l] as f32);
            for step in &self.plan.steps[layer.steps.clone()] {
                let Step::Product(product) = step else { continue };
                let out = &mut values[product.weight.clone()];
                match &product.gradient {
                    WeightGradient::Partial(partial) => {
                        product.conv.unpack_gradient(&sums[partial.clone()], multiple, out);
                    }
                    WeightGradient::Rows { errors, inputs } => {
                        let (row, side) = (self.plan.sizes.row, self.plan.sizes.side);
                        for first in (0..row).step_by(side) {
                            let (a, b) = (&self.rows[first + errors.start..], &self.rows[first + inputs.start..]);
                            let a = MatRef::new(a, errors.len(), self.samples, 1, row as isize);
                            let b = MatRef::new(b, self.samples, inputs.len(), row as isize, 1);
                            let out = MatMut::row_major(&mut *out, errors.len(), inputs.len());
                            let beta = if first == 0 { 0.0 } else { 1.0 };
                            gemm(level, multiple, Lhs::Plain(a), b, beta, out, &mut self.gemm_scratch);
                        }
                    }
                }
                if let (Some(partial), Some(bias)) = (&product.partial_bias, &product.bias) {
                    let out = values[bias.clone()].iter_mut();
                    out.zip(&sums[partial.clone()]).for_each(|(out, sum)| *out = multiple * sum);
                }
            }
        }
        let groups = &self.groups[..used];
        for (iteration, energy) in self.energies.iter_mut().enumerate() {
            *energy = groups.iter().map(|group| group.descent.energies[iteration]).sum();
        }
    }
}

impl fmt::Debug for Session {
    /// What it was planned for, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Session { method, batch, plan, .. } = self;
        let (layers, level, layout) = (plan.layers.len(), plan.level, plan.layout.name());
        write!(f, "Session({method:?}, {layers} layers, batch {batch}, {level}, {layout}, {} bytes)", self.bytes())
    }
}

/// Calls `f(start, block)` for the blocks of some values, on several threads if they are many.
fn for_each_block(values: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let block = |(index, block): (usize, &mut [f32])| f(index * REDUCTION_BLOCK, block);
    match values.len() > REDUCTION_BLOCK && pool_threads() > 1 {
        true => values.par_chunks_mut(REDUCTION_BLOCK).enumerate().for_each(block),
        false => block((0, values)),
    }
}
