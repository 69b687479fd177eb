//! Labelled images.

use std::path::PathBuf;

use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use predictive_coding::data::epoch_rng;
use predictive_coding::{self as library, BatchTargets};
use pyo3::exceptions::{PyNotImplementedError, PyValueError};
use pyo3::prelude::*;

use crate::arrays::{Y, row_major, view, with_samples};
use crate::errors::OrRaise;
use crate::network::shape;

/// Samples of one shape with a class or values each.
#[pyclass(frozen, module = "predictive_coding")]
pub struct Dataset(pub library::Dataset);

#[pymethods]
impl Dataset {
    #[new]
    #[pyo3(signature = (images, targets, classes=None))]
    fn new(images: &Bound<'_, PyAny>, targets: &Bound<'_, PyAny>, classes: Option<usize>) -> PyResult<Self> {
        let images = row_major::<f32>(images)?;
        let shape = images.shape().get(1..).unwrap_or_default().to_vec();
        let values = images.as_slice()?.to_vec();
        let made = match Y::any(targets)? {
            Y::Labels(labels) => {
                let labels = labels.as_slice()?.to_vec();
                let largest = labels.iter().copied().max().unwrap_or(0);
                let classes = classes.unwrap_or(usize::try_from(largest).unwrap_or(0) + 1);
                library::Dataset::new(values, labels, &shape, classes)
            }
            Y::Values(targets) => {
                if classes.is_some() {
                    return Err(PyValueError::new_err("classes was given, but the targets are values; leave it out"));
                }
                let outputs = targets.shape().get(1..).unwrap_or_default().iter().product();
                library::Dataset::with_values(values, targets.as_slice()?.to_vec(), &shape, outputs)
            }
        };
        made.or_raise().map(Dataset)
    }

    /// 1,437 training and 360 held-out handwritten digits, which are part of the package.
    #[staticmethod]
    fn digits() -> (Self, Self) {
        let (train, test) = library::Dataset::digits();
        (Dataset(train), Dataset(test))
    }

    /// The training and the test set of MNIST, or of another data set in its format, from a directory.
    #[staticmethod]
    fn mnist(directory: PathBuf) -> PyResult<(Self, Self)> {
        let (train, test) = library::Dataset::mnist(directory).or_raise()?;
        Ok((Dataset(train), Dataset(test)))
    }

    /// The training and the test set of CIFAR-10, binary version, from a directory.
    #[staticmethod]
    fn cifar10(directory: PathBuf) -> PyResult<(Self, Self)> {
        let (train, test) = library::Dataset::cifar10(directory).or_raise()?;
        Ok((Dataset(train), Dataset(test)))
    }

    /// The first samples, or all if there are fewer.
    fn first(&self, count: usize) -> PyResult<Self> {
        match count {
            0 => Err(PyValueError::new_err("count is 0, expected at least 1")),
            _ => Ok(Dataset(self.0.first(count))),
        }
    }

    /// A view `[len, shape]`.
    #[getter]
    fn images<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let data = &this.get().0;
        // SAFETY: nobody writes to a data set.
        unsafe { view(this.clone().into_any(), data.images(), &with_samples(data.len(), data.shape()), false) }
    }

    /// A view: labels `[len]`, or values `[len, outputs]`.
    #[getter]
    fn targets<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let data = &this.get().0;
        let owner = this.clone().into_any();
        match data.targets() {
            // SAFETY: nobody writes to a data set.
            BatchTargets::Labels(labels) => Ok(unsafe { view(owner, labels, &[data.len()], false)? }.into_any()),
            BatchTargets::Values(values) => {
                // SAFETY: as above.
                Ok(unsafe { view(owner, values, &[data.len(), data.classes()], false)? }.into_any())
            }
            _ => Err(unknown_targets()),
        }
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shape(py, self.0.shape())
    }

    #[getter]
    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// The batches of an epoch, from 1, in the order that seed and epoch give.
    #[pyo3(signature = (size, seed=0, epoch=1))]
    fn batches(this: Py<Self>, size: usize, seed: u64, epoch: u64) -> PyResult<Batches> {
        if size == 0 {
            return Err(PyValueError::new_err("the batch size is 0, expected at least 1"));
        }
        let order = this.get().0.order(&mut epoch_rng(seed, epoch));
        Ok(Batches { dataset: this, order, size, next: 0 })
    }

    fn __repr__(&self) -> String {
        format!("Dataset({} samples of {:?}, {} classes)", self.0.len(), self.0.shape(), self.0.classes())
    }
}

/// The batches of one pass over a data set.
#[pyclass(module = "predictive_coding")]
pub struct Batches {
    dataset: Py<Dataset>,
    order: Vec<usize>,
    size: usize,
    next: usize,
}

#[pymethods]
impl Batches {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __len__(&self) -> usize {
        (self.order.len() - self.next).div_ceil(self.size)
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let end = self.next.saturating_add(self.size).min(self.order.len());
        let chosen = &self.order[self.next..end];
        if chosen.is_empty() {
            return Ok(None);
        }
        let data = &self.dataset.get().0;
        let batch = data.select(chosen);
        let samples = batch.samples();
        let x = PyArray1::from_vec(py, batch.x).reshape(with_samples(samples, data.shape()))?.into_any();
        let y = match batch.y {
            BatchTargets::Labels(labels) => PyArray1::from_vec(py, labels).into_any(),
            BatchTargets::Values(values) => {
                PyArray1::from_vec(py, values).reshape([samples, data.classes()])?.into_any()
            }
            _ => return Err(unknown_targets()),
        };
        self.next = end;
        Ok(Some((x, y)))
    }
}

fn unknown_targets() -> PyErr {
    PyNotImplementedError::new_err("the data set has targets of a kind that Python does not know")
}
