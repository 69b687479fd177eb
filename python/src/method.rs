//! Methods, from the classes that Python has for them.

use predictive_coding::{self as library, Eta, Method, OnDivergence, Solver};
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
    tolerance: Option<f64>,
    on_divergence: String,
}

#[derive(FromPyObject)]
enum EtaGiven {
    Uniform(f64),
    PerLayer(Vec<f64>),
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

/// What an object of `Exact`, `FixedPrediction` or `Strict` stands for.
pub fn method(value: &Bound<'_, PyAny>) -> PyResult<Method> {
    match value.get_type().name()?.to_string().as_str() {
        "Exact" => Ok(Method::Exact),
        "FixedPrediction" => {
            let FixedPrediction { eta, iterations, literal } = value.extract()?;
            Ok(library::FixedPrediction::new(eta, iterations).with_literal(literal).into())
        }
        "Strict" => {
            let Strict { eta, iterations, solver, tolerance, on_divergence } = value.extract()?;
            let solver = match solver {
                SolverGiven::Automatic { products } => Solver::Automatic { products },
                SolverGiven::Name(name) => match parse(&name)? {
                    Solver::Steps(_) => Solver::Steps(eta.into()),
                    Solver::Published2022(_) => Solver::Published2022(eta.into()),
                    other => other,
                },
            };
            let strict = library::Strict::by(solver, iterations).with_tolerance(tolerance);
            Ok(strict.with_on_divergence(parse::<OnDivergence>(&on_divergence)?).into())
        }
        other => Err(PyTypeError::new_err(format!(
            "the method is of type {other}, expected Exact, FixedPrediction or Strict of predictive_coding"
        ))),
    }
}

/// What has this name.
pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str) -> PyResult<T> {
    name.parse().map_err(|e: T::Err| PyValueError::new_err(e.to_string()))
}
