//! A session: everything one network, batch size and method need, planned once.

mod draft;
mod learn;
mod pool;
mod quantities;
mod reduction;
mod schedule;
mod sharing;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use predictive_coding_kernels::{Buffer, Choice, Layout, Level, run_in_place};

use crate::dropout::Draw;
use crate::error::{Error, Result};
use crate::finite::check_samples;
use crate::group::{Conditions, Group, Start};
use crate::layer::Layers;
use crate::loss::{LossFunction, Targets};
use crate::method::{Method, Solver, Strict};
use crate::network::Network;
use crate::options::Options;
use crate::output::Output;
use crate::parameters::{Parameters, ParametersView};
use crate::plan::{Plan, Step};
use crate::ranks::{Ranks, sliced};
use crate::relaxation::{Open, Trace, Variables};
use crate::sums::buckets;
use draft::{Draft, Multiples, check_memory};
use learn::Changing;
use pool::Pool;
use sharing::Outcome;

pub use quantities::{Quantity, Traced};

/// Computes steps of one network by one method, for batches of up to a given size.
///
/// A session is planned once. It owns every buffer and allocates nothing afterwards (except that rayon's queue grows now and
/// then if a call comes from outside of a pool). Such a call runs in the global pool, or, if it is over before a thread is
/// awake, on the calling thread alone.
///
/// A batch is divided into tiles: either one sample in each lane of one or more vectors, or a few samples, each with its
/// channels across the lanes ([`Layout`]). Samples relax independently, so the forward pass, all iterations and the gradients of a
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
    plan: Arc<Plan>,
    method: Method,
    options: Options,
    network: Network,
    batch: usize,
    /// Multiplications and additions of a step with one sample.
    work: u64,
    packed: Buffer,
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
    /// The step whose masks of dropout are drawn next, and what those of the current call are drawn for.
    dropout_step: u64,
    draw: Option<Draw>,
    /// The parameters of incremental.
    changing: Option<Box<Changing>>,
    gradients: Parameters,
    /// The processes that share its batches, if it is shared.
    ranks: Option<Arc<dyn Ranks>>,
    /// The parts of the partial gradients that those exchange one after the other.
    buckets: Vec<Range<usize>>,
    tiles_per_group: usize,
    /// Of the last call: the groups with samples, those samples and the first of them, and the samples of all ranks.
    used: usize,
    samples: usize,
    first: usize,
    batch_samples: usize,
    /// Whether the last call had a mask of its targets.
    masked: bool,
    loss: f32,
    /// Whether the last call relaxed, or only went forward.
    inferred: bool,
    energies: Vec<f64>,
    trace: Trace,
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
        Session::planned(network, batch, method.into(), options, None)
    }

    fn planned(
        network: &Network,
        batch: usize,
        method: Method,
        options: Options,
        ranks: Option<Arc<dyn Ranks>>,
    ) -> Result<Self> {
        let shares = ranks.as_ref().map_or(1, |ranks| ranks.size());
        let Draft { plan, multiples, tiles, tiles_per_group, groups, tasks, threads, extras, estimates, total } =
            Draft::new(network, batch, &method, &options, shares)?;
        check_memory(batch, total)?;
        let incremental = matches!(method, Method::Incremental(_));
        let group = |index: usize| {
            let first = index * tiles_per_group;
            // In another batch, the group of another rank may be here.
            let end = if shares == 1 { tiles.min(first + tiles_per_group) } else { first + tiles_per_group };
            Group::new(&plan, first..end, multiples.is_none(), incremental)
        };
        Ok(Session {
            packed: Buffer::zeros(plan.sizes.packed),
            groups: (0..groups).map(group).collect(),
            scratch: Pool::new(&plan, extras, tasks),
            rows: Buffer::zeros(tiles * plan.images * plan.sizes.row),
            gemm_scratch: Buffer::zeros(threads * plan.sizes.gemm_scratch),
            buckets: ranks.as_ref().map_or(Vec::new(), |ranks| buckets(&plan, sliced(&**ranks))),
            open: estimates.then(|| Box::new(Open::new(&plan, Variables::of(&method)))),
            multiples,
            changing: incremental.then(|| Box::new(Changing::new(&plan, network))),
            plan: Arc::new(plan),
            work: network.flops(&method, 1),
            method,
            options,
            dropout_step: 0,
            draw: None,
            network: network.clone(),
            batch,
            gradients: Parameters::zeros(network.parameters().clone()),
            ranks,
            tiles_per_group,
            used: 0,
            samples: 0,
            first: 0,
            batch_samples: 0,
            masked: false,
            loss: 0.0,
            inferred: false,
            energies: Vec::new(),
            trace: Trace::default(),
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
        let total = Draft::new(network, batch, method, options, 1)?.total;
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
        self.infer_with(parameters, x, y, Conditions::default().with_start(start))
    }

    /// As [`infer`](Self::infer), under [conditions](Conditions) of the batch.
    ///
    /// # Errors
    /// As [`infer_from`](Self::infer_from); [`Error::Input`] if a mask has another size than what it masks or a value that
    /// is neither 0 nor 1, the input is not free, or the loss of masked targets is not MSE.
    pub fn infer_with<'a>(
        &mut self,
        parameters: impl Into<ParametersView<'a>>,
        x: &[f32],
        y: impl Into<Targets<'a>>,
        conditions: Conditions<'_>,
    ) -> Result<f32> {
        let (parameters, targets) = (parameters.into(), y.into());
        if self.changing.is_some() {
            return Err(Error::Argument("incremental changes the parameters; expected a call of learn".into()));
        }
        self.in_place(x, |session| session.step(parameters, x, targets, conditions))
    }

    /// A step whose method leaves the parameters as they are.
    fn step(
        &mut self,
        parameters: ParametersView<'_>,
        x: &[f32],
        targets: Targets<'_>,
        conditions: Conditions<'_>,
    ) -> Result<f32> {
        let samples = self.check(parameters, x, Some(targets))?;
        self.check_start(conditions.start, samples)?;
        self.check_masks(conditions, samples)?;
        self.draw_masks();
        self.pack(parameters);
        let mut open = self.open.take();
        let (plan, packed) = (&*self.plan, &*self.packed);
        let layers = Layers { plan, parameters, packed, change: None, draw: None, parallel: true };
        // Strict by given steps estimates only where a sample diverges.
        let seldom = matches!(self.method, Method::Strict(_)) && self.method.automatic_products().is_none();
        let vector = open.as_mut().map(|open| match seldom {
            true => open.vector(),
            false => open.follow(layers, self.output(samples)),
        });
        let (method, options) = (self.method.clone(), self.options);
        let arrivals =
            self.run(parameters, None, x, Some(targets), conditions, samples, true, |call, task, scratch| {
                task.step(call, &method, &options, vector, scratch);
            });
        self.open = open;
        self.reduce(arrivals);
        self.end()
    }

    /// The loss of the last call, unless it was stopped or diverged.
    fn end(&mut self) -> Result<f32> {
        let found = self.groups[..self.used].iter().filter_map(|group| group.divergence);
        let Outcome { stopped, divergence } = self.share_outcome(true, found.min_by_key(|d| (d.iteration, d.sample)));
        self.inferred = !stopped;
        match divergence {
            _ if stopped => Err(Error::Stopped),
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
        self.in_place(x, |session| session.go_forward(parameters, x, Some(targets)))?;
        Ok(self.loss)
    }

    /// The outputs of the network, `[samples, output shape]`, for 1 to `batch` samples `x` without targets. Afterwards
    /// only activations can be read.
    ///
    /// # Errors
    /// [`Error::Input`] if the size does not fit, or an input or a parameter is not finite.
    pub fn predict<'a>(&mut self, parameters: impl Into<ParametersView<'a>>, x: &[f32]) -> Result<Vec<f32>> {
        let parameters = parameters.into();
        self.in_place(x, |session| session.go_forward(parameters, x, None))?;
        self.get(Quantity::Activation, self.plan.layers.len())
    }

    fn go_forward(&mut self, parameters: ParametersView<'_>, x: &[f32], targets: Option<Targets<'_>>) -> Result<()> {
        let (samples, conditions) = (self.check(parameters, x, targets)?, Conditions::default());
        self.draw = None;
        self.pack(parameters);
        self.run(parameters, None, x, targets, conditions, samples, false, |call, task, scratch| {
            task.forward(call, scratch);
        });
        self.share_outcome(targets.is_some(), None);
        self.inferred = false;
        Ok(())
    }

    /// The step that the masks of the next call of [`infer`](Self::infer) or [`learn`](Self::learn) are drawn for, if there is
    /// an [`Options::dropout_seed`]: 0 at first, and one more after each call. With the step of a checkpoint, a run goes on
    /// with the masks that it would have had.
    pub fn set_dropout_step(&mut self, step: u64) {
        self.dropout_step = step;
    }

    /// Gives the call that follows masks of its own.
    fn draw_masks(&mut self) {
        self.draw = self.options.dropout_seed.map(|seed| [seed, self.dropout_step]);
        self.dropout_step = self.dropout_step.wrapping_add(1);
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
            + self.trace.bytes()
    }

    /// The algorithm of each convolution, with its layer (from 1): forward, gradient of the data, gradient of the weights.
    /// The first operation of a network needs no gradient of its data.
    pub fn convolutions(&self) -> impl Iterator<Item = (usize, [Choice; 3])> {
        let layers = (1..).zip(&self.plan.layers);
        let steps =
            layers.flat_map(|(l, layer)| self.plan.steps[layer.steps.clone()].iter().map(move |step| (l, step)));
        steps.filter_map(|(l, step)| match step {
            Step::Product(product) => Some((l, product.choices()?)),
            Step::Affine(_) | Step::Dropout(_) | Step::Local(_) => None,
        })
    }

    /// The network that it was planned for.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The method that it computes by.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// What fills the lanes of the session's vectors.
    pub fn layout(&self) -> Layout {
        self.plan.layout
    }

    /// The SIMD level that this session computes with.
    pub fn level(&self) -> Level {
        self.plan.level
    }

    /// Runs a call with inputs `x` where it is fastest. A shared session stays on the calling thread, which sends its messages.
    fn in_place<T: Send>(&mut self, x: &[f32], call: impl FnOnce(&mut Self) -> T + Send) -> T {
        if self.ranks.is_some() {
            return call(self);
        }
        let samples = x.len() / self.network.input_shape().iter().product::<usize>();
        run_in_place(self.work.saturating_mul(samples as u64), || call(self))
    }

    /// The number of samples of a call that fits the plan.
    fn check(&self, parameters: ParametersView<'_>, x: &[f32], targets: Option<Targets<'_>>) -> Result<usize> {
        let (found, expected) = (parameters.specs(), self.gradients.specs());
        if !std::sync::Arc::ptr_eq(found, expected) && found != expected {
            return Err(Error::Input(
                "the parameters belong to another network, expected the names and shapes of the session's network"
                    .into(),
            ));
        }
        let elements: usize = self.plan.input.image.iter().product();
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

    fn check_masks(&self, conditions: Conditions<'_>, samples: usize) -> Result<()> {
        let Conditions { input_mask, mask, .. } = conditions;
        if input_mask.is_some() && self.plan.input.output.is_empty() {
            return Err(Error::Input(
                "an input mask was given, but the input is clamped as a whole; it is for strict with a free input"
                    .into(),
            ));
        }
        if mask.is_some() && self.network.loss().function != LossFunction::Mse {
            return Err(Error::Input(format!(
                "a mask of the targets was given for {}, expected the loss mse",
                self.network.loss().function
            )));
        }
        let shapes =
            [("input mask", input_mask, self.network.input_shape()), ("mask", mask, self.network.output_shape())];
        for (name, mask, shape) in shapes {
            let Some(mask) = mask else { continue };
            let expected = samples * shape.iter().product::<usize>();
            if mask.len() != expected {
                return Err(Error::Input(format!(
                    "found {} values of the {name}, expected {expected} for {samples} samples of shape {shape:?}",
                    mask.len()
                )));
            }
            if let Some(at) = mask.iter().position(|&value| value != 0.0 && value != 1.0) {
                return Err(Error::Input(format!(
                    "the {name} holds {} at {at}, expected 1 for what is clamped and 0 for what is free",
                    mask[at]
                )));
            }
        }
        Ok(())
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
}

impl fmt::Debug for Session {
    /// What it was planned for, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Session { method, batch, plan, .. } = self;
        let (layers, level, layout) = (plan.layers.len(), plan.level, plan.layout.name());
        write!(f, "Session({method:?}, {layers} layers, batch {batch}, {level}, {layout}, {} bytes)", self.bytes())
    }
}
