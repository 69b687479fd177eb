//! Parameters as safetensors files, under PyTorch's state-dict names.

use std::collections::HashSet;
use std::path::Path;

use crate::error::Result;
use crate::network::Network;
use crate::parameters::{ParameterSpec, Parameters};
use crate::tensors::{self, TensorBytes, TensorFile};

impl Parameters {
    /// Reads the parameters of `network` from a safetensors file with an f32 tensor under the name
    /// of each: `<layer>.<op>.weight` and `.bias`, both counted from 0, as the state dict of an
    /// `nn.Sequential(nn.Sequential(...), ...)` names them.
    ///
    /// Errors: [`Error::File`](crate::Error::File) if a tensor is missing, has another shape or
    /// type, holds a number that is not finite, or belongs to no parameter.
    pub fn load(network: &Network, path: impl AsRef<Path>) -> Result<Self> {
        Self::load_named(network, path, |spec| spec.name.clone())
    }

    /// As [`load`](Self::load), from a file in which the parameters have other names.
    ///
    /// Errors: as [`load`](Self::load).
    pub fn load_named(
        network: &Network,
        path: impl AsRef<Path>,
        name: impl Fn(&ParameterSpec) -> String,
    ) -> Result<Self> {
        let file = TensorFile::read(path.as_ref())?;
        let specs = network.parameters();
        let names: Vec<String> = specs.iter().map(name).collect();
        let parameters = file.parameters(specs, &names, true)?;
        let known: HashSet<&String> = names.iter().collect();
        match file.names().into_iter().find(|found| !known.contains(found)) {
            None => Ok(parameters),
            Some(extra) => Err(file.wrong(format!(
                "tensor {extra} is no parameter of the network, expected {}; is it the right model?",
                if names.is_empty() { "none".into() } else { names.join(", ") }
            ))),
        }
    }

    /// Writes the parameters as [`load`](Self::load) reads them, replacing what was there in one go.
    ///
    /// Errors: [`Error::File`](crate::Error::File) if the file can not be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        tensors::write(path.as_ref(), self.to_tensors(""), None)
    }

    pub(crate) fn to_tensors(&self, prefix: &str) -> Vec<(String, TensorBytes)> {
        self.iter()
            .map(|(spec, values)| (format!("{prefix}{}", spec.name), TensorBytes::f32(&spec.shape, values)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, Linear, Loss, Op, write_tensors};

    fn network(outputs: usize) -> Network {
        let conv = Op::Conv2d(Conv2d::new(2, [3, 2]));
        let linear = Op::Linear(Linear { out_features: outputs, bias: false });
        Network::new(&[1, 4, 4], Loss::MSE, vec![vec![Op::Relu, conv], vec![Op::Flatten, linear]]).unwrap()
    }

    #[test]
    fn saved_parameters_load_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.safetensors");
        let parameters = network(3).initialize(1);
        parameters.save(&path).unwrap();
        assert_eq!(Parameters::load(&network(3), &path).unwrap(), parameters);
        let error = Parameters::load(&network(4), &path).unwrap_err().to_string();
        assert!(error.ends_with("w.safetensors: tensor 1.1.weight has shape [3, 12], expected [4, 12]"), "{error}");
    }

    #[test]
    fn names_are_those_of_a_state_dict_and_none_may_lack_or_be_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w.safetensors");
        let mut tensors = vec![
            ("0.1.weight".to_string(), vec![2, 1, 3, 2], (0..12).map(|i| i as f32).collect::<Vec<_>>()),
            ("0.1.bias".to_string(), vec![2], vec![-1.0, -2.0]),
            ("1.1.weight".to_string(), vec![1, 12], vec![0.5; 12]),
        ];
        write_tensors(&path, &tensors).unwrap();
        let parameters = Parameters::load(&network(1), &path).unwrap();
        assert_eq!(parameters.get("0.1.weight").unwrap()[5], 5.0);
        assert_eq!(parameters.get("0.1.bias").unwrap(), [-1.0, -2.0]);

        tensors.push(("1.1.bias".into(), vec![1], vec![0.0]));
        write_tensors(&path, &tensors).unwrap();
        let error = Parameters::load(&network(1), &path).unwrap_err().to_string();
        assert!(error.contains("tensor 1.1.bias is no parameter"), "{error}");

        tensors.retain(|(name, ..)| name != "1.1.bias" && name != "0.1.bias");
        write_tensors(&path, &tensors).unwrap();
        let error = Parameters::load(&network(1), &path).unwrap_err().to_string();
        assert!(error.contains("has no tensor 0.1.bias") && error.contains("0.1.weight, 1.1.weight"), "{error}");

        tensors.push(("0.1.bias".into(), vec![2], vec![0.0, f32::NAN]));
        write_tensors(&path, &tensors).unwrap();
        let error = Parameters::load(&network(1), &path).unwrap_err().to_string();
        assert!(error.contains("tensor 0.1.bias holds NaN at [1]"), "{error}");
    }
}
