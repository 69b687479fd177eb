//! The library's errors as Python's exceptions.

use predictive_coding::{Divergence, Error};
use pyo3::create_exception;
use pyo3::exceptions::{PyArithmeticError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    predictive_coding,
    DivergenceError,
    PyArithmeticError,
    "A strict relaxation climbed instead of descending.\n\n\
     The relaxation was run to its end, and the session's state can be read.\n\n\
     Attributes\n----------\n\
     sample : int\n    Index of the sample in its batch, from 0.\n\
     layer : int\n    The layer, from 1, whose term of the energy rose most.\n\
     iteration : int\n    The iteration whose energy was too large, from 1.\n\
     finite : bool\n    Whether that energy was finite."
);

/// What Python raises for an error of the library.
pub fn raise(error: Error) -> PyErr {
    match error {
        Error::Diverged(divergence) => Python::attach(|py| diverged(py, divergence)),
        Error::File { .. } => PyOSError::new_err(error.to_string()),
        Error::Stopped => PyRuntimeError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

fn diverged(py: Python<'_>, divergence: Divergence) -> PyErr {
    let error = DivergenceError::new_err(divergence.to_string());
    let value = error.value(py);
    let set = || -> PyResult<()> {
        value.setattr("sample", divergence.sample)?;
        value.setattr("layer", divergence.layer)?;
        value.setattr("iteration", divergence.iteration)?;
        value.setattr("finite", divergence.finite)
    };
    match set() {
        Ok(()) => error,
        Err(other) => other,
    }
}

/// The library's results as Python's.
pub trait OrRaise<T> {
    /// The value, or the exception of the error.
    fn or_raise(self) -> PyResult<T>;
}

impl<T> OrRaise<T> for predictive_coding::Result<T> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(raise)
    }
}
