//! What can be read of the last call.

use predictive_coding_kernels::Buffer;

use super::Session;
use crate::error::{Error, Result};
use crate::names::names;
use crate::output::Output;
use crate::parameters::Parameters;
use crate::plan::Plan;
use crate::relaxation::Trace;
use crate::state::Descending;

/// A quantity that a session holds for a layer, one value per element of the layer's output. See [`Session`] for an
/// example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantity {
    /// v-hat_l of the forward pass, for l = 1..=L.
    Activation,
    /// u_l = v_l - v-hat_l, for l = 1..L-1, and l = 0 if the input is free.
    Deviation,
    /// v_l, for l = 1..L-1, and l = 0 if the input is free.
    Belief,
    /// epsilon_l of the last iteration, for l = 1..=L.
    Error,
}

names!(Quantity, "quantity", {
    Activation => "activation", Deviation => "deviation", Belief => "belief", Error => "error",
});

/// A relaxation before the update of an iteration, summed over the batch.
///
/// ```
/// use predictive_coding::{Linear, Loss, Network, Op, Options, Session, Strict};
///
/// let linear = |outputs| Op::Linear(Linear::new(outputs));
/// let network = Network::new(&[2], Loss::MSE, vec![vec![linear(2), Op::Tanh], vec![linear(1)]])?;
/// let mut session = Session::new(&network, 1, Strict::new(0.1, 10), Options::default())?;
/// session.record_trace(true)?;
/// session.infer(&network.initialize(1), &[0.5, -0.5], &[1.0f32])?;
/// let gradients: Vec<f64> = session.trace().map(|traced| traced.gradient).collect();
/// assert!(gradients[9] < gradients[0]);
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Traced<'a> {
    /// The terms of the energy: p_l / 2 |epsilon_l|^2 for l = 1..L-1, that of a free input with the first, and the loss
    /// times the nudge.
    pub energies: &'a [f64],
    /// The norm of the energy's gradient by all beliefs that are not clamped; for error-based and sweeps by all errors.
    pub gradient: f64,
}

impl Session {
    /// A quantity of layer `layer` (from 1; 0 for a [free input](crate::FreeInput)) of the last call,
    /// `[samples, layer shape]`.
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
        if layer == 0 && quantity == Quantity::Error {
            return Err(Error::Input("the input has no Error, expected a layer from 1 on".into()));
        }
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
        let source = layer.checked_sub(1);
        let (place, (precision, _)) = (self.plan.belief(source), self.plan.pace(source));
        let image = source.map_or(self.plan.input.image, |l| self.plan.layers[l].image);
        let tiles = self.groups.iter().flat_map(|group| &group.tiles);
        // What is iterated is kept times its precision.
        let multiples = self.multiples.as_ref().zip(source);
        let error = multiples.map_or(1.0 / precision, |(multiples, l)| multiples.errors[l]);
        let moved = multiples.map(|(multiples, l)| multiples.moves[l] as f32);
        let mut sums = vec![0.0; if quantity == Quantity::Belief { place.len() } else { 0 }];
        for (tile, rows) in tiles.zip(out.chunks_mut((self.plan.images * elements).max(1))) {
            let (source, factor) = match (quantity, moved) {
                (Quantity::Activation, _) => (&tile.activations, 1.0),
                (Quantity::Error, _) => (&tile.errors, error as f32),
                (Quantity::Deviation | Quantity::Belief, Some(moved)) => (&tile.errors, -moved),
                (Quantity::Deviation | Quantity::Belief, None) => (&tile.deviations, 1.0),
            };
            let Plan { level, layout, .. } = &*self.plan;
            let (mut source, samples) = (&source[place.clone()], rows.len() / elements);
            if quantity == Quantity::Belief {
                let beliefs = source.iter().zip(&tile.activations[place.clone()]);
                sums.iter_mut().zip(beliefs).for_each(|(sum, (moved, start))| *sum = factor * moved + start);
                source = &sums;
            }
            layout.store(*level, source, image, rows, samples, elements);
            if factor != 1.0 && quantity != Quantity::Belief {
                rows.iter_mut().for_each(|value| *value *= factor);
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
        let output = Output::new(&self.plan, self.network.loss(), self.samples, 1.0, false).masked(self.masked);
        let difference = Buffer::zeros(last.output.len());
        let mut error = Buffer::zeros(last.output.len());
        let mut losses = vec![0.0; self.plan.images];
        let tiles = self.groups.iter().flat_map(|group| &group.tiles);
        for (tile, rows) in tiles.zip(out.chunks_mut(self.plan.images * elements)) {
            let activation = &tile.activations[last.output.clone()];
            output.error(activation, &difference, [&tile.targets, &tile.mask], tile.samples, &mut error, &mut losses);
            let samples = rows.len() / elements;
            self.plan.layout.store(self.plan.level, &error, last.image, rows, samples, elements);
        }
        Ok(())
    }

    /// Elements of one sample of layer `layer` (from 1; 0 for a free input).
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
            false if layer == 0 && !self.plan.input.output.is_empty() => Ok(self.plan.input.image.iter().product()),
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

    /// How each sample of the last relaxation descended, in the order of the batch; nothing for exact and
    /// fixed-prediction.
    pub fn descents(&self) -> impl Iterator<Item = &Descending> {
        let descends = self.inferred && self.method.descends();
        let tiles = self.groups.iter().flat_map(|group| &group.tiles);
        tiles.flat_map(|tile| &tile.steps.samples).take(if descends { self.samples } else { 0 })
    }

    /// The layers (from 1) that no error reaches within the iterations, so that their gradients are 0
    /// ([`Network::unreached`](crate::Network::unreached)).
    pub fn unreached(&self) -> Vec<usize> {
        self.network.unreached(&self.method)
    }

    /// The gradients of the last [`infer`](Self::infer): the method's approximation of dLoss/dtheta.
    pub fn gradients(&self) -> &Parameters {
        &self.gradients
    }

    /// Exchanges the gradients of the last [`infer`](Self::infer) for other parameters of the network, without a copy. The
    /// next call overwrites those.
    ///
    /// ```
    /// use predictive_coding::{Linear, Loss, Method, Network, Op, Options, Parameters, Session};
    ///
    /// let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(1))]])?;
    /// let mut session = Session::new(&network, 1, Method::Exact, Options::default())?;
    /// let mut gradients = Parameters::zeros(network.parameters().clone());
    /// session.infer(&network.initialize(1), &[1.0, 2.0], &[0.5f32])?;
    /// session.swap_gradients(&mut gradients)?;
    /// let [first, second] = gradients.get("0.0.weight").unwrap() else { unreachable!() };
    /// assert_eq!(*second, 2.0 * first);
    /// # Ok::<(), predictive_coding::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] if the names or the shapes are not those of the network (nothing was changed).
    pub fn swap_gradients(&mut self, other: &mut Parameters) -> Result<()> {
        if other.specs() != self.gradients.specs() {
            return Err(Error::Input(
                "the gradients belong to another network, expected the names and shapes of the session's network"
                    .into(),
            ));
        }
        std::mem::swap(&mut self.gradients, other);
        Ok(())
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

    /// Whether the next relaxations by strict, error-based and incremental record their energies. Off by default.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is not enough memory for one of each iteration (nothing was changed).
    pub fn record_energies(&mut self, record: bool) -> Result<()> {
        let iterations = if record && self.method.descends() { self.method.iterations() } else { None };
        let iterations = iterations.unwrap_or(0);
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

    /// Whether the next relaxations by strict, error-based and incremental are traced. Steps of beliefs then pull every error
    /// back a second time. Off by default.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is not enough memory for the numbers of all iterations (nothing was changed).
    pub fn record_trace(&mut self, record: bool) -> Result<()> {
        let iterations = if record && self.method.descends() { self.method.iterations() } else { None };
        let (iterations, layers) = (iterations.unwrap_or(0), self.plan.layers.len());
        let numbers = (layers + 1).checked_mul(self.groups.len() + 1).and_then(|rows| rows.checked_mul(iterations));
        if !matches!(numbers.map(|numbers| Vec::<f64>::new().try_reserve_exact(numbers)), Some(Ok(()))) {
            return Err(Error::Argument(format!(
                "not enough memory for a trace of {iterations} iterations; use fewer iterations, or record no trace"
            )));
        }
        self.trace = Trace::new(iterations, layers);
        self.groups.iter_mut().for_each(|group| group.descent.trace = self.trace.clone());
        let len = if iterations > 0 { self.plan.hidden_len() } else { 0 };
        self.scratch.all_mut().for_each(|scratch| scratch.work.traced = Buffer::zeros(len));
        Ok(())
    }

    /// What the last relaxation was like before the update of each iteration, if it was traced; see
    /// [`Traced`] for an example.
    pub fn trace(&self) -> impl Iterator<Item = Traced<'_>> {
        let terms = self.trace.terms.chunks_exact(self.plan.layers.len());
        terms.zip(&self.trace.squares).map(|(energies, square)| Traced { energies, gradient: square.sqrt() })
    }
}
