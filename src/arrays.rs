//! Tensors as arrays of the crate `ndarray`.

use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, IxDyn};

use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::session::{Quantity, Session};

impl Parameters {
    /// The tensor of this name in its shape, as in `"0.0.weight"`.
    ///
    /// ```
    /// use predictive_coding::{Linear, Loss, Network, Op};
    ///
    /// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(3))]])?;
    /// let mut parameters = network.initialize(1);
    /// assert_eq!(parameters.array("0.0.weight").unwrap().shape(), [3, 4]);
    /// parameters.array_mut("0.0.bias").unwrap().fill(0.5);
    /// assert_eq!(parameters.get("0.0.bias"), Some(&[0.5; 3][..]));
    /// # Ok::<(), predictive_coding::Error>(())
    /// ```
    pub fn array(&self, name: &str) -> Option<ArrayViewD<'_, f32>> {
        let (spec, values) = self.iter().find(|(spec, _)| spec.name == name)?;
        ArrayViewD::from_shape(IxDyn(&spec.shape), values).ok()
    }

    /// The tensor of this name in its shape, as in `"0.0.weight"`. See [`array`](Self::array) for an example.
    pub fn array_mut(&mut self, name: &str) -> Option<ArrayViewMutD<'_, f32>> {
        let shape = self.specs().iter().find(|spec| spec.name == name)?.shape.clone();
        ArrayViewMutD::from_shape(IxDyn(&shape), self.get_mut(name)?).ok()
    }
}

impl Session {
    /// As [`get`](Self::get), in the shape `[samples, layer shape]`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn array(&self, quantity: Quantity, layer: usize) -> Result<ArrayD<f32>> {
        let values = self.get(quantity, layer)?;
        let shape = [&[self.samples()], self.network().layers()[layer - 1].output_shape()].concat();
        ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(|error| Error::Input(error.to_string()))
    }
}
