//! Parameters, in one buffer of the library's, or wherever Python has them.

use std::path::PathBuf;

use numpy::PyArrayDyn;
use predictive_coding::{self as library, ParameterSpec, ParametersView};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyMapping, PySequence, PyString};

use crate::arrays::{Floats, floats, view};
use crate::errors::OrRaise;
use crate::network::Network;

/// The parameters of a network: a mapping from PyTorch's state-dict names, `<layer>.<op>.weight` and `.bias`, both counted
/// from 0, to float32 arrays, which are views of one buffer: writing to them changes the parameters.
#[pyclass(mapping, module = "predictive_coding")]
pub struct Parameters(pub library::Parameters);

#[pymethods]
impl Parameters {
    /// Reads the parameters of a network from a safetensors file.
    #[staticmethod]
    fn load(network: &Network, path: PathBuf) -> PyResult<Self> {
        library::Parameters::load(&network.0, path).or_raise().map(Parameters)
    }

    /// Writes a safetensors file under the same names.
    fn save(&self, path: PathBuf) -> PyResult<()> {
        self.0.save(path).or_raise()
    }

    fn keys(&self) -> Vec<String> {
        self.0.specs().iter().map(|spec| spec.name.clone()).collect()
    }

    pub fn values<'py>(this: &Bound<'py, Self>) -> PyResult<Vec<Bound<'py, PyArrayDyn<f32>>>> {
        let borrowed = this.borrow();
        (0..borrowed.0.specs().len()).map(|index| tensor(this, index)).collect()
    }

    fn items<'py>(this: &Bound<'py, Self>) -> PyResult<Vec<(String, Bound<'py, PyArrayDyn<f32>>)>> {
        Ok(this.borrow().keys().into_iter().zip(Self::values(this)?).collect())
    }

    fn __getitem__<'py>(this: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let index = this.borrow().0.specs().iter().position(|spec| spec.name == name);
        tensor(this, index.ok_or_else(|| PyKeyError::new_err(name.to_string()))?)
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> bool {
        name.extract::<String>().is_ok_and(|name| self.0.get(&name).is_some())
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.keys().into_pyobject(py)?.try_iter()?.into_any())
    }

    fn __len__(&self) -> usize {
        self.0.specs().len()
    }

    /// Every value, tensor after tensor: a view, as the tensors are.
    #[getter]
    fn flat<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let borrowed = this.borrow();
        let values = borrowed.0.values();
        // SAFETY: the buffer is allocated once, and calls that hold a reference to it are over before Python goes on.
        unsafe { view(this.clone().into_any(), values, &[values.len()], true) }
    }

    /// Parameters of the same values in a buffer of their own.
    fn copy(&self) -> Self {
        Parameters(self.0.clone())
    }

    fn __repr__(&self) -> String {
        let values = self.0.values().len();
        format!("Parameters({} tensors, {values} values)", self.0.specs().len())
    }
}

/// The tensor of this index.
fn tensor<'py>(this: &Bound<'py, Parameters>, index: usize) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let borrowed = this.borrow();
    let spec = &borrowed.0.specs()[index];
    let values = &borrowed.0.values()[spec.range.clone()];
    // SAFETY: as of all values above.
    unsafe { view(this.clone().into_any(), values, &spec.shape, true) }
}

/// Parameters as a call takes them: an object of the class, a mapping by names, or a sequence in their order.
pub enum Given<'py> {
    Own(PyRef<'py, Parameters>),
    Arrays(Vec<Floats<'py>>),
}

impl<'py> Given<'py> {
    pub fn new(network: &library::Network, value: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::of_specs(network.parameters(), value)
    }

    /// Of parameters of these names and shapes.
    pub fn of_specs(specs: &[ParameterSpec], value: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(own) = value.cast::<Parameters>() {
            return Ok(Given::Own(own.try_borrow()?));
        }
        let count = |found: usize| match found == specs.len() {
            true => Ok(()),
            false => Err(PyValueError::new_err(format!("{found} parameters, expected {}", specs.len()))),
        };
        let arrays = if let Ok(sequence) = value.cast::<PySequence>() {
            count(sequence.len()?)?;
            let tensors = specs.iter().enumerate();
            tensors.map(|(i, spec)| floats(&spec.name, &sequence.get_item(i)?, &spec.shape)).collect()
        } else if let Ok(mapping) = value.cast::<PyMapping>() {
            let by_name = |spec: &ParameterSpec| {
                let missing = || PyValueError::new_err(format!("there is no parameter {}", spec.name));
                let array = mapping.get_item(PyString::new(value.py(), &spec.name)).map_err(|_| missing())?;
                floats(&spec.name, &array, &spec.shape)
            };
            let arrays = specs.iter().map(by_name).collect::<PyResult<Vec<_>>>()?;
            count(mapping.len()?).map(|()| arrays)
        } else {
            Err(PyTypeError::new_err(format!(
                "the parameters are of type {}, expected Parameters, a mapping from names to arrays, or a sequence of arrays",
                value.get_type()
            )))
        };
        arrays.map(Given::Arrays)
    }

    /// Where the values lie.
    pub fn slices(&self) -> PyResult<Vec<&[f32]>> {
        match self {
            Given::Own(_) => Ok(Vec::new()),
            Given::Arrays(arrays) => arrays.iter().map(|array| Ok(array.as_slice()?)).collect(),
        }
    }

    /// Copies the values to parameters of the same names and shapes.
    pub fn copy_to(&self, parameters: &mut library::Parameters) -> PyResult<()> {
        match self {
            Given::Own(own) if own.0.specs() == parameters.specs() => {
                parameters.values_mut().copy_from_slice(own.0.values());
            }
            Given::Own(_) => return Err(PyValueError::new_err("the parameters are those of another network")),
            Given::Arrays(_) => {
                let mut rest = parameters.values_mut();
                for slice in self.slices()? {
                    let (tensor, others) = rest.split_at_mut(slice.len());
                    tensor.copy_from_slice(slice);
                    rest = others;
                }
            }
        }
        Ok(())
    }

    /// As the library takes them; `slices` are those of [`slices`](Self::slices).
    pub fn view<'a>(&'a self, network: &'a library::Network, slices: &'a [&'a [f32]]) -> PyResult<ParametersView<'a>> {
        match self {
            Given::Own(own) => Ok((&own.0).into()),
            Given::Arrays(_) => ParametersView::of_tensors(network, slices).or_raise(),
        }
    }
}
