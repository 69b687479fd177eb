//! numpy's arrays as the library's slices, and the other way round.

use numpy::ndarray::ArrayViewD;
use numpy::{
    Element, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods, dtype,
};
use predictive_coding::Targets;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;

/// An array that is not written to as long as this lives.
pub type Floats<'py> = PyReadonlyArrayDyn<'py, f32>;

/// The row-major values of anything that numpy makes an array of: where they lie, if they are that already.
pub fn row_major<'py, T: Element>(value: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    if let Ok(array) = value.cast::<PyArrayDyn<T>>()
        && array.is_c_contiguous()
    {
        return Ok(array.try_readonly()?);
    }
    let py = value.py();
    let numpy = py.import(intern!(py, "numpy"))?;
    let made = numpy.call_method1(intern!(py, "ascontiguousarray"), (value, dtype::<T>(py)))?;
    Ok(made.cast_into::<PyArrayDyn<T>>()?.try_readonly()?)
}

/// Refuses an array of another shape than `[samples, shape]`.
fn check_samples(what: &str, found: &[usize], shape: &[usize]) -> PyResult<()> {
    match found.split_first() {
        Some((_, rest)) if rest == shape => Ok(()),
        _ => {
            let sizes: String = shape.iter().map(|size| format!(", {size}")).collect();
            Err(PyValueError::new_err(format!("{what} has shape {found:?}, expected [samples{sizes}]")))
        }
    }
}

/// f32 values of a given shape.
pub fn floats<'py>(what: &str, value: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<Floats<'py>> {
    let array = row_major(value)?;
    match array.shape() == shape {
        true => Ok(array),
        false => {
            let found = array.shape();
            Err(PyValueError::new_err(format!("{what} has shape {found:?}, expected {shape:?}")))
        }
    }
}

/// f32 values `[samples, shape]`.
pub fn samples<'py>(what: &str, value: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<Floats<'py>> {
    let array = row_major(value)?;
    check_samples(what, array.shape(), shape)?;
    Ok(array)
}

/// What a batch is compared with.
pub enum Y<'py> {
    /// A class for each sample.
    Labels(PyReadonlyArrayDyn<'py, i64>),
    /// `[samples, output shape]`.
    Values(Floats<'py>),
}

impl<'py> Y<'py> {
    /// Labels where the numbers are whole, else values of this shape.
    pub fn new(value: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<Self> {
        let y = Y::any(value)?;
        if let Y::Values(values) = &y {
            check_samples("y", values.shape(), shape)?;
        }
        Ok(y)
    }

    /// Labels where the numbers are whole, else values of any shape.
    pub fn any(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        let array = match value.cast::<PyUntypedArray>() {
            Ok(array) => array.clone(),
            Err(_) => py.import(intern!(py, "numpy"))?.call_method1(intern!(py, "asarray"), (value,))?.cast_into()?,
        };
        match array.dtype().kind() {
            b'i' | b'u' => {
                let labels = row_major::<i64>(array.as_any())?;
                check_samples("y", labels.shape(), &[])?;
                Ok(Y::Labels(labels))
            }
            b'f' => Ok(Y::Values(row_major(array.as_any())?)),
            _ => Err(PyValueError::new_err(format!(
                "y has dtype {}, expected whole numbers for class labels, or floats for values",
                array.dtype()
            ))),
        }
    }

    /// As the library takes them.
    pub fn targets(&self) -> PyResult<Targets<'_>> {
        Ok(match self {
            Y::Labels(labels) => Targets::Labels(labels.as_slice()?),
            Y::Values(values) => Targets::Values(values.as_slice()?),
        })
    }
}

/// A numpy array of values that `owner` keeps.
///
/// # Safety
/// The values must stay where they are as long as `owner` lives, and Rust must not hold a reference to them while Python
/// reads or, if `writable`, writes the array.
pub unsafe fn view<'py, T: Element>(
    owner: Bound<'py, PyAny>,
    values: &[T],
    shape: &[usize],
    writable: bool,
) -> PyResult<Bound<'py, PyArrayDyn<T>>> {
    let values = ArrayViewD::from_shape(shape, values).map_err(|e| PyValueError::new_err(e.to_string()))?;
    // SAFETY: numpy keeps the owner, who keeps the values where they are, as the caller promises.
    let array = unsafe { PyArrayDyn::borrow_from_array(&values, owner) };
    if !writable {
        array.call_method1(intern!(array.py(), "setflags"), (false,))?;
    }
    Ok(array)
}

/// A new array that `fill` writes.
pub fn filled<'py>(
    py: Python<'py>,
    shape: &[usize],
    fill: impl FnOnce(&mut [f32]) -> predictive_coding::Result<()> + Send,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let array = PyArrayDyn::zeros(py, shape, false);
    let mut writer = array.try_readwrite()?;
    let values = writer.as_slice_mut()?;
    py.detach(|| fill(values)).map_err(crate::errors::raise)?;
    drop(writer);
    Ok(array)
}

/// `[samples, shape]`.
pub fn with_samples(samples: usize, shape: &[usize]) -> Vec<usize> {
    [&[samples], shape].concat()
}
