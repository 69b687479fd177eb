//! The Python package: names and conversions. What is computed is computed by the library.

mod arrays;
mod command_line;
mod data;
mod errors;
mod method;
mod network;
mod optimizer;
mod parameters;
mod session;
mod threads;

use pyo3::prelude::*;

/// What `predictive_coding` is made of.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::command_line::run;
    #[pymodule_export]
    use crate::data::Dataset;
    #[pymodule_export]
    use crate::errors::DivergenceError;
    #[pymodule_export]
    use crate::network::Network;
    #[pymodule_export]
    use crate::optimizer::{Adam, AdamW, LearningRate, Optimizer, Sgd};
    #[pymodule_export]
    use crate::parameters::Parameters;
    #[pymodule_export]
    use crate::session::{Session, levels};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::threads::remember_process();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
