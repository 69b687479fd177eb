//! Descriptions of networks.

use std::path::PathBuf;

use predictive_coding as library;
use pyo3::prelude::*;

use crate::errors::OrRaise;
use crate::method;
use crate::parameters::Parameters;

/// A chain of layers v_l = f_l(v_{l-1}), each of any number of operations, and the loss of the last.
#[pyclass(frozen, module = "predictive_coding")]
pub struct Network(pub library::Network);

#[pymethods]
impl Network {
    /// The network that the text of a model file describes.
    #[staticmethod]
    fn from_toml(text: &str) -> PyResult<Self> {
        library::Network::from_toml(text).or_raise().map(Network)
    }

    /// The network of a model file.
    #[staticmethod]
    fn from_file(path: PathBuf) -> PyResult<Self> {
        library::Network::from_file(path).or_raise().map(Network)
    }

    /// The network of a torch.nn.Sequential, each of whose modules is a layer, and a loss of torch.nn.
    #[staticmethod]
    fn from_torch<'py>(
        model: &Bound<'py, PyAny>,
        loss: &Bound<'py, PyAny>,
        input_shape: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        model.py().import("predictive_coding.torch")?.call_method1("network", (model, loss, input_shape))
    }

    /// The text of a model file with every argument spelled out.
    fn to_toml(&self) -> String {
        self.0.to_toml()
    }

    /// The same network with a precision for a hidden layer, from 1.
    fn with_precision(&self, layer: usize, precision: f64) -> PyResult<Self> {
        self.0.clone().with_precision(layer, precision).or_raise().map(Network)
    }

    #[getter]
    fn precisions(&self) -> Vec<f64> {
        self.0.precisions()
    }

    #[getter]
    fn input_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shape(py, self.0.input_shape())
    }

    #[getter]
    fn output_shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shape(py, self.0.output_shape())
    }

    /// The shape of one sample of each layer's output, from the lowest on.
    #[getter]
    fn layer_shapes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.0.layers().iter().map(|layer| shape(py, layer.output_shape())).collect()
    }

    /// The names of each layer's operations.
    #[getter]
    fn layers(&self) -> Vec<Vec<&'static str>> {
        self.0.layers().iter().map(|layer| layer.all_ops().map(|(op, _)| op.name()).collect()).collect()
    }

    #[getter]
    fn loss(&self) -> String {
        self.0.loss().to_string()
    }

    /// How the loss makes one number of a batch: "mean" or "sum".
    #[getter]
    fn reduction(&self) -> &'static str {
        self.0.loss().reduction.name()
    }

    /// Names and shapes of the parameters, in their order.
    #[getter]
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let shapes = pyo3::types::PyDict::new(py);
        for spec in self.0.parameters().iter() {
            shapes.set_item(&spec.name, shape(py, &spec.shape)?)?;
        }
        Ok(shapes.into_any())
    }

    /// Parameters drawn from PyTorch's default distributions.
    #[pyo3(signature = (seed=0))]
    fn initialize(&self, seed: u64) -> Parameters {
        Parameters(self.0.initialize(seed))
    }

    /// Multiplications and additions of a step on so many samples, every multiply-add counted as two.
    fn flops(&self, method: &Bound<'_, PyAny>, batch: usize) -> PyResult<u64> {
        Ok(self.0.flops(&method::method(method)?, batch))
    }

    fn __len__(&self) -> usize {
        self.0.layers().len()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Network>().is_ok_and(|other| other.get().to_toml() == self.to_toml())
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.to_toml().hash(&mut hasher);
        hasher.finish()
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((py.get_type::<Network>().getattr("from_toml")?, (self.to_toml(),)))
    }

    fn __repr__(&self) -> String {
        let layers: Vec<String> = self.layers().iter().map(|ops| ops.join(", ")).collect();
        format!("Network({:?}: {}; {})", self.0.input_shape(), layers.join(" | "), self.0.loss())
    }
}

/// A shape as a tuple.
pub fn shape<'py>(py: Python<'py>, sizes: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    Ok(pyo3::types::PyTuple::new(py, sizes)?.into_any())
}
