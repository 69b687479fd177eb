//! Methods, from the classes that Python has for them.

use predictive_coding::{self as library, Eta, Method, Solver, StepSize};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

#[derive(FromPyObject)]
struct FixedPrediction {
    eta: EtaGiven,
    iterations: usize,
    literal: bool,
}

#[derive(FromPyObject)]
struct Strict {
    eta: EtaGiven,
    iterations: usize,
    solver: SolverGiven,
    momentum: f64,
    tolerance: Option<f64>,
    on_divergence: String,
    fresh_errors: bool,
    nudge: Option<Nudge>,
    free_input: Option<FreeInput>,
}

#[derive(FromPyObject)]
struct ErrorBased {
    eta: StepGiven,
    iterations: usize,
    on_divergence: String,
    curvature: usize,
}

#[derive(FromPyObject)]
struct Incremental {
    eta: EtaGiven,
    iterations: usize,
}

#[derive(FromPyObject)]
struct Nudge {
    beta: f64,
    centred: bool,
}

#[derive(FromPyObject)]
struct FreeInput {
    precision: f64,
}

#[derive(FromPyObject)]
enum EtaGiven {
    Uniform(f64),
    PerLayer(Vec<f64>),
}

#[derive(FromPyObject)]
enum StepGiven {
    Given(EtaGiven),
    Automatic { products: usize },
}

#[derive(FromPyObject)]
enum SolverGiven {
    Name(String),
    Automatic { products: usize },
}

impl From<EtaGiven> for Eta {
    fn from(given: EtaGiven) -> Self {
        match given {
            EtaGiven::Uniform(eta) => eta.into(),
            EtaGiven::PerLayer(etas) => etas.into(),
        }
    }
}

impl From<StepGiven> for StepSize {
    fn from(given: StepGiven) -> Self {
        match given {
            StepGiven::Given(eta) => StepSize::Given(eta.into()),
            StepGiven::Automatic { products } => StepSize::Automatic { products },
        }
    }
}

/// What an object of one of the classes of methods stands for.
pub fn method(value: &Bound<'_, PyAny>) -> PyResult<Method> {
    match value.get_type().name()?.to_string().as_str() {
        "Exact" => Ok(Method::Exact),
        "FixedPrediction" => {
            let FixedPrediction { eta, iterations, literal } = value.extract()?;
            Ok(library::FixedPrediction::new(eta, iterations).with_literal(literal).into())
        }
        "Strict" => {
            let Strict { eta, iterations, solver, momentum, tolerance, on_divergence, fresh_errors, nudge, free_input } =
                value.extract()?;
            let solver = match solver {
                SolverGiven::Automatic { products } => Solver::Automatic { products },
                SolverGiven::Name(name) => match parse(&name)? {
                    Solver::Steps(_) => Solver::Steps(eta.into()),
                    Solver::Momentum { nesterov, .. } => Solver::Momentum { eta: eta.into(), momentum, nesterov },
                    Solver::Adam(_) => Solver::Adam(eta.into()),
                    Solver::Published2022(_) => Solver::Published2022(eta.into()),
                    other => other,
                },
            };
            let strict = library::Strict::by(solver, iterations).with_tolerance(tolerance);
            let nudge = nudge.map(|Nudge { beta, centred }| library::Nudge::new(beta).with_centred(centred));
            let free_input =
                free_input.map(|FreeInput { precision }| library::FreeInput::default().with_precision(precision));
            let strict = strict.with_fresh_errors(fresh_errors).with_nudge(nudge).with_free_input(free_input);
            Ok(strict.with_on_divergence(parse(&on_divergence)?).into())
        }
        "ErrorBased" => {
            let ErrorBased { eta, iterations, on_divergence, curvature } = value.extract()?;
            let error_based = library::ErrorBased::default().with_eta(eta.into()).with_iterations(iterations);
            let error_based = error_based.with_curvature(curvature);
            Ok(error_based.with_on_divergence(parse(&on_divergence)?).into())
        }
        "Incremental" => {
            let Incremental { eta, iterations } = value.extract()?;
            Ok(library::Incremental::new(eta, iterations).into())
        }
        other => Err(PyTypeError::new_err(format!(
            "the method is of type {other}, expected Exact, FixedPrediction, Strict, ErrorBased or Incremental of predictive_coding"
        ))),
    }
}

/// What has this name.
pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str) -> PyResult<T> {
    name.parse().map_err(|e: T::Err| PyValueError::new_err(e.to_string()))
}
