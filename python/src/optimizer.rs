//! Optimisers and learning rates.

use predictive_coding::{self as library, AdamOptions, Schedule, SgdOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::OrRaise;
use crate::parameters::{Given, Parameters};

/// Changes parameters by their gradients, one elementwise pass each step.
#[pyclass(subclass, module = "predictive_coding")]
pub struct Optimizer {
    pub inner: Box<dyn library::Optimizer>,
    /// The gradients of a step.
    gradients: library::Parameters,
}

impl Optimizer {
    fn new(inner: impl library::Optimizer + 'static, parameters: &Parameters) -> Self {
        let gradients = library::Parameters::zeros(parameters.0.specs().clone());
        Optimizer { inner: Box::new(inner), gradients }
    }

    /// Refuses parameters that the optimiser was not made for.
    pub fn check(&self, parameters: &Parameters) -> PyResult<()> {
        match parameters.0.specs() == self.gradients.specs() {
            true => Ok(()),
            false => Err(PyValueError::new_err(
                "the parameters have other names or shapes than those that the optimiser was made for",
            )),
        }
    }
}

#[pymethods]
impl Optimizer {
    /// One step down the gradients.
    fn step(&mut self, parameters: &mut Parameters, gradients: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = gradients.py();
        self.check(parameters)?;
        let given = Given::of_specs(self.gradients.specs(), gradients)?;
        given.copy_to(&mut self.gradients)?;
        let Optimizer { inner, gradients } = self;
        py.detach(|| inner.step(&mut parameters.0, gradients));
        Ok(())
    }

    #[getter]
    fn lr(&self) -> f64 {
        self.inner.lr()
    }

    #[setter]
    fn set_lr(&mut self, lr: f64) -> PyResult<()> {
        self.inner.set_lr(lr).or_raise()
    }

    /// Steps taken so far.
    #[getter]
    fn steps(&self) -> u64 {
        self.inner.steps()
    }

    /// Copies of the running averages, by name.
    #[getter]
    fn moments(&self) -> Vec<(&'static str, Parameters)> {
        self.inner.moments().into_iter().map(|(name, moment)| (name, Parameters(moment.clone()))).collect()
    }

    /// Takes over the state of an optimiser of the same settings.
    fn restore(&mut self, steps: u64, moments: Vec<(String, PyRef<'_, Parameters>)>) -> PyResult<()> {
        let moments: Vec<_> = moments.iter().map(|(name, moment)| (name.as_str(), &moment.0)).collect();
        self.inner.restore(steps, &moments).or_raise()
    }

    fn __repr__(&self) -> String {
        format!("<{}>", self.inner.description())
    }
}

/// Stochastic gradient descent, as torch.optim.SGD.
#[pyclass(extends = Optimizer, module = "predictive_coding")]
pub struct Sgd;

#[pymethods]
impl Sgd {
    #[new]
    #[pyo3(signature = (parameters, lr=1e-3, *, momentum=0.0, nesterov=false, weight_decay=0.0))]
    fn new(
        parameters: &Parameters,
        lr: f64,
        momentum: f64,
        nesterov: bool,
        weight_decay: f64,
    ) -> PyResult<PyClassInitializer<Self>> {
        let options = SgdOptions::default()
            .with_lr(lr)
            .with_momentum(momentum)
            .with_nesterov(nesterov)
            .with_weight_decay(weight_decay);
        let sgd = library::Sgd::with_options(&parameters.0, options).or_raise()?;
        Ok(PyClassInitializer::from(Optimizer::new(sgd, parameters)).add_subclass(Sgd))
    }
}

fn adam_options(lr: f64, betas: (f64, f64), eps: f64, weight_decay: f64) -> AdamOptions {
    AdamOptions::default().with_lr(lr).with_betas(betas).with_eps(eps).with_weight_decay(weight_decay)
}

/// Adam, as torch.optim.Adam.
#[pyclass(extends = Optimizer, module = "predictive_coding")]
pub struct Adam;

#[pymethods]
impl Adam {
    #[new]
    #[pyo3(signature = (parameters, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0))]
    fn new(
        parameters: &Parameters,
        lr: f64,
        betas: (f64, f64),
        eps: f64,
        weight_decay: f64,
    ) -> PyResult<PyClassInitializer<Self>> {
        let options = adam_options(lr, betas, eps, weight_decay);
        let adam = library::Adam::with_options(&parameters.0, options).or_raise()?;
        Ok(PyClassInitializer::from(Optimizer::new(adam, parameters)).add_subclass(Adam))
    }
}

/// Adam with decoupled weight decay, as torch.optim.AdamW.
#[pyclass(extends = Optimizer, module = "predictive_coding")]
pub struct AdamW;

#[pymethods]
impl AdamW {
    #[new]
    #[pyo3(signature = (parameters, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2))]
    fn new(
        parameters: &Parameters,
        lr: f64,
        betas: (f64, f64),
        eps: f64,
        weight_decay: f64,
    ) -> PyResult<PyClassInitializer<Self>> {
        let options = adam_options(lr, betas, eps, weight_decay);
        let adamw = library::AdamW::with_options(&parameters.0, options).or_raise()?;
        Ok(PyClassInitializer::from(Optimizer::new(adamw, parameters)).add_subclass(AdamW))
    }
}

/// The learning rate of each step of a run.
#[pyclass(frozen, module = "predictive_coding")]
pub struct LearningRate(library::LearningRate);

#[pymethods]
impl LearningRate {
    #[new]
    #[pyo3(signature = (base, steps, schedule="constant", *, warmup=0, every=None, factor=0.1))]
    fn new(base: f64, steps: u64, schedule: &str, warmup: u64, every: Option<u64>, factor: f64) -> PyResult<Self> {
        let schedule = match (schedule, every) {
            ("constant", None) => Schedule::Constant,
            ("cosine", None) => Schedule::Cosine,
            ("step", Some(every)) => Schedule::Step { every, factor },
            ("step", None) => return Err(PyValueError::new_err("schedule is \"step\", but every is not given")),
            ("constant" | "cosine", Some(_)) => {
                return Err(PyValueError::new_err("every is given, but is for the schedule \"step\" alone"));
            }
            (other, _) => {
                return Err(PyValueError::new_err(format!(
                    "schedule is {other:?}, expected one of constant, cosine, step"
                )));
            }
        };
        let rate = library::LearningRate::new(base, steps).with_schedule(schedule).with_warmup(warmup);
        rate.validate().or_raise()?;
        Ok(LearningRate(rate))
    }

    /// The learning rate of a step, from 0.
    fn at(&self, step: u64) -> f64 {
        self.0.at(step)
    }

    fn __repr__(&self) -> String {
        format!("<LearningRate {}, {}>", self.0.base, self.0)
    }
}
