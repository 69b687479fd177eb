//! Sessions: a network, a batch size and a method, planned once.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use numpy::{PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use predictive_coding::{self as library, Conditions, Level, Options, Quantity, Start};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{Floats, Y, filled, samples, view, with_samples};
use crate::errors::OrRaise;
use crate::method::{self, parse};
use crate::network::Network;
use crate::optimizer::Optimizer;
use crate::parameters::{Given, Parameters};
use crate::threads::{Threads, compute};

/// The SIMD levels of this machine, the widest first.
#[pyfunction]
pub fn levels() -> Vec<&'static str> {
    Level::available().iter().map(|level| level.name()).collect()
}

/// Everything that a network, a batch size and a method need, planned once.
#[pyclass(frozen, module = "predictive_coding")]
pub struct Session {
    inner: Mutex<library::Session>,
    network: library::Network,
    batch: usize,
    threads: Option<usize>,
    gradients: Mutex<GradientsGiven>,
}

/// What Python was given of the gradients.
enum GradientsGiven {
    Nothing,
    /// Views of the session's buffer, which therefore stays where it is.
    Views,
    /// Buffers of their own, the last ones, in exchange for which the session got others.
    Buffers(Vec<Py<Parameters>>),
}

/// Buffers of gradients that are kept to be used again: those of the last call are still used when new ones come.
const BUFFERS_KEPT: usize = 2;

impl Session {
    fn gradients_given(&self) -> MutexGuard<'_, GradientsGiven> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next gradients be written to the buffer of earlier ones that nobody uses any more. Two buffers take turns
    /// then, where a third would be in no cache.
    fn reuse_gradients(&self, py: Python<'_>, session: &mut library::Session) -> PyResult<()> {
        match &*self.gradients_given() {
            GradientsGiven::Buffers(kept) => match kept.iter().find(|buffer| is_free(buffer)) {
                Some(buffer) => session.swap_gradients(&mut buffer.borrow_mut(py).0).or_raise(),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The session, unless another thread is in it.
    fn lock(&self) -> PyResult<MutexGuard<'_, library::Session>> {
        match self.inner.try_lock() {
            Ok(session) => Ok(session),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(PyRuntimeError::new_err(
                "the session is in use by another thread; give each thread a session of its own",
            )),
        }
    }

    fn shape(&self, layer: usize) -> PyResult<&[usize]> {
        let layers = self.network.layers();
        match (1..=layers.len()).contains(&layer) {
            true => Ok(layers[layer - 1].output_shape()),
            false if layer == 0 => Ok(self.network.input_shape()),
            false => Err(PyValueError::new_err(format!("there is no layer {layer}, expected 1..={}", layers.len()))),
        }
    }

    /// What a relaxation of these layers, from the first on, starts at.
    fn starts<'py>(&self, given: Vec<Option<StartGiven<'py>>>) -> PyResult<Vec<StartArray<'py>>> {
        let of_layer = |(layer, start): (usize, Option<StartGiven<'py>>)| {
            let shape = self.shape(layer)?;
            Ok(match start {
                None => StartArray::Activation,
                Some(StartGiven::Deviation { deviation }) => {
                    StartArray::Deviation(samples(&format!("start, deviation {layer},"), &deviation, shape)?)
                }
                Some(StartGiven::Belief(belief)) => {
                    StartArray::Belief(samples(&format!("start, belief {layer},"), &belief, shape)?)
                }
            })
        };
        (1..).zip(given).map(of_layer).collect()
    }
}

/// Where a layer starts, as Python says it.
#[derive(FromPyObject)]
enum StartGiven<'py> {
    /// An object of the class `Deviation`.
    Deviation {
        deviation: Bound<'py, PyAny>,
    },
    Belief(Bound<'py, PyAny>),
}

/// As the library takes it, but for the array's owner.
enum StartArray<'py> {
    Activation,
    Deviation(Floats<'py>),
    Belief(Floats<'py>),
}

impl StartArray<'_> {
    fn start(&self) -> PyResult<Start<'_>> {
        Ok(match self {
            StartArray::Activation => Start::Activation,
            StartArray::Deviation(values) => Start::Deviation(values.as_slice()?),
            StartArray::Belief(values) => Start::Belief(values.as_slice()?),
        })
    }
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (
        network, batch, method=None, *, level=None, layout="auto", convolution="auto", dropout_seed=None, threads=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        network: &Network,
        batch: usize,
        method: Option<&Bound<'_, PyAny>>,
        level: Option<&str>,
        layout: &str,
        convolution: &str,
        dropout_seed: Option<u64>,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let method = match method {
            Some(method) => method::method(method)?,
            None => library::Strict::default().into(),
        };
        let options = Options::default()
            .with_level(level.map(parse).transpose()?)
            .with_layout(parse(layout)?)
            .with_convolution(parse(convolution)?)
            .with_dropout_seed(dropout_seed);
        if threads == Some(0) {
            return Err(PyValueError::new_err("threads is 0, expected at least 1"));
        }
        let network = network.0.clone();
        let planned = compute(py, Threads::of(threads)?, || library::Session::new(&network, batch, method, options));
        let gradients = Mutex::new(GradientsGiven::Nothing);
        Ok(Session { inner: Mutex::new(planned.or_raise()?), network, batch, threads, gradients })
    }

    /// Forward pass, relaxation and gradients of a batch; returns the loss of the forward pass.
    #[pyo3(signature = (parameters, x, y, *, mask=None, input_mask=None, start=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn infer<'py>(
        &self,
        py: Python<'py>,
        parameters: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        mask: Option<&Bound<'py, PyAny>>,
        input_mask: Option<&Bound<'py, PyAny>>,
        start: Option<Vec<Option<StartGiven<'py>>>>,
    ) -> PyResult<f32> {
        let mut session = self.lock()?;
        self.reuse_gradients(py, &mut session)?;
        let given = Given::new(&self.network, parameters)?;
        let slices = given.slices()?;
        let parameters = given.view(&self.network, &slices)?;
        let x = samples("x", x, self.network.input_shape())?;
        let y = Y::new(y, self.network.output_shape())?;
        let (x, y) = (x.as_slice()?, y.targets()?);
        let mask = mask.map(|mask| samples("mask", mask, self.network.output_shape())).transpose()?;
        let input_mask = input_mask.map(|mask| samples("input_mask", mask, self.network.input_shape())).transpose()?;
        let starts = self.starts(start.unwrap_or_default())?;
        let starts = starts.iter().map(StartArray::start).collect::<PyResult<Vec<_>>>()?;
        let mut conditions = Conditions::default().with_start(&starts);
        if let Some(mask) = &mask {
            conditions = conditions.with_mask(mask.as_slice()?);
        }
        if let Some(input_mask) = &input_mask {
            conditions = conditions.with_input_mask(input_mask.as_slice()?);
        }
        let (session, threads) = (&mut *session, Threads::of(self.threads)?);
        compute(py, threads, || session.infer_with(parameters, x, y, conditions)).or_raise()
    }

    /// One step of learning: gradients, and a step of the optimiser; returns the loss of the forward pass.
    fn learn<'py>(
        &self,
        py: Python<'py>,
        parameters: &mut Parameters,
        optimizer: &mut Optimizer,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
    ) -> PyResult<f32> {
        let mut session = self.lock()?;
        optimizer.check(parameters)?;
        let x = samples("x", x, self.network.input_shape())?;
        let y = Y::new(y, self.network.output_shape())?;
        let (x, y) = (x.as_slice()?, y.targets()?);
        let (session, threads) = (&mut *session, Threads::of(self.threads)?);
        compute(py, threads, || session.learn(&mut parameters.0, &mut *optimizer.inner, x, y)).or_raise()
    }

    /// The forward pass alone; returns the loss.
    fn forward<'py>(
        &self,
        py: Python<'py>,
        parameters: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
    ) -> PyResult<f32> {
        let mut session = self.lock()?;
        let given = Given::new(&self.network, parameters)?;
        let slices = given.slices()?;
        let parameters = given.view(&self.network, &slices)?;
        let x = samples("x", x, self.network.input_shape())?;
        let y = Y::new(y, self.network.output_shape())?;
        let (x, y) = (x.as_slice()?, y.targets()?);
        let (session, threads) = (&mut *session, Threads::of(self.threads)?);
        compute(py, threads, || session.forward(parameters, x, y)).or_raise()
    }

    /// The outputs of a batch without targets.
    fn predict<'py>(
        &self,
        py: Python<'py>,
        parameters: &Bound<'py, PyAny>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let mut session = self.lock()?;
        let given = Given::new(&self.network, parameters)?;
        let slices = given.slices()?;
        let parameters = given.view(&self.network, &slices)?;
        let x = samples("x", x, self.network.input_shape())?;
        let shape = with_samples(x.shape()[0], self.network.output_shape());
        let x = x.as_slice()?;
        let (session, threads) = (&mut *session, Threads::of(self.threads)?);
        let outputs = compute(py, threads, || session.predict(parameters, x)).or_raise()?;
        PyArray1::from_vec(py, outputs).reshape(shape)
    }

    /// A quantity of a layer, from 1, of the last call.
    fn get<'py>(&self, py: Python<'py>, quantity: &str, layer: usize) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let quantity: Quantity = parse(quantity)?;
        let session = &*self.lock()?;
        let shape = with_samples(session.samples(), self.shape(layer)?);
        filled(py, &shape, |out| session.read(quantity, layer, out))
    }

    /// dLoss/dv-hat_L of the last call.
    fn loss_gradient<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let session = &*self.lock()?;
        filled(py, &with_samples(session.samples(), self.network.output_shape()), |out| session.read_loss_gradient(out))
    }

    /// Gradients by name.
    #[getter]
    fn gradients<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let session = this.get().lock()?;
        let mut given = this.get().gradients_given();
        if matches!(*given, GradientsGiven::Buffers(_)) {
            return Err(given_otherwise("taken", "viewed"));
        }
        *given = GradientsGiven::Views;
        let gradients = PyDict::new(this.py());
        for (spec, values) in session.gradients().iter() {
            // SAFETY: a session keeps the buffer of which there are views, and writes to it only in calls, which Python
            // waits for.
            let array = unsafe { view(this.clone().into_any(), values, &spec.shape, false)? };
            gradients.set_item(&spec.name, array)?;
        }
        Ok(gradients)
    }

    /// The gradients in their order, in arrays that no later call changes.
    fn take_gradients<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyArrayDyn<f32>>>> {
        let mut session = self.lock()?;
        let mut given = self.gradients_given();
        let kept = match &mut *given {
            GradientsGiven::Views => return Err(given_otherwise("viewed", "taken")),
            GradientsGiven::Buffers(kept) => kept,
            nothing => {
                *nothing = GradientsGiven::Buffers(Vec::with_capacity(BUFFERS_KEPT + 1));
                let GradientsGiven::Buffers(kept) = nothing else { unreachable!() };
                kept
            }
        };
        let buffer = match kept.iter().position(is_free) {
            Some(free) => kept.remove(free),
            None => Py::new(py, Parameters(library::Parameters::zeros(self.network.parameters().clone())))?,
        };
        session.swap_gradients(&mut buffer.borrow_mut(py).0).or_raise()?;
        if kept.len() == BUFFERS_KEPT {
            kept.remove(0);
        }
        kept.push(buffer.clone_ref(py));
        Parameters::values(buffer.bind(py))
    }

    /// Scales the gradients down to a norm, if theirs is larger; returns the norm that they had.
    fn clip_gradients(&self, most: f64) -> PyResult<f64> {
        Ok(self.lock()?.clip_gradients(most))
    }

    /// The step that the masks of the next call are drawn for.
    fn set_dropout_step(&self, step: u64) -> PyResult<()> {
        self.lock()?.set_dropout_step(step);
        Ok(())
    }

    /// Whether the next strict relaxations record their energies.
    fn record_energies(&self, record: bool) -> PyResult<()> {
        self.lock()?.record_energies(record).or_raise()
    }

    #[getter]
    fn energies<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        Ok(PyArray1::from_slice(py, self.lock()?.energies()))
    }

    /// Whether the next relaxations are traced.
    fn record_trace(&self, record: bool) -> PyResult<()> {
        self.lock()?.record_trace(record).or_raise()
    }

    /// What the last relaxation was like before each update.
    #[getter]
    fn trace<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let session = self.lock()?;
        let (energies, gradients): (Vec<_>, Vec<_>) =
            session.trace().map(|traced| (traced.energies.to_vec(), traced.gradient)).unzip();
        let found = PyDict::new(py);
        // Without iterations too, there is a column for each layer.
        let energies = match energies.is_empty() {
            true => PyArray2::zeros(py, [0, self.network.layers().len()], false),
            false => PyArray2::from_vec2(py, &energies)?,
        };
        found.set_item("energies", energies)?;
        found.set_item("gradient", PyArray1::from_vec(py, gradients))?;
        Ok(found)
    }

    /// How each sample of the last relaxation descended.
    #[getter]
    fn descents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let session = self.lock()?;
        let found = PyDict::new(py);
        let floats = |of: fn(&library::Descending) -> f64| PyArray1::from_iter(py, session.descents().map(of));
        let flags = |of: fn(&library::Descending) -> bool| PyArray1::from_iter(py, session.descents().map(of));
        found.set_item("eta", floats(|descent| descent.eta))?;
        found.set_item("lambda_max", floats(|descent| descent.lambda_max.unwrap_or(f64::NAN)))?;
        found.set_item("share_of_limit", floats(|descent| descent.share_of_limit().unwrap_or(f64::NAN)))?;
        found.set_item(
            "iterations",
            PyArray1::from_iter(py, session.descents().map(|descent| descent.iterations as i64)),
        )?;
        found.set_item("diverged", flags(|descent| descent.diverged))?;
        found.set_item("shrunk", flags(|descent| descent.shrunk))?;
        Ok(found)
    }

    /// The layers, from 1, that no error reaches within the iterations.
    #[getter]
    fn unreached(&self) -> PyResult<Vec<usize>> {
        Ok(self.lock()?.unreached())
    }

    #[getter]
    fn loss(&self) -> PyResult<f32> {
        Ok(self.lock()?.loss())
    }

    #[getter]
    fn samples(&self) -> PyResult<usize> {
        Ok(self.lock()?.samples())
    }

    /// The most samples of a call.
    #[getter]
    fn batch(&self) -> usize {
        self.batch
    }

    #[getter]
    fn network(&self) -> Network {
        Network(self.network.clone())
    }

    #[getter]
    fn level(&self) -> PyResult<&'static str> {
        Ok(self.lock()?.level().name())
    }

    #[getter]
    fn layout(&self) -> PyResult<&'static str> {
        Ok(self.lock()?.layout().name())
    }

    #[getter]
    fn bytes(&self) -> PyResult<usize> {
        Ok(self.lock()?.bytes())
    }

    fn __repr__(&self) -> PyResult<String> {
        let session = self.lock()?;
        Ok(format!(
            "Session({} layers, level {}, {} bytes)",
            self.network.layers().len(),
            session.level().name(),
            session.bytes()
        ))
    }
}

/// Whether nobody else refers to a buffer, as each of its arrays does.
fn is_free(buffer: &Py<Parameters>) -> bool {
    // SAFETY: the pointer is that of an object that is kept.
    unsafe { pyo3::ffi::Py_REFCNT(buffer.as_ptr()) == 1 }
}

fn given_otherwise(before: &str, now: &str) -> PyErr {
    PyRuntimeError::new_err(format!(
        "the session's gradients were {before} in an earlier call, so that they can not be {now}; use a session for each"
    ))
}
